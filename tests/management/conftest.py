"""A control plane by itself: no HTTP, real workers where a test starts any."""

import asyncio
import json
import os
import time

import pytest

from flambeau.archiver.manifest import Manifest
from flambeau.management.control import ControlPlane
from flambeau.management.environment import worker_environment
from flambeau.management.pool import Surroundings
from flambeau.management.processes import Children
from flambeau.management.registry import Registry
from flambeau.management.routing import RouteWriter
from flambeau.management.settings import Settings

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
        self.registry = Registry(None)
        self.control = ControlPlane(self.registry, around, RouteWriter(self.runtime), self.runtime / "models", self.store)

    def unpacked(self):
        """What is unpacked, and what was made for it."""
        return [path for name in ("models", "environments") for path in (self.runtime / name).glob("*")]

    def archive(self, name, handler=ECHO, version="1.0", model_name=None, requirements=None):
        (self.store / name / "MAR-INF").mkdir(parents=True)
        (self.store / name / "handler.py").write_text(handler)
        manifest = Manifest(
            model_name or name, "handler.py", version, requirements_file=requirements and "requirements.txt"
        )
        if requirements:
            (self.store / name / "requirements.txt").write_text(requirements)
        (self.store / name / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest.as_json()))


async def until(true):
    end = time.monotonic() + WAIT_SECONDS
    while not (found := true()):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    return found


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
