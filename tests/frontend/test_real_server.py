"""The whole server, as a user starts it: what happens to requests when clients, workers and versions come and go."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from ..conftest import LiveServer
from .conftest import Client, until

HANDLER = """
import json, os, time

VERSION = "{version}"

def handle(data, context):
    if data is None:
        return None
    return [answer(row, context) for row in data]

def answer(row, context):
    body = row.get("body", b"")
    wish = body if isinstance(body, dict) else {{}}
    if "hold" in wish:
        open(wish["hold"] + ".begun", "w").close()
        while not os.path.exists(wish["hold"]):
            time.sleep(0.005)
    if "log" in wish:
        with open(wish["log"], "a") as log:
            log.write(str(wish["tag"]) + "\\n")
    return {{"version": VERSION, "pid": os.getpid(), "tag": wish.get("tag"), "fields": len(row)}}
"""


MULTIPART = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'


class Server(LiveServer):
    """With two versions of the handler in its store, and asynchronous clients."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(
            folder, {"job_queue_size": "10"}, ("--start", "--foreground", "--ncs", "--enable-model-api", "--dt")
        )
        for version in ("1.0", "2.0"):
            self.archive(f"v{version}", HANDLER.format(version=version), version=version)
        self.start()
        self.management = self.client.management

    def register(self, name: str, version: str = "1.0", workers: int = 1) -> None:
        self.client.register(f"v{version}", model_name=name, initial_workers=workers)

    async def connect(self) -> Client:
        url = urlsplit(self.client.inference)
        return Client(*await asyncio.open_connection(url.hostname, url.port))


def asked(**wish: object) -> tuple[bytes, dict[str, str]]:
    return json.dumps(wish).encode(), {"Content-Type": "application/json"}


async def predict(client: Client, model: str, **wish: object):
    body, headers = asked(**wish)
    return await client.ask(f"/predictions/{model}", body, headers=headers)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("real") / "server")
    yield started
    started.stop()


