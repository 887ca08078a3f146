"""`flambeau profile MODEL`: measures how a registered model performs here, and tells the autoscaler.

Only click is imported here: the other commands must not wait for numpy and scipy.
"""

import asyncio
import json
from pathlib import Path

import click
from msgspec.structs import asdict

from .http_client import RequestFailed, Server


@click.command()
@click.argument("model")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Inference address.")
@click.option("--management", default="http://127.0.0.1:8081", show_default=True, help="Management address.")
@click.option(
    "--metrics", default="http://127.0.0.1:8082", show_default=True, help="Metrics address: the worker's clock is better."
)
@click.option(
    "--accelerator", default="cpu", show_default=True, help="What its worker runs on, as autoscaler.yaml names it."
)
@click.option("--batches", default="1,2,4,8,16", show_default=True, help="Requests at once.")
@click.option("--prompts", default="16,64,128,256", show_default=True, help="Prompt lengths of token models.")
@click.option("--tokens", default=40, show_default=True, help="Tokens of each answer.")
@click.option(
    "--repeats", default=10, show_default=True, help="Rounds at most; fewer when the lines are known well before."
)
@click.option(
    "--items", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="No token model: post this file."
)
@click.option("--save/--no-save", default=True, help="Give the result to the server's autoscaler.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the fit into a PNG (needs matplotlib).")
def profile(
    model: str,
    url: str,
    management: str,
    metrics: str,
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
    from .profile_report import as_table, draw
    from .profile_run import Addresses, Wanted, run

    wanted = Wanted(model, accelerator, _numbers(batches), _numbers(prompts), tokens, repeats)
    body = items.read_bytes() if items else None
    try:
        at = Addresses(Server.at(url), Server.at(management), Server.at(metrics))
        result = asyncio.run(run(at, wanted, body, save=save))
    except (OSError, RequestFailed, TimeoutError, ValueError) as error:
        raise click.ClickException(f"{model} can't be profiled: {error}") from None
    click.echo(json.dumps(asdict(result.performance), indent=2) if as_json else as_table(result))
    if plot:
        draw(result, plot)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(each) for each in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text}: not comma-separated numbers") from None
    if min(numbers) < 1 or len(set(numbers)) < 2:
        raise click.BadParameter(f"{text}: at least two different numbers above 0 are needed")
    return numbers
