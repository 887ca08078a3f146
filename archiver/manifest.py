"""MANIFEST.json: what an archive says of itself. Written by `pack`, read by everybody else."""

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from .errors import InvalidModel

MANIFEST_PATH = "MAR-INF/MANIFEST.json"
ARCHIVER_VERSION = "0.12.0"  # of torch-model-archiver, whose format this is
DEFAULT_VERSION = "1.0"
RUNTIMES = ("python", "python3", "LSP")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Manifest:
    model_name: str | None = None
    handler: str | None = None  # `file.py`, `file:function`, or the name of a built-in handler
    model_version: str = DEFAULT_VERSION
    serialized_file: str | None = None  # the weights
    model_file: str | None = None  # the network's Python file
    requirements_file: str | None = None
    config_file: str | None = None  # the model's YAML
    runtime: str = "python"
    created_on: str = ""
    archiver_version: str = ARCHIVER_VERSION

    def named(self, name: str | None, handler: str | None) -> "Manifest":
        """The same with what a registration overrides; InvalidModel when name or handler are still unknown."""
        made = replace(self, model_name=name or self.model_name, handler=handler or self.handler)
        if not made.model_name:
            raise InvalidModel("Model name is not defined.")
        if not NAME.fullmatch(made.model_name):
            raise InvalidModel(f"Model name {made.model_name!r} is not made of letters, digits, '.', '_' and '-'.")
        if not made.handler:
            raise InvalidModel("Model handler is not defined.")
        return made

    def as_json(self) -> dict[str, Any]:
        model = {
            "modelName": self.model_name,
            "serializedFile": self.serialized_file,
            "handler": self.handler,
            "modelFile": self.model_file,
            "modelVersion": self.model_version,
            "requirementsFile": self.requirements_file,
            "configFile": self.config_file,
        }
        return {
            "createdOn": self.created_on,
            "runtime": self.runtime,
            "model": {key: value for key, value in model.items() if value is not None},
            "archiverVersion": self.archiver_version,
        }

    def dumps(self) -> str:
        return json.dumps(self.as_json(), indent=2)


def created_now() -> str:
    return datetime.now().strftime("%d/%m/%Y %H:%M:%S")


def parse_manifest(text: bytes | str) -> Manifest:
    """InvalidModel when it is no JSON object of the right shape. Unknown keys are left alone."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidModel("Failed to parse signature.json.") from None
    model = document.get("model", {}) if isinstance(document, dict) else None
    if not isinstance(model, dict):
        raise InvalidModel("The manifest has no object `model`.")
    runtime = document.get("runtime") or "python"
    if runtime not in RUNTIMES:
        raise InvalidModel(f"Invalid RuntimeType value: {runtime}")
    manifest = Manifest(
        model_name=_text(model, "modelName"),
        handler=_text(model, "handler"),
        model_version=_text(model, "modelVersion") or DEFAULT_VERSION,
        serialized_file=_text(model, "serializedFile"),
        model_file=_text(model, "modelFile"),
        requirements_file=_text(model, "requirementsFile"),
        config_file=_text(model, "configFile"),
        runtime=runtime,
        created_on=_text(document, "createdOn") or "",
        archiver_version=_text(document, "archiverVersion") or "",
    )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", manifest.model_version):
        raise InvalidModel(
            f"Model version {manifest.model_version!r} is not made of letters, digits, '.', '_', '+' and '-'."
        )
    return manifest


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or re.search("[\0\ud800-\udfff]", value):  # halves of letters, which nothing can send on
        raise InvalidModel(f"The manifest's {key} is no text.")
    return value
