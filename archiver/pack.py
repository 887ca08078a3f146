"""Making archives: `.mar` (zip), zip-store, `.tar.gz`, or a plain folder, as torch-model-archiver makes them."""

import glob
import logging
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .errors import PackingError
from .manifest import MANIFEST_PATH, NAME, Manifest, created_now

ArchiveFormat = Literal["default", "zip-store", "tgz", "no-archive"]
SUFFIX: dict[str, str] = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
BUILT_IN_HANDLERS = (
    "base_handler", "image_classifier", "image_segmenter", "object_detector", "text_classifier", "dali_image_classifier",
    "vllm_handler", "trt_llm_handler", "text_generation", "chat", "embedding", "scoring", "text_stream",
)  # fmt: skip
NATIVE_HANDLERS = ("BaseHandler", "TorchScriptHandler")  # of the original's C++ backend
UNWANTED_FOLDERS = ("__MACOSX", "__pycache__")  # and those whose name starts with a dot
CHUNK = 1 << 20
log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # bytes written, bytes in all


@dataclass(frozen=True, kw_only=True)
class PackRequest:
    """What goes into an archive; the names are those of the command line's flags."""

    model_name: str
    version: str
    handler: str  # built-in name, `file.py`, `file:function` or `file.py:function`
    serialized_file: Path | None = None
    model_file: Path | None = None
    extra_files: list[str] = field(default_factory=list)  # files, patterns, or folders, which lose one level
    runtime: str = "python"
    requirements_file: Path | None = None
    config_file: Path | None = None
    archive_format: ArchiveFormat = "default"
    export_path: Path = Path()
    force: bool = False


def pack(request: PackRequest, progress: Progress | None = None) -> Path:
    """Writes the archive and returns its path; PackingError says what can't be packed. Never leaves half an archive."""
    if not NAME.fullmatch(request.model_name):
        raise PackingError(
            "Model name contains special characters.\n"
            f"The allowed regular expression filter for model name is: {NAME.pattern}"
        )
    if not request.export_path.is_dir():
        raise PackingError(
            f"Given export-path {request.export_path} is not a directory. Point to a valid export-path directory."
        )
    target = request.export_path / (request.model_name + SUFFIX[request.archive_format])
    if target.exists() and not request.force:
        raise PackingError(
            f"{target} already exists.\nPlease specify --force/-f option to overwrite the model archive output file."
        )
    handler_file, handler = split_handler(request.handler, request.runtime)
    files = collect(request, handler_file)
    manifest = Manifest(
        model_name=request.model_name,
        handler=handler,
        model_version=request.version,
        serialized_file=_name(request.serialized_file),
        model_file=_name(request.model_file),
        requirements_file=_name(request.requirements_file),
        config_file=_name(request.config_file),
        runtime=request.runtime,
        created_on=created_now(),
    )
    _write(request, target, files, manifest, progress)
    return target


def split_handler(handler: str, runtime: str = "python") -> tuple[Path | None, str]:
    """The file to pack (None for a built-in name), and what the manifest says: `file.py`, `file` or `file:function`."""
    if handler in (NATIVE_HANDLERS if runtime == "LSP" else BUILT_IN_HANDLERS):
        return None, handler
    path, _, function = handler.rpartition(":") if ":" in handler else (handler, "", "")
    suffix = ".so" if runtime == "LSP" else ".py"
    file = Path(path if path.endswith(suffix) else path + suffix)
    if not file.is_file():
        raise PackingError(
            f"Unable to find the handler file {file} (a file, file:function, or one of {', '.join(BUILT_IN_HANDLERS)})."
        )
    return file, f"{file.stem}:{function}" if function else Path(path).name


