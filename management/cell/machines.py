"""What a machine says of itself when it joins a cell, and how much memory that means."""

import math
import re

import msgspec

GIB = 1 << 30
# GiB per core; a machine that knows better says `memory_gib`
CHIP_GIB = {
    "tpuv2": 8, "tpuv3": 16, "tpuv4": 16, "tpuv4i": 8, "tpuv5e": 16, "tpuv6e": 32, "p100": 16, "v100": 16, "t4": 16,
    "l4": 24, "a100": 40, "h100": 80, "h200": 141, "cpu": 64, "unknown": 8,
}  # fmt: skip


class Machine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model server's specification."""

    chip: str = "cpu"
    topology: str = "1"  # the number of cores or GPUs, or their grid: "2x2"
    paths: list[str] = []  # model paths it can serve
    tags: list[str] = []
    memory_gib: float | None = None  # of one core; None: as the chip has
    unhinted_gib: float | None = None  # what a model that says no `ram` is counted as; None: a whole machine
    max_per_model: int = 1  # replicas of one model that it may hold

    @property
    def cores(self) -> int:
        shape = re.fullmatch(r"(\d+(?:x\d+){0,2})(?:_(?:un)?twisted)?", self.topology, re.A)
        return math.prod(int(side) for side in shape[1].split("x")) if shape else 1

    @property
    def bytes_per_core(self) -> int:
        gib = self.memory_gib or CHIP_GIB.get(self.chip.lower(), CHIP_GIB["unknown"])
        return int(gib * GIB)
