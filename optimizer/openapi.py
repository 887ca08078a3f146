"""The REST described for tools (OpenAPI 3.1) and for people (one page, nothing loaded from elsewhere)."""

import html
from collections.abc import Iterable
from typing import Any

from .routes import Route
from .wire import nested, schema

_TITLE = "Flambeau optimizer"


def document(routes: Iterable[Route]) -> dict[str, Any]:
    routes = list(routes)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.verb.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "version": "1"},
        "paths": paths,
        "components": {"schemas": {spec.__name__: schema(spec) for spec in _specs(routes)}},
    }


def _operation(route: Route) -> dict[str, Any]:
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    operation: dict[str, Any] = {
        "operationId": route.path.split("/")[1],
        "summary": route.summary,
        "responses": {"200": {"description": "done"}, "404": {"description": "not known, or no solution"}},
    }
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.verb == "POST":
        content = {"$ref": f"#/components/schemas/{route.body.__name__}"} if route.body else {"type": "object"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": content}}}
        operation["responses"]["400"] = {"description": "a body which cannot be read; the message says where"}
    return operation


def _specs(routes: Iterable[Route]) -> list[type]:
    waiting = [route.body for route in routes if route.body]
    found: dict[str, type] = {}
    while waiting:
        spec = waiting.pop()
        if spec.__name__ not in found:
            found[spec.__name__] = spec
            waiting += nested(spec)
    return [found[name] for name in sorted(found)]


def page(routes: Iterable[Route]) -> str:
    rows = "".join(
        f"<tr><td>{route.verb}</td><td><code>{html.escape(route.path)}</code></td><td>{html.escape(route.summary)}</td>"
        f"<td>{route.body.__name__ if route.body else ''}</td></tr>"
        for route in routes
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_TITLE}</title>"
        "<style>body{font:15px/1.5 system-ui;margin:2rem auto;max-width:60rem}td{padding:.2rem .8rem .2rem 0}</style>"
        f"<h1>{_TITLE}</h1><p>The bodies are described in <a href=openapi.json>openapi.json</a>.</p>"
        f"<table>{rows}</table></html>\n"
    )
