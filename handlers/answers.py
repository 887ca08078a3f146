"""What a handler returns for one request, as the bytes of its answer: TorchServe's rules.

Text and bytes go out as they are, everything else as JSON indented by two, a tensor as `torch.save` writes it. Not for:
status and headers, which the Context holds.
"""

import io
import json
import sys
from typing import Any

import msgspec

_compact = json.JSONEncoder().encode
_format = msgspec.json.format


class UnsupportedOutput(Exception):
    """The value has no form in which it could be sent."""


def encode(value: Any) -> bytes | bytearray:
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is bytes or kind is bytearray:
        return value  # type: ignore[no-any-return]
    if isinstance(value, str):
        return _text(value)
    try:
        # Indenting makes json.dumps ten times slower; msgspec indents JSON without touching its strings and numbers.
        return _format(_compact(value), indent=2).encode()
    except (TypeError, ValueError, RecursionError):  # includes msgspec's refusal of NaN
        return _unusual(value)


def _text(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise UnsupportedOutput("text with half a character") from None


def _unusual(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()
    try:
        return json.dumps(value, indent=2).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsupportedOutput(str(error)) from None
