"""Ray's nodes on this machine, each as an operator runs them: `ray start --block`, started again by its init when it ends."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

RAY = Path(sys.executable).parent / "ray"
STARTED = "Ray runtime started"
# Without a head a raylet ends itself after 60 s, and `ray start --head` refuses while this machine runs raylets of the old one.
PATIENCE = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}


class Node:
    """`up()` and `down()` are the machine's power switch as far as Ray is concerned; down is kill -9."""

    one_at_a_time = threading.Lock()  # nodes of one machine share a folder where they look for free ports

    def __init__(self, folder, name, port, *, head=False, **environ):
        self.name, self.head = name, head
        self.environ = os.environ | PATIENCE | environ
        self.log = folder / f"{name}.log"
        where = ["--head", f"--port={port}", "--include-dashboard=false"] if head else [f"--address=127.0.0.1:{port}"]
        memory = "--object-store-memory=80000000"
        self.command = [
            RAY, "start", "--block", "--disable-usage-stats", "--num-cpus=1", memory, f"--node-name={name}", *where
        ]  # fmt: skip
        self.process = None
        self._wanted = threading.Event()
        self._over = False
        self._init = threading.Thread(target=self._keep, daemon=True)
        self._init.start()

    def up(self):
        self._wanted.set()
        return self

    def down(self):
        self._wanted.clear()
        if self.process:
            kill_tree(self.process.pid)

    def close(self):
        self._over = True
        self.down()
        self._wanted.set()
        self._init.join(20)
        self.down()

    def _keep(self):
        while self._wanted.wait() and not self._over:
            with contextlib.nullcontext() if self.head else self.one_at_a_time:
                began = self.log.stat().st_size if self.log.exists() else 0
                with self.log.open("ab") as log:
                    self.process = subprocess.Popen(self.command, env=self.environ, stdout=log, stderr=log)
                end = time.monotonic() + 60
                while (
                    self.process.poll() is None and STARTED not in self.log.read_text()[began:] and time.monotonic() < end
                ):
                    time.sleep(0.1)
            self.process.wait()
            time.sleep(0.5)


def kill_tree(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
