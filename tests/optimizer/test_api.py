"""The REST: recorded conversations replayed, what we do differently and why, and many clients at once."""

import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import uvicorn

from flambeau.hosts import answered
from flambeau.optimizer import store
from flambeau.optimizer.api import create_app
from flambeau.optimizer.routes import ROUTES
from flambeau.optimizer.server import address, application
from flambeau.optimizer.solver import Solution

with tarfile.open(Path(__file__).with_name("golden.tar.xz")) as archive:
    TALKS = {
        Path(member.name).stem: json.load(archive.extractfile(member))
        for member in archive
        if member.name.startswith("optimizer_rest/")
    }

# Where we answer otherwise on purpose, by place in the conversation.
INTENDED = {
    ("statefull", 141): "desiredAlloc is cleared when the last optimization gave nothing",
    ("statefull", 144): "a server with an unknown model makes the problem infeasible, not the process crash",
    ("statefull", 151): "a type without capacity has none; the process does not crash",
    ("statefull", 154): "a system which is not wrapped is optimized, not taken for an empty one",
    ("statefull", 155): "so it is also the one that is asked about",
}


@pytest.mark.parametrize("name", sorted(TALKS))
def test_recorded_conversations_are_repeated(name):
    client = create_app(stateful=name == "statefull").test_client()

    for place, talk in enumerate(TALKS[name]):
        request, recorded = talk["request"], talk["response"]
        response = client.open(request["path"], method=request["verb"], data=request["body"])
        if (name, place) in INTENDED:
            continue
        assert response.status_code == recorded["status"], (place, request)
        if recorded["status"] == 400 and not recorded["body"]:
            assert response.json["message"]  # the reference says nothing at all
        else:
            assert response.content_type == recorded["content_type"], (place, request)
            assert response.headers.get("Location") == recorded.get("location")
            assert same(read(response.text, response.content_type), read(recorded["body"], recorded["content_type"])), place


def read(body, content_type):
    return json.loads(body) if content_type.startswith("application/json") else body


def same(ours, theirs) -> bool:
    """Equal within the tolerances; lists in any order, since the reference's order is random."""
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(any(same(one, other) for one in ours) for other in theirs)
    if isinstance(theirs, int | float):
        return ours == pytest.approx(theirs, rel=1e-4, abs=0.01)
    return ours == theirs


def spoken(name, place):
    return TALKS[name][place]["request"]["body"]


def test_what_is_done_differently_is_done_better():
    client = create_app(stateful=True).test_client()
    answers = {}
    for place, talk in enumerate(TALKS["statefull"]):
        answers[place] = client.open(talk["request"]["path"], method=talk["request"]["verb"], data=talk["request"]["body"])

    assert all(server["desiredAlloc"]["accelerator"] == "" for server in answers[141].json["servers"])
    for place in (144, 151):
        assert answers[place].status_code == 404
        assert answers[place].json == {"message": "optimization error: LP solve failed; solutionType=INFEASIBLE"}
    assert answers[154].json == answers[152].json
    assert len(answers[155].json["servers"]) == 2


@pytest.mark.parametrize(
    ("path", "body", "complaint"),
    [
        pytest.param(
            "/setAccelerators",
            '{"accelerators": [{"cost": "ten"}]}',
            'body.accelerators[0].cost: expected a number, got "ten"',
            id="a word for a number",
        ),
        pytest.param(
            "/addAccelerator", '{"multiplicity": 1.5}', "body.multiplicity: expected an integer, got 1.5", id="half a card"
        ),
        pytest.param("/addAccelerator", '{"cost": 1e999}', "out of range", id="endless cost"),
        pytest.param("/addAccelerator", '{"cost": NaN}', "NaN is not a number", id="no number"),
        pytest.param("/setServers", '{"servers": {}}', "body.servers: expected a list, got {}", id="an object for a list"),
        pytest.param("/setServers", "[" * 100_000, "not JSON", id="nested without end"),
        pytest.param("/setServers", b"\xff", "not JSON", id="not text"),
        pytest.param("/addServer", "", "nothing is there", id="nothing"),
        pytest.param("/addServer", r'{"name": "\ud800"}', "half a character", id="half a character"),
        pytest.param("/addServer", r'{"\uDFFF": {}}', "half a character", id="half a character for a key"),
        pytest.param("/addServer", '{"minNumReplicas": 1' + "0" * 5000 + "}", "not JSON", id="a number without end"),
        pytest.param("/whatIf", "{}", "body.before: expected a system", id="nothing to compare"),
    ],
)
def test_a_body_which_cannot_be_read_is_told_where(path, body, complaint):
    response = create_app(stateful=True).test_client().post(path, data=body)

    assert response.status_code == 400
    assert complaint in response.json["message"]


