import asyncio
import time

import pytest

from ..handlers.worker_client import config_of, running
from .conftest import until

HOLD = b'{"do": "hold"}'


async def clients(plane, count):
    return [await plane.client() for _ in range(count)]


def test_of_n_plus_k_requests_beyond_the_one_that_runs_exactly_k_are_refused_at_once(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker, job_queue_size=5)
        first, *others = await clients(plane, 1 + 5 + 3)
        first.send("/predictions/m", HOLD)
        await until(lambda: worker.held)

        begun = time.perf_counter()
        for client in others:
            client.send("/predictions/m", HOLD)
        tasks = [asyncio.create_task(client.answer()) for client in others]
        done, waiting = await asyncio.wait(tasks, timeout=0.3)

        assert sorted(task.result().status for task in done) == [503] * 3
        assert all(task.result().headers["retry-after"] == "1" for task in done)
        assert len(waiting) == 5
        metrics = plane.app.metrics.model("m", "1.0")
        assert (metrics.arrived, metrics.rejected) == (9, 3)
        assert time.perf_counter() - begun < 1
        while waiting:
            worker.release()
            _, waiting = await asyncio.wait(waiting, timeout=0.05)
        assert sum(task.result().status == 200 for task in tasks) == 5

    run(scenario)


def test_a_client_that_leaves_while_it_waits_is_never_run(run):
    async def scenario(plane):
        worker = await plane.worker(credit=1)
        plane.publish(worker)
        running, leaving, staying = await clients(plane, 3)
        running.send("/predictions/m", HOLD)
        await until(lambda: worker.held)
        leaving.send("/predictions/m", b"left")
        await until(lambda: plane.app.models.find("m").waiting)
        staying.send("/predictions/m", b"stayed")
        await until(lambda: len(plane.app.models.find("m").waiting) == 2)

        leaving.writer.close()
        await until(lambda: len(plane.app.models.find("m").waiting) == 1)
        worker.release()

        assert (await staying.answer()).body == b"stayed"
        assert b"left" not in [body for _, body in worker.requests]

    run(scenario)


def test_a_client_that_leaves_while_it_runs_is_cancelled(run):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker)
        client = await plane.client()
        client.send("/predictions/m", b'{"do": "begin"}')
        await client.reader.readuntil(b"first")

        client.writer.close()

        await until(lambda: worker.cancelled)
        await until(lambda: plane.app.models.find("m").outstanding == 0)

    run(scenario)


def test_a_worker_that_dies_costs_only_what_it_was_running(run):
    async def scenario(plane):
        doomed, healthy = await plane.worker("w1"), await plane.worker("w2")
        plane.publish(doomed)
        first, second = await clients(plane, 2)
        first.send("/predictions/m", HOLD)
        await until(lambda: doomed.held)
        plane.publish(doomed, healthy)

        doomed.die()
        plane.publish(healthy, ends={doomed.address: "killed by SIGKILL"})

        answer = await first.answer()
        assert (answer.status, b"Worker died. (killed by SIGKILL)" in answer.body) == (500, True)
        assert (await second.ask("/predictions/m", b"x")).body == b"x"

    run(scenario)


def test_an_idempotent_request_is_run_once_more_when_its_worker_dies(run):
    async def scenario(plane):
        first, second, third = [await plane.worker(name) for name in ("w1", "w2", "w3")]
        model = {"model_yaml": {"idempotent": True}}
        plane.publish(first, **model)
        (client,) = await clients(plane, 1)
        client.send("/predictions/m", HOLD)
        await until(lambda: first.held)
        plane.publish(first, second, **model)
        await until(lambda: len(plane.app.models.find("m")._open) == 2)

        first.die()
        await until(lambda: second.held)
        assert [body for _, body in second.requests] == [HOLD]
        second.release()
        assert (await client.answer()).status == 200
        assert plane.app.models.find("m").outstanding == 0

        client.send("/predictions/m", HOLD)
        await until(lambda: second.held)
        plane.publish(second, third, **model)
        await until(lambda: len(plane.app.models.find("m")._open) == 2)
        second.die()
        await until(lambda: third.held)
        third.die()
        plane.publish(ends={third.address: "killed by SIGKILL"}, wanted_workers=1, **model)
        answer = await client.answer()
        assert (answer.status, b"Worker died. (killed by SIGKILL)" in answer.body) == (500, True)

    run(scenario)


