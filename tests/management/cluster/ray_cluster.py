"""The same cell on Ray: three raylets on this machine. Not collected by pytest's defaults: `make test-ray` runs it, since Ray
is an extra of 100 MB. It needs Ray's token in RAY_AUTH_TOKEN.
"""

import re
import time

import psutil
import pytest

from flambeau import sax

from ...sax.cluster import GEMMA, MODEL, Load, until
from ...sax.test_walkthroughs import free_port
from .ray_nodes import Node, kill_tree

LATER = "/sax/test/later"
NAMES = ("head", "one", "two")
MOCK = {"ENGINE": '"mock"', "ram": "1000000000"}


@pytest.fixture
def ray(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    folder = tmp_path / "ray"
    folder.mkdir()
    port = free_port()
    nodes = {name: Node(folder, name, port, head=name == "head") for name in NAMES}
    nodes["address"] = f"127.0.0.1:{port}"
    yield nodes
    for name in NAMES:
        nodes[name].close()


class World:
    """The server that has the cluster, and what can be learned of its machines."""

    def __init__(self, live_server, address, root):
        self.port = free_port()
        settings = {
            "cell": "/sax/test",
            "sax_root": root,
            "sax_address": f"http://127.0.0.1:{self.port}",
            "cluster": address,
        }
        self.server = live_server(cell_prune_seconds="5", **settings)
        self.machines = self.server.folder / "logs" / "config" / "machines"

    def told(self):
        return self.server.said()[-6000:] + "".join(log.read_text()[-2000:] for log in self.machines.glob("*/server.log"))

    def servers(self):
        try:
            return [server["address"] for server in sax.calls.ask_admin("servers", {}, "/sax/test")["servers"]]
        except sax.SaxError:
            return []

    def visits(self):
        """Each machine and its server's process, as often as the keeper told it."""
        log = (self.server.folder / "logs" / "ts_log.log").read_text()
        return re.findall(r"machine (\w+) has a server: process (\d+)", log)

    def pids(self):
        return {name: int(pid) for name, pid in self.visits()}

    def addresses(self, model=MODEL):
        return sax.admin._ask("status", model, {})["addresses"]

    def load(self):
        return Load(f"127.0.0.1:{self.port}")


def test_a_cell_on_ray_survives_a_machine_and_ray_s_head(ray, live_server, tmp_path, monkeypatch):
    root = str(tmp_path / "root")
    monkeypatch.setenv("SAX_ROOT", root)
    for name in NAMES:
        ray[name].up()
    world = World(live_server, ray["address"], root)
    try:
        until(lambda: len(world.servers()) == 4, 90, world.told)  # three nodes, and the server itself
        sax.Publish(MODEL, GEMMA, "None", 3, MOCK)
        sax.WaitForReady(MODEL, 3)
        assert len(world.addresses()) == 3
        sax.Update(MODEL, GEMMA, "None", 4)
        sax.WaitForReady(MODEL, 4)
        assert len(world.addresses()) == 4

        machine_dies(world, ray["one"])
        head_dies_and_comes_back(world, ray["head"])
    finally:
        world.server.stop()
        stopped = time.monotonic()
        while (left := [pid for pid in world.pids().values() if runs(pid)]) and time.monotonic() - stopped < 15:
            time.sleep(0.05)
        for pid in left:
            kill_tree(pid)
    print(f"\nthe machines' servers were gone {time.monotonic() - stopped:.1f} s after the server that had started them")
    assert not left  # a server that is stopped properly stops its machines


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def machine_dies(world, node):
    """Under load: its raylet and its server at once; and when it has power again, it is one of the cell's."""
    with world.load() as load:
        load.goes_on()
        killed = time.monotonic()
        node.down()
        kill_tree(world.pids()[node.name])
        until(lambda: len(world.addresses()) == 3, 10, world.told)
        sax.WaitForReady(MODEL, 4, timeout=15)
        print(f"\na machine died: replicas are back after {time.monotonic() - killed:.1f} s: {load.statuses}")
        load.goes_on()
    assert load.failed <= 4, load.texts  # what it was running: one per client at most
    node.up()
    until(lambda: len(world.servers()) == 4, 90, world.told)


def head_dies_and_comes_back(world, head):
    """Under load, for 20 s. The servers are the same as before; agents, placing and new machines work again."""
    before, told = world.pids(), len(world.visits())
    with world.load() as load:
        load.goes_on()
        head.down()
        gone = time.monotonic()
        sax.Publish(LATER, GEMMA, "None", 3, MOCK)
        sax.WaitForReady(LATER, 3)
        assert len(world.addresses(LATER)) == 3  # placing needs no Ray
        while time.monotonic() - gone < 20:
            load.goes_on()
        print(f"\nRay's head was away for 20 s: {load.statuses}")
        head.up()
        back = time.monotonic()
        until(lambda: {name for name, _ in world.visits()[told:]} == set(NAMES), 120, world.told)
        print(
            f"\nall machines have their agents again {time.monotonic() - back:.1f} s after the head's start: {load.statuses}"
        )
        load.goes_on()
    assert load.failed == 0, load.texts
    assert world.pids() == before and len(world.servers()) == 4
    assert sax.ListDetail(MODEL).active_replicas == 4

    kill_tree(before["two"])
    until(lambda: world.pids()["two"] != before["two"] and len(world.servers()) == 4, 30, world.told)
    sax.Update(LATER, GEMMA, "None", 4)
    sax.WaitForReady(LATER, 4)
    until(lambda: len(world.addresses(LATER)) == 4, 30, world.told)


def test_a_node_with_another_token_is_refused(ray, tmp_path):
    ray["head"].up()
    until(lambda: ray["head"].log.exists() and "Ray runtime started" in ray["head"].log.read_text(), 60)

    stranger = Node(tmp_path, "stranger", ray["address"].rpartition(":")[2], RAY_AUTH_TOKEN="0" * 64).up()
    try:
        until(lambda: stranger.process and stranger.process.poll(), 100)
    finally:
        stranger.close()

    assert "Ray runtime started" not in stranger.log.read_text() and "token" in stranger.log.read_text()
