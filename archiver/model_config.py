"""The model's YAML (`--config-file`): the frontend's keys typed, everything kept for the handler.

A wrong type or an unknown key is a warning, never an error: handlers put keys of their own here. What is refused is a
file that could hurt the server: too large, aliases that multiply, tags that make objects.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml

from . import safe_yaml
from .errors import InvalidModel

MAX_BYTES = 1 << 20
MAX_NUMBER = 2**31 - 1
MAX_RANKS = 64


@dataclass(frozen=True)
class ModelConfig:
    """None: the file does not say. Times as the file has them: seconds, or milliseconds where the name says so."""

    minWorkers: int | None = None
    maxWorkers: int | None = None
    batchSize: int | None = None
    maxBatchDelay: int | None = None  # milliseconds
    responseTimeout: int | None = None
    startupTimeout: int | None = None
    deviceType: str | None = None
    deviceIds: list[int] | None = None
    parallelType: str | None = None
    parallelLevel: int | None = None
    torchrun: dict[str, Any] | None = None
    maxRetryTimeoutInSec: int | None = None
    clientTimeoutInMills: int | None = None
    jobQueueSize: int | None = None
    useJobTicket: bool | None = None
    useVenv: bool | None = None
    continuousBatching: bool | None = None
    sequenceBatching: bool | None = None
    sequenceMaxIdleMSec: int | None = None
    sequenceTimeoutMSec: int | None = None
    maxSequenceJobQueueSize: int | None = None
    maxNumSequence: int | None = None
    asyncCommunication: bool | None = None
    raw: dict[str, Any] = field(default_factory=dict)  # the whole document: ctx.model_yaml_config
    warnings: tuple[str, ...] = ()
    given: bool = False  # there was a file: TorchServe resets the timeouts that it does not say


KINDS: dict[str, type] = {
    name: next(
        kind
        for kind in (bool, str, int, list, dict)
        if str(annotation).startswith((kind.__name__, f"<class '{kind.__name__}"))
    )
    for name, annotation in get_type_hints(ModelConfig).items()
    if name not in ("raw", "warnings", "given")
}
WITHOUT_EFFECT = {  # TorchServe's, each with what happens instead
    "useVenv": "requirements are always installed into an environment of the model's own",
    "sequenceMaxIdleMSec": "nothing is kept for a sequence that could be idle",
    "sequenceTimeoutMSec": "nothing is kept for a sequence that could time out",
    "maxNumSequence": "sequences are not limited in number",
    "maxSequenceJobQueueSize": "the requests of sequences wait in the model's queue, which jobQueueSize bounds",
    "asyncCommunication": "no link to a worker ever blocks",
}


def read_model_config(path: Path) -> ModelConfig:
    """InvalidModel when the file is no YAML mapping that we would read."""
    if path.stat().st_size > MAX_BYTES:
        raise InvalidModel(f"The model's YAML is larger than {MAX_BYTES} bytes.")
    return parse_model_config(path.read_bytes())


def parse_model_config(text: bytes | str) -> ModelConfig:
    try:
        document = safe_yaml.load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        detail = f"line {where.line + 1}: {getattr(error, 'problem', '')}" if where else str(error)
        raise InvalidModel(f"The model's YAML can't be read: {detail}") from None
    if document is None:
        return ModelConfig(given=True)
    if not isinstance(document, dict):
        raise InvalidModel("The model's YAML is no mapping.")
    _require_sendable(document)
    _require_ranks(document.get("torchrun"))
    taken: dict[str, Any] = {}
    warnings: list[str] = []
    for key, value in document.items():
        if key not in KINDS:
            if isinstance(key, str) and key.lower() in {k.lower() for k in KINDS}:
                warnings.append(f"{key} is not known; is {next(k for k in KINDS if k.lower() == key.lower())} meant?")
        elif value is None or not isinstance(value, KINDS[key]) or (KINDS[key] is int and isinstance(value, bool)):
            warnings.append(f"{key}: {value!r} is not of type {KINDS[key].__name__} and is ignored")
        elif isinstance(value, int) and value < 0:
            warnings.append(f"{key}: {value} is negative and is ignored")
        elif isinstance(value, int) and value > MAX_NUMBER:
            warnings.append(f"{key}: {value} is more than {MAX_NUMBER} and is ignored")
        else:
            taken[key] = value
            if value and key in WITHOUT_EFFECT:
                warnings.append(f"{key} has no effect: {WITHOUT_EFFECT[key]}")
    return ModelConfig(**taken, raw=document, warnings=tuple(warnings), given=True)


def _require_sendable(document: dict[Any, Any]) -> None:
    """Every process reads it in the routing table: a file which can't stand there must not come so far."""
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(document), type=dict[str, Any])
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise InvalidModel(f"The model's YAML holds what no setting can be: {error}") from None


def _require_ranks(torchrun: object) -> None:
    """Each worker starts so many processes."""
    ranks = torchrun.get("nproc-per-node", 1) if isinstance(torchrun, dict) else 1
    if not isinstance(ranks, int) or not 1 <= ranks <= MAX_RANKS:
        raise InvalidModel(f"torchrun: nproc-per-node: {ranks!r} is no number from 1 to {MAX_RANKS}.")
