"""Many clients, two HTTP processes, two real workers: everybody gets the answer to their own question."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import flambeau
from flambeau.handlers.protocol import Kind, WorkerConfig, pack
from flambeau.management.data_plane import write_options
from flambeau.management.routing import ModelRoute, Replica, RouteWriter, Table

from .conftest import Client
from .test_server import free_port

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(flambeau.__file__).parents[1])}
HANDLER = """
def handle(data, context):
    return data and [bytes(row["body"])[::-1] for row in data]
"""


async def start_worker(worker_id: str, runtime: Path, model: Path) -> tuple[asyncio.subprocess.Process, Replica]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "flambeau.handlers.worker", "--control-fd", str(theirs.fileno())]
        process = await asyncio.create_subprocess_exec(*command, pass_fds=[theirs.fileno()], env=ENVIRONMENT)
        address = f"unix:{runtime}/{worker_id}.sock"
        config = WorkerConfig(
            worker_id=worker_id,
            model="m",
            version="1.0",
            model_dir=str(model),
            handler="h.py",
            listen=address,
            batch_size=4,
        )
        ours.sendall(pack(Kind.CONFIG, 0, config))
        ready = await asyncio.to_thread(ours.recv, 1000)
        assert ready[4] == Kind.READY
        process.control = ours.dup()  # its end would end the worker
    return process, Replica(worker_id, address)


def test_10000_requests_from_64_clients_get_their_own_answers(runtime, tmp_path):
    (tmp_path / "h.py").write_text(HANDLER)
    port = free_port()

    async def client(number: int, requests: int) -> int:
        connection = Client(*await asyncio.open_connection("127.0.0.1", port))
        good = 0
        for index in range(requests):
            question = b"%d-%d" % (number, index)
            answer = await connection.ask("/predictions/m", question)
            good += answer.status == 200 and answer.body == question[::-1]
        connection.writer.close()
        return good

    async def main() -> None:
        workers = [await start_worker(name, runtime, tmp_path) for name in ("w1", "w2")]
        write_options(runtime, {"binds": [f"http://127.0.0.1:{port}"], "processes": 2})
        route = ModelRoute(name="m", version="1.0", replicas=[replica for _, replica in workers], batch_size=4)
        RouteWriter(runtime).publish(Table(models={"m": {"1.0": route}}, defaults={"m": "1.0"}))
        master = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flambeau.frontend.server", str(runtime), env=ENVIRONMENT
        )
        try:
            async with asyncio.timeout(60):
                while True:
                    try:
                        await client(0, 1)
                        break
                    except OSError:
                        await asyncio.sleep(0.05)
                answers = await asyncio.gather(*(client(number, 157) for number in range(64)))
        finally:
            for process in (master, *(process for process, _ in workers)):
                process.kill()
                await process.wait()
        assert sum(answers) == 64 * 157 >= 10_000

    asyncio.run(main())
