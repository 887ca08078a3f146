"""A server that is its own cell: both APIs on one registry, and what it knows after it was killed."""

import signal

import pytest
import requests

from flambeau.management.cell.root import CellRoot

from .cluster import until
from .test_walkthroughs import free_port

ECHO = {"model": "/sax/test/echo", "model_path": "store.archive", "checkpoint": "None", "replicas": 1, "wait": 30}
SAYS_CHECKPOINT = """
def handle(data, context):
    return None if data is None else [context.system_properties["checkpoint"]] * len(data)
"""


@pytest.fixture
def server(live_server):
    port = free_port()
    server = live_server(cell="/sax/test", sax_address=f"http://127.0.0.1:{port}")
    server.sax = f"http://127.0.0.1:{port}"
    until(lambda: listed(server) is not None, told=server.said)
    return server


@pytest.mark.parametrize(("settings", "sentence"), [
    pytest.param({}, "/sax/test has an admin already: join it with cell_admin=false", id="an admin that is not alone"),
    pytest.param({"cell": "foo"}, 'cell=foo: cell full name "foo" should have the form /sax/<cell name>', id="no name"),
    pytest.param({"cell_admin": "false", "sax_root": ""}, "cell_admin=false: the cell is found by sax_root or SAX_ROOT",
                 id="a member without a root"),
    pytest.param({"cell_admin": "false", "cluster": "local:2"}, "only the cell's admin has a cluster", id="a member's cluster"),
])  # fmt: skip
def test_a_server_that_cannot_enter_its_cell_says_so_and_was_never_ready(live_server, tmp_path, settings, sentence):
    root = CellRoot(str(tmp_path / "root"), "/sax/test")
    root.create(str(tmp_path / "root"))
    lock = root.lock()
    given = {"cell": "/sax/test", "sax_root": str(tmp_path / "root"), "sax_address": f"http://127.0.0.1:{free_port()}"}
    server = live_server(start=False, **(given | settings))

    server.start()

    assert server.process.wait(20) == 1
    logged = "".join(path.read_text() for path in server.folder.glob("logs/*.log"))
    assert sentence in server.said() and "has started" not in server.said() + logged
    lock.release()


def listed(server):
    try:
        answer = requests.get(server.sax + "/listall", params={"sax_cell": "/sax/test"}, timeout=10)
        return answer.json() if answer.ok else None
    except requests.ConnectionError:
        return None


def replicas(server, model="/sax/test/echo"):
    found = requests.get(server.sax + "/listcell", params={"model": model}).json()
    return found.get("max_replicas"), found.get("active_replicas")


def test_what_torchserve_s_api_does_to_a_published_model_the_cell_sees(server):
    server.archive("archive")
    assert requests.post(server.sax + "/publish", json=ECHO).status_code == 200
    assert server.client.predict("echo", b"hello") == b"hello"

    server.client.scale("echo", 2)
    until(lambda: replicas(server) == (2, 2), told=server.said)
    server.client.unregister("echo")
    until(lambda: listed(server) == [], told=server.said)


def test_what_the_cell_does_to_a_registered_model_torchserve_s_api_sees(server):
    server.archive("archive")
    server.client.register("archive", initial_workers=1)
    model = "/sax/test/archive"
    assert listed(server) == [model] and replicas(server, model) == (1, 1)
    assert requests.post(server.sax + "/publish", json=ECHO | {"model": model}).status_code == 409

    updated = {"model": model, "model_path": "store.archive", "checkpoint": "None", "replicas": 2}
    assert requests.put(server.sax + "/update", json=updated).status_code == 200
    until(lambda: len(server.workers("archive")) == 2, told=server.said)
    requests.post(server.sax + "/unpublish", json={"model": model})
    assert server.client.models() == []


def test_after_kill_9_everything_published_is_there_again(server):
    server.archive("archive")
    requests.post(server.sax + "/publish", json=ECHO)
    requests.post(server.sax + "/publish", json=ECHO | {"model": "/sax/test/idle", "replicas": 0, "wait": 0})

    server.stop(signal.SIGKILL)
    server.start()

    until(lambda: listed(server) == ["/sax/test/echo", "/sax/test/idle"], told=server.said)
    until(lambda: replicas(server) == (1, 1), told=server.said)
    assert server.client.predict("echo", b"still here") == b"still here"


def test_a_handler_is_told_its_checkpoint_and_a_failed_load_is_told_to_all(server):
    server.archive("archive", SAYS_CHECKPOINT)
    server.archive("broken", "def handle(data, context):\n    raise ValueError('no such weights')\n")
    assert requests.post(server.sax + "/publish", json=ECHO | {"checkpoint": "/weights/7"}).status_code == 200
    assert server.client.predict("echo", b"") == b"/weights/7"

    spec = {"model": "/sax/test/broken", "model_path": "store.broken", "checkpoint": "None", "replicas": 1}
    requests.post(server.sax + "/publish", json=spec)
    until(lambda: "no such weights" in requests.get(server.sax + "/model/sax/test/broken").text, told=server.said)
    assert replicas(server, "/sax/test/broken") == (1, 0)


def test_a_model_that_nobody_asks_sleeps_and_is_woken_by_the_next_request(server):
    server.archive("archive")
    requests.post(server.sax + "/publish", json=ECHO | {"overrides": {"dormant_after": "1"}})
    assert server.client.predict("echo", b"awake") == b"awake"

    until(lambda: replicas(server) == (1, 0) and server.workers("echo") == [], told=server.said)
    assert "/sax/test/echo: DORMANT" in requests.get(server.sax + "/status").text

    assert server.client.predict("echo", b"good morning") == b"good morning"
    assert replicas(server) == (1, 1)
    until(lambda: replicas(server) == (1, 0), told=server.said)
    asked = {"model": "/sax/test/echo", "method": "custom", "data": "aGk="}
    assert requests.post(server.sax + "/run", json=asked).json() == {"data": "aGk="}
