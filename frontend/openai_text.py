"""/v1/completions and /v1/chat/completions: an answer whole, or as server-sent events while it is made.

Several prompts of one request run beside each other. Not for: reading bodies (`openai_schema`) or wording choices
(`openai_answers`).
"""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import msgspec

from ..handlers.generation import GenerationEvent, Usage
from . import openai_answers as answers
from .dispatch import ModelQueue
from .generating import generate
from .models import Models
from .openai_schema import TextRequest
from .openai_tools import Listener
from .web import Request

PROMPTS_AT_ONCE = 32  # of one request; the rest wait here, so that one client does not fill the model's queue
EVENTS_AHEAD = 64  # of all prompts, while the client reads slowly


async def answer(models: Models, request: Request, wanted: TextRequest, queue: ModelQueue | None = None) -> None:
    """By `queue`'s model, whatever the body calls it; None: the body's."""
    if queue is None:
        request.may_use(wanted.model)
        queue = models.find(wanted.model)
    if wanted.streaming.wanted:
        await stream(models, queue, request, wanted)
    else:
        await whole(models, queue, request, wanted)


async def whole(models: Models, queue: ModelQueue, request: Request, wanted: TextRequest) -> None:
    async with aclosing(events_of(models, queue, request, wanted)) as events:
        found = sorted([pair async for pair in events], key=lambda pair: pair[0])
    usage = Usage(0, 0)
    for _, event in found:
        usage = answers.add(usage, event.usage) if event.usage else usage
    choices = [answers.choice(wanted, index, event) for index, event in found]
    head = head_of(request, wanted, "chat.completion" if wanted.chat else "text_completion")
    of_prompt = answers.of_prompt(wanted, found[0][1]) if wanted.chat else {}
    await request.answer(200, head | {"choices": choices, "usage": answers.usage_of(usage), **of_prompt})


async def stream(models: Models, queue: ModelQueue, request: Request, wanted: TextRequest) -> None:
    said = Stream(wanted, head_of(request, wanted, "chat.completion.chunk" if wanted.chat else "text_completion"))
    async with aclosing(events_of(models, queue, request, wanted)) as events:
        async for index, event in events:
            if not request.started:  # until the first event an error can still be told by a status
                await request.start(200, "text/event-stream; charset=utf-8")
            await request.write(b"".join(map(sse, said.chunks(index, event))))
    await request.write(b"".join([*map(sse, said.last()), b"data: [DONE]\n\n"]))
    await request.finish()


class Stream:
    """The chunks of one answer, made from its events."""

    def __init__(self, wanted: TextRequest, head: dict[str, Any]) -> None:
        self._wanted, self._head = wanted, head
        self._usages: dict[int, Usage] = {}  # of each prompt, so far
        self._letters: dict[int, int] = {}  # of each choice, so far
        self._listeners: dict[int, Listener] = {}

    def chunks(self, index: int, event: GenerationEvent) -> Iterator[dict[str, Any]]:
        if event.usage:
            self._usages[index // self._wanted.requests[0].sampling.n] = event.usage
        choices = self._choices(index, event)
        if self._wanted.chat and index not in self._letters:
            choices = [answers.role_choice(index), *choices]
        self._letters[index] = self._letters.get(index, 0) + len(event.text)
        for choice in choices:
            yield self._head | {"choices": [choice]} | self._extra()

    def last(self) -> list[dict[str, Any]]:
        usage = self._wanted.streaming.usage
        return [self._head | {"choices": [], "usage": self._usage()}] if usage else []

    def _choices(self, index: int, event: GenerationEvent) -> list[dict[str, Any]]:
        wanted = self._wanted
        if not wanted.tools.functions:
            return [answers.chunk_choice(wanted, index, event, self._letters.get(index, 0))]
        listener = self._listeners.setdefault(index, Listener(wanted.tools))
        shown = listener.hear(event.text)
        if event.finish_reason is None:
            event = msgspec.structs.replace(event, text=shown)
            return [answers.chunk_choice(wanted, index, event, 0)] if shown else []
        rest, calls = listener.end()
        finish = "tool_calls" if calls else event.finish_reason
        event = msgspec.structs.replace(event, text=shown + rest, finish_reason=finish)
        last = answers.chunk_choice(wanted, index, event, 0)
        return [answers.calls_choice(index, calls), last] if calls else [last]

    def _usage(self) -> dict[str, Any]:
        return answers.usage_of(functools.reduce(answers.add, self._usages.values(), Usage(0, 0)))

    def _extra(self) -> dict[str, Any]:
        streaming = self._wanted.streaming
        if streaming.continuous_usage:
            return {"usage": self._usage()}
        return {"usage": None} if streaming.usage else {}


async def events_of(
    models: Models, queue: ModelQueue, request: Request, wanted: TextRequest
) -> AsyncGenerator[tuple[int, GenerationEvent], None]:
    """Those of all prompts as they come, each with its choice's number."""
    if len(wanted.requests) == 1:
        async for event in generate(models, queue, wanted.requests[0], request):
            yield event.index, event
        return
    arrived: asyncio.Queue[tuple[int, GenerationEvent] | None] = asyncio.Queue(EVENTS_AHEAD)
    places = asyncio.Semaphore(PROMPTS_AT_ONCE)

    async def pump(at: int) -> None:
        async with places:
            async for event in generate(models, queue, wanted.requests[at], request):
                await arrived.put((at * wanted.requests[at].sampling.n + event.index, event))

    async def all_of_them() -> None:
        try:
            with first_error():
                async with asyncio.TaskGroup() as group:
                    for at in range(len(wanted.requests)):
                        group.create_task(pump(at))
        finally:
            await arrived.put(None)

    task = asyncio.ensure_future(all_of_them())
    try:
        while (pair := await arrived.get()) is not None:
            yield pair
        await task
    finally:
        task.cancel()


@contextmanager
def first_error() -> Iterator[None]:
    """A group's first error in place of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def head_of(request: Request, wanted: TextRequest, kind: str) -> dict[str, Any]:
    prefix = "chatcmpl" if wanted.chat else "cmpl"
    return {"id": f"{prefix}-{request.request_id}", "object": kind, "created": int(time.time()), "model": wanted.model}


def sse(document: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"
