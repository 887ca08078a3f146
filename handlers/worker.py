"""A model worker: one process, one model, one thread. `python -m flambeau.handlers.worker --control-fd N`

CONFIG comes down the control link; the worker loads, listens, says READY (or FAILED, and exits), and then turns one loop:

    drain the sockets → form a batch → run it → write the answers

STOP: GOAWAY to its clients, answer what they have sent, exit. The control link's end: whoever started us is dead, so exit
at once. Not for: deciding how many workers there are, or what clients are told about a dead one.
"""

import atexit
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from typing import NoReturn

from . import torchserve_names
from .base import ContinuousHandler, PredictionException
from .context import Context
from .entry_point import Entry, EntryPointError, Loading
from .exchange import Exchange
from .generation import InvalidRequest
from .links import STREAM_SECONDS, Links
from .metrics import Metrics
from .parent import end_with_parent, gain_no_rights
from .protocol import Hello, Kind, Reader, Ready, WorkerConfig, pack
from .queue import Queue
from .ranks import Follower, Followers, world_size
from .running import BAD_REQUEST, FAULT, Runner, verdict

logger = logging.getLogger(__name__)

WRITE_AFTER_SECONDS = 0.0002  # answers wait so long for company: fewer writes, and the HTTP process has work meanwhile
LEAVE_AFTER_SECONDS = 5.0  # how long a stopped worker waits for clients to hang up
ALIVE_EVERY = 1 / 4  # of the time after which a silent worker is given up


def main(arguments: list[str]) -> int:
    end_with_parent(signal.SIGKILL)  # however busy the handler is
    give_up_rights()
    control = socket.socket(fileno=int(arguments[-1]))
    config = receive_config(control)
    prepare_process(config)
    size = world_size(config.model_yaml)
    follows = not config.listen  # rank 1 and up of a model that runs in several processes
    followers = Followers(config, size) if size > 1 and not follows else None
    logged = config.metrics_mode != "prometheus"
    context = Context(config, Metrics(config.model, 0.0) if logged else Metrics(config.model))
    if size > 1 and config.gpu_id is not None:
        context.system_properties["gpu_id"] = int(os.environ["LOCAL_RANK"])
    declare_metrics(context, config.metrics_config)
    loading = Loading(config.handler, config.model_dir, config.service_envelope)
    failure = None
    try:
        handler = loading.load(context)
        if size > 1 and isinstance(handler, ContinuousHandler):
            raise EntryPointError("torchrun: a handler which takes requests one by one runs in one process")
        failure = followers.wait() if followers else None
    except BaseException as error:  # whatever a model's code does, the cause is told
        failure = loading.failure(error)
    if failure is not None:
        if followers:
            followers.end()
        print(failure.traceback, end="", file=sys.stderr, flush=True)
        control.sendall(pack(Kind.FAILED, 0, failure))
        return 1
    gc.freeze()  # what loading made stays; the collector need not look at it again
    worker: ContinuousWorker | BatchWorker | Follower
    if isinstance(handler, ContinuousHandler):
        worker = ContinuousWorker(handler, context, config, control)
    elif follows:
        worker = Follower(handler, context, config, control)
    else:
        worker = BatchWorker(handler, context, config, control, followers)
    worker.serve()
    if followers:
        followers.end()
    return 0


class Worker:
    """What both kinds share: links, readiness, the way out."""

    def __init__(
        self, context: Context, config: WorkerConfig, control: socket.socket, credit: int, ready: Ready | None = None
    ) -> None:
        self._context = context
        self.links = Links(control, self.take, self.cancel, config.busy_poll_us / 1e6)
        hello = Hello(config.model, config.version, config.worker_id, os.getpid(), credit)
        self.links.listen(config.listen, hello)
        self._busy = 0.0
        self._reassure_after = ALIVE_EVERY * config.response_timeout_seconds
        self._reassured = time.monotonic()
        self.links.stop_on(signal.SIGTERM)
        self.links.tell(Kind.READY, ready or Ready())
        self.links.flush()

    def take(self, exchange: Exchange) -> None:
        raise NotImplementedError

    def cancel(self, exchange: Exchange) -> None:
        raise NotImplementedError

    def breathe(self, seconds: float | None = 0.0) -> None:
        """Write what there is, read what has come. A step or a batch that hangs does not come here, and so is found out."""
        if pending := self._context.metrics.drain():
            self.links.report(pending)
        self.links.flush()
        if not self.links.lost_control:  # writing may have found it out already, and then nothing would ever wake us
            self.links.poll(seconds)
        if self.links.lost_control:
            os._exit(0)
        if self.links.polled - self._reassured > self._reassure_after:
            self._reassured = self.links.polled
            self.links.reassure()

    def breathe_streaming(self, seconds: float) -> None:
        """Between two parts of streams: written soon, and the sockets are looked at only now and then."""
        if seconds or time.monotonic() - self.links.polled > STREAM_SECONDS:
            self.breathe(seconds)
        else:
            self.links.flush_soon()

    def may_leave(self, idle: bool) -> bool:
        """Told to stop, nothing to do, and every client has hung up (or had the time to)."""
        now = time.monotonic()
        if not idle:
            self._busy = now
        quiet = now - max(self._busy, self.links.stopped)  # what clients sent before they heard of it may be on its way
        return self.links.stopping and idle and (self.links.empty or quiet > LEAVE_AFTER_SECONDS)