def test_characters_beyond_the_basic_plane_may_be_escaped():
    response = create_app(stateful=True).test_client().post("/addServer", data=r'{"name": "\ud83d\ude00 \\ud800"}')

    assert response.json["name"] == "😀 \\ud800"


def test_a_byte_order_mark_is_no_fault():
    response = create_app(stateful=True).test_client().post("/addServer", data='\ufeff{"name": "s"}'.encode())

    assert response.json["name"] == "s"


@pytest.mark.parametrize("priority", ["1_0", " 5", "５", "1e1", "9" * 20])
def test_a_priority_is_a_plain_number(priority):
    response = create_app(stateful=True).test_client().get(f"/addServiceClass/c/{priority}")

    assert response.status_code == 400 and response.json == {"message": f"service class priority {priority} invalid"}


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE"])
def test_other_methods_are_not_found(method):
    assert create_app(stateful=True).test_client().open("/addServer", method=method).status_code == 404


def test_a_failure_of_ours_is_told_in_json(monkeypatch):
    monkeypatch.setattr(store, "optimize", lambda system, spec: 1 / 0)

    response = create_app(stateful=True).test_client().post("/optimize", json={})

    assert response.status_code == 500 and "Traceback" not in response.text and response.json["message"]


def test_whole_numbers_may_be_written_with_a_point():
    response = create_app(stateful=True).test_client().post("/setCapacity", data='{"type": "A", "count": 64.0}')

    assert response.json == {"type": "A", "count": 64}


def test_a_system_is_judged_in_sentences():
    client = create_app(stateful=False).test_client()
    body = json.loads(spoken("statefull", 152))
    body["system"]["serverData"]["servers"][0]["model"] = "missing"
    body["system"]["capacityData"]["count"] = [{"type": "G2", "count": -1}]

    problems = client.post("/validate", json=body).json["problems"]
    body["system"]["optimizerData"] = {"optimizer": {"strict": True}}
    strict = client.post("/optimizeOne", json=body)

    assert any("model missing not known" in problem for problem in problems)
    assert any("is negative" in problem for problem in problems)
    assert strict.status_code == 400 and strict.json["problems"] == problems


def test_a_system_built_piece_by_piece_is_judged_when_asked():
    client = create_app(stateful=True).test_client()
    client.post("/addServer", json={"name": "s", "model": "missing"})

    response = client.post("/optimize", json={"strict": True})

    assert response.status_code == 400
    assert "server s: model missing not known" in response.json["problems"]
    assert client.post("/optimize", json={}).status_code == 200


@pytest.mark.parametrize("path", ["/optimize", "/optimizeOne", "/whatIf"])
def test_no_client_keeps_the_solver_busy_for_as_long_as_it_likes(monkeypatch, path):
    asked = []
    monkeypatch.setattr(store, "optimize", lambda system, spec: (asked.append(spec.time_limit), Solution())[1])
    spec = {"milpSolver": True, "timeLimit": 1e6}
    system = {"optimizerData": {"optimizer": spec}}
    body = {"/optimize": spec, "/optimizeOne": {"system": system}, "/whatIf": {"before": system, "after": system}}[path]

    create_app(stateful=True).test_client().post(path, json=body)

    assert set(asked) == {store.LONGEST_SOLVE_SECONDS}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Host": "evil.example"}, 403, id="a rebound name"),
        pytest.param({"Origin": "http://evil.example"}, 403, id="a foreign page"),
        pytest.param({"Host": "[::1]:8080", "Origin": "http://[::1]:8080"}, 200, id="our own page"),
    ],
)
@pytest.mark.parametrize("path", ["/removeServer/s", "/getServers", "/docs", "/openapi.json"])
def test_browsers_led_here_by_others_are_refused(headers, status, path):
    client = create_app(stateful=True).test_client()
    client.post("/addServer", json={"name": "s"})

    response = client.get(path, headers=headers)

    assert response.status_code == status
    if status == 403:
        assert response.json["message"]
        assert client.get("/getServer/s").status_code == 200


