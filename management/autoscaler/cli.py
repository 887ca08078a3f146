"""`flambeau profile MODEL`: measures how a registered model performs here, and tells the autoscaler.

Only click is imported here: the other commands must not wait for numpy and scipy.
"""

import asyncio
import json
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
from msgspec.structs import asdict

from ..commands import client_for, management_url
from .http_client import RequestFailed, Server

T = TypeVar("T")


@click.command()
@click.argument("model")
@click.option("--inference", "--url", "inference", help="The inference API; that of the server that runs here by default.")
@management_url
@click.option("--metrics", help="Likewise its metrics: the worker's clock is better.")
@click.option(
    "--accelerator", default="cpu", show_default=True, help="What its worker runs on, as autoscaler.yaml names it."
)
@click.option("--batches", default="1,2,4,8,16", show_default=True, help="Requests at once.")
@click.option("--prompts", default="16,64,128,256", show_default=True, help="Prompt lengths of token models.")
@click.option("--tokens", type=click.IntRange(2), default=40, show_default=True, help="Tokens of each answer.")
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Rounds at most; fewer when the lines are known well before.",
)
@click.option(
    "--items", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="No token model: post this file."
)
@click.option("--save/--no-save", default=True, help="Give the result to the server's autoscaler.")
@click.option("--json", "as_json", is_flag=True)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the fit into a PNG (needs the extra plot)."
)
def profile(
    model: str,
    inference: str | None,
    management: str | None,
    metrics: str | None,
    accelerator: str,
    batches: str,
    prompts: str,
    tokens: int,
    repeats: int,
    items: Path | None,
    save: bool,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure a registered MODEL on one worker and fit how long its steps take."""
    from ...optimizer.pictures import NoPicture, figure_type
    from .profile_report import as_table, draw
    from .profile_run import Addresses, Wanted, keep, run

    wanted = Wanted(model, accelerator, _numbers(batches), _numbers(prompts), tokens, repeats)
    body = items.read_bytes() if items else None
    try:
        if plot:
            figure_type()
        ask, manage = client_for("inference", inference), client_for("management", management)
        at = Addresses(
            Server.at(ask.inference, ask.token),
            Server.at(manage.management, manage.token),
            Server.at(metrics or ask.metrics),
        )
        result = asyncio.run(_until_told_to_stop(run(at, wanted, body)))
        click.echo(json.dumps(asdict(result.performance), indent=2) if as_json else as_table(result))
        if plot:
            draw(result, plot)
        if save and not asyncio.run(keep(at.management, result.performance)):
            click.echo("The server has no autoscaler, which would keep this.", err=True)
    except NoPicture as error:
        raise click.ClickException(str(error)) from None
    except (OSError, RequestFailed, ValueError) as error:
        raise click.ClickException(f"{model} can't be profiled: {error or 'it takes too long to answer'}") from None
    except asyncio.CancelledError:
        raise click.ClickException(f"{model} is not profiled: stopped by SIGTERM; its workers are as they were") from None


async def _until_told_to_stop(work: Coroutine[Any, Any, T]) -> T:
    """SIGTERM cancels it, as Ctrl-C does, so that it can put back what it changed."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(each) for each in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text}: not comma-separated numbers") from None
    if min(numbers) < 1 or len(set(numbers)) < 2:
        raise click.BadParameter(f"{text}: at least two different numbers above 0 are needed")
    return numbers
