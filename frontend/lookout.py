"""Keeps an event loop awake while an answer is due at once: to be woken costs a virtual machine 30 µs and more.

Only for a worker's single request in flight, and only where its handler takes no longer than that: with more of them the loop
has enough to do, and who computes needs the processors. Not for: the worker's side, which is `handlers.links`.
"""

import asyncio
import os
from collections.abc import Sized


class Lookout:
    def __init__(self, seconds: float) -> None:
        """It looks so long; 0: not at all."""
        self.seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._in_flight: Sized = ()
        self._until = 0.0
        self._looking = False

    def watch(self, in_flight: Sized) -> None:
        """One request has just been sent; it is answered when nothing is in flight any more."""
        self._in_flight, self._until = in_flight, self._loop.time() + self.seconds
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = len(self._in_flight) == 1 and self._loop.time() < self._until
        if self._looking:
            os.sched_yield()  # whoever has something to do goes first
            self._loop.call_soon(self._look)
