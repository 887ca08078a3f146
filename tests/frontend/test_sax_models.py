"""Who may ask a published model, how many at once, and where another cell's model is asked."""

import asyncio
import base64
import json

import pytest

from flambeau.frontend.gate import InferenceKey
from flambeau.management.cell import wire
from flambeau.management.cell.api import Api
from flambeau.management.cell.catalogue import Change
from flambeau.management.cell.errors import SaxError
from flambeau.management.cell.root import CellRoot, LocalFolder

from .conftest import until, write_keys
from .sax_plane import on_sax

M = "/sax/test/m"
OTHERS = "/sax/other/m"


def custom(body=b"hi", model=M, method="custom"):
    return {"model": model, "method": method, "data": base64.b64encode(body).decode()}


def served(limit=0):
    return {"sax": {"methods": ["custom", "vm.embed"], "extra_inputs": {}, "limit": limit}}


def test_each_method_has_its_own_limit_and_what_is_too_much_is_told_at_once(run):
    async def scenario(sax):
        worker = await sax.plane.worker(credit=8)
        sax.plane.publish(worker, model_yaml=served(limit=2))
        held = [asyncio.ensure_future(sax.ask("POST", "/run", custom(b'{"do": "hold"}'))) for _ in range(2)]
        await until(lambda: len(worker.held) == 2)

        status, body = await sax.ask("POST", "/run", custom())
        other_method = await sax.ask("POST", "/run", custom(b"[1.5]", method="vm.embed"))
        worker.release()
        answered = [await one for one in held]
        later = await sax.ask("POST", "/run", custom())

        assert (status, body["type"], body["detail"]) == (429, "ResourceExhausted", f"Too many requests: {M} custom 2")
        assert other_method == (200, [1.5])
        assert [status for status, _ in [*answered, later]] == [200] * 3

    on_sax(run, scenario)


def test_overload_that_passes_in_a_moment_is_not_told(run):
    async def scenario(sax):
        worker = await sax.plane.worker(credit=8)
        sax.plane.publish(worker, model_yaml=served(limit=1))
        held = asyncio.ensure_future(sax.ask("POST", "/run", custom(b'{"do": "hold"}')))
        await until(lambda: worker.held)
        asyncio.get_running_loop().call_later(0.03, worker.release)

        assert (await sax.ask("POST", "/run", custom()))[0] == 200 and (await held)[0] == 200

    on_sax(run, scenario)


@pytest.mark.parametrize(("acl", "inference", "member"), [
    pytest.param("acl/admin", 403, 200, id="admins only"),
    pytest.param("acl/inference", 200, 403, id="inference tokens only"),
    pytest.param("acl/all", 200, 200, id="all"),
])  # fmt: skip
def test_a_method_s_acl_is_obeyed_where_tokens_are_in_use(run, runtime, acl, inference, member):
    write_keys(runtime, InferenceKey("secret"))

    async def scenario(sax):
        sax.plane.publish(await sax.plane.worker(), model_yaml=served())
        sax.cell.publish(M, "a.B", "None", 1, {})
        sax.cell.update(M, Change(acls={"custom": acl}))

        status, body = await sax.ask("POST", "/run", custom(), Authorization="Bearer secret")
        by_member = await sax.ask("POST", "/run", custom(), Authorization=f"Bearer {wire.member_token(b'key')}")
        other_method = await sax.ask("POST", "/run", custom(b"[1]", method="vm.embed"), Authorization="Bearer secret")

        assert (status, by_member[0], other_method[0]) == (inference, member, 200)
        if status == 403:
            assert body["detail"] == f"Model {M} method custom acl {acl} disallows inference"

    on_sax(run, scenario, token_authorization=True)


def test_a_worker_s_death_is_unavailable_which_clients_try_again(run):
    async def scenario(sax):
        sax.plane.publish(await sax.plane.worker(), model_yaml=served())

        status, body = await sax.ask("POST", "/run", custom(b'{"do": "die"}'))

        assert (status, body["type"]) == (503, "Unavailable")

    on_sax(run, scenario)


class LoadedElsewhere(Api):
    """A cell whose model is loaded on another machine as soon as somebody waits for it."""

    async def wait(self, payload):
        asyncio.get_running_loop().call_later(0.1, self.routed)
        return {"replicas": 1}


def test_a_model_that_was_just_loaded_on_another_machine_is_asked_as_soon_as_it_is_routed(run):
    async def scenario(sax):
        worker = await sax.plane.worker()
        sax.cell.publish(M, "a.B", "None", 1, {})
        LoadedElsewhere.routed = lambda self: sax.plane.publish(worker, model_yaml=served())

        assert (await sax.ask("POST", "/run", custom()))[0] == 200

    on_sax(run, scenario, LoadedElsewhere)


