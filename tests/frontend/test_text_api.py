"""The Falcon API on a real data plane, with the mock engine behind it."""

import asyncio
import json

import pytest

from flambeau.frontend import text_api

from .conftest import until
from .text_worker import CAPABILITIES, TextWorker

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def serve(run, runtime):
    """Runs `scenario(plane, worker)` with a text model `m`."""

    def start(scenario, section=(), **route):
        async def scene(plane):
            worker = TextWorker(runtime, **dict(section))
            await worker.start()
            plane.publish(worker, capabilities=CAPABILITIES, **route)
            await scenario(plane, worker)

        run(scene)

    return start


def body(**given):
    return json.dumps({"text": "hello", "max_tokens": 4} | given).encode()


def test_an_answer_is_raw_text_and_the_end_marker(serve):
    async def scenario(plane, worker):
        client = await plane.client()

        answer = await client.ask("/inference/m", body(), headers=JSON)

        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert len(answer.body) == 4 + len("<|endoftext|>")
        assert answer.body.endswith(b"<|endoftext|>")

    serve(scenario)


def test_a_chat_is_events_with_the_whole_message_so_far(serve):
    async def scenario(plane, worker):
        client = await plane.client()

        direct = await client.ask("/inference/m", body(text="User: hello\nAI: ", top_k=1), headers=JSON)
        answer = await client.ask("/chat/m", body(top_k=1), headers=JSON)

        *answers, close = answer.body.decode().removesuffix("\n\n").split("\n\n")
        assert close == 'event: close\ndata: {"message": "Connection closed"}'
        texts = [json.loads(event.removeprefix("event: answer\ndata: "))["message"] for event in answers]
        assert [len(text) for text in texts] == [1, 2, 3, 4]
        assert texts[-1] + "<|endoftext|>" == direct.body.decode()

    serve(scenario)


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("POST", "/inference/m", b"{", 400),
        ("POST", "/chat/m", b"{}", 400),
        ("POST", "/inference/other", b'{"text": "x"}', 404),
        ("GET", "/inference/m", b"", 405),
        ("POST", "/inference/m", json.dumps({"text": "word " * 5000}).encode(), 400),
    ],
    ids=["no JSON", "no text", "no such model", "another method", "longer than the context"],
)
def test_errors_are_json_with_a_message(serve, method, path, sent, status):
    async def scenario(plane, worker):
        client = await plane.client()

        answer = await client.ask(path, sent, method=method, headers=JSON)

        assert answer.status == status
        assert json.loads(answer.body)["message"]

    serve(scenario)


def test_of_sixty_long_requests_the_rows_and_the_queue_take_36(serve, monkeypatch):
    monkeypatch.setattr(text_api, "PATIENCE", (0.01, 0.02))

    async def scenario(plane, worker):
        async def ask():
            return await (await plane.client()).ask("/inference/m", body(max_tokens=60), headers=JSON)

        answers = await asyncio.gather(*(ask() for _ in range(60)))

        refused = [answer for answer in answers if answer.status == 503]
        assert len(refused) == 24
        assert json.loads(refused[0].body) == {"message": "Service overloaded, try again later."}
        assert "retry-after" in refused[0].headers
        assert worker.stats.finished == 36 and worker.stats.running == worker.stats.waiting == 0

    serve(scenario, {"max_batch_rows": 32, "max_waiting": 1, "mock": {"steps_per_second": 100}}, job_queue_size=4)


def test_of_a_hundred_clients_half_of_which_leave_nothing_stays_behind(serve):
    async def scenario(plane, worker):
        clients = [await plane.client() for _ in range(100)]
        for client in clients:
            client.send("/inference/m", body(max_tokens=30), headers=JSON)
        leaving, staying = clients[::2], clients[1::2]
        queue = plane.app.models.find("m")
        await until(lambda: queue.outstanding == 100)
        for client in leaving:
            client.writer.transport.abort()

        answers = await asyncio.gather(*(client.answer() for client in staying))

        assert [answer.status for answer in answers] == [200] * 50
        assert all(len(answer.body) == 30 + len("<|endoftext|>") for answer in answers)
        await until(lambda: queue.outstanding == 0)
        assert not queue.waiting and worker.stats.running == worker.stats.waiting == worker.stats.kv_tokens_used == 0

    serve(scenario, {"max_batch_rows": 8, "mock": {"steps_per_second": 500}}, job_queue_size=100)


def test_a_client_that_leaves_frees_its_row(serve):
    async def scenario(plane, worker):
        client = await plane.client()
        client.send("/inference/m", body(max_tokens=2048), headers=JSON)
        await client.reader.readuntil(b"\r\n\r\n")

        client.writer.transport.abort()

        async with asyncio.timeout(5):
            while worker.stats.running or not worker.stats.aborted:
                await asyncio.sleep(0.005)

    serve(scenario, {"mock": {"steps_per_second": 200}})


@pytest.mark.parametrize("path", ["/", "/health"])
def test_anybody_may_ask_whether_it_lives(serve, path):
    async def scenario(plane, worker):
        assert (await (await plane.client()).ask(path, method="GET")).status == 200

    serve(scenario)
