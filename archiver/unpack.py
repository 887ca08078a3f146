"""Opening archives that may be hostile: `.mar` (zip), `.tar.gz`, plain folders.

Nothing is extracted by a library's own extractor: each member is judged by its name and type, and written by us, bytes
being counted as they come and not as headers promise. Refused with the reason: absolute and `..` paths, links of any kind,
devices, duplicates (also those that differ by case alone), bombs. The result is a private folder named by the archive's
content, made beside its final place and renamed when complete, so a half-unpacked model is never seen and a refused one
leaves nothing. Not for: what the files mean, beyond the manifest and the model's YAML.
"""

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from .errors import InvalidModel
from .manifest import MANIFEST_PATH, Manifest, parse_manifest
from .model_config import ModelConfig, read_model_config

CHUNK = 1 << 20
HEADERS_BYTES = 64 << 10  # of all that a tar says of one member before its content
ENTRY_BYTES = 2 << 10  # of a zip's directory, for each member there may be: names and comments included
TAR_SUFFIXES = (".tar.gz", ".tgz")
ARCHIVE_SUFFIXES = (".mar", *TAR_SUFFIXES)
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error,
    ValueError, IndexError, OverflowError, NotImplementedError, RecursionError, struct.error,
)  # fmt: skip  # what the readers of these formats raise over bytes that are wrong


