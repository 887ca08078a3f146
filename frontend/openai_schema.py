"""OpenAI's requests as ours: pure functions from a JSON body to a GenerationRequest. Nulls are absent, unknown keys ignored.

What can't be read raises Invalid with the parameter's name. Not for: routes and answers, which are `openai` and
`openai_answers`.
"""

from dataclasses import dataclass
from typing import Any

from ..handlers.generation import SEEDS, GenerationRequest, Message, SamplingParams
from .openai_body import MOST, Invalid, flag, is_tokens, number, parse, text, token_list, whole
from .openai_tools import Tools, grammar_of, tools_of

NO_TOOLS = Tools()
MAX_LOGPROBS = 20
MAX_CHOICES = 128
MAX_PROMPTS = 2048
MAX_ANSWERS = 4096  # prompts times n
MAX_STOPS = 64


@dataclass(frozen=True)
class Streaming:
    wanted: bool = False
    usage: bool = False  # one more chunk at the end, with no choices
    continuous_usage: bool = False  # … and in every chunk


@dataclass(frozen=True)
class TextRequest:
    """One HTTP request: one GenerationRequest for each prompt, and how the answer is wanted."""

    model: str
    requests: list[GenerationRequest]
    streaming: Streaming
    chat: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    echo: bool = False
    prompt_logprobs: int | None = None  # vLLM's; alternatives for each of the prompt's tokens
    tools: Tools = NO_TOOLS


def completion(body: bytes) -> TextRequest:
    """POST /v1/completions; `prompt` is a string, a list of strings, a list of tokens, or a list of lists of tokens."""
    given = parse(body)
    if given.get("suffix"):
        raise Invalid("suffix: texts with a gap are not supported.", "suffix")
    if whole(given, "best_of", 1, 1, MAX_CHOICES) > whole(given, "n", 1, 1, MAX_CHOICES):
        raise Invalid("best_of: more candidates than n are not supported.", "best_of")
    logprobs = whole(given, "logprobs", -1, -1, MAX_LOGPROBS)
    echo, streaming = flag(given, "echo"), streaming_of(given)
    of_prompt = prompt_logprobs_of(given, streaming)
    sampling = sampling_of(
        given, default_max_tokens=16, logprobs=logprobs if logprobs >= 0 else None, prompt_logprobs=of_prompt, echo=echo
    )
    requests = [
        GenerationRequest(
            prompt=prompt if isinstance(prompt, str) else None,
            prompt_ids=None if isinstance(prompt, str) else prompt,
            sampling=sampling,
            echo=echo,
            stream=streaming.wanted,
            continuous_usage=streaming.continuous_usage,
            priority=priority_of(given),
            salt=salt_of(given),
        )
        for prompt in prompts_of(given)
    ]
    if len(requests) * sampling.n > MAX_ANSWERS:
        raise Invalid(f"n: at most {MAX_ANSWERS} answers can be asked for at once.", "n")
    return TextRequest(
        text(given, "model"),
        requests,
        streaming,
        logprobs=logprobs >= 0,
        top_logprobs=max(logprobs, 0),
        echo=echo,
        prompt_logprobs=of_prompt,
    )


def prompts_of(given: dict[str, Any]) -> list[str | list[int]]:
    prompt = given.get("prompt", "")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if len(prompt) > MAX_PROMPTS and not is_tokens(prompt):
            raise Invalid(f"prompt: at most {MAX_PROMPTS} prompts can be asked for at once.", "prompt")
        if all(isinstance(item, str) for item in prompt):
            return list(prompt)
        if is_tokens(prompt):
            return [prompt]
        if all(is_tokens(item) for item in prompt):
            return list(prompt)
    raise Invalid("prompt: a string, a list of strings, a list of tokens or a list of such lists is wanted.", "prompt")


def chat(body: bytes) -> TextRequest:
    """POST /v1/chat/completions"""
    given = parse(body)
    if "chat_template" in given:
        raise Invalid("chat_template: templates come with the model; chat_template_kwargs go into it.", "chat_template")
    tools = tools_of(given)
    logprobs = flag(given, "logprobs")
    top = whole(given, "top_logprobs", 0, 0, MAX_LOGPROBS)
    if top and not logprobs:
        raise Invalid("top_logprobs needs logprobs: true.", "top_logprobs")
    continued, streaming = flag(given, "continue_final_message"), streaming_of(given)
    of_prompt = prompt_logprobs_of(given, streaming)
    request = GenerationRequest(
        messages=messages_of(given),
        tools=[{"type": "function", "function": function} for function in tools.functions] or None,
        add_generation_prompt=flag(given, "add_generation_prompt", not continued),
        continue_final_message=continued,
        template_options=options_of(given, "chat_template_kwargs"),
        sampling=sampling_of(
            given, None, logprobs=top if logprobs else None, prompt_logprobs=of_prompt, grammar=tools.grammar()
        ),
        stream=streaming.wanted,
        continuous_usage=streaming.continuous_usage,
        priority=priority_of(given),
        salt=salt_of(given),
    )
    return TextRequest(
        text(given, "model"),
        [request],
        streaming,
        chat=True,
        logprobs=logprobs,
        top_logprobs=top,
        prompt_logprobs=of_prompt,
        tools=tools,
    )


