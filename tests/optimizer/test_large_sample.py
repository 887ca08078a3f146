"""The large published sample: 27 servers, 21 accelerators; the published greedy leaves one of them short."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flambeau.optimizer.solver import optimize
from flambeau.optimizer.system import OptimizerSpec, System, SystemBody
from flambeau.optimizer.wire import decode

SAMPLE = Path(__file__).parents[2] / "examples" / "optimizer" / "large.json"
EXACT = OptimizerSpec(milp_solver=True, time_limit=90)

# What the published solution gives to these, to the last digit it prints: replicas, batch, cost, ITL, TTFT.
PUBLISHED = {
    "Bronze-granite_34b": ("MI300X", 9, 14, 585, 21.735733, 1423.668),
    "Bronze-mixtral_8_7b": ("MI300X", 21, 9, 1365, 23.728203, 1556.2578),
    "Free-granite_13b": ("G2", 12, 19, 276, 22.659216, 3264.149),
    "Free-llama_70b": ("2xMI250", 84, 4, 7728, 20.968227, 3843.2249),
    "Premium-llama3_8b": ("2xMI300X", 1, 19, 130, 5.371296, 97.01468),
    "Premium-mistral_7b": ("2xG2", 1, 38, 46, 14.689105, 997.07965),
}


@pytest.fixture(scope="module")
def system():
    return System.of(decode(SystemBody, json.loads(SAMPLE.read_text())).system)


def served(solution):
    return sum(solution.served(name) for name in solution.chosen)


def test_the_greedy_gives_what_the_published_one_gives(system):
    solution = optimize(system, OptimizerSpec(saturation_policy="RoundRobin"))

    assert served(solution) == 26
    (last,) = solution.chosen["Free-mixtral_8_7b"]
    assert (last.accelerator, last.replicas) == ("MI300X", 1)
    for name, (accelerator, replicas, batch, cost, itl, ttft) in PUBLISHED.items():
        (found,) = solution.chosen[name]
        assert (found.accelerator, found.replicas, found.batch, found.cost) == (accelerator, replicas, batch, cost)
        assert (found.itl, found.ttft) == (pytest.approx(itl, rel=1e-5), pytest.approx(ttft, rel=1e-4))


@pytest.mark.parametrize(
    ("shared", "cost"),
    [pytest.param(False, 26_300.5, id="one accelerator a server"), pytest.param(True, 23_410.5, id="several")],
)
def test_the_exact_solver_serves_all_27(system, shared, cost):
    solution = optimize(system, replace(EXACT, heterogeneous=shared))

    assert served(solution) == 27
    assert solution.cost == pytest.approx(cost)
    assert all(used <= system.capacity[kind] for kind, used in solution.units_used().items())
