"""Holds a row to a grammar: masks over the vocabulary, so that what comes out parses.

The masks are llguidance's, an optional extra; without it requests with a grammar are refused. JSON is written without
blanks between its parts, since small models would write blanks for ever.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..generation import InvalidRequest
from .interface import asked_by

log = logging.getLogger(__name__)
COMPACT = {"whitespace_flexible": False}


class Matcher:
    """One row's place in its grammar."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def mask(self, logits: torch.Tensor) -> None:
        """Forbids, in place, what can't come next."""
        allowed = torch.from_numpy(np.frombuffer(self._inner.compute_logit_bias(), dtype=np.uint8) != 0)
        size = min(len(allowed), len(logits))
        logits[:size].masked_fill_(~allowed[:size].to(logits.device), float("-inf"))
        logits[size:] = float("-inf")

    def accept(self, token: int) -> bool:
        """The token was chosen; True when the text is complete."""
        self._inner.consume_token(token)
        return bool(self._inner.is_stopped())


class Grammars:
    """The grammars over one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        from llguidance import LLMatcher

        self._tokenizer, self._matcher = tokenizer, LLMatcher

    def matcher(self, grammar: str) -> Matcher:
        """For `json_object`, `json_schema:…`, `tools:…`, `regex:…` or `lark:…`; InvalidRequest for what can't be followed."""
        kind, _, text = grammar.partition(":")
        make: dict[str, Callable[[], str]] = {
            "json_object": lambda: self._matcher.grammar_from_json_schema('{"type": "object"}', overrides=COMPACT),
            "json_schema": lambda: self._matcher.grammar_from_json_schema(text, overrides=COMPACT),
            "tools": lambda: self._matcher.grammar_from_json_schema(text, overrides=COMPACT),
            "regex": lambda: self._matcher.grammar_from_regex(text),
            "lark": lambda: self._matcher.grammar_from_lark(text),
        }
        if kind not in make:
            raise InvalidRequest(f"a grammar of kind {kind!r} is not known", "response_format")
        try:
            inner = self._matcher(self._tokenizer, make[kind]())
        except ValueError as error:
            raise InvalidRequest(f"the schema can't be read: {error}", asked_by(grammar)) from None
        if inner.is_error():
            raise InvalidRequest(f"the grammar can't be followed: {inner.get_error()}", asked_by(grammar))
        return Matcher(inner)


def grammars(tokenizer: Any, vocab_size: int, eos_token_ids: list[int]) -> Grammars | None:
    """For a Hugging Face tokenizer; None when the extra is missing, or can't read it."""
    try:
        from llguidance.hf import from_tokenizer

        return Grammars(from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=eos_token_ids or None))
    except ImportError:
        return None
    except (ValueError, RuntimeError) as error:
        log.warning("no grammars for this tokenizer: %s", error)
        return None
