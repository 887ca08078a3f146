"""The management API on 8081: routes translate, `control` acts, `answers` says how an answer looks.

Flask's views run in threads and hand their work to the control plane's event loop by `call`. Not for: the data plane.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from ..archiver.errors import ArchiveError
from . import errors
from .answers import answer, failed, finish, refuse
from .api_description import description
from .control import ControlPlane
from .descriptions import describe
from .serving import Registration
from .tokens import Tokens

T = TypeVar("T")
Call = Callable[[Coroutine[Any, Any, Any]], Any]

PROCESSING = {"status": "Processing worker updates..."}
NOT_FOUND = "Requested resource is not found, please refer to API document."
NOT_ALLOWED = "Requested method is not allowed, please refer to API document."
SSE_KMS = (
    "s3_sse_kms: requests to http(s) URLs are not signed here. Register s3://BUCKET/KEY (the extra `s3`): boto3 signs its "
    "requests, which is all that KMS asks for."
)
MAX_NUMBER = 2**31 - 1
MAX_LISTED = 100


def create_app(
    blueprints: list[Blueprint],
    headers: Mapping[str, str],
    *,
    check: Callable[[], None] | None = None,
    token_status: int = 401,
) -> Flask:
    """One application per listener: what it serves is what its blueprints say. `headers` go with every answer (CORS);
    `check` sees every request first."""
    app = Flask("flambeau.management", static_folder=None)
    app.url_map.strict_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # OPTIONS describes the API, as TorchServe has it
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    for kind in (errors.ManagementError, ArchiveError):
        app.register_error_handler(kind, lambda error: failed(error, token_status))
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected(app))
    if check:
        app.before_request(check)
    app.after_request(lambda response: finish(response, dict(headers)))
    return app


def management(
    control: ControlPlane,
    call: Call,
    *,
    model_api: bool = True,
    tokens: Tokens | None = None,
    check: Callable[[], None] | None = None,
) -> Blueprint:
    """`check`: what every request must pass; `tokens`: whose keys GET /token renews."""
    api = Blueprint("management", __name__)
    if check:
        api.before_request(check)

    @api.get("/token")
    def renew() -> Response:
        """GET /token?type=inference|management, with the API key; the new key stands in the key file."""
        if tokens is None:
            raise errors.BadRequest("Token authorization is off.")
        tokens.renew(request.args.get("type"))
        return Response(status=200)

    @api.post("/models")
    def register() -> Response:
        """POST /models: url, and how many workers of what."""
        if not model_api:
            raise errors.NotAllowed(NOT_ALLOWED)
        asked = _parameters()
        if "url" not in asked:
            raise errors.BadRequest("Parameter url is required.")
        if _flag(asked, "s3_sse_kms", default=False) and str(asked["url"]).lower().startswith(("http://", "https://")):
            raise errors.BadRequest(SSE_KMS)
        wait = _flag(asked, "synchronous", default=True)
        scaled = call(control.register(_registration(asked), wait=wait))
        if scaled.workers and not wait:
            return answer(PROCESSING, 202)
        told = f'Model "{scaled.name}" Version: {scaled.version} registered with {scaled.workers} initial workers'
        if not scaled.workers:
            told += ". Use scale workers API to add workers for the model."
        return answer({"status": told})

    @api.get("/models")
    def list_models() -> Response:
        """GET /models: names and URLs of the default versions, by pages."""
        limit = _number(request.args, "limit") or MAX_LISTED
        limit = limit if 0 < limit <= MAX_LISTED else MAX_LISTED
        start = max(0, _number(request.args, "next_page_token") or 0)
        state = control.registry.state
        parts = {f"{workflow}__{node['name']}" for workflow, record in state.workflows.items() for node in record.nodes}
        names = sorted(state.models.keys() - parts)  # a workflow's nodes are its own affair
        page = [control.registry.find(name) for name in names[start : start + limit]]
        found: dict[str, Any] = {"nextPageToken": str(start + limit)} if len(names) > start + limit else {}
        return answer(found | {"models": [{"modelName": r.name, "modelUrl": r.url} for r in page]})

    @api.get("/models/<name>")
    @api.get("/models/<name>/<version>")
    def describe_model(name: str, version: str | None = None) -> Response:
        """GET /models/{name}[/{version}|/all][?customized=true]"""
        customized = _flag(request.args, "customized", default=False)
        return answer(call(describe(control, name, version, customized=customized)))

    @api.put("/models/<name>")
    @api.put("/models/<name>/<version>")
    def scale(name: str, version: str | None = None) -> Response:
        """PUT /models/{name}[/{version}]: min_worker, max_worker, synchronous."""
        asked = _parameters()
        low, high = _number(asked, "min_worker"), _number(asked, "max_worker")
        wait = _flag(asked, "synchronous", default=False)
        low = 1 if low is None else low
        scaled = call(control.scale(name, version, low, high, wait=wait))
        if not wait:
            return answer(PROCESSING, 202)
        where = f", version: {version}" if version else ""
        return answer({"status": f"Workers scaled to {scaled.workers} for model: {name}{where}"})

    @api.put("/models/<name>/<version>/set-default")
    def set_default(name: str, version: str) -> Response:
        """PUT /models/{name}/{version}/set-default"""
        call(control.set_default(name, version))
        return answer({"status": f'Default version successfully updated for model "{name}" to "{version}"'})

    @api.delete("/models/<name>")
    @api.delete("/models/<name>/<version>")
    def unregister(name: str, version: str | None = None) -> Response:
        """DELETE /models/{name}[/{version}]"""
        if not model_api:
            raise errors.NotAllowed(NOT_ALLOWED)
        call(control.unregister(name, version))
        return answer({"status": f'Model "{name}" unregistered'})

    @api.get("/v1/models/<name>")
    def ready(name: str) -> Response:
        """GET /v1/models/{name}: KServe's readiness of one model."""
        record = control.registry.find(name)
        pool = control.pools.get((name, record.version))
        return answer({"name": name, "ready": bool(pool and pool.ready())})

    @api.get("/api-description")
    @api.route("/", methods=["OPTIONS"])
    def describe_api() -> Response:
        """GET /api-description, OPTIONS /"""
        return answer(description(current_app))

    @api.route("/models/<name>", methods=["OPTIONS"])
    @api.route("/models/<name>/<version>", methods=["OPTIONS"])
    def describe_model_api(name: str, version: str | None = None) -> Response:
        """OPTIONS /models/{name}"""
        control.registry.find(name, version)
        return answer(description(current_app, "/models/{model_name}"))

    return api


