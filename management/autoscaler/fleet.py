"""The control plane as the autoscaler's fleet: which models ask for objectives, and their workers put where they were decided.

A group of CPU cores is where a worker may run, not what it is made for: workers move between groups by their affinity, and
only their number is a matter of starting and stopping.
"""

import logging
import os
from collections import Counter
from typing import Any, Protocol

from .config import Accelerator, AutoscalerConfigError, Slo, read_slo
from .observe import Key
from .problem import Counts, Served

logger = logging.getLogger(__name__)


class Worker(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def pid(self) -> int | None: ...


class Pool(Protocol):
    @property
    def workers(self) -> "list[Any]": ...

    @property
    def record(self) -> Any: ...

    @property
    def archive(self) -> Any: ...


class Control(Protocol):
    @property
    def pools(self) -> "dict[tuple[str, str], Any]": ...

    async def scale(self, name: str, version: str | None, low: int, high: int | None, *, wait: bool) -> Any: ...


class ControlFleet:
    """Implements loop.Fleet on management.control.ControlPlane."""

    def __init__(self, control: Control, accelerators: tuple[Accelerator, ...]) -> None:
        self._control = control
        self._accelerators = {each.name: each for each in accelerators}
        self._places: dict[str, str] = {}  # worker id → accelerator
        self._told: set[tuple[Key, str]] = set()

    def served(self) -> list[Served]:
        found = []
        for key, pool in self._control.pools.items():
            slo = self._slo(key, pool)
            if slo is not None:
                self._keep_in_place(pool)
                batch = pool.record.batch_size if pool.record.batch_size > 1 else _rows(pool.archive.config.raw)
                found.append(Served(key, slo, dict(Counter(self._places[each.id] for each in pool.workers)), batch))
        return found

    async def place(self, key: Key, workers: Counts) -> None:
        name, version = key
        total = sum(workers.values())
        pool = self._control.pools[key]
        await self._control.scale(name, version, total, total, wait=True)
        free = Counter(dict(workers))
        homeless = []
        for worker in pool.workers:  # who is already where one should be stays there
            place = self._places.get(worker.id, "")
            if free[place] > 0:
                free[place] -= 1
            else:
                homeless.append(worker)
        for worker, place in zip(homeless, free.elements(), strict=False):
            self._places[worker.id] = place
        self._keep_in_place(pool)

    def _slo(self, key: Key, pool: Any) -> Slo | None:
        """A model whose objectives can't be used is left alone, and its author told once."""
        try:
            return read_slo(pool.archive.config.raw)
        except AutoscalerConfigError as error:
            if (key, str(error)) not in self._told:
                self._told.add((key, str(error)))
                logger.warning("Model %s %s: its objectives can't be used: %s", *key, error)
            return None

    def _keep_in_place(self, pool: Any) -> None:
        """New processes run anywhere until they are told; a restarted worker has a new process."""
        for worker in pool.workers:
            place = self._places.setdefault(worker.id, self._roomiest())
            cores = self._accelerators[place].cores if place in self._accelerators else ()
            if worker.pid is not None and cores:
                _pin(worker.pid, cores)

    def _roomiest(self) -> str:
        used = Counter(self._places.values())
        return max(self._accelerators, key=lambda name: self._accelerators[name].capacity - used[name], default="")


def _rows(model_yaml: dict[str, Any]) -> int | None:
    """Sequences a token model decodes together, when its archive says so."""
    handler = model_yaml.get("handler")
    rows = handler.get("max_batch_rows") if isinstance(handler, dict) else None
    return rows if isinstance(rows, int) and rows > 0 else None


def _pin(pid: int, cores: tuple[int, ...]) -> None:
    """All threads there are now; later ones inherit."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            if os.sched_getaffinity(int(thread)) != set(cores):
                os.sched_setaffinity(int(thread), cores)
    except OSError:
        return  # it has just ended
