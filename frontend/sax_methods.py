"""What Sax's users ask of models: generate (also as a stream), score, embed, run.

Each reads its fields, has `sax_models` find the model, and words the answer. Not for: the cell's own verbs, which are `sax`'s.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ..handlers.generation import EmbedRequest, GenerationEvent, ScoreRequest
from ..management.cell.errors import SaxError, invalid
from . import generating, sax_inputs
from .dispatch import ModelQueue
from .models import Models
from .sax_inputs import Declared
from .sax_models import DEADLINE_SECONDS, OtherCells, Published
from .web import Request

METHOD_HEADER = b"x-sax-method"
RUN_METHODS = ("vm.classify", "vm.embed", "vm.generate", "custom")


class Methods:
    def __init__(self, models: Models, published: Published, others: OtherCells) -> None:
        self._models, self._published, self._others = models, published, others

    async def generate(self, request: Request) -> None:
        """POST /generate: [[text, score], …], best first; with `stream`, server-sent events"""
        given = sax_inputs.fields(request.body, {})
        full, query = sax_inputs.text(given, "model"), sax_inputs.text(given, "query")
        if await self._others.took(request, full):
            return
        if given.get("stream"):
            await self._stream(request, given, full, query)
            return

        async def work(queue: ModelQueue, model: Declared) -> list[list[Any]]:
            wanted = sax_inputs.generation(query, sax_inputs.extra_inputs(given, model), model, stream=False)
            events = [event async for event in generating.generate(self._models, queue, wanted, request)]
            return sorted(([event.text, _score(event)] for event in events), key=lambda pair: -pair[1])

        await request.answer(200, await self._published.run(request, full, "lm.generate", work))

    async def score(self, request: Request) -> None:
        """POST /score {model, prefix, suffix: [texts]}: one log-probability each"""
        given = sax_inputs.fields(request.body, {})
        full, prefix, suffixes = (
            sax_inputs.text(given, "model"),
            sax_inputs.text(given, "prefix"),
            sax_inputs.suffixes(given),
        )
        if await self._others.took(request, full):
            return

        async def work(queue: ModelQueue, model: Declared) -> list[float]:
            sax_inputs.extra_inputs(given, model)
            wanted = ScoreRequest(prefix=prefix, suffixes=suffixes)
            answer = await generating.score(self._models, queue, wanted, request)
            return [sax_inputs.finite(score) for score in answer.scores]

        await request.answer(200, await self._published.run(request, full, "lm.score", work))

    async def embed(self, request: Request) -> None:
        """POST /embed {model, query}: a flat list of numbers"""
        given = sax_inputs.fields(request.body, {})
        full, query = sax_inputs.text(given, "model"), sax_inputs.text(given, "query")
        if await self._others.took(request, full):
            return

        async def work(queue: ModelQueue, model: Declared) -> list[float]:
            sax_inputs.extra_inputs(given, model)
            answer = await generating.embed(self._models, queue, EmbedRequest(inputs=[query]), request)
            return [sax_inputs.finite(value) for value in answer.embeddings[0]]

        await request.answer(200, await self._published.run(request, full, "lm.embed", work))

    async def run(self, request: Request) -> None:
        """POST /run {model, method, data: base64}: vm.classify, vm.embed, vm.generate and custom"""
        given = sax_inputs.fields(request.body, {})
        full, method = sax_inputs.text(given, "model"), sax_inputs.text(given, "method")
        if method not in RUN_METHODS:
            raise invalid(f"method: one of {', '.join(RUN_METHODS)} is wanted")
        try:
            data = base64.b64decode(sax_inputs.text(given, "data"), validate=True)
        except ValueError:
            raise invalid("data: base64 is wanted") from None
        if await self._others.took(request, full):
            return

        async def work(queue: ModelQueue, model: Declared) -> Any:
            sax_inputs.extra_inputs(given, model)
            headers = [(METHOD_HEADER, method.encode()), (b"content-type", b"application/octet-stream")]
            answer = await self._models.call(queue, "predict", data, request_id=request.request_id, headers=headers)
            if method == "custom":
                return {"data": base64.b64encode(answer.body).decode()}
            try:
                return msgspec.json.decode(answer.body)
            except msgspec.DecodeError:
                raise SaxError("Internal", f"{full} answers {method} with what is no JSON") from None

        await request.answer(200, await self._published.run(request, full, method, work))

    async def _stream(self, request: Request, given: dict[str, Any], full: str, query: str) -> None:
        method = "lm.generate_stream"
        queue, model = await self._published.find(request, full, method)
        wanted = sax_inputs.generation(query, sax_inputs.extra_inputs(given, model), model, stream=True)
        written = [0] * model.samples
        async with self._published.slot(full, method, model.limit):
            async for event in _in_time(generating.generate(self._models, queue, wanted, request)):
                if not request.started:
                    await request.start(200, "text/event-stream")
                items = [{"text": "", "prefix_len": length, "scores": [0.0]} for length in written]
                items[event.index] = {
                    "text": event.text, "prefix_len": written[event.index], "scores": [_score(event)]
                }  # fmt: skip
                written[event.index] += len(event.text)
                await request.write(b"data: " + msgspec.json.encode({"items": items}) + b"\n\n")
        await request.write("data: [DONE]\n\n")
        await request.finish()


def _score(event: GenerationEvent) -> float:
    """The sum of the chosen tokens' log-probabilities."""
    return sax_inputs.finite(sum(token.logprob or 0.0 for token in event.logprobs or []))


async def _in_time(events: AsyncIterator[GenerationEvent]) -> AsyncIterator[GenerationEvent]:
    """Each event within the deadline after the one before."""
    while True:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                event = await anext(events)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise SaxError("DeadlineExceeded", f"no answer in {DEADLINE_SECONDS:g} s") from None
        yield event
