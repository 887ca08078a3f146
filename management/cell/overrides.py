"""Overrides: what a publisher changes in a servable, as `KEY=JSON`.

Reading them is lenient as Sax is (an unknown key or a value that is no JSON is ignored with a warning), types are not: a
value of another type fails the load, but for an int where a float stands. `strict=true` refuses the unknown as well.
`ram`, `ramN` (bytes per core), `constraints` (tags) and `exclusive` are the assigner's, `dormant_after` (seconds) is the admin's.
"""

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from .errors import invalid

logger = logging.getLogger(__name__)

_RAM = re.compile(r"ram(\d*)", re.A)
SWITCHES = frozenset({"strict", "constraints", "exclusive", "dormant_after"})


def parse(given: object) -> dict[str, str]:
    """Overrides as a caller writes them: "k=v k=v", a list of "k=v", or an object."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    if isinstance(given, str):
        given = given.split()
    if not isinstance(given, list) or not all(isinstance(pair, str) for pair in given):
        raise invalid("overrides should be an object, or a text of the form key=val key=val")
    pairs = [pair.partition("=") for pair in given]
    if any(not key or not equals for key, equals, _ in pairs):
        raise invalid("Overrides should be of the form key=val")
    return {key: value for key, _, value in pairs}


def memory(overrides: Mapping[str, str]) -> dict[int, int]:
    """Bytes per core, by number of cores; what is no whole number is ignored."""
    found = {}
    for key, value in sorted(overrides.items()):
        if (match := _RAM.fullmatch(key)) and re.fullmatch(r"[+-]?\d+", value, re.A):
            found[int(match[1] or 1)] = int(value)
    return found


def constraints(overrides: Mapping[str, str]) -> list[str] | None:
    """Tags a server must have, all of them; None: none are asked for."""
    given = overrides.get("constraints")
    return None if given is None else given.split(",")


def dormant_after(overrides: Mapping[str, str]) -> float | None:
    """Seconds without a request after which replicas sleep; None, or no number: never."""
    given = overrides.get("dormant_after", "")
    return float(given) if re.fullmatch(r"\d+(\.\d+)?", given, re.A) else None


def merge(defaults: Mapping[str, Any], overrides: Mapping[str, str], *, path: str = "servable") -> dict[str, Any]:
    """`defaults` with the overrides that fit; a type that does not is InvalidArgument."""
    strict = overrides.get("strict", "false").lower() == "true"
    merged = dict(defaults)
    for key, text in overrides.items():
        if key in SWITCHES or _RAM.fullmatch(key):
            continue
        if key not in defaults:
            if strict:
                raise invalid(f"{path} has no setting {key} to override")
            logger.warning("%s has no setting %s: the override is ignored", path, key)
            continue
        try:
            value = json.loads(text)
        except ValueError:
            if strict:
                raise invalid(f"override {key}={text} of {path} is no JSON") from None
            logger.warning("override %s of %s is no JSON: ignored", key, path)
            continue
        merged[key] = fit(key, value, defaults[key])
    return merged


def fit(key: str, value: Any, default: Any) -> Any:
    """JSON's types as they stand; null always fits, and a default of None takes anything."""
    if value is None or default is None or type(value) is type(default):
        return value
    if type(default) is float and type(value) is int:
        return float(value)
    if isinstance(default, list | tuple) and isinstance(value, list):
        return value
    if isinstance(default, list | tuple) and all(type(item) is type(value) for item in default):
        return [value]  # "int or list" settings such as BATCH_SIZE
    raise invalid(f"Mismatched type of override {key}: {type(value).__name__} instead of {type(default).__name__}")
