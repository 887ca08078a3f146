"""Which requests are answered together: sequences, continuous batching, envelopes."""

import json

import pytest

from .worker_client import config_of, running

ECHO = "def handle(rows, context):\n    return [row for row in rows or ()] if rows is not None else None\n"


@pytest.mark.parametrize(
    ("settings", "header"),
    [({}, "TS_Request_Sequence_Id"), ({"sequence_id_header": "X-Sequence"}, "x-sequence")],
    ids=["TorchServe's header", "a header of one's own"],
)
def test_a_batch_holds_one_request_of_a_sequence(tmp_path, settings, header):
    code = """
import time
seen = {}
def handle(rows, context):
    if rows is None:
        return
    ids = [context.get_sequence_id(at) for at in range(len(rows))]
    assert len(set(ids)) == len(ids)
    for id, row in zip(ids, rows):
        seen.setdefault(id, []).append(row["body"])
    time.sleep(0.01)
    return [seen[id] for id in ids]
"""
    config = config_of(
        tmp_path, code, batch_size=4, max_batch_delay_seconds=0.01, model_yaml={"sequenceBatching": True}, **settings
    )
    with running(config) as worker:
        for number in range(3):
            for sequence in "ab":
                worker.peer.send(str(number).encode(), headers=[(header, sequence)])
        answers = [worker.peer.answer().json() for _ in range(6)]

    assert sorted(map(len, answers)) == [1, 1, 2, 2, 3, 3]
    assert answers[-1] == [0, 1, 2]


CONTINUOUS = """
def handle(rows, context):
    if rows is None:
        return
    wanted = [row["body"] for row in rows]
    counts = []
    for at in range(len(rows)):
        id = context.get_request_id(at)
        context.cache[id] = context.cache.get(id, 0) + 1
        counts.append(context.cache[id])
    if "fail" in wanted and counts[wanted.index("fail")] == 2:
        raise RuntimeError("secret")
    context.stopping_criteria = [lambda answer, n=n: answer["count"] >= n for n in wanted] if "fail" not in wanted else [
        lambda answer: False for _ in wanted]
    return [{"count": count, "batch": len(rows)} for count in counts]
"""


def test_continuous_batching_goes_on_until_each_is_done(tmp_path):
    config = config_of(
        tmp_path, CONTINUOUS, batch_size=4, max_batch_delay_seconds=0.5, model_yaml={"continuousBatching": True}
    )
    with running(config) as worker:
        for wanted in (2, 5, 1, 3):
            worker.peer.send(str(wanted).encode())
        parts = {id: [] for id in (1, 2, 3, 4)}
        while any(not part or part[-1] is not None for part in parts.values()):
            frame = worker.peer.frame()
            if frame.kind == 5:
                parts[frame.id].append(json.loads(bytes(frame.body)))
            elif frame.kind == 3:  # done in its first round
                parts[frame.id] += [json.loads(bytes(frame.body)), None]
            elif frame.kind == 6:
                parts[frame.id].append(None)

    assert [[part["count"] for part in parts[id][:-1]] for id in parts] == [[1, 2], [1, 2, 3, 4, 5], [1], [1, 2, 3]]
    assert [part["batch"] for part in parts[2][:-1]] == [4, 3, 2, 1, 1]


def test_a_failed_round_cuts_its_streams_short(tmp_path):
    config = config_of(
        tmp_path, CONTINUOUS, batch_size=4, max_batch_delay_seconds=0.0, model_yaml={"continuousBatching": True}
    )
    with running(config) as worker:
        answer = worker.peer.ask(b'"fail"')
        after = worker.peer.ask(b"1")

    assert (len(answer.parts), answer.cut) == (1, "Prediction failed")
    assert after.json()["count"] == 1


ENVELOPED = """
import json
def handle(rows, context):
    return None if rows is None else [row if row != "sum" else 3 for row in rows]
"""


@pytest.mark.parametrize(
    ("envelope", "body", "answer"),
    [
        ("body", [1, 2], [1, 2]),
        ("json", {"instances": [1, {"b": 2}]}, {"predictions": [1, {"b": 2}]}),
        ("kserve", {"instances": [[1], [2]]}, {"predictions": [[1], [2]]}),
        (
            "kservev2",
            {"id": "x", "inputs": [1.5, 2.5]},
            {
                "id": "x",
                "model_name": "m",
                "model_version": "1.0",
                "outputs": [{"name": "predict", "shape": [2], "datatype": "FP64", "data": [1.5, 2.5]}],
            },
        ),
    ],
)
def test_envelopes_undress_and_dress(tmp_path, envelope, body, answer):
    with running(config_of(tmp_path, ENVELOPED, service_envelope=envelope)) as worker:
        assert worker.peer.ask(json.dumps(body).encode()).json() == answer
        assert worker.peer.ask(json.dumps(body).encode(), kind="").json() == answer or envelope == "body"


def test_enveloped_requests_are_batched_and_parted_again(tmp_path):
    config = config_of(tmp_path, ENVELOPED, service_envelope="kserve", batch_size=2, max_batch_delay_seconds=5)
    with running(config) as worker:
        worker.peer.send(b'{"instances": [1, 2]}', operation="explain")
        worker.peer.send(b'{"instances": [3]}', operation="explain")

        assert [worker.peer.answer().json() for _ in range(2)] == [{"explanations": [1, 2]}, {"explanations": [3]}]


def test_an_empty_envelope_is_a_bad_request(tmp_path):
    with running(config_of(tmp_path, ENVELOPED, service_envelope="kserve")) as worker:
        assert worker.peer.ask(b"{}").status == 400
        assert worker.peer.ask(b"no json", kind="text/plain").status == 400
