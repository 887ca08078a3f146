"""Overrides: what is taken, what is ignored, what fails a load."""

import json
from pathlib import Path

import pytest

from flambeau.management.cell import overrides
from flambeau.management.cell.errors import SaxError

ROWS = json.loads((Path(__file__).parent / "sax_tables.json").read_text())["overrides"]
DEFAULTS = {"TOP_K": 40, "TEMPERATURE": 0.7, "BATCH_SIZE": [1], "NAME": "x", "STREAM": False, "STOP": None}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["overrides"]))
def test_memory_and_constraints_are_read_as_sax_reads_them(row):
    memory = overrides.memory(row["overrides"])

    assert "map[" + " ".join(f"{cores}:{size}" for cores, size in sorted(memory.items())) + "]" == row["memory"]
    assert overrides.constraints(row["overrides"]) == row["constraints"]


@pytest.mark.parametrize("given", ["A=1 B=x=y", ["A=1", "B=x=y"], {"A": "1", "B": "x=y"}, {"A": 1, "B": "x=y"}])
def test_overrides_come_as_text_list_or_object(given):
    assert overrides.parse(given) == {"A": "1", "B": "x=y"}


@pytest.mark.parametrize("given", ["noequals", "=x", 5, [1]])
def test_what_is_no_override_is_refused(given):
    with pytest.raises(SaxError, match="key=val"):
        overrides.parse(given)


@pytest.mark.parametrize(("key", "text", "value"), [
    pytest.param("TOP_K", "3", 3, id="same type"),
    pytest.param("TEMPERATURE", "1", 1.0, id="an int for a float"),
    pytest.param("TOP_K", "null", None, id="null"),
    pytest.param("BATCH_SIZE", "4", [4], id="one for a list of the same"),
    pytest.param("BATCH_SIZE", "[1, 2]", [1, 2], id="a list"),
    pytest.param("STOP", '"."', ".", id="anything for None"),
    pytest.param("TOP_K", "{", 40, id="no JSON is ignored"),
])  # fmt: skip
def test_an_override_that_fits_is_taken(key, text, value):
    merged = overrides.merge(DEFAULTS, {key: text, "UNKNOWN": "1", "ram": "5"})

    assert merged == DEFAULTS | {key: value}


@pytest.mark.parametrize(("key", "text"), [("TOP_K", "false"), ("TOP_K", "1.5"), ("NAME", "3"), ("STREAM", "1")])
def test_another_type_fails_the_load(key, text):
    with pytest.raises(SaxError, match="Mismatched type"):
        overrides.merge(DEFAULTS, {key: text})


def test_strict_refuses_what_is_not_known():
    with pytest.raises(SaxError, match="UNKNOWN"):
        overrides.merge(DEFAULTS, {"UNKNOWN": "1", "strict": "true"})
