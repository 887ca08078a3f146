"""Whatever a handler does wrong, wherever: one request pays, its batch mates and the worker do not."""

import json

import pytest

from flambeau.handlers.protocol import Kind

from .worker_client import WorkerProcess, config_of, running

RAISES = {
    "value error": 'raise ValueError("secret")',
    "prediction exception": 'raise PredictionException("told", 422)',
    "out of memory": "raise MemoryError",
    "cuda": 'raise RuntimeError("CUDA error: secret")',
    "exit": "raise SystemExit(3)",
    "interrupt": "raise KeyboardInterrupt",
    "unspeakable": "raise Unspeakable",
}
TOLD = {
    "prediction exception": (422, "told"),
    "out of memory": (507, "Out of resources"),
    "cuda": (507, "Out of resources"),
}

CODE = """
from flambeau.handlers import BaseHandler, PredictionException

class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("secret")

def fail(phase, rows):
    for row in rows:
        if row == PHASE:
            FAILURE

class Faulty(BaseHandler):
    def initialize(self, context): pass
    def preprocess(self, data):
        rows = [row["body"] for row in data]
        fail("preprocess", [row for row in rows if row == "preprocess"])
        return rows
    def inference(self, rows):
        fail("inference", [row for row in rows if row == "inference"])
        return rows
    def postprocess(self, rows):
        fail("postprocess", [row for row in rows if row == "postprocess"])
        return [self.parts(row) if row in ("generator", "stream") else row for row in rows]
    def parts(self, row):
        if row == "stream":
            yield "first"
        fail(row, [row])
        yield "last"
"""


@pytest.mark.parametrize("failure", RAISES)
def test_what_a_phase_raises_is_told_to_its_request(tmp_path, failure):
    phases = ["preprocess", "inference", "postprocess", "generator"]
    code = CODE.replace("row == PHASE", "row == phase").replace("FAILURE", RAISES[failure])
    with running(config_of(tmp_path, code)) as worker:
        answers = [worker.peer.ask(json.dumps(phase).encode()) for phase in phases]
        stream = worker.peer.ask(b'"stream"')
        fine = worker.peer.ask(b'"fine"')

    expected = TOLD.get(failure, (503, "Prediction failed"))
    assert [(answer.status, answer.text) for answer in answers] == [expected] * len(phases)
    assert (stream.parts, stream.cut) == ([b"first"], expected[1])
    assert fine.text == "fine"
    assert not any("secret" in answer.text for answer in answers)


@pytest.mark.parametrize("phase", ["import", "initialize"])
@pytest.mark.parametrize("failure", [name for name in RAISES if name != "prediction exception"])
def test_what_loading_raises_is_a_failed_load(tmp_path, phase, failure):
    unspeakable = "class Unspeakable(Exception):\n    def __str__(self):\n        raise RuntimeError\n"
    where = "{}" if phase == "import" else "def handle(rows, context):\n    {}"
    worker = WorkerProcess(config_of(tmp_path, unspeakable + where.format(RAISES[failure])))

    told = worker.loaded()

    assert told.phase == phase
    assert told.location == ("model.py:4" if phase == "import" else "model.py:5")
    assert worker.wait() == 1
    worker.end()


RETURNS = """
def handle(rows, context):
    if rows is None:
        return
    wanted = [row["body"] for row in rows]
    if "none" in wanted:
        return None
    if "short" in wanted:
        return []
    if "string" in wanted:
        return "ab"
    odd = {"object": object(), "loop": loop(), "half": "\\ud800"}
    return [odd.get(want, want) for want in wanted]

def loop():
    circle = []
    circle.append(circle)
    return circle
"""


@pytest.mark.parametrize("wanted", ["none", "short", "string"])
def test_a_wrong_answer_is_told_to_the_whole_batch(tmp_path, wanted):
    with running(config_of(tmp_path, RETURNS, batch_size=2, max_batch_delay_seconds=0.3)) as worker:
        worker.peer.send(json.dumps(wanted).encode())
        worker.peer.send(b'"fine"')

        assert [worker.peer.answer().status for _ in range(2)] == [503, 503]
        assert worker.peer.ask(b'"fine"', kind="application/json").text == "fine"


@pytest.mark.parametrize("wanted", ["object", "loop", "half"])
def test_an_answer_without_a_form_leaves_its_batch_mate_unharmed(tmp_path, wanted):
    with running(config_of(tmp_path, RETURNS, batch_size=2, max_batch_delay_seconds=5)) as worker:
        worker.peer.send(json.dumps(wanted).encode())
        worker.peer.send(b'"fine"')
        first, second = worker.peer.answer(), worker.peer.answer()

    assert (first.status, first.text) == (503, "Unsupported model output data type.")
    assert second.text == "fine"


