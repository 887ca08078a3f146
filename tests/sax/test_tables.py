"""What saxutil prints, and how it reads its command line."""

import pytest

from flambeau.sax import calls, flags, saxutil, tables
from flambeau.sax.calls import Deadline, Ring, SaxError
from flambeau.sax.commands import CELL_COMMANDS
from flambeau.sax.flags import Flag, UsageError


@pytest.mark.parametrize(("value", "text"), [
    (-123456.789, "-123456.79"), (1 / 3, "0.33333333"), (-2e-9, "-2E-09"), (1e20, "1E+20"), (5.0, "5"),
])  # fmt: skip
def test_numbers_are_go_s(value, text):
    assert tables.number(value) == text


def test_a_table_wraps_words_aligns_numbers_and_centres_heads():
    rows = [["a text that is so long that it needs a second line", "-1.5"], ["two\nlines", "20"]]

    assert tables.table(["Generate", "Score"], rows) == (
        "+--------------------------------+-------+\n"
        "|            GENERATE            | SCORE |\n"
        "+--------------------------------+-------+\n"
        "| a text that is so long that it |  -1.5 |\n"
        "| needs a second line            |       |\n"
        "| two                            |    20 |\n"
        "| lines                          |       |\n"
        "+--------------------------------+-------+\n"
    )


def test_csv_quotes_nothing():
    assert tables.csv(["#", "cell"], [["0", "a, b"]]) == "# #,cell\n0,a, b\n"


FLAGS = (Flag("csv", False, ""), Flag("n", 0, ""), Flag("extra", "", ""))
LS = next(command for command in CELL_COMMANDS if command.name == "ls")


@pytest.mark.parametrize(("words", "values", "rest"), [
    (["-csv", "--n", "3", "-extra=a:b", "x", "-csv"], {"csv": True, "n": 3, "extra": "a:b"}, ["x", "-csv"]),
    (["-csv=false", "-"], {"csv": False, "n": 0, "extra": ""}, ["-"]),
    (["--", "-csv"], {"csv": False, "n": 0, "extra": ""}, ["-csv"]),
])  # fmt: skip
def test_flags_are_go_s(words, values, rest):
    assert flags.parse(words, FLAGS) == (values, rest)


@pytest.mark.parametrize("words", [["-x"], ["-n"], ["-n", "many"], ["-csv=maybe"]])
def test_wrong_flags_are_a_usage_error(words):
    with pytest.raises(UsageError):
        flags.parse(words, FLAGS)


@pytest.mark.parametrize(("words", "details"), [
    (["-details", "/sax/test"], True), (["-details=0", "/sax/test"], False), (["--details=false", "/sax/test"], False),
    (["/sax/test"], None),
])  # fmt: skip
def test_details_is_a_switch_that_may_be_left_unsaid(words, details):
    values, rest = flags.parse(words, LS.flags)

    assert values["details"] is details and rest == ["/sax/test"]


def test_extra_inputs_are_numbers_and_texts():
    assert flags.extra_inputs('a:0.5,b:"1",c:x') == {"a": 0.5, "b": "1", "c": "x"}
    with pytest.raises(ValueError, match="separated by ':'"):
        flags.extra_inputs("a:b:c")


def test_durations_are_go_s():
    assert flags.seconds("1m30s") == 90 and flags.seconds("500ms") == 0.5
    with pytest.raises(UsageError):
        flags.seconds("soon")


@pytest.mark.parametrize(("words", "status"), [
    (["help"], 0), (["help", "ls"], 0), (["flags"], 0), (["commands"], 0), ([], 2), (["nosuch"], 2), (["help", "nosuch"], 2),
    (["ls"], 2), (["ls", "-x", "/sax"], 2), (["-x", "ls"], 2), (["publish", "a"], 2),
    (["publish", "/sax/t/m", "p", "c", "many"], 2),
    (["publish", "/sax/t/m", "p", "c", "1", "noequals"], 2), (["publish", "bad", "p", "c", "1"], 1), (["ls", "/sax/UP"], 1),
    (["update", "/sax/t/m"], 1), (["lm.generate", "-stream", "-terse", "/sax/t/m", "x"], 1),
    (["vm.classify", "/sax/t/m", "/no/such/file"], 1), (["ls", "/elsewhere"], 1),
    (["lm.generate", "-n", "-1", "/sax/t/m", "x"], 1), (["lm.generate", "-extra", "a:b:c", "/sax/t/m", "x"], 1),
])  # fmt: skip
def test_exit_status_and_streams_are_sax_s(capsys, tmp_path, words, status):
    root = ["-sax_root", str(tmp_path)] if words and not words[0].startswith("-") else []

    assert saxutil.main([*root, *words]) == status

    out, err = capsys.readouterr()
    assert (out != "") == (status == 0) and (err != "") == (status != 0)
    assert ("Hint:" in err) == (status == 1)


def test_a_missing_machine_moves_few_seeds():
    seeds = [index * (2**64 // 500) for index in range(500)]
    before, after = Ring([f"m{i}" for i in range(10)]), Ring([f"m{i}" for i in range(9)])

    moved = [seed for seed in seeds if before.pick(seed) != after.pick(seed)]

    assert all(before.pick(seed) == "m9" for seed in moved) and len(moved) < 150
    assert Ring([]).pick(1) is None


def wait_for_ever(deadline):
    while True:
        deadline.wait(SaxError("Unavailable", "nobody there"))


def test_retries_end_with_the_deadline_and_tell_the_last_cause():
    deadline = Deadline(0.03)

    with pytest.raises(SaxError, match="context deadline exceeded: nobody there"):
        wait_for_ever(deadline)


def test_who_waits_long_is_told_once_what_for(monkeypatch, caplog):
    monkeypatch.setattr(calls, "TELL_SECONDS", 0)

    with pytest.raises(SaxError):
        wait_for_ever(Deadline(0.05))

    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["nobody there"]
