"""Calls of a client: to a cell's admin, found by its root; to one of a model's machines, found by the admin.

A model's machines stand on a hash ring; each client has some seeds of its own and uses them in turn, so that it talks to few
machines and all clients together load them evenly. Retries wait a little longer each time and end with the deadline.
"""

import hashlib
import itertools
import json
import logging
import os
import random
import time
from bisect import bisect
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any

from ..management.cell import names, wire
from ..management.cell.errors import SaxError, from_answer, not_found
from ..management.cell.root import CellRoot, required_root

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0
TELL_SECONDS = 2.0  # whoever waits longer than this is told what for
TOKEN = "SAX_TOKEN"  # an inference token, where servers ask for one
POINTS = 8  # of each machine on the ring
MARGIN_SECONDS = 5.0  # in which the admin says why a wait was in vain
SEEDS = 37  # machines a client talks to, at most
LOOK_SECONDS = 1.0  # addresses are taken to be right for so long
AGAIN = frozenset({"Unavailable", "ResourceExhausted", "NotFound"})  # of a machine; the admin's NotFound is final


def ask_admin(
    verb: str, payload: dict[str, Any], cell: str, root: str | None = None, timeout: float = TIMEOUT_SECONDS
) -> Any:
    """Unavailable is tried again until the deadline: admins come back."""
    found = CellRoot(required_root(root), cell)
    deadline = Deadline(timeout)
    while True:
        try:
            try:
                location, key = found.location(), found.key()
            except SaxError as error:
                raise (not_found(error.text) if "is not a directory" in error.text else error) from None
            return wire.ask_now(location.address, f"/cell/{verb}", payload, key, deadline.left)
        except SaxError as error:
            if error.code not in ("Unavailable", "ResourceExhausted"):
                raise
            deadline.wait(error)


class Deadline:
    """Seconds that are left, and waits that grow within them."""

    def __init__(self, seconds: float) -> None:
        self._began = time.monotonic()
        self._end = self._began + seconds
        self._pause = 0.01
        self._told = ""

    @property
    def left(self) -> float:
        return max(0.01, self._end - time.monotonic())

    def wait(self, cause: SaxError) -> None:
        """DeadlineExceeded, with the last cause, when there is no time for another try."""
        pause = self._pause * random.uniform(0.5, 1.5)
        if time.monotonic() + pause >= self._end:
            raise SaxError("DeadlineExceeded", f"context deadline exceeded: {cause.text}") from None
        if cause.text != self._told and time.monotonic() > self._began + TELL_SECONDS:
            logger.warning("%s; trying for another %.0f s", cause.text, self.left)
            self._told = cause.text
        time.sleep(pause)
        self._pause = min(self._pause * 1.1, 20.0)


