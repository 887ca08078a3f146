"""The command `flambeau proxy`."""

import logging
import os
from typing import Any

import click
import uvicorn

from ..management.jwt_auth import MIN_SECRET_BYTES, JwtOptions, UnusableKey, Verifier
from .gateway import Gateway
from .upstream import Upstream


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=1223, show_default=True)
@click.option("--upstream", default="http://127.0.0.1:7000", show_default=True, help="http://, https:// or unix:/path")
@click.option("--jwks", type=click.Path(exists=True), help="Public keys (RS256, EdDSA) instead of JWT_SECRET.")
@click.option("--require", multiple=True, metavar="CLAIM", help="Refuse tokens without it, such as exp; may be repeated.")
@click.option("--audience", help="Tokens must be meant for it (claim aud).")
@click.option("--issuer", help="Tokens must come from it (claim iss).")
@click.option("--role", type=click.Choice(["inference", "management"]), default="inference", show_default=True)
@click.option("--min-secret-bytes", default=MIN_SECRET_BYTES, show_default=True, help="Shorter secrets are refused.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds that the upstream may be silent.")
def proxy(
    host: str,
    port: int,
    upstream: str,
    jwks: str | None,
    require: tuple[str, ...],
    audience: str | None,
    issuer: str | None,
    role: str,
    min_secret_bytes: int,
    timeout: float,
) -> None:
    """Let through to another server whoever bears a good JSON web token.

    The shared secret (HS256) is read from the environment, JWT_SECRET; with --jwks a file of public keys is used instead.
    """
    secret = None if jwks else os.environ.get("JWT_SECRET")
    if not jwks and not secret:
        raise click.ClickException("JWT_SECRET is not set and there is no --jwks: nobody could be let through.")
    options = JwtOptions(
        jwks_file=jwks,
        required_claims=list(require),
        audience=audience,
        issuer=issuer,
        min_secret_bytes=min_secret_bytes,
    )
    try:
        gateway = Gateway(Upstream(upstream, timeout), Verifier(options, secret), role)  # type: ignore[arg-type]
    except (UnusableKey, ValueError) as error:
        raise click.ClickException(str(error)) from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    click.echo(f"http://{host}:{port} → {upstream}", err=True)
    uvicorn.run(gateway, host=host, port=port, **SERVER)


SERVER: dict[str, Any] = {  # of any port on which a Gateway listens
    "loop": "uvloop", "http": "httptools", "ws": "none", "lifespan": "off", "log_config": None, "log_level": "critical",
    "access_log": False, "server_header": False, "date_header": False, "timeout_graceful_shutdown": 30,
}  # fmt: skip
