import asyncio
import json
import threading
import urllib.error
import urllib.request

import pytest

from flambeau.archiver.errors import InvalidModel
from flambeau.archiver.errors import ModelNotFound as NothingThere
from flambeau.archiver.fetch import Fetched
from flambeau.archiver.workflow import main as archive
from flambeau.archiver.workflow_spec import read_workflow
from flambeau.management import control as verbs
from flambeau.management.errors import ModelConflict
from flambeau.management.serving import Registration
from flambeau.management.workflows import Workflows

from ..conftest import Host

FUNCTIONS = """
def clean(data, context):
    return data and [row["body"].decode().strip().encode() for row in data]

def join(data, context):
    return data and [{"up": row["upper"].decode(), "back": row["reverse"].decode()} for row in data]
"""
UPPER = "def handle(data, context):\n    return data and [row['body'].decode().upper() for row in data]\n"
REVERSE = "def handle(data, context):\n    return data and [row['body'].decode()[::-1] for row in data]\n"
FAILS = "def handle(data, context):\n    if data: raise ValueError('no')\n"


@pytest.fixture
def war(tmp_path):
    def make(dag, store, models=("upper", "reverse"), name="wf"):
        (tmp_path / "functions.py").write_text(FUNCTIONS)
        lines = [f"  {model}:\n    url: {model}\n" for model in models]
        (tmp_path / "spec.yaml").write_text("models:\n  min-workers: 1\n" + "".join(lines) + f"dag: {json.dumps(dag)}\n")
        archive(["--workflow-name", name, "--spec-file", str(tmp_path / "spec.yaml"), "--handler", str(tmp_path / "functions.py"),
                 "--export-path", str(store), "-f"])  # fmt: skip

    return make


def ask(method, url, body=None):
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, {"Content-Type": "application/octet-stream"}, method=method), timeout=60
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_graph_of_functions_and_models_answers_and_leaves_no_model_behind(live_server, war):
    server = live_server()
    for name, handler in (("upper", UPPER), ("reverse", REVERSE)):
        server.archive(name, handler)
    war({"clean": ["upper", "reverse"], "upper": ["join"], "reverse": ["join"]}, server.store)
    inference, management = server.client.inference, server.client.management

    status, told = ask("POST", f"{management}/workflows?url=wf.war")
    assert (status, json.loads(told)["status"]) == (200, "Workflow wf has been registered and scaled successfully.")

    status, answer = ask("POST", f"{inference}/wfpredict/wf", b"  abc ")
    assert (status, json.loads(answer)) == (200, {"up": "ABC", "back": "cba"})

    assert json.loads(ask("GET", f"{management}/workflows")[1]) == {
        "workflows": [{"workflowName": "wf", "workflowUrl": "wf.war"}]
    }
    (described,) = json.loads(ask("GET", f"{management}/workflows/wf")[1])
    assert json.loads(described["workflowDag"])["clean"] == ["upper", "reverse"]
    assert json.loads(ask("GET", f"{management}/models")[1]) == {"models": []}
    assert ask("POST", f"{management}/workflows?url=wf.war")[0] == 409

    server.stop()
    server.start()
    server.wait(lambda: ask("POST", f"{inference}/wfpredict/wf", b"xy")[0] == 200)

    assert ask("DELETE", f"{management}/workflows/wf")[0] == 200
    assert ask("POST", f"{inference}/wfpredict/wf", b"x")[0] == 404
    assert ask("GET", f"{management}/models/wf__upper")[0] == 404


def test_a_node_that_fails_is_named(live_server, war):
    server = live_server()
    server.archive("fails", FAILS)
    war({"clean": ["fails"]}, server.store, models=("fails",))
    assert ask("POST", f"{server.client.management}/workflows?url=wf.war")[0] == 200

    status, told = ask("POST", f"{server.client.inference}/wfpredict/wf", b"x")

    assert (status, json.loads(told)["message"]) == (503, "Workflow node fails failed to execute: Prediction failed")


def test_a_workflow_whose_model_is_missing_is_not_there_at_all(live_server, war):
    server = live_server()
    server.archive("upper", UPPER)
    war({"upper": ["reverse"]}, server.store)

    status, told = ask("POST", f"{server.client.management}/workflows?url=wf.war")

    assert (status, json.loads(told)["message"]) == (404, "Model not found at: reverse")
    assert ask("GET", f"{server.client.management}/models/wf__upper")[0] == 404


