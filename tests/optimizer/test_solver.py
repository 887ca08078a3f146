import json
import math
import os
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flambeau.optimizer.milp import SolverError
from flambeau.optimizer.solver import optimize, satisfaction, solution_body
from flambeau.optimizer.system import OptimizerSpec, System, SystemBody
from flambeau.optimizer.wire import decode

EXAMPLES = int(os.environ.get("OPTIMIZER_EXAMPLES", "40"))  # 500 before a release
RUNS = 100 if EXAMPLES >= 100 else 20
QUIET = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 100)
POLICIES = ["None", "PriorityExhaustive", "PriorityRoundRobin", "RoundRobin"]
EXACT = OptimizerSpec(milp_solver=True, partial=True)


def system(servers, accelerators=({},), capacity=None, priorities=None, targets=None, perf=None) -> System:
    """A system in which what is not said is usual: model m on every accelerator."""
    accelerators = [
        {"name": f"g{i}", "type": f"T{i}", "multiplicity": 1, "cost": 10 + i} | a for i, a in enumerate(accelerators)
    ]
    models = [
        {"name": "m", "acc": a["name"], "accCount": 1, "maxBatchSize": 16, "atTokens": 256}
        | {"decodeParms": {"alpha": 20, "beta": 0.5}, "prefillParms": {"gamma": 100, "delta": 0.02}}
        | (perf or {})
        for a in accelerators
    ]
    classes = [
        {
            "name": f"p{p}",
            "priority": p,
            "modelTargets": [{"model": "m", "slo-itl": 40, "slo-ttft": 1000} | (targets or {})],
        }
        for p in sorted({server.get("priority", 1) for server in servers})
    ]
    listed = [
        {
            "name": f"s{i:02}",
            "class": f"p{server.get('priority', 1)}",
            "model": "m",
            "currentAlloc": {"load": {"arrivalRate": server.get("rpm", 60), "avgInTokens": 128, "avgOutTokens": 256}},
        }
        | {key: value for key, value in server.items() if key not in ("priority", "rpm")}
        for i, server in enumerate(servers)
    ]
    counts = {a["type"]: 1000 for a in accelerators} if capacity is None else capacity
    body = {
        "acceleratorData": {"accelerators": accelerators},
        "modelData": {"models": models},
        "serviceClassData": {"serviceClasses": classes},
        "serverData": {"servers": listed},
        "capacityData": {"count": [{"type": kind, "count": count} for kind, count in counts.items()]},
    }
    return System.of(decode(SystemBody, {"system": body}).system)


@st.composite
def systems(draw):
    kinds = draw(st.integers(1, 4))
    accelerators = [
        {
            "type": f"T{draw(st.integers(0, 2))}",
            "multiplicity": draw(st.sampled_from([1, 1, 2, 4])),
            "cost": draw(st.integers(1, 90)),
        }
        for _ in range(kinds)
    ]
    servers = [
        {
            "priority": draw(st.integers(1, 4)),
            "rpm": draw(st.sampled_from([0, 5, 60, 300, 2000])),
            "minNumReplicas": draw(st.integers(0, 2)),
            "maxNumReplicas": draw(st.sampled_from([None, None, 3, 20])),
        }
        for _ in range(draw(st.integers(1, 10)))
    ]
    capacity = {f"T{i}": draw(st.integers(0, 25)) for i in range(3)}
    targets = {"slo-tps": draw(st.sampled_from([0, 0, 0, 500])), "percentile": draw(st.sampled_from([None, None, 95]))}
    return system(servers, accelerators, capacity, targets=targets)


