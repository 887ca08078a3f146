"""The control plane by itself: no HTTP, real workers where a test starts any."""

import asyncio
import json
import os
import signal
import time

import pytest

from flambeau.archiver.manifest import Manifest
from flambeau.management import control as verbs
from flambeau.management.control import ControlPlane
from flambeau.management.environment import worker_environment
from flambeau.management.errors import WorkersFailed
from flambeau.management.pool import Surroundings
from flambeau.management.processes import Children
from flambeau.management.registry import Registry
from flambeau.management.routing import RouteReader, RouteWriter
from flambeau.management.serving import Registration
from flambeau.management.settings import Settings
from flambeau.management.workers import State

from ..conftest import ECHO, HOME

WAIT_SECONDS = 60


class Plane:
    """A control plane in a folder of its own, inside of a running event loop."""

    def __init__(self, folder, **settings):
        self.store, self.runtime = folder / "store", folder / "runtime"
        for path in (self.store, self.runtime / "workers"):
            path.mkdir(parents=True, exist_ok=True)
        ids = iter(range(1, 1000))
        self.children, self.said = Children(), []
        around = Surroundings(
            settings=Settings(**settings),
            children=self.children,
            sockets=str(self.runtime / "workers"),
            environment=worker_environment(os.environ | {"PYTHONPATH": HOME}, ""),
            next_worker_id=lambda: str(next(ids)),
            take_gpus=lambda among, count: [],
            changed=lambda: self.control.publish(),
            log_line=lambda *line: self.said.append(line),
            on_metric=lambda metric: None,
            on_loaded=lambda name, seconds: None,
            server_version="0",
        )
        self.routes = RouteWriter(self.runtime)
        self.control = ControlPlane(Registry(None), around, self.routes, self.runtime / "models", self.store)

    def archive(self, name, handler=ECHO, version="1.0", model_name=None):
        (self.store / name / "MAR-INF").mkdir(parents=True)
        (self.store / name / "handler.py").write_text(handler)
        manifest = Manifest(model_name=model_name or name, handler="handler.py", model_version=version)
        (self.store / name / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest.as_json()))


async def until(true):
    end = time.monotonic() + WAIT_SECONDS
    while not (found := true()):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    return found


def workers_of(plane, name):
    return [worker for worker in plane.control.pools[name, "1.0"].workers if worker.state is State.READY]


@pytest.fixture
def run(tmp_path):
    """Runs a story, which gets a plane; whatever it started ends with it."""

    def tell(story, **settings):
        async def whole():
            plane = Plane(tmp_path, **settings)
            try:
                await asyncio.wait_for(story(plane), WAIT_SECONDS)
            finally:
                await plane.children.end_all(5)

        asyncio.run(whole())

    return tell


def test_a_registration_that_fails_late_leaves_a_newer_one_of_the_same_name_alone(run, monkeypatch):
    async def story(plane):
        plane.archive("m")
        found = asyncio.Event()

        async def no_memory(workers):
            await found.wait()
            return "no memory"

        monkeypatch.setattr(verbs, "first_failure", no_memory)
        first = asyncio.create_task(plane.control.register(Registration(url="m"), wait=True))
        await until(lambda: plane.control.pools)
        await plane.control.unregister("m")
        await plane.control.register(Registration(url="m"), wait=False)
        newer = plane.control.pools["m", "1.0"]

        found.set()
        with pytest.raises(WorkersFailed):
            await first

        assert plane.control.pools["m", "1.0"] is newer
        assert plane.control.registry.find("m").version == "1.0"

    run(story)


def test_a_full_runtime_folder_ends_neither_workers_nor_who_watches_over_them(run):
    async def story(plane):
        control, reader = plane.control, RouteReader(plane.runtime)
        plane.archive("m")
        plane.archive("gone")
        await control.register(Registration(url="gone", initial_workers=1), wait=True)
        (plane.runtime / "routes.next").mkdir()  # nothing can be written there now

        await control.register(Registration(url="m", initial_workers=1), wait=True)
        (first,) = workers_of(plane, "m")
        before = first.pid
        os.kill(before, signal.SIGKILL)
        await until(lambda: first.state is State.READY and first.pid not in (before, None))
        (leaving,) = workers_of(plane, "gone")
        await control.unregister("gone")
        await until(lambda: leaving.pid is None)
        assert "m" not in reader.table().models

        (plane.runtime / "routes.next").rmdir()
        await until(lambda: "m" in reader.table().models)
        assert "gone" not in reader.table().models

    run(story)
