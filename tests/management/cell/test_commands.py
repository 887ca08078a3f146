"""`flambeau model-server`: the server it becomes, and what that server says of itself."""

import os

import pytest
from click.testing import CliRunner

from flambeau.management import launcher, startup
from flambeau.management.cell.commands import model_server
from flambeau.management.cell.service import CellOptions, CellService
from flambeau.management.errors import SettingsError


def started(monkeypatch, tmp_path, *words):
    """The settings of the server that the command becomes."""
    became = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", lambda program, argv, environ: became.append(argv))
    given = ["--sax_cell=/sax/test", f"--sax_root={tmp_path}", *words]
    outcome = CliRunner().invoke(model_server, given, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    (argv,) = became
    arguments = argv[len(launcher.command([])) :]
    assert argv == launcher.command(arguments)
    return startup.arrange(startup.parser("x").parse_args(arguments))[0].settings


def test_a_model_server_s_flags_are_settings_and_what_is_set_wins(monkeypatch, tmp_path):
    settings = started(
        monkeypatch,
        tmp_path,
        "--port=10005",
        r"--model_filter_regex=store\..*",
        "--set",
        "cell_chip=l4",
        "--set",
        "cell_tags=a=b",
    )

    assert (settings.cell, settings.cell_admin, settings.sax_address) == ("/sax/test", False, "http://127.0.0.1:10005")
    assert (settings.cell_model_filter, settings.cell_chip, settings.cell_tags) == (r"store\..*", "l4", "a=b")


@pytest.mark.parametrize(("words", "sentence"), [
    pytest.param(["--set", "cell_chip"], "--set cell_chip: KEY=VALUE is wanted", id="a pair that is none"),
    pytest.param(["--model_filter_regex=("], "cell_model_filter: '(' is no regular expression", id="a broken filter"),
])  # fmt: skip
def test_what_cannot_be_meant_stops_the_start(monkeypatch, tmp_path, words, sentence):
    with pytest.raises(SettingsError) as refused:
        started(monkeypatch, tmp_path, *words)

    assert sentence in str(refused.value)


def test_a_machine_offers_only_what_its_filter_matches_as_a_whole(tmp_path):
    for name in ("digits", "digits2"):
        (tmp_path / "store" / name / "MAR-INF").mkdir(parents=True)
    options = CellOptions("/sax/test", str(tmp_path), False, "127.0.0.1", 1, model_filter=r"store\.digits")

    assert CellService(options, None, tmp_path, tmp_path, tmp_path / "store")._machine().paths == ["store.digits"]
