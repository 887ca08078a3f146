"""A servable, a checkpoint and overrides, written out as a model folder that any worker can load.

The folder is what is registered, so a published model is an archive like all others. What the HTTP side must know of it
stands in the `sax` section of its YAML. Not for: registering it, which is `host`'s.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...archiver.errors import ArchiveError
from ...archiver.fetch import download, is_allowed
from ...archiver.manifest import MANIFEST_PATH, Manifest
from ...archiver.model_config import read_model_config
from ...archiver.unpack import open_archive, read_manifest
from . import overrides
from .errors import SaxError
from .messages import Order
from .servables import LM_METHODS, Servable

YAML = "model-config.yaml"
NO_CHECKPOINT = "None"
TINY_MODEL = Path(__file__).parents[2] / "examples" / "tiny_lm" / "model"


def deploy(servable: Servable, key: str, name: str, order: Order, folder: Path, allowed_urls: tuple[str, ...] = ()) -> Path:
    """`folder`/<name>/<revision>, replaced if it is there; SaxError when the order can't be met."""
    target = folder / name / str(order.revision)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _write(servable, key, name, order, target, folder, Source(folder / "checkpoints", name, allowed_urls))
    except ArchiveError as error:
        raise SaxError("Internal", f"Loading error: {error}") from None
    except OSError as error:
        raise SaxError("Internal", f"Loading error: {error.strerror}") from None


@dataclass(frozen=True)
class Source:
    """Where checkpoints come from."""

    folder: Path  # of those that were fetched
    name: str  # of the model, as it is registered here
    allowed_urls: tuple[str, ...]


def _write(servable: Servable, key: str, name: str, order: Order, target: Path, folder: Path, source: Source) -> Path:
    checkpoint = _located(order.checkpoint, source)
    if servable.archive is None:
        target.mkdir(mode=0o700)
        manifest = Manifest(model_name=name, handler=servable.handler)
        settings = overrides.merge(servable.settings, order.overrides, path=servable.path)
        if not checkpoint and settings["HF_MODEL_PATH"]:
            settings["HF_MODEL_PATH"] = _located(settings["HF_MODEL_PATH"], source)
        document = language_model(settings, checkpoint)
    else:
        manifest, document = _copied(servable.archive, target, folder)
        section = document.get("sax")
        said: dict[str, Any] = section if isinstance(section, dict) else {}
        settings = overrides.merge(said.get("settings", {}), order.overrides, path=servable.path)
        document["sax"] = {"methods": ["custom"]} | said | {"settings": settings}
        if "MAX_LIVE_BATCHES" in settings:
            document["sax"]["limit"] = admitted(settings, int(document.get("batchSize", 1)))
    document["sax"] |= {
        "key": key,
        "path": order.path,
        "checkpoint": checkpoint,
        "asked": order.checkpoint,
        "overrides": order.overrides,
        "dormant_after": overrides.dormant_after(order.overrides),
        "uuid": order.uuid,
        "revision": order.revision,
        "attempt": order.attempt,
    }
    document["sax"].setdefault("methods", list(servable.methods))
    written = {**manifest.as_json()}
    written["model"] |= {"modelName": name, "modelVersion": str(order.revision), "configFile": YAML}
    (target / "MAR-INF").mkdir(exist_ok=True)
    _replace(target / MANIFEST_PATH, json.dumps(written, indent=2))
    _replace(target / YAML, yaml.safe_dump(document, sort_keys=False))
    return target


