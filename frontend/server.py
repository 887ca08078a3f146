"""`python -m flambeau.frontend.server RUNTIME`: gunicorn's master and the HTTP processes it keeps alive.

The supervisor execs this after it has written `frontend.json` (`options`) and made its RouteWriter. gunicorn binds the
addresses, starts the processes and replaces the dead; each runs one uvloop event loop with our connection class. Not for:
settings, which have been read by then.
"""

import argparse
import asyncio
import functools
import gc
import logging
import os
import resource
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import Any, Literal, NoReturn

import uvloop
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.sock import close_sockets
from gunicorn.workers.base import Worker
from prometheus_client.multiprocess import mark_process_dead

from ..handlers.parent import end_with_parent
from ..management.sockets import notice_vanished
from .app import App
from .connection import Connection
from .models import TICK_SECONDS
from .options import FrontendOptions, read_options

logger = logging.getLogger(__name__)

BACKLOG = 2048
HEARTBEAT_SECONDS = 30  # a process whose event loop stands still for so long is replaced by gunicorn
LOOK_SECONDS = 0.01  # how often a process that drains looks whether it has answered all
SPARE_FILES = 256  # of a process' open files; what it needs besides clients: workers, logs, the routing table


def main() -> None:
    parser = argparse.ArgumentParser(prog="flambeau.frontend.server", description="The inference server's HTTP processes.")
    parser.add_argument("runtime", type=Path, help="the runtime folder, with frontend.json in it")
    runtime = parser.parse_args().runtime
    die_with(parent())
    Master(runtime, read_options(runtime)).run()


class Master(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by us alone: no command line, no files, no environment."""

    def __init__(self, runtime: Path, options: FrontendOptions) -> None:
        self.runtime = runtime
        self.options = options
        super().__init__()

    def load_config(self) -> None:
        options = self.options
        settings = {
            "bind": [gunicorn_address(bind) for bind in (*options.binds, *options.sax_binds)],
            "workers": options.processes,
            "worker_class": HttpProcess,
            "backlog": BACKLOG,
            "umask": 0o077,  # of unix sockets
            "timeout": HEARTBEAT_SECONDS,
            "graceful_timeout": int(options.drain_seconds + options.drain_delay_seconds + 1),
            "errorlog": "-",
            "loglevel": "debug" if options.debug else "warning",
            "proc_name": "flambeau-http",
            "control_socket_disable": True,
            "post_fork": lambda arbiter, worker: die_with(arbiter.pid),
            "child_exit": lambda arbiter, worker: mark_process_dead(worker.pid, str(self.runtime / "metrics")),
            "on_exit": lambda arbiter: leave(),
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return None  # HttpProcess makes its App itself, inside its event loop

    def run(self) -> None:
        Keeper(self).run()


class Keeper(Arbiter):  # type: ignore[misc]
    """gunicorn's looks ten times a second whether its processes have gone; this one hears of it, and goes at once."""

    def stop(self, graceful: bool = True) -> None:
        close_sockets(self.LISTENERS)  # type: ignore[arg-type]
        self.LISTENERS.clear()
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while self.WORKERS and (left := deadline - time.monotonic()) > 0:
            self.wait_for_signals(timeout=left)
            self.reap_workers()
        self.kill_workers(signal.SIGKILL)
        self.reap_workers()


class HttpProcess(Worker):  # type: ignore[misc]
    """One event loop. SIGTERM drains it, a second one ends it."""

    def init_signals(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # a terminal sends it to all of us; the supervisor decides what it means

    def run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())
        leave()

    async def _serve(self) -> None:
        master: Any = self.app
        runtime, options = master.runtime, master.options
        logging.getLogger("flambeau").handlers = self.log.error_log.handlers
        app = App(runtime, options, connections_that_fit())
        gc.freeze()  # what is there now stays: collections need not look at it
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        ticking = loop.create_task(self._tick(app))
        tls = tls_context(options)
        doors: list[tuple[str, Literal["inference", "sax"]]] = [(bind, "inference") for bind in options.binds]
        doors += [(bind, "sax") for bind in options.sax_binds]
        for listener in self.sockets:
            notice_vanished(listener)
        servers = [
            await loop.create_server(
                functools.partial(Connection, app, name),
                sock=listener,
                backlog=BACKLOG,
                ssl=tls if bind.startswith("https:") else None,
                ssl_handshake_timeout=options.header_timeout_seconds if bind.startswith("https:") else None,
            )
            for (bind, name), listener in zip(doors, self.sockets, strict=True)
        ]
        await stop.wait()
        loop.remove_signal_handler(signal.SIGTERM)
        await drain(app, servers)
        ticking.cancel()
        app.close()

    async def _tick(self, app: App) -> None:
        while True:
            self.notify()
            try:
                app.tick()
            except Exception:
                logger.exception("a tick failed")
            await asyncio.sleep(TICK_SECONDS)


async def drain(app: App, servers: list[asyncio.Server]) -> None:
    """Unready, still serving; then no new connections; then the idle ones end, the busy ones after their answers.

    Half a request that has come gets the rest of its time while others are answered; it keeps nobody here.
    """
    loop = asyncio.get_running_loop()
    app.draining = True
    await asyncio.sleep(max(app.options.drain_delay_seconds, LOOK_SECONDS))  # who has connected by now is accepted
    for server in servers:
        server.close()
    deadline = loop.time() + app.options.drain_seconds
    while (busy := [connection for connection in app.connections if connection.shutdown()]) and loop.time() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
    if busy:
        logger.warning("%d requests are cut off: they took longer than %g s to drain", len(busy), app.options.drain_seconds)


def connections_that_fit() -> int:
    """Each is an open file, of which we may have more, often far more, than we are given at first."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    return max(files - SPARE_FILES, files // 2) if files != resource.RLIM_INFINITY else sys.maxsize


def tls_context(options: FrontendOptions) -> ssl.SSLContext | None:
    if options.certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(options.certificate_file, options.private_key_file)
    return context


def gunicorn_address(bind: str) -> str:
    return bind.removeprefix("http://").removeprefix("https://").rstrip("/")


def parent() -> int:
    """Who started us: it says so itself, since it may have ended before we could look."""
    return int(os.environ.get("FLAMBEAU_PARENT", os.getppid()))


def die_with(parent: int) -> None:
    """When the parent ends, however it does, the kernel ends this process."""
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def leave() -> NoReturn:
    """All is said and written: to take the interpreter apart would cost time and change nothing."""
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
