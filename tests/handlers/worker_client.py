"""A real worker process, and a client that speaks the protocol to it over blocking sockets."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from flambeau.handlers.protocol import (
    EndHead,
    Hello,
    Kind,
    LoadFailure,
    Metric,
    Reader,
    RequestHead,
    ResponseHead,
    WorkerConfig,
    pack,
)

ROOT = str(Path(__file__).parents[3])
TIMEOUT_SECONDS = 60


class Peer:
    """One end of a link."""

    def __init__(self, sock):
        sock.settimeout(TIMEOUT_SECONDS)
        self.sock = sock
        self._reader = Reader()
        self._frames = []
        self._next_id = 0

    def frame(self):
        """The next frame; None at the end of the link."""
        while not self._frames:
            data = self.sock.recv(1 << 16)
            if not data:
                return None
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def send(self, body=b"", kind="application/json", operation="predict", headers=(), query=b"", url_path=""):
        self._next_id += 1
        fields = [(b"Content-Type", kind.encode())] if kind else []
        fields += [(name.encode(), value.encode()) for name, value in headers]
        head = RequestHead(operation, f"id-{self._next_id}", fields, query, url_path)
        self.sock.sendall(pack(Kind.REQUEST, self._next_id, head, body))
        return self._next_id

    def cancel(self, id):
        self.sock.sendall(pack(Kind.CANCEL, id))

    def answer(self, id=None):
        """The next whole answer: (id, head, body); of a stream, its parts as a list and why it ended."""
        parts, started = [], None
        while (frame := self.frame()) is not None:
            if frame.kind == Kind.RESPONSE:
                return Answer(frame.id, frame.head(ResponseHead), bytes(frame.body))
            if frame.kind == Kind.START:
                started = frame.head(ResponseHead)
            elif frame.kind == Kind.CHUNK:
                parts.append(bytes(frame.body))
            elif frame.kind == Kind.END:
                return Answer(frame.id, started, b"".join(parts), parts, frame.head(EndHead).error)
        raise EOFError("the worker has hung up")

    def ask(self, body=b"", **how):
        self.send(body, **how)
        return self.answer()


class Answer:
    def __init__(self, id, head, body, parts=None, error=""):
        self.id, self.head, self.body, self.parts, self.cut = id, head, body, parts, error

    @property
    def status(self):
        return self.head.status

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        import json

        return json.loads(self.body)


class WorkerProcess:
    def __init__(self, config, environ=None):
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "flambeau.handlers.worker", "--control-fd", str(theirs.fileno())]
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": ROOT, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        theirs.close()
        self.control = Peer(ours)
        self.config = config
        ours.sendall(pack(Kind.CONFIG, 0, config))
        self.metrics = []

    def loaded(self):
        """None when READY, else the LoadFailure."""
        frame = self.control.frame()
        assert frame is not None, self.process.stdout.read().decode()
        return None if frame.kind == Kind.READY else frame.head(LoadFailure)

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.config.listen.removeprefix("unix:"))
        peer = Peer(sock)
        peer.hello = peer.frame().head(Hello)
        return peer

    def stop(self):
        self.control.sock.sendall(pack(Kind.STOP, 0))

    def metric_frame(self):
        """The handler's own metrics; the worker's PredictionTime comes as it likes."""
        while True:
            frame = self.control.frame()
            assert frame.kind == Kind.METRICS
            if own := [metric for metric in frame.head(list[Metric]) if metric.name != "PredictionTime"]:
                return own

    def wait(self):
        return self.process.wait(TIMEOUT_SECONDS)

    def end(self):
        """Kills what is left; returns what the worker printed."""
        if self.process.poll() is None:
            self.process.kill()
        output = self.process.communicate(timeout=TIMEOUT_SECONDS)[0].decode()
        self.control.sock.close()
        return output


def config_of(folder, code=None, handler="model.py", **more):
    """A configuration for a model of one file; `code` is a source text or a file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    if code is not None:
        source = code.read_text() if isinstance(code, Path) else code
        (folder / handler.partition(":")[0]).write_text(source)
    manifest = {"model": {"modelName": "m", "handler": handler, "modelVersion": "1.0"}, "runtime": "python"}
    more.setdefault("manifest", manifest)
    return WorkerConfig(
        worker_id="w1",
        model="m",
        version="1.0",
        model_dir=str(folder),
        handler=handler,
        listen=f"unix:{folder / 'w.sock'}",
        **more,
    )


@contextmanager
def running(config, **how):
    worker = WorkerProcess(config, **how)
    try:
        failure = worker.loaded()
        assert failure is None, failure
        worker.peer = worker.connect()
        yield worker
    finally:
        worker.end()


def until(condition, what="it"):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.01)