def test_what_has_begun_to_answer_is_not_run_again(run):
    async def scenario(plane):
        first, second = await plane.worker("w1"), await plane.worker("w2")
        model = {"model_yaml": {"idempotent": True}}
        plane.publish(first, **model)
        client = await plane.client()
        client.send("/predictions/m", b'{"do": "begin"}')
        await client.reader.readuntil(b"first")
        plane.publish(first, second, **model)
        await until(lambda: len(plane.app.models.find("m")._open) == 2)

        first.die()

        await until(lambda: plane.app.models.find("m").outstanding == 0)
        assert second.requests == []

    run(scenario)


def test_a_silent_worker_is_given_up_and_reported(run, runtime):
    async def scenario(plane):
        told = []

        async def control(reader, writer):
            told.append(await reader.readline())
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            writer.close()

        server = await asyncio.start_unix_server(control, str(runtime / "control.sock"))
        worker = await plane.worker()
        plane.publish(worker, response_timeout_seconds=0.2)
        client = await plane.client()

        begun = time.perf_counter()
        answer = await client.ask("/predictions/m", HOLD)

        assert answer.status == 500
        assert 0.2 <= time.perf_counter() - begun < 2
        await until(lambda: told == [b"POST /internal/stalled/w1 HTTP/1.1\r\n"])
        server.close()

    run(scenario)


@pytest.fixture
def slow_model(run, runtime, tmp_path):
    """Runs `scenario(plane, worker)` with a real worker of a text model: 10 tokens a second, given up after 1 s of silence."""

    def start(scenario, **mock):
        section = {"engine": "mock", "mock": {"steps_per_second": 10} | mock}
        config = config_of(
            tmp_path, handler="text_generation", model_yaml={"handler": section}, response_timeout_seconds=1.0
        )
        with running(config) as worker:
            worker.worker_id, worker.address = "w1", config.listen

            async def scene(plane):
                plane.publish(worker, capabilities=["generate"], response_timeout_seconds=1.0)
                await scenario(plane, worker)

            run(scene)

    return start


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/predictions/m", b'{"prompt": "x", "max_tokens": 25}', id="HELM"),
        pytest.param("/v1/completions", b'{"model": "m", "prompt": "x", "max_tokens": 25}', id="OpenAI"),
    ],
)
def test_a_worker_may_take_longer_over_a_whole_answer_than_silence_may_last(slow_model, path, body):
    async def scenario(plane, worker):
        (client,) = await clients(plane, 1)

        answer = await client.ask(path, body)

        assert (answer.status, worker.process.poll()) == (200, None)

    slow_model(scenario)


def test_a_step_that_hangs_is_still_found_out(slow_model, monkeypatch):
    async def scenario(plane, worker):
        stalled = []
        monkeypatch.setattr(plane.app.models.find("m"), "_on_stalled", stalled.append)
        (client,) = await clients(plane, 1)

        answer = await client.ask("/predictions/m", b'{"prompt": "x", "max_tokens": 25}')

        assert (answer.status, stalled) == (500, ["w1"])
        assert b"gave no answer for 1 s" in answer.body

    slow_model(scenario, stall_at_step=3)


def test_nothing_is_sent_to_a_worker_that_has_not_said_hello(run):
    async def scenario(plane):
        deaf = await plane.worker("w1", hello=False)
        good = await plane.worker("w2")
        plane.publish(deaf, good)
        client = await plane.client()

        answers = [(await client.ask("/predictions/m", b"%d" % number)).status for number in range(4)]

        assert answers == [200] * 4
        assert deaf.requests == []

    run(scenario)


def test_a_worker_that_goes_away_finishes_what_it_has(run):
    async def scenario(plane):
        old, new = await plane.worker("w1"), await plane.worker("w2")
        plane.publish(old)
        first, second = await clients(plane, 2)
        first.send("/predictions/m", HOLD)
        await until(lambda: old.held)

        old.go_away()
        plane.publish(new)
        assert (await second.ask("/predictions/m", b"to the new one")).status == 200
        old.release()

        assert (await first.answer()).body == HOLD
        assert len(old.requests) == 1

    run(scenario)


