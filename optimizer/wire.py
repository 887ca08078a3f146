"""JSON in and out of the typed specs: names as the wire spells them, in any case; missing and null mean zero.

Not a general library: it knows the four scalar types, nested dataclasses and tuples of them, which is all a system holds.
"""

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Spec = TypeVar("Spec")

_ZERO: Mapping[type, Any] = {str: "", int: 0, float: 0.0, bool: False}
_WORDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


class WireError(ValueError):
    """A body which cannot be read; the message says where and why."""


def wire(name: str = "", default: Any = MISSING, *, optional: bool = False) -> Any:
    """A field whose wire name is not its camelCase one; `optional` ones stay away from the output until they are given."""
    return field(default=default, metadata={"wire": name, "optional": optional})


@dataclass(frozen=True)
class _Field:
    name: str
    wire: str
    kind: Any
    optional: bool


def _fields(spec: Any) -> tuple[_Field, ...]:
    return _fields_of(spec)


@cache
def _fields_of(spec: Hashable) -> tuple[_Field, ...]:
    hints = get_type_hints(spec)
    found = []
    for each in fields(spec):  # type: ignore[arg-type]
        kind = hints[each.name]
        if get_origin(kind) in (Union, UnionType):
            kind = next(option for option in get_args(kind) if option is not type(None))
        name = each.metadata.get("wire") or _camel(each.name)
        found.append(_Field(each.name, name, kind, each.metadata.get("optional", False)))
    return tuple(found)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def parse(text: str | bytes) -> Any:
    """The first JSON value of a body; what follows it is not read."""
    try:
        text = (text.decode("utf-8-sig") if isinstance(text, bytes) else text).lstrip()
        value, _ = _DECODER.raw_decode(text)
        if "\\ud" in text or "\\uD" in text:  # half of a surrogate pair can be said in JSON, but no answer can hold it
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise WireError("half a character (a lone surrogate) in a string") from None
    except UnicodeDecodeError as error:
        raise WireError(f"not JSON: byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise WireError("not JSON: nested too deeply") from None
    except ValueError as error:
        raise WireError(f"not JSON: {error if text else 'nothing is there'}") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def decode(spec: type[Spec], value: Any, where: str = "body") -> Spec:
    """The typed spec for a JSON value; unknown keys are ignored, a wrong type is told with its place."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise WireError(f"{where}: expected an object, got {_shown(value)}")
    given = {key.lower(): item for key, item in value.items()}
    known = {}
    for each in _fields(spec):
        item = given.get(each.wire.lower())
        place = f"{where}.{each.wire}"
        if item is not None:
            known[each.name] = _decode_value(each.kind, item, place)
    return spec(**known)


def _decode_value(kind: Any, item: Any, where: str) -> Any:
    if is_dataclass(kind):
        return decode(kind, item, where)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        if not isinstance(item, list):
            raise WireError(f"{where}: expected a list, got {_shown(item)}")
        return tuple(_decode_value(get_args(kind)[0], each, f"{where}[{index}]") for index, each in enumerate(item))
    return _decode_scalar(kind, item, where)


def _decode_scalar(kind: type, item: Any, where: str) -> Any:
    if item is None:
        return _ZERO[kind]
    if kind in (int, float) and isinstance(item, int | float) and not isinstance(item, bool):
        if (isinstance(item, int) and abs(item) >= 2**63) or not math.isfinite(item):
            raise WireError(f"{where}: {_shown(item)} is out of range")
        if kind is float:
            return float(item)
        if item == int(item):
            return int(item)
    elif kind in (str, bool) and isinstance(item, kind):
        return item
    raise WireError(f"{where}: expected {_WORDS[kind]}, got {_shown(item)}")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def encode(value: Any) -> Any:
    """The JSON form of a spec: every field with its value, optional ones only when given; whole floats as integers."""
    if is_dataclass(value):
        pairs = ((each, getattr(value, each.name)) for each in _fields(type(value)))
        return {each.wire: encode(item) for each, item in pairs if not (each.optional and item is None)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def schema(spec: type) -> dict[str, Any]:
    """The JSON schema of a spec, for the OpenAPI document; nested specs are named references."""
    return {"type": "object", "properties": {each.wire: _schema_of(each.kind) for each in _fields(spec)}}


def _schema_of(kind: Any) -> dict[str, Any]:
    if is_dataclass(kind):
        return {"$ref": f"#/components/schemas/{kind.__name__}"}  # type: ignore[union-attr]
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _schema_of(get_args(kind)[0])}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[kind]}


def nested(spec: type) -> tuple[type, ...]:
    """The specs which a spec's schema refers to."""
    kinds = (get_args(each.kind)[0] if get_origin(each.kind) is tuple else each.kind for each in _fields(spec))
    return tuple(kind for kind in kinds if is_dataclass(kind) and isinstance(kind, type))
