"""JSON bodies whose texts are whole characters: Python reads half ones (`"\\ud83c"`), and can't write them anywhere."""

import json
from typing import Any


def loads(body: bytes | memoryview | str) -> Any:
    """ValueError or RecursionError for what is no JSON, or holds half a character."""
    raw = bytes(body) if isinstance(body, memoryview) else body
    given = json.loads(raw)
    if (b"\\u" if isinstance(raw, bytes) else "\\u") in raw:  # type: ignore[operator]
        try:
            json.dumps(given, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a character (a lone surrogate)") from None
    return given
