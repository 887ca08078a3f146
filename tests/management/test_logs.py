import logging

import pytest

from flambeau.management.logs import open_logs


@pytest.fixture(autouse=True)
def root():
    """Logging is the process': it is given back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = handlers, level


def test_an_event_is_one_line_that_no_terminal_obeys(tmp_path):
    logs = open_logs(tmp_path, tmp_path, debug=False, console=False)

    logs.model_line("W-9000-m_1.0", "stdout", "\x1b[31mred\r\n2026-01-01 [ERROR] forged\x00\tend")

    (line,) = (tmp_path / "model_log.log").read_text().splitlines()
    assert line.endswith("W-9000-m_1.0-stdout MODEL_LOG - \\x1b[31mred\\r\\n2026-01-01 [ERROR] forged\\x00\tend")


def test_a_traceback_keeps_its_lines(tmp_path):
    open_logs(tmp_path, tmp_path, debug=False, console=False)

    try:
        raise ValueError("of one")
    except ValueError:
        logging.getLogger("here").exception("It failed")

    lines = (tmp_path / "ts_log.log").read_text().splitlines()
    assert lines[0].endswith("here - It failed") and lines[-1] == "ValueError: of one"
