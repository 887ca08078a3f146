"""The inference API as an OpenAPI document: `/api-description`, `OPTIONS /`, and one model's part of it.

The table below says what TorchServe's API is, in its words (OpenAPI 3.0.1, the same titles and operation ids); the routes of
the other protocols are added as they are found, so that no route is left out. Not for: the management API, which describes
itself.
"""

import json
from collections.abc import Sequence
from typing import Any

from .. import __version__
from .models import Models
from .options import FrontendOptions
from .web import Request, Route

BODY = {
    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    "description": "Input of the model, in the content type its handler takes: JSON, form, multipart or raw bytes.",
}
ERROR = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["code", "type", "message"],
                "properties": {
                    "code": {"type": "integer", "description": "The status."},
                    "type": {"type": "string", "description": "The error's type."},
                    "message": {"type": "string", "description": "What went wrong."},
                },
            }
        }
    }
}
ERRORS = {
    400: "The request can not be understood",
    401: "Missing or wrong key, with token authorization",
    404: "Model or version not found",
    413: "The body is larger than max_request_size",
    500: "The worker died, or the handler said so",
    503: "No worker, a full job queue, or the handler failed",
    507: "Out of resources",
}
PROBE = {500: "A model has fewer workers than it should have", 503: "The server is shutting down"}

OIP_VERSION = "/v2/models/{model_name}/versions/{model_version}"

# path, method, operation id, what it does, the errors it may answer
OPERATIONS: list[tuple[str, str, str, str, dict[int, str]]] = [
    ("/", "options", "apiDescription", "The description of this API.", {}),
    ("/api-description", "get", "apiDescription", "The description of this API.", {}),
    ("/ping", "get", "ping", "Whether every model has the workers it should have.", PROBE),
    ("/predictions/{model_name}", "post", "predictions", "A prediction by the model's default version.", ERRORS),
    (
        "/predictions/{model_name}",
        "options",
        "predictionsDescription",
        "The description of the model's part.",
        {404: ERRORS[404]},
    ),
    ("/predictions/{model_name}/{model_version}", "post", "version_predictions", "A prediction by one version.", ERRORS),
    ("/explanations/{model_name}", "post", "explanations", "An explanation by the model's default version.", ERRORS),
    (
        "/explanations/{model_name}/{model_version}",
        "post",
        "version_explanations",
        "An explanation by one version.",
        ERRORS,
    ),
    ("/invocations", "post", "invocations", "SageMaker: a prediction by the model named in the query.", ERRORS),
    ("/models/{model_name}/invoke", "post", "invoke", "SageMaker: a prediction by the model.", ERRORS),
    ("/v1/models/{model_name}:predict", "post", "v1Predict", "KServe v1: a prediction.", ERRORS),
    ("/v1/models/{model_name}", "get", "v1Model", "KServe v1: whether the model is ready; OpenAI: the model.", ERRORS),
    ("/v1/models/{model_name}:explain", "post", "v1Explain", "KServe v1: an explanation.", ERRORS),
    ("/v2", "get", "serverMetadata", "Open Inference Protocol: the server.", {}),
    ("/v2/health/live", "get", "serverLive", "Open Inference Protocol: whether the server runs.", {}),
    ("/v2/health/ready", "get", "serverReady", "Open Inference Protocol: whether the server is ready.", PROBE),
    ("/v2/models/{model_name}", "get", "modelMetadata", "Open Inference Protocol: the model.", ERRORS),
    ("/v2/models/{model_name}/ready", "get", "modelReady", "Open Inference Protocol: whether the model is ready.", ERRORS),
    ("/v2/models/{model_name}/infer", "post", "modelInfer", "Open Inference Protocol: an inference.", ERRORS),
    ("/v2/models/{model_name}/explain", "post", "v2Explain", "KServe v2: an explanation.", ERRORS),
    (OIP_VERSION, "get", "versionMetadata", "Open Inference Protocol: one version of the model.", ERRORS),
    (f"{OIP_VERSION}/ready", "get", "versionReady", "Open Inference Protocol: whether one version is ready.", ERRORS),
    (f"{OIP_VERSION}/infer", "post", "versionInfer", "Open Inference Protocol: an inference by one version.", ERRORS),
    ("/{model_name}/predict", "post", "legacyPredict", "Multi Model Server: a prediction by the model.", ERRORS),
    ("/{model_name}/{model_version}/predict", "post", "legacyVersionPredict", "The same by one version.", ERRORS),
]
PARAMETERS = {
    "{model_name}": ("model_name", "Name of the model."),
    "{model_version}": ("model_version", "Version of the model."),
    "{rest}": ("rest", "The rest of the path."),
}


