"""The page on the management port: what runs, how fast, and why something does not. Served from here, asks nobody else.

GET /dashboard is the page, GET /dashboard/data what it shows. Not for: changing anything; the commands and the API do that.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, send_from_directory

from ... import __version__
from ..answers import answer
from ..control import ControlPlane
from ..descriptions import describe_worker
from ..metrics import Family
from ..pool import Pool
from ..registry import VersionRecord

if TYPE_CHECKING:
    from ..autoscaler.loop import Autoscaler

HERE = Path(__file__).parent
POLICY = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:", "X-Content-Type-Options": "nosniff"}


def blueprint(
    control: ControlPlane,
    families: Callable[[], list[Family]],
    decisions: Callable[[], dict[str, Any] | None],
    check: Callable[[], None],
) -> Blueprint:
    """`families`: all metrics as they are now; `decisions`: the autoscaler's last ones, None when there is no autoscaler;
    `check`: refuses who may not see the data. The page itself tells nothing."""
    api = Blueprint("dashboard", __name__, url_prefix="/dashboard")

    @api.get("")
    def page() -> Response:
        """GET /dashboard"""
        return _file("index.html")

    @api.get("/<any('style.css', 'page.js'):name>")
    def part(name: str) -> Response:
        """GET /dashboard/style.css, page.js"""
        return _file(name)

    @api.get("/data")
    def data() -> Response:
        """GET /dashboard/data"""
        check()
        return answer(snapshot(control, families(), decisions()))

    return api


def _file(name: str) -> Response:
    response = send_from_directory(HERE, name)
    response.headers.update(POLICY)
    return response


def snapshot(control: ControlPlane, families: list[Family], decisions: dict[str, Any] | None) -> dict[str, Any]:
    """Counters since the start, for the page to make rates of; times by the monotonic clock."""
    state = control.registry.state
    found = Numbers(families)
    records = [record for _, versions in sorted(state.models.items()) for _, record in sorted(versions.items())]
    pools = [pool for record in records if (pool := control.pools.get((record.name, record.version)))]
    return {
        "version": __version__,
        "monotonic_seconds": time.monotonic(),
        "healthy": control.healthy,
        "models": [
            _model(record, control.pools.get((record.name, record.version)), found)
            | {"default": state.defaults[record.name] == record.version}
            | ({"error": broken} if (broken := control.broken.get((record.name, record.version))) else {})
            for record in records
        ],
        "workers": [
            {"model": pool.record.name, "version": pool.record.version} | describe_worker(worker)
            for pool in pools
            for worker in pool.workers
        ],
        "autoscaler": decisions,
    }


def recent_decisions(autoscaler: "Autoscaler") -> dict[str, Any]:
    """What the autoscaler did last, newest first."""
    state = autoscaler.state
    return {
        "state": "paused" if state.paused else "dry run" if state.dry_run else "on",
        "decisions": [
            {
                "when": event.time,
                "model": " ".join(event.decision.key),
                "from": sum(event.decision.before.values()),
                "to": sum(event.decision.after.values()),
                "reason": f"{event.decision.reason} ({event.outcome})",
            }
            for event in list(reversed(state.events))[:20]
        ],
    }


def _model(record: VersionRecord, pool: Pool | None, found: "Numbers") -> dict[str, Any]:
    def number(name: str) -> float:
        return found.of(name, record.name, record.version)

    return {
        "name": record.name,
        "version": record.version,
        "min_workers": record.min_workers,
        "max_workers": record.max_workers,
        "batch_size": record.batch_size,
        "ready": len(pool.ready()) if pool else 0,
        "error": pool.last_error if pool and not pool.ready() else "",
        "requests": number("flambeau_requests_completed_total"),
        "failed": number("flambeau_requests_failed_total") + number("flambeau_requests_rejected_total"),
        "in_flight": number("flambeau_requests_in_flight"),
        "waiting": number("flambeau_requests_waiting"),
        "tokens": found.total("LlmGeneratedTokens", record.name),
        "buckets": found.buckets("flambeau_request_seconds", record.name, record.version),
    }


class Numbers:
    """The metrics' samples, by the model they are about."""

    def __init__(self, families: list[Family]) -> None:
        self._samples = [
            (name, dict(labels), value) for family in families for (name, labels), value in family.samples.items()
        ]

    def of(self, name: str, model: str, version: str) -> float:
        return sum(
            value
            for sample, labels, value in self._samples
            if sample == name and labels.get("model_name") == model and labels.get("model_version") == version
        )

    def total(self, name: str, model: str) -> float:
        return sum(value for sample, labels, value in self._samples if sample == name and labels.get("ModelName") == model)

    def buckets(self, name: str, model: str, version: str) -> list[tuple[str, float]]:
        """(upper bound in seconds, requests up to it), in order; the last bound is "+Inf"."""
        found: dict[str, float] = {}
        for sample, labels, value in self._samples:
            if sample == f"{name}_bucket" and labels.get("model_name") == model and labels.get("model_version") == version:
                found[labels["le"]] = found.get(labels["le"], 0.0) + value
        return sorted(found.items(), key=lambda item: float(item[0]))
