"""What every engine is to the handlers above it: requests in, events out, one step at a time.

An engine knows tokens only. Text, chat templates and stop strings live one layer above (`text_stream`), so `stop`,
`include_stop` and `skip_special_tokens` of the sampling parameters mean nothing here. The engine's owner calls `step()`
from one thread for as long as it returns True; sinks are called from inside `step()` and must not block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..generation import FinishReason, InvalidRequest, SamplingParams

RequestKind = Literal["generate", "score", "embed"]

MOST_TOKENS = (1 << 31) - 1
MOST_ALTERNATIVES = 100  # a whole vocabulary's for each token would be all of the worker's memory
MOST_BIAS = 1e6


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log-probability of one token under the raw logits, with the best alternatives."""

    token_id: int
    logprob: float | None  # None for a prompt's first token
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Event:
    """What one step gave one choice of a request."""

    index: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob] | None = None
    prompt_logprobs: list[Logprob] | None = None  # in the first event
    embedding: list[float] | None = None
    finish: FinishReason | None = None
    stop_reason: int | None = None  # the token that ended it, when that was one of stop_token_ids
    cached_tokens: int = 0  # of the prompt; known in the first event
    began: float | None = None  # time.monotonic() when its prompt's reading began; in the first event, if the engine knows
    error: str = ""


Sink = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Stats:
    """A look at the engine now, and what it did since its start."""

    running: int = 0
    waiting: int = 0
    max_rows: int = 0
    kv_tokens_used: int = 0
    kv_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens that a kept prefix saved
    generated_tokens: int = 0
    computed_tokens: int = 0  # run through the model, of prompts and answers; 0 where an engine does not tell
    finished: int = 0
    aborted: int = 0
    preempted: int = 0
    steps: int = 0


def check_ids(ids: Sequence[int], vocab_size: int, param: str) -> None:
    """InvalidRequest for tokens that the model does not have."""
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise InvalidRequest(f"token ids are between 0 and {vocab_size - 1}", param)


def asked_by(grammar: str) -> str:
    """The parameter that a grammar comes from, for what is said of it."""
    return "tools" if grammar.startswith("tools:") else "response_format"


BOUNDS: dict[str, tuple[float, float]] = {
    "max_tokens": (0, MOST_TOKENS), "min_tokens": (0, MOST_TOKENS), "temperature": (0, 1e6), "top_k": (0, MOST_TOKENS),
    "top_p": (0, 1), "min_p": (0, 1), "repetition_penalty": (1e-6, 1e6), "presence_penalty": (-1e6, 1e6),
    "frequency_penalty": (-1e6, 1e6), "logprobs": (0, MOST_ALTERNATIVES), "prompt_logprobs": (0, MOST_ALTERNATIVES), "n": (1, 4096),
}  # fmt: skip


def check_sampling(params: SamplingParams) -> None:
    """InvalidRequest for numbers that mean nothing; the APIs have narrower bounds of their own."""
    for name, (low, high) in BOUNDS.items():
        value = getattr(params, name)
        if value is not None and not low <= value <= high:
            shown = f"{value:g}" if isinstance(value, float) else str(value)[:40]
            raise InvalidRequest(f"{name}: {shown} is not between {low} and {high}", name)
    if any(not -MOST_BIAS <= bias <= MOST_BIAS for bias in params.logit_bias.values()):
        raise InvalidRequest(f"logit_bias: a number is not between {-MOST_BIAS:g} and {MOST_BIAS:g}", "logit_bias")


class EngineLike(Protocol):
    """The interface itself: implemented by Engine, EncoderEngine, StaticEngine, MockEngine and VllmEngine."""

    max_model_len: int
    vocab_size: int

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
        """Queue a request and return its handle; InvalidRequest for what can't be done. Lower priorities come first.

        `score` gives the log-probabilities of the prompt's tokens from position `score_from` on. Kept prefixes are shared among
        requests of the same `salt` only.
        """

    def abort(self, handle: int, index: int | None = None) -> None:
        """Forget a request, or one of its choices: no more events, its row is free at the next step. Unknown is fine."""

    def complete(self, handle: int, index: int) -> None:
        """The layer above has all of a choice that it wants: like `abort`, and counted as finished."""

    def step(self) -> bool:
        """One iteration: schedule, run, sample, deliver. False when there is nothing to do."""

    def stats(self) -> Stats: ...

    def drain(self) -> None:
        """Abort everything: every request gets a last event with finish `abort`."""
