import pytest
from click.testing import CliRunner

from flambeau.cli import main
from flambeau.management import launcher


@pytest.fixture
def started(monkeypatch):
    """What the server would be started with."""
    given = []
    monkeypatch.setattr(launcher, "running_pid", lambda: None)
    monkeypatch.setattr(launcher, "start", given.append)
    monkeypatch.setattr(launcher, "running", lambda: None)
    return given


@pytest.mark.parametrize("name", ["--no-state", "--ncs"])
def test_start_without_state_has_our_name_and_torchserves(started, name):
    assert CliRunner().invoke(main, ["start", name, "m=echo.mar"]).exit_code == 0

    assert started == [["--ncs", "--models", "m=echo.mar"]]


def test_an_option_that_start_does_not_know_is_no_model(started):
    answer = CliRunner().invoke(main, ["start", "--foregruond", "echo.mar"])

    assert answer.exit_code == 2 and "No such option" in answer.output
    assert started == []