def test_where_other_machines_may_ask_any_name_will_do_and_so_will_those_that_are_listed():
    for hosts in (answered(["0.0.0.0"]), answered(["localhost"], ["optimizer.example"])):
        client = create_app(stateful=True, hosts=hosts).test_client()

        assert client.get("/getServers", headers={"Host": "optimizer.example"}).status_code == 200


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        pytest.param({"percentile": 0.95}, "percentile 0.95 is not from 50 to below 100", id="a share for a percentile"),
        pytest.param({"slo-ttft": -1}, "slo-ttft -1 is negative", id="a negative target"),
        pytest.param({"timeLimit": -2}, "timeLimit -2 is negative", id="a negative option"),
        pytest.param({"stabilisation": {"maxStepUp": -2}}, "maxStepUp -2 is negative", id="a step the other way"),
    ],
)
def test_numbers_that_make_no_sense_are_problems(part, problem):
    targets = {
        "serviceClassData": {"serviceClasses": [{"name": "c", "priority": 1, "modelTargets": [{"model": "m"} | part]}]}
    }
    body = targets | {"optimizerData": {"optimizer": part}}

    (told,) = create_app(stateful=False).test_client().post("/validate", json=body).json["problems"]

    assert told.endswith(problem) or problem in told


def test_a_decision_explains_itself_when_asked():
    client = create_app(stateful=False).test_client()
    body = json.loads(spoken("statefull", 152))
    plain = client.post("/optimizeOne", json=body).json
    body["system"]["optimizerData"] = {"optimizer": {"unlimited": True, "explain": True}}

    explained = client.post("/optimizeOne", json=body).json["explanations"]

    assert plain.keys() == {"allocations"}
    for told in explained.values():
        assert told["decision"]
        assert sum(each["verdict"] == "chosen" for each in told["considered"]) == 1
        assert all("costs more" in each["verdict"] for each in told["considered"] if each["verdict"] != "chosen")


def test_what_if_tells_what_would_change():
    client = create_app(stateful=False).test_client()
    before, after = (json.loads(spoken("statefull", 152))["system"] for _ in range(2))
    after["serverData"]["servers"][0]["currentAlloc"]["load"]["arrivalRate"] *= 10

    answer = client.post("/whatIf", json={"before": before, "after": after}).json

    assert list(answer["changed"]) == [after["serverData"]["servers"][0]["name"]]
    assert answer["cost"]["difference"] > 0
    assert client.get("/getServers").json == {"servers": []}


def test_applying_an_allocation_keeps_the_load_of_who_has_none():
    client = create_app(stateful=True).test_client()
    client.post("/addServer", json={"name": "s", "model": "m", "currentAlloc": {"load": {"arrivalRate": 7}}})
    client.post("/optimize", json={})

    client.get("/applyAllocation")

    assert client.get("/getServer/s").json["currentAlloc"]["load"]["arrivalRate"] == 7


def test_adding_a_model_again_keeps_its_data():
    client = create_app(stateful=True).test_client()
    client.post("/setModels", json={"models": [{"name": "m", "acc": "A"}]})

    client.get("/addModel/m")

    assert len(client.get("/getModel/m").json["models"]) == 1


def test_steps_are_held_back_when_asked():
    client = create_app(stateful=False).test_client()
    body = json.loads(spoken("statefull", 152))
    server = body["system"]["serverData"]["servers"][0]
    server["currentAlloc"] |= {"accelerator": "G2", "numReplicas": 40}
    body["system"]["optimizerData"] = {"optimizer": {"unlimited": True, "stabilisation": {"maxStepDown": 3}}}

    answer = client.post("/optimizeOne", json=body).json["allocations"]

    assert answer[server["name"]]["numReplicas"] == 37


