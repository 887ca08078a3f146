import asyncio
import os
import signal
import threading
import time

import pytest

from flambeau.archiver.errors import ModelNotFound as NothingThere
from flambeau.management import control as verbs
from flambeau.management.errors import WorkersFailed
from flambeau.management.registry import VersionRecord
from flambeau.management.routing import RouteReader
from flambeau.management.serving import Registration
from flambeau.management.workers import State

from .conftest import ECHO, until


def workers_of(plane, name):
    return [worker for worker in plane.control.pools[name, "1.0"].workers if worker.state is State.READY]


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


def test_a_model_that_still_loads_is_unregistered_at_once(run, tmp_path):
    async def story(plane):
        plane.archive("slow", f"import time\nopen({str(tmp_path / 'loading')!r}, 'w')\ntime.sleep(600)\n")
        await plane.control.register(Registration(url="slow", initial_workers=1), wait=False)
        (worker,) = plane.control.pools["slow", "1.0"].workers
        await until((tmp_path / "loading").exists)

        await plane.control.unregister("slow")

        await until(lambda: worker.pid is None)

    run(story)


def test_scaling_replaces_workers_that_were_given_up(run, tmp_path):
    flag = tmp_path / "flag"

    async def story(plane):
        control = plane.control
        plane.archive("m", f"open({str(flag)!r})\n{ECHO}")
        await control.register(Registration(url="m", initial_workers=1), wait=False)
        pool = control.pools["m", "1.0"]
        (given_up,) = pool.workers
        await until(lambda: given_up.state is State.FAILED)

        with pytest.raises(WorkersFailed):
            await control.scale("m", None, 1, 1, wait=True)
        assert len(pool.workers) == 1 and not control.healthy

        flag.touch()
        await control.scale("m", None, 1, 1, wait=True)
        assert [worker.state for worker in pool.workers] == [State.READY]

    run(story)


def test_scaling_opens_an_archive_that_could_not_be_opened_at_the_start(run):
    async def story(plane):
        control, archive = plane.control, str(plane.store / "m")
        plane.registry.add(VersionRecord(name="m", version="1.0", url="m", archive=archive))
        await control.restore()
        assert control.broken

        with pytest.raises(WorkersFailed, match="can't be served"):
            await control.scale("m", None, 1, 1, wait=True)
        plane.archive("m")
        await control.scale("m", None, 1, 1, wait=True)

        assert len(workers_of(plane, "m")) == 1 and not control.broken

    run(story)


def test_downloads_that_take_their_time_hold_up_no_other_registration(run, monkeypatch):
    go, fetch = threading.Event(), verbs.fetch

    def slow(url, *arguments, **options):
        if url.startswith("http"):
            go.wait(60)
        return fetch(url, *arguments, **options)

    async def story(plane):
        plane.archive("m")
        monkeypatch.setattr(verbs, "fetch", slow)
        asked = [Registration(url=f"http://slow.example/{number}.mar") for number in range(40)]
        downloads = [asyncio.create_task(plane.control.register(each, wait=True)) for each in asked]
        await asyncio.sleep(0)

        try:
            await asyncio.wait_for(plane.control.register(Registration(url="m"), wait=True), 30)
        finally:
            go.set()
        for download in downloads:
            with pytest.raises(NothingThere):
                await download

    run(story)


def test_models_of_one_content_install_their_packages_one_after_the_other(run, monkeypatch):
    at_work, most = [], []

    def install(requirements, folder, environment, log_line):
        at_work.append(folder)
        most.append(len(at_work))
        time.sleep(0.1)
        at_work.remove(folder)
        return folder / "bin" / "python"

    async def story(plane):
        plane.archive("m", requirements="numpy\n")
        monkeypatch.setattr(verbs, "install", install)
        names = ("a", "b", "c")

        await asyncio.gather(*(plane.control.register(Registration(url="m", name=name), wait=True) for name in names))

        assert most == [1, 1, 1]

    run(story, install_py_dep_per_model=True)
