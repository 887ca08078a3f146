"""One language model without an archive: a folder of weights or a name on the hub becomes what the server loads.

What is made is an archive in a folder of two small files which point to the weights. Also a worker of one's own, asked
over its link, for `flambeau run`. Not for: the commands themselves (`serve_commands`).
"""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..archiver.manifest import MANIFEST_PATH, Manifest
from ..archiver.unpack import open_archive
from ..handlers.generation import GenerationEvent, GenerationRequest
from ..handlers.protocol import EndHead, Kind, Reader, RequestHead, ResponseHead, WorkerConfig, pack
from .errors import ManagementError
from .processes import Children, LoadFailed, child_environment, start_worker, unused

ARCHIVES = (".mar", ".tar.gz", ".tgz")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
LOAD_SECONDS = 3600.0  # the hub may be slow, and the model large


class NotAModel(ManagementError): ...


class RunFailed(ManagementError): ...


@dataclass(frozen=True)
class Named:
    name: str
    path: Path  # an archive


def as_archive(model: str, name: str | None, handler: str | None, section: dict[str, Any], made_in: Path) -> Named:
    """An archive as it is; for weights one is made. NotAModel for what is neither."""
    path = Path(model)
    if path.name.endswith(ARCHIVES) or (path / MANIFEST_PATH).is_file():
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


class OwnWorker:
    """A loaded worker that nobody else asks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def generate(self, wanted: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """RunFailed with the model's words when it refuses or breaks off."""
        body = msgspec.msgpack.encode(wanted)
        self._writer.write(pack(Kind.REQUEST, 1, RequestHead("generate", "run", []), body))
        frames = Reader()
        while data := await self._reader.read(65536):
            for frame in frames.feed(data):
                if frame.kind == Kind.RESPONSE:
                    head = frame.head(ResponseHead)
                    raise RunFailed(bytes(frame.body).decode(errors="replace") or f"status {head.status}")
                if frame.kind == Kind.CHUNK:
                    event = msgspec.msgpack.decode(frame.body, type=GenerationEvent)
                    if event.error:
                        raise RunFailed(event.error)
                    yield event
                if frame.kind == Kind.END:
                    if error := frame.head(EndHead).error:
                        raise RunFailed(error)
                    return
        raise RunFailed("the model's process has ended")


@asynccontextmanager
async def own_worker(
    model: Named, folder: Path, on_line: Callable[[str, str], None] = unused
) -> AsyncGenerator[OwnWorker, None]:
    """A worker with the model loaded; it ends with the block. RunFailed with the cause when it can't be loaded."""
    archive = open_archive(model.path, folder / "models")
    children, address = Children(), folder / "worker.sock"
    config = WorkerConfig(
        worker_id="run",
        model=model.name,
        version=archive.manifest.model_version,
        model_dir=str(archive.model_dir),
        handler=archive.manifest.handler or "",
        listen=f"unix:{address}",
        manifest=archive.manifest.as_json(),
        model_yaml=archive.config.raw,
    )
    try:
        process = await start_worker(children, config, child_environment(os.environ), on_line, unused)
        try:
            await process.loaded(LOAD_SECONDS)
        except LoadFailed as error:
            raise RunFailed(str(error)) from None
        reader, writer = await asyncio.open_unix_connection(str(address))
        try:
            yield OwnWorker(reader, writer)
        finally:
            writer.close()
            await process.stop(5)
    finally:
        children.kill_all()


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