def collect(request: PackRequest, handler_file: Path | None) -> dict[str, Path]:
    """Archive name → file. The same name from two places is an error, not a silent choice."""
    given = [request.serialized_file, request.model_file, handler_file, request.requirements_file, request.config_file]
    files: dict[str, Path] = {}
    for path in filter(None, given):
        if not path.is_file():
            raise PackingError(f"The file {path} does not exist.")
        _add(files, path.name, path)
    for pattern in request.extra_files:
        matches = [Path(match) for match in sorted(glob.glob(pattern.strip()))]
        if not matches and not glob.has_magic(pattern):
            raise PackingError(f"File does not exist: {pattern.strip()}")
        if not matches:
            log.warning("Given wildcard pattern did not match any file: %s", pattern.strip())
        for match in matches:
            _add_extra(files, match)
    return files


def _add_extra(files: dict[str, Path], match: Path) -> None:
    if match.is_file():
        _add(files, match.name, match)
        return
    for folder, below, names in os.walk(match):
        below[:] = sorted(name for name in below if name not in UNWANTED_FOLDERS and not name.startswith("."))
        for path in (Path(folder, name) for name in sorted(names)):
            if path.is_file():
                _add(files, path.relative_to(match).as_posix(), path)


def _add(files: dict[str, Path], name: str, path: Path) -> None:
    if files.get(name, path).resolve() != path.resolve():
        raise PackingError(f"Two files would be {name} in the archive: {files[name]} and {path}.")
    files[name] = path


def _name(path: Path | None) -> str | None:
    return path.name if path is not None else None


def _write(
    request: PackRequest, target: Path, files: dict[str, Path], manifest: Manifest, progress: Progress | None
) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    report = _Report(sum(sizes.values()), progress)
    if request.archive_format == "no-archive":
        staging = Path(tempfile.mkdtemp(prefix=".packing-", dir=request.export_path))
        try:
            _write_folder(staging, files, manifest, report)
            if target.exists():
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            os.chmod(staging, 0o755)
            os.rename(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return
    descriptor, name = tempfile.mkstemp(prefix=".packing-", dir=request.export_path)
    os.close(descriptor)
    staging = Path(name)
    try:
        write = _write_tar if request.archive_format == "tgz" else _write_zip
        write(staging, request, files, manifest, report)
        os.chmod(staging, 0o644)
        os.replace(staging, target)
    finally:
        staging.unlink(missing_ok=True)


class _Report:
    """Counts bytes for whoever wants to see progress."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def copied(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)


def _write_folder(folder: Path, files: dict[str, Path], manifest: Manifest, report: _Report) -> None:
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        report.copied(path.stat().st_size)
    (folder / MANIFEST_PATH).parent.mkdir(exist_ok=True)
    (folder / MANIFEST_PATH).write_text(manifest.dumps())


def _write_zip(staging: Path, request: PackRequest, files: dict[str, Path], manifest: Manifest, report: _Report) -> None:
    compression = zipfile.ZIP_STORED if request.archive_format == "zip-store" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(staging, "w", compression) as archive:
        for name, path in files.items():
            info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
            info.compress_type = compression
            with path.open("rb") as source, archive.open(info, "w", force_zip64=info.file_size > 1 << 30) as sink:
                while piece := source.read(CHUNK):
                    sink.write(piece)
                    report.copied(len(piece))
        archive.writestr(MANIFEST_PATH, manifest.dumps())


def _write_tar(staging: Path, request: PackRequest, files: dict[str, Path], manifest: Manifest, report: _Report) -> None:
    """One root folder named after the model, as the original has it. What is linked to is packed, never a link."""
    with tempfile.NamedTemporaryFile() as text, tarfile.open(staging, "w:gz", compresslevel=6, dereference=True) as archive:
        for name, path in files.items():
            archive.add(path, f"{request.model_name}/{name}", filter=_plain)
            report.copied(path.stat().st_size)
        text.write(manifest.dumps().encode())
        text.flush()
        archive.add(text.name, f"{request.model_name}/{MANIFEST_PATH}", filter=_plain)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's user, no odd modes."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o755 if info.mode & 0o100 else 0o644
    return info
