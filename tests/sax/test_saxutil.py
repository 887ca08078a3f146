import pytest

from flambeau.sax.saxutil import main


@pytest.mark.parametrize("asked", [["-help"], ["--help"], ["-h"], ["lm.generate", "-help"]])
def test_help_that_is_asked_for_is_no_mistake(asked, capsys):
    assert main(asked) == 0

    told = capsys.readouterr()
    assert told.err == ""
    assert "lm.generate" in told.out
