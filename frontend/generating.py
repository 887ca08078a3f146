"""What every text protocol shares: a typed request goes to a model's worker, typed events or one typed answer come back.

Not for: any protocol's own words; `openai`, `text_api` and `sax` translate.
"""

from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec

from ..handlers.generation import (
    EmbedAnswer,
    EmbedRequest,
    GenerationEvent,
    GenerationRequest,
    ScoreAnswer,
    ScoreRequest,
    TokenizeAnswer,
    TokenizeRequest,
)
from .dispatch import ModelQueue
from .errors import BadRequest, ModelError
from .models import Models
from .web import Request

T = TypeVar("T")
pack = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(GenerationEvent).decode


def encode(wanted: object) -> bytes:
    """For the worker. Templates' options and tools' arguments may hold anything."""
    try:
        return pack(wanted)
    except OverflowError:
        raise BadRequest("The request holds a whole number of more than 64 bits.") from None
    except RecursionError:
        raise BadRequest("The request holds too many lists or objects in one another.") from None


class GenerationFailed(ModelError):
    """The engine gave up in the middle of an answer."""

    def __init__(self, message: str) -> None:
        super().__init__(500, "InternalServerException", message)


async def generate(
    models: Models, queue: ModelQueue, wanted: GenerationRequest, request: Request
) -> AsyncIterator[GenerationEvent]:
    """The events as they come; leaving the loop early cancels the generation in the worker."""
    async with models.stream(
        queue,
        "generate",
        encode(wanted),
        request_id=request.request_id,
        headers=request.raw_headers,
        priority=wanted.priority,
        whole=not wanted.stream,
    ) as stream:
        async for chunk in stream:
            event = decode_event(chunk)
            if event.error or event.failed:
                raise GenerationFailed(event.error or "The generation was given up.")
            yield event


async def score(models: Models, queue: ModelQueue, wanted: ScoreRequest, request: Request) -> ScoreAnswer:
    return await _ask(models, queue, "score", wanted, request, ScoreAnswer)


async def embed(models: Models, queue: ModelQueue, wanted: EmbedRequest, request: Request) -> EmbedAnswer:
    return await _ask(models, queue, "embed", wanted, request, EmbedAnswer)


async def tokenize(models: Models, queue: ModelQueue, wanted: TokenizeRequest, request: Request) -> TokenizeAnswer:
    return await _ask(models, queue, "tokenize", wanted, request, TokenizeAnswer)


async def _ask(models: Models, queue: ModelQueue, operation: str, wanted: object, request: Request, kind: type[T]) -> T:
    answer = await models.call(queue, operation, encode(wanted), request_id=request.request_id, headers=request.raw_headers)
    return msgspec.msgpack.decode(answer.body, type=kind)
