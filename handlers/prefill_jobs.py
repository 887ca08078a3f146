"""Scores and embeddings: requests that only read their prompts, so the engine is done with them after the prefill."""

from collections.abc import Callable

from .engine.interface import EngineLike, Event
from .generation import EmbedAnswer, EmbedRequest, InvalidRequest, SamplingParams, ScoreAnswer, ScoreRequest
from .tokenizer import Tokenizer

READ_ONLY = SamplingParams(max_tokens=0, temperature=0)


class Failed(Exception):
    """The engine gave up a request."""


class Scoring:
    """Log-likelihood of each suffix after the prefix which they share.

    As evaluation harnesses have it, blanks at the prefix's end belong to the suffixes: tokens begin with blanks.
    """

    def __init__(
        self, engine: EngineLike, tokenizer: Tokenizer, request: ScoreRequest, done: Callable[[ScoreAnswer | Failed], None]
    ) -> None:
        self._engine, self._done, self._salt = engine, done, request.salt
        prefix = request.prefix.rstrip()
        blanks = request.prefix[len(prefix) :]
        before = tokenizer.encode(prefix) or tokenizer.beginning
        ends = [continuation(tokenizer, prefix, blanks + suffix) if suffix else [] for suffix in request.suffixes]
        self._counts = [max(len(before + ids) - max(len(before), 1), 0) for ids in ends]
        self._scores = [0.0] * len(ends)
        self._open = {index for index, count in enumerate(self._counts) if count}
        self._failed = False
        self._handles: list[int] = []
        try:
            for index in sorted(self._open):
                self._handles.append(self._add(index, before + ends[index], max(len(before), 1)))
        except InvalidRequest:
            self.cancel()
            raise
        if not self._open:
            self._finish()

    def cancel(self) -> None:
        for handle in self._handles:
            self._engine.abort(handle)

    def _add(self, index: int, ids: list[int], score_from: int) -> int:
        def take(event: Event) -> None:
            if self._failed:  # others of the same step fail, too
                return
            if event.finish in ("abort", "error"):
                self._failed = True
                self.cancel()
                self._done(Failed(event.error or "aborted"))
                return
            self._scores[index] += sum(scored.logprob or 0.0 for scored in event.prompt_logprobs or [])
            if event.finish is not None:
                self._open.discard(index)
                if not self._open:
                    self._finish()

        return self._engine.add_request(ids, READ_ONLY, take, kind="score", score_from=score_from, salt=self._salt)

    def _finish(self) -> None:
        self._done(ScoreAnswer(scores=self._scores, token_counts=self._counts))


def continuation(tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
    """The suffix's tokens as they come after the prefix, or where both would melt into one token, after a line's end."""
    for before in (prefix, "\n"):
        begin, whole = tokenizer.encode(before), tokenizer.encode(before + suffix)
        if whole[: len(begin)] == begin and len(whole) > len(begin):
            return whole[len(begin) :]
    return tokenizer.encode(suffix, add_special_tokens=False)


class Embedding:
    """A vector for each input."""

    def __init__(
        self, engine: EngineLike, tokenizer: Tokenizer, request: EmbedRequest, done: Callable[[EmbedAnswer | Failed], None]
    ) -> None:
        self._engine, self._done = engine, done
        self._dimensions, self._salt = request.dimensions, request.salt
        prompts = [tokenizer.encode(item) if isinstance(item, str) else item for item in request.inputs]
        if not prompts or not all(prompts):
            raise InvalidRequest("inputs must not be empty", "input")
        self._tokens = sum(map(len, prompts))
        self._vectors: list[list[float]] = [[] for _ in prompts]
        self._open, self._failed = len(prompts), False
        self._handles: list[int] = []
        try:
            for index, ids in enumerate(prompts):
                self._handles.append(self._add(index, ids))
        except InvalidRequest as error:
            self.cancel()
            raise InvalidRequest(str(error), "input") from None

    def cancel(self) -> None:
        for handle in self._handles:
            self._engine.abort(handle)

    def _add(self, index: int, ids: list[int]) -> int:
        def take(event: Event) -> None:
            if self._failed:  # others of the same step fail, too
                return
            if event.finish in ("abort", "error") or event.embedding is None:
                self._failed = True
                self.cancel()
                self._done(Failed(event.error or "aborted"))
                return
            self._vectors[index] = self._cut(event.embedding)
            self._open -= 1
            if not self._open:
                self._done(EmbedAnswer(embeddings=self._vectors, prompt_tokens=self._tokens))

        return self._engine.add_request(ids, READ_ONLY, take, kind="embed", salt=self._salt)

    def _cut(self, vector: list[float]) -> list[float]:
        """The first dimensions, brought back to length 1."""
        if self._dimensions is None or self._dimensions >= len(vector):
            return vector
        kept = vector[: self._dimensions]
        norm = sum(value * value for value in kept) ** 0.5 or 1.0
        return [value / norm for value in kept]
