"""The event loop stays awake for a fast answer, and only for that. No clocks: what is looked at is who is asked how often."""

import asyncio

import pytest

from flambeau.frontend.lookout import Lookout

TURNS = 50  # of the event loop; by then a lookout that has an end has come to it


async def turns(lookout):
    count = 0
    while lookout._looking and count < TURNS:
        await asyncio.sleep(0)
        count += 1
    return count


async def looking(seconds=60.0):
    in_flight = {1: "a request"}
    lookout = Lookout(seconds)
    lookout.watch(in_flight)
    return lookout, in_flight


@pytest.fixture
def run():
    return lambda coroutine: asyncio.run(asyncio.wait_for(coroutine, 10))


def test_it_looks_until_the_answer_has_come(run):
    async def scene():
        lookout, in_flight = await looking()
        assert await turns(lookout) == TURNS
        in_flight.clear()
        assert await turns(lookout) < 3

    run(scene())


def test_two_requests_in_flight_keep_the_loop_busy_enough(run):
    async def scene():
        lookout, in_flight = await looking()
        in_flight[2] = "another"
        assert await turns(lookout) < 3

    run(scene())


def test_it_gives_up_when_its_time_is_over_and_looks_again_for_the_next_request(run):
    async def scene():
        lookout, in_flight = await looking(seconds=0.0)
        assert await turns(lookout) < 3
        lookout.seconds = 60.0
        lookout.watch(in_flight)
        lookout.watch(in_flight)  # it looks once a turn all the same
        assert await turns(lookout) == TURNS

    run(scene())
