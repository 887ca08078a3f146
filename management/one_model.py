"""One language model without an archive: a folder of weights or a name on the hub becomes what the server loads.

What is made is an archive in a folder of two small files which point to the weights. Not for: the commands themselves
(`serve_commands`), nor the worker that `flambeau run` asks (`own_worker`).
"""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..archiver.manifest import MANIFEST_PATH, Manifest
from ..archiver.unpack import ARCHIVE_SUFFIXES
from ..handlers.generation import GenerationEvent
from .errors import ManagementError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class NotAModel(ManagementError): ...


@dataclass(frozen=True)
class Named:
    name: str
    path: Path  # an archive


def as_archive(model: str, name: str | None, handler: str | None, section: dict[str, Any], made_in: Path) -> Named:
    """An archive as it is; for weights one is made. NotAModel for what is neither."""
    path = Path(model)
    if path.name.endswith(ARCHIVE_SUFFIXES) or (path / MANIFEST_PATH).is_file():
        if section or handler:
            raise NotAModel(f"{model} is an archive: its own YAML says how it is served")
        if not path.exists():
            raise NotAModel(f"{model}: no such file")
        return Named(name or path.name.split(".")[0], path.resolve())
    if model == "mock":
        section, kind = {"engine": "mock"} | section, "text_generation"
    elif (path / "config.json").is_file():
        section, kind = section | {"model_path": str(path.resolve())}, handler_for(path)
        name = name or (path.resolve().parent.name if path.resolve().name == "model" else path.resolve().name)
    elif HUB_NAME.fullmatch(model.removeprefix("hf://")) and not path.exists():
        section, kind = section | {"model_path": f"hf://{model.removeprefix('hf://')}"}, "text_generation"
    else:
        raise NotAModel(f"{model} is no archive, no folder with a config.json, and no name on the hub (owner/name)")
    name = name or re.sub(r"[^A-Za-z0-9._-]", "-", model.rstrip("/").rpartition("/")[2])
    return Named(name, _write(made_in / name, name, handler or kind, section))


def handler_for(folder: Path) -> str:
    """By the architecture: decoders generate, encoders embed."""
    try:
        architectures = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
    except (ValueError, AttributeError):
        raise NotAModel(f"{folder / 'config.json'} is no JSON object") from None
    decodes = str(architectures[0]).endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    return "text_generation" if decodes else "embedding"


def _write(folder: Path, name: str, handler: str, section: dict[str, Any]) -> Path:
    manifest = Manifest(model_name=name, handler=handler, config_file="model-config.yaml")
    (folder / MANIFEST_PATH).parent.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_PATH).write_text(manifest.dumps())
    (folder / "model-config.yaml").write_text(yaml.safe_dump({"handler": section}))
    return folder.resolve()


class Clock:
    """Tokens a second, from the first one on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: float | None = None
        self._tokens = 0

    def saw(self, event: GenerationEvent) -> None:
        if event.token_ids and self._first is None:
            self._first = time.monotonic()
        self._tokens += len(event.token_ids)

    def __str__(self) -> str:
        if self._first is None:
            return "no tokens"
        decoding = time.monotonic() - self._first
        rate = f", {(self._tokens - 1) / decoding:.0f} tokens/s" if decoding > 0 and self._tokens > 1 else ""
        return f"{self._tokens} tokens, the first after {(self._first - self._began) * 1000:.0f} ms{rate}"
