"""What a profile makes of its measurements; test_server drives a real one."""

import asyncio

import pytest

from flambeau.management.autoscaler.first_tokens import FirstTokens
from flambeau.management.autoscaler.profile import Measured, fit_tokens
from flambeau.management.autoscaler.profile_report import as_table


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