class BatchWorker(Worker):
    def __init__(
        self,
        entry: Entry,
        context: Context,
        config: WorkerConfig,
        control: socket.socket,
        followers: Followers | None = None,
    ) -> None:
        self.followers = followers
        sequence_header = config.sequence_id_header if config.model_yaml.get("sequenceBatching") else ""
        self.continuous = bool(config.model_yaml.get("continuousBatching"))
        self.queue = Queue(config.batch_size, config.max_batch_delay_seconds, sequence_header)
        super().__init__(context, config, control, 2 * self.queue.batch_size)
        self.runner = Runner(
            entry,
            context,
            config.decode_input_request,
            config.max_response_bytes,
            self.breathe_streaming,
            in_step=followers is not None,
        )

    def take(self, exchange: Exchange) -> None:
        self.queue.add(exchange)

    def cancel(self, exchange: Exchange) -> None:
        self.queue.remove(exchange)
        exchange.drop()

    def serve(self) -> None:
        queue, links, written = self.queue, self.links, 0.0
        while True:
            now = time.monotonic()
            wait = queue.patience(now) if queue else None
            if wait != 0.0 or len(queue) < queue.batch_size or now - written > WRITE_AFTER_SECONDS:
                if self.may_leave(idle=not queue):
                    return
                self.breathe(1.0 if wait is None and links.stopping else wait)
                written = time.monotonic()
                if not queue or queue.patience(written):
                    continue
            batch = queue.take()
            if self.followers is not None:
                self.followers.hand_on(batch)
            self.runner.run(batch)
            queue.finished(len(batch))
            if self.continuous and (unfinished := [exchange for exchange in batch if not exchange.closed]):
                queue.take_back(unfinished)


class ContinuousWorker(Worker):
    def __init__(self, handler: ContinuousHandler, context: Context, config: WorkerConfig, control: socket.socket) -> None:
        self.handler = handler
        self.running = 0
        ready = Ready(list(getattr(handler, "operations", ())))
        super().__init__(context, config, control, getattr(handler, "credit", 0) or 2 * config.batch_size, ready)

    def take(self, exchange: Exchange) -> None:
        exchange.taken = time.monotonic()
        try:
            self.handler.submit(exchange, exchange)
        except BaseException as error:  # SystemExit too: a handler can't end the worker by it
            status, message = verdict(error)
            if not isinstance(error, (PredictionException, InvalidRequest)):
                logger.error("Model %s: the handler failed", self._context.model_name, exc_info=error)
            exchange.respond(message, status, error=BAD_REQUEST if status == 400 else FAULT)

    def cancel(self, exchange: Exchange) -> None:
        self.handler.cancel(exchange.id)
        exchange.drop()

    def serve(self) -> None:
        busy = False
        while not self.may_leave(idle=not busy):
            self.breathe(0.0 if busy else (1.0 if self.links.stopping else None))
            busy = self.handler.step()


def receive_config(control: socket.socket) -> WorkerConfig:
    """Blocks: there is nothing else to do before it has come."""
    reader = Reader()
    while data := control.recv(1 << 16):
        for frame in reader.feed(data):
            if frame.kind == Kind.CONFIG:
                return frame.head(WorkerConfig)
    raise SystemExit("no CONFIG came")


def declare_metrics(context: Context, path: str | None) -> None:
    """The `model_metrics` of a metrics.yaml, for handlers that ask for them by name; the model's own file goes first."""
    own = os.path.join(context.model_dir, "metrics.yaml")
    path = own if os.path.isfile(own) else path
    if path is None or not os.path.isfile(path):
        return
    import yaml

    with open(path, encoding="utf-8") as file:
        context.metrics.declare((yaml.safe_load(file) or {}).get("model_metrics") or {})


def prepare_process(config: WorkerConfig) -> None:
    """The surroundings that a model's code expects: its folder, its imports, its prints."""
    # A Ctrl-C in the terminal is the supervisor's to answer. A function, for what is ignored stays so in child processes.
    signal.signal(signal.SIGINT, lambda *_: None)
    model_dir = os.path.realpath(config.model_dir)
    sys.path[:] = [model_dir, *(os.path.abspath(place) for place in sys.path[1:])]
    os.chdir(config.model_dir)
    if config.device_ids and config.model_yaml.get("parallelType"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, config.device_ids))  # all of them are this model's
    torchserve_names.install()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")


def give_up_rights() -> None:
    """A model's code wins nothing by programs that run as somebody else, and its memory is never written to a disk."""
    gain_no_rights()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def leave(status: int) -> NoReturn:
    """What asked to be called at the end is called; taking torch's modules apart takes half a second and nobody needs it,
    and a thread that a handler has forgotten holds nobody up.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
