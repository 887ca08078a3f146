"""A profile from beginning to end: one worker and no autoscaler meanwhile, then all as it was before."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from .http_client import RequestFailed, Server
from .performance import Performance
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


async def run(at: Addresses, wanted: Wanted, body: bytes | None) -> Profile:
    """`body` None: a token model, over the OpenAI routes; else what is posted to its predictions."""
    plan = Plan(wanted.batches, wanted.prompts, wanted.answer_tokens, wanted.repeats)
    async with _alone(at.management, wanted.model, wanted.accelerator):
        if body is None:
            return await profile_tokens(at.inference, at.metrics, wanted.model, wanted.accelerator, plan)
        return await profile_items(at.inference, wanted.model, wanted.accelerator, plan, body)


async def keep(management: Server, found: Performance) -> bool:
    """Gives it to the server's autoscaler; False when it has none."""
    if await _autoscaler(management) is None:
        return False
    await management.json("POST", "/autoscaler/performance", msgspec.to_builtins(found))
    return True


@asynccontextmanager
async def _alone(management: Server, model: str, accelerator: str) -> AsyncIterator[None]:
    """Whatever happens, what was changed is put back, the last change first."""
    (described, *_) = await management.json("GET", f"/models/{quote(model)}")
    name = f"{described['modelName']}/{described['modelVersion']}"
    autoscaler = await _autoscaler(management)
    placed = _placed(autoscaler, name, accelerator)
    try:
        if autoscaler is not None:
            await management.json("PUT", "/autoscaler", {"paused": True, "dry_run": False})
        await _scale(management, model, 1, max(int(described["maxWorkers"]), 1))
        if placed is not None:
            await _place(management, name, {accelerator: 1})
        yield
    finally:
        try:
            if placed is not None:
                await _place(management, name, placed)
            await _scale(management, model, int(described["minWorkers"]), int(described["maxWorkers"]))
        finally:
            if autoscaler is not None:
                before = {key: autoscaler[key] for key in ("paused", "dry_run")}
                await management.json("PUT", "/autoscaler", before)


async def _scale(management: Server, model: str, low: int, high: int) -> None:
    # max_worker caps what runs: first down to `low`, then the ceiling as it was.
    path = f"/models/{quote(model)}"
    await management.ask("PUT", f"{path}?min_worker={low}&max_worker={low}&synchronous=true")
    if high != low:
        await management.ask("PUT", f"{path}?min_worker={low}&max_worker={high}&synchronous=true")


async def _place(management: Server, name: str, workers: dict[str, int]) -> None:
    parts = [{"accelerator": accelerator, "numReplicas": count} for accelerator, count in workers.items()]
    await management.json("POST", "/update", {"allocations": {name: {"parts": parts}}})


def _placed(autoscaler: dict[str, Any] | None, name: str, accelerator: str) -> dict[str, int] | None:
    """Where the model's workers are; None when no autoscaler knows it: then it is where it can only be."""
    workers = {f"{each['model']}/{each['version']}": each["workers"] for each in (autoscaler or {}).get("models", ())}
    if autoscaler is None or name not in workers:
        return None
    if accelerator not in (names := [each["name"] for each in autoscaler["accelerators"]]):
        raise ValueError(f"the server has no accelerator {accelerator}, but {', '.join(names)}")
    return dict(workers[name])


async def _autoscaler(management: Server) -> dict[str, Any] | None:
    """None: the server has none."""
    try:
        state: dict[str, Any] = await management.json("GET", "/autoscaler")
    except RequestFailed:
        return None
    return state
