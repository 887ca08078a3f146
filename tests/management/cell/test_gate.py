"""Connections between machines: who has the key reaches a worker, nobody else reaches anything."""

import asyncio
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from flambeau.frontend.dial import Dialler
from flambeau.handlers.handshake import HandshakeFailed
from flambeau.handlers.links import Links
from flambeau.handlers.protocol import Hello, Kind, Reader, RequestHead, pack
from flambeau.management.cell.gate import Gate


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="fl-"))
    yield path
    shutil.rmtree(path)


def cell(folder, scenario, key=b"k" * 32, asked_with=b"k" * 32):
    """A gate, an echoing worker `1.1` behind it, and a dialler on "another machine"."""

    async def main():
        ours, _theirs = socket.socketpair()
        links = Links(ours, lambda exchange: exchange.respond(bytes(exchange.body)), lambda exchange: None)
        links.listen(f"unix:{folder / '1.1'}", Hello("m", "1", "1", os.getpid(), 2))
        stop = asyncio.Event()

        def work():
            while not stop.is_set():
                links.poll(0.01)
                links.flush()

        listener = socket.create_server(("127.0.0.1", 0))
        (folder / "cell.key").write_bytes(asked_with)
        gate = Gate(listener, folder, key)
        gate.start()
        worker = asyncio.create_task(asyncio.to_thread(work))
        try:
            async with asyncio.timeout(5):
                return await scenario(Dialler(folder), f"127.0.0.1:{listener.getsockname()[1]}")
        finally:
            stop.set()
            await worker
            gate.stop()

    return asyncio.run(main())


async def frames(reader, count):
    cut, found = Reader(), []
    while len(found) < count:
        data = await reader.read(65536)
        assert data, "the worker hung up"
        found += cut.feed(data)
    return found


def test_a_member_reaches_the_worker_itself(folder):
    async def scenario(dialler, gate):
        sock = await dialler.dial(f"{gate}/1.1")
        reader, writer = await asyncio.open_connection(sock=sock)
        (hello,) = await frames(reader, 1)
        writer.write(pack(Kind.REQUEST, 7, RequestHead("predict", "r", []), b"ping"))
        (answer,) = await frames(reader, 1)
        writer.close()
        return hello.head(Hello).model, answer.id, bytes(answer.body)

    assert cell(folder, scenario) == ("m", 7, b"ping")


def test_who_has_another_key_believes_nothing(folder):
    async def scenario(dialler, gate):
        with pytest.raises(HandshakeFailed, match="does not have this cell's key"):
            await dialler.dial(f"{gate}/1.1")

    cell(folder, scenario, asked_with=b"x" * 32)


@pytest.mark.parametrize("said", [
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4, id="another protocol"),
    pytest.param(b"flambeau-cell-1\n" + b"n" * 32 + b"\x031.1" + b"?" * 32, id="no key"),
])  # fmt: skip
def test_a_stranger_is_cut_off_before_it_reaches_a_worker(folder, said):
    async def scenario(dialler, gate):
        host, port = gate.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        heard = b""
        try:
            while data := await reader.read(1024):
                heard += data
        except ConnectionResetError:
            pass
        writer.close()
        return b"m" in heard[64:]

    assert cell(folder, scenario) is False


def test_a_member_can_ask_for_workers_alone(folder):
    async def scenario(dialler, gate):
        sock = await dialler.dial(f"{gate}/../cell.key")
        sock.setblocking(False)
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 100)
        except ConnectionResetError:
            return b""
        finally:
            sock.close()

    assert cell(folder, scenario) == b""
