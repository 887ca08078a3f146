"""The optimizer's REST: paths, bodies and codes as the published tool has them, and what it lacks beside them.

Routes translate. When stateful, a client builds the system piece by piece; otherwise it sends all of it each time.
Where we differ on purpose is listed in docs/optimizer.md.
"""

import json
from collections.abc import Iterable
from typing import Any

from flask import Flask, Response, request

from ..hosts import LOOPBACK, foreign
from .milp import SolverError
from .openapi import document, page
from .routes import BareError, BodyError, Route, offered
from .store import NotFound, Store
from .wire import WireError, encode, parse

JSON = "application/json; charset=utf-8"
LARGEST_BODY = 64 * 2**20  # bytes


class ForeignHost(Exception):
    """A browser's request, led here by somebody else's page."""


# The one place where errors become status codes.
STATUS: dict[type[Exception], int] = {WireError: 400, BodyError: 400, ForeignHost: 403, NotFound: 404, SolverError: 404}


def create_app(store: Store | None = None, *, stateful: bool, hosts: frozenset[str] | None = LOOPBACK) -> Flask:
    """`hosts`: the names it answers to; None: any."""
    app = Flask(__name__, static_folder=None)
    app.before_request(lambda: _refuse_foreign(hosts))
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    owner = store or Store()
    routes = offered(stateful=stateful)
    for route in routes:
        app.add_url_rule(
            _flask_path(route.path), route.verb + route.path, _view(route, owner), methods=[route.verb],
            provide_automatic_options=False,
        )  # fmt: skip
    app.add_url_rule("/openapi.json", "openapi", lambda: answer(document(routes)))
    app.add_url_rule("/docs", "docs", lambda: Response(page(routes), mimetype="text/html"))
    known = _prefixes(route.path for route in routes)
    for status in (404, 405):
        app.register_error_handler(status, lambda _: _not_found(known))
    app.register_error_handler(500, lambda _: answer({"message": "the server failed; its log says how"}, 500))
    for kind in STATUS:
        app.register_error_handler(kind, _told)
    app.register_error_handler(BareError, lambda error: answer(error.message, error.status))
    return app


def _refuse_foreign(hosts: frozenset[str] | None) -> None:
    wrong = foreign(hosts, request.headers.get("Host"), request.headers.get("Origin"))
    if wrong == "Host":
        raise ForeignHost("The Host header names no host of this server; --allowed-hosts may list it.")
    if wrong == "Origin":
        raise ForeignHost("Requests of this Origin are not allowed.")


def _flask_path(path: str) -> str:
    return path.replace("{", "<").replace("}", ">")


def _view(route: Route, store: Store) -> Any:
    def view(**path: str) -> Response:
        body = [parse(request.get_data(cache=False))] if route.verb == "POST" else []
        return answer(route.respond(store, *body, **path))

    return view


def answer(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(encode(value), indent=4, ensure_ascii=False), status, content_type=JSON)


def _told(error: Exception) -> Response:
    if isinstance(error, BodyError):
        problems = {"problems": error.problems} if error.problems else {}
        return answer({"message": str(error), **problems}, STATUS[BodyError])
    message = f"optimization error: {error}" if isinstance(error, SolverError) else str(error)
    return answer({"message": message}, STATUS[type(error)])


def _prefixes(paths: Iterable[str]) -> set[str]:
    known = set()
    for path in paths:
        parts = path.split("/")
        known |= {"/".join(parts[:length]) for length in range(2, len(parts) + 1)}
    return known


def _not_found(known: set[str]) -> Response:
    """Never a 405; and who put a slash too many is sent to the path without it."""
    path = request.path.rstrip("/")
    if request.path.endswith("/") and path in known:
        place = f'<a href="{path}">Moved Permanently</a>.\n\n'
        status = 301 if request.method == "GET" else 307
        return Response(place, status, {"Location": path}, content_type="text/html; charset=utf-8")
    return Response("404 page not found", 404, content_type="text/plain")
