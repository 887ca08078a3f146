"""The command `flambeau`."""

import click

from . import __version__
from .optimizer.cli import optimizer, simulate


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Serve PyTorch models."""


main.add_command(optimizer)
main.add_command(simulate)
