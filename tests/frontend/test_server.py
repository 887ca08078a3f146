"""The real processes: gunicorn's master and the event loops it keeps alive."""

import asyncio
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from prometheus_client.multiprocess import MultiProcessCollector

import flambeau
from flambeau.frontend.server import connections_that_fit
from flambeau.frontend.tally import Tally
from flambeau.management.data_plane import write_options
from flambeau.management.routing import ModelRoute, Replica, RouteWriter, Table

from .conftest import Answer, Client, until
from .fake_worker import FakeWorker

ROOT = Path(flambeau.__file__).parents[1]
HOLD = b'{"do": "hold"}'


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self.port = free_port()

    async def start(self, **options: object) -> None:
        options.setdefault("binds", [f"http://127.0.0.1:{self.port}"])
        write_options(self.runtime, options)
        self.worker = FakeWorker(self.runtime)
        await self.worker.start()
        self.routes = RouteWriter(self.runtime)
        self.publish()
        self.master = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flambeau.frontend.server", str(self.runtime), env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    def publish(self, **route: object) -> None:
        made = ModelRoute(name="m", version="1.0", replicas=[Replica("w1", self.worker.address)], **route)
        self.routes.publish(Table(models={"m": {"1.0": made}}, defaults={"m": "1.0"}))

    async def client(self) -> Client:
        deadline = time.monotonic() + 10
        while True:
            try:
                return Client(*await asyncio.open_connection("127.0.0.1", self.port))
            except OSError:
                assert time.monotonic() < deadline and self.master.returncode is None
                await asyncio.sleep(0.02)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.master.pid).children()

    async def stop(self) -> None:
        if self.master.returncode is None:
            self.master.kill()
            await self.master.wait()


def probed(port: int) -> list[bool]:
    """For each connection to this port: does the kernel ask silent peers whether they are there?"""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        timer.startswith("02:") for _, at, _, state, _, timer, *_ in lines if at.endswith(f":{port:04X}") and state == "01"
    ]


@pytest.fixture
def serve(runtime):
    """Runs an async test with started processes: `serve(scenario, option=…)`."""

    def start(scenario, **options: object) -> None:
        async def main() -> None:
            server = Server(runtime)
            await server.start(**options)
            try:
                async with asyncio.timeout(30):
                    await scenario(server)
            finally:
                await server.stop()

        asyncio.run(main())

    return start


def test_a_client_that_waits_is_asked_whether_it_is_still_there(serve):
    async def scenario(server):
        first = await server.client()
        await first.ask("/ping", method="GET")  # whoever connected before the process was there is not asked
        first.writer.close()
        client = await server.client()
        client.send("/predictions/m", HOLD)
        await until(lambda: server.worker.held)

        await until(lambda: probed(server.port) == [True])

    serve(scenario)


def test_a_killed_process_is_replaced_while_the_other_one_answers(serve):
    async def scenario(server):
        await (await server.client()).ask("/ping", method="GET")
        await until(lambda: len(server.processes()) == 2)
        doomed = server.processes()[0]

        doomed.kill()
        answers = []
        for _ in range(20):
            try:
                answers.append((await (await server.client()).ask("/predictions/m", b"x")).status)
            except (OSError, asyncio.IncompleteReadError):
                answers.append(None)  # it was accepted by the one that died

        assert answers.count(200) >= 18
        await until(lambda: len(server.processes()) == 2 and doomed.pid not in [p.pid for p in server.processes()])

    serve(scenario, processes=2)


def test_when_the_master_dies_nothing_stays_behind(serve):
    async def scenario(server):
        await server.client()
        await until(server.processes)
        left = server.processes()

        server.master.kill()

        await until(lambda: not any(process.is_running() and process.status() != "zombie" for process in left))

    serve(scenario)


def test_sigterm_loses_nothing_and_waits_for_nobody_who_is_idle(serve):
    async def scenario(server):
        busy, streaming, idle, half = [await server.client() for _ in range(4)]
        await idle.ask("/ping", method="GET")
        half.writer.write(b"GET /ping HTTP/1.1\r\nHo")
        busy.send("/predictions/m", b'{"do": "hold"}')
        streaming.send("/predictions/m", b'{"do": "stream", "n": 3}')
        await until(lambda: server.worker.held)

        begun = time.monotonic()
        server.master.send_signal(signal.SIGTERM)
        assert await idle.closed()
        server.worker.release()

        answer = await busy.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert (await streaming.answer()).body == b"part0 part1 part2 "
        assert await server.master.wait() == 0
        assert time.monotonic() - begun < 2

    serve(scenario)


def test_while_others_learn_that_it_stops_a_server_still_accepts(serve):
    async def scenario(server):
        idle = await server.client()
        await idle.ask("/ping", method="GET")

        server.master.send_signal(signal.SIGTERM)

        answer = await until_closing(idle)
        assert answer.status == 200
        assert (await (await server.client()).ask("/predictions/m", b"late")).body == b"late"
        assert await server.master.wait() == 0

    serve(scenario, drain_delay_seconds=2.0)


