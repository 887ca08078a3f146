"""How the control plane's HTTP answers look: TorchServe's pretty JSON and headers, and the one table from errors to status."""

import json
import uuid
from typing import Any

from flask import Response

from ..archiver import errors as archives
from . import errors

# The one place where errors become status codes and TorchServe's names.
STATUS: dict[type[Exception], tuple[int, str]] = {
    errors.BadRequest: (400, "BadRequestException"),
    errors.ModelNotFound: (404, "ModelNotFoundException"),
    errors.VersionNotFound: (404, "ModelVersionNotFoundException"),
    errors.WorkflowNotFound: (404, "WorkflowNotFoundException"),
    errors.WorkflowConflict: (409, "ConflictStatusException"),
    errors.ModelConflict: (409, "ConflictStatusException"),
    errors.DefaultVersionInUse: (403, "InvalidModelVersionException"),
    errors.WorkersFailed: (500, "InternalServerException"),
    errors.StorageFailed: (507, "InsufficientStorageException"),
    errors.NoWorker: (503, "ServiceUnavailableException"),
    errors.NotAllowed: (405, "MethodNotAllowedException"),
    errors.Forbidden: (403, "ForbiddenException"),
    errors.TokenRefused: (401, "InvalidKeyException"),
    errors.BrokenBody: (500, "InternalServerException"),
    archives.InvalidModel: (400, "InvalidModelException"),
    archives.ModelNotFound: (404, "ModelNotFoundException"),
    archives.DownloadFailed: (400, "DownloadArchiveException"),
    archives.AlreadyExists: (500, "InternalServerException"),
    archives.ExtraMissing: (400, "BadRequestException"),
}
CAUSE_HEADER = "x-flambeau-cause"  # TorchServe's body says only that workers failed; clients compare it whole
NOT_CACHED = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


def answer(document: Any, status: int = 200) -> Response:
    return Response(json.dumps(document, indent=2) + "\n", status, content_type="application/json")


def refuse(status: int, kind: str, message: str) -> Response:
    return answer({"code": status, "type": kind, "message": message}, status)


def failed(error: Exception, token_status: int = 401) -> Response:
    """For the errors in STATUS and their children; `token_status` 400 is TorchServe's answer to a wrong token."""
    status, kind = next(STATUS[c] for c in type(error).__mro__ if c in STATUS)
    status = token_status if status == 401 else status
    response = refuse(status, kind, str(error))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if cause := getattr(error, "cause", ""):
        response.headers[CAUSE_HEADER] = header_text(cause)
    return response


def header_text(text: str) -> str:
    """One line of ASCII: a model's words may hold colours for a terminal, which no header may."""
    line = " ".join(text.split())[:1000]
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in line)


def finish(response: Response, extra: dict[str, str]) -> Response:
    """What every answer carries."""
    response.headers["x-request-id"] = str(uuid.uuid4())
    response.headers.update(NOT_CACHED | extra)
    if response.status_code >= 400:
        response.headers["connection"] = "close"
    return response
