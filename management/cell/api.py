"""The cell's verbs: JSON in, JSON out, whoever carries them. `admin` serves them over HTTP, a supervisor calls them itself.

Not for: what users of Sax's HTTP server send, which `frontend.sax` words for them.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from . import names, overrides
from .catalogue import Change
from .cell import Cell
from .errors import SaxError, invalid, not_found
from .messages import Report

JOIN_SECONDS = 3.0  # a report is answered after so long though nothing has changed
LONGEST_WAIT = 600.0

Payload = dict[str, Any]


class Api:
    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.verbs: dict[str, Callable[[Payload], Awaitable[Any]]] = {
            "publish": self.publish,
            "update": self.update,
            "unpublish": self.unpublish,
            "list": self.list,
            "status": self.status,
            "servers": self.servers,
            "stats": self.stats,
            "wait": self.wait,
            "watch": self.watch,
            "join": self.join,
        }

    async def call(self, verb: str, payload: object) -> Any:
        """SaxError for what is refused."""
        if verb not in self.verbs:
            raise not_found(f"there is no verb {verb}")
        if not isinstance(payload, dict):
            raise invalid("the body should be a JSON object")
        try:
            return msgspec.to_builtins(await self.verbs[verb](payload))
        except KeyError as error:
            raise invalid(f"{error.args[0]} is missing") from None
        except msgspec.ValidationError as error:
            raise invalid(str(error)) from None

    async def publish(self, payload: Payload) -> Payload:
        given = overrides.parse(payload.get("overrides"))
        warning = self._cell.publish(
            _text(payload, "model"), _text(payload, "model_path"), _text(payload, "checkpoint"), whole(payload, "replicas"),
            given, payload.get("role"),
        )  # fmt: skip
        return {"warning": warning}

    async def update(self, payload: Payload) -> Payload:
        given = payload.get("overrides")
        change = Change(
            path=_text(payload, "model_path") if "model_path" in payload else None,
            checkpoint=_text(payload, "checkpoint") if "checkpoint" in payload else None,
            replicas=whole(payload, "replicas") if "replicas" in payload else None,
            overrides=None if given is None else overrides.parse(given),
            admin_acl=payload.get("admin_acl"),
            acls=payload.get("acls"),
        )
        spec = self._cell.update(_text(payload, "model"), change, payload.get("role"))
        return {"model_path": spec.path, "checkpoint": spec.checkpoint, "replicas": spec.replicas}

    async def unpublish(self, payload: Payload) -> Payload:
        self._cell.unpublish(_text(payload, "model"), payload.get("role"))
        return {}

    async def list(self, payload: Payload) -> Payload:
        return {"models": self._cell.models()}

    async def status(self, payload: Payload) -> Any:
        return self._cell.status(_text(payload, "model"))

    async def servers(self, payload: Payload) -> Payload:
        return {"servers": self._cell.servers()}

    async def stats(self, payload: Payload) -> Any:
        return self._cell.stats()

    async def wait(self, payload: Payload) -> Payload:
        seconds = _seconds(payload, 60)
        return {"replicas": await self._cell.wait_ready(_text(payload, "model"), whole(payload, "replicas"), seconds)}

    async def watch(self, payload: Payload) -> Any:
        seconds = _seconds(payload, 30)
        return await self._cell.watch(
            _text(payload, "model"), str(payload.get("admin", "")), whole(payload, "seqno"), seconds
        )

    async def join(self, payload: Payload) -> Any:
        """Answers when there are orders that the machine has not seen, or after JOIN_SECONDS."""
        if "machine" not in payload:
            raise invalid("JoinRequest.modelet missing")
        report = msgspec.convert(payload, Report)
        self._cell.join(report)
        orders = self._cell.orders(report.address)
        if orders.digest == report.seen:
            await self._cell.changed.wait(JOIN_SECONDS)
            self._still_there(report)
            orders = self._cell.orders(report.address)
        return orders

    def _still_there(self, report: Report) -> None:
        if not self._cell.knows(report.address, report.instance):
            raise SaxError("Canceled", f"{report.address} is served by another process now")


def _text(payload: Payload, name: str) -> str:
    value = payload[name]
    if not isinstance(value, str):
        raise invalid(f"{name} should be a text")
    return value


def _seconds(payload: Payload, default: float) -> float:
    value = payload.get("seconds", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e308:
        raise invalid("seconds should be a number")
    return min(float(value), LONGEST_WAIT)


def whole(payload: Payload, name: str) -> int:
    value = names.whole_number(payload[name])
    if value is None:
        raise invalid(f"{name} should be a whole number")
    return value
