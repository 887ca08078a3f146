import asyncio
import threading

import pytest

from flambeau.archiver.unpack import Limits, open_archive
from flambeau.management import unpacked
from flambeau.management.errors import ModelConflict
from flambeau.management.registry import VersionRecord
from flambeau.management.serving import Registration
from flambeau.management.unpacked import Unpacked
from flambeau.management.workers import State

from .conftest import until

OTHER = "def handle(data, context):\n    return data and [b'other'] * len(data)\n"


def test_an_unpacked_archive_goes_with_the_last_worker_of_the_last_model_that_uses_it(run):
    async def story(plane):
        control = plane.control
        plane.archive("m")
        for name in ("m", "same"):
            await control.register(Registration(url="m", name=name, initial_workers=1), wait=True)
        pool = control.pools["same", "1.0"]
        control.unpacked.environment(pool.archive).mkdir()
        assert len(plane.unpacked()) == 2

        await control.unregister("m")
        await until(lambda: not control._leaving)
        assert len(plane.unpacked()) == 2
        (worker,) = pool.workers
        worker.process.kill()
        await until(lambda: worker.restarts and worker.state is State.READY)

        await control.unregister("same")
        assert len(plane.unpacked()) == 2 and worker.pid
        await until(lambda: plane.unpacked() == [])
        assert worker.pid is None

        await control.register(Registration(url="m", initial_workers=1), wait=True)

    run(story)


def test_a_registration_that_is_refused_leaves_only_what_others_use(run):
    async def story(plane):
        plane.archive("m")
        plane.archive("other", OTHER, model_name="m")
        await plane.control.register(Registration(url="m"), wait=True)
        before = plane.unpacked()

        for url in ("m", "other"):
            with pytest.raises(ModelConflict):
                await plane.control.register(Registration(url=url), wait=True)

        await until(lambda: plane.unpacked() == before)

    run(story)


@pytest.fixture
def slow(monkeypatch):
    """Archives open when the test says so: `(begun, go)`."""
    begun, go = threading.Event(), threading.Event()

    def opened(*arguments):
        begun.set()
        go.wait(60)
        return open_archive(*arguments)

    monkeypatch.setattr(unpacked, "open_archive", opened)
    yield begun, go
    go.set()


def test_nothing_is_removed_while_an_archive_is_opened_which_may_find_it_there(run, slow):
    begun, go = slow

    async def story(plane):
        plane.archive("m")
        folder = plane.runtime / "models"
        archive = open_archive(plane.store / "m", folder)
        kept = Unpacked(folder, Limits())
        kept.hold(archive)

        async def again():
            async with kept.opened(plane.store / "m") as found:
                return (found.model_dir / "handler.py").is_file()

        opening = asyncio.create_task(again())
        await asyncio.to_thread(begun.wait)
        kept.let_go(archive)
        assert archive.model_dir.is_dir()

        go.set()
        assert await opening
        await until(lambda: plane.unpacked() == [])

    run(story)


def test_a_model_that_is_unregistered_before_its_restart_has_come_to_it_is_not_started(run, slow):
    begun, go = slow

    async def story(plane):
        plane.archive("m")
        archive = str(plane.store / "m")
        plane.registry.add(VersionRecord(name="m", version="1.0", url="m", archive=archive, min_workers=1))
        restoring = asyncio.create_task(plane.control.restore())
        await asyncio.to_thread(begun.wait)

        await plane.control.unregister("m")
        go.set()
        await restoring

        assert plane.control.pools == {}
        await until(lambda: plane.unpacked() == [])

    run(story)
