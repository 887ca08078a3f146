"""How a client finds a machine that serves its model."""

import pytest

from flambeau.sax import calls
from flambeau.sax.calls import Deadline, Machines, SaxError

MODEL = "/sax/test/lm"


class PretendAdmin:
    """Whose one model sleeps until somebody waits for it, or for ever."""

    def __init__(self, *, wakes):
        self.wakes, self.loaded, self.waits = wakes, False, []

    def ask(self, verb, payload, cell, root, timeout):
        assert payload["model"] == MODEL
        if verb == "status":
            return {"failures": {"m1": "no memory"}}
        if verb == "watch":
            return {"admin": "a", "seqno": 0, "full": ["m1:1"] if self.loaded else []}
        assert verb == "wait" and timeout > payload["seconds"]
        self.waits.append(payload["seconds"])
        self.loaded = self.wakes
        if not self.loaded:
            raise SaxError("DeadlineExceeded", "has 0 of 1 replicas")
        return {"replicas": 1}


def machines(monkeypatch, admin):
    monkeypatch.setattr(calls, "ask_admin", admin.ask)
    return Machines(MODEL, "/no/root")


def test_a_model_that_sleeps_is_woken_by_its_first_client(monkeypatch):
    admin = PretendAdmin(wakes=True)

    assert machines(monkeypatch, admin).pick(Deadline(60)) == "m1:1"
    assert len(admin.waits) == 1


def test_a_client_that_waits_in_vain_is_told_why_and_asks_more_and_more_seldom(monkeypatch):
    admin = PretendAdmin(wakes=False)
    found, deadline = machines(monkeypatch, admin), Deadline(60)

    for _ in range(3):
        with pytest.raises(SaxError, match=r"has no replica that is loaded \(m1: no memory\)"):
            found.pick(deadline)

    assert admin.waits == [2, 4, 8]


def test_a_client_in_a_hurry_wakes_it_too_and_does_not_wait(monkeypatch):
    admin = PretendAdmin(wakes=False)

    with pytest.raises(SaxError):
        machines(monkeypatch, admin).pick(Deadline(60), wait=False)

    assert admin.waits == [0]
