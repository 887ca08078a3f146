"""The Falcon API: text in, tokens out in HTTP chunks as they are made.

`POST /inference/{model}` answers raw text, `POST /chat/{model}` server-sent events with the whole message so far. Any model
with a text engine has both. Errors are JSON with the one key `message`. Not for: what a body may say (`handlers.falcon`),
nor its JWT proxy (`gateway`).
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable

from ..handlers.falcon import END, STREAM, Asked, Refused, one_turn, read
from ..handlers.generation import GenerationEvent
from .dispatch import ModelQueue
from .errors import NoTicket, QueueFull, RequestError, headers_of, status_of
from .generating import generate
from .models import Models
from .options import FrontendOptions
from .web import Request, Route

OVERLOADED = "Service overloaded, try again later."
PATIENCE = tuple(0.025 * 2**step for step in range(8))  # seconds between tries while the queue is full: 6.4 in all
JITTER = 0.025


def sse(event: str, message: str) -> str:
    return f"event: {event}\ndata: {json.dumps({'message': message}, ensure_ascii=False)}\n\n"


def routes(models: Models, options: FrontendOptions) -> list[Route]:
    async def inference(request: Request) -> None:
        """POST /inference/{model}: the new text, piece by piece, then the end marker."""

        async def respond(queue: ModelQueue) -> None:
            asked = read(request.body, request.header("content-type") or "")
            before = asked.before
            async for event in patiently(models, queue, asked, request):
                await begin(request)
                await request.write(before + event.text)
                before = ""
            await request.write(END)

        await guarded(request, respond)

    async def chat(request: Request) -> None:
        """POST /chat/{model}: events `answer` with the whole message so far, then `close`."""

        async def respond(queue: ModelQueue) -> None:
            asked = read(request.body, request.header("content-type") or "", one_turn)
            message = asked.before
            async for event in patiently(models, queue, asked, request):
                await begin(request)
                message += event.text
                if event.text:
                    await request.write(sse("answer", message))
            await request.write(sse("close", "Connection closed"))

        await guarded(request, respond)

    async def guarded(request: Request, respond: Callable[[ModelQueue], Awaitable[None]]) -> None:
        """Errors in this API's words; once the answer has begun they can only cut it off."""
        try:
            queue = models.find(request.rest)
            await respond(queue)
            await request.finish()
        except Refused as error:
            await request.answer(400, {"message": str(error)})
        except RequestError as error:
            if request.started:
                request.cut()
                return
            full = isinstance(error, QueueFull | NoTicket)
            await request.answer(
                status_of(error), {"message": OVERLOADED if full else str(error)}, headers=tuple(headers_of(error))
            )

    async def not_allowed(request: Request) -> None:
        await request.answer(
            405, {"message": f"{request.method} is not allowed here; POST is."}, headers=(("Allow", "POST"),)
        )

    async def alive(request: Request) -> None:
        """GET / and /health, open to anybody."""
        models.refresh()
        ready = models.table.ready
        await request.answer(200 if ready else 500, "OK" if ready else "Unhealthy", "text/plain")

    return [
        Route("POST", "/inference/", inference, client_names_request=True),
        Route("*", "/inference/", not_allowed),
        Route("POST", "/chat/", chat, client_names_request=True),
        Route("*", "/chat/", not_allowed),
        Route("GET", "/", alive, needs_key=False),
        Route("GET", "/health", alive, needs_key=False),
    ]


async def patiently(models: Models, queue: ModelQueue, asked: Asked, request: Request) -> AsyncIterator[GenerationEvent]:
    """While the queue is full, the request waits and tries again, at ever longer intervals; then QueueFull."""
    for pause in (*PATIENCE, None):
        try:
            async for event in generate(models, queue, asked.generation, request):
                yield event
            return
        except (QueueFull, NoTicket):
            if pause is None:
                raise
        await asyncio.sleep(pause + random.uniform(0, JITTER))


async def begin(request: Request) -> None:
    """The status line goes out with the first token: until then an error can still be told."""
    if not request.started:
        await request.start(200, STREAM)
