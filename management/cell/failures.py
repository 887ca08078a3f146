"""Loads that failed: tried again elsewhere after a while that doubles, three times in all."""

from collections.abc import Callable
from dataclasses import dataclass

from .messages import Held
from .names import ModelKey

BACK_OFF_SECONDS = 30.0
TRIES = 3
Place = tuple[ModelKey, str]


@dataclass
class Failure:
    tries: int
    retry_at: float
    revision: int
    waiting: bool = True  # for its back-off to end


class Failures:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_place: dict[Place, Failure] = {}

    def note(self, key: ModelKey, address: str, held: Held) -> None:
        """What a machine reports of a model: failed, or not (any more)."""
        place = key, address
        failure = self._by_place.get(place)
        if not held.reason:  # what serves meanwhile is no proof that the order succeeded
            tried = held.attempt >= self.attempt(key, address)
            if failure and tried and held.loaded:
                del self._by_place[place]
        elif failure is None or failure.revision != held.revision:
            self._by_place[place] = Failure(1, self._clock() + BACK_OFF_SECONDS, held.revision)
        elif not failure.waiting and held.attempt >= failure.tries:
            failure.tries += 1
            failure.retry_at = self._clock() + BACK_OFF_SECONDS * 2 ** (failure.tries - 1)
            failure.waiting = True

    def forget(self, key: ModelKey) -> None:
        self._by_place = {place: failure for place, failure in self._by_place.items() if place[0] != key}

    def due(self) -> bool:
        return any(self._is_due(failure) for failure in self._by_place.values())

    def take_due(self) -> set[Place]:
        """Those whose back-off has ended: what is not loaded loses its place, and may be placed anew."""
        due = {place for place, failure in self._by_place.items() if self._is_due(failure)}
        for place in due:
            self._by_place[place].waiting = False
        return due

    def shunned(self) -> set[Place]:
        return set(self._by_place)

    def attempt(self, key: ModelKey, address: str) -> int:
        """Counts the tries there: another number than before means: try again."""
        failure = self._by_place.get((key, address))
        return 0 if failure is None else failure.tries - failure.waiting

    def _is_due(self, failure: Failure) -> bool:
        return failure.waiting and failure.tries < TRIES and self._clock() >= failure.retry_at
