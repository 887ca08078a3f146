"""Who may use the control plane's HTTP: no browser that somebody else's page led here, and where tokens are on, who has one.

`Access` is decided once, from the settings, and refuses to start what would be open to the network. Not for: the HTTP
processes, whose `frontend.gate` does the same for inference.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from flask import request

from ..hosts import answered, foreign
from .addresses import grpc, parse
from .errors import Forbidden, StartError
from .jwt_auth import JwtOptions, UnusableKey, Verifier
from .platforms import guards_the_network
from .settings import Settings
from .tokens import Tokens

logger = logging.getLogger(__name__)

OPEN_PATHS = {"/api-description"}  # as in TorchServe; with OPTIONS /, which answers the same


@dataclass(frozen=True)
class Access:
    """`jwt`: both ask for JSON web tokens, in place of TorchServe's keys."""

    inference_tokens: bool
    management_tokens: bool
    model_api: bool  # models may be registered and deleted over HTTP
    jwt: JwtOptions | None = None

    @property
    def any_tokens(self) -> bool:
        return self.inference_tokens or self.management_tokens


def decide(settings: Settings, environ: Mapping[str, str]) -> Access:
    """StartError when the management API would be open to whoever reaches this machine."""
    inference, management, sax = (exposed(settings, api) for api in ("inference", "management", "sax"))
    guarded = guards_the_network(environ)
    switch = True if guarded and settings.disable_token_authorization is None else settings.disable_token_authorization
    on_inference = bool(inference or sax) if switch is None else not switch
    on_management = bool(management) if switch is None else not switch
    enabled = settings.enable_model_api
    if jwt := jwt_options(settings):
        return Access(False, False, True if enabled is None else enabled, jwt)
    forgiven = settings.insecure or settings.compat or guarded
    if sax and not on_inference and not forgiven:
        raise StartError(
            f"{sax} is reachable from the network and disable_token_authorization=true: "
            "whoever reaches it publishes what runs here. Bind it to 127.0.0.1, leave the tokens on, or say --insecure"
        )
    if management and not on_management:
        if not forgiven:
            raise StartError(
                f"{management} is reachable from the network and disable_token_authorization=true: "
                "whoever reaches it runs code here. Bind it to 127.0.0.1, leave the tokens on, or say --insecure"
            )
        logger.warning("The management API is open to the network: %s", management)
    return Access(on_inference, on_management, not management or on_management if enabled is None else enabled)


def refusal_status(settings: Settings) -> int:
    """Of a missing or wrong token."""
    return 400 if settings.compat else settings.token_auth_status


def exposed(settings: Settings, api: Literal["inference", "management", "sax"]) -> str:
    """The setting by which other machines reach this API, as `key=value`; "" when they can't."""
    if api == "sax":
        listening = {"sax_address": parse(settings.sax_address)} if settings.cell else {}
    else:
        listening = {f"{api}_address": parse(getattr(settings, f"{api}_address"))}
        if by_grpc := grpc(getattr(settings, f"grpc_{api}_address"), getattr(settings, f"grpc_{api}_port")):
            listening[f"grpc_{api}_address"] = by_grpc
    return next((f"{key}={getattr(settings, key)}" for key, address in listening.items() if not address.loopback), "")


def jwt_options(settings: Settings) -> JwtOptions | None:
    """StartError for keys that can't be used."""
    if not (settings.jwt_secret_file or settings.jwt_jwks_file):
        return None
    options = JwtOptions(
        secret_file=settings.jwt_secret_file and os.path.abspath(settings.jwt_secret_file),
        jwks_file=settings.jwt_jwks_file and os.path.abspath(settings.jwt_jwks_file),
        required_claims=[claim.strip() for claim in (settings.jwt_required_claims or "").split(",") if claim.strip()],
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )
    try:
        Verifier(options)
    except (UnusableKey, OSError) as error:
        raise StartError(f"JSON web tokens: {error}") from None
    return options


def jwt_check(verifier: Verifier) -> Callable[[], None]:
    """For a blueprint's before_request: a token with the role `management`."""

    def check() -> None:
        if request.path not in OPEN_PATHS and not (request.path == "/" and request.method == "OPTIONS"):
            verifier.check(request.headers.get("Authorization")).require("management")

    return check


def token_check(tokens: Tokens) -> Callable[[], None]:
    """For a blueprint's before_request: the management key; for /token the API key."""

    def check() -> None:
        if request.path in OPEN_PATHS or (request.path == "/" and request.method == "OPTIONS"):
            return
        tokens.check("API" if request.path == "/token" else "management", request.headers.get("Authorization"))

    return check


def browser_check(settings: Settings, address: str) -> Callable[[], None]:
    """For an application's before_request: DNS rebinding and cross-site requests end here, whatever the method."""
    hosts, origin_allowed = known_hosts(settings, address), settings.cors_allowed_origin

    def check() -> None:
        origin = request.headers.get("Origin")
        wrong = foreign(hosts, request.headers.get("Host"), None if origin_allowed in ("*", origin) else origin)
        if wrong == "Host":
            raise Forbidden("The Host header names no host of this server; allowed_hosts may list it.")
        if wrong == "Origin":
            raise Forbidden("Requests of this Origin are not allowed; cors_allowed_origin may name it.")

    return check


def known_hosts(settings: Settings, address: str) -> frozenset[str] | None:
    """None: any."""
    bound = parse(address).host
    return answered([bound] if bound else [], allowed_hosts(settings))


def allowed_hosts(settings: Settings) -> list[str]:
    return [host.strip() for host in (settings.allowed_hosts or "").split(",") if host.strip()]
