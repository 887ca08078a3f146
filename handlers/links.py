"""A worker's sockets: a listener, one link per HTTP process, the control link; all in one selector, nothing ever waits.

Requests come out as `Exchange`s, which are the way back too. Answers are collected and written together by `flush`; what
a peer does not take stays here and is written when it can be. The parts of streams are written by `flush_soon`: at once, or,
when they come faster than once in a millisecond, together by a thread that writes while a handler computes; it does nothing
else, and `lock` is around whatever it touches. Whoever has just been woken soon looks for a moment before it sleeps again: to
be woken costs a virtual machine more than many a handler takes. Not for: what is done with a request (`worker`).
"""

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from itertools import count

import msgspec

from .exchange import Exchange
from .link import Link
from .protocol import Hello, Kind, Metric, ProtocolError, pack

STREAM_SECONDS = 0.001  # the parts of streams that come within it share a write


class Links:
    """All of them. `take` is called with each request, `cancel` with each whose client has left."""

    def __init__(
        self,
        control: socket.socket,
        take: Callable[[Exchange], None],
        cancel: Callable[[Exchange], None],
        busy_poll_seconds: float = 0.0,
    ) -> None:
        self.take = take
        self.cancel = cancel
        self.ids = count(1)
        self.dirty: list[Link] = []
        self.stopping = False
        self.stopped = 0.0  # when it was told to stop
        self.lost_control = False
        self.polled = 0.0
        self._busy_poll = busy_poll_seconds
        self._lively = False  # the last wait was no longer than that
        self.lock = threading.RLock()
        self._late = threading.Event()
        self._late_writer: threading.Thread | None = None
        self._flushed = 0.0  # by `flush_soon`
        self._listener: socket.socket | None = None
        self._hello = b""
        self._links: set[Link] = set()
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._stop_by_signal)
        self._control = Link(self, control, control=True)
        self._selector.register(control, selectors.EVENT_READ, self._control)

    @property
    def empty(self) -> bool:
        """No HTTP process is connected, and nothing is left to write."""
        return not self._links and not self.dirty and not self._control.unsent

    def listen(self, address: str, hello: Hello) -> None:
        """On a unix socket that only our own user may open. Every peer that connects hears `hello` first."""
        kind, _, place = address.partition(":")
        if kind != "unix":
            raise ValueError(f"{address}: workers listen on unix sockets alone; a gate connects other machines")
        if os.path.exists(place):
            os.unlink(place)  # left by a worker that was killed
        listener = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)
        try:
            listener.bind(place)
        finally:
            os.umask(mask)
        listener.listen(64)
        listener.setblocking(False)
        self._listener, self._hello = listener, pack(Kind.HELLO, 0, hello)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def poll(self, timeout_seconds: float | None) -> None:
        """Receive what has come; wait for something at most `timeout_seconds`."""
        for key, events in self._wait(timeout_seconds):
            link = key.data
            if not isinstance(link, Link):
                link()
                continue
            if events & selectors.EVENT_WRITE:
                with self.lock:
                    link.flush()
            if events & selectors.EVENT_READ and not link.closed:
                self._receive(link)
        self.polled = time.monotonic()

    def _wait(self, timeout_seconds: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout_seconds == 0.0 or not self._busy_poll:
            return self._selector.select(timeout_seconds)
        ready: list[tuple[selectors.SelectorKey, int]] = []
        begun = time.monotonic()
        while self._lively and not ready:
            ready = self._selector.select(0.0)
            os.sched_yield()  # whoever has something to do goes first
            self._lively = time.monotonic() - begun < min(self._busy_poll, timeout_seconds or self._busy_poll)
        if not ready:
            ready = self._selector.select(timeout_seconds)
        self._lively = time.monotonic() - begun < self._busy_poll
        return ready

    def flush(self) -> None:
        """Hand every collected answer to its socket."""
        with self.lock:
            dirty, self.dirty = self.dirty, []
            for link in dirty:
                link.flush()

    def flush_soon(self) -> None:
        """The same within a millisecond, whatever the caller does meanwhile; at once when it has been quiet."""
        now = time.monotonic()
        if now - self._flushed > STREAM_SECONDS:
            self._flushed = now
            self.flush()
        elif not self._late.is_set():
            if self._late_writer is None:
                self._late_writer = threading.Thread(target=self._write_late, name="late writer", daemon=True)
                self._late_writer.start()
            self._late.set()

    def _write_late(self) -> None:
        while self._late.wait():
            time.sleep(STREAM_SECONDS)
            self._late.clear()
            with self.lock:
                for link in self.dirty:  # they stay dirty: what can't be sent is the loop's affair
                    if not link.closed:
                        link.send()

    def tell(self, kind: Kind, head: object = None) -> None:
        """A frame for whoever started this worker."""
        self._control.write(pack(kind, 0, head))

    def report(self, metrics: Iterable[Metric]) -> None:
        self.tell(Kind.METRICS, list(metrics))

    def reassure(self) -> None:
        """Whoever waits for an answer hears that it is being worked for: a whole one may take longer than silence may last."""
        for link in self._links:
            if link.exchanges:
                link.write(pack(Kind.ALIVE, 0))
        self.flush()

    def stop(self) -> None:
        """No more clients; those which are connected are told that they should go, and what they sent is still answered."""
        if self.stopping:
            return
        self.stopping, self.stopped = True, time.monotonic()
        if self._listener is not None:
            self._selector.unregister(self._listener)
            os.unlink(self._listener.getsockname())
            self._listener.close()
        for link in self._links:
            link.write(pack(Kind.GOAWAY, 0))

    def stop_on(self, number: signal.Signals) -> None:
        """This signal is as good as STOP: whoever signals a whole group of processes loses no request by it."""
        signal.signal(number, lambda *_: self._waker.send(b"!"))

    def _stop_by_signal(self) -> None:
        self._wake.recv(64)
        self.stop()

    def watch_writing(self, link: Link, wanted: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        self._selector.modify(link.sock, events, link)

    def close(self, link: Link) -> None:
        with self.lock:
            if link.closed:
                return
            link.closed = True
            self._selector.unregister(link.sock)
            link.sock.close()
        self._links.discard(link)
        self.lost_control |= link.control
        for exchange in list(link.exchanges.values()):
            exchange.closed = True
            self.cancel(exchange)
        link.exchanges.clear()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # the peer has gone already
        self.add(sock)

    def add(self, sock: socket.socket) -> None:
        """A peer has connected; it hears who we are."""
        link = Link(self, sock)
        self._links.add(link)
        self._selector.register(sock, selectors.EVENT_READ, link)
        link.write(self._hello)
        link.flush()

    def _receive(self, link: Link) -> None:
        try:
            link.receive()
        except (ProtocolError, msgspec.MsgspecError):
            self.close(link)
