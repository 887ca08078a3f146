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

ROOMS: dict[str, tuple[click.Command, ...]] = {
    "A server of models": COMMANDS,
    "One model": (*ONE_MODEL, try_),
    "A cell of machines": CELL_COMMANDS,
    "How many workers": (profile, optimizer, simulate, control),
    "In front of it": (proxy,),
}


class Rooms(click.Group):
    """`--help` lists the commands room by room, each with its whole first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in ROOMS.items():
            with formatter.section(title):
                formatter.write_dl([(command.name or "", command.get_short_help_str(limit=200)) for command in commands])


@click.group(cls=Rooms)
@click.version_option(__version__)
def main() -> None:
    """Serve PyTorch models."""


for commands in ROOMS.values():
    for command in commands:
        main.add_command(command)
