"""Text to tokens and back: Hugging Face tokenizers, and one of bytes which needs no download.

The chat template is rendered here, in Jinja's sandbox: a model's template is code of a stranger's. Not for: streaming
(`engine.text_stream`).
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .generation import InvalidRequest, Message

BYTE_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content or '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Tokenizer(Protocol):
    vocab_size: int
    eos_token_id: int
    eos_token_ids: tuple[int, ...]
    beginning: list[int]  # what a text begins after, so that its first token can be scored: at most one token
    chat_template: str | None
    tool_template: str | None  # the one for conversations with tools, if that is another

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def token_text(self, token_id: int, skip_special_tokens: bool = False) -> str:
        """What this token adds in the middle of a text; half characters come as U+FFFD."""

    def facts(self) -> dict[str, object]:
        """Names of the special tokens, and the chat template."""


class ByteTokenizer:
    """A token is a byte; after them the end of text and the beginning."""

    vocab_size = 258
    eos_token_id = 256
    eos_token_ids: tuple[int, ...] = (256,)
    bos_token_id = 257
    eos_token = "<|endoftext|>"
    bos_token = "<|begin|>"

    def __init__(self, chat_template: str | None = None) -> None:
        self.beginning = [self.bos_token_id]
        self.chat_template: str | None = chat_template or BYTE_TEMPLATE
        self.tool_template: str | None = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        first, *rest = text.split(self.eos_token)
        ids = list(first.encode())
        for part in rest:
            ids += [self.eos_token_id, *part.encode()]
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        special = {} if skip_special_tokens else {256: self.eos_token.encode(), 257: self.bos_token.encode()}
        return b"".join(bytes((id,)) if id < 256 else special.get(id, b"") for id in ids).decode(errors="replace")

    def token_text(self, token_id: int, skip_special_tokens: bool = False) -> str:
        return self.decode([token_id], skip_special_tokens)

    def facts(self) -> dict[str, object]:
        return {"eos_token": self.eos_token, "bos_token": self.bos_token, "chat_template": self.chat_template}


class HfTokenizer:
    """A tokenizer of a Hugging Face model folder."""

    def __init__(self, inner: Any, eos_token_ids: Sequence[int] = (), chat_template: str | None = None) -> None:
        self.inner = inner
        self.vocab_size = len(inner)
        own = [] if inner.eos_token_id is None else [inner.eos_token_id]
        self.eos_token_ids: tuple[int, ...] = tuple(dict.fromkeys([*own, *eos_token_ids]))
        self.eos_token_id = self.eos_token_ids[0] if self.eos_token_ids else -1
        self.beginning = [inner.bos_token_id] if inner.bos_token_id is not None else list(self.eos_token_ids[:1])
        own_template = chat_template or inner.chat_template
        named = own_template if isinstance(own_template, dict) else {"default": own_template}
        self.chat_template: str | None = named.get("default")
        self.tool_template: str | None = named.get("tool_use")
        self._texts: dict[int, str] = {}
        self._special = {*inner.all_special_ids, *(id for id, token in inner.added_tokens_decoder.items() if token.special)}

    @classmethod
    def load(
        cls,
        path: str | Path,
        eos_token_ids: Sequence[int] = (),
        chat_template: str | None = None,
        trust_remote_code: bool = False,
    ) -> "HfTokenizer":
        from transformers import AutoTokenizer

        inner = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
        return cls(inner, eos_token_ids, chat_template)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(self.inner.encode(text, add_special_tokens=add_special_tokens))

    @property
    def closing(self) -> list[int]:
        """The tokens that end every text, such as [SEP]."""
        whole, plain = self.encode("a"), self.encode("a", add_special_tokens=False)
        start = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), len(whole))
        return whole[start + len(plain) :] if plain else []

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        text = self.inner.decode(ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
        return str(text)

    def token_text(self, token_id: int, skip_special_tokens: bool = False) -> str:
        if skip_special_tokens and token_id in self._special:
            return ""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._token_text(token_id)
        return text

    def facts(self) -> dict[str, object]:
        special = {name: str(token) for name, token in self.inner.special_tokens_map.items() if isinstance(token, str)}
        return {**special, "chat_template": self.chat_template}

    def _token_text(self, token_id: int) -> str:
        before, both = self._anchor, self.decode([*self._anchor_ids, token_id], skip_special_tokens=False)
        return both.removeprefix(before)

    @cached_property
    def _anchor_ids(self) -> list[int]:
        """A token before the one in question, for tokenizers that drop a text's leading blank."""
        return self.encode("a", add_special_tokens=False)[-1:]

    @cached_property
    def _anchor(self) -> str:
        return self.decode(self._anchor_ids, skip_special_tokens=False)


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: list[dict[str, object]] | None = None,
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    options: dict[str, object] | None = None,
) -> str:
    """The prompt which the model's chat template makes of a conversation."""
    source = (tools and tokenizer.tool_template) or tokenizer.chat_template
    if source is None:
        raise InvalidRequest("this model has no chat template", "messages")
    turns = [_turn(message) for message in messages]
    facts = {name: value for name, value in tokenizer.facts().items() if name != "chat_template"}
    generation_prompt = add_generation_prompt and not continue_final_message
    try:
        template = _compile(source)
        values = {**facts, **(options or {}), "messages": turns, "tools": tools, "add_generation_prompt": generation_prompt}
        text = str(template.render(values))
    except SecurityError:
        raise InvalidRequest("the chat template tried what the sandbox forbids", "messages") from None
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidRequest(f"the chat template refused the messages: {error}", "messages") from None
    if continue_final_message and turns and (last := str(turns[-1].get("content") or "").strip()):
        text = text[: text.rindex(last) + len(last)] if last in text else text
    return text


def _turn(message: Message) -> dict[str, object]:
    """As templates expect it: absent keys are absent, arguments of tool calls are objects."""
    turn: dict[str, object] = {"role": message.role}
    if message.content is not None:
        turn["content"] = message.content
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return turn


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        try:
            return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
        except ValueError:
            return call
    return call


class GenerationTag(Extension):
    """{% generation %} … {% endgeneration %} marks what training learns from; here it is what stands between them."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


@lru_cache(maxsize=8)
def _compile(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
