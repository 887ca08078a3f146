"""The Falcon API's words: what its requests may say, and the generation each one asks for.

Bodies are read by the frontend for /inference and /chat, and by the handler `text_stream` for /predictions. Pure functions;
not for: HTTP.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .generation import SEEDS, GenerationRequest, SamplingParams
from .json_text import loads

END = "<|endoftext|>"  # closes every answer, whatever ended it; clients strip it
STREAM = "text/event-stream; charset=utf-8"
MAX_NEW_TOKENS = 2048


class Refused(Exception):
    """What the body has wrong; the message is the answer."""


@dataclass(frozen=True)
class Asked:
    generation: GenerationRequest
    before: str = ""  # what the answer begins with: the prompt, when it was wanted back


@dataclass(frozen=True)
class Number:
    """A numeric parameter: numbers written as text are taken, booleans and fractions of whole numbers are not."""

    name: str
    default: float
    low: float
    high: float
    whole: bool = False

    def read(self, body: dict[str, Any]) -> float:
        value = body.get(self.name, self.default)
        wanted = "int" if self.whole else "float"
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError
            number = float(value)
            if self.whole and number != int(number):
                raise ValueError
        except (ValueError, OverflowError):
            raise Refused(f"{self.name}: {type(value).__name__} {repr(value)[:40]} is not of type {wanted}") from None
        return int(number) if self.whole else number

    def check(self, number: float) -> None:
        if math.isnan(number) or not self.low <= number <= self.high:
            raise Refused(f"{self.name}={number:g} is not between {self.low:g} and {self.high:g}")


NUMBERS = (
    Number("temperature", 1.0, 0.01, 100.0),
    Number("top_p", 0.9, 0.01, 1.0),
    Number("top_k", 10, 1, 1000, whole=True),
    Number("max_tokens", 128, 1, MAX_NEW_TOKENS, whole=True),
)


def read(body: bytes, content_type: str, dress: Callable[[str], str] = lambda text: text) -> Asked:
    """The checks in the original's order: content type, types, text, bounds, the rest. Refused names the first failure."""
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise Refused("Request was not JSON")
    given = parse(body)
    text = given.get("text")
    if text is not None and not isinstance(text, str):
        raise Refused(f"text: {type(text).__name__} is not of type str")
    numbers = {number.name: number.read(given) for number in NUMBERS}
    stop = given.get("stop_sequence")
    if stop is not None and not isinstance(stop, str | int | float):
        raise Refused(f"stop_sequence: {type(stop).__name__} is not of type str")
    echo = flag(given, "return_prompt")
    if not text:
        raise Refused("the parameter 'text' is required and must not be empty")
    for number in NUMBERS:
        number.check(numbers[number.name])
    seed = given.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise Refused(f"seed: {type(seed).__name__} is not of type int")
    if seed is not None and not SEEDS[0] <= seed <= SEEDS[1]:
        raise Refused(f"seed={str(seed)[:40]} is not between {SEEDS[0]} and {SEEDS[1]}")
    sampling = SamplingParams(
        max_tokens=int(numbers["max_tokens"]),
        temperature=numbers["temperature"],
        top_k=int(numbers["top_k"]),
        top_p=numbers["top_p"],
        stop=(str(stop),) if stop not in (None, "") else (),
        seed=seed,
    )
    prompt = dress(text.replace(END, ""))
    return Asked(GenerationRequest(prompt=prompt, sampling=sampling), prompt if echo else "")


def parse(body: bytes) -> dict[str, Any]:
    try:
        given = loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise Refused("the body must be a JSON object")
    return given


def flag(given: dict[str, Any], name: str) -> bool:
    value = given.get(name)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is not None and not isinstance(value, bool | int):
        raise Refused(f"{name}: {type(value).__name__} is not of type bool")
    return bool(value)


def one_turn(text: str) -> str:
    """A chat's first turn in the prompt format of the original."""
    return f"User: {text}\nAI: "