def language_model(settings: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """The YAML of a text model: Sax's settings in our engine's words."""
    rows, steps = max(settings["BATCH_SIZE"]), max(settings["MAX_DECODE_STEPS"])
    limit = admitted(settings, rows)
    model = checkpoint or settings["HF_MODEL_PATH"]
    engine = settings["ENGINE"]
    if not model:
        model = str(TINY_MODEL)
        if engine == "auto" and not (TINY_MODEL / "config.json").is_file():
            engine = "mock"
    handler: dict[str, Any] = {
        "engine": engine,
        "max_batch_rows": rows,
        "num_gpu_per_model": settings["TENSOR_PARALLEL_SIZE"],
    }
    if engine != "mock":
        handler |= {"model_path": model, "dtype": settings["DTYPE"]}
    if model == str(TINY_MODEL):
        handler["threads"] = 1  # more of them only wait for each other
    if settings["INPUT_SEQ_LEN"]:
        handler["max_model_len"] = settings["INPUT_SEQ_LEN"] + steps
    extra = {
        "temperature": settings["TEMPERATURE"],
        "per_example_max_decode_steps": min(settings["MAX_TOKENS"], steps),
        "per_example_top_k": 0,
        "per_example_top_p": settings["TOP_P"],
        "seed": 0 if settings["DETERMINISTIC_RNG"] else None,
        "stop": "",
    }
    sax = {
        "extra_inputs": extra | settings["EXTRA_INPUTS"],
        "samples": settings["NUM_SAMPLES"],
        "top_k": max(0, settings["TOP_K"]),
        "max_steps": steps,
        "include_prefix": settings["INCLUDE_PREFIX_IN_RESULT"],
        "limit": limit,
    }
    return {"jobQueueSize": limit * len(LM_METHODS), "handler": handler, "sax": sax}


def admitted(settings: Mapping[str, Any], batch: int) -> int:
    """How many requests of one method may be under way."""
    return max(1, batch * int(settings["MAX_LIVE_BATCHES"]))


def _located(checkpoint: str, source: Source) -> str:
    """A path of this machine or hf://…; empty for "None". What lies elsewhere must be allowed, and is fetched."""
    if checkpoint == NO_CHECKPOINT:
        return ""
    is_hub_id = checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/")) and not Path(checkpoint).exists()
    url = f"hf://{checkpoint}" if is_hub_id else checkpoint
    scheme, colon, rest = url.partition("://")
    if not colon:
        return str(Path(checkpoint).absolute())
    if scheme == "file":
        return "/" + rest.lstrip("/")
    if not is_allowed(url, source.allowed_urls):
        # What else a checkpoint's name may hold stands for itself, or for any character.
        pattern = re.sub(r"[+|]", ".", url)
        raise SaxError(
            "FailedPrecondition", f"checkpoint {url}: this machine's config.properties lacks allowed_urls={pattern}"
        )
    return url if scheme == "hf" else str(_fetched(url, source))


def _fetched(url: str, source: Source) -> Path:
    """Once: a checkpoint that is complete here is not fetched again."""
    readable = re.sub(r"[^\w.-]+", "_", url)[-80:]
    target = source.folder / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    next_ = target.with_name(f"{target.name}.{source.name}.next")  # one task fetches for a model
    if target.exists():
        return target
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove(next_)
    try:
        if url.startswith(("http://", "https://")):
            download(url, next_, source.allowed_urls)
        else:
            _copy_by_fsspec(url, next_)
        if not target.exists():  # another model may have fetched it meanwhile
            os.replace(next_, target)
    finally:
        _remove(next_)
    return target


def _copy_by_fsspec(url: str, target: Path) -> None:
    try:
        import fsspec

        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SaxError(
            "FailedPrecondition", f"checkpoint {url}: needs fsspec and its driver for this scheme ({error})"
        ) from None
    try:
        files.get(path, str(target), recursive=True)
    except Exception as error:  # drivers raise what their transports raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SaxError("Internal", f"Loading error: checkpoint {url} can not be fetched: {cause}") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _copied(archive: Path, target: Path, folder: Path) -> tuple[Manifest, dict[str, Any]]:
    """The archive's files, linked where they can be: only manifest and YAML become ours."""
    source = archive
    if not archive.is_dir():
        source = open_archive(archive, folder / "unpacked").model_dir
    shutil.copytree(source, target, copy_function=_link)
    manifest = read_manifest(target)
    config = target / manifest.config_file if manifest.config_file else None
    raw = read_model_config(config).raw if config and config.is_file() else {}
    return manifest, dict(raw)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _replace(path: Path, text: str) -> None:
    """Never through a link: the linked file is somebody else's."""
    path.unlink(missing_ok=True)
    path.write_text(text)
