"""One generation request and its events: what every text API becomes, and what every engine answers.

HELM, Falcon, OpenAI, Sax and KServe are thin adapters on these types. They travel as MessagePack bodies of the operations
`generate`, `score`, `embed` and `tokenize` (see `protocol.RequestHead.operation`): a GenerationRequest goes down as the
request's body; each GenerationEvent comes back as one CHUNK. Not for: tokenizing or sampling, which is the engine's side.
"""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort", "error", "tool_calls"]


SEEDS = (-(1 << 63), (1 << 63) - 1)


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to choose tokens; the defaults are greedy-free plain sampling, as most APIs have it."""

    max_tokens: int | None = 16  # None: to the end of the context
    min_tokens: int = 0
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None  # None: drawn by the engine
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None  # alternatives per generated token; 0: the chosen token's alone; None: none
    prompt_logprobs: int | None = None
    n: int = 1
    grammar: str | None = None  # "json_object", or "json_schema:" or "tools:" followed by a schema: masks the logits
    skip_special_tokens: bool = True


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a chat, as the model's chat template wants it."""

    role: str
    content: str | None = None
    name: str | None = None
    tool_calls: list[dict[str, object]] | None = None
    tool_call_id: str | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Exactly one of prompt, prompt_ids and messages is given."""

    prompt: str | None = None
    prompt_ids: list[int] | None = None
    messages: list[Message] | None = None
    tools: list[dict[str, object]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False  # the answer goes on where the last message ends
    template_options: dict[str, object] = {}  # further variables of the chat template
    sampling: SamplingParams = SamplingParams()
    truncate_prompt: bool = False  # cut a prompt that is too long from the left, rather than refuse it
    echo: bool = False  # the prompt comes first in the answer
    salt: str = ""  # prompts share what is kept of their beginnings only with those of the same salt: a tenant, an adapter
    stream: bool = True  # False: one event with everything for each choice
    continuous_usage: bool = False  # every event says what was used so far
    priority: int = 0  # lower ones come first


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    token_id: int
    token: str
    logprob: float | None  # None for a prompt's first token
    top: list[tuple[int, str, float]] = []


class Usage(msgspec.Struct, frozen=True, array_like=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class GenerationEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one step gave one choice. Text never holds half a character or a part of a stop string."""

    index: int = 0  # which of the n choices
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None  # in the choice's first event
    finish_reason: FinishReason | None = None  # in the choice's last event
    stop_reason: str | int | None = None  # the stop string or token that ended it
    usage: Usage | None = (
        None  # of the whole request, in its last event; in all of them when `continuous_usage` was asked for
    )
    error: str = ""

    @property
    def failed(self) -> bool:
        return self.finish_reason in ("error", "abort")


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Log-likelihood of each suffix after its prefix."""

    prefix: str = ""
    suffixes: list[str]
    salt: str = ""


class ScoreAnswer(msgspec.Struct, frozen=True, kw_only=True):
    scores: list[float]  # sums of log-probabilities, natural logarithm
    token_counts: list[int]


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    inputs: list[str | list[int]]  # texts or tokens
    dimensions: int | None = None
    salt: str = ""


class EmbedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    embeddings: list[list[float]]
    prompt_tokens: int


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Text or chat to ids (`ids` is None), or ids to text; with nothing given, facts about the tokenizer alone."""

    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[dict[str, object]] | None = None  # with messages, as a GenerationRequest has them
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_options: dict[str, object] = {}
    ids: list[int] | None = None
    add_special_tokens: bool = True


class TokenizeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    ids: list[int] | None = None
    text: str | None = None
    max_model_len: int = 0
    vocab_size: int = 0
    info: dict[str, object] = {}


class InvalidRequest(Exception):
    """A parameter which this model or engine can't take; `param` is its name, for the APIs that say it."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