def routes(models: Models, options: FrontendOptions, others: Sequence[Route]) -> list[Route]:
    version = options.server_version or __version__

    async def description(request: Request) -> None:
        """GET /api-description, OPTIONS /"""
        await _answer(request, describe(version, others))

    async def model_description(request: Request) -> None:
        """OPTIONS /predictions/{model}[/{version}]"""
        name = request.rest.split("/")[0]
        models.find(name)
        await _answer(request, describe_model(version, name))

    return [
        Route("GET", "/api-description", description, needs_key=False),
        Route("OPTIONS", "/", description, needs_key=False),
        Route("OPTIONS", "/predictions/", model_description),
    ]


async def _answer(request: Request, document: dict[str, Any]) -> None:
    await request.answer(200, json.dumps(document, indent=2) + "\n")


def describe(version: str, others: Sequence[Route] = ()) -> dict[str, Any]:
    """The whole API. `others`: the routes of all protocols; those that the table has are not repeated."""
    paths: dict[str, dict[str, Any]] = {}
    for path, method, operation_id, summary, errors in OPERATIONS:
        paths.setdefault(path, {})[method] = _operation(path, method, operation_id, summary, errors)
    known = list(paths)
    for route in others:
        if route.listener != "inference" or any(_covers(route.path, path) for path in known):
            continue
        path = route.path + "{rest}" if route.path.endswith("/") and route.path != "/" else route.path
        method = "post" if route.method == "*" else route.method.lower()
        if method not in paths.setdefault(path, {}):
            summary = (getattr(route.handler, "__doc__", None) or f"{route.method} {path}").strip()
            paths[path][method] = _operation(path, method, f"{method} {path}", summary, ERRORS)
    return _document(version, paths)


def _covers(route: str, path: str) -> bool:
    return path.startswith(route) if route.endswith("/") and route != "/" else path == route and route != "/"


def describe_model(version: str, model: str) -> dict[str, Any]:
    """What concerns one model, whose name stands in the paths."""
    paths: dict[str, dict[str, Any]] = {}
    for path, method, operation_id, summary, errors in OPERATIONS:
        if path.startswith("/predictions/{model_name}"):
            shown = path.replace("{model_name}", model)
            paths.setdefault(shown, {})[method] = _operation(shown, method, operation_id, summary, errors)
    return _document(version, paths)


def _document(version: str, paths: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "openapi": "3.0.1",
        "info": {
            "title": "TorchServe APIs",
            "description": "Predictions by the models which this server has registered.",
            "version": version,
        },
        "paths": paths,
    }


def _operation(path: str, method: str, operation_id: str, summary: str, errors: dict[int, str]) -> dict[str, Any]:
    parameters = [
        {"in": "path", "name": name, "required": True, "description": text, "schema": {"type": "string"}}
        for placeholder, (name, text) in PARAMETERS.items()
        if placeholder in path
    ]
    if path == "/invocations":
        parameters.append({"in": "query", "name": "model_name", "required": False, "schema": {"type": "string"}})
    operation: dict[str, Any] = {"description": summary, "operationId": operation_id, "parameters": parameters}
    if method == "post":
        operation["requestBody"] = BODY
    answers: dict[str, Any] = {"200": {"description": "OK", "content": BODY["content"] if method == "post" else _JSON}}
    answers |= {str(status): {"description": text, **ERROR} for status, text in errors.items()}
    operation["responses"] = answers
    return operation


_JSON = {"application/json": {"schema": {"type": "object"}}}
