"""A cell's life without sockets: publishing, joining, dying, failing, coming back."""

import asyncio
import json
from pathlib import Path

import pytest

from flambeau.management.cell.catalogue import Change
from flambeau.management.cell.cell import Cell
from flambeau.management.cell.errors import SaxError
from flambeau.management.cell.machines import Machine
from flambeau.management.cell.messages import Held, ReplicaReport, Report
from flambeau.management.cell.root import LocalFolder

ROWS = json.loads((Path(__file__).parent / "sax_tables.json").read_text())["publish"]
PATH = "a.b.C"
LM = "/sax/test/lm"


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class World:
    """A cell and the machines around it; a machine does what it is told at once, unless told to fail."""

    def __init__(self, folder):
        self.clock = Clock()
        self.folder = LocalFolder(folder)
        self.held = {}
        self.broken = set()
        self.start()

    def start(self, **options):
        self.cell = Cell("/sax/test", self.folder, self.clock, **options)

    def machine(self, name, **more):
        return Machine(paths=[PATH], unhinted_gib=1, **more) if more or name else None

    def report(self, name, instance="1", **more):
        self.cell.join(
            Report(address=name, instance=instance, machine=self.machine(name, **more), models=self.held.get(name, {}))
        )

    def obey(self, name):
        orders = self.cell.orders(name).models
        self.held[name] = {
            key: Held(
                uuid=order.uuid,
                revision=order.revision,
                attempt=order.attempt,
                reason="no memory" if name in self.broken else "",
                methods=["lm.generate"],
                replicas=[
                    ReplicaReport(status="FAILED" if name in self.broken else "LOADED", worker_id="w", address="tcp:h:1/w")
                ]
                * order.replicas,
            )
            for key, order in orders.items()
        }
        self.report(name)

    def publish(self, model=LM, replicas=1, **overrides):
        return self.cell.publish(model, PATH, "None", replicas, overrides)

    def where(self, model=LM):
        return self.cell.status(model).addresses


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['desc']} {row['model_path']} {row['checkpoint']} {row['replicas']}"
)
def test_what_may_be_published_is_as_in_sax(world, row):
    """Except ACLs: the roles of our tokens are known, so acl/all is."""

    def publish():
        world.cell.publish(row["model_id"], row["model_path"], row["checkpoint"], row["replicas"], {})
        if "acl" in row["desc"]:
            acl = row["desc"].partition("=")[2]
            change = Change(admin_acl=acl) if "admin" in row["desc"] else Change(acls={"lm.generate": acl})
            world.cell.update(row["model_id"], change)

    if row["ok"] or row["desc"].endswith("acl/all"):
        publish()
    else:
        with pytest.raises(SaxError) as error:
            publish()
        assert (error.value.code, error.value.text) == (row["code"], row["error"].split(": rpc error")[0])


def test_published_twice_is_refused_and_unknown_is_not_found(world):
    world.publish()

    with pytest.raises(SaxError, match="already exists"):
        world.publish()
    with pytest.raises(SaxError, match="model /sax/test/none not found"):
        world.cell.status("/sax/test/none")


def test_replicas_count_when_they_are_loaded(world):
    assert "no server of this cell can serve" in world.publish()
    world.report("m1")

    before = world.cell.status(LM)
    world.obey("m1")
    after = world.cell.status(LM)

    assert (before.active_replicas, before.assigned_replicas, before.addresses) == (0, 1, [])
    assert (after.active_replicas, after.addresses, after.methods) == (1, ["m1"], ["lm.generate"])


def test_a_dead_machine_s_replicas_go_to_another(world):
    world.publish()
    for name in ("m1", "m2"):
        world.report(name)
    world.obey("m1")
    world.clock.now += 9
    world.obey("m2")
    world.clock.now += 2

    world.cell.tick()

    assert world.cell.orders("m2").models[LM].replicas == 1
    assert world.where() == []