def test_the_version_that_the_table_names_answers_from_then_on(run):
    async def scenario(plane):
        one, two = await plane.worker("w1"), await plane.worker("w2")
        plane.publish(one, version="1.0")
        client = await plane.client()
        await client.ask("/predictions/m", b"x")
        plane.routes.clear()
        plane.publish(two, version="2.0")
        await (await plane.client()).ask("/predictions/m", method="OPTIONS")  # another request has seen the new table first

        answer = await client.ask("/predictions/m", b"x")

        assert answer.status == 200
        assert (len(one.requests), len(two.requests)) == (1, 1)

    run(scenario)


def test_without_workers_the_refusal_says_so_and_names_the_version_when_it_was_asked_for(run):
    async def scenario(plane):
        plane.publish()
        plain, versioned = await clients(plane, 2)

        assert b'Model \\"m\\" has no worker' in (await plain.ask("/predictions/m")).body
        assert b'Model \\"m\\" Version 1.0\\" has no worker' in (await versioned.ask("/predictions/m/1.0")).body

    run(scenario)


def test_requests_wait_for_a_worker_that_is_on_its_way(run):
    async def scenario(plane):
        plane.publish(wanted_workers=1)
        client = await plane.client()
        client.send("/predictions/m", b"early")
        await until(lambda: plane.app.models.find("m").waiting)

        plane.publish(await plane.worker())

        assert (await client.answer()).body == b"early"

    run(scenario)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/predictions/m", HOLD), ("/v2/models/m/infer", HOLD), ("/v1/completions", b'{"model": "m", "prompt": "x"}')],
)
def test_a_request_that_waits_longer_than_the_client_timeout_is_told(run, path, body):
    async def scenario(plane):
        worker = await plane.worker()
        worker.answer = lambda body: None  # never
        plane.publish(worker, client_timeout_seconds=0.1)
        client = await plane.client()

        answer = await client.ask(path, body)

        assert answer.status == 504
        await until(lambda: worker.cancelled)

    run(scenario)


@pytest.mark.parametrize("path", ["/predictions/m", "/v2/models/m/infer"])
def test_a_request_without_a_sequence_begins_one(run, path):
    async def scenario(plane):
        worker = await plane.worker()
        plane.publish(worker, model_yaml={"sequenceBatching": True})
        client = await plane.client()

        await client.ask(path, b"x", headers={"My-Sequence": "mine"})
        await client.ask(path, b"x")

        (given, _), (made, _) = worker.requests
        assert [value for name, value in given.headers if name.lower() == b"my-sequence"] == [b"mine"]
        added = dict(made.headers)
        assert added[b"my-sequence"].startswith(b"ts-seq-") and added[b"my-start"] == b"true"

    run(scenario, sequence_id_header="My-Sequence", sequence_start_header="My-Start")


def test_the_requests_of_a_sequence_go_to_one_worker(run):
    async def scenario(plane):
        workers = [await plane.worker(f"w{number}") for number in range(3)]
        plane.publish(*workers, model_yaml={"sequenceBatching": True})
        client = await plane.client()
        await client.ask("/predictions/m", b"warm")
        await until(lambda: len(plane.app.models.find("m")._open) == 3)

        for _ in range(4):
            for sequence in "abcdef":
                await client.ask("/predictions/m", sequence.encode(), headers={"TS_request_sequence_id": sequence})

        where = {body: [w.worker_id for w in workers if body in [b for _, b in w.requests]] for body in (b"a", b"b", b"f")}
        assert all(len(found) == 1 for found in where.values())
        assert sum(len(worker.requests) > 1 for worker in workers) > 1

    run(scenario)


def test_a_fast_worker_is_sent_more_ahead_and_a_slow_one_what_it_asked_for(run):
    async def scenario(plane):
        plane.publish(await plane.worker(credit=2))
        client = await plane.client()

        async def after(requests: int, seconds: float) -> int:
            for _ in range(requests):
                await client.ask("/predictions/m", b'{"do": "respond", "head": {"handler_seconds": %f}}' % seconds)
            (link,) = plane.app.models.find("m")._open
            return link.credit

        assert await after(1, 0.01) == 2
        assert await after(100, 0.00001) == 64
        assert await after(2, 0.1) == 2

    run(scenario)
