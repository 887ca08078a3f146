"""Published models as Sax's methods find them: who may ask, how many at once, how long; and where, for other cells' models.

Not for: what the methods are (`sax_methods`).
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from ..management.cell import acl, names, wire
from ..management.cell.errors import SaxError, invalid
from ..management.cell.root import CellRoot, told_to_users
from . import sax_inputs
from .dispatch import ModelQueue
from .errors import ModelNotFound, QueueFull
from .models import Models
from .options import FrontendOptions
from .sax_admin import Admin
from .sax_border import role
from .sax_inputs import Declared
from .upstream import Upstream, UpstreamBroken, UpstreamSilent, UpstreamUnreachable
from .web import Request

DEADLINE_SECONDS = 30.0
ROUTE_SECONDS = 0.02  # between looks for a model that has just been loaded
OVERLOAD_WAITS = (0.05, 0.1, 0.2)  # overload is tried again so often before it is told

Work = Callable[[ModelQueue, Declared], Awaitable[Any]]


class Published:
    """The models of this server's cell."""

    def __init__(self, models: Models, admin: Admin, cell: str) -> None:
        self._models, self._admin, self._cell = models, admin, cell
        self._under_way: Counter[tuple[str, str]] = Counter()  # requests by model and method

    async def run(self, request: Request, full: str, method: str, work: Work) -> Any:
        """`work`, within the deadline; SaxError and RequestError for what stands in its way."""
        queue: ModelQueue | None = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                queue, model = await self.find(request, full, method)
                async with self.slot(full, method, model.limit):
                    return await _patiently(work, queue, model)
        except TimeoutError:
            if queue is None or not queue.route.replicas:
                raise SaxError("Unavailable", f"model {full} has no replica that is loaded") from None
            raise SaxError("DeadlineExceeded", f"model {full} gave no answer in {DEADLINE_SECONDS:g} s") from None

    async def find(self, request: Request, full: str, method: str) -> tuple[ModelQueue, Declared]:
        """Waits for a replica, if one is wanted; whoever may not ask is not told whether the model exists."""
        name = names.parse_model(full).registered(self._cell)
        request.may_use(name)
        try:
            queue = self._models.find(name)
        except ModelNotFound:
            if not (await self._admin.status(full))["max_replicas"]:
                raise SaxError("Unavailable", f"model {full} has no replicas") from None
            wanted = {"model": full, "replicas": 1, "seconds": DEADLINE_SECONDS}
            await self._admin.ask("wait", wanted, DEADLINE_SECONDS + 5)
            queue = await self._routed(name, full)
        model = sax_inputs.declared(queue.route.model_yaml, queue.route.capabilities)
        if method not in model.methods:
            raise invalid(f"{full} does not support {method}")
        if role.get() is not None:
            acl.check_method(full, method, await self._admin.acls(full), role.get())
        return queue, model

    async def _routed(self, name: str, full: str) -> ModelQueue:
        """The model is loaded somewhere; that it is reaches this machine's routing table a moment later."""
        end = asyncio.get_running_loop().time() + DEADLINE_SECONDS
        while True:
            try:
                return self._models.find(name)
            except ModelNotFound:
                if asyncio.get_running_loop().time() >= end:
                    raise SaxError("Unavailable", f"model {full} has no replica that this machine can reach") from None
            await asyncio.sleep(ROUTE_SECONDS)

    @asynccontextmanager
    async def slot(self, full: str, method: str, limit: int) -> AsyncIterator[None]:
        """One of the `limit` requests that a model's method may have under way in this process; ResourceExhausted."""
        key = (full, method)
        for wait in (*OVERLOAD_WAITS, None):
            if not limit or self._under_way[key] < limit:
                break
            if wait is None:
                raise SaxError("ResourceExhausted", f"Too many requests: {full} {method} {limit}")
            await asyncio.sleep(wait)
        self._under_way[key] += 1
        try:
            yield
        finally:
            self._under_way[key] -= 1


async def _patiently(work: Work, queue: ModelQueue, model: Declared) -> Any:
    """A full queue is tried again."""
    for wait in (*OVERLOAD_WAITS, None):
        try:
            return await work(queue, model)
        except QueueFull:
            if wait is None:
                raise
            await asyncio.sleep(wait)


class OtherCells:
    """Models of other cells below the same root: the request is passed on to one of their machines, by a member's token."""

    def __init__(self, admin: Admin, cell: str, options: FrontendOptions) -> None:
        self._admin, self._cell, self._sax_root = admin, cell, options.sax_root

    async def took(self, request: Request, full: str) -> bool:
        """True when the model is another cell's; the request is then answered."""
        key = names.parse_model(full)
        if key.cell == self._cell:
            return False
        request.may_use(key.registered(self._cell))
        status = await self._admin.status(full)
        if not status["max_replicas"]:
            raise SaxError("Unavailable", f"model {full} has no replicas")
        addresses = status["addresses"] or await self._woken(full)
        token = await asyncio.to_thread(self._token, key.cell_name)
        try:
            await _pass_on(request, random.choice(addresses), token)
        except (UpstreamUnreachable, UpstreamBroken):
            raise SaxError("Unavailable", f"the machine that serves {full} can not be reached") from None
        except UpstreamSilent:
            raise SaxError("DeadlineExceeded", f"model {full} gave no answer in {DEADLINE_SECONDS:g} s") from None
        return True

    async def _woken(self, full: str) -> list[str]:
        """Where it is loaded, once it is: its admin is told that somebody waits, by which a model that sleeps is woken."""
        wanted = {"model": full, "replicas": 1, "seconds": DEADLINE_SECONDS}
        try:
            await self._admin.ask("wait", wanted, DEADLINE_SECONDS + 5)
        except SaxError as error:
            if error.code != "DeadlineExceeded":
                raise
        if addresses := (await self._admin.status(full))["addresses"]:
            return list(addresses)
        raise SaxError("Unavailable", f"model {full} has no replica that is loaded")

    def _token(self, cell: str) -> str:
        """There we are a member with no more rights than whoever asks us."""
        root = CellRoot(self._sax_root, cell)
        with told_to_users(root):
            return wire.member_token(root.key(), role.get() or "inference")


async def _pass_on(request: Request, address: str, token: str) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(request.body)).encode()),
        (b"authorization", f"Bearer {token}".encode()),
    ]
    async with Upstream(f"http://{address}", DEADLINE_SECONDS + 5).request(
        b"POST", request.path.encode(), headers
    ) as asked:
        await asked.write(request.body)
        head = await asked.head()
        content_type = next((value.decode("latin-1") for name, value in head.headers if name == b"content-type"), None)
        if content_type != "text/event-stream":
            await request.answer(head.status, b"".join([piece async for piece in asked.pieces()]), content_type)
            return
        await request.start(head.status, content_type)
        async for piece in asked.pieces():
            await request.write(piece)
        await request.finish()