def test_every_route_is_in_the_openapi_document_and_on_the_page():
    client = create_app(stateful=True).test_client()

    document, page = client.get("/openapi.json").json, client.get("/docs").text

    assert {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs} == {
        (route.verb, route.path) for route in ROUTES
    }
    assert all(route.path in page for route in ROUTES)
    named = {ref.split("/")[-1] for ref in references(document)}
    assert named <= document["components"]["schemas"].keys()


def references(value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from [item] if key == "$ref" else references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.fixture
def url():
    """A real server on a free port."""
    config = uvicorn.Config(application(stateful=True), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(500):
        if server.started:
            break
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_many_clients_at_once_get_each_their_own_answer(url):
    """Each client optimizes a system of its own while it adds to and removes from the shared one."""
    base, clients, turns = json.loads(spoken("statefull", 152)), 16, int(os.environ.get("OPTIMIZER_TURNS", "8"))

    def talk(number):
        body = json.loads(json.dumps(base))
        for server in body["system"]["serverData"]["servers"]:
            server["currentAlloc"]["load"]["arrivalRate"] = 60 * (number + 1)
        own = create_app(stateful=False).test_client().post("/optimizeOne", json=body).json
        with httpx.Client(base_url=url, timeout=30) as client:
            for turn in range(turns):
                name = f"client{number}-{turn}"
                assert client.post("/optimizeOne", json=body).json() == own
                assert client.post("/addServer", json={"name": name}).json()["name"] == name
                assert client.get("/getServers").status_code == 200
        return number

    with ThreadPoolExecutor(clients) as threads:
        assert list(threads.map(talk, range(clients))) == list(range(clients))


def hard_system(servers=60):
    """Whole numbers that don't fit: the exact solver needs all the time it may have."""
    dice = random.Random(3)
    kinds = [f"A{number}" for number in range(10)]
    names = [f"m{number}" for number in range(servers)]
    accelerators = [
        {"name": k, "type": k, "multiplicity": dice.choice([1, 2, 3, 5, 7]), "cost": dice.randint(20, 200)} for k in kinds
    ]
    times = [{"alpha": dice.uniform(5, 25), "beta": dice.uniform(0.05, 1.5)} for _ in range(servers * 10)]
    pairs = [(name, kind) for name in names for kind in kinds]
    models = [
        {
            "name": name,
            "acc": kind,
            "accCount": dice.choice([1, 1, 2, 3]),
            "maxBatchSize": 32,
            "atTokens": 100,
            "decodeParms": each,
        }
        for (name, kind), each in zip(pairs, times, strict=True)
    ]
    targets = [{"model": name, "slo-itl": dice.uniform(30, 90)} for name in names]
    loads = [{"arrivalRate": dice.uniform(600, 90_000), "avgOutTokens": 100} for _ in names]
    return {
        "acceleratorData": {"accelerators": accelerators},
        "capacityData": {"count": [{"type": kind, "count": dice.randint(100, 500)} for kind in kinds]},
        "modelData": {"models": models},
        "serviceClassData": {"serviceClasses": [{"name": "c", "modelTargets": targets}]},
        "serverData": {"servers": [
            {"name": name, "class": "c", "model": name, "currentAlloc": {"load": load}}
            for name, load in zip(names, loads, strict=True)
        ]},
        "optimizerData": {"optimizer": {"milpSolver": True, "heterogeneous": True, "partial": True, "timeLimit": 1000}},
    }  # fmt: skip


def test_the_end_waits_for_no_long_solve():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flambeau", "optimizer", "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client, ThreadPoolExecutor(1) as thread:
            until(lambda: serves(client))
            worked_before = psutil.Process(process.pid).cpu_times().user
            solving = thread.submit(client.post, "/optimizeOne", json=hard_system())
            until(lambda: psutil.Process(process.pid).cpu_times().user > worked_before + 1)

            process.terminate()

            assert process.wait(30) == 0
            assert solving.result().status_code == 503
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def serves(client):
    try:
        return client.get("/getServers").status_code == 200
    except httpx.TransportError:
        return False


def until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_address_comes_from_the_environment():
    assert address({}) == ("localhost", 8080)
    assert address({"INFERNO_HOST": "0.0.0.0", "INFERNO_PORT": "9000"}) == ("0.0.0.0", 9000)
    with pytest.raises(ValueError, match="INFERNO_PORT=http"):
        address({"INFERNO_PORT": "http"})