class Held:
    """A request that runs until `let_go()`; the handler says by a file that it has begun."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "held"

    async def send(self, client: Client, model: str) -> None:
        body, headers = asked(hold=str(self.path))
        client.send(f"/predictions/{model}", body, headers=headers)
        await until(Path(f"{self.path}.begun").exists)

    def let_go(self) -> None:
        self.path.touch()


async def load(server: Server, model: str, stop: asyncio.Event, answers: list, clients: int = 8) -> None:
    """Keep-alive clients that ask until told to stop: every answer, and when it was asked for."""

    async def one() -> None:
        client = await server.connect()
        while not stop.is_set():
            begun = time.monotonic()
            answers.append((begun, await predict(client, model)))
            if answers[-1][1].status >= 400:
                client = await server.connect()
        client.writer.close()

    await asyncio.gather(*(one() for _ in range(clients)))


def test_a_worker_killed_under_load_costs_at_most_its_requests_in_flight_and_is_back(server):
    server.register("killed", workers=2)

    async def scenario():
        stop, answered = asyncio.Event(), []
        loading = asyncio.create_task(load(server, "killed", stop, answered))
        await until(lambda: len(answered) > 50, seconds=15)
        victim = (await asyncio.to_thread(server.workers, "killed"))[0]

        os.kill(victim["pid"], signal.SIGKILL)

        deadline = time.monotonic() + 15
        while True:
            workers = await asyncio.to_thread(server.workers, "killed")
            if [w["status"] for w in workers] == ["READY"] * 2 and victim["pid"] not in [w["pid"] for w in workers]:
                break
            assert time.monotonic() < deadline, workers
            await asyncio.sleep(0.1)
        stop.set()
        await loading
        answers = [answer for _, answer in answered]
        failed = [answer for answer in answers if answer.status != 200]
        assert len(failed) <= 8  # one per client
        assert all(b"Worker died. (killed by SIGKILL" in answer.body for answer in failed)
        assert len({json.loads(answer.body)["pid"] for answer in answers if answer.status == 200}) >= 2

    asyncio.run(scenario())


def test_a_version_switch_under_load_fails_nothing_and_is_seen_at_once(server):
    server.register("switched", "1.0")

    async def scenario():
        stop, answers = asyncio.Event(), []
        loading = asyncio.create_task(load(server, "switched", stop, answers))
        await until(lambda: answers)

        def switch() -> float:
            server.register("switched", "2.0")
            answer = requests.put(server.management + "/models/switched/2.0/set-default", timeout=30)
            switched = time.monotonic()
            assert answer.status_code == 200
            assert requests.delete(server.management + "/models/switched/1.0", timeout=30).status_code == 200
            return switched

        switched = await asyncio.to_thread(switch)
        await until(lambda: any(begun > switched for begun, _ in answers), seconds=15)
        stop.set()
        await loading
        assert [answer.status for _, answer in answers if answer.status != 200] == []
        assert {json.loads(answer.body)["version"] for begun, answer in answers if begun > switched} == {"2.0"}
        assert {json.loads(answer.body)["version"] for _, answer in answers} == {"1.0", "2.0"}

    asyncio.run(scenario())


def test_a_client_that_leaves_is_not_run(server, tmp_path):
    server.register("left")
    log, held = tmp_path / "ran", Held(tmp_path)

    async def scenario():
        busy, leaving, staying = [await server.connect() for _ in range(3)]
        await held.send(busy, "left")
        for tag, client in (("left", leaving), ("stayed", staying)):
            body, headers = asked(log=str(log), tag=tag)
            client.send("/predictions/left", body, headers=headers)
        await until(lambda: server.under_way("left") == 3)

        leaving.writer.close()
        await until(lambda: server.number("flambeau_requests_cancelled_total", "left") == 1)
        held.let_go()

        assert (await staying.answer()).status == 200
        assert log.read_text() == "stayed\n"

    asyncio.run(scenario())


def test_of_10_plus_5_requests_beyond_the_one_that_runs_exactly_5_are_refused_at_once(server, tmp_path):
    """At once: while the one still runs that all others wait for."""
    server.register("full")
    held = Held(tmp_path)

    async def scenario():
        running, *others = [await server.connect() for _ in range(1 + 10 + 5)]
        await held.send(running, "full")
        asking = [asyncio.create_task(predict(client, "full")) for client in others]

        await until(lambda: sum(task.done() for task in asking) == 5)
        held.let_go()

        assert Counter([answer.status for answer in await asyncio.gather(*asking)]) == {503: 5, 200: 10}
        assert (await running.answer()).status == 200

    asyncio.run(scenario())


def test_half_sent_and_idle_connections_leave_ping_fast(server):
    async def scenario():
        half = [await server.connect() for _ in range(32)]
        for client in half:
            client.writer.write(b"POST /predictions/m HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        idle = [await server.connect() for _ in range(1000)]
        times = []
        for _ in range(10):
            client = await server.connect()
            begun = time.perf_counter()
            assert (await client.ask("/ping", method="GET")).status == 200
            times.append(time.perf_counter() - begun)
        assert sorted(times)[5] < 0.05
        for client in half + idle:
            client.writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        pytest.param("application/json", b"[" * 100_000, id="deep JSON"),
        pytest.param("application/json", b'{"x": NaN, "y": 1e999}', id="NaN and infinity"),
        pytest.param(MULTIPART, PART * 100_000 + b"--b--\r\n", id="100,000 parts"),
        pytest.param("multipart/form-data", PART, id="no boundary"),
        pytest.param(MULTIPART, PART[:40], id="half a part"),
        pytest.param("application/x-www-form-urlencoded", b"a=1&" * 200_000, id="200,000 fields"),
        pytest.param("text/plain; charset=utf-32", b"\xff\xfe\xfd", id="text that is none"),
    ],
)
def test_hostile_bodies_leave_the_worker_alive(server, content_type, body):
    if not requests.get(server.management + "/models/hostile", timeout=10).ok:
        server.register("hostile")
    pid = server.workers("hostile")[0]["pid"]

    begun = time.monotonic()
    url, headers = server.client.inference + "/predictions/hostile", {"Content-Type": content_type}
    answer = requests.post(url, data=body, headers=headers, timeout=20)

    assert answer.status_code < 500, answer.text
    assert time.monotonic() - begun < 5
    assert requests.post(server.client.inference + "/predictions/hostile", timeout=10).json()["pid"] == pid


def test_sigterm_answers_what_there_is_and_leaves_nothing_behind(tmp_path):
    server = Server(tmp_path / "server")
    server.register("m")
    left, held = server.family(), Held(tmp_path)

    async def scenario():
        busy, idle, half = [await server.connect() for _ in range(3)]
        await idle.ask("/ping", method="GET")
        half.writer.write(b"GET /ping HTTP/1.1\r\nHo")
        await held.send(busy, "m")

        server.process.terminate()
        assert await idle.closed()
        held.let_go()

        assert (await busy.answer()).status == 200
        assert await asyncio.to_thread(server.process.wait, 8) == 0  # it gives half a request's headers 10 s
        await until(lambda: not any(process.is_running() for process in left))

    try:
        asyncio.run(scenario())
    finally:
        server.stop()
