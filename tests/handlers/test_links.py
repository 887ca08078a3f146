"""How a worker waits: soon after it was woken it looks before it sleeps. On a clock that the test turns."""

import socket

import pytest

from flambeau.handlers import links
from flambeau.handlers.links import Links

BUSY_POLL = 300e-6


class World:
    """A selector in which something comes at a given time, and the clock; looking takes 10 µs."""

    def __init__(self):
        self.now, self.comes, self.asked = 0.0, 0.0, []

    def monotonic(self):
        return self.now

    def select(self, timeout):
        self.asked.append(timeout)
        self.now = self.now + 10e-6 if timeout == 0.0 else max(self.now, min(self.comes, self.now + (timeout or 1e9)))
        return [("key", 1)] if self.now >= self.comes else []


@pytest.fixture
def wait(monkeypatch):
    ours, theirs = socket.socketpair()
    world = World()
    made = Links(ours, lambda _: None, lambda _: None, BUSY_POLL)
    monkeypatch.setattr(made, "_selector", world)
    monkeypatch.setattr(links.time, "monotonic", world.monotonic)

    def wait(after, timeout=None):
        """Something comes so many seconds later: how it was waited for."""
        world.asked.clear()
        world.comes = world.now + after
        came = made._wait(timeout)
        slept = [asked for asked in world.asked if asked != 0.0]
        return bool(came), len(world.asked) - len(slept), slept

    yield wait
    ours.close()
    theirs.close()


def test_after_a_short_wait_it_looks_before_it_sleeps_and_after_a_long_one_it_sleeps_at_once(wait):
    assert wait(0.0001) == (True, 0, [None])
    came, looks, slept = wait(0.0001)
    assert came
    assert 9 <= looks <= 11
    assert slept == []
    came, looks, slept = wait(5)  # in vain
    assert came
    assert looks <= 31
    assert slept == [None]
    assert wait(0.0001) == (True, 0, [None])


def test_it_looks_no_longer_than_it_may_wait(wait):
    wait(0.0001)
    came, looks, _ = wait(5, timeout=50e-6)
    assert not came
    assert looks <= 6


def test_looking_in_between_is_no_waiting(wait):
    wait(0.0001)
    assert wait(5, timeout=0.0) == (False, 1, [])
    assert wait(0.0001)[2] == []  # still awake