def test_a_broken_connection_means_death_unless_it_is_heard_of_again(world):
    world.publish()
    for name in ("m1", "m2"):
        world.report(name)
        world.obey(name)
        world.cell.left(name, "1")
    world.clock.now += 1
    world.report("m2")
    world.clock.now += 1

    world.cell.tick()

    assert [server.address for server in world.cell.servers()] == ["m2"]


def test_a_restarted_admin_knows_the_models_and_learns_who_holds_them(world):
    world.publish(replicas=2)
    for name in ("m1", "m2", "m3"):
        world.report(name)
        world.obey(name)
    holders = world.where()

    world.start(settle_seconds=5)
    world.report("m3")
    idle = world.cell.orders("m3").models
    for name in ("m1", "m2"):
        world.report(name)
    world.clock.now += 6
    world.cell.tick()

    assert world.cell.models() == [LM] and idle == {}
    assert world.where() == holders
    assert world.cell.orders("m3").models == {}


def test_after_the_grace_what_nobody_holds_is_placed(world):
    world.publish()
    world.start(settle_seconds=5)
    world.report("m1")
    assert world.cell.orders("m1").models == {}
    world.clock.now += 6

    world.cell.tick()

    assert LM in world.cell.orders("m1").models


def test_a_failed_load_is_tried_elsewhere_after_its_back_off(world):
    world.broken = {"m1"}
    world.publish()
    world.report("m1", memory_gib=100)
    world.report("m2")
    world.obey("m1")
    assert world.cell.status(LM).failures == {"m1": "no memory"}
    assert LM not in world.cell.orders("m2").models
    world.clock.now += 29
    for name in ("m1", "m2"):
        world.obey(name)
    world.clock.now += 2

    world.cell.tick()
    world.obey("m2")

    assert world.where() == ["m2"]


def test_replicas_that_are_loaded_stay_where_a_change_fails_and_only_what_is_missing_moves(world):
    world.publish(replicas=1)
    world.report("m1")
    world.obey("m1")
    world.report("m1", memory_gib=100, max_per_model=2)
    world.cell.update(LM, Change(checkpoint="/broken", replicas=2))
    world.report("m2", max_per_model=2)
    assert world.cell.orders("m1").models[LM].replicas == 2
    loaded, failed = ReplicaReport(status="LOADED", worker_id="w", address="tcp:h:1/w"), ReplicaReport(status="FAILED")
    world.held["m1"][LM] = Held(
        uuid=world.cell.catalogue.find(LM)[1].uuid, revision=2, reason="no such weights", replicas=[loaded, failed]
    )
    world.report("m1", memory_gib=100, max_per_model=2)
    for _ in range(31):
        world.clock.now += 1
        world.report("m1", memory_gib=100, max_per_model=2)
        world.report("m2", max_per_model=2)

    world.cell.tick()

    assert world.cell.orders("m1").models[LM].replicas == 1 and world.where() == ["m1"]
    assert world.cell.orders("m2").models[LM].replicas == 1


def test_a_load_is_tried_three_times_in_all_with_doubled_waits(world):
    world.broken = {"m1"}
    world.publish()
    world.report("m1")
    attempts = []
    for _ in range(200):
        world.obey("m1")
        attempts.append(world.cell.orders("m1").models[LM].attempt)
        world.clock.now += 1
        world.cell.tick()

    changes = [index for index in range(1, len(attempts)) if attempts[index] != attempts[index - 1]]
    assert attempts[-1] == 2
    assert len(changes) == 2 and 29 <= changes[0] <= 31 and 59 <= changes[1] - changes[0] <= 62


def test_an_update_reloads_only_when_it_changes_what_is_loaded(world):
    world.publish()
    world.report("m1")

    same = world.cell.update(LM, Change(checkpoint="None", replicas=2))
    other = world.cell.update(LM, Change(checkpoint="/c/2"))

    assert (same.revision, other.revision) == (1, 2)
    assert world.cell.orders("m1").models[LM].revision == 2
    with pytest.raises(SaxError, match="model path can't be changed"):
        world.cell.update(LM, Change(path="x.Y"))


