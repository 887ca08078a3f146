"""Machines and an admin as they are in life: an HTTP server in this process, agents that talk to it; hosts that pretend."""

import asyncio
import contextlib
import json

import pytest
import uvicorn

from flambeau.management.cell import wire
from flambeau.management.cell.admin import keep_time
from flambeau.management.cell.agent import Agent, exchange_with
from flambeau.management.cell.api import Api
from flambeau.management.cell.cell import Cell
from flambeau.management.cell.errors import SaxError
from flambeau.management.cell.machines import Machine
from flambeau.management.cell.messages import ReplicaReport
from flambeau.management.cell.root import LocalFolder
from flambeau.management.cell.server import CellServer

PATH = "a.b.C"
LM = "/sax/test/lm"
KEY = b"secret"


class PretendHost:
    """Loads at once; checkpoints that start with "bad" fail, and more workers than there is `room` for."""

    room = 9
    missing = frozenset()

    def __init__(self):
        self.running = {}
        self.said = []
        self.routes = {}

    async def load(self, key, order):
        self.said.append(("load", order.checkpoint))
        if order.checkpoint.startswith("bad") or order.checkpoint in self.missing:
            raise SaxError("Internal", "no such weights")
        self.running[key] = order.replicas

    async def update(self, key, order):
        self.said.append(("update", order.checkpoint))
        if order.checkpoint.startswith("bad"):
            raise SaxError("Internal", "no such weights")

    async def scale(self, key, replicas):
        self.said.append(("scale", replicas))
        if replicas > self.room:
            raise SaxError("Internal", "no memory")
        self.running[key] = replicas

    async def unload(self, key):
        self.said.append(("unload", key))
        self.running.pop(key, None)

    def replicas(self, key):
        return [
            ReplicaReport(status="LOADED", worker_id=f"w{i}", address=f"tcp:h:1/w{i}")
            for i in range(self.running.get(key, 0))
        ]

    def methods(self, order):
        return ["lm.generate"]

    def route(self, key):
        return {}

    def traffic(self):
        return {}

    def woken(self, name):
        return False

    def take_routes(self, routes):
        self.routes = routes


