"""Who runs in the next step: decoding rows first, then prompts in chunks, as far as rows, the step's tokens and memory
reach.

When memory for keys and values runs short, the least important row gives its own back and is read again later: preempted
rather than failed. Not for: running anything.
"""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .interface import Stats
from .sequence import Sequence
from .slots import SlotTable


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence that are run together: positions `start` to `end`."""

    sequence: Sequence
    start: int
    end: int

    @property
    def completes(self) -> bool:
        """The sequence's next token can be chosen after it."""
        return self.end == len(self.sequence.ids)


@dataclass(slots=True)
class Plan:
    """One step. Rows of the flat batch: one for each decoding sequence, then the chunks."""

    decode: list[Sequence] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decode or self.chunks)

    @property
    def sequences(self) -> list[Sequence]:
        return self.decode + [chunk.sequence for chunk in self.chunks]


class Scheduler:
    """Owns the waiting and the running sequences, and the slots."""

    def __init__(
        self,
        slots: SlotTable,
        *,
        max_rows: int,
        max_tokens: int,
        kv_tokens: int,
        copy_prefix: Callable[[int, int, int], None],
        give_back: Callable[[int, int, int], None] | None = None,
    ) -> None:
        """`give_back`: what kept prefixes hold is memory of `kv_tokens`, too, and goes when rows need it."""
        self.slots = slots
        self.running: list[Sequence] = []
        self._waiting: list[tuple[tuple[int, int], int, Sequence]] = []
        self._max_rows, self._max_tokens, self._kv_tokens = max_rows, max_tokens, kv_tokens
        self._copy_prefix, self._give_back = copy_prefix, give_back
        self.preempted = 0

    def add(self, sequence: Sequence) -> None:
        heapq.heappush(self._waiting, (sequence.order, sequence.index, sequence))

    def remove(self, sequence: Sequence) -> None:
        """It is finished or nobody wants it: its row and its memory are free."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        else:
            self._waiting = [entry for entry in self._waiting if entry[2] is not sequence]
            heapq.heapify(self._waiting)

    def all(self) -> list[Sequence]:
        return self.running + [entry[2] for entry in self._waiting]

    def schedule(self) -> Plan:
        self._make_room_for_decoding()
        self._admit(self._max_tokens - sum(row.decoding for row in self.running))
        plan = Plan(sorted((row for row in self.running if row.decoding), key=lambda row: row.slot or 0))
        budget = max(self._max_tokens - len(plan.decode), 1)
        for sequence in sorted((row for row in self.running if not row.decoding), key=lambda row: (row.order, row.index)):
            length = min(sequence.pending, budget, self._room() - len(plan.decode))
            if length <= 0:
                break
            start = sequence.computed
            plan.chunks.append(Chunk(sequence, start, start + length))
            sequence.computed += length  # counted now, so that the next ones see the room that is left
            budget -= length
        for chunk in plan.chunks:
            chunk.sequence.computed = chunk.start
        if not plan and self.running:  # every row waits for memory that another one holds
            self._preempt(self._least_important())
            return self.schedule()
        self._make_memory(plan)
        return plan

    def ran(self, plan: Plan) -> None:
        """The plan's tokens are kept now."""
        for sequence in plan.decode:
            self._keep(sequence, sequence.computed, sequence.computed + 1)
        for chunk in plan.chunks:
            self._keep(chunk.sequence, chunk.start, chunk.end)

    def stats(self) -> Stats:
        return Stats(
            running=len(self.running),
            waiting=len(self._waiting),
            max_rows=self._max_rows,
            kv_tokens_used=self._used(),
            kv_tokens=self._kv_tokens,
            preempted=self.preempted,
        )

    def _keep(self, sequence: Sequence, start: int, end: int) -> None:
        assert sequence.slot is not None
        self.slots.extend(sequence.slot, sequence.ids[start:end])
        sequence.computed = end

    def _used(self) -> int:
        return sum(row.computed for row in self.running)

    def _room(self) -> int:
        return self._kv_tokens - self._used()

    def _make_room_for_decoding(self) -> None:
        """Each decoding row needs one position more."""
        while len(self.running) > 1 and self._room() < sum(row.decoding for row in self.running):
            self._preempt(self._least_important())

    def _make_memory(self, plan: Plan) -> None:
        """For what the plan writes."""
        if self._give_back is None:
            return
        for sequence in plan.decode:
            self.slots.reach(sequence.slot or 0, sequence.computed + 1)
        for chunk in plan.chunks:
            self.slots.reach(chunk.sequence.slot or 0, chunk.end)
        self._shrink()

    def _shrink(self) -> None:
        if self._give_back is not None:
            for slot, start, end in self.slots.give_back(self._kv_tokens):
                self._give_back(slot, start, end)

    def _admit(self, budget: int) -> None:
        unread = self._unread()
        while self._waiting:
            sequence = self._waiting[0][2]
            if self._waits_for_sibling(sequence):
                return
            needed = len(sequence.ids) + (1 if sequence.kind == "generate" else 0)
            no_row = len(self.running) >= self._max_rows or not self.slots.free
            if no_row or (self.running and needed > self._room() - unread):
                weaker = [row for row in self.running if row.order[0] > sequence.order[0]]
                reach = self._room() - unread + sum(len(row.ids) for row in weaker)
                if not weaker or (len(weaker) < len(self.running) and needed > reach):
                    return
                self._preempt(self._least_important())
                unread = self._unread()
                continue
            if unread >= max(budget, 1):
                return
            heapq.heappop(self._waiting)
            self._start(sequence)
            unread += sequence.pending

    def _unread(self) -> int:
        return sum(row.pending for row in self.running if not row.decoding)

    @staticmethod
    def _waits_for_sibling(sequence: Sequence) -> bool:
        first = sequence.after
        return first is not None and first.slot is not None and first.computed < first.prompt_length

    def _start(self, sequence: Sequence) -> None:
        place = self.slots.place(sequence.ids, sequence.reusable, sequence.salt)
        self._shrink()
        if place.copy_from is not None:
            self._copy_prefix(place.copy_from, place.slot, place.kept)
        sequence.slot, sequence.computed = place.slot, place.kept
        if not sequence.told:
            sequence.cached = min(place.kept, sequence.prompt_length)
            sequence.began = sequence.began or time.monotonic()
        self.running.append(sequence)

    def _least_important(self) -> Sequence:
        return max(self.running, key=lambda row: (row.order, row.index))

    def _preempt(self, sequence: Sequence) -> None:
        self.preempted += 1
        self.running.remove(sequence)
        self._release(sequence)
        self.add(sequence)

    def _release(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self.slots.release(sequence.slot)
        sequence.slot, sequence.computed, sequence.states = None, 0, None
