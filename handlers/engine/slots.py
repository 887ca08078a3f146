"""Which slot of the KV cache holds which tokens: rows get one when they start, and find what others left there.

A slot keeps its tokens after its sequence is gone, so a later prompt with the same beginning need not be read again. It
keeps their memory, too, until `give_back` says whose is to go. Not for: the tensors themselves (`kv_cache`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .kv_cache import BLOCK

SHORTEST_PREFIX = 8  # fewer kept tokens are not worth a copy


@dataclass(slots=True)
class Slot:
    ids: list[int] = field(default_factory=list)  # tokens whose keys and values stand here
    salt: str = ""  # whose they are: nobody else finds them
    used: bool = False
    released: int = 0  # when, for the least recently used
    end: int = 0  # positions that stand here, or are written by the next step
    reached: int = 0  # positions that have memory: whole blocks


@dataclass(frozen=True, slots=True)
class Placement:
    slot: int
    kept: int  # tokens that need not be computed
    copy_from: int | None = None  # another slot has them


class SlotTable:
    def __init__(self, count: int, reuse: bool = True) -> None:
        self._slots = [Slot() for _ in range(count)]
        self._reuse = reuse
        self._clock = 0

    @property
    def free(self) -> int:
        return sum(not slot.used for slot in self._slots)

    def place(self, ids: Sequence[int], reusable: int, salt: str = "") -> Placement:
        """A free slot for these tokens; the caller copies what `copy_from` says."""
        kept, source = self._longest(ids, reusable, salt)
        if source is not None and not self._slots[source].used:
            target, copy = source, None
        else:
            target, copy = self._least_worth(), source
        slot = self._slots[target]
        slot.used, slot.ids, slot.salt = True, list(ids[:kept]), salt
        self.reach(target, kept)
        return Placement(target, kept, copy)

    def reach(self, slot: int, end: int) -> None:
        """Positions up to `end` are about to be written."""
        self._slots[slot].end = end
        self._slots[slot].reached = max(self._slots[slot].reached, _blocks(end))

    def give_back(self, most: int) -> list[tuple[int, int, int]]:
        """What goes so that at most `most` positions have memory, as (slot, start, end): first what stands for nothing, then
        the ends of what is kept, of the least recently used first. What rows need stays."""
        excess = sum(slot.reached for slot in self._slots) - most
        given: list[tuple[int, int, int]] = []
        if excess <= 0:
            return given
        order = sorted(enumerate(self._slots), key=lambda pair: pair[1].released)
        for kept in (False, True):
            for number, slot in order:
                start = max(slot.reached - _blocks(max(excess, 0)), 0 if kept and not slot.used else _blocks(slot.end))
                if start < slot.reached:
                    given.append((number, start, slot.reached))
                    excess -= slot.reached - start
                    slot.reached, slot.end = start, min(slot.end, start)
                    del slot.ids[start:]
        return given

    def extend(self, slot: int, ids: Sequence[int]) -> None:
        """These tokens were computed."""
        self._slots[slot].ids.extend(ids)

    def release(self, slot: int) -> None:
        self._clock += 1
        self._slots[slot].used, self._slots[slot].released = False, self._clock
        self._slots[slot].end = len(self._slots[slot].ids)

    def forget(self) -> None:
        """What is kept is not to be trusted any more."""
        for slot in self._slots:
            slot.ids, slot.end = [], 0

    def _longest(self, ids: Sequence[int], reusable: int, salt: str) -> tuple[int, int | None]:
        best, source = SHORTEST_PREFIX - 1, None
        if not self._reuse:
            return 0, None
        for number, slot in enumerate(self._slots):
            length = common_prefix(slot.ids, ids, reusable) if slot.salt == salt else 0
            if length > best or (length == best and source is not None and not slot.used and self._slots[source].used):
                best, source = length, number
        return (best, source) if source is not None else (0, None)

    def _least_worth(self) -> int:
        """An empty slot, the lowest one so that rows stay together; else the one that was free the longest."""
        free = [number for number, slot in enumerate(self._slots) if not slot.used]
        return min(free, key=lambda number: (bool(self._slots[number].ids), self._slots[number].released, number))


def _blocks(positions: int) -> int:
    """Rounded up to whole blocks."""
    return -(-positions // BLOCK) * BLOCK


def common_prefix(a: Sequence[int], b: Sequence[int], most: int) -> int:
    """Length of the common beginning, at most `most`: by halving, as comparing slices is fast."""
    most = min(most, len(a), len(b))
    if most <= 0 or a[0] != b[0]:
        return 0
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
