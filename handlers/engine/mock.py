"""An engine without a model, a download or torch: for tests, demos and capacity profiles.

Modes: `digits` (0123456789… from the prompt's length on), `echo` (repeats the prompt, so cross-talk shows) and `hash` (the
next token is a function of the row's own context, temperature and seed: deterministic, different for each prompt). Steps
take the time they are told to: `1 / steps_per_second`, or as accelerators behave: `alpha + beta·rows` ms for a
decode step and `gamma + delta·tokens` for a prefill. Faults: crash at step n, or stall there.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..generation import FinishReason, InvalidRequest, SamplingParams
from .interface import Event, Logprob, RequestKind, Sink, Stats, check_ids
from .mock_json import example

Mode = Literal["digits", "echo", "hash"]
DIGITS = b"0123456789"
LETTERS = b"abcdefghijklmnopqrstuvwxyz     "
LIKELIEST = 0.05  # probability of the greedy token: a smaller top_p leaves no other
NAP_SECONDS = 0.005  # no sleep is longer: the worker looks at its sockets between naps


@dataclass(frozen=True)
class Timing:
    """How long steps take, in milliseconds: decode `alpha + beta·rows`, prefill `gamma + delta·prompt tokens`."""

    alpha: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0
    delta: float = 0.0

    def seconds(self, rows: int, prefill_tokens: int) -> float:
        decode = self.alpha + self.beta * rows if rows else 0.0
        prefill = self.gamma + self.delta * prefill_tokens if prefill_tokens else 0.0
        return (decode + prefill) / 1000


@dataclass(frozen=True)
class Faults:
    """What goes wrong on purpose, counted in steps since the start; 0 is never."""

    crash_at_step: int = 0  # the process ends
    raise_at_step: int = 0  # step() raises
    stall_at_step: int = 0  # step() does not return for `stall_seconds`
    stall_seconds: float = 3600.0


@dataclass(eq=False)
class Row:
    handle: int
    index: int
    prompt: tuple[int, ...]
    params: SamplingParams
    sink: Sink
    kind: RequestKind
    priority: int
    score_from: int
    state: int = 0  # digest of the context so far
    began: float = 0.0
    prefilled: bool = False
    output: list[int] = field(default_factory=list)


class MockEngine:
    """Implements interface.EngineLike."""

    def __init__(
        self,
        mode: Mode = "hash",
        *,
        eos_token_id: int,
        vocab_size: int,
        max_model_len: int = 2048,
        max_rows: int = 32,
        timing: Timing | None = None,
        faults: Faults | None = None,
        embedding_size: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode, self.eos, self.vocab_size, self.max_model_len = mode, eos_token_id, vocab_size, max_model_len
        self._max_rows, self._timing, self._faults = max_rows, timing or Timing(), faults or Faults()
        self._embedding_size, self._clock = embedding_size, clock
        self._waiting: list[Row] = []
        self._running: list[Row] = []
        self._due: float | None = None  # when the step under way is over
        self._over: float | None = None  # when the one before was to be over
        self._handles = 0
        self._counts = {"prompt_tokens": 0, "generated_tokens": 0, "finished": 0, "aborted": 0, "steps": 0}

    def add_request(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        sink: Sink,
        *,
        kind: RequestKind = "generate",
        priority: int = 0,
        score_from: int = 1,
        salt: str = "",
    ) -> int:
        if len(ids) >= self.max_model_len:
            raise InvalidRequest(f"the prompt has {len(ids)} tokens, the model takes {self.max_model_len}", "prompt")
        check_ids(ids, self.vocab_size, "prompt")
        self._handles += 1
        rows = params.n if kind == "generate" else 1
        for index in range(rows):
            row = Row(self._handles, index, tuple(ids), params, sink, kind, priority, score_from, _digest(ids, ()))
            self._waiting.append(row)
        self._waiting.sort(key=lambda row: (row.priority, row.handle, row.index))
        return self._handles

    def abort(self, handle: int, index: int | None = None) -> None:
        for rows in (self._waiting, self._running):
            for row in [row for row in rows if row.handle == handle and index in (None, row.index)]:
                rows.remove(row)
                self._counts["aborted"] += 1

    def complete(self, handle: int, index: int) -> None:
        self.abort(handle, index)
        self._counts["aborted"] -= 1
        self._counts["finished"] += 1

    def step(self) -> bool:
        """Starts a step, naps while it lasts, ends it; one call does at most one nap."""
        if not self._waiting and not self._running:
            self._due = self._over = None
            return False
        if self._due is None:
            self._due = self._start() + self._begin()
        rest = self._due - self._clock()
        if rest > 0:
            time.sleep(min(rest, NAP_SECONDS))
            if rest > NAP_SECONDS:
                return True
        over, self._due = self._due, None
        self._deliver()
        busy = bool(self._waiting or self._running)
        self._over = over if busy else None
        return busy

    def _start(self) -> float:
        """Of a step: the end of the last one, as on a device which is fed ahead; so what the host does costs nothing."""
        now = self._clock()
        return self._over if self._over is not None and now - self._over < NAP_SECONDS else now

    def stats(self) -> Stats:
        used = sum(len(row.prompt) + len(row.output) for row in self._running)
        return Stats(
            running=len(self._running),
            waiting=len(self._waiting),
            max_rows=self._max_rows,
            kv_tokens_used=used,
            kv_tokens=self._max_rows * self.max_model_len,
            **self._counts,
        )

    def drain(self) -> None:
        for row in self._running + self._waiting:
            row.sink(Event(row.index, finish="abort"))
        self._running, self._waiting = [], []

    def _begin(self) -> float:
        self._counts["steps"] += 1
        self._fail(self._counts["steps"])
        decoding = len(self._running)
        while self._waiting and len(self._running) < self._max_rows:
            self._running.append(self._waiting.pop(0))
            self._running[-1].began = time.monotonic()
        prefill = sum(len(row.prompt) for row in self._running if not row.prefilled)
        self._counts["prompt_tokens"] += prefill
        return self._timing.seconds(decoding, prefill)

    def _fail(self, step: int) -> None:
        if step == self._faults.crash_at_step:
            os._exit(70)
        if step == self._faults.raise_at_step:
            raise RuntimeError(f"fault injected at step {step}")
        if step == self._faults.stall_at_step:
            time.sleep(self._faults.stall_seconds)

    def _deliver(self) -> None:
        for row in list(self._running):
            event = self._advance(row)
            if event.finish:
                self._running.remove(row)
                self._counts["finished"] += 1
            row.sink(event)

    def _advance(self, row: Row) -> Event:
        event = Event(row.index)
        if not row.prefilled:
            row.prefilled = True
            event.began = row.began
            event.prompt_logprobs = self._prompt_logprobs(row)
        if row.kind != "generate" or row.params.max_tokens == 0:
            event.finish = "length" if row.kind == "generate" else "stop"
            event.embedding = self._embedding(row) if row.kind == "embed" else None
            return event
        token = self._next_token(row)
        row.output.append(token)
        row.state = _digest((row.state, token), ())
        self._counts["generated_tokens"] += 1
        event.token_ids = [token]
        if row.params.logprobs is not None:
            context = row.prompt + tuple(row.output[:-1])
            event.logprobs = [self._logprob(context, token, row.params.logprobs)]
        event.finish = self._finish(row, token)
        if event.finish == "stop" and token != self.eos:
            event.stop_reason = token
        return event

    def _finish(self, row: Row, token: int) -> FinishReason | None:
        params, count = row.params, len(row.output)
        if count >= params.min_tokens and (token in params.stop_token_ids or (token == self.eos and not params.ignore_eos)):
            return "stop"
        limit = self.max_model_len - len(row.prompt)
        return "length" if count >= min(limit, params.max_tokens or limit) else None

    def _next_token(self, row: Row) -> int:
        if row.params.grammar and (written := example(row.params.grammar).encode()):
            return written[len(row.output)] if len(row.output) < len(written) else self.eos
        if self.mode == "digits":
            return DIGITS[(len(row.prompt) + len(row.output) - 1) % 10]
        if self.mode == "echo":
            at = len(row.output)
            return row.prompt[at % len(row.prompt)] if row.prompt else self.eos
        params = row.params
        sampled = params.temperature > 0 and params.top_k != 1 and params.top_p > LIKELIEST
        seed = (params.seed if params.seed is not None else row.handle, row.index) if sampled else ()
        return LETTERS[_digest((row.state,), seed) % len(LETTERS)]

    def _logprob(self, context: Sequence[int], token: int, alternatives: int) -> Logprob:
        chosen = -math.log(2 + _digest(context, (token,)) % 100)
        others = [((token + step) % self.vocab_size, chosen - step) for step in range(1, alternatives)]
        return Logprob(token, chosen, tuple([(token, chosen), *others][:alternatives]))

    def _prompt_logprobs(self, row: Row) -> list[Logprob] | None:
        wanted = row.params.prompt_logprobs
        if row.kind == "score":
            first, wanted = row.score_from, wanted or 0
        elif wanted is not None:
            first = 0
        else:
            return None
        scored = [self._logprob(row.prompt[:at], row.prompt[at], wanted) for at in range(max(first, 1), len(row.prompt))]
        return [Logprob(row.prompt[0], None), *scored] if first == 0 and row.prompt else scored

    def _embedding(self, row: Row) -> list[float]:
        vector = [_digest(row.prompt, (axis,)) % 2001 / 1000 - 1 for axis in range(self._embedding_size)]
        norm = math.sqrt(sum(value * value for value in vector)) or 1.0
        return [value / norm for value in vector]


def _digest(context: Sequence[int], salt: tuple[int, ...]) -> int:
    text = ",".join(map(str, context)) + "|" + ",".join(map(str, salt))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
