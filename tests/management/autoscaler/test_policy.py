import pytest

from flambeau.management.autoscaler.config import Accelerator, AutoscalerConfig, Slo
from flambeau.management.autoscaler.observe import Observed
from flambeau.management.autoscaler.performance import Book, Performance
from flambeau.management.autoscaler.policy import Policy
from flambeau.management.autoscaler.problem import Served

KEY = ("chat", "1.0")
TWO = (Accelerator("fast", capacity=4, cost=3.0), Accelerator("slow", capacity=8, cost=1.0))
SLO = Slo(itl_ms=30, ttft_ms=500, idle_seconds=60)


def book(alpha=10.0, where=("slow",), model="chat"):
    known = Book()
    for name in where:
        known.put(Performance(model=model, accelerator=name, max_batch=8, alpha=alpha, beta=2, gamma=20, delta=0.1))
    return known


def seen(rate, **more):
    return {KEY: Observed(rate, tokens_in=100, tokens_out=50, **more)}


def served(workers=None, slo=SLO):
    return [Served(KEY, slo, workers or {})]


def decide(policy, rate, now, workers=None, slo=SLO, **more):
    (decision,) = policy.decide(served(workers, slo), seen(rate, **more), now)
    return decision


def test_workers_follow_the_load_up_at_once_and_down_when_it_stays_low():
    policy = Policy(AutoscalerConfig(TWO, period_seconds=10, hold_seconds=30), book())

    quiet = decide(policy, 1, 0).after
    busy = decide(policy, 20, 10, quiet).after
    just_after = decide(policy, 1, 20, busy).after
    later = decide(policy, 1, 60, busy).after

    assert quiet == {"slow": 1}
    assert busy["slow"] > 2
    assert just_after == busy
    assert later == quiet


def test_without_requests_a_model_goes_to_nothing_and_comes_back():
    policy = Policy(AutoscalerConfig(TWO, hold_seconds=10), book())
    workers = decide(policy, 5, 0).after

    waiting = decide(policy, 0, 30, workers)
    idle = decide(policy, 0, 61, workers)
    woken = decide(policy, 0.1, 70, {})

    assert sum(waiting.after.values()) == 1
    assert idle.after == {} and idle.changes and "no request" in idle.reason
    assert woken.after == {"slow": 1}


def test_a_model_which_names_no_idle_time_keeps_a_worker():
    policy = Policy(AutoscalerConfig(TWO), book())

    assert decide(policy, 0, 100_000, slo=Slo(itl_ms=30)).after == {"slow": 1}


def test_a_growing_load_is_looked_at_as_far_as_a_worker_takes_to_start():
    def second(cold_start):
        slo = Slo(itl_ms=30, ttft_ms=500, cold_start_seconds=cold_start)
        policy = Policy(AutoscalerConfig(TWO, period_seconds=10), book())
        decide(policy, 1, 0, slo=slo)
        return sum(decide(policy, 6, 10, slo=slo).after.values())

    assert second(30) > second(0)


def test_the_cheaper_accelerator_is_taken_unless_it_misses_the_target():
    both = book(where=("fast", "slow"))
    cheap = decide(Policy(AutoscalerConfig(TWO), both), 1, 0).after
    both.put(Performance(model="chat", accelerator="slow", max_batch=8, alpha=100, beta=2, gamma=20, delta=0.1))

    quick = decide(Policy(AutoscalerConfig(TWO), both), 1, 0).after

    assert cheap == {"slow": 1}
    assert quick == {"fast": 1}


def test_when_capacity_binds_the_more_important_model_is_served():
    small = (Accelerator("slow", capacity=2),)
    known = book()
    known.put(Performance(model="other", accelerator="slow", max_batch=8, alpha=10, beta=2, gamma=20, delta=0.1))
    policy = Policy(AutoscalerConfig(small), known)
    models = [Served(KEY, Slo(itl_ms=30, priority=9), {}), Served(("other", "1.0"), Slo(itl_ms=30, priority=1), {})]
    observed = {key: Observed(12, tokens_in=100, tokens_out=50) for key in (KEY, ("other", "1.0"))}

    by_name = {decision.model: decision for decision in policy.decide(models, observed, 0)}

    assert by_name["other"].after == {"slow": 2}
    assert by_name["chat"].after == {}
    assert "left as it is" in by_name["chat"].reason


