"""The runtime folder: private, short, locked by the server that owns it; what a killed server left is swept away.

Unix sockets allow paths of about a hundred bytes, hence its own place below the temporary folder. Not for: durable state.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from .errors import StartError

PREFIX = "flambeau-"
LONGEST_BASE = 60  # bytes: more would make the sockets' paths too long


class RuntimeFolder:
    """Made 0700 and locked; `remove()` at the end."""

    def __init__(self, path: Path | None = None) -> None:
        base = Path(tempfile.gettempdir())
        if len(os.fsencode(base)) > LONGEST_BASE:
            base = Path("/tmp")
        _sweep(base)
        self.path = path or Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = self.path.stat()
        if facts.st_uid != os.getuid():
            raise StartError(f"{self.path} belongs to another user")
        self.path.chmod(0o700)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _locked(self._lock):
            raise StartError(f"another server uses {self.path}")
        for name in ("models", "environments"):  # of a server that was killed, in a folder that the operator has named
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("workers", "metrics", "models"):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def own_state(path: Path) -> int:
    """Keeps other servers from this state file as long as we live; two would overwrite each other's models."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _locked(lock):
        os.close(lock)
        raise StartError(
            f"{path} is the state of a server that runs; give this one its own by state_file=…, or say --no-state (--ncs)"
        )
    return lock


def _sweep(base: Path) -> None:
    """Folders of ours whose server is gone: the lock went with it."""
    for folder in base.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if folder.lstat().st_uid == os.getuid() and _locked(lock):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
