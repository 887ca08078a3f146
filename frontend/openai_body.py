"""Values out of OpenAI's JSON bodies, each with the parameter's name in what is said when it can't be used.

Not for: what the values mean, which is `openai_schema`.
"""

from typing import Any

from ..handlers.json_text import loads

MOST = (1 << 31) - 1  # of tokens, wherever they are counted or numbered
LONGEST_SHOWN = 40  # letters of a value in what is said about it


class Invalid(Exception):
    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


def parse(body: bytes) -> dict[str, Any]:
    try:
        given = loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"The body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise Invalid("The body must be a JSON object.")
    return {key: value for key, value in given.items() if value is not None}


def text(given: dict[str, Any], key: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str):
        raise Invalid(f"{key}: a string is wanted." if key in given else f"{key} is required.", key)
    return value


def flag(given: dict[str, Any], key: str, default: bool = False) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise Invalid(f"{key}: true or false is wanted.", key)
    return value


def number(given: dict[str, Any], key: str, default: float, low: float, high: float) -> float:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Invalid(f"{key}: a number between {_plain(low)} and {_plain(high)} is wanted, not {shown(value)}.", key)
    return value


def shown(value: object) -> str:
    """A plain value, or what it is; it may be a client's megabyte, or lists in one another that repr() can't follow."""
    if not isinstance(value, int | float | str):
        return f"a {type(value).__name__}"
    text = repr(value if not isinstance(value, str) else value[: LONGEST_SHOWN + 1])
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"


def _plain(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def whole(given: dict[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = number(given, key, default, low, high)
    if value != int(value):
        raise Invalid(f"{key}: a whole number is wanted, not {shown(value)}.", key)
    return int(value)


def is_tokens(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token <= MOST for token in value)
    )


def token_list(given: dict[str, Any], key: str) -> list[int]:
    value = given.get(key, [])
    if value != [] and not is_tokens(value):
        raise Invalid(f"{key}: a list of tokens is wanted.", key)
    return list(value)
