"""A profile from beginning to end: one worker and no autoscaler meanwhile, then all as it was before, and the result kept."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from .http_client import RequestFailed, Server
from .profile import Plan, Profile, profile_items, profile_tokens


@dataclass(frozen=True)
class Wanted:
    model: str
    accelerator: str
    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    answer_tokens: int
    repeats: int


@dataclass(frozen=True)
class Addresses:
    inference: Server
    management: Server
    metrics: Server | None = None  # None: first tokens are timed by our own clock


async def run(at: Addresses, wanted: Wanted, body: bytes | None, *, save: bool) -> Profile:
    """`body` None: a token model, over the OpenAI routes; else what is posted to its predictions."""
    plan = Plan(wanted.batches, wanted.prompts, wanted.answer_tokens, wanted.repeats)
    async with _alone(at.management, wanted.model, wanted.accelerator):
        if body is None:
            result = await profile_tokens(at.inference, at.metrics, wanted.model, wanted.accelerator, plan)
        else:
            result = await profile_items(at.inference, wanted.model, wanted.accelerator, plan, body)
    if save:
        await at.management.json("POST", "/autoscaler/performance", msgspec.to_builtins(result.performance))
    return result


@asynccontextmanager
async def _alone(management: Server, model: str, accelerator: str) -> AsyncIterator[None]:
    (described, *_) = await management.json("GET", f"/models/{model}")
    was_paused = await _pause(management, paused=True)
    try:
        await _scale(management, model, 1, max(int(described["maxWorkers"]), 1))
        await _put(management, f"{model}/{described['modelVersion']}", accelerator)
        yield
        await _scale(management, model, int(described["minWorkers"]), int(described["maxWorkers"]))
    finally:
        await _pause(management, paused=was_paused)


async def _scale(management: Server, model: str, low: int, high: int) -> None:
    # max_worker caps what runs: first down to `low`, then the ceiling as it was.
    await management.ask("PUT", f"/models/{model}?min_worker={low}&max_worker={low}&synchronous=true")
    if high != low:
        await management.ask("PUT", f"/models/{model}?min_worker={low}&max_worker={high}&synchronous=true")


async def _pause(management: Server, *, paused: bool) -> bool:
    """Gives whether it was paused; a server without an autoscaler is as good as paused."""
    before = await _autoscaler(management)
    if before is None:
        return True
    await management.json("PUT", "/autoscaler", {"paused": paused})
    return bool(before["paused"])


async def _put(management: Server, name: str, accelerator: str) -> None:
    """The worker onto the accelerator, where an autoscaler knows both; elsewhere it is where it can only be."""
    known = await _autoscaler(management)
    if known is None or name not in {f"{each['model']}/{each['version']}" for each in known["models"]}:
        return
    if accelerator not in (names := [each["name"] for each in known["accelerators"]]):
        raise ValueError(f"the server has no accelerator {accelerator}, but {', '.join(names)}")
    await management.json("POST", "/update", {"allocations": {name: {"accelerator": accelerator, "numReplicas": 1}}})


async def _autoscaler(management: Server) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = await management.json("GET", "/autoscaler")
    except RequestFailed:
        return None
    return state
