"""TorchServe's inference API: which path means which model and operation, and its few routes that need no worker.

The paths that reach a worker are read by `target()` and answered by `predict`; everything TorchServe accepts is here, the
paths of its other protocols (KServe v1 and v2, SageMaker) included. Not for: Open Inference Protocol, which is `oip`.
"""

from urllib.parse import parse_qs, unquote

from .errors import BadRequest, Starting
from .models import Models
from .options import FrontendOptions
from .predict import Target
from .web import Request, Route

HEALTHY = '{\n  "status": "Healthy"\n}\n'
UNHEALTHY = '{\n  "status": "Unhealthy"\n}\n'


def target(models: Models, url: bytes, options: FrontendOptions) -> Target | None:
    """None when the path is none of a model's; RequestError when it is one of an unknown model."""
    raw_path, _, query = url.partition(b"?")
    if options.predict_route is not None and raw_path == options.predict_route.encode():
        raw_path = b"/invocations"
    match [unquote(part) for part in raw_path.decode("latin-1").split("/")[1:]]:
        case ["predictions", name, version, "v1", *_] if (
            name and "generate" in models.find(name, version).route.capabilities
        ):
            return None  # OpenAI's paths below a language model's: `openai` has them
        case ["predictions", name, *rest] if name:
            return _with_version(models, "predict", name, rest)
        case ["explanations", name, *rest] if name:
            return _with_version(models, "explain", name, rest)
        case ["invocations"]:
            wanted = _parameter(query, "model_name") or _only(models)
            if not wanted and models.table.starting:
                raise Starting()
            if not wanted:
                raise BadRequest("Parameter model_name is required.")
            return Target(models.find(wanted), "predict", query=query)
        case ["models", name, "invoke"]:
            return Target(models.find(name), "predict")
        case ["v1", "models", call] if call.endswith((":predict", ":explain")):
            name, _, operation = call.rpartition(":")
            return Target(models.find(name), operation)
        case ["v2", "models", name, "explain"]:
            return Target(models.find(name), "explain")
        case [name, "predict"] if name:
            return Target(models.find(name), "predict", query=query)
        case [name, version, "predict"] if name and version:
            return Target(models.find(name, version), "predict", version, query=query)
    return None


def _with_version(models: Models, operation: str, name: str, rest: list[str]) -> Target:
    version = rest[0] or None if rest else None
    return Target(models.find(name, version), operation, version, "/".join(rest[1:]))


def _parameter(query: bytes, name: str) -> str | None:
    values = parse_qs(query.decode("latin-1")).get(name)
    return values[0] if values else None


def _only(models: Models) -> str | None:
    """SageMaker's single-model endpoints name no model: the one that was loaded at start is meant."""
    if models.table.starting:  # a second one may come
        return None
    loaded = {
        name
        for name, versions in models.table.models.items()
        if any(route.loaded_at_startup for route in versions.values())
    }
    return next(iter(loaded)) if len(loaded) == 1 else None


def routes(models: Models, options: FrontendOptions) -> list[Route]:
    async def ping(request: Request) -> None:
        """* /ping: whether every model has the workers it should have."""
        models.refresh()
        table = models.table
        if table.draining or table.starting:
            await request.answer(503, UNHEALTHY)
        else:
            await request.answer(200 if table.healthy else 500, HEALTHY if table.healthy else UNHEALTHY)

    paths = ["/ping", *([options.health_route] if options.health_route else [])]
    return [Route("*", path, ping, needs_key=False) for path in paths]
