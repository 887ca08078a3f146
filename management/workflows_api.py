"""TorchServe's workflow routes on the management API; `workflows` acts."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request

from .answers import answer
from .errors import BadRequest, NotAllowed
from .workflows import Workflows

NOT_ALLOWED = "Requested method is not allowed, please refer to API document."
MAX_LISTED = 100


def blueprint(workflows: Workflows, call: Callable[[Any], Any], *, model_api: bool) -> Blueprint:
    api = Blueprint("workflows", __name__, url_prefix="/workflows")

    @api.post("")
    def register() -> Response:
        """POST /workflows?url=NAME.war[&workflow_name=…]"""
        if not model_api:
            raise NotAllowed(NOT_ALLOWED)
        url = request.args.get("url")
        if url is None:
            raise BadRequest("Parameter url is required.")
        name = call(workflows.register(url, request.args.get("workflow_name")))
        return answer({"status": f"Workflow {name} has been registered and scaled successfully."})

    @api.get("")
    def listed() -> Response:
        """GET /workflows[?limit=…&next_page_token=…]"""
        limit = request.args.get("limit", MAX_LISTED, type=int)
        start = max(0, request.args.get("next_page_token", 0, type=int))
        limit = limit if 0 < limit <= MAX_LISTED else MAX_LISTED
        found = workflows.listed()
        following = {"nextPageToken": str(start + limit)} if len(found) > start + limit else {}
        return answer(following | {"workflows": found[start : start + limit]})

    @api.get("/<name>")
    def describe(name: str) -> Response:
        """GET /workflows/{name}"""
        return answer(workflows.describe(name))

    @api.delete("/<name>")
    def unregister(name: str) -> Response:
        """DELETE /workflows/{name}"""
        if not model_api:
            raise NotAllowed(NOT_ALLOWED)
        call(workflows.unregister(name))
        return answer({"status": f'Workflow "{name}" unregistered'})

    return api
