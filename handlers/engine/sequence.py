"""One text being read and written: its tokens, how far the model has seen them, and where they are kept."""

from dataclasses import dataclass, field

from torch import Tensor

from ..generation import SamplingParams
from .grammar import Matcher
from .interface import Logprob, RequestKind, Sink


@dataclass(eq=False, slots=True)
class Sequence:
    handle: int
    index: int  # which of the request's n choices
    ids: list[int]  # the prompt, then what was generated
    params: SamplingParams
    sink: Sink
    kind: RequestKind
    order: tuple[int, int]  # (priority, arrival): lower ones come first
    seed: int
    salt: str = ""  # shares prefixes with its like only
    score_from: int | None = None  # first position whose log-probability is wanted
    after: "Sequence | None" = None  # a choice of the same request, whose prompt this one waits to share
    prompt_length: int = 0
    computed: int = 0  # positions whose keys and values are kept
    slot: int | None = None
    cached: int = 0  # prompt tokens that were already kept
    scored: list[Logprob] = field(default_factory=list)
    states: Tensor | None = None  # what an embedding is made of
    grammar: Matcher | None = None
    told: bool = False  # had its first event
    began: float = 0.0  # time.monotonic() when it got its first row

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)
        if self.score_from == 0:
            self.scored.append(Logprob(self.ids[0], None))

    @property
    def pending(self) -> int:
        """Tokens that the model has not seen."""
        return len(self.ids) - self.computed

    @property
    def reads_only(self) -> bool:
        """It is done when its prompt is read."""
        return self.kind != "generate" or self.params.max_tokens == 0

    @property
    def decoding(self) -> bool:
        return 0 < self.computed == len(self.ids) - 1 and not self.reading and not self.reads_only

    @property
    def reading(self) -> bool:
        """There are log-probabilities of the prompt to come."""
        return self.score_from is not None and self.next_scored < self.prompt_length

    @property
    def next_scored(self) -> int:
        """The next position of the prompt whose log-probability is wanted."""
        assert self.score_from is not None
        return self.score_from + len(self.scored)

    @property
    def generated(self) -> int:
        return len(self.ids) - self.prompt_length

    @property
    def reusable(self) -> int:
        """How much of a kept prefix may be taken over: the last token, and those whose logits are wanted, run anyway."""
        most = len(self.ids) - 1
        if self.kind == "embed":
            return 0
        return min(most, self.next_scored - 1) if self.reading else most
