"""Loads: one that rises and falls, and one that half a minute of is as good as an hour of."""

import asyncio
import math
import random
import time
from collections.abc import Coroutine, Iterable

from world import ANSWER, World


async def rise_and_fall(world: World, phases: list[tuple[float, float]], rates: dict[str, float], seed: int) -> None:
    """Poisson arrivals whose rate goes straight from one phase's multiple to the next; returns when all are answered."""
    begun, running = time.monotonic(), _Running()

    async def arrivals(model: str) -> None:
        dice, start, before = random.Random(f"{model}{seed}"), begun, phases[0][1]
        for seconds, after in phases:
            while (now := time.monotonic()) < start + seconds:
                multiple = before + (after - before) * (now - start) / seconds
                if multiple <= 0.01:
                    await asyncio.sleep(0.1)
                    continue
                await asyncio.sleep(dice.expovariate(rates[model] * multiple))
                running.start(getattr(world, model)(begun))
            start, before = start + seconds, after

    await asyncio.gather(*(arrivals(model) for model in rates))
    await running.end()


async def steady_chat(world: World, rate: float, seconds: float, seed: int) -> None:
    """Requests as the queue model has them, exponential between arrivals and in their lengths.

    Each quantile of the law comes once, in random order: so mean rate and mean length are exact, where chance would put
    them off by a tenth in half a minute.
    """
    dice, count = random.Random(seed), round(rate * seconds)
    quantiles = [-math.log(1 - (index + 0.5) / count) for index in range(count)]
    gaps, lengths = dice.sample(quantiles, count), dice.sample(quantiles, count)
    stretch = seconds / sum(gaps)
    begun, running, due = time.monotonic(), _Running(), 0.0
    for gap, length in zip(gaps, lengths, strict=True):
        due += gap * stretch
        await asyncio.sleep(max(begun + due - time.monotonic(), 0))
        running.start(world.chat(begun, 2 + round((ANSWER - 2) * length)))
    await running.end()


class _Running:
    def __init__(self, tasks: Iterable[asyncio.Task] = ()) -> None:
        self._tasks = set(tasks)

    def start(self, work: Coroutine) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        while self._tasks:
            await asyncio.wait(set(self._tasks))
