"""The admin as a process of its own: `flambeau admin`. It owns a cell's state and nothing that serves requests.

Of several on one cell the one that holds the lock is the admin, the others stand by and take over when it ends.
"""

import asyncio
import logging
import socket
import time

import uvicorn

from .api import Api
from .cell import Cell
from .errors import SaxError
from .names import check_acl
from .root import CellRoot, Location, Lock, own_address
from .server import CellServer

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
SETTLE_SECONDS = 5.0
STANDBY_SECONDS = 1.0
ACL_SECONDS = 5.0


async def keep_time(cell: Cell) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        try:
            cell.tick()
        except Exception:
            logger.exception("%s could not be assigned anew", cell.name)


async def follow_acl(root: CellRoot, cell: Cell) -> None:
    """`flambeau admin-config`, run again, changes who may publish while the admin runs."""
    while True:
        await asyncio.sleep(ACL_SECONDS)
        try:
            admin_acl = (await asyncio.to_thread(root.config)).admin_acl
            check_acl(admin_acl)
        except (SaxError, OSError, ValueError) as error:  # a root that is away for a while, a file that is half a one
            logger.warning("%s: its configuration can not be read: %s", root.name, error)
            continue
        if admin_acl != cell.catalogue.admin_acl:
            logger.info("%s: its admin ACL is now %s", root.name, admin_acl or "acl/admin")
            cell.catalogue.admin_acl = admin_acl


async def take_lock(root: CellRoot) -> Lock:
    """Returns when we are the cell's admin."""
    told = False
    while (lock := root.lock()) is None:
        if not told:
            told = True
            logger.info("%s has an admin: standing by", root.name)
        await asyncio.sleep(STANDBY_SECONDS)
    return lock


async def serve_admin(root: CellRoot, host: str, port: int, prune_seconds: float = 10.0) -> None:
    """Until SIGINT or SIGTERM."""
    key, config = root.key(), root.config()
    listener = socket.create_server((host, port), reuse_port=False)
    lock = await take_lock(root)
    cell = Cell(
        root.name, root.state(), time.monotonic, admin_acl=config.admin_acl, settle_seconds=SETTLE_SECONDS,
        prune_seconds=prune_seconds,
    )  # fmt: skip
    options = uvicorn.Config(
        CellServer(cell, Api(cell), key), log_level="warning", lifespan="off", timeout_graceful_shutdown=1
    )
    bound = listener.getsockname()[1]
    address = f"{host if host not in ('0.0.0.0', '::') else own_address()}:{bound}"
    tasks = [asyncio.create_task(keep_time(cell)), asyncio.create_task(follow_acl(root, cell))]
    try:
        root.announce(Location(address=address, incarnation=cell.incarnation))
        logger.info("%s is served by %s", root.name, address)
        await uvicorn.Server(options).serve(sockets=[listener])
    finally:
        for task in tasks:
            task.cancel()
        lock.release()
