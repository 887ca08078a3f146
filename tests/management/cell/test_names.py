"""Names, checkpoints and fs roots, against tables recorded from Sax itself."""

import json
from pathlib import Path

import pytest

from flambeau.management.cell import names
from flambeau.management.cell.errors import SaxError

TABLES = json.loads((Path(__file__).parent / "sax_tables.json").read_text())


def complaint(row):
    return row["error"].split(": rpc error")[0]


def verdict(check):
    try:
        check()
    except SaxError as error:
        return error.code, error.text
    return None


def check_row(row, check):
    assert verdict(check) == (None if row["ok"] else (row["code"], complaint(row)))


@pytest.mark.parametrize("row", TABLES["cell_names"], ids=lambda row: repr(row["in"]))
def test_cell_names_are_sax_s(row):
    check_row(row, lambda: names.parse_cell(row["in"]))

    if row["ok"]:
        assert names.parse_cell(row["in"]) == row["cell"]


@pytest.mark.parametrize("row", TABLES["model_names"], ids=lambda row: repr(row["in"]))
def test_model_names_are_sax_s(row):
    check_row(row, lambda: names.parse_model(row["in"]))

    if row["ok"]:
        assert names.parse_model(row["in"]) == names.ModelKey(row["cell"], row["model"])


@pytest.mark.parametrize("row", TABLES["sax_cell"], ids=lambda row: repr(row["in"]))
def test_the_cell_of_a_name_is_sax_s(row):
    check_row(row, lambda: names.cell_of(row["in"]))

    if row["ok"]:
        assert names.cell_of(row["in"]) == row["sax_cell"]


@pytest.mark.parametrize("row", TABLES["fs_root"], ids=lambda row: repr(row["fs_root"]))
def test_fs_roots_are_sax_s_but_urls_are_roots_too(row):
    if ":" in row["fs_root"]:
        names.check_fs_root(row["fs_root"])  # Sax refuses the colon
    else:
        check_row(row, lambda: names.check_fs_root(row["fs_root"]))


def test_a_registered_name_and_a_model_key_stand_for_each_other():
    for key in (names.ModelKey("test", "lm"), names.ModelKey("other", "lm")):
        assert names.key_of_registered(key.registered("test"), "test") == key

    assert names.key_of_registered("ResNet", "test") is None
