"""Replicas that nobody asks fall asleep; they are woken by Sax's rule."""

import pytest

from flambeau.management.cell.dormancy import Dormancy, wakes
from flambeau.management.cell.messages import Traffic
from flambeau.management.cell.names import ModelKey

LM = ModelKey("test", "lm")


@pytest.mark.parametrize(("rates", "active", "woken"), [
    pytest.param([(46, 0), (47, 1)], 0, True, id="all sleep and requests come"),
    pytest.param([(99, 24), (100, 27)], 1, True, id="one is active, which is too few"),
    pytest.param([(100, 99), (103, 103)], 1, False, id="no more than one active one can take"),
    pytest.param([(10, 20), (5, 9)], 0, False, id="fewer than before"),
    pytest.param([(10, 10), (9, 9)], 0, False, id="as many as before"),
])  # fmt: skip
def test_the_waker_s_rule_is_sax_s(rates, active, woken):
    changes = [latest - previous for latest, previous in rates]

    assert wakes(sum(changes) / len(changes), active) is woken


class World:
    """One model on two machines; `minutes` of time pass, `asked` requests come."""

    def __init__(self):
        self.now, self.arrived, self.rejected = 0.0, 0, 0
        self.dormancy = Dormancy(lambda: self.now)

    def passes(self, seconds, asked=0, refused=0, active=2):
        self.now += seconds
        self.arrived += asked
        self.rejected += refused
        self.dormancy.note("a", {LM: Traffic(arrived=self.arrived, rejected=self.rejected)})
        return self.dormancy.look(LM, 60.0, {"a", "b"}, active)

    @property
    def asleep(self):
        return {address for _, address in self.dormancy.asleep}


def test_replicas_that_nobody_asks_fall_asleep_and_not_before():
    world = World()

    assert not world.passes(0) and not world.passes(50, asked=1) and not world.passes(59)
    assert world.passes(2) and world.asleep == {"a", "b"}


def test_a_model_that_is_still_loading_does_not_fall_asleep():
    world = World()
    world.passes(0, active=0)

    assert not world.passes(100, active=0)


def test_one_is_woken_at_a_look_the_greatest_first_and_more_when_refusals_grow():
    world = World()
    world.passes(0)
    world.passes(61)

    assert world.passes(1, asked=1, refused=1, active=0) and world.asleep == {"a"}
    assert not world.passes(1, asked=1, refused=1, active=1)  # no more refused than before
    assert world.passes(1, asked=9, refused=9, active=1) and world.asleep == set()


def test_who_waits_at_a_machine_without_replicas_wakes_one_too():
    world = World()
    world.passes(0)
    world.passes(61)

    world.dormancy.missed(LM)

    assert world.passes(1, active=0) and world.asleep == {"a"}


def test_a_server_that_was_started_anew_has_not_been_asked_less_than_nothing():
    world = World()
    world.passes(0, asked=100, refused=50)
    world.passes(61)
    world.passes(0.1)
    world.arrived = world.rejected = 0

    world.passes(61, active=0)

    assert world.passes(1, asked=1, refused=1, active=0)


def test_when_a_sleeper_s_machine_is_gone_all_wake():
    world = World()
    world.passes(0)
    world.passes(61)

    assert world.dormancy.look(LM, 60.0, {"a"}, 0) and world.asleep == set()
