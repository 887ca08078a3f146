"""The admin of a cell, asked over the control plane's socket, and what is remembered of its answers for a moment.

Not for: members and clients of the cell, whose messages are signed; those `sax` passes on as they are.
"""

import asyncio
from pathlib import Path
from typing import Any

from ..management.cell import wire
from .sax_border import role

CONTROL_SECONDS = 15.0
STARTING_SECONDS = 10.0  # a server that has just started enters its cell meanwhile
ACL_SECONDS = 2.0  # a changed ACL is obeyed after so long at most
MAX_REMEMBERED = 1000


class Admin:
    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._acls: dict[str, tuple[float, dict[str, str]]] = {}

    async def ask(self, verb: str, payload: dict[str, Any], seconds: float = CONTROL_SECONDS) -> Any:
        """In the name of whoever sent the request; SaxError for what is refused."""
        end = asyncio.get_running_loop().time() + STARTING_SECONDS
        while not self.socket.exists() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        return await wire.ask(
            f"unix:{self.socket}", f"/internal/cell/{verb}", payload | {"role": role.get()}, None, seconds
        )

    async def status(self, model: str) -> dict[str, Any]:
        return dict(await self.ask("status", {"model": model}))

    async def acls(self, model: str) -> dict[str, str]:
        """By method, as the cell knew them a moment ago at most."""
        now = asyncio.get_running_loop().time()
        known = self._acls.get(model)
        if known is None or known[0] < now:
            if len(self._acls) > MAX_REMEMBERED:
                self._acls.clear()
            known = self._acls[model] = (now + ACL_SECONDS, (await self.status(model))["acls"])
        return known[1]