def test_a_name_is_free_when_nobody_holds_it_any_more(world):
    world.publish()
    world.report("m1")
    world.obey("m1")
    world.cell.unpublish(LM)

    with pytest.raises(SaxError, match="being unpublished") as error:
        world.publish()
    world.obey("m1")
    world.publish()

    assert error.value.code == "Unavailable"


def test_a_machine_that_was_away_while_its_name_was_published_anew_holds_nothing_of_it(world):
    world.publish()
    world.report("m1")
    world.obey("m1")
    world.clock.now += 20
    world.cell.tick()  # it is gone
    world.cell.unpublish(LM)
    world.publish()
    world.report("m2", instance="2")
    world.report("m1")

    assert world.where() == [] and world.cell.status(LM).active_replicas == 0
    assert LM not in world.cell.orders("m1").models and world.cell.orders("m2").routes[LM] == []
    world.obey("m2")
    assert world.where() == ["m2"] and world.cell.orders("m2").models[LM].uuid


def test_orders_have_a_digest_that_changes_with_them(world):
    world.report("m1")
    first = world.cell.orders("m1").digest
    world.publish()

    second = world.cell.orders("m1").digest
    world.report("m1")

    assert first != second == world.cell.orders("m1").digest


def test_every_machine_learns_where_the_others_workers_are(world):
    world.publish(replicas=2)
    for name in ("m1", "m2"):
        world.report(name)
    for name in ("m1", "m2"):
        world.obey(name)

    routes = world.cell.orders("m2").routes[LM]

    assert [(route.machine, route.replicas) for route in routes] == [
        ("m1", [("w", "tcp:h:1/w")]),
        ("m2", [("w", "tcp:h:1/w")]),
    ]


def test_waiting_ends_when_ready_when_late_and_when_unpublished(world):
    async def main():
        world.publish()
        with pytest.raises(SaxError) as late:
            await world.cell.wait_ready(LM, 1, 0)
        waiting = asyncio.create_task(world.cell.wait_ready(LM, 1, 5))
        gone = asyncio.create_task(world.cell.wait_ready(LM, 2, 5))
        await asyncio.sleep(0)
        world.report("m1")
        world.obey("m1")
        ready = await waiting
        world.cell.unpublish(LM)
        with pytest.raises(SaxError) as canceled:
            await gone
        return late.value.code, ready, canceled.value.code

    assert asyncio.run(main()) == ("DeadlineExceeded", 1, "Canceled")


def test_a_watcher_sees_addresses_come_and_go_and_the_end(world):
    async def main():
        world.publish()
        cell, admin = world.cell, world.cell.incarnation
        first = asyncio.create_task(cell.watch(LM, admin, 0, 5))
        await asyncio.sleep(0)
        world.report("m1")
        world.obey("m1")
        came = await first
        quiet = await cell.watch(LM, admin, came.seqno, 0)
        stranger = await cell.watch(LM, "another admin", 99, 0)
        last = asyncio.create_task(cell.watch(LM, admin, came.seqno, 5))
        await asyncio.sleep(0)
        cell.unpublish(LM)
        return came, quiet, stranger, await last

    came, quiet, stranger, last = asyncio.run(main())

    assert came.changes == stranger.changes == [("+", "m1")] and quiet.changes == []
    assert last.full == []


def test_only_roles_in_the_acl_may_change_a_model(world):
    world.cell.publish(LM, PATH, "None", 0, {}, role="admin")

    with pytest.raises(SaxError, match="permission error"):
        world.cell.update(LM, Change(replicas=1), role="inference")
    world.cell.update(LM, Change(admin_acl="acl/all"), role="admin")
    world.cell.update(LM, Change(replicas=1), role="inference")


def test_a_publish_is_on_the_disk_before_it_returns(world):
    world.publish()

    assert Cell("/sax/test", world.folder, world.clock).models() == [LM]
