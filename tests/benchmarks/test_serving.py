"""The benchmark's own arithmetic: what wrk printed, medians, gates. The servers are measured by `make bench`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "serving"))
from cases import CASES
from gates import gates, median_rate
from load import Load, parse, run

PRINTED = """Running 3s test @ http://127.0.0.1:1/predictions/m
  1 threads and 8 connections
  Latency Distribution
     50%  812.00us
     75%    1.10ms
     99%    1.02s
  2000 requests in 2.00s, 0.9MB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 4
Requests/sec:   1000.50
"""


def loads(*rates):
    return [Load(rate, 1 / rate, 1 / rate, int(rate), 0) for rate in rates]


def test_what_wrk_prints_is_understood():
    assert parse(PRINTED) == Load(1000.5, pytest.approx(812e-6), pytest.approx(1.02), 2000, 7)


def test_what_is_not_wrk_is_an_error():
    with pytest.raises(ValueError, match="something else"):
        parse("unable to connect")


def test_without_wrk_the_benchmark_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(SystemExit, match="apt-get install wrk"):
        run("http://127.0.0.1:1", b"", 1, 0.1)


def test_gates_compare_medians_and_what_was_not_measured_neither_passes_nor_misses():
    results = {("echo", "flambeau", 8): loads(250, 90, 300), ("echo", "mosec", 8): loads(100, 100, 500)}

    found = {gate.words: gate for gate in gates(results, 130e6)}

    assert median_rate(results, "echo", "flambeau", 8) == 250
    assert (found["echo, c=8: × mosec"].found, found["echo, c=8: × mosec"].passed) == (2.5, True)
    assert found["echo, c=1: × mosec"].passed is None
    assert found["server processes with one echo worker, MB PSS"].passed is False


def test_the_calmest_third_of_the_rounds_counts():
    results = {("echo", "flambeau", 1): loads(10, 100, 20)}
    for load, others in zip(results["echo", "flambeau", 1], (0.9, 0.0, 0.5), strict=True):
        load.others = others

    assert median_rate(results, "echo", "flambeau", 1) == 100


def test_every_gate_is_about_a_case_that_is_measured():
    everything = {(case.name, peer, c): loads(100) for case in CASES for c in case.connections
                  for peer in ("flambeau", "flambeau-tokens", "mosec", "mosec-orjson", "litserve", "torchserve")}  # fmt: skip

    assert all(gate.found is not None for gate in gates(everything, 1.0))
