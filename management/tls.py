"""The certificate of https addresses and gRPC: PEM files as they are, or a PKCS12 keystore turned into them for this run."""

import os
from dataclasses import dataclass
from pathlib import Path

from .addresses import parse
from .errors import SettingsError
from .settings import Settings


@dataclass(frozen=True)
class Certificate:
    certificate_file: str
    private_key_file: str


def certificate(settings: Settings, runtime: Path) -> Certificate | None:
    """None when nothing speaks TLS. SettingsError when something does and there is nothing to do it with."""
    urls = (settings.inference_address, settings.management_address, settings.metrics_address)
    if not settings.enable_grpc_ssl and all(parse(url).scheme != "https" for url in urls):
        return None
    if settings.certificate_file and settings.private_key_file:
        for path in (settings.certificate_file, settings.private_key_file):
            if not Path(path).is_file():
                raise SettingsError(f"{path}: no such file")
        return Certificate(settings.certificate_file, settings.private_key_file)
    if settings.keystore:
        return _from_pkcs12(Path(settings.keystore), settings.keystore_pass or "", runtime)
    who = "enable_grpc_ssl" if settings.enable_grpc_ssl else "an https address"
    raise SettingsError(f"{who} needs certificate_file and private_key_file, or keystore and keystore_pass")


def _from_pkcs12(keystore: Path, password: str, runtime: Path) -> Certificate:
    try:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
    except ImportError:
        raise SettingsError(
            f"keystore={keystore}: reading PKCS12 needs `pip install cryptography`; or convert it: "
            f"openssl pkcs12 -in {keystore} -nodes -out server.pem, then certificate_file and private_key_file"
        ) from None
    try:
        key, own, others = pkcs12.load_key_and_certificates(keystore.read_bytes(), password.encode())
    except (OSError, ValueError) as error:
        raise SettingsError(f"keystore={keystore}: {error}") from None
    if key is None or own is None:
        raise SettingsError(f"keystore={keystore}: holds no key with its certificate")
    chain = b"".join(one.public_bytes(Encoding.PEM) for one in (own, *others))
    made = Certificate(str(runtime / "certificate.pem"), str(runtime / "private_key.pem"))
    _write(made.certificate_file, chain)
    _write(made.private_key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def _write(path: str, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