def stem(name: str) -> str:
    """An archive's file name without what says its format."""
    return next((name.removesuffix(suffix) for suffix in ARCHIVE_SUFFIXES if name.endswith(suffix)), name)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to."""

    total_bytes: int = 100 << 30
    ratio: int = 200  # unpacked ÷ packed, beyond `ratio_from_bytes`: weights hardly shrink, bombs do a thousandfold
    ratio_from_bytes: int = 64 << 20
    members: int = 100_000
    depth: int = 32
    name_bytes: int = 1024


@dataclass(frozen=True)
class ModelArchive:
    """An opened archive: its folder, and what it says of itself."""

    model_dir: Path
    manifest: Manifest
    config: ModelConfig
    content_hash: str  # SHA-256 of the archive's bytes, or of a folder's names and contents; hexadecimal


def open_archive(path: Path, models_folder: Path, limits: Limits | None = None) -> ModelArchive:
    """Unpacks `path` below `models_folder` (made 0700), unless this very content is there already.

    InvalidModel, with the reason, for whatever must not or cannot be opened.
    """
    limits = limits or Limits()
    models_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hash_folder(path, limits) if path.is_dir() else hash_file(path)
    model_dir = models_folder / digest
    if not model_dir.is_dir():
        _unpack_to(path, model_dir, limits)
    return _unpacked(model_dir, digest)


def _unpacked(model_dir: Path, digest: str) -> ModelArchive:
    manifest = _manifest_in(model_dir)
    config_path = _inside(model_dir, manifest.config_file)
    _inside(model_dir, manifest.requirements_file)
    return ModelArchive(model_dir, manifest, read_model_config(config_path) if config_path else ModelConfig(), digest)


def read_manifest(path: Path) -> Manifest:
    """The manifest alone, without unpacking."""
    if path.is_dir():
        return _manifest_in(path)
    with _members(path, Limits()) as members:
        for member in members:
            if member.name == MANIFEST_PATH or member.name.endswith("/" + MANIFEST_PATH):
                with member.open() as source:
                    return parse_manifest(source.read(CHUNK))
    return Manifest()


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path, limits: Limits) -> str:
    """Stable over copies: names, sizes and contents, in the order of names."""
    digest = hashlib.sha256()
    for number, path in enumerate(_walk(folder)):
        if number >= limits.members:
            raise InvalidModel(f"The folder has more than {limits.members} files.")
        name = path.relative_to(folder).as_posix().encode()
        digest.update(b"%d:%b%d:" % (len(name), name, path.stat().st_size))
        digest.update(bytes.fromhex(hash_file(path)))
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink():
            raise InvalidModel(f"{entry.name} is a link.")
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry
        else:
            raise InvalidModel(f"{entry.name} is neither a file nor a folder.")


def _unpack_to(path: Path, model_dir: Path, limits: Limits) -> None:
    staging = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=model_dir.parent))
    try:
        with _members(path, limits) as members:
            Extraction(staging, limits, _packed_bytes(path)).run(members)
        root = _single_root(staging)
        if root is not None:  # a .tar.gz has one folder around everything
            os.rename(root, staging / ".root")
            root = staging / ".root"
        _unpacked(root or staging, "")  # what it says of itself is refused before it is in its place
        try:
            os.rename(root or staging, model_dir)
        except OSError:
            if not model_dir.is_dir():  # another registration of the same content was faster
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _packed_bytes(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _single_root(folder: Path) -> Path | None:
    entries = list(folder.iterdir())
    alone = len(entries) == 1 and entries[0].is_dir() and entries[0].name != "MAR-INF"
    return entries[0] if alone and (entries[0] / MANIFEST_PATH).is_file() else None


def _manifest_in(folder: Path) -> Manifest:
    path = folder / MANIFEST_PATH
    if not path.is_file() or path.is_symlink():
        return Manifest()
    if path.stat().st_size > CHUNK:
        raise InvalidModel(f"The manifest is larger than {CHUNK} bytes.")
    return parse_manifest(path.read_bytes())


def _inside(folder: Path, name: str | None) -> Path | None:
    """A file that the manifest names, if it is in the archive; never one outside."""
    if name is None:
        return None
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidModel(f"The manifest names the file {name!r}, which is outside of the archive.")
    return path if path.is_file() else None


@dataclass(frozen=True)
class Member:
    name: str
    is_folder: bool
    mode: int
    open: Callable[[], IO[bytes]]
    headers_bytes: int = 0  # what it took of the unpacked stream beside its content


class Extraction:
    """Writes members below `root`, within the limits; of the first that is wrong it says what is wrong."""

    def __init__(self, root: Path, limits: Limits, packed_bytes: int | None) -> None:
        self._root = root
        self._limits = limits
        self._packed = packed_bytes
        self._written = 0
        self._seen: dict[str, bool] = {}  # case-folded path → is it a folder

    def run(self, members: Iterator[Member]) -> None:
        for number, member in enumerate(members, 1):
            if number > self._limits.members:
                raise _too_many(self._limits)
            self._write(member)

    def _write(self, member: Member) -> None:
        self._count(member.headers_bytes)
        parts = safe_parts(member.name, self._limits)
        if not parts:
            return
        self._claim(parts, member)
        target = self._root.joinpath(*parts)
        (target if member.is_folder else target.parent).mkdir(mode=0o755, parents=True, exist_ok=True)
        if member.is_folder:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        mode = 0o755 if member.mode & 0o100 else 0o644
        with member.open() as source, os.fdopen(os.open(target, flags, mode), "wb") as sink:
            while piece := source.read(CHUNK):
                self._count(len(piece))
                sink.write(piece)

    def _claim(self, parts: tuple[str, ...], member: Member) -> None:
        for depth in range(1, len(parts)):
            if self._seen.setdefault("/".join(parts[:depth]).casefold(), True) is False:
                raise InvalidModel(f"{member.name!r} is inside of another member that is a file.")
        key = "/".join(parts).casefold()
        before = self._seen.get(key)
        if before is not None and not (before and member.is_folder):
            raise InvalidModel(f"The member {member.name!r} is there twice.")
        self._seen[key] = member.is_folder
        if len(self._seen) > self._limits.members:  # folders count, also those that stand in longer names only
            raise _too_many(self._limits)

    def _count(self, size: int) -> None:
        self._written += size
        if self._written > self._limits.total_bytes:
            raise InvalidModel(f"The archive unpacks to more than {self._limits.total_bytes} bytes.")
        if (
            self._packed is not None
            and self._written > self._limits.ratio_from_bytes
            and self._written > self._limits.ratio * self._packed
        ):
            raise InvalidModel(f"The archive unpacks to more than {self._limits.ratio} times its size.")


def _too_many(limits: Limits) -> InvalidModel:
    return InvalidModel(f"The archive has more than {limits.members} members.")


def safe_parts(name: str, limits: Limits) -> tuple[str, ...]:
    """The components of a member's name, every one an ordinary name; InvalidModel otherwise."""
    if len(name.encode("utf-8", "surrogateescape")) > limits.name_bytes:
        raise InvalidModel("A member's name is too long.")
    if "\0" in name or "\\" in name or any(ord(letter) < 32 for letter in name):
        raise InvalidModel(f"The member {name!r} has a letter that no file's name should have.")
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        raise InvalidModel(f"The member {name!r} has an absolute path.")
    if ".." in name.split("/"):
        raise InvalidModel(f"The member {name!r} leads out of the archive.")
    parts = PurePosixPath(name).parts
    if len(parts) > limits.depth:
        raise InvalidModel(f"The member {name!r} is more than {limits.depth} folders deep.")
    return parts


