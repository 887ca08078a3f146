"""Verbs for any cell below the sax root: our own is answered here when we are its admin, the others by theirs."""

from typing import Any

from . import names, wire
from .api import LONGEST_WAIT, Api
from .root import CellRoot, told_to_users

SECONDS = 20.0
WAITING = {"wait", "watch"}  # these take as long as their caller says


class Directory:
    """`own`: the verbs of the cell that we are the admin of."""

    def __init__(self, sax_root: str, default_cell: str, own: Api | None) -> None:
        self._sax_root = sax_root
        self._default = default_cell
        self._own = own

    async def call(self, verb: str, payload: object) -> Any:
        given = payload if isinstance(payload, dict) else {}
        cell = self._cell(given)
        if cell == self._default and self._own:
            return await self._own.call(verb, payload)
        asked = given.get("seconds", 0) if verb in WAITING else 0
        seconds = SECONDS + (min(asked, LONGEST_WAIT) if isinstance(asked, int | float) else 0)  # else: the admin will say
        return await ask_admin(CellRoot(self._sax_root, cell), verb, payload, seconds)

    def _cell(self, payload: dict[str, Any]) -> str:
        if isinstance(model := payload.get("model"), str):
            return names.parse_model(model).cell_name
        if isinstance(cell := payload.get("cell"), str):
            names.parse_cell(cell)
            return cell
        return self._default


async def ask_admin(root: CellRoot, verb: str, payload: object, seconds: float) -> Any:
    """At the address that the root names now."""
    with told_to_users(root):
        location, key = root.location(), root.key()
    return await wire.ask(location.address, f"/cell/{verb}", payload, key, seconds)
