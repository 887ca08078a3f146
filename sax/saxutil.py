"""The command `saxutil`: `saxutil <flags> <command> <flags> <arguments>`, as the original speaks.

Results go to standard output, everything else to standard error. Exit status: 0 done, 1 failed, 2 misused.
"""

import logging
import sys
from typing import TextIO

from ..management.cell.errors import SaxError
from .commands import CELL_COMMANDS, Call, Command
from .flags import Flag, HelpAsked, UsageError, parse, seconds
from .methods import METHOD_COMMANDS

GLOBAL = (
    Flag("sax_root", "", "Where cells are found; the variable SAX_ROOT when not given."),
    Flag("sax_timeout", "60s", "How long a command may take."),
    Flag("alsologtostderr", False, "Accepted."),
    Flag("v", 0, "Accepted."),
)
HINT = """
Hint: a command may take 60s; -sax_timeout=5m before the command's name gives it more. A model that was just published may
still be loading: `saxutil ls <model ID>` shows a replica address when it is loaded."""


def commands() -> dict[str, Command]:
    found = sorted((*CELL_COMMANDS, *METHOD_COMMANDS), key=lambda command: command.name)
    return {command.name: command for command in found}


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    given = sys.argv[1:] if arguments is None else arguments
    try:
        flags, rest = parse(given, GLOBAL)
        timeout = seconds(flags["sax_timeout"])
    except HelpAsked:
        overview(sys.stdout)
        return 0
    except UsageError as error:
        print(error, file=sys.stderr)
        overview(sys.stderr)
        return 2
    if not rest:
        overview(sys.stderr)
        return 2
    name, *words = rest
    if name in ("help", "flags", "commands"):
        return explain(name, words)
    if name not in commands():
        overview(sys.stderr)
        return 2
    return run(commands()[name], words, flags["sax_root"] or None, timeout)


def run(command: Command, words: list[str], root: str | None, timeout: float) -> int:
    try:
        flags, args = parse(words, command.flags)
        if not command.least <= len(args) <= command.most:
            raise UsageError(command.complaint)
        command.run(Call(flags, args, root, timeout))
    except HelpAsked:
        usage(command, sys.stdout)
        return 0
    except UsageError as error:
        print(error, file=sys.stderr)
        usage(command, sys.stderr)
        return 2
    except SaxError as error:
        print(f"{error.code}: {error.text}", file=sys.stderr)
        print(HINT, file=sys.stderr)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


def explain(name: str, words: list[str]) -> int:
    if name == "flags":
        _flags(GLOBAL, sys.stdout)
    elif name == "commands":
        print("\n".join(sorted([*commands(), "commands", "flags", "help"])))
    elif words and words[0] in commands():
        usage(commands()[words[0]], sys.stdout)
    elif words and words[0] not in ("help", "flags", "commands"):
        print(f"Subcommand {words[0]} not understood", file=sys.stderr)
        return 2
    else:
        overview(sys.stdout)
    return 0


def overview(to: TextIO) -> None:
    print("Usage: saxutil <flags> <subcommand> <subcommand args>\n\nSubcommands:", file=to)
    built_in = {"commands": "list all command names", "flags": "describe all known top-level flags",
                "help": "describe subcommands and their syntax"}  # fmt: skip
    synopses = built_in | {name: command.synopsis for name, command in commands().items()}
    for name, synopsis in sorted(synopses.items()):
        print(f"\t{name:<17}{synopsis}", file=to)
    print('\n\nUse "saxutil flags" for a list of top-level flags', file=to)


def usage(command: Command, to: TextIO) -> None:
    print(f"{command.usage}:\n\t{command.synopsis}", file=to)
    _flags(command.flags, to)


def _flags(flags: tuple[Flag, ...], to: TextIO) -> None:
    for flag in flags:
        default = f" (default {flag.default})" if flag.default not in ("", False, 0, None) else ""
        print(f"  -{flag.name}\n    \t{flag.words}{default}", file=to)


if __name__ == "__main__":
    sys.exit(main())
