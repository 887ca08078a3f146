"""Fault points for tests: FLAMBEAU_FAULT=`name:n` kills this process at the n-th passing of the point `name`.

A no-op when the variable is unset. So a test can die at every single step of a write, one after the other, and look at
what a restart finds.
"""

import os
import signal
from collections import Counter

_passed: Counter[str] = Counter()


def point(name: str) -> None:
    wanted = os.environ.get("FLAMBEAU_FAULT")
    if not wanted:
        return
    _passed[name] += 1
    if wanted == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)
