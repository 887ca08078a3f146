"""One generation on its way through an engine: prompt to tokens, tokens to text, events to whoever listens.

The engine's sink feeds the job, the job feeds `emit`. Not for: wire formats, which belong to `language_model`, `helm` and
`falcon`; nor for scores and embeddings, which generate nothing (`prefill_jobs`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from .engine.interface import EngineLike, Event, Logprob, check_sampling
from .engine.text_stream import Piece, TextStream
from .generation import (
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    InvalidRequest,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from .text_metrics import Watch
from .tokenizer import Tokenizer, render_chat

Emit = Callable[[GenerationEvent], None]


def prompt_ids(tokenizer: Tokenizer, request: GenerationRequest) -> list[int]:
    """The request's tokens, whichever way they are given."""
    if request.prompt_ids is not None:
        return request.prompt_ids
    if request.messages is not None:
        text = render_chat(
            tokenizer,
            request.messages,
            request.tools,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            options=request.template_options,
        )
        return tokenizer.encode(text, add_special_tokens=False)
    if request.prompt is None:
        raise InvalidRequest("one of prompt, prompt_ids and messages is wanted", "prompt")
    return tokenizer.encode(request.prompt)


def fit(ids: list[int], limit: int, max_tokens: int | None, beginning: list[int]) -> list[int]:
    """A prompt that the context holds stays whole, and the answer ends with the context. A longer one loses what comes after
    its first token: so much that the answer has its room, up to half of the context."""
    wanted = 1 if max_tokens is None else max_tokens
    if len(ids) + min(wanted, 1) <= limit:
        return ids
    kept = limit - min(wanted, limit // 2)
    first = beginning if kept > 1 and ids[:1] == beginning else []
    return first + ids[len(ids) - kept + len(first) :]


@dataclass(eq=False)
class Choice:
    """One of the n texts of a generation."""

    stream: TextStream
    tokens: int = 0
    done: bool = False
    started: bool = False
    kept: list[GenerationEvent] = field(default_factory=list)  # when nobody wants them one by one


class Generation:
    """The job of a GenerationRequest."""

    def __init__(
        self,
        engine: EngineLike,
        tokenizer: Tokenizer,
        request: GenerationRequest,
        emit: Emit,
        done: Callable[[], None],
        watch: Watch,
    ) -> None:
        """`watch` sees every step's tokens, also when nobody wants them one by one."""
        self.ids = prompt_ids(tokenizer, request)
        if request.truncate_prompt:
            self.ids = fit(self.ids, engine.max_model_len, request.sampling.max_tokens, tokenizer.beginning)
        self._engine, self._tokenizer, self._request = engine, tokenizer, request
        self._emit, self._done, self._watch = emit, done, watch
        params = request.sampling
        check_sampling(params)
        self._choices = [Choice(self._stream(params)) for _ in range(params.n)]
        self._cached = 0
        self.handle = engine.add_request(self.ids, params, self._take, priority=request.priority, salt=request.salt)

    def _stream(self, params: SamplingParams) -> TextStream:
        tokenizer, skip = self._tokenizer, params.skip_special_tokens
        return TextStream(
            lambda ids: tokenizer.decode(ids, skip),
            params.stop,
            params.include_stop,
            self.ids,
            lambda token: tokenizer.token_text(token, skip),
        )

    def cancel(self) -> None:
        self._engine.abort(self.handle)

    @property
    def usage(self) -> Usage:
        return Usage(len(self.ids), sum(choice.tokens for choice in self._choices), self._cached)

    def _take(self, event: Event) -> None:
        """The engine's sink."""
        choice = self._choices[event.index]
        if choice.done:
            return
        choice.tokens += len(event.token_ids)
        if event.token_ids:
            self._watch.saw(len(event.token_ids), event.began, event.index)
        self._cached = max(self._cached, event.cached_tokens)
        piece = choice.stream.push(event.token_ids, event.logprobs)
        finish, reason = event.finish, event.stop_reason
        if piece.stopped_by is not None:
            if finish is None:
                self._engine.complete(self.handle, event.index)
            self._send(choice, event, piece, "stop", piece.stopped_by)
        elif finish is not None:
            rest = choice.stream.finish()
            stopped = rest.stopped_by
            piece = Piece(piece.text + rest.text, piece.token_ids + rest.token_ids, piece.logprobs + rest.logprobs)
            self._send(choice, event, piece, "stop" if stopped else finish, stopped or reason)
        else:
            self._send(choice, event, piece, None, None)

    def _send(
        self, choice: Choice, event: Event, piece: Piece, finish: FinishReason | None, reason: str | int | None
    ) -> None:
        text, prompt_logprobs = piece.text, None
        if not choice.started:
            choice.started = True
            if self._request.echo:
                text = self._tokenizer.decode(self.ids) + text
            if event.prompt_logprobs is not None:
                prompt_logprobs = [self._named(logprob) for logprob in event.prompt_logprobs]
        choice.done = finish is not None
        last = choice.done and all(other.done for other in self._choices)
        if text or piece.token_ids or prompt_logprobs is not None or finish is not None:
            self._deliver(
                choice,
                GenerationEvent(
                    index=event.index,
                    text=text,
                    token_ids=piece.token_ids,
                    logprobs=[self._named(logprob) for logprob in piece.logprobs]
                    if self._request.sampling.logprobs is not None
                    else None,
                    prompt_logprobs=prompt_logprobs,
                    finish_reason=finish,
                    stop_reason=reason,
                    usage=self.usage if last or self._request.continuous_usage else None,
                    error=event.error,
                ),
            )
        if last:
            self._watch.ended(finish or "stop", self.usage)
            self._done()

    def _deliver(self, choice: Choice, event: GenerationEvent) -> None:
        if self._request.stream:
            self._emit(event)
            return
        choice.kept.append(event)
        if event.finish_reason is not None:
            self._emit(merge(choice.kept))

    def _named(self, logprob: Logprob) -> TokenLogprob:
        name = self._tokenizer.token_text
        top = [(token, name(token), value) for token, value in logprob.top]
        return TokenLogprob(logprob.token_id, name(logprob.token_id), logprob.logprob, top)


def merge(events: list[GenerationEvent]) -> GenerationEvent:
    """All events of one choice as one."""
    first, last = events[0], events[-1]
    logprobs = [logprob for event in events for logprob in event.logprobs or []]
    return GenerationEvent(
        index=first.index,
        text="".join(event.text for event in events),
        token_ids=[token for event in events for token in event.token_ids],
        logprobs=logprobs if first.logprobs is not None else None,
        prompt_logprobs=first.prompt_logprobs,
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        usage=last.usage,
        error=last.error,
    )
