"""What a cluster runs on each of its machines: it starts that machine's server and sees to it that it is there.

The server is a process of its own, which outlives this agent: when Ray loses its head, and with it the agents, serving goes
on, and the next agent finds the server by its lock. Nothing here needs a shared folder: the admin's address, the cell's key
and the archives come with the calls. Not for: replicas, which the server is told by its cell.
"""

import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ...archiver.unpack import ARCHIVE_SUFFIXES
from ..cell.names import parse_cell
from ..cell.root import CellConfig, Location

STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Spec:
    """One machine, as its cluster describes it."""

    cell: str
    key: str
    folder: str  # of this machine: state, logs, archives
    host: str  # where its server listens, and others reach it
    port: int  # 0: the server's choice of the first start is kept
    chip: str = "cpu"
    topology: str = "1"
    tags: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)


class MachineAgent:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._folder = Path(spec.folder)
        self._root = self._folder / "root" / "sax" / parse_cell(spec.cell)
        self._store = self._folder / "store"
        self._digests = Digests()
        for folder in (self._root, self._store):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def ensure(self, location: str, incarnation: str) -> int:
        """The server's process id; started when there is none. The admin is at `location` now."""
        self._write("key", self._spec.key.encode())
        self._write("config.json", msgspec.json.encode(CellConfig(fs_root=str(self._folder / "unused"))))
        self._write("location.json", msgspec.json.encode(Location(address=location, incarnation=incarnation)))
        return self._running() or self._start()

    def missing(self, archives: dict[str, str]) -> list[str]:
        """Of {file name: SHA-256}, the names that are not here, or are something else."""
        return [name for name, digest in archives.items() if self._digests.of(self._place(name)) != digest]

    def receive(self, name: str, digest: str, content: bytes) -> None:
        """ValueError for an archive that is not what was announced."""
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{name} has not the announced content")
        next_ = self._store / f".{name}.next"
        next_.write_bytes(content)
        os.replace(next_, self._place(name))

    def stop(self) -> None:
        """Its requests are answered first."""
        pid = self._running()
        if pid:
            os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + STOP_SECONDS
            while self._running() and time.monotonic() < end:
                time.sleep(0.05)
        if pid := self._running():
            os.kill(pid, signal.SIGKILL)

    def _running(self) -> int | None:
        """The lock is the server's as long as it lives, whoever started it."""
        path = self._folder / "server.lock"
        if not path.exists():
            return None
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
        return None

    def _start(self) -> int:
        """In a session of its own and nobody's child, so that no end of ours is its end."""
        spec = self._spec
        words = [
            sys.executable, "-m", "flambeau", "model-server", f"--sax_cell={spec.cell}", f"--sax_root={self._folder / 'root'}",
            f"--host={spec.host}", f"--port={self._port()}", f"--platform_chip={spec.chip}",
            f"--platform_topology={spec.topology}", f"--tags={','.join(spec.tags)}", f"--model_store={self._store}",
            f"--state={self._folder}", *(f"--set={key}={value}" for key, value in spec.settings.items()),
        ]  # fmt: skip
        launcher = [sys.executable, "-m", "flambeau.management.cluster.launch", str(self._folder / "server.lock"), *words]
        with (self._folder / "server.log").open("ab") as log:
            done = subprocess.run(
                launcher, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, check=True, timeout=60,
                env=os.environ | {"FLAMBEAU_SERVER_LOG": str(self._folder / "server.log")},
            )  # fmt: skip
        return int(done.stdout)

    def _port(self) -> int:
        """The same as before: it is the machine's name in the cell."""
        if self._spec.port:
            return self._spec.port
        kept = self._folder / "port"
        if not kept.exists():
            from ..cell.commands import free_ports

            kept.write_text(str(free_ports(1)[0]))
        return int(kept.read_text())

    def _place(self, name: str) -> Path:
        if "/" in name or name.startswith("."):
            raise ValueError(f"{name} is no archive's name")
        return self._store / name

    def _write(self, name: str, content: bytes) -> None:
        path = self._root / name
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == content:
                return
        with open(os.open(self._root / f"{name}.next", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        os.replace(self._root / f"{name}.next", path)


class Digests:
    """SHA-256 of files that are asked about every few seconds: read again only when they have changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], str]] = {}

    def of(self, path: Path) -> str | None:
        """None: there is no such file."""
        try:
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
                if path not in self._known or self._known[path][0] != stamp:
                    self._known[path] = stamp, hashlib.file_digest(file, "sha256").hexdigest()
                return self._known[path][1]
        except FileNotFoundError:
            return None

    def archives(self, store: Path) -> dict[str, str]:
        """Those of the packed archives of a model store."""
        found = [path for path in store.iterdir() if path.name.endswith(ARCHIVE_SUFFIXES)] if store.is_dir() else []
        return {path.name: digest for path in found if (digest := self.of(path))}
