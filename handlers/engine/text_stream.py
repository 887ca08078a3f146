"""From tokens to text, one choice at a time: whole characters only, and never a piece of a stop string.

Text is held back while its last character is incomplete and while its end could be the beginning of a stop string. Tokens
and their log-probabilities travel with the text they made, so that both end at the same place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .interface import Logprob

HALF = "\N{REPLACEMENT CHARACTER}"
Decode = Callable[[Sequence[int]], str]


@dataclass(slots=True)
class Piece:
    """What may be shown now."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    stopped_by: str | None = None  # the stop string that was found: no more will come


class Detokenizer:
    """Decodes as tokens come: the sum of all pieces is what decoding everything at once gives.

    `text_of` gives what a token adds in the middle of a text, a cheap look-up; it decides for tokens of whole characters.
    """

    def __init__(self, decode: Decode, context: Sequence[int] = (), text_of: Callable[[int], str] | None = None) -> None:
        self._decode, self._text_of = decode, text_of
        self._ids = list(context[-4:])  # what a token means may depend on those before it
        self._from, self._shown = 0, len(self._ids)
        self._begin = self._shown

    def push(self, token: int) -> str:
        self._ids.append(token)
        if (
            self._text_of is not None and self._begin < self._shown == len(self._ids) - 1
        ):  # not the first, nothing held back
            text = self._text_of(token)
            if HALF not in text:
                self._from, self._shown = self._shown, len(self._ids)
                return text
        return self._take(final=False)

    def flush(self) -> str:
        """The rest, half characters included."""
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        before = self._decode(self._ids[self._from : self._shown])
        now = self._decode(self._ids[self._from :])
        if before.endswith(HALF) and not now.startswith(before):  # half a character at the prompt's end is whole now
            before = before.rstrip(HALF)
        if len(now) <= len(before) or (now.endswith(HALF) and not final):
            return ""
        self._from, self._shown = self._shown, len(self._ids)
        return now[len(before) :]


class TextStream:
    """One choice's text on its way out."""

    def __init__(
        self,
        decode: Decode,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        context: Sequence[int] = (),
        text_of: Callable[[int], str] | None = None,
    ) -> None:
        self._detokenizer = Detokenizer(decode, context, text_of)
        self._stop = [text for text in stop if text]
        self._include_stop = include_stop
        self._held = ""  # decoded, not shown
        self._length = 0  # characters decoded so far
        self._tokens: list[tuple[int, int, Logprob | None]] = []  # (where its text began, id, logprob), not shown

    def push(self, tokens: Sequence[int], logprobs: Sequence[Logprob] | None = None) -> Piece:
        """Takes a step's tokens; the piece may be empty."""
        for at, token in enumerate(tokens):
            self._tokens.append((self._length, token, logprobs[at] if logprobs else None))
            if piece := self._add(self._detokenizer.push(token)):
                return piece
        return self._release(len(self._held) - self._possible_stop())

    def finish(self) -> Piece:
        """The end of the tokens: gives what was held back."""
        return self._add(self._detokenizer.flush()) or self._release(len(self._held), last=True)

    def _add(self, text: str) -> Piece | None:
        self._held += text
        self._length += len(text)
        found = min(((at, -len(stop), stop) for stop in self._stop if (at := self._held.find(stop)) >= 0), default=None)
        if found is None:
            return None
        at, _, stop = found
        end = at + len(stop) if self._include_stop else at
        cut = self._length - len(self._held) + end
        self._tokens = [entry for entry in self._tokens if entry[0] < cut]
        self._held = self._held[:end]
        self._length = cut
        piece = self._release(end, last=True)
        piece.stopped_by = stop
        return piece

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
        longest = max(map(len, self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stop):
                return size
        return 0

    def _release(self, count: int, last: bool = False) -> Piece:
        text, self._held = self._held[:count], self._held[count:]
        shown_to = self._length - len(self._held)
        out = self._tokens if last else [entry for entry in self._tokens if entry[0] < shown_to]
        self._tokens = self._tokens[len(out) :]
        logprobs = [logprob for _, _, logprob in out if logprob is not None]
        return Piece(text, [token for _, token, _ in out], logprobs)
