import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flambeau.client import ServerError

from ..conftest import HOME, Host

ORIGINAL = Path(__file__).parents[1] / "archiver" / "original"  # packed by TorchServe's own archiver
VERSION = """
def handle(data, context):
    return None if data is None else [context.manifest['model']['modelVersion']] * len(data)
"""
BROKEN = "def handle(data, context):\n    raise ValueError('no such weights')\n"
DYING = "import os\ndef handle(data, context):\n    os.kill(os.getpid(), 11)\n"
MORTAL = """
import os
def handle(data, context):
    if data and data[0]["body"] == b"die":
        print("reading /secret/place")
        print("and now", end="", flush=True)
        os.kill(os.getpid(), 11)
    return data and [b"" for _ in data]
"""


def test_a_model_is_registered_asked_scaled_and_unregistered(live_server):
    server = live_server()
    client = server.client
    server.archive("echo")

    assert client.register("echo", initial_workers=1) == 'Model "echo" Version: 1.0 registered with 1 initial workers'
    assert client.predict("echo", b"hello") == b"hello"
    assert client.scale("echo", 2) == "Workers scaled to 2 for model: echo"
    assert len({worker["pid"] for worker in server.workers("echo")}) == 2
    assert client.unregister("echo") == 'Model "echo" unregistered'
    with pytest.raises(ServerError, match="404 ModelNotFoundException"):
        client.predict("echo", b"")

    assert server.stop() == 0


def test_a_sequence_header_of_ones_own_is_known_in_the_worker(live_server):
    server = live_server(ts_header_key_sequence_id="X-Sequence")
    keys = "context.header_key_sequence_id, context.header_key_sequence_start, context.header_key_sequence_end"
    server.archive("tells", f"def handle(data, context):\n    return data and [[context.get_sequence_id(0), {keys}]]\n")
    server.client.register("tells", initial_workers=1)

    request = urllib.request.Request(f"{server.client.inference}/predictions/tells", b"", {"X-Sequence": "seven"})

    starts, ends = "ts_request_sequence_start", "ts_request_sequence_end"
    assert json.load(urllib.request.urlopen(request)) == ["seven", "X-Sequence", starts, ends]


@pytest.mark.parametrize(("handler", "cause"), [
    pytest.param(BROKEN, "entry point: ValueError: no such weights at handler.py:2", id="an exception"),
    pytest.param('raise ValueError("\\x1b[31m☃ \\x00")', "?[31m? ?", id="colours and letters that no header may hold"),
    pytest.param(DYING, "killed by SIGSEGV while loading its model", id="a signal"),
])  # fmt: skip
def test_whoever_registers_is_told_why_a_model_does_not_load(live_server, handler, cause):
    server = live_server()
    server.archive("bad", handler)

    with pytest.raises(ServerError) as refusal:
        server.client.register("bad", initial_workers=1)

    assert refusal.value.message == "Failed to start workers for model bad version: 1.0"
    assert cause.split(": ", 1)[-1] in refusal.value.cause
    assert server.client.models() == []


def test_after_kill_9_of_the_server_nothing_runs_and_a_new_start_brings_all_back(live_server):
    server = live_server()
    for number in ("1.0", "2.0"):
        server.archive(f"m{number}", VERSION, number, model_name="m")
        server.client.register(f"m{number}", initial_workers=1)
    server.client.set_default("m", "2.0")
    server.archive("gone")
    server.client.register("gone", initial_workers=1)
    server.stop(signal.SIGKILL)  # waits until every process of it is gone
    os.rename(server.store / "gone", server.folder / "elsewhere")

    server.start()
    server.wait(lambda: server.workers("m"))

    assert server.client.predict("m", b"") == b"2.0"
    server.wait(lambda: server.workers("m", "1.0"))
    assert server.client.predict("m", b"", "1.0") == b"1.0"
    assert "archive can't be opened" in server.client.describe("gone")[0]["lastError"]


def test_a_killed_worker_comes_back_under_its_id(live_server):
    server = live_server()
    server.archive("echo")
    server.client.register("echo", initial_workers=1)
    (before,) = server.workers("echo")

    os.kill(before["pid"], signal.SIGKILL)
    (after,) = server.wait(lambda: [w for w in server.workers("echo") if w["pid"] != before["pid"]])

    assert after["id"] == before["id"]
    assert server.client.predict("echo", b"again") == b"again"


