"""OpenAI's API on every model with a text engine: /v1/models, /v1/completions, /v1/chat/completions, /v1/embeddings, and the
routes that its clients use beside them: /tokenize, /detokenize, /tokenizer_info.

Bodies are read by `openai_schema`, answers worded by `openai_answers`; this is the HTTP between them. Errors come in OpenAI's
envelope, whatever raised them.
"""

import asyncio
import base64
import functools
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from ..handlers.generation import EmbedRequest, GenerationEvent, TokenizeRequest, Usage
from . import generating
from . import openai_answers as answers
from . import openai_schema as schema
from .dispatch import ModelQueue
from .errors import ModelError, ModelNotFound, RequestError, headers_of, status_of
from .models import Models
from .openai_schema import Invalid, TextRequest
from .options import FrontendOptions
from .web import Request, Route

# HTTP status → OpenAI's error type; anything else is a server_error
TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "invalid_request_error", 429: "rate_limit_error", 503: "service_unavailable",
}  # fmt: skip


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": TYPES.get(status, "server_error"), "param": param, "code": code}}


def failure(error: Exception) -> tuple[int, dict[str, Any], tuple[tuple[str, str], ...]]:
    """Status, body and headers for what went wrong."""
    if isinstance(error, Invalid):
        return error.status, error_body(error.status, str(error), error.param), ()
    assert isinstance(error, RequestError)
    status = status_of(error)
    code = "model_not_found" if isinstance(error, ModelNotFound) else None
    param = error.param if isinstance(error, ModelError) else None
    return status, error_body(status, str(error), param, code), tuple(headers_of(error))


def guarded(handler: Callable[[Request], Awaitable[None]]) -> Callable[[Request], Awaitable[None]]:
    @functools.wraps(handler)
    async def wrapped(request: Request) -> None:
        try:
            await handler(request)
        except (Invalid, RequestError) as error:
            status, body, headers = failure(error)
            if request.started:  # a stream: the error is its last event, and the missing [DONE] tells
                await request.write(sse(body))
                request.cut()
            else:
                await request.answer(status, body, headers=headers)

    return wrapped


