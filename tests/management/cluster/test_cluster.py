"""A cell whose machines come by themselves, with this machine playing two of them; and what an agent does on each."""

import hashlib
import os
import signal
import threading

import psutil
import pytest
import requests

from flambeau import sax
from flambeau.management.cell.root import CellRoot, Location
from flambeau.management.cluster.agent import Digests, MachineAgent, Spec
from flambeau.management.cluster.backends import Node, node_of
from flambeau.management.cluster.keeper import Keeper, Task

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
    wanted = Digests().archives(store)

    assert wanted == {"a.mar": hashlib.sha256(b"archive").hexdigest()} and agent.missing(wanted) == ["a.mar"]
    with pytest.raises(ValueError, match="announced"):
        agent.receive("a.mar", wanted["a.mar"], b"another")
    agent.receive("a.mar", wanted["a.mar"], b"archive")
    assert agent.missing(wanted) == []
    for name in ("../x.mar", ".hidden"):
        with pytest.raises(ValueError, match="no archive's name"):
            agent.missing({name: "0"})


def test_an_archive_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    read, digest_of = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: (read.append(file.name), digest_of(file, kind))[1])
    digests = Digests()
    (tmp_path / "a.mar").write_bytes(b"archive")
    (tmp_path / "b.mar").write_bytes(b"another")

    assert digests.archives(tmp_path) == digests.archives(tmp_path)
    assert len(read) == 2
    (tmp_path / "next").write_bytes(b"replace")
    os.replace(tmp_path / "next", tmp_path / "a.mar")
    (tmp_path / "b.mar").unlink()

    assert digests.archives(tmp_path) == {"a.mar": hashlib.sha256(b"replace").hexdigest()}
    assert len(read) == 3


def test_accelerators_and_tags_are_ray_resources_and_a_node_s_name_is_its_address_unless_it_has_another():
    resources = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0, "sax_tag:fast": 1.0, "node:10.0.0.1": 1.0}
    told = {"NodeID": "n", "NodeManagerAddress": "10.0.0.1", "NodeName": "big", "Resources": resources}

    assert node_of(told) == Node("n", "big", "10.0.0.1", "h100", "2", ("fast",))
    assert node_of(told | {"NodeName": "", "Resources": {"CPU": 8.0}}) == Node("n", "10.0.0.1", "10.0.0.1")


class PretendCluster:
    """Its agents note where their machine's folder is; that of `stuck` never answers."""

    def __init__(self):
        self.ids, self.specs, self.over = ["1"], {}, threading.Event()

    def nodes(self):
        return [Node(id, f"machine-{id[0]}", "127.0.0.1") for id in self.ids]

    def agent(self, node, spec):
        self.specs[node.id] = spec
        return PretendAgent(self.over if node.id == "stuck" else None)


class PretendAgent:
    def __init__(self, over):
        self._over = over

    def missing(self, archives):
        if self._over:
            self._over.wait(20)
        return []

    def ensure(self, location, incarnation):
        return 1


@pytest.fixture
def keeper(tmp_path):
    root = CellRoot(str(tmp_path), "/sax/test")
    root.create(str(tmp_path))
    root.announce(Location(address="h:1", incarnation="i"))
    task = Task(cluster="", cell="/sax/test", sax_root=str(tmp_path), folder="/machines", model_store=str(tmp_path))
    cluster = PretendCluster()
    yield Keeper(task, cluster), cluster
    cluster.over.set()


def test_a_machine_that_comes_back_as_another_node_has_its_folder_again(keeper):
    keeper, cluster = keeper
    keeper.look()
    until(lambda: "1" in cluster.specs)
    cluster.ids = ["1-again", "2"]

    keeper.look()

    until(lambda: len(cluster.specs) == 3)
    assert cluster.specs["1"].folder == cluster.specs["1-again"].folder != cluster.specs["2"].folder


def test_a_machine_that_hangs_keeps_no_other_waiting(keeper):
    keeper, cluster = keeper
    cluster.ids = ["stuck"]
    keeper.look()
    cluster.ids = ["stuck", "1"]

    keeper.look()

    until(lambda: cluster.specs.keys() == {"stuck", "1"}, 5)
