import json
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from flambeau.handlers.protocol import Kind, Metric, RequestHead, pack
from flambeau.handlers.worker import Worker

from .worker_client import WorkerProcess, config_of, running, until

MODELS = Path(__file__).parent / "models"


@pytest.fixture(scope="module")
def swiss(tmp_path_factory):
    with running(config_of(tmp_path_factory.mktemp("swiss"), MODELS / "swiss.py", "swiss.py")) as worker:
        yield worker


def ask(worker, **what):
    return worker.peer.ask(json.dumps(what).encode())


MULTIPART = (
    b'--XX\r\nContent-Disposition: form-data; name="img"; filename="a;b.png"\r\nContent-Type: image/png\r\n\r\nPNG\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="meta"\r\nContent-Type: application/json\r\n\r\n{"k": 2}\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="note"\r\n\r\nold\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="note"\r\n\r\n\r\nnew\r\n--XX--\r\n'
)


def raw(text):
    return {"type": "bytearray", "value": text, "len": len(text)}


@pytest.mark.parametrize(
    ("kind", "body", "fields"),
    [
        pytest.param(
            "application/json", b'{"a": [1, null]}', {"body": {"type": "dict", "value": {"a": [1, None]}}}, id="JSON"
        ),
        pytest.param(
            "Application/JSON; charset=utf-8",
            b'{"q": 1}',
            {"body": {"type": "dict", "value": {"q": 1}}},
            id="JSON, charset",
        ),
        pytest.param("application/json", b"3", {"body": {"type": "int", "value": 3}}, id="a number"),
        pytest.param("application/json", b'{"q": ', {"body": raw('{"q": ')}, id="broken JSON"),
        pytest.param("application/json", b"[" * 100_000, {"body": raw("[" * 2000) | {"len": 100_000}}, id="deep JSON"),
        pytest.param("text/plain", "hé".encode(), {"body": {"type": "str", "value": "hé"}}, id="text"),
        pytest.param("text/plain", b"\xff", {"body": raw("\xff")}, id="text which is none"),
        pytest.param("application/octet-stream", b"\x00\xff", {"body": raw("\x00\xff")}, id="bytes"),
        pytest.param("", b'{"a":1}', {"body": raw('{"a":1}')}, id="no content type"),
        pytest.param("", b"", {"body": raw("")}, id="nothing"),
        pytest.param(
            "application/x-www-form-urlencoded",
            b"one=1&two=b+c&no=",
            {"one": raw("1"), "two": raw("b c"), "no": raw("")},
            id="form",
        ),
        pytest.param(
            "multipart/form-data; boundary=XX",
            MULTIPART,
            {"img": raw("PNG"), "meta": {"type": "dict", "value": {"k": 2}}, "note": raw("\r\nnew")},
            id="multipart, last of a name wins",
        ),
    ],
)
def test_bodies_become_rows_as_their_content_type_says(swiss, kind, body, fields):
    answer = swiss.peer.ask(body, kind=kind)

    assert answer.status == 200
    assert answer.json()["fields"] == fields


def test_multipart_content_types_are_among_the_headers(swiss):
    headers = swiss.peer.ask(MULTIPART, kind='multipart/form-data; boundary="XX"').json()["headers"]

    assert headers["img"] == {"content-type": "image/png"}
    assert headers["note"] == {"content-type": ""}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param("multipart/form-data", MULTIPART, id="no boundary"),
        pytest.param("multipart/form-data; boundary=XX", MULTIPART[:-8], id="cut"),
        pytest.param("multipart/form-data; boundary=XX", b"--XX\r\n\r\nx\r\n--XX--", id="no name"),
        pytest.param(
            "multipart/form-data; boundary=XX", b"--XX\r\nA: b\r\n\r\n\r\n" * 100_000 + b"--XX--", id="too many parts"
        ),
        pytest.param("application/x-www-form-urlencoded", b"a=1&" * 5000, id="too many fields"),
    ],
)
def test_bodies_that_are_not_what_they_say_are_bad_requests(swiss, kind, body):
    answer = swiss.peer.ask(body, kind=kind)

    assert (answer.status, answer.head.error) == (400, "BadRequestException")


