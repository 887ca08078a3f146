import asyncio
import sys

import psutil

from flambeau.management.kept import Kept
from flambeau.management.processes import Children

from .conftest import until


def test_a_process_that_can_not_be_started_is_tried_again(tmp_path, caplog):
    program = tmp_path / "program"

    async def story():
        children = Children()
        kept = Kept("program", children, [str(program), "-c", "import time; time.sleep(600)"], {})
        try:
            await until(lambda: "could not be started" in caplog.text)
            program.symlink_to(sys.executable)
            await until(lambda: psutil.Process().children())
        finally:
            await kept.stop(0)
            await children.end_all(5)

    asyncio.run(story())
