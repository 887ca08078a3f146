import asyncio
import os
import signal
import sys

from flambeau.management.processes import Children
from flambeau.management.worker_process import unused


def test_the_end_of_a_process_is_noticed_also_when_it_is_signalled_in_that_moment():
    async def story():
        children = Children()
        first, second = (children.spawn([sys.executable, "-c", ""], {}, unused) for _ in range(2))
        for child in (first, second):
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and our loop has not heard of it

        first.signal(signal.SIGTERM)

        assert await asyncio.gather(first.ended, second.ended) == [0, 0]

    asyncio.run(asyncio.wait_for(story(), 30))