def test_the_query_becomes_fields_beside_the_body(swiss):
    fields = swiss.peer.ask(b'{"z": 1}', query=b"q=v&body=x").json()["fields"]

    assert fields == {"q": raw("v"), "body": {"type": "dict", "value": {"z": 1}}}


def test_headers_reach_the_handler_with_path_and_operation(swiss):
    answer = swiss.peer.ask(b"{}", operation="explain", url_path="deep/er", headers=[("X-My-Own", "v 1")])

    headers = answer.json()["headers"]
    assert headers["X-My-Own"] == "v 1"
    assert headers["url_path"] == "deep/er"
    assert headers["explain"] == "True"


def test_headers_are_found_in_any_case(swiss):
    answer = swiss.peer.ask(b'{"op": "getheader", "name": "X-My-Own"}', headers=[("x-my-own", "z")])

    assert answer.json() == {"value": "z"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("str", "a string é".encode()),
        ("bytes", b"\x00\x01\xffraw"),
        ("bytearray", b"\x02ba"),
        ("empty", b""),
        ("int", b"7"),
        ("float", b"1.5"),
        ("none", b"null"),
        ("bool", b"true"),
        ("list", b"[\n  1,\n  2,\n  3\n]"),
        ("nan", b'{\n  "x": NaN\n}'),
        ("dict", json.dumps({"a": 1, "b": [1, 2.5, None, True], "u": "é"}, indent=2).encode()),
    ],
)
def test_what_handlers_return_becomes_a_body(swiss, kind, body):
    answer = ask(swiss, op="ret", kind=kind)

    assert (answer.status, answer.head.content_type, answer.body) == (200, None, body)


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ({"op": "ret", "kind": "object"}, 503, "Unsupported model output data type."),
        ({"op": "notlist"}, 503, "Invalid model predict output"),
        ({"op": "tuple"}, 503, "Invalid model predict output"),
        ({"op": "short"}, 503, "number of batch response mismatched"),
        ({"op": "long"}, 503, "number of batch response mismatched"),
        ({"op": "raise", "msg": "secret"}, 503, "Prediction failed"),
        ({"op": "raise", "kind": "memory"}, 507, "Out of resources"),
        ({"op": "raise", "kind": "runtime", "msg": "CUDA out of memory"}, 507, "Out of resources"),
        ({"op": "predexc"}, 500, "custom message"),
        ({"op": "predexc", "code": 422, "msg": "no"}, 422, "no"),
        ({"op": "predexc", "code": 413}, 507, "custom message"),
        ({"op": "predexc", "code": "many"}, 500, "custom message"),
    ],
)
def test_what_handlers_do_wrong_is_told(swiss, what, status, message):
    answer = ask(swiss, **what)

    assert (answer.status, answer.head.error, answer.text) == (status, "InternalServerException", message)


def test_status_and_headers_are_the_handlers_and_do_not_leak(swiss):
    header = ask(swiss, op="header", headers={"X-One": "1", "Bad": "a\r\nb: c"})
    status = ask(swiss, op="status", code=418, phrase="Tea")
    plain = ask(swiss, op="ctype", ctype="text/html", out="<b>")

    assert header.head.headers == [("X-One", "1")]
    assert (status.status, status.head.reason, status.head.headers) == (418, "Tea", [])
    assert (plain.status, plain.head.content_type) == (200, "text/html")


def test_the_context_knows_the_model_and_stays_the_same(swiss):
    told = ask(swiss, op="ctx").json()

    assert told["model_name"] == "m"
    assert told["same_ctx"] is True
    assert told["cwd"] == told["props"]["model_dir"]
    assert told["props"]["batch_size"] == 1
    assert told["props"]["server_name"] == "MMS"


def test_request_ids_reach_the_handler(swiss):
    id = swiss.peer.send(b'{"op": "reqid"}')

    assert swiss.peer.answer().json() == {"id": f"id-{id}"}


