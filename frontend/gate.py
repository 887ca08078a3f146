"""Who may ask: no browser that somebody else's page led here, and with token authorization only who has a key.

A server on loopback is reached by any page a browser shows (DNS rebinding, cross-site requests), so there the Host header
must name this machine and a foreign Origin is refused, whatever the method. With JSON web tokens, who has a good one may
use the models it names. Not for: making keys, which is the control
plane's; it writes `<runtime>/inference_keys.json`.
"""

import hmac
import logging
import time
from pathlib import Path

import msgspec

from ..hosts import answered, name_of, same_site
from ..management.errors import Forbidden as NotPermitted
from ..management.errors import TokenRefused
from ..management.jwt_auth import Bearer, Verifier
from .errors import Forbidden, ForeignHost, Unauthorized
from .exchange import Exchange
from .options import FrontendOptions

logger = logging.getLogger(__name__)

REREAD_SECONDS = 0.1  # for so long a key that was taken back may still pass
MAX_REMEMBERED = 1000  # Host headers


class InferenceKey(msgspec.Struct, frozen=True):
    key: str
    expires_at: float | None = None  # seconds since 1970


class InferenceKeys(msgspec.Struct, frozen=True):
    """The keys file, replaced as a whole; while keys are rotated, it holds the old one too."""

    keys: list[InferenceKey] = []


KEYS_FILE = "inference_keys.json"


class Gate:
    def __init__(self, runtime: Path, options: FrontendOptions) -> None:
        self._file = runtime / KEYS_FILE
        self._needs_key = options.token_authorization
        self._jwt = Verifier(options.jwt) if options.jwt else None
        self._keys: list[tuple[bytes, float]] = []
        self._read_at = 0.0
        self._stamp: tuple[int, int] | None = None
        self._hosts = allowed_hosts(options)
        self._origin = options.cors.allowed_origin
        self._known_hosts: dict[bytes, bool] = {}

    def check(self, exchange: Exchange, needs_key: bool = True, model: str | None = None, in_body: bool = False) -> None:
        """ForeignHost, Unauthorized or Forbidden; returns when the request may pass.

        `in_body`: the model is named there, and the route's handler asks `Request.may_use`.
        """
        if self._hosts is not None and not self._is_ours(exchange.host):
            raise ForeignHost("The Host header names no host of this server; allowed_hosts may list it.")
        if exchange.origin is not None and not self._may_come_from(exchange.origin, exchange.host):
            raise ForeignHost("Requests of this Origin are not allowed; cors_allowed_origin may name it.")
        if self._jwt is not None and needs_key:
            exchange.bearer = self._bearer(exchange.authorization, model, in_body)
        elif self._needs_key and needs_key:
            self._check_key(exchange.authorization)

    def check_key(self, authorization: bytes | None) -> None:
        """For requests which are not HTTP/1.1; tokens for certain models are refused, since only the message names one."""
        if self._jwt is not None:
            self._bearer(authorization, None, in_body=False)
        else:
            self._check_key(authorization)

    def _bearer(self, authorization: bytes | None, model: str | None, in_body: bool) -> Bearer:
        assert self._jwt is not None
        try:
            bearer = self._jwt.check((authorization or b"").decode("latin-1"))
            bearer.require("inference", model)
        except TokenRefused as error:
            raise Unauthorized(str(error)) from None
        except NotPermitted as error:
            raise Forbidden(str(error)) from None
        if bearer.restricted and model is None and not in_body:
            raise Forbidden("The token is for certain models, and the request does not say which one is meant.")
        return bearer

    def _is_ours(self, host: bytes | None) -> bool:
        if host is None:  # HTTP/1.0; no browser
            return True
        known = self._known_hosts.get(host)
        if known is None:
            if len(self._known_hosts) >= MAX_REMEMBERED:
                self._known_hosts.clear()
            known = self._known_hosts[host] = name_of(host.decode("latin-1")) in (self._hosts or ())
        return known

    def _may_come_from(self, origin: bytes, host: bytes | None) -> bool:
        text = origin.decode("latin-1")
        return self._origin in ("*", text) or same_site(text, host.decode("latin-1") if host else None)

    def _check_key(self, authorization: bytes | None) -> None:
        """Unauthorized unless it bears a key that is good now."""
        scheme, _, given = (authorization or b"").partition(b" ")
        now = time.time()
        if not 0 <= now - self._read_at < REREAD_SECONDS:
            self._read_keys(now)
        if scheme.lower() == b"bearer" and (self._has(given.strip(), now) or self._has_by_now(given.strip(), now)):
            return
        raise Unauthorized("Token Authorization failed. Token either incorrect, expired, or not provided correctly")

    def _has(self, given: bytes, now: float) -> bool:
        good = [hmac.compare_digest(given, key) and now < end for key, end in self._keys]  # all are compared, always
        return any(good)

    def _has_by_now(self, given: bytes, now: float) -> bool:
        """A key may have been made since we looked."""
        self._read_keys(now)
        return self._has(given, now)

    def _read_keys(self, now: float) -> None:
        """Reads the file when it was replaced; without a file nobody passes."""
        self._read_at = now
        try:
            stat = self._file.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp == self._stamp:
                return
            keys = msgspec.json.decode(self._file.read_bytes(), type=InferenceKeys).keys
        except (OSError, msgspec.MsgspecError) as error:
            logger.error("no inference keys: %s", error)
            self._keys, self._stamp = [], None
            return
        self._stamp = stamp
        self._keys = [(entry.key.encode(), entry.expires_at or float("inf")) for entry in keys]


def allowed_hosts(options: FrontendOptions) -> frozenset[str] | None:
    """None: any."""
    binds = (
        bind.partition("://")[2].strip("/") for bind in (*options.binds, *options.sax_binds) if not bind.startswith("unix:")
    )
    return answered({name_of(bind) for bind in binds}, options.allowed_hosts)
