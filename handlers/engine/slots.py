"""Which slot of the KV cache holds which tokens: rows get one when they start, and find what others left there.

A slot keeps its tokens after its sequence is gone, so a later prompt with the same beginning need not be read again.
Not for: the tensors themselves (`kv_cache`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

SHORTEST_PREFIX = 8  # fewer kept tokens are not worth a copy


@dataclass(slots=True)
class Slot:
    ids: list[int] = field(default_factory=list)  # tokens whose keys and values stand here
    salt: str = ""  # whose they are: nobody else finds them
    used: bool = False
    released: int = 0  # when, for the least recently used


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
        return Placement(target, kept, copy)

    def extend(self, slot: int, ids: Sequence[int]) -> None:
        """These tokens were computed."""
        self._slots[slot].ids.extend(ids)

    def release(self, slot: int) -> None:
        self._clock += 1
        self._slots[slot].used, self._slots[slot].released = False, self._clock

    def forget(self) -> None:
        """What is kept is not to be trusted any more."""
        for slot in self._slots:
            slot.ids = []

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
