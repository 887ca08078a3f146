import asyncio
import os

import psutil
import pytest

from flambeau.handlers.protocol import WorkerConfig
from flambeau.management.environment import worker_environment
from flambeau.management.processes import Children
from flambeau.management.worker_process import start_worker, unused
from flambeau.management.workers import State, Worker

from ..conftest import HOME


def test_whatever_goes_wrong_around_a_worker_whoever_waits_for_it_is_told():
    async def story():
        async def launch(worker):
            raise RuntimeError("no such thing")

        def changed():
            raise RuntimeError("nobody listens")

        worker = Worker("1", launch, changed, label="m", try_command="", startup_timeout=1, retry_seconds=0)
        assert await asyncio.wait_for(worker.first_outcome(), 30) == "no such thing"
        while worker.state is not State.FAILED:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_worker_that_is_taken_away_before_it_knows_its_model_leaves_no_process(tmp_path):
    """Its configuration is more than its socket holds, so that it is still being told."""

    async def story():
        children = Children()
        facts = {"worker_id": "1", "model": "m", "version": "1", "model_dir": str(tmp_path), "handler": "h"}
        config = WorkerConfig(**facts, listen=f"unix:{tmp_path}/w", manifest={}, model_yaml={"long": "x" * (4 << 20)})
        environment = worker_environment(os.environ | {"PYTHONPATH": HOME}, "")
        starting = asyncio.create_task(start_worker(children, config, environment, unused, unused))
        while not psutil.Process().children():
            await asyncio.sleep(0)

        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

        while psutil.Process().children():
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(story(), 30))
