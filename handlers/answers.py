"""What a handler returns for one request, as the bytes of its answer: TorchServe's rules.

Text and bytes go out as they are, everything else as JSON indented by two, a tensor as `torch.save` writes it. Not for:
status and headers, which the Context holds.
"""

import io
import json
import json.encoder
import sys
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

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
        return _format("".join(_compact(value, 0)), indent=2).encode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):  # NaN and loops among them
        return _unusual(value)


def _refuse(value: Any) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _json_pieces() -> Callable[[Any, int], Iterable[str]]:
    """What json.dumps makes anew for each call, made once."""
    encoder: Any = json.encoder  # its C part is not in the stubs
    if encoder.c_make_encoder is None:
        return lambda value, _: (json.dumps(value),)
    no_markers = no_indent = None
    return encoder.c_make_encoder(  # type: ignore[no-any-return]
        no_markers, _refuse, encoder.encode_basestring_ascii, no_indent, ": ", ", ", False, False, True
    )


_compact = _json_pieces()


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