def internal(control: ControlPlane, call: Call) -> Blueprint:
    """What HTTP processes tell the control plane, on the unix socket alone."""
    api = Blueprint("internal", __name__, url_prefix="/internal")

    @api.post("/stalled/<worker_id>")
    def stalled(worker_id: str) -> Response:
        """POST /internal/stalled/{worker}: it owes answers and is silent."""

        async def tell() -> None:
            control.stalled(worker_id)

        call(tell())
        return answer({})

    @api.post("/wake/<name>")
    @api.post("/wake/<name>/<version>")
    def wake(name: str, version: str | None = None) -> Response:
        """POST /internal/wake/{name}[/{version}]: a request waits for a model without workers."""
        call(control.wake(name, version))
        return answer({})

    return api


def _registration(asked: Mapping[str, Any]) -> Registration:
    return Registration(
        url=_text(asked, "url") or "",
        name=_text(asked, "model_name"),
        handler=_text(asked, "handler"),
        runtime=_text(asked, "runtime"),
        batch_size=_number(asked, "batch_size"),
        max_batch_delay_ms=_number(asked, "max_batch_delay"),
        initial_workers=_number(asked, "initial_workers"),
        response_timeout=_number(asked, "response_timeout"),
        startup_timeout=_number(asked, "startup_timeout"),
    )


def _parameters() -> Mapping[str, Any]:
    """The query string, or a JSON body; a torn one is TorchServe's own fault, in its words and ours."""
    if request.mimetype == "application/json" and (body := request.get_data()):
        import json

        try:
            document = json.loads(body.decode())
        except json.JSONDecodeError:
            raise errors.BrokenBody("The request's body is no JSON.") from None
        except (ValueError, RecursionError):  # no text, too deep, numbers of a thousand digits
            raise errors.BadRequest("The request's body can not be read as JSON.") from None
        if not isinstance(document, dict):
            raise errors.BadRequest("The request's body has to be a JSON object of parameters.")
        return document | request.args.to_dict()
    return request.args


def _text(asked: Mapping[str, Any], key: str) -> str | None:
    """What is no text becomes text, as in the original; a list or an object is none of either."""
    value = asked.get(key)
    if isinstance(value, (dict, list)):
        raise errors.BadRequest(f"Parameter {key} has to be a string.")
    return str(value) if value not in (None, "") else None


def _number(asked: Mapping[str, Any], key: str) -> int | None:
    """A number which is none, or has more than 32 bits, is ignored, as the original does."""
    try:
        number = int(asked[key])
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return number if abs(number) <= MAX_NUMBER else None


def _flag(asked: Mapping[str, Any], key: str, *, default: bool) -> bool:
    return str(asked[key]).lower() == "true" if key in asked else default


def _http_error(error: HTTPException) -> Response:
    if error.code == 404:
        return refuse(404, "ResourceNotFoundException", NOT_FOUND)
    if error.code == 405:
        return refuse(405, "MethodNotAllowedException", NOT_ALLOWED)
    return refuse(error.code or 500, "BadRequestException", error.name)


def _unexpected(app: Flask) -> Callable[[Exception], Response]:
    def handle(error: Exception) -> Response:
        app.logger.exception("%s %s failed", request.method, request.path)
        return refuse(500, "InternalServerException", "Internal server error")

    return handle