def test_the_most_workers_are_not_exceeded():
    decision = decide(Policy(AutoscalerConfig(TWO), book()), 1000, 0, slo=Slo(itl_ms=30, max_workers=3))

    assert decision.after == {"slow": 3}
    assert "best effort" in decision.reason


@pytest.mark.parametrize(
    ("slo", "known", "reason"),
    [
        pytest.param(SLO, Book(), "profile the model first", id="nothing known"),
        pytest.param(Slo(itl_ms=5), book(), "ITL above 5 ms even with one request alone", id="too much asked"),
    ],
)
def test_what_cannot_be_had_is_left_as_it_is_and_says_why(slo, known, reason):
    decision = decide(Policy(AutoscalerConfig(TWO), known), 5, 0, {"slow": 2}, slo)

    assert not decision.changes
    assert reason in decision.reason


def test_steps_down_are_held_back():
    config = AutoscalerConfig(TWO, hold_seconds=0, max_step_down=2)

    assert decide(Policy(config, book()), 1, 0, {"slow": 7}).after == {"slow": 5}


def test_after_a_change_a_model_does_not_shrink_for_the_cool_down():
    policy = Policy(AutoscalerConfig(TWO, hold_seconds=0, cooldown_seconds=100), book())
    grown = decide(policy, 20, 0, {"slow": 1}).after

    assert decide(policy, 1, 50, grown).after == grown
    assert decide(policy, 1, 101, grown).after == {"slow": 1}


def test_the_fit_is_corrected_by_what_is_measured():
    known = book()
    policy = Policy(AutoscalerConfig(TWO, hold_seconds=0), known)
    models = served({"slow": 1})

    for now in range(40):
        expected = policy.predict(models[0], "slow", seen(1)[KEY])
        truth = {KEY: Observed(1, tokens_in=100, tokens_out=50, itl=15.0, ttft=60.0)}
        policy.learn(models, truth, policy.decide(models, truth, now))

    assert expected == pytest.approx((15.0, 60.0), rel=0.02)


def test_items_without_tokens_are_sized_by_their_latency():
    known = Book()
    known.put(Performance(model="chat", accelerator="slow", max_batch=4, gamma=20, delta=5, tokens=False))
    policy = Policy(AutoscalerConfig(TWO, hold_seconds=0), known)

    def workers(rate):
        return sum(decide(policy, rate, 0, slo=Slo(latency_ms=60, percentile=95)).after.values())

    assert workers(1) == 1
    assert workers(200) > 2


def test_what_comes_at_random_moves_no_worker():
    policy = Policy(AutoscalerConfig(TWO, period_seconds=10, hold_seconds=30), book())
    workers = decide(policy, 8, 0).after

    decisions = [decide(policy, 8 + noise, 10 * turn, workers) for turn, noise in enumerate((1, -1, 0.5, 1.2, -1.3, 0), 1)]

    assert not any(decision.changes for decision in decisions)


def test_workers_stay_where_they_serve_as_well():
    policy = Policy(AutoscalerConfig(TWO, hold_seconds=0), book(where=("fast", "slow")))
    cheap = Accelerator("slow", capacity=8, cost=2.9)
    near = Policy(AutoscalerConfig((TWO[0], cheap), hold_seconds=0), book(where=("fast", "slow")))

    assert decide(policy, 1, 0, {"fast": 1}).after == {"slow": 1}
    assert decide(near, 1, 0, {"fast": 1}).after == {"fast": 1}


@pytest.mark.parametrize("present", [{}, {"slow": 2, "fast": 4}], ids=["from nothing", "from as many as may be"])
def test_who_can_not_have_enough_gets_all_it_may_have_and_loses_nothing(present):
    two = (Accelerator("fast", capacity=4, cost=3.0), Accelerator("slow", capacity=2, cost=1.0))
    policy = Policy(AutoscalerConfig(two), book(where=("fast", "slow")))

    decision = decide(policy, 1000, 0, present, slo=Slo(itl_ms=30, max_workers=6))

    assert decision.after == {"slow": 2, "fast": 4}
    assert "best effort: 6 of" in decision.reason
