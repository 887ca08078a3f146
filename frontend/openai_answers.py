"""GenerationEvents as OpenAI's objects: whole answers and stream chunks. Pure functions; not for: routes."""

from typing import Any

from ..handlers.generation import GenerationEvent, TokenLogprob, Usage
from .openai_schema import TextRequest
from .openai_tools import Call, calls_in


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def add(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
    )


def completion_logprobs(tokens: list[TokenLogprob], top: int, offset: int = 0) -> dict[str, Any]:
    """The legacy form; `offset` is how many letters came before."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_alternatives(token, top) for token in tokens],
        "text_offset": offsets,
    }


def _alternatives(token: TokenLogprob, top: int) -> dict[str, float] | None:
    """By text; of tokens that read alike, the likelier one counts."""
    if token.logprob is None:
        return None
    named = [*((name, value) for _, name, value in token.top[:top]), (token.token, token.logprob)]
    return dict(sorted(named, key=lambda pair: pair[1]))


def chat_logprobs(tokens: list[TokenLogprob], top: int) -> dict[str, Any]:
    def entry(name: str, value: float | None) -> dict[str, Any]:
        return {"token": name, "logprob": value, "bytes": list(name.encode())}

    return {
        "content": [
            {
                **entry(token.token, token.logprob),
                "top_logprobs": [entry(name, value) for _, name, value in token.top[:top]],
            }
            for token in tokens
        ]
    }


def prompt_logprobs(tokens: list[TokenLogprob], top: int) -> list[dict[str, Any] | None]:
    """vLLM's form: by token, with ranks as far as they are known."""

    def entries(token: TokenLogprob) -> dict[str, Any] | None:
        if token.logprob is None:
            return None
        told = {str(token.token_id): {"logprob": token.logprob, "rank": None, "decoded_token": token.token}}
        for rank, (number, name, value) in enumerate(token.top, 1):
            if rank <= top or number == token.token_id:
                told[str(number)] = {"logprob": value, "rank": rank, "decoded_token": name}
        return told

    return [entries(token) for token in tokens]


def of_prompt(wanted: TextRequest, event: GenerationEvent) -> dict[str, Any]:
    if wanted.prompt_logprobs is None:
        return {}
    return {"prompt_logprobs": prompt_logprobs(event.prompt_logprobs or [], wanted.prompt_logprobs)}


def tokens_of(wanted: TextRequest, event: GenerationEvent) -> list[TokenLogprob]:
    return [*((wanted.echo and event.prompt_logprobs) or []), *(event.logprobs or [])]


def choice(wanted: TextRequest, index: int, event: GenerationEvent) -> dict[str, Any]:
    """One choice of a whole answer."""
    finish = event.finish_reason
    if not wanted.chat:
        logprobs = completion_logprobs(tokens_of(wanted, event), wanted.top_logprobs) if wanted.logprobs else None
        return {
            "index": index,
            "text": event.text,
            "logprobs": logprobs,
            "finish_reason": finish,
            "stop_reason": event.stop_reason,
            **of_prompt(wanted, event),
        }
    message: dict[str, Any] = {"role": "assistant", "content": event.text}
    if wanted.tools.functions:
        said, calls = calls_in(wanted.tools, event.text)
        if calls:
            message |= {"content": said or None, "tool_calls": calls}
            finish = "tool_calls"
    logprobs = chat_logprobs(tokens_of(wanted, event), wanted.top_logprobs) if wanted.logprobs else None
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish,
        "stop_reason": event.stop_reason,
    }


def chunk_choice(wanted: TextRequest, index: int, event: GenerationEvent, offset: int) -> dict[str, Any]:
    """One choice of one chunk; the role has gone out before (`role_choice`)."""
    finish = event.finish_reason
    if not wanted.chat:
        logprobs = completion_logprobs(tokens_of(wanted, event), wanted.top_logprobs, offset) if wanted.logprobs else None
        return {"index": index, "text": event.text, "logprobs": logprobs, "finish_reason": finish}
    logprobs = chat_logprobs(tokens_of(wanted, event), wanted.top_logprobs) if wanted.logprobs else None
    delta = {"content": event.text} if event.text or not finish else {}
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def role_choice(index: int) -> dict[str, Any]:
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}


def calls_choice(index: int, calls: list[Call]) -> dict[str, Any]:
    numbered = [{"index": number, **call} for number, call in enumerate(calls)]
    return {"index": index, "delta": {"tool_calls": numbered}, "logprobs": None, "finish_reason": None}
