"""Which accelerators this machine has, and which worker gets which. No torch here: the kernel's device files tell."""

import re
from itertools import cycle
from pathlib import Path

DEVICE = re.compile(r"nvidia\d+")


def count_gpus(devices: Path = Path("/dev")) -> int:
    """NVIDIA's, or none. CUDA_VISIBLE_DEVICES is the workers' to obey: ids here count what the driver shows."""
    return sum(1 for path in devices.glob("nvidia[0-9]*") if DEVICE.fullmatch(path.name))


class GpuRoundRobin:
    """The next worker's device, as TorchServe deals them: one after the other, over all models."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = cycle(range(count)) if count else None
        self._chosen: dict[tuple[int, ...], cycle[int]] = {}

    def next(self, among: list[int]) -> int | None:
        """Of `among` if it names any, else of all; None on a machine without."""
        if not self._next:
            return None
        usable = tuple(gpu for gpu in among if 0 <= gpu < self._count)
        if not usable:
            return next(self._next)
        return next(self._chosen.setdefault(usable, cycle(usable)))
