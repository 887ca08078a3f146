"""The Falcon API: text in, tokens out in HTTP chunks as they are made.

`POST /inference/{model}` answers raw text, `POST /chat/{model}` server-sent events with the whole message so far. Any model
with a text engine has both. Errors are JSON with the one key `message`. Not for: its JWT proxy, which is `gateway`.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..handlers.generation import GenerationRequest, SamplingParams
from .dispatch import ModelQueue
from .errors import NoTicket, QueueFull, RequestError, headers_of, status_of
from .generating import generate
from .models import Models
from .options import FrontendOptions
from .web import Request, Route

END = "<|endoftext|>"  # closes every answer, whatever ended it; clients strip it
STREAM = "text/event-stream; charset=utf-8"
OVERLOADED = "Service overloaded, try again later."
MAX_NEW_TOKENS = 2048


class Refused(Exception):
    """What the body has wrong; the message is the answer."""


@dataclass(frozen=True)
class Number:
    """A numeric parameter: numbers written as text are taken, booleans and fractions of whole numbers are not."""

    name: str
    default: float
    low: float
    high: float
    whole: bool = False

    def read(self, body: dict[str, Any]) -> float:
        value = body.get(self.name, self.default)
        wanted = "int" if self.whole else "float"
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError
            number = float(value)
            if self.whole and number != int(number):
                raise ValueError
        except (ValueError, OverflowError):
            raise Refused(f"{self.name}: {type(value).__name__} {value!r} is not of type {wanted}") from None
        return int(number) if self.whole else number

    def check(self, number: float) -> None:
        if math.isnan(number) or not self.low <= number <= self.high:
            raise Refused(f"{self.name}={number:g} is not between {self.low:g} and {self.high:g}")


NUMBERS = (
    Number("temperature", 1.0, 0.01, 100.0),
    Number("top_p", 0.9, 0.01, 1.0),
    Number("top_k", 10, 1, 1000, whole=True),
    Number("max_tokens", 128, 1, MAX_NEW_TOKENS, whole=True),
)


def read(body: bytes, content_type: str, dress: Callable[[str], str] = lambda text: text) -> GenerationRequest:
    """The checks in the original's order: content type, types, text, bounds, the rest. Refused names the first failure."""
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise Refused("Request was not JSON")
    given = parse(body)
    text = given.get("text")
    if text is not None and not isinstance(text, str):
        raise Refused(f"text: {type(text).__name__} is not of type str")
    numbers = {number.name: number.read(given) for number in NUMBERS}
    stop = given.get("stop_sequence")
    if stop is not None and not isinstance(stop, str | int | float):
        raise Refused(f"stop_sequence: {type(stop).__name__} is not of type str")
    echo = flag(given, "return_prompt")
    if not text:
        raise Refused("the parameter 'text' is required and must not be empty")
    for number in NUMBERS:
        number.check(numbers[number.name])
    seed = given.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise Refused(f"seed: {type(seed).__name__} is not of type int")
    sampling = SamplingParams(
        max_tokens=int(numbers["max_tokens"]),
        temperature=numbers["temperature"],
        top_k=int(numbers["top_k"]),
        top_p=numbers["top_p"],
        stop=(str(stop),) if stop not in (None, "") else (),
        seed=seed,
    )
    return GenerationRequest(prompt=dress(text.replace(END, "")), sampling=sampling, echo=echo)


def parse(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise Refused("the body must be a JSON object")
    return given


def flag(given: dict[str, Any], name: str) -> bool:
    value = given.get(name)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is not None and not isinstance(value, bool | int):
        raise Refused(f"{name}: {type(value).__name__} is not of type bool")
    return bool(value)


def one_turn(text: str) -> str:
    """A chat's first turn in the prompt format of the original."""
    return f"User: {text}\nAI: "


def sse(event: str, message: str) -> str:
    return f"event: {event}\ndata: {json.dumps({'message': message}, ensure_ascii=False)}\n\n"


def routes(models: Models, options: FrontendOptions) -> list[Route]:
    async def inference(request: Request) -> None:
        """POST /inference/{model}: the new text, piece by piece, then the end marker."""

        async def respond(queue: ModelQueue) -> None:
            wanted = read(request.body, request.header("content-type") or "")
            async for event in generate(models, queue, wanted, request):
                await begin(request)
                await request.write(event.text)
            await begin(request)
            await request.write(END)

        await guarded(request, respond)

    async def chat(request: Request) -> None:
        """POST /chat/{model}: events `answer` with the whole message so far, then `close`."""

        async def respond(queue: ModelQueue) -> None:
            wanted = read(request.body, request.header("content-type") or "", one_turn)
            message = ""
            async for event in generate(models, queue, wanted, request):
                await begin(request)
                message += event.text
                if event.text:
                    await request.write(sse("answer", message))
            await begin(request)
            await request.write(sse("close", "Connection closed"))

        await guarded(request, respond)

    async def guarded(request: Request, respond: Callable[[ModelQueue], Any]) -> None:
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
        ready = models.table.healthy and not models.table.draining
        await request.answer(200 if ready else 500, "OK" if ready else "Unhealthy", "text/plain")

    return [
        Route("POST", "/inference/", inference),
        Route("*", "/inference/", not_allowed),
        Route("POST", "/chat/", chat),
        Route("*", "/chat/", not_allowed),
        Route("GET", "/", alive, needs_key=False),
        Route("GET", "/health", alive, needs_key=False),
    ]


async def begin(request: Request) -> None:
    """The status line goes out with the first token: until then an error can still be told."""
    if not request.started:
        await request.start(200, STREAM)
