"""Commands of a cell, as a shell would run them."""

import os
import subprocess
import sys

import pytest

from ..conftest import HOME


class Shell:
    """`run("saxutil", …)` waits; `start("flambeau", …)` goes on, until the test is over."""

    MODULES = {"saxutil": "flambeau.sax.saxutil", "flambeau": "flambeau"}

    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        self.environ = os.environ | {"SAX_ROOT": str(folder / "root"), "PYTHONPATH": HOME}

    def run(self, command, *words, status=0, stdin=""):
        done = subprocess.run(
            [sys.executable, "-m", self.MODULES[command], *words],
            env=self.environ, cwd=self.folder, input=stdin, capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done.stdout if status == 0 else done.stderr

    def start(self, command, *words, log):
        with (self.folder / log).open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", self.MODULES[command], *words],
                env=self.environ, cwd=self.folder, stdout=output, stderr=output,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def said(self, log):
        return (self.folder / log).read_text()


@pytest.fixture
def shell(tmp_path):
    shell = Shell(tmp_path)
    yield shell
    for process in shell.processes:
        process.terminate()
    for process in shell.processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
