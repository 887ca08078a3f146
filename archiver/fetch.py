"""Where archives come from: a name in the model store, `file://`, `http(s)://`, `s3://`, `hf://`.

The address is parsed once, and what was checked is what is used. A name without a scheme means the model store and nothing
else. Everything with a scheme must match one of `allowed_urls`; so must every redirect, and a name that resolves to a
private or link-local address is refused unless the pattern that allowed it names that host. Not for: opening what was
fetched.
"""

import contextlib
import fcntl
import http.client
import ipaddress
import os
import re
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from .errors import AlreadyExists, DownloadFailed, ExtraMissing, InvalidModel, ModelNotFound
from .unpack import ARCHIVE_SUFFIXES

MAX_REDIRECTS = 3
CHUNK = 1 << 20
PREFIX = ".download-"
REDIRECTS = {301, 302, 303, 307, 308}


@dataclass(frozen=True)
class FetchLimits:
    max_bytes: int = 100 << 30
    connect_seconds: float = 10.0
    total_seconds: float = 3600.0


@dataclass(frozen=True)
class Fetched:
    path: Path  # an archive, or a folder
    downloaded: bool  # it was copied into the model store for this model, and goes with it


Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if known


def fetch(
    url: str,
    model_store: Path,
    allowed_urls: tuple[str, ...] = (),
    limits: FetchLimits | None = None,
    progress: Progress | None = None,
    trusted: bool = False,
) -> Fetched:
    """The archive that `url` names; `trusted` when the operator wrote it, who may name any path of the machine.

    ModelNotFound, DownloadFailed, AlreadyExists, ExtraMissing or InvalidModel."""
    limits = limits or FetchLimits()
    if not url:
        raise ModelNotFound("empty url")
    if not url.isprintable():  # no file's name, whatever the system says to it
        raise ModelNotFound(f"Model not found at: {url!r}")
    if ".." in unquote(unquote(url)):
        raise ModelNotFound(f"Relative path is not allowed in url: {url}")
    parts = _split(url)
    scheme = parts.scheme.lower()
    if not scheme:
        path = Path(url)
        found = _existing(path, url) if trusted and path.is_absolute() else _in_store(url, model_store)
        return Fetched(found, downloaded=False)
    if scheme not in ("file", "http", "https", "s3", "hf"):
        raise ModelNotFound(f"Model not found at: {url}")
    _require_allowed(url, allowed_urls)
    if scheme == "file":
        return Fetched(_existing(Path(unquote(parts.path)), url), downloaded=False)
    if scheme == "hf":
        return Fetched(_from_hub(parts), downloaded=False)
    target = _target(url, parts, model_store)
    _store(target, url, lambda sink: SOURCES[scheme](url, allowed_urls, limits, progress, sink))
    return Fetched(target, downloaded=True)


def is_allowed(url: str, allowed_urls: tuple[str, ...]) -> bool:
    try:
        return bool(_require_allowed(url, allowed_urls))
    except ModelNotFound:
        return False


def download(url: str, target: Path, allowed_urls: tuple[str, ...], limits: FetchLimits | None = None) -> None:
    """The file at an http(s) address, which is no archive: checked and bounded as they are. DownloadFailed or ModelNotFound."""
    _store(target, url, lambda sink: _from_http(url, allowed_urls, limits or FetchLimits(), None, sink))


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ModelNotFound(f"Model not found at: {url}") from None
    return parts


def _in_store(name: str, model_store: Path) -> Path:
    path = Path(name)
    if path.is_absolute():  # TorchServe takes the absolute path of a folder; ours must be in the store all the same
        inside = path.resolve().is_relative_to(model_store.resolve())
        if not inside:
            raise ModelNotFound(f"Model not found at: {name}")
        return _existing(path, name)
    found = (model_store / path).resolve()
    if not found.is_relative_to(model_store.resolve()):
        raise ModelNotFound(f"Model not found at: {name}")
    return _existing(found, name)


def _existing(path: Path, url: str) -> Path:
    """A file or a folder: a pipe or a device would be read for ever."""
    try:
        if path.is_file() or path.is_dir():
            return path
    except (OSError, ValueError):  # a name that nothing could have
        pass
    raise ModelNotFound(f"Model not found at: {url}")


def _require_allowed(url: str, allowed: tuple[str, ...]) -> str:
    """The pattern that allows it. Patterns are TorchServe's regular expressions, for the whole address."""
    for pattern in allowed:
        try:
            if re.fullmatch(pattern, url):
                return pattern
        except re.error:
            continue  # `management.settings` has refused it at the start
    raise ModelNotFound(f"Given URL {url} does not match any allowed URL(s)")


def _target(url: str, parts: SplitResult, model_store: Path) -> Path:
    name = unquote(parts.path).rsplit("/", 1)[-1]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", name) or not name.endswith((".war", *ARCHIVE_SUFFIXES)):
        raise InvalidModel(f"{name!r} is not the name of a .mar or .tar.gz archive.")
    target = model_store / name
    if target.exists():
        raise AlreadyExists(f"Model file already exists {name}")
    return target