def test_metrics_come_over_the_control_link(swiss):
    ask(swiss, op="metrics")

    counter, time, *_ = swiss.metric_frame()
    assert (counter.name, counter.kind, counter.value) == ("CfCounter", "counter", 3)
    assert counter.dimensions == [("ModelName", "m"), ("Level", "Model")]
    assert (time.name, time.kind, time.unit) == ("CfTime", "gauge", "Milliseconds")


def test_the_handlers_time_is_sampled(tmp_path):
    with running(config_of(tmp_path, MODELS / "swiss.py")) as worker:
        for _ in range(50):
            ask(worker, op="pid")
        frame = worker.control.frame()

    (metric,) = frame.head(list[Metric])
    assert (metric.name, metric.kind, metric.unit) == ("PredictionTime", "gauge", "Milliseconds")
    assert metric.dimensions == [("ModelName", "m"), ("Level", "Model")]


def test_unknown_operations_are_refused(swiss):
    assert swiss.peer.ask(b"", operation="generate").status == 400


def test_answers_larger_than_allowed_are_refused(tmp_path):
    with running(config_of(tmp_path, MODELS / "swiss.py", max_response_bytes=100)) as worker:
        assert ask(worker, op="ret", kind="big", n=100).status == 200
        assert ask(worker, op="ret", kind="big", n=101).status == 503


@pytest.mark.parametrize("model", ["stream.py", "stream_old.py"])
def test_parts_are_streamed_before_the_last(tmp_path, model):
    with running(config_of(tmp_path, MODELS / model)) as worker:
        answer = worker.peer.ask(b"{}")

    assert len(answer.parts) > 3
    assert answer.parts[-1] in (b"last", b"end")
    assert answer.cut == ""


GENERATORS = """
class Model:
    def initialize(self, context): pass
    def handle(self, rows, context):
        return [self.parts(row["body"]) for row in rows]
    def parts(self, body):
        for n in range(body["n"]):
            if n == body.get("fail"):
                raise RuntimeError("secret")
            yield {"n": n}
"""


def test_generators_are_streams(tmp_path):
    with running(config_of(tmp_path, GENERATORS)) as worker:
        whole = worker.peer.ask(b'{"n": 64}')
        none = worker.peer.ask(b'{"n": 0}')
        cut = worker.peer.ask(b'{"n": 5, "fail": 2}')
        refused = worker.peer.ask(b'{"n": 5, "fail": 0}')

    assert [json.loads(part)["n"] for part in whole.parts] == list(range(64))
    assert (none.status, none.body) == (200, b"")
    assert (len(cut.parts), cut.cut) == (2, "Prediction failed")
    assert (refused.status, refused.text) == (503, "Prediction failed")


def test_parts_leave_while_the_next_one_is_being_made(tmp_path):
    code = """
import time
def parts():
    yield "a"
    yield "b"
    yield "c"
    time.sleep(20)
def handle(rows, context):
    return [parts() for _ in rows or ()]
"""
    with running(config_of(tmp_path, code)) as worker:
        worker.peer.sock.settimeout(10)
        worker.peer.send(b"{}")
        frames = [worker.peer.frame() for _ in range(4)]

    assert [bytes(frame.body) for frame in frames[1:]] == [b"a", b"b", b"c"]


def test_a_generating_handler_streams_to_its_whole_batch(tmp_path):
    code = "def handle(rows, context):\n    if rows is None:\n        return\n    yield ['a']\n    yield ['b']\n"

    with running(config_of(tmp_path, code)) as worker:
        assert worker.peer.ask(b"{}").parts == [b"a", b"b"]


def test_async_handlers_are_awaited(tmp_path):
    code = "import asyncio\nasync def handle(rows, context):\n    await asyncio.sleep(0)\n    return ['done' for _ in rows or ()]\n"

    with running(config_of(tmp_path, code)) as worker:
        assert worker.peer.ask(b"{}").text == "done"


def test_a_cancelled_stream_ends_and_its_generator_is_closed(tmp_path):
    code = """
import time
def forever():
    try:
        while True:
            yield 'x'
            time.sleep(0.001)
    finally:
        open('closed', 'w').close()
def handle(rows, context):
    return [forever() for _ in rows or ()]
"""
    with running(config_of(tmp_path, code)) as worker:
        id = worker.peer.send(b"{}")
        worker.peer.frame()
        worker.peer.cancel(id)

        assert worker.peer.answer().cut == "cancelled"
        until((tmp_path / "closed").exists)


