"""`flambeau serve MODEL` and `flambeau run MODEL "prompt"`: a language model in one command each."""

import asyncio
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..handlers.generation import GenerationRequest, Message, SamplingParams
from . import launcher
from .errors import ManagementError
from .one_model import Clock, Named, as_archive
from .own_worker import own_worker

F = TypeVar("F", bound=Callable[..., Any])
TAIL_LINES = 20  # of the model's own output, shown when it can't be loaded


def model_options(command: F) -> F:
    """What both commands take; each becomes a key of the `handler:` section."""
    for option in reversed(
        [
            click.argument("model"),
            click.option("--handler", help="text_generation, chat, embedding, …; by the architecture when not given."),
            click.option("--engine", help="auto, fused, hf, static, mock or vllm."),
            click.option("--dtype", help="float32, bfloat16 or float16; as the weights say when not given."),
            click.option("--quantize", help="int8, nf4 or fp4."),
            click.option("--max-model-len", type=int, help="Positions; what the model was made for when not given."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@model_options
@click.option("--name", help="What requests call it; the folder's or the archive's name when not given.")
@click.option("--rows", "max_batch_rows", type=int, help="Sequences that decode together.")
@click.option("--workers", default=1, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, help="Of inference; management and metrics take the next two.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Any setting of the server; may be repeated.")
def serve(
    model: str,
    name: str | None,
    handler: str | None,
    workers: int,
    host: str,
    port: int,
    pairs: tuple[str, ...],
    **section: Any,
) -> None:
    """Serve MODEL: a folder of weights, a name on the hub (owner/name), an archive, or `mock`."""
    if launcher.running_pid() is not None:
        raise click.ClickException("a server runs already; `flambeau stop` ends it")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flambeau" / "served"
    found = _archive(model, name, handler, section, folder)
    settings = {
        "inference_address": f"http://{host}:{port}",
        "management_address": f"http://127.0.0.1:{port + 1}",
        "metrics_address": f"http://127.0.0.1:{port + 2}",
        "grpc_inference_port": "0",  # who wants gRPC says so with --set
        "default_workers_per_model": str(workers),
    }
    arguments = ["--ncs", "--models", f"{found.name}={found.path}"]
    for pair in (*(f"{key}={value}" for key, value in settings.items()), *pairs):
        arguments += ["--set", pair]
    click.echo(_first_screen(found.name, f"http://{host}:{port}"), err=True)
    launcher.become(arguments)


@click.command()
@model_options
@click.argument("prompt")
@click.option("--chat", is_flag=True, help="The prompt is a user's turn, by the model's chat template.")
@click.option("--max-tokens", default=128, show_default=True)
@click.option("--temperature", default=0.8, show_default=True, help="0: the likeliest token, always.")
@click.option("--top-p", default=0.95, show_default=True)
@click.option("--seed", type=int)
def run(
    model: str,
    prompt: str,
    handler: str | None,
    chat: bool,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    **section: Any,
) -> None:
    """Print what MODEL makes of PROMPT, token by token; no server is needed. MODEL is as for `serve`."""
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    asked = {"messages": [Message(role="user", content=prompt)]} if chat else {"prompt": prompt}
    with tempfile.TemporaryDirectory(prefix="flambeau-run-") as made:
        found = _archive(model, None, handler, section, Path(made))
        try:
            asyncio.run(_run(found, Path(made), GenerationRequest(**asked, sampling=sampling)))  # type: ignore[arg-type]
        except ManagementError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            sys.exit(130)


async def _run(model: Named, folder: Path, wanted: GenerationRequest) -> None:
    """The text goes to standard output, everything else to standard error."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    began = time.monotonic()
    click.echo(f"loading {model.name} …", err=True)
    try:
        async with own_worker(model, folder, lambda stream, line: tail.append(line)) as worker:
            click.echo(f"loaded in {time.monotonic() - began:.1f} s", err=True)
            clock = Clock()
            async for event in worker.generate(wanted):
                clock.saw(event)
                click.echo(event.text, nl=False)
            click.echo()
            click.echo(str(clock), err=True)
    except ManagementError:
        for line in tail:
            click.echo(line, err=True)
        raise


def _archive(model: str, name: str | None, handler: str | None, section: dict[str, Any], folder: Path) -> Named:
    given = {key: value for key, value in section.items() if value is not None}
    try:
        return as_archive(model, name, handler, given, folder)
    except ManagementError as error:
        raise click.ClickException(str(error)) from None


def _first_screen(name: str, url: str) -> str:
    return "\n".join(
        [
            f"OpenAI clients: base_url={url}/v1 model={name}",
            f'  curl {url}/v1/completions -d \'{{"model": "{name}", "prompt": "Once", "max_tokens": 20}}\'',
            "",
        ]
    )


COMMANDS = (serve, run)