def sse(document: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


class OpenAI:
    def __init__(self, models: Models) -> None:
        self._models = models
        self._started = int(time.time())  # what `created` of a model says: a date, not a duration

    # the models

    def _names(self) -> list[str]:
        self._models.refresh()
        return [
            name
            for name, versions in self._models.table.models.items()
            if any(speaks(route.capabilities) for route in versions.values())
        ]

    def _described(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "flambeau",
            "root": name,
            "parent": None,
        }

    async def list_models(self, request: Request) -> None:
        """GET /v1/models"""
        await request.answer(200, {"object": "list", "data": [self._described(name) for name in sorted(self._names())]})

    async def one_model(self, request: Request) -> None:
        """GET /v1/models/{id}, with the longest context as `max_model_len`; KServe's v1 clients ask here for readiness."""
        queue = self._models.find(request.rest)
        described = self._described(request.rest) | {"name": request.rest, "ready": bool(queue.route.replicas)}
        if speaks(queue.route.capabilities) and queue.route.replicas:
            facts = await generating.tokenize(self._models, queue, TokenizeRequest(), request)
            described["max_model_len"] = facts.max_model_len
        await request.answer(200, described)

    # text

    async def complete(self, request: Request) -> None:
        """POST /v1/completions"""
        await self._text(request, schema.completion(request.body))

    async def chat(self, request: Request) -> None:
        """POST /v1/chat/completions"""
        await self._text(request, schema.chat(request.body))

    async def _text(self, request: Request, wanted: TextRequest) -> None:
        queue = self._models.find(wanted.model)
        if wanted.streaming.wanted:
            await self._stream(request, queue, wanted)
        else:
            await self._whole(request, queue, wanted)

    def _head(self, request: Request, wanted: TextRequest, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if wanted.chat else "text_completion"
        prefix = "chatcmpl" if wanted.chat else "cmpl"
        return {"id": f"{prefix}-{request.request_id}", "object": kind, "created": int(time.time()), "model": wanted.model}

    async def _whole(self, request: Request, queue: ModelQueue, wanted: TextRequest) -> None:
        async def one(at: int) -> list[tuple[int, GenerationEvent]]:
            generation = wanted.requests[at]
            events = [event async for event in generating.generate(self._models, queue, generation, request)]
            return [(at * generation.sampling.n + event.index, event) for event in events]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(at)) for at in range(len(wanted.requests))]
        found = sorted((pair for task in tasks for pair in task.result()), key=lambda pair: pair[0])
        usage = functools.reduce(answers.add, [event.usage for _, event in found if event.usage], Usage(0, 0))
        body = self._head(request, wanted, chunk=False) | {
            "choices": [answers.choice(wanted, index, event) for index, event in found],
            "usage": answers.usage_of(usage),
        }
        await request.answer(200, body)

    async def _stream(self, request: Request, queue: ModelQueue, wanted: TextRequest) -> None:
        head = self._head(request, wanted, chunk=True)
        usage, letters, texts = Usage(0, 0), dict[int, int](), dict[int, str]()
        async for at, event in self._events(request, queue, wanted):
            index = at * wanted.requests[at].sampling.n + event.index
            if not request.started:
                await request.start(200, "text/event-stream; charset=utf-8")
            if wanted.chat and index not in letters:
                await request.write(sse(head | {"choices": [answers.role_choice(index)]}))
            offset = letters.get(index, 0)
            letters[index] = offset + len(event.text)
            usage = answers.add(usage, event.usage) if event.usage else usage
            for choice in self._chunk_choices(wanted, index, event, offset, texts):
                extra = (
                    {"usage": answers.usage_of(usage)}
                    if wanted.streaming.continuous_usage
                    else {"usage": None}
                    if wanted.streaming.usage
                    else {}
                )
                await request.write(sse(head | {"choices": [choice]} | extra))
        if wanted.streaming.usage:
            await request.write(sse(head | {"choices": [], "usage": answers.usage_of(usage)}))
        await request.write(b"data: [DONE]\n\n")
        await request.finish()

    def _chunk_choices(
        self, wanted: TextRequest, index: int, event: GenerationEvent, offset: int, texts: dict[int, str]
    ) -> list[dict[str, Any]]:
        """A chat with tools is held back until it is known whether it is text or a call."""
        if not wanted.tools:
            return [answers.chunk_choice(wanted, index, event, offset)]
        texts[index] = texts.get(index, "") + event.text
        if event.finish_reason is None:
            return []
        calls = answers.tool_calls(wanted, texts[index])
        last = msgspec.structs.replace(
            event, text="" if calls else texts[index], finish_reason="tool_calls" if calls else event.finish_reason
        )
        return [*([answers.calls_choice(index, calls)] if calls else []), answers.chunk_choice(wanted, index, last, 0)]

    async def _events(
        self, request: Request, queue: ModelQueue, wanted: TextRequest
    ) -> AsyncIterator[tuple[int, GenerationEvent]]:
        """Those of all prompts as they come, each with its prompt's number."""
        if len(wanted.requests) == 1:
            async for event in generating.generate(self._models, queue, wanted.requests[0], request):
                yield 0, event
            return
        arrived: asyncio.Queue[tuple[int, GenerationEvent] | None] = asyncio.Queue(maxsize=64)

        async def pump(at: int) -> None:
            async for event in generating.generate(self._models, queue, wanted.requests[at], request):
                await arrived.put((at, event))

        async def all_of_them() -> None:
            try:
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

    # vectors and tokens

    async def embed(self, request: Request) -> None:
        """POST /v1/embeddings: texts or tokens in, floats or base64 of little-endian float32 out."""
        given = schema.parse(request.body)
        name = schema.text(given, "model")
        wanted = given.get("input")
        inputs: list[str | list[int]]
        if isinstance(wanted, str) or schema.is_tokens(wanted):
            inputs = [wanted]  # type: ignore[list-item]
        elif (
            isinstance(wanted, list) and wanted and all(isinstance(item, str) or schema.is_tokens(item) for item in wanted)
        ):
            inputs = wanted
        else:
            raise Invalid(
                "input: a string, a list of strings, a list of tokens or a list of such lists is wanted.", "input"
            )
        encoding = given.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            raise Invalid("encoding_format: float or base64 is wanted.", "encoding_format")
        dimensions = schema.whole(given, "dimensions", 1, 1, 1 << 20) if "dimensions" in given else None
        answer = await generating.embed(
            self._models, self._models.find(name), EmbedRequest(inputs=inputs, dimensions=dimensions), request
        )
        data = [
            {"object": "embedding", "index": index, "embedding": vector if encoding == "float" else packed(vector)}
            for index, vector in enumerate(answer.embeddings)
        ]
        usage = {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens}
        await request.answer(200, {"object": "list", "data": data, "model": name, "usage": usage})

    async def tokenize(self, request: Request) -> None:
        """POST /tokenize"""
        given = schema.parse(request.body)
        if "messages" in given:
            wanted = TokenizeRequest(messages=schema.messages_of(given))
        else:
            special = schema.flag(given, "add_special_tokens", True)
            wanted = TokenizeRequest(prompt=schema.text(given, "prompt"), add_special_tokens=special)
        answer = await generating.tokenize(self._models, self._queue(given), wanted, request)
        ids = answer.ids or []
        await request.answer(200, {"tokens": ids, "count": len(ids), "max_model_len": answer.max_model_len})

    async def detokenize(self, request: Request) -> None:
        """POST /detokenize"""
        given = schema.parse(request.body)
        tokens = schema.token_list(given, "tokens")
        answer = await generating.tokenize(self._models, self._queue(given), TokenizeRequest(ids=tokens), request)
        await request.answer(200, {"prompt": answer.text or ""})

    async def tokenizer_info(self, request: Request) -> None:
        """GET /tokenizer_info"""
        answer = await generating.tokenize(self._models, self._queue(dict(request.query)), TokenizeRequest(), request)
        await request.answer(
            200, dict(answer.info) | {"vocab_size": answer.vocab_size, "max_model_len": answer.max_model_len}
        )

    def _queue(self, given: dict[str, Any]) -> ModelQueue:
        """These routes may leave the model out when there is only one."""
        name = given.get("model")
        if name is None:
            names = self._names()
            if len(names) != 1:
                raise Invalid(f"model is required: there are {len(names)} models with a tokenizer.", "model")
            name = names[0]
        return self._models.find(str(name))


def speaks(capabilities: list[str]) -> bool:
    return bool({"generate", "chat", "embed"} & set(capabilities))


def packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def routes(models: Models, options: FrontendOptions) -> list[Route]:
    api = OpenAI(models)
    table: list[tuple[str, str, Callable[[Request], Awaitable[None]]]] = [
        ("GET", "/v1/models", api.list_models),
        ("GET", "/v1/models/", api.one_model),
        ("POST", "/v1/completions", api.complete),
        ("POST", "/v1/chat/completions", api.chat),
        ("POST", "/v1/embeddings", api.embed),
        ("POST", "/tokenize", api.tokenize),
        ("POST", "/detokenize", api.detokenize),
        ("GET", "/tokenizer_info", api.tokenizer_info),
    ]
    return [Route(method, path, guarded(handler)) for method, path, handler in table]
