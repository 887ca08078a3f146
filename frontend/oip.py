"""Open Inference Protocol over HTTP (KServe v2, Triton's clients): health, metadata, and inference with binary tensors.

A JSON request reaches the handler as it is. One with binary tensors (`Inference-Header-Content-Length`) is turned into the
JSON it stands for, so handlers know one form only; the answer's outputs become binary where the request wants them so.
Not for: what a handler makes of `inputs`, which is the `kservev2` envelope's on the worker's side.
"""

import json
import struct
from typing import Any

from .. import __version__
from .errors import BadRequest, RequestError, headers_of, status_of, type_of
from .models import Answer, Models
from .options import FrontendOptions
from .tensors import array_bytes, array_from
from .web import Handler, Request, Route

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data"]


def routes(models: Models, options: FrontendOptions) -> list[Route]:
    async def server(request: Request) -> None:
        """GET /v2"""
        version = options.server_version or __version__
        await request.answer(200, {"name": "torchserve", "version": version, "extensions": EXTENSIONS})

    async def live(request: Request) -> None:
        """GET /v2/health/live"""
        await request.answer(200, {"live": True})

    async def ready(request: Request) -> None:
        """GET /v2/health/ready"""
        models.refresh()
        up = models.table.ready
        await request.answer(200 if up else 503, {"ready": up})

    async def model(request: Request) -> None:
        """GET /v2/models/{name}[/versions/{version}][/ready]"""
        match request.rest.strip("/").split("/"):
            case [name]:
                await _metadata(request, name, None)
            case [name, "versions", version]:
                await _metadata(request, name, version)
            case [name, "ready"]:
                await _model_ready(request, name, None)
            case [name, "versions", version, "ready"]:
                await _model_ready(request, name, version)
            case _:
                raise BadRequest(f"{request.path} is no path of the Open Inference Protocol.")

    async def _metadata(request: Request, name: str, version: str | None) -> None:
        route = models.find(name, version).route
        declared = route.model_yaml.get("open_inference")
        shapes = declared if isinstance(declared, dict) else {}
        await request.answer(
            200,
            {
                "name": name,
                "versions": sorted(models.table.models[name]),
                "platform": "pytorch",
                "inputs": shapes.get("inputs", []),
                "outputs": shapes.get("outputs", []),
            },
        )

    async def _model_ready(request: Request, name: str, version: str | None) -> None:
        up = bool(models.find(name, version).route.replicas)
        await request.answer(200 if up else 503, {"name": name, "ready": up})

    async def infer(request: Request) -> None:
        """POST /v2/models/{name}[/versions/{version}]/infer, with binary tensors or without"""
        match request.rest.split("/"):
            case [name, "infer"]:
                version = None
            case [name, "versions", version, "infer"]:
                pass
            case _:
                raise BadRequest(f"{request.path} is no path of the Open Inference Protocol.")
        body, wants_binary = request.body, set[str]()
        if (length := request.header(HEADER_LENGTH)) is not None:
            body, wants_binary = to_json(request.body, length)
        answer = await models.call(
            models.find(name, version), "predict", body, request_id=request.request_id, headers=_headers(request)
        )
        await _respond(request, answer, wants_binary)

    async def explained(handler: Handler, request: Request) -> None:
        try:
            await handler(request)
        except RequestError as error:  # TorchServe's words, and the one Triton's clients look for
            status, type = status_of(error), type_of(error)
            body = {"code": status, "type": type, "message": str(error), "error": str(error)}
            await request.answer(status, body, headers=tuple(headers_of(error)))

    async def of_model(request: Request) -> None:
        await explained(infer if request.rest.endswith("/infer") else model, request)

    return [
        Route("GET", "/v2", server),
        Route("GET", "/v2/health/live", live, needs_key=False),
        Route("GET", "/v2/health/ready", ready, needs_key=False),
        Route("*", "/v2/models/", of_model),
    ]


def _headers(request: Request) -> list[tuple[bytes, bytes]]:
    """As sent, but the body is JSON now, whatever it was."""
    dropped = {b"content-type", b"content-length", HEADER_LENGTH.lower().encode()}
    kept = [(name, value) for name, value in request.raw_headers if name.lower() not in dropped]
    return [*kept, (b"Content-Type", b"application/json")]


async def _respond(request: Request, answer: Answer, wants_binary: set[str]) -> None:
    body, headers = answer.body, list(answer.head.headers)
    content_type = answer.head.content_type or "application/json"
    if wants_binary and (binary := to_binary(body, wants_binary)) is not None:
        head, tensors = binary
        headers.append((HEADER_LENGTH, str(len(head))))
        body, content_type = head + tensors, "application/octet-stream"
    request.exchange.respond(answer.head.status, body, content_type, headers, answer.head.reason)


def to_json(body: bytes, header_length: str) -> tuple[bytes, set[str]]:
    """The request as JSON without binary parts, and the outputs wanted as binary (`*`: all)."""
    if not header_length.isdecimal() or int(header_length) > len(body):
        raise BadRequest(f"{HEADER_LENGTH}: {header_length} is no length within the body.")
    end = int(header_length)
    try:
        request = json.loads(body[:end])
        position = end
        for tensor in request.get("inputs", []):
            parameters = tensor.get("parameters", {})
            size = parameters.pop("binary_data_size", None)
            if size is not None:
                if not isinstance(size, int) or size < 0 or position + size > len(body):
                    raise BadRequest(f"input {tensor.get('name')}: binary_data_size {size} is not within the body.")
                tensor["data"] = array_from(tensor["datatype"], body[position : position + size])
                position += size
        if position != len(body):
            raise BadRequest(f"{len(body) - position} bytes of the body belong to no input.")
        return json.dumps(request).encode(), _binary_outputs(request)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise BadRequest(f"no inference request: {error}") from None


def _binary_outputs(request: dict[str, Any]) -> set[str]:
    outputs = request.get("outputs", [])
    wanted = {output["name"] for output in outputs if output.get("parameters", {}).get("binary_data")}
    if not outputs and request.get("parameters", {}).get("binary_data_output"):
        wanted.add("*")
    return wanted


def to_binary(body: bytes, wanted: set[str]) -> tuple[bytes, bytes] | None:
    """The answer's JSON without the wanted outputs' data, and these; None when it is no answer of this protocol."""
    try:
        answer = json.loads(body)
        tensors = []
        for output in answer["outputs"]:
            if "*" in wanted or output["name"] in wanted:
                tensors.append(array_bytes(output["datatype"], output.pop("data")))
                output.setdefault("parameters", {})["binary_data_size"] = len(tensors[-1])
        return json.dumps(answer).encode(), b"".join(tensors)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