def test_one_who_does_not_read_does_not_block_the_others(tmp_path):
    code = "def handle(rows, context):\n    return ['x' * 100_000 for _ in rows or ()]\n"

    with running(config_of(tmp_path, code)) as worker:
        lazy = worker.connect()
        for _ in range(50):
            lazy.send(b"{}")
        assert len(worker.peer.ask(b"{}").body) == 100_000
        assert sum(len(lazy.answer().body) for _ in range(50)) == 5_000_000


COUNT = "def handle(rows, context):\n    return [{'batch': len(rows)} for _ in rows or ()] if rows else None\n"


def batches(peer, clients):
    for _ in range(clients):
        peer.send(b"{}")
    return [peer.answer().json()["batch"] for _ in range(clients)]


def test_requests_are_batched_and_a_lone_client_does_not_wait(tmp_path):
    import time

    with running(config_of(tmp_path, COUNT, batch_size=4, max_batch_delay_seconds=0.3)) as worker:
        assert batches(worker.peer, 4) == [4] * 4
        assert batches(worker.peer, 1) == [1]  # the second client's absence is noticed once
        began = time.monotonic()
        assert [batches(worker.peer, 1) for _ in range(10)] == [[1]] * 10
        assert time.monotonic() - began < 0.3


def test_a_request_cancelled_in_the_queue_never_runs(tmp_path):
    code = """
import time
ran = []
def handle(rows, context):
    for row in rows or ():
        ran.append(row["body"])
        time.sleep(0.2 if row["body"] == 1 else 0)
    return [list(ran) for _ in rows or ()]
"""
    with running(config_of(tmp_path, code)) as worker:
        for n in (1, 2, 3):
            id = worker.peer.send(str(n).encode())
            if n == 2:
                worker.peer.cancel(id)
        answers = {answer.id: answer for answer in (worker.peer.answer() for _ in range(3))}

    assert answers[2].body == b""
    assert answers[3].json() == [1, 3]


def test_stop_answers_what_was_sent_and_exits(tmp_path):
    with running(config_of(tmp_path, MODELS / "swiss.py")) as worker:
        worker.peer.send(b'{"op": "sleep", "s": 0.1}')
        worker.stop()
        kinds = {worker.peer.frame().kind, worker.peer.frame().kind}
        worker.peer.sock.close()

        assert kinds == {Kind.RESPONSE, Kind.GOAWAY}
        assert worker.wait() == 0
        assert not (tmp_path / "w.sock").exists()