async def until_closing(client: Client) -> Answer:
    """Asks until the server says that this was the connection's last answer."""
    while True:
        answer = await client.ask("/predictions/m", b"x")
        if answer.headers.get("connection") == "close":
            return answer


def test_1000_idle_connections_leave_ping_fast(serve):
    async def scenario(server):
        idle = [await server.client() for _ in range(1000)]
        client = await server.client()
        await client.ask("/ping", method="GET")

        begun = time.perf_counter()
        for _ in range(10):
            await client.ask("/ping", method="GET")

        assert (time.perf_counter() - begun) / 10 < 0.05
        for one in idle:
            one.writer.close()

    serve(scenario)


def test_a_process_takes_as_many_open_files_as_it_may_have(serve):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario(server):
        assert (await (await server.client()).ask("/ping", method="GET")).status == 200
        assert [process.rlimit(psutil.RLIMIT_NOFILE) for process in server.processes()] == [(hard, hard)]

    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    try:
        serve(scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("files", "connections"),
    [(300, 150), (1024, 768), (20_000, 19_744), (resource.RLIM_INFINITY, sys.maxsize)],
)
def test_what_a_process_needs_itself_is_left_to_it(monkeypatch, files, connections):
    set_to = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, files))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: set_to.append(limits))

    assert connections_that_fit() == connections
    assert set_to == [(files, files)]


def test_metrics_of_all_processes_add_up(serve):
    async def scenario(server):
        for _ in range(10):
            assert (await (await server.client()).ask("/predictions/m", b"x")).status == 200
        await (await server.client()).ask("/nothing")

        def numbers() -> dict[str, float]:
            found = Counter()
            for metric in MultiProcessCollector(None, str(server.runtime / "metrics")).collect():
                for sample in metric.samples:
                    found[sample.name] += sample.value
            return {name: found[name] for name in expected}

        expected = {
            "ts_inference_requests_total": 10,
            "Requests2XX": 10,
            "Requests4XX": 1,
            "flambeau_request_seconds_count": 10,
            "flambeau_requests_in_flight": 0,
        }
        await until(lambda: numbers() == expected, seconds=20)

    serve(scenario, processes=2)


def test_the_queue_is_the_servers_not_each_processs(serve):
    """One request runs and five wait, three at either process; three more are refused, whoever they ask."""

    async def scenario(server):
        await until(lambda: len(server.processes()) == 2)
        server.publish(job_queue_size=5)
        one, other = server.processes()
        here, there = await connected_to(server, one, 5, but_not=other), await connected_to(server, other, 4, but_not=one)
        count = Tally(server.runtime / "tally", 3).of("m", "1.0")  # in the place of gRPC's process
        waiting = [asyncio.create_task(client.ask("/predictions/m", HOLD)) for client in here[:3] + there[:3]]
        await until(lambda: count.total() == 6)

        answers = [await client.ask("/predictions/m", HOLD) for client in here[3:] + there[3:]]

        assert [answer.status for answer in answers] == [503] * 3
        while not all(task.done() for task in waiting):
            server.worker.release()
            await asyncio.sleep(0.01)
        assert [task.result().status for task in waiting] == [200] * 6

    serve(scenario, processes=2)


async def connected_to(server, process, count, *, but_not):
    """Clients that this process has accepted, since the other one could not."""
    but_not.suspend()
    try:
        clients = [await server.client() for _ in range(count)]
        for client in clients:
            await client.ask("/ping", method="GET")
    finally:
        but_not.resume()
    return clients


def test_https_and_unix_sockets_are_served(serve, runtime, certificate):
    port = free_port()

    async def scenario(server):
        tls = ssl.create_default_context(cafile=certificate[0])
        path = runtime / "inference.sock"
        over_unix = Client(*await connected(path))
        assert (await over_unix.ask("/ping", method="GET")).status == 200
        over_tls = Client(*await asyncio.open_connection("localhost", port, ssl=tls))

        assert (await over_tls.ask("/predictions/m", b"secret")).body == b"secret"
        assert path.stat().st_mode & 0o077 == 0

    binds = [f"https://127.0.0.1:{port}", f"unix:{runtime}/inference.sock"]
    serve(scenario, binds=binds, certificate_file=certificate[0], private_key_file=certificate[1])


async def connected(path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The path is there a moment before anybody listens on it."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await asyncio.open_unix_connection(str(path))
            except OSError:
                await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> tuple[str, str]:
    """A self-signed certificate for localhost: (certificate file, key file)."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    signed = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    signed = signed.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    return str(folder / "cert.pem"), str(folder / "key.pem")