class Elsewhere:
    """The verbs of a cell whose one model is served at `address`, when it does not sleep."""

    address = ""
    asleep = False

    def __init__(self, cell):
        pass

    async def call(self, verb, payload):
        assert payload["model"] == OTHERS
        if verb == "wait":
            Elsewhere.asleep = False
            if not self.address:
                raise SaxError("DeadlineExceeded", "has 0 of 1 replicas")
            return {"replicas": 1}
        assert verb == "status"
        return {"max_replicas": 1, "addresses": [self.address] if self.address and not self.asleep else []}


class Machine:
    """A machine of the other cell: says what it was asked, by whom, and answers with `answer`."""

    def __init__(self, content_type, *parts):
        self.content_type, self.parts = content_type, parts

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        self.line = head.split("\r\n")[0]
        self.body = json.loads(await reader.readexactly(int(self.headers["content-length"])))
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {self.content_type}\r\nConnection: close\r\n\r\n".encode())
        for part in self.parts:
            writer.write(part)
            await writer.drain()
        writer.close()


def in_a_root(run, runtime, scenario, machine=None, known=True, **options):
    """With another cell in the same root, whose key we can read if it is `known`."""
    if known:
        CellRoot(str(runtime), "/sax/other").create(str(runtime))

    async def started(sax):
        Elsewhere.address = await machine.start() if machine else ""
        await scenario(sax)

    on_sax(run, started, Elsewhere, sax_root=str(runtime), **options)


@pytest.mark.parametrize(("bearer", "role"), [
    pytest.param(None, "inference", id="nobody is asked here: the least"),
    pytest.param("secret", "inference", id="an inference token"),
    pytest.param(wire.member_token(b"key"), "admin", id="a member of this cell"),
])  # fmt: skip
def test_another_cell_s_model_is_asked_as_a_member_with_the_asker_s_rights(run, runtime, bearer, role):
    write_keys(runtime, InferenceKey("secret"))
    machine = Machine("application/json", b'[["text",', b"-1.5]]")
    asked = {"model": OTHERS, "query": "hi"}

    async def scenario(sax):
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        assert await sax.ask("POST", "/generate", asked, **headers) == (200, [["text", -1.5]])

        token = wire.member_token(CellRoot(str(runtime), "/sax/other").key(), role)
        assert machine.headers["authorization"] == f"bearer {token}"
        assert machine.line.startswith("POST /generate ") and machine.body == asked

    in_a_root(run, runtime, scenario, machine, token_authorization=bearer is not None)


def test_another_cell_s_stream_is_passed_on(run, runtime):
    events = [b'data: {"items": []}\n\n', b"data: [DONE]\n\n"]

    async def scenario(sax):
        answer = await sax.raw("POST", "/generate", {"model": OTHERS, "query": "hi", "stream": True})

        assert answer.headers["content-type"] == "text/event-stream" and answer.body == b"".join(events)

    in_a_root(run, runtime, scenario, Machine("text/event-stream", *events))


def test_another_cell_s_model_that_can_not_be_asked_is_refused_with_the_reason(run, runtime):
    async def scenario(sax):
        status, body = await sax.ask("POST", "/embed", {"model": OTHERS, "query": "x"})
        assert status == 503 and "no replica that is loaded" in body["detail"]
        Elsewhere.address = "127.0.0.1:1"
        status, body = await sax.ask("POST", "/embed", {"model": OTHERS, "query": "x"})
        assert status == 503 and "can not be reached" in body["detail"]

    in_a_root(run, runtime, scenario)


def test_another_cell_s_model_that_sleeps_is_woken(run, runtime):
    async def scenario(sax):
        Elsewhere.asleep = True
        asked = {"model": OTHERS, "query": "hi"}

        assert await sax.ask("POST", "/generate", asked) == (200, [["text", -1.5]])

    in_a_root(run, runtime, scenario, Machine("application/json", b'[["text", -1.5]]'))


def test_who_is_no_member_of_the_other_cell_asks_it_nothing(run, runtime, monkeypatch):
    def refuse(folder, name):
        raise SaxError("PermissionDenied", f"{folder.path / name} is not for this user")

    machine = Machine("application/json", b"[]")

    async def scenario(sax):
        status, body = await sax.ask("POST", "/score", {"model": OTHERS, "prefix": "a"})
        assert (status, body["detail"]) == (404, "cell /sax/other not found")
        (runtime / "sax/other/key").mkdir(parents=True)
        monkeypatch.setattr(LocalFolder, "read", refuse)
        status, body = await sax.ask("POST", "/score", {"model": OTHERS, "prefix": "a"})
        assert (status, body["detail"]) == (403, "this server has no access to cell /sax/other")
        assert not hasattr(machine, "body")

    in_a_root(run, runtime, scenario, machine, known=False)
