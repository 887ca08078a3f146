from dataclasses import replace
from random import Random

import numpy as np
import pytest

from flambeau.optimizer.queueing import Replicas, analyse, percentiles
from flambeau.optimizer.sizing import Targets, size


def replicas(batch=32, tokens_in=128, tokens_out=100, alpha=20.0, beta=0.4, gamma=200.0, delta=0.02) -> Replicas:
    return Replicas(*(np.array([float(each)]) for each in (batch, tokens_in, tokens_out, alpha, beta, gamma, delta)))


def added_up(replica: Replicas, rate: float) -> dict[str, float]:
    """The same by adding up all states one by one."""
    batch = int(replica.batch[0])
    states = np.arange(11 * batch + 1)
    serving = np.minimum(states, batch)
    times = replica.intercept[0] + replica.slope[0] * serving[1:]
    logs = np.concatenate(([0.0], np.cumsum(np.log(rate * times / serving[1:]))))
    chances = np.exp(logs - logs.max())
    chances /= chances.sum()
    throughput = rate * (1 - chances[-1])
    return {
        "throughput": throughput,
        "rho": float(serving @ chances) / batch,
        "wait": float((states - serving) @ chances) / throughput,
    }


@pytest.mark.parametrize("load", [0.001, 0.3, 0.9, 0.999, 1.0, 1.2, 3.0])
@pytest.mark.parametrize(
    "replica",
    [
        pytest.param(replicas(), id="a usual one"),
        pytest.param(replicas(batch=1), id="one at a time"),
        pytest.param(replicas(tokens_in=0), id="nothing to prefill"),
        pytest.param(replicas(beta=0, delta=0), id="batching costs nothing"),
        pytest.param(replicas(beta=1e-12, delta=0), id="batching costs next to nothing"),
        pytest.param(replicas(alpha=0, gamma=0), id="batching gains nothing"),
        pytest.param(replicas(batch=2000, tokens_out=1), id="a huge batch"),
    ],
)
def test_the_closed_form_is_the_sum_over_all_states(replica, load):
    rate = load * replica.batch / (replica.intercept + replica.slope * replica.batch)

    found = analyse(replica, rate)

    expected = added_up(replica, rate[0])
    assert {name: getattr(found, name)[0] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_batch_of_two_hundred_thousand_is_sized_like_any_other():
    huge = replicas(batch=200_000, tokens_out=1)

    sizing = size(huge, Targets(np.array([0.0]), np.array([5000.0]), np.array([0.0])), np.array([False]))

    assert sizing.feasible[0]
    assert analyse(huge, sizing.rate).ttft[0] == pytest.approx(5000, rel=1e-6)


@pytest.mark.parametrize("percentile", [0.0, 0.9, 0.95, 0.99])
def test_the_rate_found_is_where_the_target_is_just_kept(percentile):
    one, targets = replicas(), Targets(np.array([26.0]), np.array([450.0]), np.array([percentile]))

    sizing = size(one, targets, np.array([False]))

    def latencies(rate):
        if percentile:
            return percentiles(one, rate, targets.percentile)
        return analyse(one, rate).itl, analyse(one, rate).ttft

    kept, missed = latencies(sizing.rate), latencies(sizing.rate * 1.01)
    assert kept[0][0] <= 26 * (1 + 1e-6) and kept[1][0] <= 450 * (1 + 1e-6)
    assert missed[0][0] > 26 or missed[1][0] > 450


def test_a_higher_percentile_allows_a_lower_rate():
    rates = [
        size(replicas(), Targets(np.array([30.0]), np.array([600.0]), np.array([share])), np.array([False])).rate[0]
        for share in (0.0, 0.9, 0.95, 0.99)
    ]

    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 4


@pytest.mark.parametrize(
    ("replica", "serves"),
    [
        pytest.param(replicas(alpha=0, beta=0, gamma=0, delta=0), False, id="no time at all"),
        pytest.param(replicas(tokens_in=0, tokens_out=1), False, id="nothing to do"),
        pytest.param(replicas(beta=-1), False, id="faster the fuller"),
        pytest.param(replicas(beta=0, delta=0), True, id="flat"),
    ],
)
def test_service_times_which_make_no_sense_are_told_apart(replica, serves):
    assert replica.served[0] == serves


@pytest.mark.parametrize("percentile", [0.0, 0.95])
def test_where_steps_are_shared_prefills_stall_decoding_and_first_tokens_wait_for_steps(percentile):
    apart = replicas(gamma=20, delta=0.05)
    shared = Replicas(**{**vars(apart), "stepwise": np.ones(1)})
    rate = apart.rate_range[1] / 2
    targets = Targets(np.array([26.0]), np.array([120.0]), np.array([percentile]))

    before, after = analyse(apart, rate), analyse(shared, rate)
    sizes = [size(each, targets, np.array([False])) for each in (apart, shared)]

    assert after.itl[0] > before.itl[0]
    assert after.ttft[0] == pytest.approx(20 + 0.05 * 128 + 1.5 * after.itl[0], rel=0.1)
    assert sizes[1].feasible[0] and sizes[1].rate[0] < sizes[0].rate[0]


def ttft_step_by_step(rate, alpha=20.0, beta=2.0, prefill=50.0, tokens=24, rows=16, count=6000):
    """Milliseconds to each first token of an engine whose prefills share their steps with decoding."""
    random = Random(1)
    arrivals, now = [], 0.0
    for _ in range(count):
        now += random.expovariate(rate)
        arrivals.append((now, 2 + int(random.expovariate(1 / (tokens - 1.5)))))
    waiting, running, found, now, at = [], [], [], 0.0, 0
    while at < count or waiting or running:
        if not waiting and not running:
            now = max(now, arrivals[at][0])
        while at < count and arrivals[at][0] <= now:
            waiting.append(arrivals[at])
            at += 1
        joining, waiting = waiting[: rows - len(running)], waiting[rows - len(running) :]
        now += (alpha + beta * len(running) if running else 0) + prefill * len(joining)
        found += [now - arrived for arrived, _ in joining]
        running = [left - 1 for left in running if left > 1] + [left - 1 for _, left in joining]
    return np.array(found)


@pytest.mark.parametrize("rate", [0.8, 1.7, 3.0, 4.0])
def test_where_steps_are_shared_first_tokens_are_foreseen_in_the_mean_and_at_the_95th_percentile(rate):
    measured = ttft_step_by_step(rate / 1000)
    model = replace(replicas(16, 50, 24, alpha=20, beta=2, gamma=40, delta=0.2), stepwise=np.ones(1))

    mean = analyse(model, np.array([rate / 1000])).ttft[0]
    _, tail = percentiles(model, np.array([rate / 1000]), np.array([0.95]))

    assert mean == pytest.approx(measured.mean(), rel=0.08)
    assert tail[0] == pytest.approx(np.percentile(measured, 95), rel=0.15)
