"""The management API in OpenAPI 3.0.1, as GET /api-description and OPTIONS answer it.

TorchServe's part is the table below, in its words; the other routes of an application are added as they are found, so that
none is left out.
"""

import re
from typing import Any

from flask import Flask

Document = dict[str, Any]

NAME = ("path", "model_name", "string", "Name of the model")
VERSION = ("path", "model_version", "string", "Version of the model")
SYNCHRONOUS = ("query", "synchronous", "boolean", "Answer when the workers are ready, not before")
REGISTER = [
    ("query", "url", "string", "Archive in the model store, or an allowed URL"),
    ("query", "model_name", "string", "Name; the manifest's when not given"),
    ("query", "handler", "string", "Entry point; the manifest's when not given"),
    ("query", "runtime", "string", "python or python3"),
    ("query", "batch_size", "integer", "Requests handled at once at most"),
    ("query", "max_batch_delay", "integer", "Milliseconds to wait for a full batch"),
    ("query", "response_timeout", "integer", "Seconds a worker may be silent while it owes an answer"),
    ("query", "startup_timeout", "integer", "Seconds a worker may take to load"),
    ("query", "initial_workers", "integer", "Workers to start"),
    SYNCHRONOUS,
    ("query", "s3_sse_kms", "boolean", "The S3 object is encrypted by a key of KMS: only s3:// URLs"),
]
LIST = [
    ("query", "limit", "integer", "Models in an answer, at most 100"),
    ("query", "next_page_token", "string", "From the answer before"),
]
SCALE = [
    ("query", "min_worker", "integer", "Workers at least; 1 when not given"),
    ("query", "max_worker", "integer", "Workers at most; min_worker when not given"),
    ("query", "number_gpu", "integer", "Accepted"),
    SYNCHRONOUS,
    ("query", "timeout", "integer", "Accepted"),
]
CUSTOMIZED = ("query", "customized", "boolean", "Ask the handler what it says of itself")


RULE = re.compile(r"<(?:[^<>]*:)?(\w+)>")  # a variable in one of Flask's paths


def description(app: Flask, only: str | None = None) -> Document:
    """All that `app` serves, or the one path `only`."""
    paths = _with_others(_paths(), app)
    return {
        "openapi": "3.0.1",
        "info": {
            "title": "TorchServe APIs",
            "description": "Management API of Flambeau, compatible with TorchServe's",
            "version": "0.12.0",
        },
        "paths": {only: paths[only]} if only else paths,
    }


def _with_others(paths: Document, app: Flask) -> Document:
    for rule in app.url_map.iter_rules():
        path = RULE.sub(r"{\1}", rule.rule)
        if path.startswith(("/models", "/v1")):
            path = path.replace("{name}", "{model_name}").replace("{version}", "{model_version}")
        words = (app.view_functions[rule.endpoint].__doc__ or path).strip()
        for method in sorted((rule.methods or set()) - {"HEAD"}):
            operations = paths.setdefault(path, {})
            if method.lower() not in operations:
                variables = [("path", name, "string", name) for name in re.findall(r"{(\w+)}", path)]
                operations[method.lower()] = _operation(f"{method.lower()} {path}", words, variables, 400, 404)
    return paths


def _paths() -> Document:
    model, version = "/models/{model_name}", "/models/{model_name}/{model_version}"
    return {
        "/models": {
            "post": _operation("registerModel", "Register a model", REGISTER, 202, 400, 404, 409, 500),
            "get": _operation("listModels", "List registered models", LIST),
        },
        model: {
            "get": _operation("describeModel", "The default version and its workers", [NAME, CUSTOMIZED], 404),
            "put": _operation("setAutoScale", "Scale the default version's workers", [NAME, *SCALE], 202, 400, 404, 500),
            "delete": _operation("unregisterModel", "Unregister the default version", [NAME], 403, 404),
            "options": _operation("modelApiDescription", "This description, of one model", [NAME], 404),
        },
        version: {
            "get": _operation("describeModelVersion", "A version; `all`: each", [NAME, VERSION, CUSTOMIZED], 404),
            "put": _operation("versionedSetAutoScale", "Scale a version", [NAME, VERSION, *SCALE], 202, 400, 404, 500),
            "delete": _operation("versionedUnregisterModel", "Unregister a version", [NAME, VERSION], 403, 404),
        },
        f"{version}/set-default": {
            "put": _operation("setDefault", "Make a version the default one", [NAME, VERSION], 404),
        },
        "/v1/models/{model_name}": {"get": _operation("modelReady", "KServe's readiness of a model", [NAME], 404)},
        "/token": {
            "get": _operation("newToken", "Renew a token", [("query", "type", "string", "inference or management")], 400)
        },
        "/": {"options": _operation("apiDescription", "This description", [])},
        "/api-description": {"get": _operation("apiDescription", "This description", [])},
    }


def _operation(name: str, words: str, parameters: list[tuple[str, str, str, str]], *errors: int) -> Document:
    error = {"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}}
    responses: Document = {"200": {"description": "OK", "content": {"application/json": {"schema": {}}}}}
    for status in errors:
        responses[str(status)] = {
            "description": "Accepted" if status == 202 else "Refused",
            "content": {"application/json": {"schema": {"type": "object", "properties": {} if status == 202 else error}}},
        }
    return {
        "operationId": name,
        "description": words,
        "parameters": [
            {
                "in": place,
                "name": key,
                "required": place == "path" or key == "url",
                "description": text,
                "schema": {"type": kind},
            }
            for place, key, kind, text in parameters
        ],
        "responses": responses,
    }
