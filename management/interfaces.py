"""Which API the control plane serves on which socket: management, metrics, workflows, autoscaler, dashboard; all of it on the
unix socket of the HTTP processes.

What its parts answer is theirs; here they are put together, with TLS and with the checks that every request must pass.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint

from . import addresses, api, guard, sockets, workflows_api
from .adapter import Listener
from .connection import Limits
from .control import ControlPlane
from .dashboard import blueprint as dashboard
from .dashboard import recent_decisions
from .guard import Access
from .jwt_auth import Verifier
from .measuring import Measuring
from .metrics import all_families, blueprint, exposition
from .settings import Settings
from .tls import Certificate
from .tokens import Tokens
from .translate import cors_headers
from .vllm_metrics import as_vllm
from .workflows import Workflows

if TYPE_CHECKING:
    from .autoscaler.loop import Autoscaler


@dataclass
class Interfaces:
    settings: Settings
    access: Access
    tokens: Tokens | None
    certificate: Certificate | None
    control: ControlPlane
    workflows: Workflows
    autoscaler: "Autoscaler | None"
    measuring: Measuring
    runtime: Path
    loop: asyncio.AbstractEventLoop
    _listeners: list[Listener] = field(default_factory=list)

    def serve(self, opened: dict[str, Any]) -> None:
        settings = self.settings
        scrape = blueprint(self._scrape)
        same = addresses.parse(settings.metrics_address) == addresses.parse(settings.management_address)
        management = self.management()
        inside = [*management, scrape, api.internal(self.control, self._call)]
        self._listen(inside, sockets.listen_unix(self.runtime / "control.sock"))
        if "management" in opened:
            self._listen([*management, *([scrape] if same else [])], opened["management"], settings.management_address)
        if "metrics" in opened:
            self._listen([scrape], opened["metrics"], settings.metrics_address)

    def management(self) -> list[Blueprint]:
        return [self._verbs(), self._workflow_routes(), *self._scaling(), self._page()]

    async def stop(self) -> None:
        await asyncio.gather(*(listener.stop() for listener in self._listeners))

    def _scaling(self) -> list[Blueprint]:
        if self.autoscaler is None:
            return []
        from .autoscaler.api import blueprint as autoscaler_routes

        routes = autoscaler_routes(self.autoscaler, self._call)
        routes.before_request(self._token_check())
        return [routes]

    def _workflow_routes(self) -> Blueprint:
        routes = workflows_api.blueprint(self.workflows, self._call, model_api=self.access.model_api)
        routes.before_request(self._token_check())
        return routes

    def _page(self) -> Blueprint:
        numbers = self.runtime / "metrics"

        def decisions() -> dict[str, Any] | None:
            return recent_decisions(self.autoscaler) if self.autoscaler else None

        return dashboard(
            self.control, lambda: all_families(self.measuring.metrics, numbers), decisions, self._token_check()
        )

    def _token_check(self) -> Callable[[], None]:
        if self.access.jwt:
            return guard.jwt_check(Verifier(self.access.jwt))
        if self.tokens and self.access.management_tokens:
            return guard.token_check(self.tokens)
        return lambda: None

    def _verbs(self) -> Blueprint:
        tokens = self.tokens if self.access.management_tokens else None
        return api.management(
            self.control, self._call, model_api=self.access.model_api, tokens=tokens, check=self._token_check()
        )

    def _listen(self, blueprints: list[Any], socket: Any, address: str = "") -> None:
        settings = self.settings
        tls: dict[str, Any] = {}
        if address.startswith("https:"):
            assert self.certificate is not None  # or it would have refused to start
            tls = {"ssl_certfile": self.certificate.certificate_file, "ssl_keyfile": self.certificate.private_key_file}
        check = guard.browser_check(settings, address) if address else None  # HTTP processes have checked what they pass on
        status = guard.refusal_status(settings)
        app = api.create_app(blueprints, cors_headers(settings), check=check, token_status=status)
        limits = Limits(settings.max_request_size, header_seconds=settings.header_timeout)
        listener = Listener(app, [socket], limits, **tls)
        listener.start()
        self._listeners.append(listener)

    def _scrape(self, wanted: list[str]) -> str:
        """Empty when metrics go to the logs alone, as in the original."""
        if not self.measuring.exposed:
            return ""
        self.measuring.look(self.control.pools.values())
        families = all_families(self.measuring.metrics, self.runtime / "metrics")
        return exposition(families + (as_vllm(families) if self.settings.vllm_metrics else []), wanted)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """From a view's thread into the event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


def open_sockets(settings: Settings) -> dict[str, socket.socket]:
    """Before anything is started: StartError when a port is taken. What shares an address is served there."""
    management, metrics = addresses.parse(settings.management_address), addresses.parse(settings.metrics_address)
    inference = addresses.parse(settings.inference_address)
    opened = {} if management == inference else {"management": sockets.listen(management)}
    if metrics not in (inference, management):
        opened["metrics"] = sockets.listen(metrics)
    return opened
