"""`python -m flambeau` is the command `flambeau`."""

from .cli import main

main()