@QUIET
@given(systems(), st.booleans(), st.sampled_from(POLICIES))
def test_exact_is_never_below_greedy_nor_above_capacity(some, heterogeneous, policy):
    greedy = optimize(some, OptimizerSpec(saturation_policy=policy))
    exact = optimize(some, replace(EXACT, heterogeneous=heterogeneous, saturation_policy=policy))

    def served(solution):
        return satisfaction(some, [name for name in solution.chosen if solution.served(name)])

    assert served(exact) >= served(greedy)
    if served(exact) == served(greedy) and all(greedy.served(name) for name in greedy.chosen) and policy == "None":
        assert exact.cost <= greedy.cost * (1 + 1e-5) or not exact.exact.optimal
    for solution in (greedy, exact):
        assert all(used <= some.capacity.get(kind, 0) for kind, used in solution.units_used().items())
        for name, parts in solution.chosen.items():
            server, count = some.servers[name], sum(part.replicas for part in parts)
            assert count >= server.min_num_replicas or not solution.served(name)
            assert server.max_num_replicas is None or count <= max(server.max_num_replicas, 0)


@QUIET
@given(systems(), st.booleans())
def test_whoever_is_served_has_its_targets_kept(some, heterogeneous):
    solution = optimize(some, replace(EXACT, heterogeneous=heterogeneous))

    for name, parts in solution.chosen.items():
        target, demand = some.target_of(some.servers[name]), some.servers[name].current_alloc.load
        if demand.arrival_rate == 0:
            continue
        assert sum(part.load.arrival_rate for part in parts) == pytest.approx(demand.arrival_rate)
        for part in parts:
            assert (part.itl_percentile or part.itl) <= target.slo_itl * (1 + 1e-6)
            assert (part.ttft_percentile or part.ttft) <= target.slo_ttft * (1 + 1e-6)


extreme = st.sampled_from([0, 1, 2, 1e-300, 1e-9, 0.5, 1e3, 1e7, 1e12, 1e300, -1])
extreme_count = st.sampled_from([0, 1, 3, 1000, 10**6, 10**12, -1])


@QUIET
@given(st.data(), st.sampled_from(POLICIES), st.booleans(), st.booleans())
def test_any_numbers_are_answered_quickly_and_finitely(data, policy, exact, unlimited):
    load = {"arrivalRate": data.draw(extreme), "avgInTokens": data.draw(extreme), "avgOutTokens": data.draw(extreme)}
    perf = {
        "accCount": data.draw(extreme_count),
        "maxBatchSize": data.draw(extreme_count),
        "atTokens": data.draw(extreme_count),
        "decodeParms": {"alpha": data.draw(extreme), "beta": data.draw(extreme)},
        "prefillParms": {"gamma": data.draw(extreme), "delta": data.draw(extreme)},
    }
    targets = {"slo-itl": data.draw(extreme), "slo-ttft": data.draw(extreme), "slo-tps": data.draw(extreme)}
    server = {
        "currentAlloc": {"load": load},
        "minNumReplicas": data.draw(extreme_count),
        "maxBatchSize": data.draw(extreme_count),
    }
    capacity = {"T0": data.draw(extreme_count)}
    some = system([server, server, {}], [{"multiplicity": data.draw(extreme_count)}], capacity, targets=targets, perf=perf)
    spec = OptimizerSpec(unlimited=unlimited, milp_solver=exact, partial=exact, saturation_policy=policy)
    started = time.monotonic()

    solution = optimize(some, spec)

    assert time.monotonic() - started < 2
    json.dumps(solution_body(solution, spec), allow_nan=False)
    assert all(math.isfinite(part.cost) for parts in solution.chosen.values() for part in parts)


def test_the_same_input_gives_the_same_bytes():
    some = system(
        [{"rpm": 60, "priority": i % 3 + 1} for i in range(9)], [{}, {"cost": 10}, {}], {"T0": 3, "T1": 4, "T2": 2}
    )
    specs = [OptimizerSpec(saturation_policy=policy) for policy in POLICIES]
    specs += [OptimizerSpec(unlimited=True), EXACT, replace(EXACT, heterogeneous=True)]

    answers = {tuple(json.dumps(solution_body(optimize(some, spec), spec)) for spec in specs) for _ in range(RUNS)}

    assert len(answers) == 1


def test_equal_candidates_are_taken_by_name():
    some = system([{}], [{"name": "zebra", "cost": 5}, {"name": "aardvark", "cost": 5}])

    solution = optimize(some, OptimizerSpec(unlimited=True))

    assert solution.chosen["s00"][0].accelerator == "aardvark"


