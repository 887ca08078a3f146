"""A request's body as the row that a handler gets, decoded as TorchServe does it.

One body becomes the field `body`; a form or a multipart body becomes one field for each part. JSON arrives parsed and text
as str; what can't be decoded, and everything else, arrives as a bytearray. Not for: what the fields mean.
"""

import json
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from .protocol import RequestHead

MAX_FIELDS = 1000  # of one form or multipart body

_decode = msgspec.json.Decoder().decode


class BadBody(Exception):
    """The body is not what its content type says; the client is told why."""


def to_row(head: RequestHead, body: memoryview, decode: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """The row, and each field's content type."""
    full = _content_type(head.headers)
    kind = _bare(full)
    if head.operation == "describe":
        return {}, {}
    if kind == "multipart/form-data":
        row, kinds = _multipart(full, bytes(body), decode)
    elif kind == "application/x-www-form-urlencoded":
        row = _form(bytes(body))
        kinds = dict.fromkeys(row, "")
    else:
        row, kinds = {"body": _value(kind, body, decode)}, {"body": kind}
    if head.query:
        query = _form(head.query)
        row, kinds = query | row, dict.fromkeys(query, "") | kinds
    return row, kinds


def _content_type(headers: list[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if len(name) == 12 and name.lower() == b"content-type":
            return value
    return b""


@lru_cache(256)
def _bare(content_type: bytes) -> str:
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


def _value(kind: str, value: memoryview | bytes, decode: bool) -> Any:
    if decode and kind == "application/json":
        try:
            return _decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return _unusual_json(value)
    if decode and kind.startswith("text"):
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            pass
    return bytearray(value)


def _unusual_json(value: memoryview | bytes) -> Any:
    """NaN, infinities, lone surrogates: Python's own parser takes them, and so did TorchServe."""
    try:
        return json.loads(bytes(value))
    except (ValueError, RecursionError):
        return bytearray(value)


def _form(text: bytes) -> dict[str, Any]:
    try:  # byte by byte: latin-1 keeps what is no UTF-8
        pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FIELDS, encoding="latin-1")
    except ValueError:
        raise BadBody(f"more than {MAX_FIELDS} fields") from None
    return {name.encode("latin-1").decode("utf-8", "replace"): bytearray(value, "latin-1") for name, value in pairs}


def _multipart(content_type: bytes, body: bytes, decode: bool) -> tuple[dict[str, Any], dict[str, str]]:
    boundary = _parameters(content_type).get("boundary", "").encode("latin-1")
    if not 0 < len(boundary) <= 200:
        raise BadBody("multipart body without a boundary")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_FIELDS + 2)
    if len(parts) > MAX_FIELDS + 2:
        raise BadBody(f"more than {MAX_FIELDS} parts")
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise BadBody("multipart body without its closing boundary")
    row: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for part in parts[1:-1]:
        header, found, value = part.partition(b"\r\n\r\n")
        if not found:
            raise BadBody("multipart part without an end of its headers")
        name, kind = _part_header(header)
        row[name] = _value(kind, value, decode)
        kinds[name] = kind
    return row, kinds


def _part_header(header: bytes) -> tuple[str, str]:
    name, kind = None, ""
    for line in header.split(b"\r\n"):
        key, _, value = line.partition(b":")
        key = key.strip().lower()
        if key == b"content-disposition":
            name = _parameters(value).get("name")
        elif key == b"content-type":
            kind = _bare(value)
    if name is None:
        raise BadBody("multipart part without a name")
    return name, kind


def _parameters(header: bytes) -> dict[str, str]:
    """`a; b=c; d="e; f"` → {"b": "c", "d": "e; f"}; a backslash quotes a quote."""
    text = header.decode("utf-8", "replace")
    found: dict[str, str] = {}
    _, _, rest = text.partition(";")
    while rest:
        key, _, rest = rest.partition("=")
        rest = rest.lstrip()
        if rest.startswith('"'):
            end = 1
            while end < len(rest) and rest[end] != '"':
                end += 2 if rest[end] == "\\" else 1
            value, rest = rest[1:end], rest[end + 1 :].partition(";")[2]
            value = value.replace('\\"', '"').replace("\\\\", "\\")
        else:
            value, _, rest = rest.partition(";")
            value = value.strip()
        found[key.strip().lower()] = value
    return found
