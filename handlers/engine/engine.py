"""The continuous-batching engine: `schedule → run → sample → deliver`, one step at a time.

One thread owns it. Requests join and leave between steps; what a row gets does not depend on who else is there. Not for:
text (`text_stream`), or the model's arithmetic (`runner`).
"""

import itertools
import logging
import random
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, replace

import torch

from ..generation import FinishReason, InvalidRequest, SamplingParams
from .grammar import Grammars
from .interface import Event, Logprob, RequestKind, Sink, Stats, asked_by, check_ids
from .runner import Output, Runner
from .sampling import choose, logprobs
from .scheduler import Plan, Scheduler
from .sequence import Sequence
from .slots import SlotTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    max_rows: int = 32
    max_tokens: int = 256  # of one step
    kv_tokens: int = 0  # of all rows together; 0: every row may fill its slot


class Engine:
    """Implements interface.EngineLike on any runner."""

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        *,
        slots: int,
        eos_token_ids: Tokens[int] = (),
        prefix_cache: bool = True,
        pooling: str = "last",
        normalize: bool = True,
        grammars: Grammars | None = None,
    ) -> None:
        self.runner, self.max_model_len, self.vocab_size = runner, runner.max_model_len, runner.vocab_size
        self._eos = tuple(token for token in eos_token_ids if 0 <= token < self.vocab_size)  # a tokenizer may have more
        self._pooling, self._normalize, self._grammars = pooling, normalize, grammars
        kv_tokens = max(limits.kv_tokens or slots * runner.max_model_len, runner.max_model_len)
        bounded = kv_tokens < slots * runner.max_model_len and runner.device.type == "cpu"
        self._scheduler = Scheduler(
            SlotTable(slots, prefix_cache and runner.reuses_prefixes),
            max_rows=min(limits.max_rows, slots),
            max_tokens=limits.max_tokens,
            kv_tokens=kv_tokens,
            copy_prefix=runner.copy_prefix,
            give_back=runner.give_back if bounded else None,
        )
        for slot in range(slots if bounded else 0):
            runner.give_back(slot, 0, 1)  # what was written while loading
        self._handles = itertools.count(1)
        self._live: dict[int, list[Sequence]] = {}
        self._counts = dict.fromkeys(
            ("prompt_tokens", "cached_tokens", "generated_tokens", "computed_tokens", "finished", "aborted", "steps"), 0
        )

    def add_request(
        self,
        ids: Tokens[int],
        params: SamplingParams,
        sink: Sink,
        *,
        kind: RequestKind = "generate",
        priority: int = 0,
        score_from: int = 1,
        salt: str = "",
    ) -> int:
        self._check(ids, params, kind)
        handle = next(self._handles)
        seed = params.seed if params.seed is not None else random.getrandbits(63)
        if kind == "generate":
            score_from = -1 if params.prompt_logprobs is None else 0
        rows: list[Sequence] = []
        for index in range(params.n if kind == "generate" else 1):
            row = Sequence(
                handle=handle,
                index=index,
                ids=list(ids),
                params=params,
                sink=sink,
                kind=kind,
                order=(priority, handle),
                seed=seed + index,
                salt=salt,
                score_from=score_from if index == 0 and score_from >= 0 and kind != "embed" else None,
                after=rows[0] if rows else None,
                grammar=self._grammars.matcher(params.grammar) if self._grammars and params.grammar else None,
            )
            rows.append(row)
        self._live[handle] = rows
        for row in rows:
            self._scheduler.add(row)
        return handle

    def abort(self, handle: int, index: int | None = None) -> None:
        self._end(handle, index, "aborted")

    def complete(self, handle: int, index: int) -> None:
        self._end(handle, index, "finished")

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # of the scheduler too, which copies prefixes
    def step(self) -> bool:
        plan = self._scheduler.schedule()
        if not plan:
            return False
        try:
            self._run(plan)
        except Exception as error:
            log.exception("a step of %d rows failed", len(plan.sequences))
            self._fail(error)
        return bool(self._live)

    def stats(self) -> Stats:
        return replace(self._scheduler.stats(), **self._counts)

    def drain(self) -> None:
        for row in self._scheduler.all():
            self._forget(row)
            row.sink(Event(row.index, finish="abort"))

    def _end(self, handle: int, index: int | None, count: str) -> None:
        for row in [row for row in self._live.get(handle, []) if index in (None, row.index)]:
            self._forget(row)
            self._counts[count] += 1

    def _check(self, ids: Tokens[int], params: SamplingParams, kind: RequestKind) -> None:
        if not ids:
            raise InvalidRequest("the prompt is empty", "prompt")
        if len(ids) > self.max_model_len - (kind == "generate" and params.max_tokens != 0):
            raise InvalidRequest(f"the prompt has {len(ids)} tokens, the model takes {self.max_model_len}", "prompt")
        check_ids(ids, self.vocab_size, "prompt")
        check_ids([*params.logit_bias], self.vocab_size, "logit_bias")
        check_ids(params.stop_token_ids, self.vocab_size, "stop_token_ids")
        if params.grammar and self._grammars is None:
            raise InvalidRequest(
                "this model can't be held to a grammar: the extra `grammar` is not installed", asked_by(params.grammar)
            )

    def _run(self, plan: Plan) -> None:
        sampled, scored, wanted = self._wanted(plan)
        embeds = any(row.kind == "embed" for row in plan.sequences)
        output = self.runner.run(plan, wanted, embeds)
        self._scheduler.ran(plan)
        self._counts["steps"] += 1
        self._counts["computed_tokens"] += len(plan.decode) + sum(chunk.end - chunk.start for chunk in plan.chunks)
        for row, at, count in scored:
            self._score(row, output.logits[at : at + count])
        if embeds:
            self._pool(plan, output)
        ready = [row for row, _ in sampled]
        places = [at for _, at in sampled]
        logits = output.logits if len(places) == len(output.logits) else output.logits[places]
        events = self._sample(logits, ready) if ready else []
        self._read_only(plan, events)
        self._deliver(events)

    def _wanted(self, plan: Plan) -> tuple[list[tuple[Sequence, int]], list[tuple[Sequence, int, int]], list[int]]:
        """Which rows of the flat batch need logits: to choose a token (row, place) or for the prompt's log-probabilities
        (row, first place, count). Places count the wanted rows, which come last."""
        sampled = [(row, at) for at, row in enumerate(plan.decode)]
        wanted = list(range(len(plan.decode)))
        scored: list[tuple[Sequence, int, int]] = []
        first = len(plan.decode)
        for chunk in plan.chunks:
            row, end = chunk.sequence, chunk.end - chunk.start + first
            if row.reading:  # the logits of a position tell of the next one
                low, high = max(row.next_scored - 1, chunk.start), min(chunk.end, row.prompt_length - 1)
                if high > low:
                    scored.append((row, len(wanted), high - low))
                    wanted += range(first + low - chunk.start, first + high - chunk.start)
            if chunk.completes and not row.reads_only:
                sampled.append((row, len(wanted)))
                wanted.append(end - 1)
            first = end
        return sampled, scored, wanted or [first - 1]

    def _score(self, row: Sequence, logits: torch.Tensor) -> None:
        start = row.next_scored
        tokens = row.ids[start : start + logits.shape[0]]
        row.scored += logprobs(logits, tokens, row.params.prompt_logprobs or 0)

    def _pool(self, plan: Plan, output: Output) -> None:
        assert output.hidden is not None
        first = len(plan.decode)
        for chunk in plan.chunks:
            row, count = chunk.sequence, chunk.end - chunk.start
            states = output.hidden[first : first + count].float()
            if row.kind == "embed":
                row.states = states[-1] if self._pooling != "mean" else _plus(row.states, states.sum(0))
            first += count

    def _sample(self, logits: torch.Tensor, rows: list[Sequence]) -> list[tuple[Sequence, Event]]:
        tokens = choose(logits, rows, self._eos)
        told: dict[int, Logprob] = {}
        asked = [at for at, row in enumerate(rows) if row.params.logprobs is not None]
        if asked:
            most = max(rows[at].params.logprobs or 0 for at in asked)
            found = logprobs(logits[asked], [tokens[at] for at in asked], most)
            told = dict(zip(asked, found, strict=True))
        events = []
        for at, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            event = Event(row.index, [token])
            if at in told:
                event.logprobs = [replace(told[at], top=told[at].top[: row.params.logprobs])]
            self._append(row, token, event)
            events.append((row, event))
        return events

    def _append(self, row: Sequence, token: int, event: Event) -> None:
        """The token is the row's; the event says whether it was the last."""
        row.ids.append(token)
        self._counts["generated_tokens"] += 1
        params = row.params
        event.finish = self._finish(row, token)
        if event.finish == "stop" and token in params.stop_token_ids:
            event.stop_reason = token
        if row.grammar is not None and row.grammar.accept(token) and event.finish is None:
            event.finish = "stop"

    def _finish(self, row: Sequence, token: int) -> FinishReason | None:
        params = row.params
        ends = token in params.stop_token_ids or (token in self._eos and not params.ignore_eos)
        if ends and row.generated >= params.min_tokens:
            return "stop"
        full = len(row.ids) >= self.max_model_len
        return "length" if full or row.generated == params.max_tokens else None

    def _read_only(self, plan: Plan, events: list[tuple[Sequence, Event]]) -> None:
        """Requests that are done when their prompt is read."""
        for chunk in plan.chunks:
            row = chunk.sequence
            if not chunk.completes or not row.reads_only:
                continue
            event = Event(row.index, finish="length" if row.kind == "generate" else "stop")
            if row.kind == "embed":
                event.embedding = self._embedding(row)
            events.append((row, event))

    def _embedding(self, row: Sequence) -> list[float]:
        assert row.states is not None
        vector = row.states / len(row.ids) if self._pooling == "mean" else row.states
        if self._normalize:
            vector = torch.nn.functional.normalize(vector, dim=0)
        values: list[float] = vector.tolist()
        return values

    def _deliver(self, events: list[tuple[Sequence, Event]]) -> None:
        for row, event in events:
            if not row.told:
                row.told = True
                event.cached_tokens, event.began = row.cached, row.began
                reader = row.after or row  # the first choice reads for all
                event.prompt_logprobs = reader.scored if reader.score_from is not None else None
                self._counts["prompt_tokens"] += row.prompt_length
                self._counts["cached_tokens"] += row.cached
            if event.finish is not None:
                self._forget(row)
                self._counts["finished"] += 1
            row.sink(event)

    def _fail(self, error: Exception) -> None:
        """Who was running is told; what the slots hold is not to be trusted."""
        self._scheduler.slots.forget()
        for row in list(self._scheduler.running):
            self._forget(row)
            row.sink(Event(row.index, finish="error", error=type(error).__name__))

    def _forget(self, row: Sequence) -> None:
        self._scheduler.remove(row)
        rows = self._live.get(row.handle, [])
        if row in rows:
            rows.remove(row)
        if not rows:
            self._live.pop(row.handle, None)


def _plus(so_far: torch.Tensor | None, more: torch.Tensor) -> torch.Tensor:
    return more if so_far is None else so_far + more
