import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flambeau.optimizer.cli import optimizer

PERF = {"name": "m", "acc": "A", "maxBatchSize": 8, "atTokens": 60, "decodeParms": {"alpha": 20, "beta": 1}}
SYSTEM = {
    "acceleratorData": {"accelerators": [{"name": "A", "type": "A", "multiplicity": 1, "cost": 3}]},
    "modelData": {"models": [PERF]},
    "serviceClassData": {"serviceClasses": [{"name": "c", "priority": 1, "modelTargets": [{"model": "m", "slo-itl": 26}]}]},
    "serverData": {"servers": [
        {"name": name, "class": "c", "model": "m", "currentAlloc": {"load": {"arrivalRate": 600, "avgOutTokens": 60}}}
        for name in ("one", "two")
    ]},
    "capacityData": {"count": [{"type": "A", "count": 5}]},
}  # fmt: skip


@pytest.fixture
def system(tmp_path):
    path = tmp_path / "system.json"
    path.write_text(json.dumps(SYSTEM))
    return path


def test_solve_prints_a_table_with_who_is_not_served(system):
    output = CliRunner().invoke(optimizer, ["solve", str(system)]).output

    assert "one" in output and "█" in output
    assert "two: no capacity was left" in output


def test_a_narrow_terminal_cuts_no_name_short(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sample = Path(__file__).parents[2] / "examples" / "optimizer" / "large.json"

    lines = CliRunner().invoke(optimizer, ["solve", str(sample)]).output.splitlines()

    assert any(line.startswith("Premium-mixtral_8_7b 2xG2") for line in lines)
    assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)


def test_solve_prints_what_the_rest_would_answer(system):
    result = CliRunner().invoke(optimizer, ["solve", str(system), "--json", "--unlimited"])

    assert json.loads(result.output)["allocations"].keys() == {"one", "two"}


def test_what_is_missing_for_a_picture_is_told_first(system, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    result = CliRunner().invoke(optimizer, ["solve", str(system), "--picture", str(tmp_path / "picture.png")])

    assert result.exit_code == 1 and result.output.startswith("Error: drawing needs matplotlib")
    assert "flambeau[plot]" in result.output


@pytest.mark.parametrize("place", ["missing/picture.png", "picture.docx"])
def test_a_picture_that_cannot_be_written_is_told(system, tmp_path, place):
    result = CliRunner().invoke(optimizer, ["solve", str(system), "--picture", str(tmp_path / place)])

    assert result.exit_code == 1 and "one" in result.output and place in result.output


def test_solve_draws_a_picture(system, tmp_path):
    result = CliRunner().invoke(optimizer, ["solve", str(system), "--picture", str(tmp_path / "picture.png")])

    assert result.exit_code == 0, result.output
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_solve_tells_what_would_change(system, tmp_path):
    more = json.loads(json.dumps(SYSTEM))
    more["capacityData"]["count"][0]["count"] = 100
    (tmp_path / "more.json").write_text(json.dumps(more))

    asked = ["solve", str(system), "--what-if", str(tmp_path / "more.json")]
    table, told = (CliRunner().invoke(optimizer, [*asked, *more]).output for more in ([], ["--json"]))

    assert json.loads(told)["served"] == {"before": 1, "after": 2}
    assert table.split("two")[1].split()[:3] == ["-", "3", "A"] and "2 served" in table


def test_solve_tells_why_a_file_cannot_be_read(tmp_path):
    (tmp_path / "bad.json").write_text('{"system": {"serverData": 3}}')

    result = CliRunner().invoke(optimizer, ["solve", str(tmp_path / "bad.json")])

    assert result.exit_code == 1
    assert "body.system.serverData: expected an object" in result.output


def test_the_commands_do_not_wait_for_numpy():
    code = "import sys, flambeau.optimizer.cli; sys.exit('numpy' in sys.modules or 'scipy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