def test_exact_serves_the_most_where_greedy_takes_the_first():
    # Two units: the server which would lose most takes both, though the two others could have one each.
    some = system([{"rpm": 150}, {}, {}], capacity={"T0": 2})

    greedy, exact = optimize(some, OptimizerSpec()), optimize(some, EXACT)

    assert len(exact.chosen) == 2 >= len(greedy.chosen)


def test_exact_refuses_when_not_everyone_can_be_served():
    with pytest.raises(SolverError, match="solutionType=INFEASIBLE"):
        optimize(system([{}, {}], capacity={"T0": 1}), OptimizerSpec(milp_solver=True))


def test_cplex_is_an_alias_of_the_exact_solver():
    some = system([{}, {}])

    assert optimize(some, OptimizerSpec(use_cplex=True)).exact is not None


def test_a_server_without_load_does_not_make_the_whole_infeasible():
    solution = optimize(system([{"rpm": 0}, {}]), OptimizerSpec(milp_solver=True))

    assert solution.chosen.keys() == {"s01"}


def test_best_effort_reports_the_latencies_of_what_is_given():
    some = system([{"rpm": 600}], capacity={"T0": 1})

    (part,) = optimize(some, OptimizerSpec(saturation_policy="RoundRobin")).chosen["s00"]

    assert part.replicas == 1 and part.short_of > 1
    assert part.ttft > some.classes["p1"].model_targets[0].slo_ttft


def test_two_accelerators_may_share_a_server():
    some = system([{"rpm": 300}], [{}, {}], {"T0": 2, "T1": 2})

    with pytest.raises(SolverError):
        optimize(some, OptimizerSpec(milp_solver=True))
    solution = optimize(some, OptimizerSpec(milp_solver=True, heterogeneous=True))

    assert {part.accelerator for part in solution.chosen["s00"]} == {"g0", "g1"}
    told = solution_body(solution, OptimizerSpec())["allocations"]["s00"]
    assert told["numReplicas"] == sum(part["numReplicas"] for part in told["parts"])


def test_two_systems_live_side_by_side():
    one, other = system([{"rpm": 60}]), system([{"rpm": 6000}])

    before = optimize(one, OptimizerSpec(unlimited=True)).chosen
    optimize(other, OptimizerSpec(unlimited=True))

    assert optimize(one, OptimizerSpec(unlimited=True)).chosen == before


def test_memory_limits_the_batch():
    perf = {"weightsMemory": 14, "kvBytesPerToken": 1e6}
    roomy = optimize(system([{}], [{"memSize": 80}], perf=perf), OptimizerSpec(unlimited=True))
    tight = optimize(system([{}], [{"memSize": 16}], perf=perf), OptimizerSpec(unlimited=True))
    none = optimize(system([{}], [{"memSize": 14}], perf=perf), OptimizerSpec(unlimited=True))

    assert roomy.chosen["s00"][0].batch == 16
    assert tight.chosen["s00"][0].batch == 5
    assert not none.chosen and "does not fit" in none.candidates.refused["s00"]["g0"]


def test_power_has_its_price():
    power = {"idle": 10, "midPower": 20, "midUtil": 0.5, "full": 30}
    hungry = {"cost": 10, "power": {key: value * 100 if key != "midUtil" else value for key, value in power.items()}}
    some = system([{}], [hungry, {"cost": 12, "power": power}])

    by_cost = optimize(some, OptimizerSpec(unlimited=True))
    by_power = optimize(some, OptimizerSpec(unlimited=True, power_weight=0.01))

    assert by_cost.chosen["s00"][0].accelerator == "g0"
    assert by_power.chosen["s00"][0].accelerator == "g1"
    assert optimize(some, replace(EXACT, power_weight=0.01)).chosen["s00"][0].accelerator == "g1"
    assert solution_body(by_power, OptimizerSpec(power_weight=0.01))["allocations"]["s00"]["power"] > 0
