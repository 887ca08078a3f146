"""Sax's HTTP server, on a listener of its own: publish, list, generate, update, unpublish; and score, embed, run, streams.

Control verbs go to the control plane's cell, over its unix socket; data verbs to the workers, like any request. Errors have
one body, which suits Sax's clients and TorchServe's alike. Not for: the cell, which is `management.cell`.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from ..handlers.generation import EmbedRequest, GenerationEvent, ScoreRequest
from ..management.cell import acl, names, wire
from ..management.cell.errors import SaxError, invalid
from . import generating, sax_inputs
from .dispatch import ModelQueue
from .errors import ModelNotFound, QueueFull
from .models import Models
from .options import FrontendOptions
from .sax_border import Border, role
from .sax_inputs import Declared
from .web import Request, Route

DEADLINE_SECONDS = 30.0
CONTROL_SECONDS = 15.0
ACL_SECONDS = 2.0  # a changed ACL is obeyed after so long at most
MAX_REMEMBERED = 1000
OVERLOAD_WAITS = (0.05, 0.1, 0.2)  # a full queue is tried again so often before it is told
METHOD_HEADER = b"x-sax-method"
STARTING_SECONDS = 10.0  # a server that has just started enters its cell meanwhile
IMAGE_METHODS = ("vm.classify", "vm.embed", "vm.generate", "custom")


class Sax:
    def __init__(self, models: Models, options: FrontendOptions, control: Path) -> None:
        self._models = models
        self._cell = names.parse_cell(options.sax_cell)
        self._control = control
        self._known_acls: dict[str, tuple[float, dict[str, str]]] = {}

    # what the cell does

    async def root(self, request: Request) -> None:
        """GET /"""
        await request.answer(200, {"message": "HTTP Server for SAX Client"})

    async def publish(self, request: Request) -> None:
        """POST /publish; with `wait` seconds, when the replicas are loaded."""
        given = sax_inputs.fields(request.body, request.query)
        spec = {**self._spec(given), "overrides": given.get("overrides")}
        await self._ask("publish", spec)
        if given.get("wait"):
            seconds = float(sax_inputs.whole(given, "wait"))
            await self._ask("wait", {"model": spec["model"], "replicas": spec["replicas"], "seconds": seconds}, seconds + 5)
        answer = {key: spec[key] for key in ("model", "model_path", "checkpoint", "replicas")} | {
            "path": spec["model_path"]
        }
        await request.answer(200, answer | ({"overrides": given["overrides"]} if given.get("overrides") else {}))

    async def update(self, request: Request) -> None:
        """PUT or POST /update"""
        given = sax_inputs.fields(request.body, request.query)
        spec = self._spec(given)
        more = {"overrides": given["overrides"]} if given.get("overrides") is not None else {}
        await self._ask("update", spec | more)
        await request.answer(200, spec | {"path": spec["model_path"]})

    async def unpublish(self, request: Request) -> None:
        """POST /unpublish"""
        model = sax_inputs.text(sax_inputs.fields(request.body, request.query), "model")
        await self._ask("unpublish", {"model": model})
        await request.answer(200, {"model": model})

    async def list_all(self, request: Request) -> None:
        """GET /listall, the cell in a body or in the query string"""
        cell = sax_inputs.text(self._asked(request, "sax_cell"), "sax_cell")
        await request.answer(200, (await self._ask("list", {"cell": cell}))["models"])

    async def list_cell(self, request: Request) -> None:
        """GET /listcell, which despite its name describes a model"""
        status = await self._ask("status", {"model": sax_inputs.text(self._asked(request, "model"), "model")})
        shown = ("model", "model_path", "checkpoint", "max_replicas", "active_replicas")
        await request.answer(200, {key: status[key] for key in shown})

    async def healthz(self, request: Request) -> None:
        """GET /healthz"""
        self._models.refresh()
        await request.answer(503 if self._models.table.draining else 200, {"status": "ok"})

    async def relay(self, request: Request) -> None:
        """POST /cell/<verb>: members and clients of the cell, whose signatures the control plane checks."""
        answer = await wire.relay(self._control, "POST", request.path, request.header(wire.HEADER), request.body)
        await request.answer(answer.status, answer.body, answer.content_type, answer.headers)

    async def page(self, request: Request) -> None:
        """GET /status, /model/…, /server/…: the cell's status pages"""
        path = "/" if request.path == "/status" else request.path
        answer = await wire.relay(self._control, "GET", quote(path), None, b"")
        await request.answer(answer.status, answer.body, answer.content_type, answer.headers)

    # what models do

    async def generate(self, request: Request) -> None:
        """POST /generate: [[text, score], …], best first; with `stream`, server-sent events"""
        given = sax_inputs.fields(request.body, {})
        full, query = sax_inputs.text(given, "model"), sax_inputs.text(given, "query")
        if given.get("stream"):
            await self._stream(request, given, full, query)
            return

        async def work(queue: ModelQueue, model: Declared) -> list[list[Any]]:
            wanted = sax_inputs.generation(query, sax_inputs.extra_inputs(given, model), model, stream=False)
            events = [event async for event in generating.generate(self._models, queue, wanted, request)]
            return sorted(([event.text, _score(event)] for event in events), key=lambda pair: -pair[1])

        await request.answer(200, await self._with_model(given, full, "lm.generate", "/generate", work))

    async def score(self, request: Request) -> None:
        """POST /score {model, prefix, suffix: [texts]}: one log-probability each"""
        given = sax_inputs.fields(request.body, {})
        prefix, suffixes = sax_inputs.text(given, "prefix"), given.get("suffix") or [""]
        suffixes = [suffixes] if isinstance(suffixes, str) else suffixes
        if not isinstance(suffixes, list) or not all(isinstance(suffix, str) for suffix in suffixes):
            raise invalid("suffix: a list of texts is wanted")

        async def work(queue: ModelQueue, model: Declared) -> list[float]:
            sax_inputs.extra_inputs(given, model)
            wanted = ScoreRequest(prefix=prefix, suffixes=suffixes)
            answer = await generating.score(self._models, queue, wanted, request)
            return [sax_inputs.finite(score) for score in answer.scores]

        full = sax_inputs.text(given, "model")
        await request.answer(200, await self._with_model(given, full, "lm.score", "/score", work))

    async def embed(self, request: Request) -> None:
        """POST /embed {model, query}: a flat list of numbers"""
        given = sax_inputs.fields(request.body, {})
        full, query = sax_inputs.text(given, "model"), sax_inputs.text(given, "query")

        async def work(queue: ModelQueue, model: Declared) -> list[float]:
            sax_inputs.extra_inputs(given, model)
            answer = await generating.embed(self._models, queue, EmbedRequest(inputs=[query]), request)
            return [sax_inputs.finite(value) for value in answer.embeddings[0]]

        await request.answer(200, await self._with_model(given, full, "lm.embed", "/embed", work))

    async def run(self, request: Request) -> None:
        """POST /run {model, method, data: base64}: vm.classify, vm.embed, vm.generate and custom"""
        given = sax_inputs.fields(request.body, {})
        full, method = sax_inputs.text(given, "model"), sax_inputs.text(given, "method")
        if method not in IMAGE_METHODS:
            raise invalid(f"method: one of {', '.join(IMAGE_METHODS)} is wanted")
        try:
            data = base64.b64decode(sax_inputs.text(given, "data"), validate=True)
        except ValueError:
            raise invalid("data: base64 is wanted") from None

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

        await request.answer(200, await self._with_model(given, full, method, "/run", work))

    async def _stream(self, request: Request, given: dict[str, Any], full: str, query: str) -> None:
        queue, model = await self._model(full, "lm.generate_stream", DEADLINE_SECONDS)
        wanted = sax_inputs.generation(query, sax_inputs.extra_inputs(given, model), model, stream=True)
        written = [0] * model.samples
        async for event in _in_time(generating.generate(self._models, queue, wanted, request)):
            if not request.started:
                await request.start(200, "text/event-stream")
            items = [{"text": "", "prefix_len": length, "scores": [0.0]} for length in written]
            items[event.index] = {"text": event.text, "prefix_len": written[event.index], "scores": [_score(event)]}
            written[event.index] += len(event.text)
            await request.write(b"data: " + msgspec.json.encode({"items": items}) + b"\n\n")
        await request.write("data: [DONE]\n\n")
        await request.finish()

    async def _with_model(
        self,
        given: dict[str, Any],
        full: str,
        method: str,
        path: str,
        work: Callable[[ModelQueue, Declared], Awaitable[Any]],
    ) -> Any:
        """`work` in time, here; for a model of another cell, at one of its machines."""
        key = names.parse_model(full)
        if key.cell != self._cell:
            return await self._elsewhere(full, path, given)
        queue: ModelQueue | None = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                queue, model = await self._model(full, method, DEADLINE_SECONDS)
                for wait in (*OVERLOAD_WAITS, None):
                    try:
                        return await work(queue, model)
                    except QueueFull:
                        if wait is None:
                            raise
                        await asyncio.sleep(wait)
        except TimeoutError:
            if queue is None or not queue.route.replicas:
                raise SaxError("Unavailable", f"model {full} has no replica that is loaded") from None
            raise SaxError("DeadlineExceeded", f"model {full} gave no answer in {DEADLINE_SECONDS:g} s") from None

    async def _model(self, full: str, method: str, seconds: float) -> tuple[ModelQueue, Declared]:
        name = names.parse_model(full).registered(self._cell)
        try:
            queue = self._models.find(name)
        except ModelNotFound:
            status = await self._ask("status", {"model": full})
            if not status["max_replicas"]:
                raise SaxError("Unavailable", f"model {full} has no replicas") from None
            await self._ask("wait", {"model": full, "replicas": 1, "seconds": seconds}, seconds + 5)
            queue = self._models.find(name)
        model = sax_inputs.declared(queue.route.model_yaml, queue.route.capabilities)
        if method not in model.methods:
            raise invalid(f"{full} does not support {method}")
        if role.get() is not None:
            acl.check_method(full, method, await self._acls(full), role.get())
        return queue, model

    async def _acls(self, full: str) -> dict[str, str]:
        """The model's, as the cell knew them a moment ago at most."""
        now = asyncio.get_running_loop().time()
        known = self._known_acls.get(full)
        if known is None or known[0] < now:
            if len(self._known_acls) > MAX_REMEMBERED:
                self._known_acls.clear()
            known = self._known_acls[full] = (now + ACL_SECONDS, (await self._ask("status", {"model": full}))["acls"])
        return known[1]

    async def _elsewhere(self, full: str, path: str, given: dict[str, Any]) -> Any:
        status = await self._ask("status", {"model": full})
        if not status["addresses"]:
            raise SaxError("Unavailable", f"model {full} has no replica that is loaded")
        return await wire.ask(status["addresses"][0], path, given, None, DEADLINE_SECONDS)

    async def _ask(self, verb: str, payload: dict[str, Any], seconds: float = CONTROL_SECONDS) -> Any:
        end = asyncio.get_running_loop().time() + STARTING_SECONDS
        while not self._control.exists() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        return await wire.ask(
            f"unix:{self._control}", f"/internal/cell/{verb}", payload | {"role": role.get()}, None, seconds
        )

    def _spec(self, given: dict[str, Any]) -> dict[str, Any]:
        texts = {name: sax_inputs.text(given, name) for name in ("model", "model_path", "checkpoint")}
        return texts | {"replicas": sax_inputs.whole(given, "replicas")}

    def _asked(self, request: Request, name: str) -> dict[str, Any]:
        """A listing's argument: a body that is there wins over the query string."""
        return sax_inputs.fields(request.body or b"{}", request.query)


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


def routes(models: Models, options: FrontendOptions, control: Path) -> list[Route]:
    sax, border = Sax(models, options, control), Border(control.parent, options)
    table = [
        ("GET", "/", sax.root),
        ("POST", "/publish", sax.publish),
        ("GET", "/listall", sax.list_all),
        ("GET", "/listcell", sax.list_cell),
        ("POST", "/generate", sax.generate),
        ("POST", "/unpublish", sax.unpublish),
        ("PUT", "/update", sax.update),
        ("POST", "/update", sax.update),
        ("POST", "/score", sax.score),
        ("POST", "/embed", sax.embed),
        ("POST", "/run", sax.run),
        ("GET", "/healthz", sax.healthz),
        ("GET", "/status", sax.page),
        ("GET", "/model/", sax.page),
        ("GET", "/server/", sax.page),
        ("POST", "/cell/", sax.relay),
    ]
    return [
        Route(method, path, border.guarded(handler), listener="sax", needs_key=False) for method, path, handler in table
    ]
