"""GenerationEvents as OpenAI's objects: whole answers and stream chunks. Pure functions; not for: routes."""

import json
import re
import uuid
from typing import Any

from ..handlers.generation import GenerationEvent, TokenLogprob, Usage
from .openai_schema import TextRequest

FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "abort": "stop", "error": "stop"}


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


def completion_logprobs(tokens: list[TokenLogprob], offset: int = 0) -> dict[str, Any]:
    """The legacy form; `offset` is how many letters came before."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            None if token.logprob is None else {token.token: token.logprob} | {name: value for _, name, value in token.top}
            for token in tokens
        ],
        "text_offset": offsets,
    }


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


def tokens_of(event: GenerationEvent) -> list[TokenLogprob]:
    return [*(event.prompt_logprobs or []), *(event.logprobs or [])]


def choice(wanted: TextRequest, index: int, event: GenerationEvent) -> dict[str, Any]:
    """One choice of a whole answer."""
    finish = FINISH[event.finish_reason or "stop"]
    if not wanted.chat:
        logprobs = completion_logprobs(tokens_of(event)) if wanted.logprobs else None
        return {
            "index": index,
            "text": event.text,
            "logprobs": logprobs,
            "finish_reason": finish,
            "stop_reason": event.stop_reason,
        }
    message: dict[str, Any] = {"role": "assistant", "content": event.text}
    if wanted.tools and (calls := tool_calls(wanted, event.text)):
        message |= {"content": None, "tool_calls": calls}
        finish = "tool_calls"
    logprobs = chat_logprobs(tokens_of(event), wanted.top_logprobs) if wanted.logprobs else None
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish,
        "stop_reason": event.stop_reason,
    }


def chunk_choice(wanted: TextRequest, index: int, event: GenerationEvent, offset: int) -> dict[str, Any]:
    """One choice of one chunk; the role has gone out before (`role_choice`)."""
    finish = FINISH[event.finish_reason] if event.finish_reason else None
    if not wanted.chat:
        logprobs = completion_logprobs(tokens_of(event), offset) if wanted.logprobs else None
        return {"index": index, "text": event.text, "logprobs": logprobs, "finish_reason": finish}
    logprobs = chat_logprobs(tokens_of(event), wanted.top_logprobs) if wanted.logprobs else None
    delta = {"content": event.text} if event.text or not finish else {}
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def role_choice(index: int) -> dict[str, Any]:
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}


def calls_choice(index: int, calls: list[dict[str, Any]]) -> dict[str, Any]:
    numbered = [{"index": number, **call} for number, call in enumerate(calls)]
    return {"index": index, "delta": {"tool_calls": numbered}, "logprobs": None, "finish_reason": None}


def tool_calls(wanted: TextRequest, text: str) -> list[dict[str, Any]]:
    """The calls in an answer: constrained ones are JSON as a whole; free ones are what common templates train for."""
    known = {tool["function"]["name"] for tool in wanted.tools}
    pieces = re.findall(r"<tool_call>\s*(.*?)\s*</tool_call>", text, re.DOTALL) or [text.strip()]
    calls = []
    for piece in pieces:
        try:
            found = json.loads(piece)
        except (ValueError, RecursionError):
            continue
        for call in found if isinstance(found, list) else [found]:
            if isinstance(call, dict) and call.get("name") in known:
                arguments = call.get("arguments", call.get("parameters", {}))
                words = arguments if isinstance(arguments, str) else json.dumps(arguments)
                calls.append(
                    {
                        "id": f"call_{uuid.uuid4().hex}",
                        "type": "function",
                        "function": {"name": call["name"], "arguments": words},
                    }
                )
    return calls