class Ring:
    """Which of the addresses a seed leads to; a change of the set moves few of them."""

    def __init__(self, addresses: list[str]) -> None:
        points = [(_hash(f"{address}#{point}"), address) for address in addresses for point in range(POINTS)]
        self._points = sorted(points)
        self._places = [place for place, _ in self._points]

    def pick(self, seed: int) -> str | None:
        return self._points[bisect(self._places, seed) % len(self._points)][1] if self._points else None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Machines:
    """The machines that serve one model, as the admin's log of them tells."""

    def __init__(self, model: str, root: str | None, proxy: str | None = None) -> None:
        self._model = model
        self._cell = names.parse_model(model).cell_name
        self.token = os.environ.get(TOKEN) or _member_token(self._cell, root)
        self._root, self._proxy = root, proxy
        self._seeds = itertools.cycle([random.getrandbits(64) for _ in range(SEEDS)])
        self._admin, self._seqno = "", 0
        self._addresses: set[str] = set()
        self._looked = float("-inf")
        self._patience = TELL_SECONDS
        self._ring = Ring([])

    def pick(self, deadline: Deadline, *, wait: bool = True) -> str:
        """Unavailable when no machine has it loaded; NotFound when the admin does not know the model."""
        if self._proxy:
            return self._proxy
        if time.monotonic() - self._looked > LOOK_SECONDS or not self._addresses:
            self._look(deadline)
        address = self._ring.pick(next(self._seeds))
        if address is None and self._wake(deadline, wait=wait):
            self._look(deadline)
            address = self._ring.pick(next(self._seeds))
        if address is None:
            raise SaxError("Unavailable", f"model {self._model} has no replica that is loaded{self._why()}")
        return address

    def forget(self) -> None:
        self._looked = float("-inf")

    def _wake(self, deadline: Deadline, *, wait: bool) -> bool:
        """The admin is told that somebody waits, by which a model that sleeps is woken; each time for twice as long, as each
        may wake another replica. True when one is loaded."""
        seconds = min(self._patience, deadline.left) if wait else 0.0
        self._patience *= 2
        asked = {"model": self._model, "replicas": 1, "seconds": seconds}
        try:
            ask_admin("wait", asked, self._cell, self._root, seconds + MARGIN_SECONDS)
        except SaxError as error:
            if error.code != "DeadlineExceeded":
                raise
            return False
        self._patience = TELL_SECONDS
        return True

    def _why(self) -> str:
        failures = ask_admin("status", {"model": self._model}, self._cell, self._root, MARGIN_SECONDS)["failures"]
        return "".join(f" ({address}: {reason})" for address, reason in sorted(failures.items())[:1])

    def _look(self, deadline: Deadline) -> None:
        asked = {"model": self._model, "admin": self._admin, "seqno": self._seqno, "seconds": 0}
        try:
            found = ask_admin("watch", asked, self._cell, self._root, deadline.left)
        except SaxError as error:
            if error.code == "NotFound":
                raise Final(error) from None
            raise
        if found.get("full") is not None or found["admin"] != self._admin:
            self._addresses = set(found.get("full") or ())
        for sign, address in found.get("changes", ()):
            (self._addresses.add if sign == "+" else self._addresses.discard)(address)
        self._admin, self._seqno, self._looked = found["admin"], found["seqno"], time.monotonic()
        self._ring = Ring(sorted(self._addresses))


def _member_token(cell: str, root: str | None) -> str | None:
    """Who can read the cell's key needs no other token."""
    try:
        return wire.member_token(CellRoot(required_root(root), cell).key())
    except (SaxError, OSError):
        return None


class Final(Exception):
    """Not to be tried again."""

    def __init__(self, error: SaxError) -> None:
        self.error = error


def call(machines: Machines, path: str, payload: dict[str, Any], timeout: float, fail_fast: bool = False) -> Any:
    deadline = Deadline(timeout)
    while True:
        try:
            return wire.ask_now(
                machines.pick(deadline, wait=not fail_fast), path, payload, None, deadline.left, machines.token
            )
        except Final as final:
            raise final.error from None
        except SaxError as error:
            if error.code not in AGAIN or (fail_fast and error.code != "NotFound"):
                raise
            machines.forget()
            deadline.wait(error)


def stream(machines: Machines, path: str, payload: dict[str, Any], timeout: float) -> Iterator[dict[str, Any]]:
    """The events; what goes wrong before the first is tried again, after it is final."""
    deadline = Deadline(timeout)
    while True:
        begun = False
        try:
            for event in _events(machines.pick(deadline), path, payload, deadline.left, machines.token):
                begun = True
                yield event
            return
        except Final as final:
            raise final.error from None
        except SaxError as error:
            if begun or error.code not in AGAIN:
                raise
            machines.forget()
            deadline.wait(error)


def _events(
    address: str, path: str, payload: dict[str, Any], timeout: float, token: str | None
) -> Iterator[dict[str, Any]]:
    connection = HTTPConnection(address, timeout=timeout)
    try:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        connection.request("POST", path, json.dumps(payload).encode(), headers)
        answer = connection.getresponse()
        if answer.status >= 400:
            raise from_answer(answer.status, json.loads(answer.read() or b"null"))
        for line in answer:
            data = line.decode().strip().removeprefix("data: ")
            if data == "[DONE]":
                return
            if data:
                event = json.loads(data)
                if "error" in event:
                    raise from_answer(int(event["error"].get("code", 500)), event["error"])
                yield event
        raise SaxError("Unavailable", "the stream broke off")
    except (OSError, HTTPException, ValueError) as error:
        raise SaxError("Unavailable", f"{address} can not be reached: {error}") from None
    finally:
        connection.close()
