"""HELM's prompt API, as AgentInstruct's clients speak it: JSON in, `choices` and `raw_compute_time` out.

Only translates: a body becomes a GenerationRequest, a job's events become the answer. docs/llm-engine.md says where we
keep the original's habits and where we do not.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .engine.config import TextModelConfig
from .generation import SEEDS, GenerationEvent, GenerationRequest, InvalidRequest, SamplingParams, TokenLogprob
from .json_text import loads

Number = TypeVar("Number", int, float)
ROLES = {"user": "<human>: ", "assistant": "<bot>: ", "system": ""}
APOLOGY = "Sorry, this model does not answer that."


@dataclass(frozen=True)
class HelmRequest:
    """`generation` is None when there is nothing to do: no prompt, or no tokens wanted."""

    generation: GenerationRequest | None
    echo: bool = False
    logprobs: bool = False


def read(body: bytes | memoryview, config: TextModelConfig) -> HelmRequest:
    """InvalidRequest for what is no request; unknown keys are ignored, nulls are absent."""
    given = _object(body)
    prompt = given.get("prompt")
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt: a string is wanted", "prompt")
    max_tokens = _number(given, "max_tokens", 16, int)
    alternatives = _number(given, "logprobs", 0, int)
    if max_tokens < 0 or alternatives < 0:
        raise InvalidRequest("max_tokens and logprobs must not be negative", "max_tokens")
    echo = given.get("echo") is True
    wants = alternatives if alternatives > 0 else None
    if not prompt or (max_tokens == 0 and not echo):
        return HelmRequest(None)
    sampling = SamplingParams(
        max_tokens=max_tokens,
        stop=_stops(given),
        logprobs=wants,
        prompt_logprobs=wants if echo else None,
        **_choosing(given),
    )
    text = dress(clean(prompt), config)
    request = GenerationRequest(prompt=text, sampling=sampling, stream=False, truncate_prompt=True, echo=echo)
    return HelmRequest(request, echo, wants is not None)


def answer(request: HelmRequest, events: Sequence[GenerationEvent], seconds: float, deny: Sequence[str] = ()) -> bytes:
    """The JSON body; `events` has one event for each choice."""
    choices = [_choice(request, event, deny) for event in sorted(events, key=lambda event: event.index)]
    nothing = {"text": "", "index": 0, "finish_reason": "length"}
    return json.dumps({"choices": choices or [nothing], "raw_compute_time": round(seconds, 6)}).encode()


def clean(prompt: str) -> str:
    """ChatML's marks in the model's own words; no blanks at the end."""
    for role, words in ROLES.items():
        prompt = re.sub(rf"<\|im_start\|>{role}\n?", words, prompt)
    return prompt.replace("<|im_start|>", "").replace("<|im_end|>", "").rstrip()


def dress(prompt: str, config: TextModelConfig) -> str:
    """The prompt in the model's format; one that already is stays as it is."""
    if config.prompt_format != "llama-2-chat" or prompt.startswith(("[INST]", "<s>[INST]")):
        return prompt
    closing = " [/INST]" if config.close_inst == "auto" and "[/INST]" not in prompt else ""
    return f"[INST] <<SYS>>\n{config.system}\n<</SYS>>\n\n{prompt}{closing}"


def _choice(request: HelmRequest, event: GenerationEvent, deny: Sequence[str]) -> dict[str, Any]:
    text = APOLOGY if any(word in event.text for word in deny) else event.text
    choice: dict[str, Any] = {"text": text, "index": event.index, "finish_reason": event.finish_reason or "length"}
    if request.logprobs:
        tokens = [*(event.prompt_logprobs or []), *(event.logprobs or [])]
        choice["logprobs"] = {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_alternatives(token) for token in tokens],
        }
    return choice


def _alternatives(token: TokenLogprob) -> dict[str, float] | None:
    return {name: value for _, name, value in token.top} if token.logprob is not None else None


def _choosing(given: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature 0 is greedy, whatever else is said; top_p 0, the default, keeps one token: greedy in effect."""
    temperature = _number(given, "temperature", 0.8, float)
    top_p = _number(given, "top_p", 0.0, float)
    top_k = _number(given, "top_k", 50, int)
    penalty = _number(given, "repetition_penalty", 1.0, float)
    seed = _number(given, "seed", 0, int)
    if temperature < 0 or not 0 <= top_p <= 1 or top_k < 0 or penalty <= 0:
        raise InvalidRequest("temperature ≥ 0, 0 ≤ top_p ≤ 1, top_k ≥ 0 and repetition_penalty > 0 are wanted")
    if temperature == 0:
        return {"temperature": 0.0}
    return {"temperature": temperature, "top_p": top_p, "top_k": top_k, "repetition_penalty": penalty, "seed": seed}


def _object(body: bytes | memoryview) -> dict[str, Any]:
    try:
        given = loads(body)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is no JSON") from None
    if not isinstance(given, dict):
        raise InvalidRequest("a JSON object is wanted")
    return {key: value for key, value in given.items() if value is not None}


def _stops(given: Mapping[str, Any]) -> tuple[str, ...]:
    stop = given.get("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise InvalidRequest("stop: a list of strings is wanted", "stop")
    return tuple(filter(None, stops))


def _number(given: Mapping[str, Any], key: str, default: Number, kind: Callable[[Any], Number]) -> Number:
    value = given.get(key, default)
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        number = float(value)
        if not math.isfinite(number) or (kind is int and (number != int(number) or not SEEDS[0] <= number < SEEDS[1])):
            raise ValueError
        return kind(number)
    except (TypeError, ValueError, OverflowError):
        wanted = "whole number of 64 bits" if kind is int else "number"
        raise InvalidRequest(f"{key}: {_shown(value)} is no {wanted}", key) from None


def _shown(value: object) -> str:
    return repr(value)[:40] if isinstance(value, int | float | str) else f"a {type(value).__name__}"