ODD = """
import time

from flambeau.handlers import PredictionException

class Exits(dict):
    def __bool__(self):
        return True
    def items(self):
        raise SystemExit(3)

class Speechless:
    def __str__(self):
        raise SystemExit(3)

def stays():
    try:
        while True:
            time.sleep(0.001)
            yield "a"
    finally:
        raise SystemExit(3)

def handle(rows, context):
    if rows is None:
        return
    answers = [row["body"] for row in rows]
    for at, wanted in enumerate(answers):
        if wanted == "exits":
            answers[at] = Exits(a=1)
        if wanted == "criteria":
            context.stopping_criteria = [lambda output: output == "fine" or 1 / 0 for _ in rows]
        if wanted == "phrase":
            context.set_response_status(201, "half \\ud800", idx=at)
        if wanted == "header":
            context.set_response_header(at, "x", Speechless())
        if wanted == "generator":
            answers[at] = stays()
        if isinstance(wanted, dict):
            raise PredictionException(wanted["told"], 400)
        if wanted == "speechless":
            raise PredictionException(Speechless(), 400)
    return answers
"""


@pytest.mark.parametrize(
    ("wanted", "status"), [("exits", 503), ("criteria", 503), ("phrase", 201), ("header", 503)]
)  # fmt: skip
def test_an_answer_that_fails_on_its_way_leaves_its_batch_mate_unharmed(tmp_path, wanted, status):
    with running(config_of(tmp_path, ODD, batch_size=2, max_batch_delay_seconds=5)) as worker:
        worker.peer.send(json.dumps(wanted).encode())
        worker.peer.send(b'"fine"')
        first, second = worker.peer.answer(), worker.peer.answer()

    assert (first.status, second.text) == (status, "fine")


def test_half_a_character_that_a_client_sent_is_told_as_a_question_mark(tmp_path):
    with running(config_of(tmp_path, ODD)) as worker:
        told = worker.peer.ask(rb'{"told": "no \ud800"}')
        speechless = worker.peer.ask(b'"speechless"')

        assert (told.status, told.text) == (400, "no ?")
        assert (speechless.status, speechless.text) == (400, "Prediction failed")
        assert worker.peer.ask(b'"fine"').text == "fine"


def test_a_generator_that_fails_as_it_is_ended_harms_nobody(tmp_path):
    with running(config_of(tmp_path, ODD)) as worker:
        asked = worker.peer.send(b'"generator"')
        while worker.peer.frame().kind != Kind.CHUNK:
            pass
        worker.peer.cancel(asked)

        assert worker.peer.answer().cut == "cancelled"
        assert worker.peer.ask(b'"fine"').text == "fine"


SUBMITS = """
from flambeau.handlers import PredictionException

class Handler:
    def initialize(self, context): pass
    def submit(self, request, reply):
        if bytes(request.body) == b"exit":
            raise SystemExit(3)
        if request.body:
            raise PredictionException(bytes(request.body).decode("utf-8", "surrogateescape"), 422)
        reply.respond(b"fine")
    def cancel(self, id): pass
    def step(self): return False
"""


def test_what_taking_a_request_raises_does_not_end_the_worker(tmp_path):
    with running(config_of(tmp_path, SUBMITS, handler="model.py:Handler")) as worker:
        half, end = worker.peer.ask(b"half \xff"), worker.peer.ask(b"exit")

        assert (half.status, half.text) == (422, "half ?")
        assert (end.status, end.text) == (503, "Prediction failed")
        assert worker.peer.ask(b"").text == "fine"


def test_a_body_that_is_no_row_leaves_its_batch_mate_unharmed(tmp_path):
    with running(config_of(tmp_path, RETURNS, batch_size=2, max_batch_delay_seconds=5)) as worker:
        worker.peer.send(b"nothing", kind="multipart/form-data")
        worker.peer.send(b'"fine"')
        answers = {answer.status: answer.text for answer in (worker.peer.answer(), worker.peer.answer())}

    assert answers == {400: "multipart body without a boundary", 200: "fine"}


def test_prints_without_end_do_not_reach_clients_or_stop_the_worker(tmp_path):
    code = "import sys\ndef handle(rows, context):\n    sys.stdout.close()\n    return ['fine' for _ in rows or ()]\n"

    with running(config_of(tmp_path, code)) as worker:
        assert worker.peer.ask(b"{}").text == "fine"


def test_noise_on_a_link_ends_that_link_alone(tmp_path):
    import random

    noise = random.Random(7)
    with running(config_of(tmp_path, RETURNS)) as worker:
        for _ in range(30):
            peer = worker.connect()
            peer.sock.sendall(bytes([noise.randrange(64), 0, 0, 0, noise.randrange(25)]) + noise.randbytes(200))
            peer.sock.close()
        assert worker.peer.ask(b'"fine"').text == "fine"


def test_a_forked_child_that_comes_back_from_the_handler_answers_nobody(tmp_path):
    code = "import os\ndef handle(data, context):\n    return data and [str(os.fork() == 0)] * len(data)\n"
    with running(config_of(tmp_path, code)) as worker:
        assert {worker.peer.ask(b"x", kind="").text for _ in range(5)} == {"False"}