def test_a_worker_that_dies_leaves_its_last_words_and_the_command_that_shows_it_happen(live_server):
    server = live_server()
    server.archive("mortal", MORTAL)
    server.client.register("mortal", initial_workers=1)

    with pytest.raises(ServerError) as failure:
        server.client.predict("mortal", b"die")

    assert failure.value.message == "Worker died. (killed by SIGSEGV)"
    death = server.wait(lambda: server.client.describe("mortal")[0].get("lastDeath"))
    assert (death["cause"], death["lastLines"]) == ("killed by SIGSEGV", ["reading place", "and now"])
    log = (server.folder / "logs" / "ts_log.log").read_text()
    assert "| and now" in log
    assert f"killed by SIGSEGV; next start in 0 s; to see it: flambeau try {server.store / 'mortal'}\n" in log
    command = [
        sys.executable,
        "-m",
        "flambeau",
        *shlex.split(death["tryIt"])[1:],
        "die",
        "--model-store",
        str(server.store),
    ]
    shown = subprocess.run(command, env=os.environ | {"PYTHONPATH": HOME}, capture_output=True, text=True, timeout=60)
    assert shown.returncode
    assert "killed by SIGSEGV" in shown.stderr


def test_a_version_switch_under_load_loses_nothing_and_the_old_one_answers_no_more(live_server):
    server = live_server()
    client = server.client
    for number in ("1.0", "2.0"):
        server.archive(f"m{number}", VERSION, number, model_name="m")
    client.register("m1.0", initial_workers=1)
    switched, done, wrong, asked = threading.Event(), threading.Event(), [], []

    def ask():
        while not done.is_set():
            after = switched.is_set()
            try:
                answer = client.predict("m", b"")
            except ServerError as error:
                answer = str(error).encode()
            asked.append(answer)
            if answer not in (b"1.0", b"2.0") or (after and answer == b"1.0"):
                wrong.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    server.wait(lambda: asked.count(b"1.0") > 20)
    client.register("m2.0", initial_workers=1)
    client.set_default("m", "2.0")
    switched.set()
    client.unregister("m", "1.0")
    server.wait(lambda: asked.count(b"2.0") > 100)
    done.set()
    for thread in threads:
        thread.join(10)

    assert wrong == []


def test_a_taken_port_is_refused_with_the_name_of_who_has_it(live_server):
    first = live_server()
    second = live_server(start=False, inference_address=first.client.inference)

    second.start()

    assert second.process.returncode == 1
    assert f"the port is in use by process {first.family()[0].pid}" in second.said() or "in use by process" in second.said()
    assert first.healthy()


def test_two_servers_do_not_share_their_state(live_server):
    first = live_server()
    state = first.folder / "logs" / "config" / "state.json"

    second = live_server(state_file=str(state))
    assert second.process.returncode == 1
    assert "is the state of a server that runs" in second.said()

    first.stop()
    assert second.start().healthy()


def test_a_worker_that_can_never_load_makes_ping_unhealthy_and_says_why(live_server):
    server = live_server()
    server.archive("sick", BROKEN, yaml="minWorkers: 1\nmaxWorkers: 1\nmaxRetryTimeoutInSec: 1\n")

    server.client.register("sick", synchronous=False)
    server.wait(lambda: server.client.ping() == "Unhealthy")

    (described,) = server.client.describe("sick")
    assert described["workers"][0]["status"] == "FAILED"
    assert "no such weights" in described["lastError"]
    server.client.unregister("sick")
    assert server.client.ping() == "Healthy"


def test_models_of_the_command_line_are_loaded_with_what_the_settings_say(live_server):
    details = {
        "echo": {"1.0": {"marName": "echo", "minWorkers": 2, "maxWorkers": 3, "batchSize": 4, "responseTimeout": 60}}
    }
    server = live_server("--models", "echo", "nowhere.mar", start=False, models=json.dumps(details))
    server.archive("echo")

    server.start()
    server.wait(lambda: server.client.models() and len(server.workers("echo")) == 2)

    (described,) = server.client.describe("echo")
    assert {k: described[k] for k in ("minWorkers", "maxWorkers", "batchSize", "responseTimeout", "loadedAtStartup")} == {
        "minWorkers": 2, "maxWorkers": 3, "batchSize": 4, "responseTimeout": 60, "loadedAtStartup": True,
    }  # fmt: skip


