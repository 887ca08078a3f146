"""The shared root by which a cell is found, and the folder where its admin keeps its state.

    <sax_root>/sax/<cell>/config.json    fs_root and ACL, written by `flambeau admin-config`
                          location.json  who is the admin now; its lock is held by that process
                          key            the secret that members of the cell share (0600)
    <fs_root>/sax/<cell>/state.json      what is published

Roots are local (or mounted) folders; other URLs go through fsspec when it is installed, and have no locks.
"""

import fcntl
import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from .errors import SaxError, not_found
from .names import check_acl, check_fs_root, parse_cell

logger = logging.getLogger(__name__)


class Folder(Protocol):
    """Named blobs; `write` replaces one as a whole and lasts."""

    def read(self, name: str) -> bytes | None: ...
    def write(self, name: str, content: bytes) -> None: ...
    def names(self) -> list[str]: ...
    def exists(self) -> bool: ...
    def make(self) -> None: ...
    def remove(self) -> None: ...


class LocalFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except PermissionError:
            raise SaxError(
                "PermissionDenied", f"{self.path / name} is not for this user: who reads it is a member"
            ) from None

    def write(self, name: str, content: bytes) -> None:
        next_ = self.path / f"{name}.next"
        with open(os.open(next_, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(next_, self.path / name)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []

    def exists(self) -> bool:
        return self.path.is_dir()

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        for name in self.names():
            (self.path / name).unlink()
        if self.exists():
            self.path.rmdir()


class RemoteFolder:
    """A folder that fsspec reaches: s3://, gs://, memory://, …"""

    def __init__(self, url: str) -> None:
        try:
            import fsspec

            self._files, self._path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SaxError("FailedPrecondition", f"{url}: needs fsspec and its driver for this scheme ({error})") from None

    def read(self, name: str) -> bytes | None:
        try:
            return cast(bytes, self._files.cat_file(f"{self._path}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        self._files.pipe_file(f"{self._path}/{name}", content)

    def names(self) -> list[str]:
        try:
            found = self._files.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def exists(self) -> bool:
        return bool(self._files.exists(self._path))

    def make(self) -> None:
        self._files.makedirs(self._path, exist_ok=True)

    def remove(self) -> None:
        if self.exists():
            self._files.rm(self._path, recursive=True)


def folder(root: str, *parts: str) -> Folder:
    if "://" in root and not root.startswith("file://"):
        return RemoteFolder("/".join((root.rstrip("/"), *parts)))
    return LocalFolder(Path(root.removeprefix("file://")).joinpath(*parts))


class CellConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    fs_root: str
    admin_acl: str = ""


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers for the cell. A new incarnation has seen none of the members yet."""

    address: str
    incarnation: str


class CellRoot:
    """One cell below a sax root."""

    def __init__(self, sax_root: str, cell: str) -> None:
        self.name = cell  # /sax/<cell>
        self._sax_root = sax_root
        self._folder = folder(sax_root, "sax", parse_cell(cell))

    def create(self, fs_root: str, admin_acl: str = "") -> None:
        """Again is fine: what was configured is replaced, the key stays."""
        check_fs_root(fs_root)
        check_acl(admin_acl)
        self._folder.make()
        if self._folder.read("key") is None:
            self._folder.write("key", secrets.token_hex(32).encode())
        self._folder.write("config.json", msgspec.json.encode(CellConfig(fs_root=fs_root, admin_acl=admin_acl)))

    def delete(self) -> None:
        """With what is published in it."""
        folder(self.config().fs_root, "sax", parse_cell(self.name)).remove()
        self._folder.remove()

    def config(self) -> CellConfig:
        self._must_exist()
        content = self._folder.read("config.json")
        if content is None:
            raise SaxError("FailedPrecondition", f"{self.name} has no config: run flambeau admin-config")
        return msgspec.json.decode(content, type=CellConfig)

    def key(self) -> bytes:
        self._must_exist()
        content = self._folder.read("key")
        if not content:
            raise SaxError("FailedPrecondition", f"{self.name} has no key: run flambeau admin-config")
        return content.strip()

    def location(self) -> Location:
        self._must_exist()
        content = self._folder.read("location.json")
        if content is None:
            raise SaxError("FailedPrecondition", "no admin server has ever run")
        return msgspec.json.decode(content, type=Location)

    def announce(self, location: Location) -> None:
        self._folder.write("location.json", msgspec.json.encode(location))

    def state(self) -> Folder:
        found = folder(self.config().fs_root, "sax", parse_cell(self.name))
        found.make()
        return found

    def lock(self) -> "Lock | None":
        """Held by the one admin of the cell; None when somebody holds it."""
        return Lock.take(self._folder.path / "location.lock") if isinstance(self._folder, LocalFolder) else Lock(None)

    def exists(self) -> bool:
        return self._folder.exists()

    def _must_exist(self) -> None:
        if not self.exists():
            raise SaxError("FailedPrecondition", f'"{self._sax_root}{self.name}" is not a directory')


@contextmanager
def told_to_users(root: CellRoot) -> Iterator[None]:
    """What users on other machines are told of a root: no folder of this one."""
    try:
        yield
    except SaxError as error:
        if not root.exists():
            raise not_found(f"cell {root.name} not found") from None
        if error.code == "PermissionDenied":
            logger.warning("%s", error.text)
            raise SaxError("PermissionDenied", f"this server has no access to cell {root.name}") from None
        raise


class Lock:
    """Goes with the process, however it ends."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    @classmethod
    def take(cls, path: Path) -> "Lock | None":
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return cls(file)

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def cells(sax_root: str) -> list[str]:
    """Bare names, sorted."""
    return [name for name in folder(sax_root, "sax").names() if CellRoot(sax_root, f"/sax/{name}").exists()]


def required_root(given: str | None, environ: Any = os.environ) -> str:
    """`given`, else the variable SAX_ROOT."""
    root = given or environ.get("SAX_ROOT")
    if not root:
        raise SaxError("FailedPrecondition", "the sax root is not known: set SAX_ROOT or give --sax_root")
    return str(root)


def own_address(environ: Any = os.environ) -> str:
    """The address others reach us by: SAX_DEBUG_IPADDR=1 means loopback, else the one that leads outside."""
    if environ.get("SAX_DEBUG_IPADDR"):
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; only asks for the route
            address = str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
    return "127.0.0.1" if ipaddress.ip_address(address).is_unspecified else address
