"""`import ts` in old handlers: TorchServe's names, found in `compat/ts`, and only by who asks for them.

A module `ts` in the model's own folder goes first. Not for: the names themselves.
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
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
