"""The autoscaler: every period it looks, decides and acts, and remembers what it decided and why.

A look or a decision that fails changes nothing and is told; an action that can't be had leaves the model as it is.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from .config import AutoscalerConfig
from .observe import Key, Observed, Source
from .performance import Book
from .policy import Decision, Policy
from .problem import Counts, Served

logger = logging.getLogger(__name__)

REMEMBERED = 200  # decisions


class Fleet(Protocol):
    """What the loop needs of the management plane."""

    def served(self) -> list[Served]: ...

    async def place(self, key: Key, workers: Counts) -> None:
        """So many workers of a model on each accelerator. Raises an Exception that says why it can't be had."""


@dataclass(frozen=True)
class Event:
    time: str
    decision: Decision
    outcome: str  # "done", "dry run", "failed: …"


@dataclass
class State:
    paused: bool = False
    dry_run: bool = False
    cycles: int = 0
    last_cycle: str = ""
    last_error: str = ""
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    decisions: list[Decision] = field(default_factory=list)
    observed: Mapping[Key, Observed] = field(default_factory=dict)


class Autoscaler:
    def __init__(
        self,
        config: AutoscalerConfig,
        source: Source,
        fleet: Fleet,
        book: Book,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.book, self.fleet = config, book, fleet
        self.policy = Policy(config, book)
        self.state = State(dry_run=config.dry_run)
        self._source, self._clock = source, clock
        self._cycle = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.config.period_seconds)
            await self.cycle(act=not self.state.paused)

    async def cycle(self, *, act: bool = True) -> list[Decision]:
        """One look, and what follows from it; without `act` nothing does: but the next look is then one of a single period."""
        async with self._cycle:
            state = self.state
            try:
                models = self.fleet.served()
                state.observed = await asyncio.to_thread(self._source.look)
                if not act:
                    return []
                state.cycles, state.last_cycle = state.cycles + 1, _now()
                decisions = await asyncio.to_thread(self._decide, models, state.observed)
            except Exception as error:  # one bad look must not end the loop
                logger.exception("The autoscaler can't decide")
                state.last_error = f"{type(error).__name__}: {error}"
                return []
            state.last_error, state.decisions = "", decisions
            wanted = [decision for decision in decisions if decision.changes]
            await asyncio.gather(*(self.act(decision) for decision in wanted))
            return decisions

    async def act(self, decision: Decision) -> str:
        """Does it, unless this is a dry run; gives the outcome, which is remembered too."""
        outcome = "dry run" if self.state.dry_run else await self._placed(decision)
        logger.info(
            "Model %s %s: workers %s to %s (%s): %s",
            *(decision.model, decision.version, decision.before, decision.after, decision.reason, outcome),
        )
        self.state.events.append(Event(_now(), decision, outcome))
        return outcome

    def pause(self, paused: bool) -> None:
        """What was seen before a pause, and during it, says nothing of what comes after."""
        if self.state.paused and not paused:
            self.policy.forget()
        self.state.paused = paused

    def pace(self, period_seconds: float) -> None:
        self.config = self.policy.config = replace(self.config, period_seconds=period_seconds)

    async def _placed(self, decision: Decision) -> str:
        try:
            await self.fleet.place(decision.key, decision.after)
        except Exception as error:  # what can't be had is told, the other models go on
            logger.warning("Model %s stays as it is: %s", decision.model, error)
            return f"failed: {error}"
        return "done"

    def _decide(self, models: list[Served], observed: Mapping[Key, Observed]) -> list[Decision]:
        decisions = self.policy.decide(models, observed, self._clock())
        self.policy.learn(models, observed, decisions)
        return decisions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
