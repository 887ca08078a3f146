"""OpenAI's API on every model with a text engine: /v1/models, /v1/completions, /v1/chat/completions, /v1/embeddings, and the
routes that its clients use beside them: /tokenize, /detokenize, /tokenizer_info. Clients of TorchServe's LLM launcher find them
below /predictions/{model}/{version}.

Bodies are read by `openai_schema`, answers worded by `openai_answers`; this is the HTTP between them. Errors come in OpenAI's
envelope, whatever raised them.
"""

import base64
import functools
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import msgspec

from ..handlers.generation import EmbedRequest, TokenizeRequest
from . import generating, openai_text
from . import openai_body as body
from . import openai_schema as schema
from .dispatch import ModelQueue
from .errors import (
    MethodNotAllowed,
    ModelError,
    ModelNotFound,
    QueueFull,
    RequestError,
    Unauthorized,
    brief,
    headers_of,
    status_of,
)
from .exchange import Exchange
from .models import Models
from .openai_body import Invalid
from .openai_text import sse
from .openai_tools import tools_of
from .options import FrontendOptions
from .web import Request, Route

# HTTP status → OpenAI's error type; of others it depends on whose fault they are
TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "invalid_request_error", 429: "rate_limit_error", 503: "service_unavailable",
}  # fmt: skip
CODES: dict[type[Exception], str] = {ModelNotFound: "model_not_found", Unauthorized: "invalid_api_key"}
PATHS = ("/v1", "/tokenize", "/detokenize", "/tokenizer_info")  # beside those below /v1/


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def owns(url: bytes) -> bool:
    """Whether errors there have this API's words: everywhere below /v1 but at KServe's predictions."""
    path = unquote(url.partition(b"?")[0].decode("latin-1"), errors="replace")
    below = path.startswith("/v1/") or (path.startswith("/predictions/") and "/v1/" in path)
    return path in PATHS or (below and not path.endswith((":predict", ":explain")))


def refuse(exchange: Exchange, error: RequestError | None, options: FrontendOptions) -> None:
    """Answers what never came to one of the handlers below; None: a fault of ours."""
    status, words, headers = failure(error, options) if error else (500, error_body(500, "Internal server error."), ())
    exchange.respond(status, msgspec.json.encode(words), "application/json", headers)


def failure(error: Exception, options: FrontendOptions) -> tuple[int, dict[str, Any], tuple[tuple[str, str], ...]]:
    """Status, body and headers for what went wrong."""
    if isinstance(error, Invalid):
        return error.status, error_body(error.status, str(error), error.param), ()
    assert isinstance(error, RequestError)
    status = options.queue_full_status if isinstance(error, QueueFull) else status_of(error)
    code = CODES.get(type(error))
    param = error.param if isinstance(error, ModelError) else None
    return status, error_body(status, str(error), param, code), tuple(headers_of(error))


