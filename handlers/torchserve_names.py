"""`import ts` in old handlers: TorchServe's names, found in `compat/ts`, and only by who asks for them.

A module `ts` in the model's own folder goes first. What a handler starts finds the names as it does: processes of
multiprocessing get its import path, others PYTHONPATH. Not for: the names themselves.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

HOME = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compat")


class Finder:
    """Asked before the import path is: an installed TorchServe would speak to a server which is not there."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "ts":
            return None
        return PathFinder.find_spec("ts", [sys.path[0], HOME])


def install() -> None:
    """In a worker, whose import path begins with the model's folder."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
        sys.path.insert(1, HOME)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), HOME)))


def offer() -> None:
    """In the tests of old handlers, for a conftest.py: `ts` is ours where no TorchServe is installed."""
    if HOME not in sys.path:
        sys.path.append(HOME)
