import json

import numpy as np
import pytest
from click.testing import CliRunner

from flambeau.optimizer.cli import simulate as simulate_command
from flambeau.optimizer.queueing import Replicas, analyse
from flambeau.optimizer.simulation import Request, Timing, simulate


def poisson(rate, count, tokens_in, tokens_out, seed=3):
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, count))
    lengths = 1 + random.geometric(1 / (tokens_out - 1), count) if tokens_out > 1 else np.ones(count)
    return [Request(arrival, tokens_in, length) for arrival, length in zip(arrivals, lengths, strict=True)]


@pytest.mark.parametrize(
    ("timing", "tokens_in", "tokens_out", "load"),
    [
        pytest.param(Timing(8, 20, 1, 0, 0), 0, 60, 0.3, id="batching, light"),
        pytest.param(Timing(8, 20, 1, 0, 0), 0, 60, 0.6, id="batching, heavy"),
        pytest.param(Timing(1, 20, 1, 0, 0), 0, 60, 0.4, id="one at a time"),
        pytest.param(Timing(32, 20, 0.4, 100, 0.02), 128, 60, 0.5, id="with prefill, where no one waits"),
    ],
)
def test_it_agrees_with_the_queue_model_where_that_is_exact(timing, tokens_in, tokens_out, load):
    """Answer lengths are geometric, so that service times have no memory; and where no one waits, any lengths will do."""
    model = Replicas(*(np.array([float(each)]) for each in (
        timing.batch, tokens_in, tokens_out, timing.alpha, timing.beta, timing.gamma, timing.delta,
    )))  # fmt: skip
    rate = load * model.rate_range[1][0]
    expected = analyse(model, np.array([rate]))

    outcome = simulate(poisson(rate * 4, 60_000, tokens_in, tokens_out), timing, 4, dispatch="random")

    assert outcome.lost < 10
    assert outcome.mean_itl == pytest.approx(expected.itl[0], rel=0.05)
    response = outcome.ttft.mean() + np.nansum(outcome.itl * outcome.steps) / len(outcome.steps)
    assert response == pytest.approx(expected.ttft[0] + expected.itl[0] * (tokens_out - 1), rel=0.05)
    assert outcome.busy == pytest.approx(expected.rho[0], rel=0.05)


def test_the_shortest_queue_waits_least():
    timing = Timing(2, 20, 1, 0, 0)
    requests = poisson(0.006, 5_000, 0, 60)

    random, shortest = (simulate(requests, timing, 5, dispatch=kind).ttft.mean() for kind in ("random", "shortest"))

    assert shortest < random / 2


def test_every_request_ends_or_is_counted_as_lost():
    requests = [Request(0.0, 10, 5) for _ in range(100)]

    outcome = simulate(requests, Timing(2, 20, 1, 10, 0.1), 1, dispatch="shortest")

    assert len(outcome.ttft) == 22 and outcome.lost == 78


def test_a_single_request_takes_what_the_model_says():
    outcome = simulate([Request(5.0, 100, 11)], Timing(4, 20, 1, 50, 0.1), 1, dispatch="random")

    assert outcome.ttft[0] == pytest.approx(50 + 0.1 * 100)
    assert outcome.itl[0] == pytest.approx(21)


PERF = {"name": "m", "acc": "A", "maxBatchSize": 8, "atTokens": 60, "decodeParms": {"alpha": 20, "beta": 1}}
SYSTEM = {
    "acceleratorData": {"accelerators": [{"name": "A", "type": "A", "multiplicity": 1, "cost": 3}]},
    "modelData": {
        "models": [{"name": "m", "acc": "A", "maxBatchSize": 8, "atTokens": 60, "decodeParms": {"alpha": 20, "beta": 1}}]
    },
    "serviceClassData": {"serviceClasses": [{"name": "c", "priority": 1, "modelTargets": [{"model": "m", "slo-itl": 26}]}]},
    "serverData": {"servers": [{"name": "s", "class": "c", "model": "m"}]},
    "optimizerData": {"optimizer": {"unlimited": True}},
}


def test_the_command_compares_what_is_predicted_and_what_is_simulated(tmp_path):
    (tmp_path / "system.json").write_text(json.dumps(SYSTEM))
    rows = [f"s,{each.arrival / 1000},0,{each.tokens_out}" for each in poisson(0.01, 3000, 0, 60)]
    (tmp_path / "traces.csv").write_text("\n".join(["server,arrival,in_tokens,out_tokens", *rows]))
    files = [str(tmp_path / "traces.csv"), str(tmp_path / "system.json")]

    told = json.loads(CliRunner().invoke(simulate_command, [*files, "--json"]).output)["servers"]["s"]
    table = CliRunner().invoke(simulate_command, files).output

    assert told["numReplicas"] > 1
    assert told["random"]["itl"]["mean"] == pytest.approx(told["predicted"]["itl"], rel=0.1)
    assert told["random"]["requests"] == 3000
    assert "predicted" in table and "simulated, shortest" in table


@pytest.mark.parametrize(
    ("traces", "complaint"),
    [
        pytest.param("server,arrival\n", "lack the columns in_tokens, out_tokens", id="columns missing"),
        pytest.param("server,arrival,in_tokens,out_tokens\ns,soon,1,1", "line 2: arrival", id="a word for a number"),
        pytest.param("server,arrival,in_tokens,out_tokens\ns,1,1,0", "line 2: token counts", id="nothing out"),
        pytest.param("server,arrival,in_tokens,out_tokens\nx,1,1,1", "lacks: x", id="an unknown server"),
        pytest.param("\udcff", "no CSV", id="no text"),
    ],
)
def test_traces_which_cannot_be_used_are_told_by_line(tmp_path, traces, complaint):
    (tmp_path / "system.json").write_text(json.dumps(SYSTEM))
    (tmp_path / "traces.csv").write_bytes(traces.encode(errors="surrogateescape"))

    result = CliRunner().invoke(simulate_command, [str(tmp_path / "traces.csv"), str(tmp_path / "system.json")])

    assert result.exit_code == 1
    assert complaint in result.output


def test_a_system_that_cannot_be_solved_is_told(tmp_path):
    options = {"optimizerData": {"optimizer": {"milpSolver": True}}, "capacityData": {"count": [{"type": "A", "count": 0}]}}
    (tmp_path / "system.json").write_text(json.dumps(SYSTEM | options))
    (tmp_path / "traces.csv").write_text("server,arrival,in_tokens,out_tokens\ns,1,0,60\ns,2,0,60")

    result = CliRunner().invoke(simulate_command, [str(tmp_path / "traces.csv"), str(tmp_path / "system.json")])

    assert result.exit_code == 1 and "INFEASIBLE" in result.output