class World:
    def __init__(self, folder):
        self.folder = LocalFolder(folder)
        self.port = 0
        self.slept = 0.0
        self.away = set()

    def now(self):
        return asyncio.get_running_loop().time() + self.slept

    async def start_admin(self, **options):
        self.cell = Cell("/sax/test", self.folder, self.now, **{"prune_seconds": 1000, **options})
        config = uvicorn.Config(
            CellServer(self.cell, Api(self.cell), KEY),
            port=self.port,
            log_level="error",
            lifespan="off",
            timeout_graceful_shutdown=0,
        )
        self.server = uvicorn.Server(config)
        self.server.capture_signals = contextlib.nullcontext
        self.serving = asyncio.create_task(self.server.serve())
        self.time = asyncio.create_task(keep_time(self.cell))
        await until(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    async def stop_admin(self):
        self.time.cancel()
        self.server.should_exit = True
        self.server.force_exit = True
        await asyncio.wait_for(self.serving, 5)

    async def ask(self, verb, key=KEY, **payload):
        return await wire.ask(f"127.0.0.1:{self.port}", f"/cell/{verb}", payload, key, 5)

    def agent(self, name, key=KEY):
        async def ask(payload):
            if name in self.away:
                raise SaxError("Unavailable", "no way through")
            return await wire.ask(f"127.0.0.1:{self.port}", "/cell/join", payload, key, 5)

        host = PretendHost()
        agent = Agent(name, lambda: Machine(paths=[PATH], unhinted_gib=1, max_per_model=4), host, exchange_with(ask))
        return agent, host, asyncio.create_task(agent.run())

    async def publish(self, replicas, checkpoint="None"):
        await self.ask("publish", model=LM, model_path=PATH, checkpoint=checkpoint, replicas=replicas)

    def active(self):
        return self.cell.status(LM).active_replicas


async def until(true, seconds=20):
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def in_a_world(tmp_path, scenario):
    async def main():
        world = World(tmp_path)
        await world.start_admin()
        try:
            return await scenario(world)
        finally:
            for task in asyncio.all_tasks() - {asyncio.current_task(), world.serving}:
                task.cancel()
            await world.stop_admin()

    return asyncio.run(main())


def test_replicas_spread_over_the_machines_and_shrink_again(tmp_path):
    async def scenario(world):
        hosts = [world.agent(name)[1] for name in ("m1", "m2", "m3")]
        await until(lambda: len(world.cell.servers()) == 3)
        await world.publish(3)
        await until(lambda: world.active() == 3)
        spread = [dict(host.running) for host in hosts]
        await until(lambda: all(len(host.routes.get(LM, [])) == 2 for host in hosts))
        await world.ask("update", model=LM, replicas=1)
        await until(lambda: sum(len(host.running) for host in hosts) == 1)
        return spread

    assert in_a_world(tmp_path, scenario) == [{LM: 1}] * 3


def test_a_machine_that_vanishes_is_replaced_within_seconds(tmp_path):
    async def scenario(world):
        machines = {name: world.agent(name) for name in ("m1", "m2")}
        await until(lambda: len(world.cell.servers()) == 2)
        await world.publish(1)
        await until(lambda: world.active() == 1)
        holder = world.cell.status(LM).addresses[0]
        machines[holder][2].cancel()
        (other,) = machines.keys() - {holder}
        await until(lambda: world.cell.status(LM).addresses == [other])

    in_a_world(tmp_path, scenario)


def test_an_admin_that_comes_back_finds_everything_as_it_was(tmp_path):
    async def scenario(world):
        hosts = [world.agent(name)[1] for name in ("m1", "m2")]
        await until(lambda: len(world.cell.servers()) == 2)
        await world.publish(2)
        await until(lambda: world.active() == 2)
        await world.stop_admin()
        await world.start_admin(settle_seconds=3)
        await until(lambda: world.active() == 2)
        await asyncio.sleep(0)
        return [host.said for host in hosts]

    assert in_a_world(tmp_path, scenario) == [[("load", "None")]] * 2


def test_an_update_swaps_and_an_unpublish_unloads(tmp_path):
    async def scenario(world):
        _, host, _ = world.agent("m1")
        await world.publish(1)
        await until(lambda: world.active() == 1)
        await world.ask("update", model=LM, checkpoint="/c/2")
        await until(lambda: ("update", "/c/2") in host.said)
        await world.ask("unpublish", model=LM)
        await until(lambda: not host.running)
        await until(lambda: not world.cell.servers()[0].models)
        await world.publish(0)
        return host.said

    assert in_a_world(tmp_path, scenario) == [("load", "None"), ("update", "/c/2"), ("unload", LM)]


def test_a_load_that_fails_is_told_with_its_cause(tmp_path):
    async def scenario(world):
        world.agent("m1")
        await world.publish(1, "bad/weights")
        await until(lambda: world.cell.status(LM).failures)
        return world.cell.status(LM)

    status = in_a_world(tmp_path, scenario)

    assert status.failures == {"m1": "no such weights"} and status.active_replicas == 0


@pytest.mark.parametrize(("change", "room", "retry"), [
    pytest.param({"checkpoint": "bad/weights"}, 9, ("update", "bad/weights"), id="a broken checkpoint"),
    pytest.param({"replicas": 2}, 1, ("scale", 2), id="no memory for a second worker"),
])  # fmt: skip
def test_what_serves_outlives_a_change_that_fails_again_and_again(tmp_path, change, room, retry):
    async def scenario(world):
        _, host, _ = world.agent("m1")
        host.room = room
        await world.publish(1)
        await until(lambda: world.active() == 1)
        await world.ask("update", model=LM, **change)
        for tries in (1, 2, 3):
            await until(lambda tries=tries: host.said.count(retry) == tries)
            await until(lambda: world.cell.status(LM).failures)
            assert host.running == {LM: 1} and world.cell.status(LM).addresses == ["m1"]
            if tries < 3:
                world.slept += 31 * tries
        await world.ask("update", model=LM, checkpoint="/good", replicas=1)
        await until(lambda: not world.cell.status(LM).failures)
        return host.said

    said = in_a_world(tmp_path, scenario)

    assert said == [("load", "None"), retry, retry, retry, ("update", "/good")]


def test_a_name_that_is_published_anew_is_another_model_to_a_machine_that_was_away(tmp_path):
    async def scenario(world):
        _, host, _ = world.agent("m1")
        await world.publish(1, "/weights/old")
        await until(lambda: world.active() == 1)
        world.away.add("m1")
        world.slept += 2000
        await until(lambda: not world.cell.servers())
        await world.ask("unpublish", model=LM)
        await world.publish(1, "/weights/new")
        world.away.clear()
        await until(lambda: world.active() == 1)
        return host.said

    said = in_a_world(tmp_path, scenario)

    assert said == [("load", "/weights/old"), ("unload", LM), ("load", "/weights/new")]


def test_a_load_that_succeeds_at_the_second_try_is_left_alone_then(tmp_path):
    async def scenario(world):
        _, host, _ = world.agent("m1")
        host.missing = {"/weights"}
        await world.publish(1, "/weights")
        await until(lambda: world.cell.status(LM).failures)
        host.missing = set()
        world.slept += 31
        await until(lambda: world.active() == 1)
        await until(lambda: world.cell.orders("m1").models[LM].attempt == 0)
        await world.ask("update", model=LM, checkpoint="/c/2")
        await until(lambda: ("update", "/c/2") in host.said)
        return host.said

    loads = [said for said in in_a_world(tmp_path, scenario) if said[0] != "scale"]

    assert loads == [("load", "/weights"), ("unload", LM), ("load", "/weights"), ("update", "/c/2")]


def test_who_has_another_key_is_refused_and_changes_nothing(tmp_path):
    async def scenario(world):
        agent, _, _ = world.agent("m1", key=b"wrong")
        with pytest.raises(SaxError, match="refuses this machine's key") as refused:
            await world.ask("publish", key=b"wrong", model=LM)
        with pytest.raises(SaxError):
            await world.ask("publish", key=None, model=LM)
        await asyncio.sleep(0.05)
        return refused.value.code, agent.joined, world.cell.servers(), world.cell.models()

    assert in_a_world(tmp_path, scenario) == ("Unauthenticated", False, [], [])


@pytest.mark.parametrize(("verb", "payload"), [
    *(("publish", {"model_path": PATH, "checkpoint": "None", "replicas": n}) for n in ("--5", "٥", "9" * 5000, 1e300, True)),
    ("wait", {"replicas": 1, "seconds": "soon"}),
    ("watch", {"seqno": 0, "seconds": None}),
])  # fmt: skip
def test_what_is_no_number_is_refused(tmp_path, verb, payload):
    async def scenario(world):
        with pytest.raises(SaxError, match="number") as refused:
            await world.ask(verb, model=LM, **payload)
        return refused.value.code

    assert in_a_world(tmp_path, scenario) == "InvalidArgument"


@pytest.mark.parametrize(("broken", "code", "text"), [
    pytest.param(OSError(28, "No space left on device"), "FailedPrecondition", "No space left on device", id="a full disk"),
    pytest.param(RuntimeError("a bug"), "Internal", "internal error, see the admin's log", id="a bug"),
])  # fmt: skip
def test_what_goes_wrong_in_the_admin_is_told_as_that(tmp_path, broken, code, text):
    async def scenario(world):
        def write(name, content):
            raise broken

        world.folder.write = write
        with pytest.raises(SaxError, match=text) as told:
            await world.publish(1)
        return told.value.code, world.cell.models()

    assert in_a_world(tmp_path, scenario) == (code, [])


def test_a_signed_request_is_good_once_for_its_path_and_body():
    verifier = wire.Verifier(KEY, clock=lambda: 1000.0)
    header, _ = wire.sign_request(KEY, "/cell/list", b"{}", 1000.0)
    late, _ = wire.sign_request(KEY, "/cell/list", b"{}", 1.0)

    for path, body in (("/cell/publish", b"{}"), ("/cell/list", b"{ }")):
        with pytest.raises(SaxError, match="not signed"):
            verifier.check(header, path, body)
    verifier.check(header, "/cell/list", b"{}")
    for used in (header, late):
        with pytest.raises(SaxError, match="too old or was used before"):
            verifier.check(used, "/cell/list", b"{}")


def test_signatures_that_are_too_old_to_be_used_again_are_forgotten():
    now = [1000.0]
    verifier = wire.Verifier(KEY, clock=lambda: now[0])
    for _ in range(5):
        header, _ = wire.sign_request(KEY, "/cell/list", b"{}", now[0])
        verifier.check(header, "/cell/list", b"{}")
        now[0] += wire.FRESH_SECONDS

    assert len(verifier._seen) == 2


@pytest.mark.parametrize("sign", ["\r", "\n", " ", "\0", "\x7f", "\x85", "é"])
def test_a_path_that_would_end_its_line_is_not_sent(tmp_path, sign):
    async def scenario():
        came = []

        async def take(reader, writer):
            came.append(await reader.read())
            writer.close()

        async with await asyncio.start_unix_server(take, tmp_path / "s"):
            for asking in (
                wire.relay(tmp_path / "s", "POST", f"/cell/a{sign}b", None, b""),
                wire.ask(f"unix:{tmp_path}/s", f"/cell/a{sign}b", {}, None, 5),
            ):
                with pytest.raises(SaxError) as refused:
                    await asking
                assert refused.value.code == "InvalidArgument"
        return b"".join(came)

    assert asyncio.run(scenario()) == b""


def test_the_answers_of_a_stranger_are_not_believed():
    with pytest.raises(SaxError, match="not signed with this cell's key"):
        wire.check_answer(KEY, "nonce", 200, None, json.dumps({}).encode())


def test_the_status_pages_show_models_and_servers_and_escape_them(tmp_path):
    async def scenario(world):
        world.agent("<m1>")
        await world.publish(1)
        await until(lambda: world.active() == 1)
        pages = {}
        for path in ("/", f"/model{LM}", "/model/sax/test/none", "/server/%3Cm1%3E", "/server/none"):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            pages[path] = (await reader.read()).decode()
            writer.close()
        return pages

    pages = in_a_world(tmp_path, scenario)

    assert "/sax/test Cell Status" in pages["/"] and f"{LM}: LOADED" in pages["/"] and "&lt;m1&gt;" in pages["/"]
    assert "<h2>Model /sax/test/lm</h2>" in pages[f"/model{LM}"]
    assert "<h2>Server &lt;m1&gt;</h2>" in pages["/server/%3Cm1%3E"]
    assert "404" in pages["/server/none"].splitlines()[0] and "Failed to locate server none" in pages["/server/none"]
    assert "Failed to list model" in pages["/model/sax/test/none"]