def _store(target: Path, url: str, write: Callable[[int], None]) -> None:
    """Into a hidden file first: a download that fails leaves nothing, and what is there is whole."""
    _sweep(target.parent)
    descriptor, name = tempfile.mkstemp(prefix=PREFIX, dir=target.parent)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        write(descriptor)
        os.fsync(descriptor)
        os.link(name, target)  # unlike a rename it never overwrites
    except FileExistsError:
        raise AlreadyExists(f"Model file already exists {target.name}") from None
    except (OSError, http.client.HTTPException, ValueError):
        raise DownloadFailed(f"Failed to download archive from: {url}") from None
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def _sweep(store: Path) -> None:
    """What servers that were killed have left: the lock went with them."""
    for path in store.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _from_http(url: str, allowed: tuple[str, ...], limits: FetchLimits, progress: Progress | None, sink: int) -> None:
    written = _Sink(sink, limits, progress)
    for _ in range(MAX_REDIRECTS + 1):
        pattern = _require_allowed(url, allowed)
        parts = _split(url)
        with _connected(parts, pattern, limits, written.deadline) as connection:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Host": parts.netloc, "User-Agent": "flambeau"})
            answer = connection.getresponse()
            location = answer.getheader("Location")
            if answer.status in REDIRECTS and location:
                url = urljoin(url, location)
                if urlsplit(url).scheme.lower() not in ("http", "https"):
                    raise DownloadFailed(f"Failed to download archive from: {url}")
                continue
            if answer.status != 200:
                raise OSError(f"status {answer.status}")
            written.length = answer.length
            while piece := answer.read1(CHUNK):
                written.write(piece)
            if answer.length:  # http.client counts down what was promised
                raise OSError("the connection broke off")
            written.require_time()  # the end may be ours
            return
    raise OSError("too many redirects")


class _Sink:
    """A file that takes so much in so long; more is an OSError."""

    def __init__(self, file: int, limits: FetchLimits, progress: Progress | None) -> None:
        self._file, self._max_bytes, self._progress = file, limits.max_bytes, progress
        self._total = 0
        self.length: int | None = None
        self.deadline = time.monotonic() + limits.total_seconds

    def write(self, piece: bytes) -> int:
        self._total += len(piece)
        self.require_time()
        if self._total > self._max_bytes:
            raise OSError("too large")
        view = memoryview(piece)
        while view:
            view = view[os.write(self._file, view) :]
        if self._progress is not None:
            self._progress(self._total, self.length)
        return len(piece)

    def require_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OSError("too slow")


@contextmanager
def _connected(
    parts: SplitResult, pattern: str, limits: FetchLimits, deadline: float
) -> Iterator[http.client.HTTPConnection]:
    """Until the deadline: a socket's own timeout starts anew with each byte that a server gives away."""
    connection = _connect(parts, pattern, limits)
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), _break_off, [connection.sock])
    timer.daemon = True
    timer.start()
    try:
        yield connection
    finally:
        timer.cancel()
        connection.close()


def _break_off(connection: socket.socket) -> None:
    """Whoever reads reads the end. Not by TLS' own way, which would take the session from under the reader."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _connect(parts: SplitResult, pattern: str, limits: FetchLimits) -> http.client.HTTPConnection:
    """To the very address that was checked: a second look-up of the name could give another."""
    if parts.username is not None:  # a careless pattern, and a human eye, take http://good@evil/ for the first host
        raise ModelNotFound("A URL with a user's name in it is not fetched.")
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
    address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    if not ipaddress.ip_address(address).is_global and not _names(pattern, host):
        raise ModelNotFound(f"The host {host} is on a private network; allowed_urls must name it.")
    raw = socket.create_connection((address, port), timeout=limits.connect_seconds)
    connection = http.client.HTTPConnection(host, port, timeout=limits.connect_seconds)
    connection.sock = (
        ssl.create_default_context().wrap_socket(raw, server_hostname=host) if parts.scheme.lower() == "https" else raw
    )
    return connection


def _names(pattern: str, host: str) -> bool:
    """Whether a pattern speaks of this very host, and not of any."""
    return bool(re.search(rf"(?<![\w.-]){re.escape(host)}(?![\w-]|\.\w)", pattern.replace("\\.", "."), re.IGNORECASE))


def _from_s3(url: str, allowed: tuple[str, ...], limits: FetchLimits, progress: Progress | None, sink: int) -> None:
    try:
        import boto3
    except ImportError:
        raise ExtraMissing("s3:// needs the extra `s3`: pip install 'flambeau[s3]'") from None
    parts = urlsplit(url)
    try:
        boto3.client("s3").download_fileobj(parts.netloc, parts.path.lstrip("/"), _Sink(sink, limits, progress))
    except Exception as error:  # no such key, no credentials: botocore's errors have no base that we would know
        raise OSError(type(error).__name__) from None


SOURCES: dict[str, Callable[[str, tuple[str, ...], FetchLimits, Progress | None, int], None]] = {
    "http": _from_http,
    "https": _from_http,
    "s3": _from_s3,
}


def _from_hub(parts: SplitResult) -> Path:
    """hf://owner/name[@revision]: a snapshot folder in the hub's own cache; HF_HUB_OFFLINE is honoured by the library."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ExtraMissing("hf:// needs the extra `llm`: pip install 'flambeau[llm]'") from None
    name, _, revision = f"{parts.netloc}{parts.path}".partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None))
    except Exception as error:  # the hub's client raises what its transports raise
        raise DownloadFailed(f"Failed to download hf://{name}: {type(error).__name__}") from None


def remove_download(fetched: Fetched) -> None:
    """A model's downloaded archive goes with the model; others' files are never touched."""
    if fetched.downloaded and fetched.path.is_dir():
        shutil.rmtree(fetched.path, ignore_errors=True)
    elif fetched.downloaded:
        with contextlib.suppress(OSError):  # a store that is read-only by now: the model goes all the same
            fetched.path.unlink()
