import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from flambeau.management import launcher, torchserve


@pytest.mark.parametrize("arguments", [["--start", "--ncs"], ["--ncs"]], ids=" ".join)
def test_torchserve_starts_unless_it_is_told_something_else(tmp_path, monkeypatch, capsys, arguments):
    started = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(launcher, "start", started.append)

    assert torchserve.main(arguments) == 0

    assert started == [["--ncs"]]
    assert capsys.readouterr().out == "TorchServe has started.\n"


def test_a_server_that_nobody_collects_after_its_end_counts_as_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", launcher.ARGV_MARK])
    launcher.pid_file().write_text(str(server.pid))
    began = time.monotonic()

    assert launcher.stop(timeout_seconds=50)

    assert psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE
    assert time.monotonic() - began < 25
    assert not launcher.pid_file().exists()
    server.wait(5)
