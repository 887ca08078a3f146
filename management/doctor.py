"""What will be different for an archive or a config.properties that TorchServe served: told before anything is started.

Nothing of the archive is run: its files are unpacked into a folder that goes away, its Python is parsed. The words here and
docs/MIGRATION.md say the same. Not for: finding out whether the model computes what it should.
"""

import ast
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement

from ..archiver.errors import ArchiveError
from ..archiver.unpack import ModelArchive, open_archive
from ..handlers.entry_point import READY_MADE, own_file, refusal
from . import properties
from .errors import SettingsError, StartError
from .guard import decide
from .settings import Settings, declared, load

Level = Literal["error", "warning", "note"]

TS = Path(__file__).parents[1] / "handlers" / "compat" / "ts"
WEIGHTS = (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Finding:
    level: Level  # an error stops the start or the model; a warning changes what callers see
    where: str
    words: str


def examine(path: Path) -> list[Finding]:
    """A .properties or .cfg file, or an archive (.mar, .tar.gz, a folder)."""
    if path.suffix in (".properties", ".cfg"):
        return list(_configuration(path))
    return list(_archive(path))


def _configuration(path: Path) -> Iterator[Finding]:
    where = path.name
    try:
        loaded = load(path)
        given = properties.parse(path.read_text(errors="replace"))
    except (SettingsError, OSError) as error:
        yield Finding("error", where, str(error))
        return
    for warning in loaded.warnings:
        yield Finding("warning", where, warning.split(": ", 1)[-1])
    for key in given.keys() & declared().keys():
        words = str(declared()[key].metadata["words"])
        if words.startswith("accepted"):
            yield Finding("note", where, f"{key}: {words}")
    yield from _defaults(loaded.settings, given, where)


def _defaults(settings: Settings, given: dict[str, str], where: str) -> Iterator[Finding]:
    """Where our defaults are not TorchServe's and the file relies on them."""
    try:
        access = decide(settings, {})
    except StartError as error:
        yield Finding("error", where, str(error))
    else:
        if "disable_token_authorization" not in given and not (access.inference_tokens and access.management_tokens):
            yield Finding(
                "note", where, "tokens are asked for off loopback only; disable_token_authorization=false: everywhere"
            )
    if "allowed_urls" not in given:
        yield Finding(
            "warning",
            where,
            "models are registered from model_store alone; allowed_urls=file://.*,http(s)?://.* is TorchServe's",
        )
    if "metrics_mode" not in given:
        yield Finding("note", where, "/metrics is served; metrics_mode=log is TorchServe's default")
    if "load_models" in given and not settings.default_workers_per_model:
        yield Finding(
            "note", where, "models loaded at start get at most 4 workers; default_workers_per_model says how many"
        )


def _archive(path: Path) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            archive = open_archive(path, Path(folder))
        except (ArchiveError, OSError) as error:
            yield Finding("error", path.name, str(error))
            return
        yield from (
            Finding(f.level, f"{path.name}: {f.where}" if f.where else path.name, f.words) for f in _opened(archive)
        )


def _opened(archive: ModelArchive) -> Iterator[Finding]:
    manifest = archive.manifest
    if manifest.runtime == "LSP":
        yield Finding("error", "MANIFEST.json", "runtime LSP: C++ handlers can't be run")
    if not manifest.handler:
        yield Finding("error", "MANIFEST.json", "names no handler; registering must")
    elif (missing := _missing_handler(archive, manifest.handler)) is not None:
        yield Finding("error", "MANIFEST.json", missing)
    if manifest.requirements_file:
        words = "is installed only with install_py_dep_per_model=true, into an environment of the model's own"
        yield Finding("warning", manifest.requirements_file, words)
        yield from _requirements(archive.model_dir / manifest.requirements_file)
    if manifest.serialized_file and manifest.serialized_file.endswith(WEIGHTS):
        yield Finding("note", manifest.serialized_file, "pickled weights run code when they are loaded; safetensors do not")
    for warning in archive.config.warnings:
        yield Finding("warning", manifest.config_file or "", warning)
    for source in sorted(archive.model_dir.rglob("*.py")):
        name = str(source.relative_to(archive.model_dir))
        yield from (Finding(f.level, name, f.words) for f in _imports(source))


def _requirements(path: Path) -> Iterator[Finding]:
    """What the server's own environment has no fitting version of. A handler written for another one may fail in it."""
    for line in path.read_text(errors="replace").splitlines():
        try:
            wanted = Requirement(line.partition("#")[0].strip())
            here = metadata.version(wanted.name)
        except InvalidRequirement:
            continue  # empty, or with options, which an installation refuses
        except metadata.PackageNotFoundError:
            here = "none"
        else:
            if wanted.specifier.contains(here, prereleases=True):
                continue
        if wanted.marker is None or wanted.marker.evaluate():
            yield Finding("warning", path.name, f"{wanted} is asked for; the server's environment has {here}")


def _missing_handler(archive: ModelArchive, handler: str) -> str | None:
    """As a worker would look for it, but for what is inside of installed packages: finding that out runs their code."""
    path = handler.partition(":")[0]
    if own_file(path, str(archive.model_dir)) or path.removesuffix(".py") in READY_MADE:
        return None
    if reason := refusal(path):
        return f"handler {handler}: {reason}"
    package = path.partition(".")[0]
    if package == "ts":
        why = _raises(path) if _known(path) else "not among TorchServe's modules that are provided"
        return f"handler {handler}: {why}" if why else None
    own = (archive.model_dir / package).is_dir() or archive.manifest.requirements_file is not None
    if own or _installed(package):
        return None
    return f"handler {handler}: neither a file of the archive, nor a ready-made handler, nor an installed module"


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _imports(source: Path) -> Iterator[Finding]:
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError) as error:
        yield Finding("error", "", f"Python can't read it: {error}")
        return
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for name in _modules(node):
            if name.split(".")[0] == "ts" and not _known(name):
                yield Finding("error", "", f"line {line}: {name} is not among TorchServe's modules that are provided")
        for name in _modules(node) + _members(node):
            if name.split(".")[0] == "ts" and (reason := _raises(name)):
                yield Finding("error", "", f"line {line}: {name} can't be imported: {reason}")


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def _members(node: ast.AST) -> list[str]:
    """`from ts.torch_handler import vllm_handler` may name modules, too."""
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _known(module: str) -> bool:
    place = _place(module)
    return place.is_dir() or place.with_suffix(".py").is_file()


def _raises(module: str) -> str:
    """What a module of TorchServe's that has no counterpart here says when it is imported."""
    source = _place(module).with_suffix(".py")
    body = ast.parse(source.read_bytes()).body if source.is_file() else []
    raised = (statement.exc for statement in body if isinstance(statement, ast.Raise))
    return next((str(ast.literal_eval(error.args[0])) for error in raised if isinstance(error, ast.Call)), "")


def _place(module: str) -> Path:
    return TS.joinpath(*module.split(".")[1:])
