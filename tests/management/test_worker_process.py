import asyncio
import contextlib
import socket
import sys

import pytest

from flambeau.handlers.protocol import Kind, Reader, RequestHead, ResponseHead, pack
from flambeau.management.processes import Children
from flambeau.management.worker_process import WorkerProcess, unused

HEAD = RequestHead("describe", "describe", [])


@pytest.fixture
def linked():
    """Runs a story with a process and the other end of its control link, which nobody reads but the story."""

    def tell(story):
        async def whole():
            children = Children()
            ours, theirs = socket.socketpair()
            for end in (ours, theirs):
                end.setblocking(False)
            child = children.spawn([sys.executable, "-c", "import time; time.sleep(600)"], {}, unused)
            process = WorkerProcess(child, ours, unused)
            try:
                await asyncio.wait_for(story(process, ours, theirs), 30)
            finally:
                await children.end_all(5)
                theirs.close()

        asyncio.run(whole())

    return tell


def test_whoever_asks_a_process_that_reads_nothing_is_answered_in_time_and_it_can_be_stopped(linked):
    async def story(process, ours, theirs):
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 4096)

        asked = [asyncio.create_task(process.ask(HEAD, b"", 0.1)) for _ in range(2)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TimeoutError, TimeoutError]

        await process.stop(0.1)
        assert process.ended.done()

    linked(story)


def test_each_who_asks_gets_an_answer_also_when_another_is_answered_first(linked):
    async def story(process, ours, theirs):
        asked = [asyncio.create_task(process.ask(HEAD, b"", 20)) for _ in range(2)]
        reader, frames = Reader(), []
        while len(frames) < 2:
            await asyncio.sleep(0)
            try:
                frames += reader.feed(theirs.recv(65536))
            except BlockingIOError:
                continue

        for task, frame in zip(asked, frames, strict=True):
            theirs.send(pack(Kind.RESPONSE, frame.id, ResponseHead(200), b"%d" % frame.id))
            _, body = await task
            assert body == b"%d" % frame.id

    linked(story)
