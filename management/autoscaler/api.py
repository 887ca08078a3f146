"""/autoscaler on the management API: what it does and why, pause, dry run, performance data; and Inferno's paths beside it."""

import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from ...optimizer.wire import WireError, parse
from .config import LONGEST_PERIOD, SHORTEST_PERIOD
from .inferno import collected, update
from .loop import Autoscaler
from .performance import Performance

Call = Callable[[Coroutine[Any, Any, Any]], Any]
CHANGEABLE = {"paused", "dry_run", "period_seconds"}


def blueprint(autoscaler: Autoscaler, call: Call) -> Blueprint:
    api = Blueprint("autoscaler", __name__)

    @api.get("/autoscaler")
    def state() -> Response:
        """GET /autoscaler: whether it runs, what it last saw, decided and did."""
        return _json(call(_inside(lambda: _state(autoscaler))))

    @api.put("/autoscaler")
    def change() -> Response:
        """PUT /autoscaler: paused, dry_run, period_seconds."""
        try:
            asked = parse(request.get_data())
        except WireError as error:
            return _json({"message": str(error)}, 400)
        if not isinstance(asked, dict) or asked.keys() - CHANGEABLE:
            told = ", ".join(sorted(asked.keys() - CHANGEABLE)) if isinstance(asked, dict) else "something else"
            return _json({"message": f"expected {', '.join(sorted(CHANGEABLE))} in an object, got {told}"}, 400)
        for key in ("paused", "dry_run"):
            if not isinstance(asked.get(key, False), bool):
                return _json({"message": f"{key}: expected true or false"}, 400)
        period = asked.get("period_seconds", autoscaler.config.period_seconds)
        if (
            isinstance(period, bool)
            or not isinstance(period, int | float)
            or not SHORTEST_PERIOD <= period <= LONGEST_PERIOD
        ):
            return _json({"message": f"period_seconds: expected {SHORTEST_PERIOD:g} to {LONGEST_PERIOD:g}"}, 400)
        return _json(call(_inside(lambda: _change(autoscaler, asked, float(period)))))

    @api.post("/autoscaler/performance")
    def learn() -> Response:
        """POST /autoscaler/performance: what a profile found."""
        try:
            known = msgspec.json.decode(request.get_data(), type=Performance)
        except msgspec.MsgspecError as error:
            return _json({"message": str(error)}, 400)
        call(_inside(lambda: autoscaler.book.put(known)))
        return _json(msgspec.to_builtins(known))

    @api.post("/autoscaler/run")
    @api.get("/invoke")
    def run() -> Response:
        """GET /invoke, POST /autoscaler/run: a cycle now."""
        decisions = call(autoscaler.cycle())
        if autoscaler.state.last_error:
            return _json({"message": f"controller: {autoscaler.state.last_error}"}, 404)
        return _json("OK" if request.method == "GET" else [asdict(each) for each in decisions])

    @api.get("/collect")
    def collect() -> Response:
        """GET /collect: the servers, for an outside controller."""
        return _json(call(_inside(lambda: collected(autoscaler, time.monotonic()))))

    @api.post("/update")
    def place() -> Response:
        """POST /update: the allocations of an outside controller."""
        try:
            failures = call(update(autoscaler, parse(request.get_data())))
        except (WireError, ValueError) as error:
            return _json({"message": str(error)}, 404)  # as the published actuator has it
        return _json({"message": "; ".join(failures)}, 500) if failures else _json("Done")

    return api


async def _inside(read: Callable[[], Any]) -> Any:
    """In the event loop, where the state is changed."""
    return read()


def _state(autoscaler: Autoscaler) -> dict[str, Any]:
    state, config = autoscaler.state, autoscaler.config
    return {
        "paused": state.paused,
        "dry_run": state.dry_run,
        "period_seconds": config.period_seconds,
        "cycles": state.cycles,
        "last_cycle": state.last_cycle,
        "last_error": state.last_error,
        "accelerators": [asdict(each) for each in config.accelerators],
        "models": [
            {"model": each.key[0], "version": each.key[1], "workers": each.workers, "slo": asdict(each.slo)}
            for each in autoscaler.fleet.served()
        ],
        "observed": [{"model": key[0], "version": key[1]} | asdict(each) for key, each in sorted(state.observed.items())],
        "decisions": [asdict(each) for each in state.decisions],
        "events": [asdict(each) for each in reversed(state.events)],
        "performance": [msgspec.to_builtins(each) for each in autoscaler.book.entries.values()],
        "corrections": [
            {"model": model, "accelerator": accelerator, "itl": each.itl, "ttft": each.ttft}
            for (model, accelerator), each in autoscaler.book.corrections.items()
        ],
    }


def _change(autoscaler: Autoscaler, asked: dict[str, Any], period: float) -> dict[str, Any]:
    if "paused" in asked:
        autoscaler.pause(asked["paused"])
    autoscaler.state.dry_run = asked.get("dry_run", autoscaler.state.dry_run)
    autoscaler.pace(period)
    return _state(autoscaler)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")
