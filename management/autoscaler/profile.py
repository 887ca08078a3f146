"""Profiles one worker of a model: drives it at several batch sizes and prompt lengths and fits what the queue model wants.

Token models: decode steps over the number of streams, first tokens over the prompt's length. Others: whole answers over
the number of requests at once. The caller sees to it that there is one worker and no other load.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from .fit import Line, fit_line
from .http_client import RequestFailed, Server
from .performance import Performance

TIMEOUT_SECONDS = 120.0  # of one measurement
_SAFE_TOKENS = (97, 122)  # exist in every vocabulary, and end no text


@dataclass
class Measured:
    """What was timed, in milliseconds: (streams or requests at once, time) and (prompt tokens, time)."""

    decode: list[tuple[float, float]] = field(default_factory=list)
    prefill: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Profile:
    performance: Performance
    measured: Measured
    decode: Line | None
    prefill: Line


@dataclass(frozen=True)
class Plan:
    batches: Sequence[int] = (1, 2, 4, 8, 16)
    prompts: Sequence[int] = (16, 64, 128, 256)
    answer_tokens: int = 40
    repeats: int = 3


async def profile_tokens(server: Server, model: str, accelerator: str, plan: Plan, seed: int = 1) -> Profile:
    random, measured = Random(seed), Measured()
    await _stream(server, model, _prompt(random, min(plan.prompts)), 4)  # warm
    for repeat in range(plan.repeats):
        on_the_way = await _round_trip(server)
        for batch in plan.batches:
            prompts = [_prompt(random, min(plan.prompts)) for _ in range(batch)]
            streams = await asyncio.gather(*(_stream(server, model, each, plan.answer_tokens) for each in prompts))
            measured.decode += [(float(batch), gap) for gap in _gaps(streams)]
        for length in plan.prompts:
            (begun, times) = await _stream(server, model, _prompt(random, length), 1 + repeat % 2)
            measured.prefill.append((float(length), (times[0] - begun - on_the_way) * 1000))
    return fit_tokens(model, accelerator, max(plan.batches), measured)


async def _round_trip(server: Server) -> float:
    """Seconds that HTTP takes by itself, which are none of the model's."""
    times = []
    for _ in range(9):
        begun = time.monotonic()
        await server.ask("GET", "/ping")
        times.append(time.monotonic() - begun)
    return sorted(times)[len(times) // 2]


def fit_tokens(model: str, accelerator: str, max_batch: int, measured: Measured) -> Profile:
    decode = fit_line(*zip(*_quiet(measured.decode), strict=True))
    prefill = fit_line(*zip(*_quiet(measured.prefill), strict=True))
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
    )
    return Profile(performance, measured, decode, prefill)


async def profile_items(
    server: Server, model: str, accelerator: str, plan: Plan, body: bytes, content_type: str = "application/octet-stream"
) -> Profile:
    measured, path = Measured(), f"/predictions/{model}"

    async def once() -> float:
        begun = time.monotonic()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await server.ask("POST", path, body, content_type)
        return (time.monotonic() - begun) * 1000

    await once()
    for _ in range(plan.repeats):
        for batch in plan.batches:
            for _ in range(max(plan.answer_tokens // 4, 1)):
                times = await asyncio.gather(*(once() for _ in range(batch)))
                measured.prefill.append((float(batch), max(times)))
    measured.prefill = _quiet(measured.prefill)
    line = fit_line(*zip(*measured.prefill, strict=True))
    performance = Performance(
        model=model,
        accelerator=accelerator,
        max_batch=max(plan.batches),
        gamma=line.intercept,
        delta=line.slope,
        prefill_r_squared=line.r_squared,
        margins=_known({"gamma": line.intercept_margin, "delta": line.slope_margin}),
        tokens=False,
    )
    return Profile(performance, measured, None, line)


def _known(margins: dict[str, float]) -> dict[str, float]:
    """Two points make a line, but say nothing of its error."""
    return {name: margin for name, margin in margins.items() if math.isfinite(margin)}


def _quiet(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What else the machine does only makes times longer: of each few at one place, the second smallest."""
    grouped: dict[float, list[float]] = {}
    for x, y in points:
        grouped.setdefault(x, []).append(y)
    size = 4
    return [
        (x, sorted(part)[min(1, len(part) - 1)])
        for x, values in grouped.items()
        for part in (values[start : start + size] for start in range(0, len(values), size))
    ]


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
        if len(steady) > 1:
            gaps.append((steady[-1] - steady[0]) / (len(steady) - 1) * 1000)
    return gaps
