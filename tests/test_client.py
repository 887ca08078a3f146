import pytest

from flambeau.client import Client, Unreachable


def test_servers_on_unix_sockets_are_asked_like_any_other(live_server, tmp_path):
    inference, management = f"unix:{tmp_path}/i", f"unix:{tmp_path}/m"
    server = live_server(
        "--start", "--foreground", "--ncs", start=False, inference_address=inference, management_address=management
    )
    server.client = Client(inference, management)
    server.archive("echo")

    server.start()

    assert "registered with 1 initial workers" in server.client.register("echo", initial_workers=1)
    assert server.client.predict("echo", b"hi") == b"hi"


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "unix:/nowhere"])
def test_where_nobody_listens_the_address_is_told(address):
    with pytest.raises(Unreachable, match=f"no server answers at {address}; "):
        Client(management=address).models()
