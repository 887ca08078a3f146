"""The command `flambeau`."""

import click

from . import __version__
from .frontend.gateway_cli import proxy
from .optimizer.cli import optimizer, simulate


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Serve PyTorch models."""


main.add_command(optimizer)
main.add_command(proxy)
main.add_command(simulate)
