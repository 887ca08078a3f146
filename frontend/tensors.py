"""Tensors as Open Inference Protocol sends them: raw little-endian bytes of a datatype, or nested lists of values.

Not for: shapes, which travel beside the data and which nobody here needs.
"""

import struct
from array import array
from typing import Any

CODES = {
    "BOOL": "B", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "FP32": "f", "FP64": "d",
}  # fmt: skip


def array_from(datatype: str, data: bytes) -> list[Any]:
    """ValueError when the bytes are not of the datatype."""
    if datatype == "BYTES":
        return _strings(data)
    if datatype == "FP16":
        return list(struct.unpack(f"<{len(data) // 2}e", data))
    if datatype == "BF16":  # the upper half of an FP32
        return list(array("f", b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))))
    values = array(_code(datatype))
    values.frombytes(data)
    return [bool(value) for value in values] if datatype == "BOOL" else values.tolist()


def array_bytes(datatype: str, values: Any) -> bytes:
    flat = _flat(values)
    if datatype == "BYTES":
        texts = [value.encode() for value in flat]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    if datatype == "FP16":
        return struct.pack(f"<{len(flat)}e", *flat)
    if datatype == "BF16":
        return b"".join(struct.pack("<f", value)[2:] for value in flat)
    return array(_code(datatype), flat).tobytes()


def _code(datatype: str) -> str:
    if datatype not in CODES:
        raise ValueError(f"datatype {datatype!r} is none of {', '.join([*CODES, 'FP16', 'BF16', 'BYTES'])}")
    return CODES[datatype]


def _strings(data: bytes) -> list[str]:
    """Each with its length before it; what is no UTF-8 keeps its bytes as Latin-1."""
    texts, position = [], 0
    while position < len(data):
        (length,) = struct.unpack_from("<I", data, position)
        text = data[position + 4 : position + 4 + length]
        if len(text) != length:
            raise ValueError("a string is longer than the data")
        try:
            texts.append(text.decode())
        except UnicodeDecodeError:
            texts.append(text.decode("latin-1"))
        position += 4 + length
    return texts


def _flat(values: Any) -> list[Any]:
    if not isinstance(values, list):
        return [values]
    return [leaf for value in values for leaf in (_flat(value) if isinstance(value, list) else (value,))]
