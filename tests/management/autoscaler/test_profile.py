"""What a profile makes of its measurements; test_server drives a real one."""

import asyncio
import os
import signal
import sys
from copy import deepcopy

import pytest
from click.testing import CliRunner

from flambeau.management.autoscaler import profile_run
from flambeau.management.autoscaler.cli import profile
from flambeau.management.autoscaler.first_tokens import FirstTokens
from flambeau.management.autoscaler.http_client import RequestFailed
from flambeau.management.autoscaler.profile import Measured, fit_tokens
from flambeau.management.autoscaler.profile_report import as_table
from flambeau.management.autoscaler.profile_run import Addresses, Wanted, run


class Metrics:
    """A metrics address that knows of `count` first tokens of 40 ms each."""

    def __init__(self, count=0):
        self.count = count

    async def ask(self, method, path):
        if self.count is None:
            raise ConnectionRefusedError
        labels = '{ModelName="chat",Level="Model"}'
        text = f"LlmTimeToFirstToken_count{labels} {self.count}\nLlmTimeToFirstToken_sum{labels} {self.count * 40}\n"
        return text.encode()


class Inference:
    async def ask(self, method, path):
        return b""


@pytest.mark.parametrize(
    ("known", "timed_by", "expected"),
    [
        pytest.param(1, "worker", 40, id="the worker tells"),
        pytest.param(None, "client", 55, id="nobody listens there"),
    ],
)
def test_first_tokens_are_timed_by_the_worker_where_it_tells(known, timed_by, expected):
    metrics = Metrics(known)
    first_tokens = FirstTokens(Inference(), metrics, "chat")

    async def stream():
        metrics.count = metrics.count and metrics.count + 1
        return 10.0, [10.055, 10.080]

    async def measured():
        await first_tokens.begin()
        return await first_tokens.measure(stream)

    assert asyncio.run(measured()) == pytest.approx(expected, abs=1)
    assert first_tokens.timed_by == timed_by


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        pytest.param(0.001, "known to within 0.", id="little noise"),
        pytest.param(0.3, "NOT TO BE TRUSTED, known to within", id="much noise"),
    ],
)
def test_a_profile_says_whether_it_may_be_trusted(noise, said):
    points = [(float(x), (20 + 2 * x) * (1 + noise * (1 if turn % 2 else -1))) for x in (1, 2, 4, 8) for turn in range(4)]

    result = fit_tokens("chat", "cpu", 8, Measured(points, points), rounds=4, timed_by="worker")

    assert said in as_table(result)
    assert result.performance.trusted == ("NOT" not in said)


def test_two_points_say_nothing_of_the_error():
    points = [(1.0, 22.0), (8.0, 36.0)]

    result = fit_tokens("chat", "cpu", 8, Measured(points, points))

    assert "NOT TO BE TRUSTED: 1 round says nothing" in as_table(result)


def test_what_is_missing_for_a_picture_is_told_before_anything_is_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    result = CliRunner().invoke(profile, ["chat", "--management", "http://127.0.0.1:1", "--plot", "fit.png"])

    assert result.exit_code == 1 and result.output.startswith("Error: drawing needs matplotlib")


def test_a_profile_that_is_told_to_stop_ends_as_by_ctrl_c(monkeypatch):
    put_back = []

    async def told_to_stop(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30)
        finally:
            put_back.append(True)

    monkeypatch.setattr(profile_run, "run", told_to_stop)

    result = CliRunner().invoke(profile, ["chat"])

    assert result.exit_code == 1 and "stopped by SIGTERM" in result.output
    assert put_back


class Management:
    """A server with a model of three workers, which autoscales it on two accelerators, as far as a profile asks."""

    def __init__(self, autoscales=True):
        self.low, self.high, self.places = 3, 5, {"big": 2, "little": 1}
        self.scaler = {"paused": False, "dry_run": True} if autoscales else None
        self.changes = 0

    @property
    def state(self):
        return self.low, self.high, self.places, self.scaler

    async def json(self, method, path, body=None):
        match method, path:
            case "GET", "/models/chat":
                return [{"modelName": "chat", "modelVersion": "1.0", "minWorkers": self.low, "maxWorkers": self.high}]
            case "GET", "/autoscaler" if self.scaler:
                model = {"model": "chat", "version": "1.0", "workers": self.places}
                return self.scaler | {"accelerators": [{"name": "big"}, {"name": "little"}], "models": [model]}
            case "PUT", "/autoscaler":
                self.scaler = body
            case "POST", "/update":
                assert self.scaler == {"paused": True, "dry_run": False}  # or nothing would be placed
                parts = body["allocations"]["chat/1.0"]["parts"]
                self.places = {each["accelerator"]: each["numReplicas"] for each in parts}
                self.low = self.high = sum(self.places.values())
            case _:
                raise RequestFailed("404")
        self.changes += 1

    async def ask(self, method, path):
        query = dict(each.split("=") for each in path.partition("?")[2].split("&"))
        self.low, self.high = int(query["min_worker"]), int(query["max_worker"])
        self.changes += 1


@pytest.mark.parametrize("autoscales", [True, False])
@pytest.mark.parametrize(
    "error", [RequestFailed("the worker died"), asyncio.CancelledError()], ids=["failed", "interrupted"]
)
def test_a_profile_that_ends_early_leaves_the_model_as_it_was(monkeypatch, autoscales, error):
    management = Management(autoscales)
    before, during = deepcopy(management.state), []

    async def measure(*_):
        during.append(deepcopy(management.state))
        raise error

    monkeypatch.setattr(profile_run, "profile_tokens", measure)

    with pytest.raises(type(error)):
        asyncio.run(run(Addresses(Inference(), management), Wanted("chat", "big", (1, 2), (16, 64), 8, 1), None))

    assert during[0][:2] == (1, 5) or during[0][2] == {"big": 1}
    assert management.state == before


def test_an_accelerator_that_nobody_has_is_told_before_anything_is_changed():
    management = Management()

    with pytest.raises(ValueError, match="no accelerator huge, but big, little"):
        asyncio.run(run(Addresses(Inference(), management), Wanted("chat", "huge", (1, 2), (16, 64), 8, 1), None))

    assert management.changes == 0
