"""A cell whose machines come by themselves, with this machine playing two of them; and what an agent does on each."""

import hashlib
import os
import signal

import psutil
import pytest
import requests

from flambeau import sax
from flambeau.management.cluster.agent import MachineAgent, Spec, digests
from flambeau.management.cluster.backends import Node, node_of

from ...sax.cluster import GEMMA, MODEL, until
from ...sax.test_walkthroughs import free_port


def test_machines_join_by_themselves_come_back_and_go_with_the_server(live_server, tmp_path, monkeypatch):
    port, root = free_port(), str(tmp_path / "root")
    server = live_server(cell="/sax/test", sax_root=root, sax_address=f"http://127.0.0.1:{port}", cluster="local:2")
    machines = server.folder / "logs" / "config" / "machines"
    monkeypatch.setenv("SAX_ROOT", root)

    def pids():
        return [int(lock.read_text() or 0) for lock in machines.glob("*/server.lock")]

    def told():
        return server.said() + "".join(log.read_text()[-2000:] for log in machines.glob("*/server.log"))

    def servers():
        try:
            return sax.calls.ask_admin("servers", {}, "/sax/test")["servers"]
        except sax.SaxError:
            return []

    until(lambda: len(servers()) == 3, told=told)
    sax.Publish(MODEL, GEMMA, "None", 3, {"ENGINE": '"mock"'})
    sax.WaitForReady(MODEL, 3)
    assert len(sax.admin._ask("status", MODEL, {})["addresses"]) == 3
    asked = {"model": MODEL, "query": "hi", "extra_inputs": {"per_example_max_decode_steps": 1}}
    assert all(requests.post(f"http://127.0.0.1:{port}/generate", json=asked).ok for _ in range(6))

    (first, *_) = pids()
    os.kill(first, signal.SIGKILL)
    until(lambda: first not in pids() and all(pids()) and len(servers()) == 3, told=told)
    sax.WaitForReady(MODEL, 3)
    children = pids()
    assert server.stop() == 0
    until(lambda: not any(psutil.pid_exists(pid) for pid in children), 25, told)


@pytest.fixture
def agent(tmp_path):
    return MachineAgent(Spec("/sax/test", "secret", str(tmp_path / "machine"), "127.0.0.1", 0))


def test_archives_are_fetched_by_their_content_and_checked(agent, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "a.mar").write_bytes(b"archive")
    wanted = digests(store)

    assert wanted == {"a.mar": hashlib.sha256(b"archive").hexdigest()} and agent.missing(wanted) == ["a.mar"]
    with pytest.raises(ValueError, match="announced"):
        agent.receive("a.mar", wanted["a.mar"], b"another")
    agent.receive("a.mar", wanted["a.mar"], b"archive")
    assert agent.missing(wanted) == []
    for name in ("../x.mar", ".hidden"):
        with pytest.raises(ValueError, match="no archive's name"):
            agent.missing({name: "0"})


def test_accelerators_and_tags_are_ray_resources():
    resources = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0, "sax_tag:fast": 1.0, "node:10.0.0.1": 1.0}

    assert node_of("n", "10.0.0.1", resources) == Node("n", "10.0.0.1", "h100", "2", ("fast",))
    assert node_of("n", "10.0.0.1", {"CPU": 8.0}) == Node("n", "10.0.0.1")
