"""Which replicas sleep: those of models that nobody asks (`dormant_after=SECONDS`); and which one is woken, by Sax's rule.

A sleeping replica keeps its place and its memory in the plan, but has no process. It is woken when requests that find nobody
awake, or a full queue, come faster than before: by more per sleeping replica than there are active ones; one at a look.
Not for: stopping and starting workers, which machines do when their orders say so.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .failures import Place
from .messages import Traffic
from .names import ModelKey


@dataclass
class Asked:
    """What one machine's clients have asked of a model: totals, and refusals of the latest two reports."""

    arrived: int
    rejected: int
    latest: int = 0
    previous: int = 0


class Dormancy:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.asleep: set[Place] = set()
        self._asked: dict[ModelKey, dict[str, Asked]] = defaultdict(dict)
        self._used_at: dict[ModelKey, float] = {}

    def note(self, address: str, traffic: Mapping[ModelKey, Traffic]) -> None:
        """A machine's report. Totals that shrink are those of a server that was started anew."""
        for key, told in traffic.items():
            known = self._asked[key].get(address)
            if known is None or told.arrived < known.arrived or told.rejected < known.rejected:
                known = self._asked[key][address] = Asked(0, 0)
            if told.arrived > known.arrived or told.rejected > known.rejected:
                self._used_at[key] = self._clock()
            known.previous, known.latest = known.latest, told.rejected - known.rejected
            known.arrived, known.rejected = told.arrived, told.rejected

    def missed(self, key: ModelKey) -> None:
        """A client waits for a replica at a machine that has none of them."""
        self._used_at[key] = self._clock()
        asked = self._asked[key].setdefault("", Asked(0, 0))
        asked.previous, asked.latest = 0, 1

    def look(self, key: ModelKey, after: float | None, places: set[str], active: int) -> bool:
        """True when a replica has been put to sleep or woken."""
        sleeping = {address for other, address in self.asleep if other == key}
        if after is None or not sleeping <= places:
            if sleeping:
                self.forget(key)
            return bool(sleeping)
        if sleeping:
            changes = [asked.latest - asked.previous for asked in self._asked[key].values()]
            for asked in self._asked[key].values():
                asked.previous = asked.latest  # looked at
            if not wakes(sum(changes) / len(sleeping), active):
                return False
            self.asleep.discard((key, max(sleeping)))
            self._used_at[key] = self._clock()
            return True
        if not active:  # still loading
            self._used_at[key] = self._clock()
        if self._clock() - self._used_at.setdefault(key, self._clock()) < after:
            return False
        self.asleep |= {(key, address) for address in places}
        return bool(places)

    def forget(self, key: ModelKey) -> None:
        """It is wide awake, as far as we know."""
        self.asleep = {place for place in self.asleep if place[0] != key}
        self._used_at.pop(key, None)
        self._asked.pop(key, None)


def wakes(change: float, active: int) -> bool:
    """`change`: by how much refusals have grown, on average over the sleeping replicas."""
    return change > active
