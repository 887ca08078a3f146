"""A corpus of archives that must be refused: name → a function that writes it to a path. Zip and tar each their own."""

import gzip
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

MANIFEST = json.dumps({"runtime": "python", "model": {"modelName": "m", "handler": "h.py", "modelVersion": "1.0"}})
NAMES = {
    "absolute path": "/tmp/escaped",
    "parent folder": "../escaped",
    "parents deep inside": "a/../../../escaped",
    "sibling prefix": "../modelsX/escaped",
    "dots in the middle": "a/../escaped",
    "backslashes": "..\\..\\escaped",
    "drive letter": "C:/escaped",
    "newline in a name": "a\nb",
    "too deep": "/".join(["d"] * 60) + "/f",
    "too long a name": "n" * 2000,
}


def zip_with(*members: tuple[str | zipfile.ZipInfo, bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("MAR-INF/MANIFEST.json", MANIFEST)
            for name, data in members:
                archive.writestr(name, data)

    return write


def tar_with(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            for info, data in [(tarfile.TarInfo("MAR-INF/MANIFEST.json"), MANIFEST.encode()), *members]:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    return write


def typed(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_typed(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


def zip_packed(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = method
    return info


def directory_of(size: int) -> Callable[[Path], None]:
    """A zip whose directory claims to have `size` bytes."""

    def write(path: Path) -> None:
        zip_with(("h.py", b"x"))(path)
        data = bytearray(path.read_bytes())
        data[-10:-6] = size.to_bytes(4, "little")
        path.write_bytes(data)

    return write


def truncated(write: Callable[[Path], None], part: float) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * part)])

    return cut


def overlapping(path: Path) -> None:
    """Two entries of the directory that name the same bytes."""
    zip_with(("a", b"x" * 1000))(path)
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    with zipfile.ZipFile(path, "a") as archive:
        copy = zipfile.ZipInfo("b")
        first = infos[-1]
        copy.header_offset, copy.CRC = first.header_offset, first.CRC
        copy.compress_size, copy.file_size, copy.compress_type = first.compress_size, first.file_size, first.compress_type
        archive.filelist.append(copy)
        archive.NameToInfo["b"] = copy
        archive._didModify = True


def flipped(path: Path) -> None:
    zip_with(("weights.bin", bytes(range(256)) * 40))(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def headers(count: int, payload: bytes, kind: bytes = tarfile.XHDTYPE, members: int = 1) -> Callable[[Path], None]:
    """Members without content; before each so many attribute headers, one after the other."""

    def write(path: Path) -> None:
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, len(payload)
        block = header.tobuf(tarfile.USTAR_FORMAT) + payload + b"\0" * (-len(payload) % 512)
        with gzip.open(path, "wb", 1) as file:
            for number in range(members):
                file.write(block * count + tarfile.TarInfo(f"h{number}.py").tobuf())
            file.write(b"\0" * 1024)

    return write


def comment(size: int) -> bytes:
    """An attribute that fills a header of `size` bytes."""
    return b"%d comment=%b\n" % (size, b"x" * (size - len(str(size)) - 10))


def sparse(maps: int) -> Callable[[Path], None]:
    """A file of holes, described by so many blocks of the old GNU format."""

    def write(path: Path) -> None:
        header = bytearray(typed("h.py", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
        header[386:410] = b"%011o\0" % 1 * 2
        header[482] = 1
        header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
        path.write_bytes(gzip.compress(header + (b"%011o\0" % 1 * 42 + b"\1" + b"\0" * 7) * maps + b"\0" * 1024, 1))

    return write


BOMB = b"\0" * (80 << 20)
ZIPS: dict[str, Callable[[Path], None]] = {
    **{f"{what} (zip)": zip_with((name, b"x")) for what, name in NAMES.items()},
    "symbolic link (zip)": zip_with((zip_typed("link", stat.S_IFLNK), b"/etc/passwd")),
    "device (zip)": zip_with((zip_typed("dev", stat.S_IFBLK), b"")),
    "pipe (zip)": zip_with((zip_typed("pipe", stat.S_IFIFO), b"")),
    "duplicate that differs by case (zip)": zip_with(("h.py", b"1"), ("H.py", b"2")),
    "file used as a folder (zip)": zip_with(("a", b"1"), ("a/b", b"2")),
    "folder used as a file (zip)": zip_with(("a/b", b"1"), ("a", b"2")),
    "overlapping entries (zip)": overlapping,
    "a compression whose dictionary takes what memory it likes (zip)": zip_with((zip_packed("x", zipfile.ZIP_LZMA), b"x")),
    "a directory larger than its file (zip)": directory_of(0xFFFFFFF0),
    "bomb (zip)": zip_with(("zeros", BOMB)),
    "truncated at a half (zip)": truncated(zip_with(("h.py", b"x" * 5000)), 0.5),
    "truncated at the end (zip)": truncated(zip_with(("h.py", b"x" * 5000)), 0.97),
    "bits flipped (zip)": flipped,
    "no zip at all": lambda path: path.write_bytes(b"this is no zip") and None,
    "empty file (zip)": lambda path: path.write_bytes(b"") and None,
}
TARS: dict[str, Callable[[Path], None]] = {
    **{f"{what} (tar)": tar_with((tarfile.TarInfo(name), b"x")) for what, name in NAMES.items()},
    "symbolic link (tar)": tar_with((typed("link", tarfile.SYMTYPE, "/etc"), b"")),
    "link, then a file through it (tar)": tar_with(
        (typed("l", tarfile.SYMTYPE, "/tmp"), b""), (tarfile.TarInfo("l/escaped"), b"x")
    ),
    "hard link (tar)": tar_with((typed("link", tarfile.LNKTYPE, "../../etc/passwd"), b"")),
    "block device (tar)": tar_with((typed("dev", tarfile.BLKTYPE), b"")),
    "character device (tar)": tar_with((typed("dev", tarfile.CHRTYPE), b"")),
    "pipe (tar)": tar_with((typed("pipe", tarfile.FIFOTYPE), b"")),
    "duplicate (tar)": tar_with((tarfile.TarInfo("h.py"), b"1"), (tarfile.TarInfo("h.py"), b"2")),
    "bomb (tar)": tar_with((tarfile.TarInfo("zeros"), BOMB)),
    "bomb in a header (tar)": headers(1, b"\0" * (20 << 20)),
    "headers without end (tar)": headers(3000, b"11 path=ab\n"),
    "long headers (tar)": headers(1, comment(100 << 10)),
    "long headers of each member (tar)": headers(1, comment(50 << 10), members=400),
    "long headers of all members (tar)": headers(3, comment(30 << 10), tarfile.XGLTYPE),
    "a sparse file's map without end (tar)": sparse(3000),
    "truncated at a half (tar)": truncated(tar_with((tarfile.TarInfo("h.py"), bytes(range(256)) * 400)), 0.5),
    "no tar at all": lambda path: path.write_bytes(b"this is no tar") and None,
    "empty file (tar)": lambda path: path.write_bytes(b"") and None,
}