def test_a_workflow_that_fails_takes_back_its_own_models_only(run, war):
    async def story(plane):
        plane.archive("upper", UPPER)
        plane.archive("reverse", REVERSE)
        war({"upper": ["reverse"]}, plane.store)
        await plane.control.register(Registration(url="upper", name="wf__upper"), wait=True)
        mine = plane.control.pools["wf__upper", "1.0"]

        with pytest.raises(ModelConflict):
            await Workflows(plane.control, plane.store).register("wf.war", None)

        assert plane.control.pools == {("wf__upper", "1.0"): mine}
        assert set(plane.control.registry.state.models) == {"wf__upper"}

    run(story)


def test_a_workflow_that_takes_its_time_holds_up_no_other(run, war, monkeypatch):
    begun, go, fetch = threading.Event(), threading.Event(), verbs.fetch

    def slow(url, *arguments, **options):
        if url == "upper":
            begun.set()
            go.wait(60)
        return fetch(url, *arguments, **options)

    async def story(plane):
        plane.archive("upper", UPPER)
        plane.archive("reverse", REVERSE)
        war({"upper": []}, plane.store, models=("upper",), name="slow")
        war({"reverse": []}, plane.store, models=("reverse",), name="quick")
        monkeypatch.setattr(verbs, "fetch", slow)
        workflows = Workflows(plane.control, plane.store)
        first = asyncio.create_task(workflows.register("slow.war", None))
        await asyncio.to_thread(begun.wait)

        try:
            await asyncio.wait_for(workflows.register("quick.war", None), 30)
        finally:
            go.set()
        await first

        assert set(plane.registry.state.workflows) == {"slow", "quick"}

    run(story)


def test_a_workflow_that_fails_leaves_no_download_of_its_other_models(run, war, monkeypatch):
    failed = threading.Event()

    def fetch(url, store, *_, **__):
        if url == "reverse":
            threading.Timer(0.2, failed.set).start()
            raise NothingThere("Model not found at: reverse")
        if url == "upper":
            failed.wait()
            (store / "upper").rename(store / "downloaded")
            return Fetched(store / "downloaded", downloaded=True)
        return Fetched(store / url, downloaded=False)

    async def story(plane):
        plane.archive("upper", UPPER)
        war({"upper": ["reverse"]}, plane.store)
        monkeypatch.setattr(verbs, "fetch", fetch)

        with pytest.raises(NothingThere, match="reverse"):
            await Workflows(plane.control, plane.store).register("wf.war", None)

        await asyncio.to_thread(failed.wait)
        await asyncio.get_running_loop().shutdown_default_executor()
        assert [path.name for path in plane.store.iterdir()] == ["wf.war"]
        assert plane.control.pools == {}

    run(story)


def test_a_downloaded_workflow_leaves_the_store_with_its_end_or_when_it_fails(live_server, war, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    war({"clean": ["upper"]}, elsewhere, models=("upper",))
    host = Host(elsewhere)
    server = live_server(allowed_urls=f"{host.url}/wf.war")
    register = ("POST", f"{server.client.management}/workflows?url={host.url}/wf.war")

    assert ask(*register)[0] == 404  # it wants a model that is not there
    assert not (server.store / "wf.war").exists()

    server.archive("upper", UPPER)
    assert ask(*register)[0] == 200
    assert (server.store / "wf.war").exists()
    assert ask("DELETE", f"{server.client.management}/workflows/wf")[0] == 200
    assert not (server.store / "wf.war").exists()


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("models: {a: {url: a.mar}}\ndag: {a: [b], b: [a]}", "circle"),
        ("models: {a: {}}\ndag: {a: []}", "a has no url"),
        ("models: {a: {url: x, batch-size: many}}\ndag: {a: []}", "batch-size='many'"),
        ("models: {a: {url: x}}\ndag: {a: [f]}", "f: neither a model"),
        ("dag: {a: [b]}", "no mapping `models`"),
        ("[", "no YAML"),
    ],
)
def test_a_specification_that_can_not_be_run_says_why(tmp_path, spec, complaint):
    (tmp_path / "WAR-INF").mkdir()
    (tmp_path / "WAR-INF" / "MANIFEST.json").write_text(
        json.dumps({"workflow": {"workflowName": "w", "specFile": "s.yaml"}})
    )
    (tmp_path / "s.yaml").write_text(spec)

    with pytest.raises(InvalidModel, match=complaint):
        read_workflow(tmp_path)
