"""What a cell refuses, in gRPC's canonical codes as Sax names them, and the HTTP status of each.

One exception for admin, client and HTTP API alike: it travels as JSON and is raised again at the other end.
"""

from typing import Any

STATUS = {
    "InvalidArgument": 400,
    "Unauthenticated": 401,
    "PermissionDenied": 403,
    "NotFound": 404,
    "AlreadyExists": 409,
    "FailedPrecondition": 412,
    "ResourceExhausted": 429,
    "Canceled": 499,
    "Internal": 500,
    "Unimplemented": 501,
    "Unavailable": 503,
    "DeadlineExceeded": 504,
}
CODES = {status: code for code, status in STATUS.items()}


class SaxError(Exception):
    """`code` is one of STATUS; the text is meant for whoever asked."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def status(self) -> int:
        return STATUS[self.code]

    def body(self) -> dict[str, Any]:
        """Suits clients of Sax's HTTP server (`detail`) and of TorchServe's APIs (`code`, `type`, `message`)."""
        return {"detail": self.text, "code": self.status, "type": self.code, "message": self.text}


def invalid(text: str) -> SaxError:
    return SaxError("InvalidArgument", text)


def not_found(text: str) -> SaxError:
    return SaxError("NotFound", text)


def from_answer(status: int, body: object) -> SaxError:
    """The error an HTTP answer stands for, whoever wrote it."""
    fields = body if isinstance(body, dict) else {}
    code = fields.get("type")
    text = fields.get("detail") or fields.get("message") or f"HTTP status {status}"
    return SaxError(code if code in STATUS else CODES.get(status, "Internal"), str(text))