def test_while_models_are_fetched_at_start_the_server_is_not_ready(live_server):
    seen = []

    def look():
        for path in ("/ping", "/v2/health/ready", "/predictions/echo"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(server.client.inference + path)
            seen.append((path, refused.value.code, refused.value.headers["Retry-After"]))
        assert server.client.models() == []

    host = Host(ORIGINAL, look)
    url = f"{host.url}/echo.mar"
    server = live_server("--models", url, "nowhere.mar", start=False, allowed_urls=url, ts_open_inference_protocol="true")

    server.start()

    assert seen == [("/ping", 503, None), ("/v2/health/ready", 503, None), ("/predictions/echo", 503, "1")]
    assert [model["modelName"] for model in server.client.models()] == ["echo"]
    with pytest.raises(ServerError) as refused:
        server.client.predict("nowhere", b"")
    assert refused.value.status == 404


def test_a_start_decides_anew_about_the_models_of_the_configuration(live_server):
    server = live_server(start=False, load_models="tuned,left,bumped", default_response_timeout=50)
    server.archive("tuned", yaml="batchSize: 2")
    for name in ("left", "bumped", "api"):
        server.archive(name)
    server.start()
    server.client.register("api", response_timeout=50)
    server.stop()
    server.configure(load_models="tuned,bumped", default_response_timeout=60)
    (server.store / "tuned" / "model.yaml").write_text("batchSize: 3")
    shutil.rmtree(server.store / "bumped")
    server.archive("bumped", version="2.0")

    server.start()

    assert [model["modelName"] for model in server.client.models()] == ["api", "bumped", "tuned"]
    found = {name: server.client.describe(name, "all") for name in ("api", "bumped", "tuned")}
    told = {n: [(d["modelVersion"], d["batchSize"], d["responseTimeout"]) for d in ds] for n, ds in found.items()}
    assert told == {"api": [("1.0", 1, 50)], "bumped": [("2.0", 1, 60)], "tuned": [("1.0", 3, 60)]}
    log = (server.folder / "logs" / "ts_log.log").read_text()
    assert "Model left version 1.0 is unregistered: the configuration no longer names it" in log


def test_what_the_api_changed_of_a_configured_model_stays_until_the_configuration_changes(live_server):
    server = live_server(start=False, load_models="echo", default_workers_per_model=1)
    server.archive("echo")
    server.start()
    server.client.scale("echo", 2)
    server.stop(signal.SIGKILL)

    server.start()
    kept = server.client.describe("echo")[0]
    server.stop()
    server.configure(default_workers_per_model=3)
    server.start()
    decided = server.client.describe("echo")[0]
    server.stop()
    os.rename(server.store / "echo", server.folder / "elsewhere")
    server.start()
    gone = server.client.describe("echo")[0]

    assert (kept["minWorkers"], decided["minWorkers"]) == (2, 3)
    log = (server.folder / "logs" / "ts_log.log").read_text()
    assert "Model echo version 1.0 keeps the 2 to 2 workers that the API gave it; its configuration says 1 to 1" in log
    assert (gone["workers"], gone["lastError"]) == ([], "Model not found at: echo")


def test_what_a_start_has_downloaded_the_next_one_takes_from_the_store(live_server):
    host = Host(ORIGINAL)
    url = f"{host.url}/echo.mar"
    server = live_server("--models", url, start=False, allowed_urls=url)
    server.start()
    host.files.shutdown()
    server.stop(signal.SIGKILL)

    server.start()
    server.wait(lambda: server.workers("echo"))
    server.stop()
    server.arguments = ("--set", "load_models=none")
    server.start()

    assert server.client.models() == []
    assert not (server.store / "echo.mar").exists()


def test_metrics_have_the_old_form_and_can_be_filtered(live_server):
    server = live_server()
    server.archive("echo")
    server.client.register("echo", initial_workers=1)
    server.client.predict("echo", b"x")

    def scrape(query=""):
        return urllib.request.urlopen(f"{server.client.metrics}/metrics{query}").read().decode()

    whole = server.wait(lambda: (text := scrape()) and "ts_inference_requests_total{" in text and text)
    assert 'model_name="echo"' in whole
    assert ",} 1.0\n" in whole
    only = scrape("?name[]=ts_inference_requests_total")
    assert {line.split("{")[0] for line in only.splitlines() if line[0] != "#"} == {"ts_inference_requests_total"}


def test_handlers_see_neither_the_servers_keys_nor_what_the_operator_hides(live_server):
    server = live_server(start=False, blacklist_env_vars="MY_.*")
    server.archive("env", "import json, os\ndef handle(data, context):\n    return [json.dumps(dict(os.environ))]\n")
    server.start(FLAMBEAU_API_KEY="k" * 40, JWT_SECRET="s" * 40, MY_PASSWORD="p", OURS="seen")

    server.client.register("env", initial_workers=1)
    seen = json.loads(server.client.predict("env", b""))

    assert seen["OURS"] == "seen"
    assert not {"FLAMBEAU_API_KEY", "JWT_SECRET", "MY_PASSWORD"} & seen.keys()


@pytest.mark.parametrize("module", ["flambeau.management.server", "flambeau.frontend.server"])
def test_a_server_process_imports_nothing_heavy(module):
    heavy = {"torch", "numpy", "scipy", "transformers", "ray", "grpc", "cryptography", "pkg_resources"}
    code = f"import sys, {module}; print(' '.join({heavy!r} & sys.modules.keys()))"

    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": HOME}, capture_output=True, text=True
    )

    assert (run.stdout, run.stderr) == ("\n", "")
