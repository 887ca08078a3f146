import asyncio

from flambeau.management.autoscaler.config import Accelerator, AutoscalerConfig, Slo
from flambeau.management.autoscaler.loop import Autoscaler
from flambeau.management.autoscaler.observe import Observed
from flambeau.management.autoscaler.performance import Book, Performance
from flambeau.management.autoscaler.problem import Served

KEY = ("chat", "1.0")


class World:
    """A fleet and its load, without processes."""

    def __init__(self):
        self.workers, self.rate, self.broken, self.blind = {}, 20.0, False, False

    def look(self):
        if self.blind:
            raise OSError("no metrics")
        return {KEY: Observed(self.rate, tokens_in=100, tokens_out=50)}

    def served(self):
        return [Served(KEY, Slo(itl_ms=30), dict(self.workers))]

    async def place(self, key, workers):
        if self.broken:
            raise RuntimeError("no memory left")
        self.workers = dict(workers)


def autoscaler(world, **config):
    book = Book()
    book.put(Performance(model="chat", accelerator="cpu", max_batch=8, alpha=10, beta=2, gamma=20, delta=0.1))
    return Autoscaler(AutoscalerConfig((Accelerator("cpu", capacity=16),), **config), world, world, book)


def test_it_places_what_it_decides_and_remembers_why():
    world = World()
    loop = autoscaler(world)

    asyncio.run(loop.cycle())

    assert world.workers["cpu"] > 2
    (event,) = loop.state.events
    assert event.outcome == "done" and event.decision.after == world.workers and "objectives" in event.decision.reason


def test_a_dry_run_decides_and_does_nothing():
    world = World()
    loop = autoscaler(world, dry_run=True)

    (decision,) = asyncio.run(loop.cycle())

    assert decision.changes and world.workers == {}
    assert loop.state.events[0].outcome == "dry run"


def test_what_fails_is_told_and_leaves_things_as_they_are():
    world = World()
    loop = autoscaler(world)
    world.broken = True
    asyncio.run(loop.cycle())
    world.broken, world.blind = False, True
    asyncio.run(loop.cycle())

    assert world.workers == {}
    assert loop.state.events[0].outcome == "failed: no memory left"
    assert loop.state.last_error == "OSError: no metrics"


def test_a_pause_makes_it_forget_the_load_before():
    world = World()
    loop = autoscaler(world, cooldown_seconds=0)
    asyncio.run(loop.cycle())
    busy = dict(world.workers)

    loop.pause(True)
    loop.pause(False)
    world.rate, world.workers = 1.0, {}
    asyncio.run(loop.cycle())

    assert busy["cpu"] > 1 and world.workers == {"cpu": 1}


def test_it_runs_by_itself_until_it_is_cancelled_and_not_while_paused():
    world = World()
    loop = autoscaler(world, period_seconds=0.01)

    async def live():
        loop.state.paused = True
        task = asyncio.create_task(loop.run())
        await asyncio.sleep(0.05)
        paused = loop.state.cycles
        loop.state.paused = False
        async with asyncio.timeout(10):
            while loop.state.cycles < 2:
                await asyncio.sleep(0.01)
        task.cancel()
        return paused

    assert asyncio.run(live()) == 0
    assert world.workers
