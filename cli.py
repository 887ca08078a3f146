"""The command `flambeau`: what each room offers on the command line, in one place."""

import click

from . import __version__
from .frontend.gateway_cli import proxy
from .management.autoscaler.cli import profile
from .management.autoscaler.controller import control
from .management.cell.commands import COMMANDS as CELL_COMMANDS
from .management.commands import COMMANDS
from .management.serve_commands import COMMANDS as ONE_MODEL
from .management.trial import try_
from .optimizer.cli import optimizer, simulate


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Serve PyTorch models."""


for command in (*COMMANDS, *CELL_COMMANDS, *ONE_MODEL, control, optimizer, profile, proxy, simulate, try_):
    main.add_command(command)
