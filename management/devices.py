"""Which accelerators this machine has, and which worker gets which. No torch here: the kernel's device files tell."""

import os
import re
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

DEVICE = re.compile(r"nvidia\d+")


def count_gpus(devices: Path = Path("/dev")) -> int:
    """NVIDIA's, or none."""
    return sum(1 for path in devices.glob("nvidia[0-9]*") if DEVICE.fullmatch(path.name))


def visible_gpus(environ: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """As many as there are, unless CUDA_VISIBLE_DEVICES shows fewer."""
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return count_gpus(devices)
    return min(count_gpus(devices), len(_named(shown)))


def gpus_to_use(configured: int | None, environ: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """All that are visible, or the first `configured` of them. Where no device file tells (ROCm, WSL2), it is believed."""
    found = visible_gpus(environ, devices)
    if configured is None:
        return found
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if count_gpus(devices):
        return min(found, configured)
    return configured if shown is None else min(configured, len(_named(shown)))


def _named(shown: str) -> list[str]:
    return [part for part in shown.split(",") if part.strip() not in ("", "-1")]


class GpuRoundRobin:
    """The next worker's device, as TorchServe deals them: one after the other, over all models."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = cycle(range(count)) if count else None
        self._chosen: dict[tuple[int, ...], cycle[int]] = {}

    def take(self, among: list[int], how_many: int = 1) -> list[int]:
        """Of `among` if it names any, else of all; empty on a machine without."""
        if not self._next:
            return []
        usable = tuple(gpu for gpu in among if 0 <= gpu < self._count)
        dealer = self._chosen.setdefault(usable, cycle(usable)) if usable else self._next
        return [next(dealer) for _ in range(min(how_many, len(usable) or self._count))]
