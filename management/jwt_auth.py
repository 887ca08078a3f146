"""JSON web tokens: whether one is good, and what its bearer may do.

Either one shared secret (HS256) or a file of public keys (JWKS: RS256, EdDSA); the algorithm belongs to the key, never to
the token. What PyJWT leaves to its caller is done here: long enough keys, tokens of bounded size, required claims. Used on
every port of ours and by the proxy. Not for: the keys of token authorization (`tokens`), nor making tokens
(scripts/jwt_util.py).

PyJWT and its cryptography take 5 MB of each process: they are imported by what uses them.
"""

import fnmatch
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import msgspec

from .errors import Forbidden, TokenRefused

logger = logging.getLogger(__name__)

Role = Literal["inference", "management"]

MAX_TOKEN_BYTES = 8192
MIN_SECRET_BYTES = 32
MIN_RSA_BITS = 2048
LOOK_SECONDS = 1.0  # how often the JWKS file is looked at
ALGORITHMS = {"RSA": "RS256", "OKP": "EdDSA"}
EVERYTHING = ("*",)


class JwtOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of the two files is given."""

    secret_file: str | None = None
    jwks_file: str | None = None
    required_claims: list[str] = []  # such as exp, sub: a token without one is refused
    audience: str | None = None  # tokens must be meant for it; without it, a token that names an audience is refused
    issuer: str | None = None
    leeway_seconds: float = 0.0  # how far clocks may differ
    min_secret_bytes: int = MIN_SECRET_BYTES


class UnusableKey(ValueError):
    """Keys that must not be used: the server does not start with them."""


@dataclass(frozen=True)
class Key:
    value: Any
    algorithm: str


@dataclass(frozen=True)
class Bearer:
    """What a good token says."""

    claims: Mapping[str, Any]

    def require(self, role: Role, model: str | None = None) -> None:
        """Forbidden unless the bearer has the role and, when a model is given, may use it."""
        if not self.has(role):
            raise Forbidden(f"The token does not have the role {role}.")
        if model is not None and not self.may_use(model):
            raise Forbidden("The token is not for this model.")

    def has(self, role: Role) -> bool:
        roles = words(self.claims.get("roles", ["inference"]))
        return role in roles or "admin" in roles

    @property
    def restricted(self) -> bool:
        return "models" in self.claims

    def may_use(self, model: str) -> bool:
        return any(fnmatch.fnmatchcase(model, glob) for glob in words(self.claims.get("models", EVERYTHING)))


def words(claim: object) -> list[str]:
    """A list of strings, or one string as the only one; anything else grants nothing."""
    if isinstance(claim, str):
        return [claim]
    return [word for word in claim if isinstance(word, str)] if isinstance(claim, list | tuple) else []


class Verifier:
    """Made once; `check` is called for each request."""

    def __init__(self, options: JwtOptions, secret: str | None = None) -> None:
        """`secret` is the shared secret itself, when it does not come from a file."""
        if options.secret_file:
            secret = Path(options.secret_file).read_text().strip()
        if (secret is None) == (options.jwks_file is None):
            raise UnusableKey("either a secret or a JWKS file is wanted")
        self._options = options
        self._keys: dict[str, Key] = {}
        self._stamp: tuple[int, int] | None = None
        self._look_at = 0.0
        if secret is not None:
            self._keys = {"": shared(secret, options.min_secret_bytes)}
        else:
            self._read_jwks()

    def check(self, authorization: str | None) -> Bearer:
        """The bearer of an Authorization header; TokenRefused when it is none of ours."""
        import jwt

        token = bearer_token(authorization)
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenRefused(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
        options = self._options
        try:
            key = self._key_for(token)
            claims = jwt.decode(
                token,
                key.value,
                algorithms=[key.algorithm],
                audience=options.audience,
                issuer=options.issuer,
                leeway=options.leeway_seconds,
                options={"require": list(options.required_claims)},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(f"The token is not valid: {error}") from None
        except (ValueError, RecursionError):
            raise TokenRefused("The token is not valid.") from None
        return Bearer(claims)

    def _key_for(self, token: str) -> Key:
        if "" in self._keys:
            return self._keys[""]
        import jwt

        self._refresh()
        kid = jwt.get_unverified_header(token).get("kid")
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if kid not in self._keys:
            raise jwt.InvalidKeyError("it is signed by no key of ours")
        return self._keys[kid]

    def _refresh(self) -> None:
        """Keys are rotated by replacing the file; a file that can't be used leaves the old keys in force."""
        if time.monotonic() < self._look_at:
            return
        try:
            self._read_jwks()
        except (UnusableKey, OSError) as error:
            logger.error("the JWKS file can't be used, its last good keys stay in force: %s", error)

    def _read_jwks(self) -> None:
        self._look_at = time.monotonic() + LOOK_SECONDS
        assert self._options.jwks_file is not None
        stat = os.stat(self._options.jwks_file)
        if self._stamp != (stamp := (stat.st_mtime_ns, stat.st_ino)):
            self._keys = public_keys(Path(self._options.jwks_file))
            self._stamp = stamp


def shared(secret: str, min_bytes: int = MIN_SECRET_BYTES) -> Key:
    if len(secret.encode()) < min_bytes:
        raise UnusableKey(f"the secret has {len(secret.encode())} bytes; fewer than {min_bytes} can be guessed")
    return Key(secret.encode(), "HS256")


def public_keys(path: Path) -> dict[str, Key]:
    """The keys of a JWKS file by their ids. Only RSA and Ed25519 keys: a symmetric one would be no secret there."""
    import jwt

    try:
        found = jwt.PyJWKSet.from_dict(json.loads(path.read_text())).keys
    except (ValueError, AttributeError, jwt.PyJWTError) as error:
        raise UnusableKey(f"{path}: no JSON web key set: {error}") from None
    keys: dict[str, Key] = {}
    for number, jwk in enumerate(found):
        algorithm = ALGORITHMS.get(jwk.key_type or "")
        if algorithm is None or jwk.algorithm_name != algorithm:
            raise UnusableKey(
                f"{path}: key {number} is a {jwk.key_type} key for {jwk.algorithm_name}; RS256 and EdDSA are wanted"
            )
        if jwk.key_type == "RSA" and jwk.key.key_size < MIN_RSA_BITS:
            raise UnusableKey(f"{path}: key {number} has {jwk.key.key_size} bits; {MIN_RSA_BITS} are wanted")
        kid = jwk.key_id if jwk.key_id else f"#{number}"
        if kid in keys:
            raise UnusableKey(f"{path}: two keys have the id {kid}")
        keys[kid] = Key(jwk.key, algorithm)
    if not keys:
        raise UnusableKey(f"{path}: there is no key in it")
    return keys


def bearer_token(authorization: str | None) -> str:
    """The word after `Bearer`, in any case and parted by one blank."""
    if not authorization:
        raise TokenRefused("An Authorization header with a bearer token is wanted.")
    match authorization.split(" "):
        case [scheme, token] if scheme.lower() == "bearer" and token:
            return token
    raise TokenRefused("The Authorization header must be: Bearer TOKEN.")


def model_in(raw_path: bytes) -> str | None:
    """The model that a path names; None when it names none, or names it in a way that we do not know."""
    match [unquote(part) for part in raw_path.decode("latin-1").split("/")[1:]]:
        case ["predictions" | "explanations" | "inference" | "chat" | "models", name, *_] if name:
            return name
        case ["v1", "models", call] if call:
            return call.removesuffix(":predict").removesuffix(":explain")
        case ["v2", "models", name, *_] if name:
            return name
    return None