def test_a_worker_that_was_idle_for_long_still_waits_for_what_is_on_its_way(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    monkeypatch.setattr("flambeau.handlers.worker.time", clock)
    worker = Worker.__new__(Worker)
    worker.links, worker._busy = SimpleNamespace(stopping=False, stopped=0.0, empty=False), 0.0

    assert not worker.may_leave(idle=True)
    clock.now += 60  # idle all the time
    worker.links.stopping, worker.links.stopped = True, clock.now
    assert not worker.may_leave(idle=True)
    clock.now += 4.9
    assert not worker.may_leave(idle=False)
    clock.now += 4.9
    assert not worker.may_leave(idle=True)
    clock.now += 0.2
    assert worker.may_leave(idle=True)


def test_a_termination_signal_loses_no_request(tmp_path):
    with running(config_of(tmp_path, MODELS / "swiss.py")) as worker:
        worker.peer.send(b'{"op": "sleep", "s": 0.1}')
        worker.process.send_signal(signal.SIGTERM)
        kinds = {worker.peer.frame().kind, worker.peer.frame().kind}
        worker.peer.sock.close()

        assert kinds == {Kind.RESPONSE, Kind.GOAWAY}
        assert worker.wait() == 0


def test_the_control_links_end_is_the_workers_end(tmp_path):
    with running(config_of(tmp_path, MODELS / "swiss.py")) as worker:
        worker.control.sock.shutdown(socket.SHUT_RDWR)

        assert worker.wait() == 0


def test_a_starter_that_dies_while_the_model_loads_leaves_no_worker(tmp_path):
    worker = WorkerProcess(config_of(tmp_path, MODELS / "swiss.py"))
    worker.control.sock.shutdown(socket.SHUT_RDWR)  # READY finds nobody: a broken pipe instead of an end of file

    try:
        assert worker.wait() == 0
    finally:
        worker.end()


def test_a_peer_that_speaks_something_else_is_hung_up_on(swiss):
    peer = swiss.connect()
    peer.sock.sendall(b"\xff" * 64)

    assert peer.frame() is None
    assert ask(swiss, op="pid").status == 200


def test_an_interrupt_from_the_terminal_is_not_for_workers(swiss):
    swiss.process.send_signal(signal.SIGINT)

    assert ask(swiss, op="pid").json()["pid"] == swiss.process.pid


def test_who_waits_for_others_hears_that_the_worker_lives(tmp_path):
    code = "import time\ndef handle(rows, context):\n    time.sleep(0.05)\n    return ['done'] * len(rows or [])\n"
    with running(config_of(tmp_path, code, response_timeout_seconds=0.2)) as worker:
        other = worker.connect()
        for _ in range(10):
            other.send(b"{}")
        worker.peer.send(b"{}")

        kinds = [worker.peer.frame().kind]
        while kinds[-1] != Kind.RESPONSE:
            kinds.append(worker.peer.frame().kind)

    assert kinds[0] == Kind.ALIVE and set(kinds[:-1]) == {Kind.ALIVE}


def test_the_starter_may_ask_over_the_control_link(swiss):
    swiss.control.sock.sendall(pack(Kind.REQUEST, 77, RequestHead("describe", "d", []), b""))

    while (answer := swiss.control.answer()).id != 77:
        pass
    assert answer.json()["headers"]["describe"] == "True"


@pytest.mark.parametrize(
    ("code", "phase", "exception", "location"),
    [
        pytest.param("import nowhere", "import", "ModuleNotFoundError", "model.py:1", id="import"),
        pytest.param("def handle(:", "import", "SyntaxError", "model.py:1", id="syntax"),
        pytest.param((MODELS / "twoclasses.py"), "entry point", "EntryPointError", "", id="two classes"),
        pytest.param("x = 1", "entry point", "EntryPointError", "", id="nothing to call"),
        pytest.param((MODELS / "initfail.py"), "initialize", "RuntimeError", "model.py:3", id="initialize"),
        pytest.param("def handle(d, c):\n    raise SystemExit(4)", "initialize", "SystemExit", "model.py:2", id="exit"),
    ],
)
def test_the_cause_of_a_failed_load_is_told(tmp_path, code, phase, exception, location):
    worker = WorkerProcess(config_of(tmp_path, code))

    failure = worker.loaded()

    assert (failure.phase, failure.exception, failure.location) == (phase, exception, location)
    assert exception in failure.traceback
    assert worker.wait() == 1
    assert exception in worker.end()


@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        ("func.py", {"init": 1, "n": 1, "model": "m"}),
        ("func:other", {"entry": "other"}),
        ("func.py:other", {"entry": "other"}),
    ],
)
def test_functions_are_entry_points(tmp_path, handler, answer):
    (tmp_path / "func.py").write_text((MODELS / "func.py").read_text())

    with running(config_of(tmp_path, handler=handler)) as worker:
        assert worker.peer.ask(b"{}").json() == answer


@pytest.mark.parametrize("phase", ["preprocess", "inference", "postprocess"])
def test_failures_are_told_from_every_phase_of_a_base_handler(tmp_path, phase):
    with running(config_of(tmp_path, MODELS / "phases.py")) as worker:
        assert ask(worker, fine=1).json() == {"fine": 1}
        assert ask(worker, fail=phase).status == 503
        refused = ask(worker, fail=phase, code=422)

    assert (refused.status, refused.text) == (422, f"{phase} refused")
