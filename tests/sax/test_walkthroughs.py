"""The two walk-throughs by which Sax's users learn it, command by command; a local root stands for their buckets."""

import re
import socket
import time

import requests

from flambeau import sax

GEMMA = "saxml.server.torch.vllm.Gemma4B"
MOCK = 'ENGINE="mock"'  # the seed's own command has no override: then the tiny model answers


def until(true, seconds=60, told=lambda: ""):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, told()
        time.sleep(0.05)
    return found


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_inferencing_with_sax_and_an_http_server(live_server):
    """One server with a cell: publish, list, generate, update, unpublish over HTTP."""
    port = free_port()
    server = live_server(cell="/sax/test", sax_address=f"http://127.0.0.1:{port}")
    url, lm = f"http://127.0.0.1:{port}", {"model": "/sax/test/lm2b"}

    assert requests.get(url + "/").json() == {"message": "HTTP Server for SAX Client"}
    spec = {
        **lm,
        "model_path": "saxml.server.pax.lm.params.lm_cloud.LmCloudSpmd2BTest",
        "checkpoint": "None",
        "replicas": 1,
    }
    published = requests.post(url + "/publish", json=spec).json()
    assert published == {**spec, "path": spec["model_path"]}
    assert requests.get(url + "/listall", json={"sax_cell": "/sax/test"}).json() == ["/sax/test/lm2b"]
    seen = until(
        lambda: (found := requests.get(url + "/listcell", json=lm).json())["active_replicas"] and found, told=server.said
    )
    assert seen == {**lm, "model_path": spec["model_path"], "checkpoint": "None", "max_replicas": 1, "active_replicas": 1}

    asked = {**lm, "query": "Q: Who is Harry Potter's mother? A: "}
    inputs = {"temperature": 0, "per_example_max_decode_steps": 4, "per_example_top_k": 20, "per_example_top_p": 0.95}
    ((text, score),) = requests.post(url + "/generate", json=asked | {"extra_inputs": inputs}).json()
    assert isinstance(text, str) and score < 0
    scores = requests.post(url + "/score", json={**lm, "prefix": "a", "suffix": [" b", " c d"]}).json()
    assert len(scores) == 2 and max(scores) < 0
    assert len(requests.post(url + "/embed", json=asked).json()) > 1
    events = requests.post(url + "/generate", json=asked | {"extra_inputs": inputs, "stream": True}).text.split("\n\n")
    assert events[0].startswith('data: {"items":[{"text":') and events[-2] == "data: [DONE]"

    # the same model from the other side
    assert [model["modelName"] for model in server.client.models()] == ["lm2b"]
    server.archive("echo")
    server.client.register("echo", initial_workers=1)
    assert requests.get(url + "/listall", params={"sax_cell": "/sax/test"}).json() == ["/sax/test/echo", "/sax/test/lm2b"]

    assert requests.put(url + "/update", json=spec | {"replicas": 0}).json()["replicas"] == 0
    until(lambda: requests.get(url + "/listcell", params=lm).json()["active_replicas"] == 0)
    assert requests.post(url + "/generate", json=asked).status_code == 503
    for model in ("/sax/test/lm2b", "/sax/test/echo"):
        assert requests.post(url + "/unpublish", json={"model": model}).json() == {"model": model}
    assert requests.get(url + "/listall", json={"sax_cell": "/sax/test"}).json() == []
    assert requests.post(url + "/generate", json=asked).status_code == 404


def test_saxml_with_admin_server_model_server_and_saxutil(shell, monkeypatch):
    """An admin and a model server as processes, and saxutil's commands."""
    root, lm = str(shell.folder / "root"), "/sax/test/gemma4b"
    shell.run(
        "flambeau",
        "admin-config",
        "--sax_cell=/sax/test",
        f"--sax_root={root}",
        f"--fs_root={root}/fs",
        "--admin_acl=acl/all",
    )
    admin_port, server_port = free_port(), free_port()
    shell.start("flambeau", "admin", "--sax_cell=/sax/test", f"--port={admin_port}", log="admin.log")
    shell.start(
        "flambeau", "model-server", "--sax_cell=/sax/test", f"--port={server_port}", "--platform_chip=cpu",
        "--platform_topology=1", log="server.log",
    )  # fmt: skip
    until(lambda: f"Joined 127.0.0.1:{server_port}" in shell.said("server.log"), told=lambda: shell.said("server.log"))

    assert "\tls" in shell.run("saxutil", "help")
    assert shell.run("saxutil", "ls", "/sax").splitlines()[3].split() == ["|", "0", "|", "test", "|"]
    assert "MODEL ID" in shell.run("saxutil", "ls", "/sax/test")
    shell.run("saxutil", "publish", "-wait", lm, GEMMA, "None", "1", MOCK)
    details = shell.run("saxutil", "ls", lm)
    assert "(SELECTED) REPLICAADDRESS" in details and f"127.0.0.1:{server_port}" in details and GEMMA in details
    assert re.search(r"\| +GENERATE +\| +SCORE +\|", shell.run("saxutil", "lm.generate", lm, "Q: Who is it? A: "))
    extra = "temperature:0,per_example_max_decode_steps:4"
    terse = shell.run("saxutil", "lm.generate", "-terse", "-n", "1", "-extra", extra, lm, "hello")
    streamed = shell.run("saxutil", "lm.generate", "-stream", "-extra", extra, lm, "hello")
    assert streamed.startswith(terse.rstrip("\n")) and "Scores: " in streamed
    assert shell.run("saxutil", "lm.score", lm, "a", "b", "c").count("\n| ") == 3
    assert "EMBEDDING" in shell.run("saxutil", "lm.embed", lm, "hello")
    assert "no_such_key" in shell.run("saxutil", "lm.generate", "-extra", "no_such_key:1", lm, "x", status=1)
    shell.run("saxutil", "update", "-replicas=2", lm)
    shell.run("saxutil", "setacl", lm, "acl/all")
    assert shell.run("saxutil", "getacl", lm) == "acl/all\n"
    assert f"| gemma4b | {GEMMA} " in shell.run("saxutil", "ls", lm)
    page = requests.get(f"http://127.0.0.1:{admin_port}/").text
    assert "/sax/test Cell Status" in page and f"{lm}: LOADED" in page

    monkeypatch.setenv("SAX_ROOT", root)
    sax.WaitForReady(lm, 2)
    assert sax.ListAll("/sax/test") == [lm] and sax.ListDetail(lm).active_replicas == 2
    options = sax.ModelOptions()
    options.SetExtraInput("per_example_max_decode_steps", 2)
    model = sax.Model(lm).LM()
    ((text, score),) = model.Generate("hello", options)
    heard = []
    model.GenerateStream("hello", lambda last, items: heard.append((last, items)), options)
    assert isinstance(text, str) and isinstance(score, float) and heard[-1] == (True, [])

    shell.run("saxutil", "publish", "/sax/test/broken", GEMMA, "/no/such/checkpoint", "1")
    why = "Loading error"
    until(lambda: why in shell.run("saxutil", "-sax_timeout=1s", "lm.generate", "/sax/test/broken", "x", status=1))
    shell.run("saxutil", "unpublish", "/sax/test/broken")

    shell.run("saxutil", "unpublish", lm)
    assert "not found" in shell.run("saxutil", "ls", lm, status=1)
    shell.run("saxutil", "create", "/sax/other", f"{root}/fs", "acl/all")
    assert "other" in shell.run("saxutil", "ls", "-csv", "/sax")
    shell.run("saxutil", "delete", "/sax/other", stdin="y\n")
    assert "other" not in shell.run("saxutil", "ls", "/sax")
