"""The command `torchserve`, which behaves as the original: same options, same messages, same pid file.

Unlike it, SIGTERM to `--foreground` stops everything, and `--start` returns when the server serves.
"""

import sys

from .. import __version__
from . import launcher
from .errors import StartError
from .startup import parser


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = parser("torchserve").parse_args(given)
    if options.version:
        print(f"TorchServe Version is 0.12.0 (Flambeau {__version__})")
        return 0
    if options.stop:
        print("TorchServe has stopped." if launcher.stop() else "TorchServe is not currently running.")
        return 0
    if launcher.running_pid() is not None:
        print("TorchServe is already running, please use torchserve --stop to stop TorchServe.")
        return 1
    rest = [argument for argument in given if argument not in ("--start", "--foreground")]
    if options.foreground:
        launcher.become(rest)
    try:
        launcher.start(rest)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    print("TorchServe has started.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