class _members:
    """The members of an archive or folder, one by one; what the file format itself has wrong becomes InvalidModel."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Iterator[Member]:
        try:
            if self._path.is_dir():
                return self._folder()
            if self._path.name.endswith(TAR_SUFFIXES):
                stream = self._opened.enter_context(_TarStream(self._path))
                return self._tar(self._opened.enter_context(tarfile.open(fileobj=stream, mode="r|")), stream)
            file = self._opened.enter_context(_ZipFile(self._path, self._limits))
            archive = self._opened.enter_context(zipfile.ZipFile(file))
            file.directory_is_read = True
            return self._zip(archive)
        except BaseException as error:
            self._opened.close()
            if isinstance(error, (*BROKEN, OSError)):
                raise self._broken(error) from None
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._opened.close()
        if isinstance(error, BROKEN):
            raise self._broken(error) from None
        if isinstance(error, RuntimeError) and "encrypted" in str(error):
            raise InvalidModel("The archive is encrypted.") from None

    def _broken(self, error: BaseException) -> InvalidModel:
        return InvalidModel(f"The archive {self._path.name} is broken or no archive: {type(error).__name__}.")

    def _folder(self) -> Iterator[Member]:
        for path in _walk(self._path):
            yield Member(path.relative_to(self._path).as_posix(), False, path.stat().st_mode, _opener(path))

    @staticmethod
    def _zip(archive: zipfile.ZipFile) -> Iterator[Member]:
        infos = archive.infolist()
        _refuse_overlaps(infos)
        for info in infos:
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InvalidModel(f"The member {info.filename!r} is a link or a device.")
            if info.orig_filename != info.filename:  # a NUL cut it: readers would disagree on the name
                raise InvalidModel(f"The member {info.orig_filename!r} has a letter that no file's name should have.")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others ask for memory as they please
                raise InvalidModel(f"The member {info.filename!r} is compressed in a way that model archives are not.")
            yield Member(info.filename, info.is_dir(), mode, lambda info=info: archive.open(info))  # type: ignore[misc]

    @staticmethod
    def _tar(archive: tarfile.TarFile, stream: "_TarStream") -> Iterator[Member]:
        while (info := archive.next()) is not None:
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise InvalidModel(f"The member {info.name!r} is a link, a device or a sparse file.")
            headers_bytes = stream.content_begins(info)
            yield Member(info.name, info.isdir(), info.mode, lambda info=info: _tar_file(archive, info), headers_bytes)  # type: ignore[misc]
            archive.members.clear()  # type: ignore[attr-defined]  # each keeps all that its headers said
            archive.pax_headers = {}  # said of all members that follow: nothing that we would want to know


class _TarStream(gzip.GzipFile):
    """What tarfile reads. Headers go into memory before there is a member to judge, be they many, long or sparse maps: here
    they are counted, and end."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._headers_bytes = 0
        self._content_ends = 0

    def read(self, size: int | None = -1) -> bytes:
        begun = self.tell()
        data = super().read(size)
        self._headers_bytes += max(0, self.tell() - max(begun, self._content_ends))
        if self._headers_bytes > HEADERS_BYTES:
            raise InvalidModel("The archive has a header that is too large.")
        return data

    def content_begins(self, info: tarfile.TarInfo) -> int:
        """How long the member's headers were."""
        headers_bytes, self._headers_bytes = self._headers_bytes, 0
        self._content_ends = info.offset_data + info.size
        return headers_bytes


class _ZipFile(io.BufferedReader):
    """What zipfile reads. It makes an object of each entry of the directory before there is a member to judge: what is no
    entry's signature is no entry, so they are counted here."""

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(io.FileIO(path))
        self._limits = limits
        self.directory_is_read = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.directory_is_read:
            return super().read(size)
        if size is not None and size > self._limits.members * ENTRY_BYTES:
            raise InvalidModel("The archive has a directory that is too large.")
        data = super().read(size)
        if data.count(b"PK\1\2") > self._limits.members:
            raise _too_many(self._limits)
        return data


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _tar_file(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    if file is None:
        raise InvalidModel(f"The member {info.name!r} can't be read.")
    return file


def _refuse_overlaps(infos: list[zipfile.ZipInfo]) -> None:
    """Members that share bytes unpack to far more than the archive holds."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise InvalidModel(f"The member {info.filename!r} overlaps another one.")
        end = info.header_offset + 30 + info.compress_size
