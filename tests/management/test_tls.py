import dataclasses
import datetime
import ipaddress
import ssl
import urllib.request

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID
from google.protobuf.empty_pb2 import Empty

from flambeau.frontend.grpc_api.messages import message, stub
from flambeau.management.errors import SettingsError
from flambeau.management.settings import Settings
from flambeau.management.tls import certificate

from ..conftest import free_ports


@pytest.fixture
def keystore(tmp_path):
    """server.p12 with the password `secret`, and the same as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.p12"
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"s", key, made, None, BestAvailableEncryption(b"secret")))
    (tmp_path / "server.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (tmp_path / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.mark.parametrize(("changes", "complaint"), [
    pytest.param({}, "needs certificate_file", id="nothing"),
    pytest.param({"inference_address": "http://127.0.0.1:8080", "enable_grpc_ssl": True}, "enable_grpc_ssl needs", id="gRPC"),
    pytest.param({"certificate_file": "/no", "private_key_file": "/no"}, "no such file", id="a missing file"),
    pytest.param({"keystore": "{keystore}", "keystore_pass": "wrong"}, "server.p12", id="a wrong password"),
])  # fmt: skip
def test_https_without_a_certificate_refuses_to_start(tmp_path, keystore, changes, complaint):
    given = {"inference_address": "https://127.0.0.1:8443"} | changes
    given = {key: value.format(keystore=keystore) if key == "keystore" else value for key, value in given.items()}
    settings = dataclasses.replace(Settings(), **given)

    with pytest.raises(SettingsError, match=complaint):
        certificate(settings, tmp_path)


@pytest.mark.parametrize("form", ["pem", "pkcs12"])
def test_all_addresses_speak_tls(live_server, tmp_path, keystore, form):
    pem = {"certificate_file": tmp_path / "server.pem", "private_key_file": tmp_path / "server.key"}
    given = pem if form == "pem" else {"keystore": keystore, "keystore_pass": "secret"}
    inference, management = free_ports(2)
    by_grpc = {"grpc_inference_port": inference, "grpc_management_port": management, "enable_grpc_ssl": "true"}
    server = live_server(start=False, **given, **by_grpc)
    path = server.folder / "config.properties"
    path.write_text(path.read_text().replace("http://", "https://"))
    trust = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))

    def get(url):
        return urllib.request.urlopen(url.replace("http://", "https://"), context=trust, timeout=10).status

    def up():
        try:
            return get(f"{server.client.inference}/ping") == 200
        except OSError:
            return False

    server.healthy = up
    server.start()

    assert get(f"{server.client.management}/models") == 200
    assert get(f"{server.client.metrics}/metrics") == 200
    trusted = grpc.ssl_channel_credentials((tmp_path / "server.pem").read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{inference}", trusted) as channel:
        ping = stub(channel, "org.pytorch.serve.grpc.inference.InferenceAPIsService", "Ping")
        assert "Healthy" in ping(Empty(), timeout=30, wait_for_ready=True).health
    with grpc.secure_channel(f"127.0.0.1:{management}", trusted) as channel:
        wanted = message("org.pytorch.serve.grpc.management.ListModelsRequest")()
        listed = stub(channel, "org.pytorch.serve.grpc.management.ManagementAPIsService", "ListModels")
        assert "models" in listed(wanted, timeout=30, wait_for_ready=True).msg
    with grpc.insecure_channel(f"127.0.0.1:{inference}") as channel, pytest.raises(grpc.RpcError):
        stub(channel, "org.pytorch.serve.grpc.inference.InferenceAPIsService", "Ping")(Empty(), timeout=10)