def messages_of(given: dict[str, Any]) -> list[Message]:
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Invalid("messages: a list of at least one message is wanted.", "messages")
    return [_message(item, f"messages[{index}]") for index, item in enumerate(messages)]


def _message(item: object, where: str) -> Message:
    if not isinstance(item, dict) or not isinstance(item.get("role"), str):
        raise Invalid(f"{where}: an object with a role is wanted.", where)
    content = item.get("content")
    if isinstance(content, list):  # text in parts
        texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
        if not all(isinstance(part, str) for part in texts):
            raise Invalid(f"{where}.content: only parts of type text are understood here.", f"{where}.content")
        content = "\n".join(str(part) for part in texts)
    if content is not None and not isinstance(content, str):
        raise Invalid(f"{where}.content: a string or a list of parts is wanted.", f"{where}.content")
    calls = item.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise Invalid(f"{where}.tool_calls: a list of objects is wanted.", f"{where}.tool_calls")
    call_id, name = item.get("tool_call_id"), item.get("name")
    return Message(
        role="system" if item["role"] == "developer" else item["role"],  # templates know the older name
        content=content,
        name=name if isinstance(name, str) else None,
        tool_calls=calls,
        tool_call_id=call_id if isinstance(call_id, str) else None,
    )


def sampling_of(
    given: dict[str, Any],
    default_max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    echo: bool = False,
    grammar: str | None = None,
) -> SamplingParams:
    most = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    wanted = whole(given, most, 16, 0 if echo else 1, MOST) if most in given else default_max_tokens
    of_prompt = [count for count in (prompt_logprobs, logprobs if echo else None) if count is not None]
    top_k = whole(given, "top_k", 0, -1, 1 << 20)
    seed = whole(given, "seed", -1, *SEEDS) if "seed" in given else None
    return SamplingParams(
        max_tokens=wanted,
        min_tokens=whole(given, "min_tokens", 0, 0, 1 << 20),
        temperature=number(given, "temperature", 1.0, 0, 100),
        top_k=max(top_k, 0),
        top_p=number(given, "top_p", 1.0, 0, 1),
        min_p=number(given, "min_p", 0.0, 0, 1),
        seed=seed,
        stop=stops_of(given),
        stop_token_ids=tuple(token_list(given, "stop_token_ids")),
        include_stop=flag(given, "include_stop_str_in_output"),
        ignore_eos=flag(given, "ignore_eos"),
        repetition_penalty=number(given, "repetition_penalty", 1.0, 0.01, 100),
        presence_penalty=number(given, "presence_penalty", 0.0, -2, 2),
        frequency_penalty=number(given, "frequency_penalty", 0.0, -2, 2),
        logit_bias=bias_of(given),
        logprobs=logprobs,
        prompt_logprobs=max(of_prompt, default=None),
        n=whole(given, "n", 1, 1, MAX_CHOICES),
        grammar=grammar or grammar_of(given),
        skip_special_tokens=flag(given, "skip_special_tokens", True),
    )


def stops_of(given: dict[str, Any]) -> tuple[str, ...]:
    stop = given.get("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(item, str) for item in stops):
        raise Invalid(f"stop: a string or a list of at most {MAX_STOPS} strings is wanted.", "stop")
    return tuple(item for item in stops if item)


def bias_of(given: dict[str, Any]) -> dict[int, float]:
    value = given.get("logit_bias", {})
    try:
        biases = {int(token): float(bias) for token, bias in value.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise Invalid("logit_bias: an object from tokens to numbers is wanted.", "logit_bias") from None
    if len(biases) > 1024 or any(not -100 <= bias <= 100 or not 0 <= token <= MOST for token, bias in biases.items()):
        raise Invalid("logit_bias: at most 1024 tokens are wanted, with numbers between -100 and 100.", "logit_bias")
    return biases


def prompt_logprobs_of(given: dict[str, Any], streaming: Streaming) -> int | None:
    if "prompt_logprobs" not in given:
        return None
    if streaming.wanted:
        raise Invalid("prompt_logprobs are not told in a stream.", "prompt_logprobs")
    return whole(given, "prompt_logprobs", 0, 0, MAX_LOGPROBS)


def options_of(given: dict[str, Any], key: str) -> dict[str, Any]:
    value = given.get(key, {})
    if not isinstance(value, dict):
        raise Invalid(f"{key}: an object is wanted.", key)
    return value


def salt_of(given: dict[str, Any]) -> str:
    return text(given, "cache_salt", "")


def priority_of(given: dict[str, Any]) -> int:
    return whole(given, "priority", 0, -(1 << 31), 1 << 31)


def streaming_of(given: dict[str, Any]) -> Streaming:
    options, wanted = options_of(given, "stream_options"), flag(given, "stream")
    continuous = wanted and bool(options.get("continuous_usage_stats"))
    return Streaming(wanted, bool(options.get("include_usage")), continuous)