def guarded(
    handler: Callable[[Request], Awaitable[None]], options: FrontendOptions
) -> Callable[[Request], Awaitable[None]]:
    @functools.wraps(handler)
    async def wrapped(request: Request) -> None:
        try:
            await handler(request)
        except MethodNotAllowed:
            raise  # the path is none of this API's
        except (Invalid, RequestError) as error:
            status, words, headers = failure(error, options)
            if request.started:  # a stream: the error is its last event, and the missing [DONE] tells
                await request.write(sse(words))
                request.cut()
            else:
                await request.answer(status, words, headers=headers)

    return wrapped


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
        """GET /v1/models; KServe's v1 clients read `models`, which has those without a text engine too."""
        data = [self._described(name) for name in sorted(self._names())]
        await request.answer(200, {"object": "list", "data": data, "models": sorted(self._models.table.models)})

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
        await openai_text.answer(self._models, request, schema.completion(request.body))

    async def chat(self, request: Request) -> None:
        """POST /v1/chat/completions"""
        await openai_text.answer(self._models, request, schema.chat(request.body))

    # vectors and tokens

    async def embed(self, request: Request) -> None:
        """POST /v1/embeddings: texts or tokens in, floats or base64 of little-endian float32 out."""
        given = body.parse(request.body)
        name = body.text(given, "model")
        wanted = given.get("input")
        inputs: list[str | list[int]]
        if isinstance(wanted, str) or body.is_tokens(wanted):
            inputs = [wanted]  # type: ignore[list-item]
        elif isinstance(wanted, list) and wanted and all(isinstance(item, str) or body.is_tokens(item) for item in wanted):
            inputs = wanted
        else:
            raise Invalid(
                "input: a string, a list of strings, a list of tokens or a list of such lists is wanted.", "input"
            )
        encoding = given.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            raise Invalid("encoding_format: float or base64 is wanted.", "encoding_format")
        dimensions = body.whole(given, "dimensions", 1, 1, 1 << 20) if "dimensions" in given else None
        answer = await generating.embed(
            self._models,
            self._find(request, name),
            EmbedRequest(inputs=inputs, dimensions=dimensions, salt=schema.salt_of(given)),
            request,
        )
        data = [
            {"object": "embedding", "index": index, "embedding": vector if encoding == "float" else packed(vector)}
            for index, vector in enumerate(answer.embeddings)
        ]
        usage = {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens}
        await request.answer(200, {"object": "list", "data": data, "model": name, "usage": usage})

    async def tokenize(self, request: Request) -> None:
        """POST /tokenize: of a prompt, or of messages with all that a chat puts into the template."""
        given = body.parse(request.body)
        if "messages" in given:
            continued = body.flag(given, "continue_final_message")
            wanted = TokenizeRequest(
                messages=schema.messages_of(given),
                tools=[{"type": "function", "function": function} for function in tools_of(given).functions] or None,
                add_generation_prompt=body.flag(given, "add_generation_prompt", not continued),
                continue_final_message=continued,
                template_options=schema.options_of(given, "chat_template_kwargs"),
            )
        else:
            special = body.flag(given, "add_special_tokens", True)
            wanted = TokenizeRequest(prompt=body.text(given, "prompt"), add_special_tokens=special)
        answer = await generating.tokenize(self._models, self._queue(request, given), wanted, request)
        ids = answer.ids or []
        await request.answer(200, {"tokens": ids, "count": len(ids), "max_model_len": answer.max_model_len})

    async def detokenize(self, request: Request) -> None:
        """POST /detokenize"""
        given = body.parse(request.body)
        tokens = body.token_list(given, "tokens")
        answer = await generating.tokenize(self._models, self._queue(request, given), TokenizeRequest(ids=tokens), request)
        await request.answer(200, {"prompt": answer.text or ""})

    async def tokenizer_info(self, request: Request) -> None:
        """GET /tokenizer_info"""
        answer = await generating.tokenize(
            self._models, self._queue(request, dict(request.query)), TokenizeRequest(), request
        )
        await request.answer(
            200, dict(answer.info) | {"vocab_size": answer.vocab_size, "max_model_len": answer.max_model_len}
        )

    async def below_predictions(self, request: Request) -> None:
        """TorchServe's place for a language model's routes: /predictions/{model}/{version}/v1/…"""
        match request.rest.split("/"):
            case [name, version, "v1", *rest] if name:
                queue = self._models.find(name, version)
            case _:
                raise MethodNotAllowed()
        match "/".join(rest):
            case "models":
                await request.answer(200, {"object": "list", "data": [self._described(name)]})
            case "completions":
                await openai_text.answer(self._models, request, schema.completion(request.body), queue)
            case "chat/completions":
                await openai_text.answer(self._models, request, schema.chat(request.body), queue)
            case _:
                await self.unknown(request)

    async def unknown(self, request: Request) -> None:
        """Anything else below /v1, which only this API's clients ask for."""
        raise Invalid(f"There is no {request.method} {brief(request.path)} here.", status=404)

    def _find(self, request: Request, name: str) -> ModelQueue:
        request.may_use(name)
        return self._models.find(name)

    def _queue(self, request: Request, given: dict[str, Any]) -> ModelQueue:
        """These routes may leave the model out when there is only one."""
        name = given.get("model")
        if name is None:
            names = self._names()
            if len(names) != 1:
                raise Invalid(f"model is required: there are {len(names)} models with a tokenizer.", "model")
            name = names[0]
        return self._find(request, str(name))


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
        ("*", "/v1/", api.unknown),
        ("POST", "/tokenize", api.tokenize),
        ("POST", "/detokenize", api.detokenize),
        ("GET", "/tokenizer_info", api.tokenizer_info),
    ]
    found = [
        Route(method, path, guarded(handler, options), model_in_body=True, client_names_request=True)
        for method, path, handler in table
    ]
    return [*found, Route("*", "/predictions/", guarded(api.below_predictions, options))]
