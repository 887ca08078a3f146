"""`flambeau optimizer …` and `flambeau simulate`: the commands. What computes is imported when a command runs.

The other commands must not wait for numpy and scipy, so only click is imported here.
"""

import os
from pathlib import Path

import click

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def optimizer() -> None:
    """How many replicas of which model on which accelerator."""


@optimizer.command()
@click.option("-F", "--full-state", "stateful", is_flag=True, help="Let clients build the system piece by piece.")
@click.option("--host", help="Default: INFERNO_HOST, or localhost.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: INFERNO_PORT, or 8080.")
@click.option(
    "--allowed-hosts", envvar="INFERNO_ALLOWED_HOSTS", default="",
    help="Host headers that are answered besides loopback names, comma-separated; *: all.",
)  # fmt: skip
def serve(stateful: bool, host: str | None, port: int | None, allowed_hosts: str) -> None:
    """Serve the optimizer's REST; its page is at /docs."""
    from .server import address, serve

    try:
        default_host, default_port = address(os.environ)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    names = [name.strip() for name in allowed_hosts.split(",") if name.strip()]
    serve(host or default_host, default_port if port is None else port, stateful=stateful, allowed_hosts=names)


@optimizer.command()
@click.argument("system", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print what the REST would answer.")
@click.option("--exact", is_flag=True, help="Use the exact solver, and serve by priority whom it can.")
@click.option("--heterogeneous", is_flag=True, help="With --exact: let several accelerators share a server.")
@click.option("--unlimited", is_flag=True, help="As if capacity had no end.")
@click.option("--explain", is_flag=True, help="Say of each accelerator why or why not.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into a PNG (needs the extra plot)."
)
@click.option("--what-if", type=FILE, help="Another system: what would change from the first to it.")
def solve(
    system: Path,
    as_json: bool,
    exact: bool,
    heterogeneous: bool,
    unlimited: bool,
    explain: bool,
    picture: Path | None,
    what_if: Path | None,
) -> None:
    """Allocate for a system in a file: the same JSON which /optimizeOne takes."""
    from . import report
    from .milp import SolverError
    from .pictures import NoPicture, figure_type
    from .wire import WireError

    options = {"milp_solver": exact, "partial": exact or None, "heterogeneous": heterogeneous, "unlimited": unlimited}
    given = {name: value for name, value in options.items() if value}
    try:
        if picture:
            figure_type()
        solved = report.solve_file(system, given, explain=explain)
        other = report.solve_file(what_if, given) if what_if else None
        if other and as_json:
            click.echo(report.as_difference(solved, other))
        elif other:
            report.print_difference(solved, other)
        elif as_json:
            click.echo(report.as_json(solved))
        else:
            report.print_tables(solved)
        if picture:
            report.draw(solved, picture)
    except (WireError, SolverError, NoPicture) as error:
        raise click.ClickException(str(error)) from None


@click.command()
@click.argument("traces", type=FILE)
@click.argument("system", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print figures as JSON.")
@click.option("--seed", default=1, show_default=True, help="Of what the traces leave open.")
def simulate(traces: Path, system: Path, as_json: bool, seed: int) -> None:
    """Replay request traces against what the optimizer gives each server, and compare with its predictions.

    TRACES is a CSV with the columns server, arrival (seconds), in_tokens, out_tokens.
    """
    from . import simulation_report
    from .milp import SolverError
    from .wire import WireError

    try:
        click.echo(simulation_report.run(traces, system, seed=seed, as_json=as_json))
    except (WireError, SolverError, simulation_report.TraceError) as error:
        raise click.ClickException(str(error)) from None
