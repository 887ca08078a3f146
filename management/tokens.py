"""Token authorization as TorchServe has it: a management, an inference and an API key in key_file.json, renewed by GET /token.

Keys are 256 random bits; those given in the environment (FLAMBEAU_INFERENCE_KEY, …) never expire, for containers. A renewed
key's predecessor stays good for a moment, so that renewing under load fails nobody. Not for: checking inference requests,
which the HTTP processes do by `<runtime>/inference_keys.json`.
"""

import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .errors import BadRequest, TokenRefused

OVERLAP_SECONDS = 30.0
KEY_BYTES = 32
REFUSAL = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"

Kind = Literal["management", "inference", "API"]
KINDS: tuple[Kind, ...] = ("management", "inference", "API")


@dataclass(frozen=True)
class Key:
    text: str
    expires_at: float | None  # seconds since 1970; None: never


class Tokens:
    """Written to `key_file` (0600) when made and at each renewal."""

    def __init__(
        self,
        key_file: Path,
        inference_file: Path,
        lifetime_seconds: float,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key_file, self._inference_file = key_file, inference_file
        self._lifetime, self._clock = lifetime_seconds, clock
        self._lock = threading.Lock()
        self._keys: dict[Kind, list[Key]] = {}
        for kind in KINDS:
            given = environ.get(f"FLAMBEAU_{kind.upper()}_KEY")
            self._keys[kind] = [Key(given, None)] if given else [self._made(kind)]
        self._write()

    def check(self, kind: Kind, authorization: str | None) -> None:
        """TokenRefused unless the header bears a good key of this kind."""
        scheme, _, given = (authorization or "").partition(" ")
        now, offered = self._clock(), given.strip().encode()
        good = [
            hmac.compare_digest(offered, key.text.encode()) and (key.expires_at is None or now < key.expires_at)
            for key in self._keys[kind]
        ]  # all are compared, always
        if scheme.lower() != "bearer" or not any(good):
            raise TokenRefused(REFUSAL)

    def renew(self, kind: str | None) -> None:
        if kind not in ("management", "inference"):
            raise BadRequest("Parameter type is required: inference or management.")
        renewed: Kind = "management" if kind == "management" else "inference"
        with self._lock:
            now = self._clock()
            old = self._keys[renewed][0]
            ends = now + OVERLAP_SECONDS if old.expires_at is None else min(old.expires_at, now + OVERLAP_SECONDS)
            self._keys[renewed] = [self._made(renewed), Key(old.text, ends)]
            self._write()

    def _made(self, kind: Kind) -> Key:
        return Key(secrets.token_urlsafe(KEY_BYTES), None if kind == "API" else self._clock() + self._lifetime)

    def _write(self) -> None:
        shown: dict[str, Any] = {}
        for kind in KINDS:
            key = self._keys[kind][0]
            shown[kind] = {"key": key.text}
            if key.expires_at is not None:
                when = datetime.fromtimestamp(key.expires_at, UTC)
                shown[kind]["expiration time"] = when.isoformat(timespec="microseconds").replace("+00:00", "Z")
        _replace(self._key_file, json.dumps(shown, indent=2) + "\n")
        keys = [{"key": key.text, "expires_at": key.expires_at} for key in self._keys["inference"]]
        _replace(self._inference_file, json.dumps({"keys": keys}))


def _replace(path: Path, text: str) -> None:
    """Readable by nobody else, from its first byte on."""
    next_ = path.with_name(path.name + ".next")
    next_.unlink(missing_ok=True)
    with os.fdopen(os.open(next_, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(next_, path)
