"""Profiles one worker of a model: drives it at several batch sizes and prompt lengths and fits what the queue model wants.

Token models: decode steps over the number of streams, first tokens over the prompt's length. Others: whole answers over
the number of requests at once. In each round every place is measured once, in another order, until the lines are known
well enough. The caller sees to it that there is one worker and no other load.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

from .first_tokens import FirstTokens
from .fit import Line, fit_line, typical
from .http_client import RequestFailed, Server
from .performance import Performance

TIMEOUT_SECONDS = 120.0  # of one measurement
FEWEST_ROUNDS = 3  # before the fit may be believed
ITEM_TURNS = 8  # times that so many items are sent at once in a round
PROMPT_TURNS = 3
_SAFE_TOKENS = (97, 122)  # exist in every vocabulary, and end no text

Point = tuple[float, float]


@dataclass
class Measured:
    """What was timed, in milliseconds: (streams or requests at once, time) and (prompt tokens, time)."""

    decode: list[Point] = field(default_factory=list)
    prefill: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Profile:
    performance: Performance
    measured: Measured
    decode: Line | None
    prefill: Line
    rounds: int
    timed_by: str  # whose clock the first tokens, or answers, were timed by


@dataclass(frozen=True)
class Plan:
    batches: Sequence[int] = (1, 2, 4, 8, 16)
    prompts: Sequence[int] = (16, 64, 128, 256)
    answer_tokens: int = 40
    repeats: int = 10  # rounds, at most
    precision: float = 0.005  # how well the lines are to be known, relative to their height


async def profile_tokens(
    server: Server, metrics: Server | None, model: str, accelerator: str, plan: Plan, seed: int = 1
) -> Profile:
    random, measured = Random(seed), Measured()
    first_tokens = FirstTokens(server, metrics, model)

    async def decode(batch: int) -> None:
        prompts = [_prompt(random, min(plan.prompts)) for _ in range(batch)]
        streams = await asyncio.gather(*(_stream(server, model, each, plan.answer_tokens) for each in prompts))
        if gaps := _gaps(streams):
            measured.decode.append((float(batch), typical(gaps)))

    async def prefill(length: int) -> None:
        for _ in range(PROMPT_TURNS):
            stream = partial(_stream, server, model, _prompt(random, length), 1)
            measured.prefill.append((float(length), await first_tokens.measure(stream)))

    await _stream(server, model, _prompt(random, min(plan.prompts)), 4)  # warm
    await first_tokens.begin()
    turns = [(decode, batch) for batch in plan.batches] + [(prefill, length) for length in plan.prompts]
    rounds = await _rounds(
        turns, plan, random, lambda: max(fit_line(*_columns(each)).doubt for each in (measured.decode, measured.prefill))
    )
    return fit_tokens(model, accelerator, max(plan.batches), measured, rounds, first_tokens.timed_by)


async def _rounds(
    turns: Sequence[tuple[Callable[[int], Awaitable[None]], int]], plan: Plan, random: Random, doubt: Callable[[], float]
) -> int:
    """Every turn once a round, in an order of its own, until there is little doubt; gives the number of rounds."""
    for done in range(1, plan.repeats + 1):
        for measure, place in random.sample(turns, len(turns)):
            await measure(place)
        if done >= FEWEST_ROUNDS and doubt() <= plan.precision:
            return done
    return plan.repeats


def fit_tokens(
    model: str, accelerator: str, max_batch: int, measured: Measured, rounds: int = 1, timed_by: str = "client"
) -> Profile:
    decode, prefill = (fit_line(*_columns(each)) for each in (measured.decode, measured.prefill))
    margins = {
        "alpha": decode.intercept_margin,
        "beta": decode.slope_margin,
        "gamma": prefill.intercept_margin,
        "delta": prefill.slope_margin,
    }
    performance = Performance(
        model=model,
        accelerator=accelerator,
        max_batch=max_batch,
        alpha=decode.intercept,
        beta=decode.slope,
        gamma=prefill.intercept,
        delta=prefill.slope,
        decode_r_squared=decode.r_squared,
        prefill_r_squared=prefill.r_squared,
        margins=_known(margins),
        doubt=_worst(decode, prefill),
    )
    return Profile(performance, measured, decode, prefill, rounds, timed_by)


async def profile_items(
    server: Server, model: str, accelerator: str, plan: Plan, body: bytes, content_type: str = "application/octet-stream"
) -> Profile:
    measured, path = Measured(), f"/predictions/{model}"

    async def once() -> float:
        begun = time.monotonic()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await server.ask("POST", path, body, content_type)
        return (time.monotonic() - begun) * 1000

    async def together(batch: int) -> None:
        times = [max(await asyncio.gather(*(once() for _ in range(batch)))) for _ in range(ITEM_TURNS)]
        measured.prefill.append((float(batch), typical(times)))

    await once()
    turns = [(together, batch) for batch in plan.batches]
    rounds = await _rounds(turns, plan, Random(1), lambda: fit_line(*_columns(measured.prefill)).doubt)
    line = fit_line(*_columns(measured.prefill))
    performance = Performance(
        model=model,
        accelerator=accelerator,
        max_batch=max(plan.batches),
        gamma=line.intercept,
        delta=line.slope,
        prefill_r_squared=line.r_squared,
        margins=_known({"gamma": line.intercept_margin, "delta": line.slope_margin}),
        doubt=_worst(line),
        tokens=False,
    )
    return Profile(performance, measured, None, line, rounds, "client")


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _known(margins: dict[str, float]) -> dict[str, float]:
    """Two points make a line, but say nothing of its error."""
    return {name: margin for name, margin in margins.items() if math.isfinite(margin)}


def _worst(*lines: Line) -> float | None:
    doubts = [line.doubt for line in lines]
    return max(doubts) if all(map(math.isfinite, doubts)) else None


def _prompt(random: Random, length: int) -> list[int]:
    """Never the same: no cache of prefixes may help."""
    return [random.randint(*_SAFE_TOKENS) for _ in range(length)]


async def _stream(server: Server, model: str, prompt: list[int], tokens: int) -> tuple[float, list[float]]:
    """When it was sent and when each token came."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
        "temperature": 0,
    }
    begun, times = time.monotonic(), []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        async for event, arrived in server.events("/v1/completions", body):
            if "error" in event:
                raise RequestFailed(str(event["error"])[:300])
            if any(choice.get("text") for choice in event.get("choices", ())):
                times.append(arrived)
    if not times:
        raise RequestFailed(f"{model} streamed no token")
    return begun, times


def _gaps(streams: Sequence[tuple[float, list[float]]]) -> list[float]:
    """Milliseconds between tokens of each stream, while all of them decode and none prefills."""
    start = max(times[0] for _, times in streams)
    end = min(times[-1] for _, times in streams)
    gaps = []
    for _, times in streams:
        steady = [each for each in times if start < each <= end]
        gaps += [(after - before) * 1000 for before, after in pairwise(steady)]
    return gaps
