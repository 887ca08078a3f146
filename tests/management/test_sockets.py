import socket

from flambeau.management import sockets
from flambeau.management.addresses import parse


def test_a_silent_peer_is_given_up_within_a_minute():
    with sockets.listen(parse("http://127.0.0.1:0")) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            asked = [accepted.getsockopt(socket.IPPROTO_TCP, option) for option in (4, 5, 6)]  # TCP_KEEPIDLE, INTVL, CNT
            idle, interval, count = asked

            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert idle + interval * count < 60


def test_unix_sockets_need_no_such_thing(tmp_path):
    sockets.listen(parse(f"unix:{tmp_path / 's'}")).close()
