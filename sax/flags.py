"""Command lines as Go's flag package reads them: one dash or two, `-flag value` or `-flag=value`, up to the first argument."""

import re
from dataclasses import dataclass
from typing import Any


class UsageError(Exception):
    """Exit status 2, with the usage."""


class HelpAsked(Exception):
    """-h or -help, in place of a flag: the usage is the answer."""


@dataclass(frozen=True)
class Flag:
    name: str
    default: Any  # None: a switch that may also be left unsaid
    words: str

    @property
    def switch(self) -> bool:
        return self.default is None or isinstance(self.default, bool)


def parse(given: list[str], flags: tuple[Flag, ...]) -> tuple[dict[str, Any], list[str]]:
    """The flags' values and the arguments that follow."""
    known = {flag.name: flag for flag in flags}
    values, rest = {flag.name: flag.default for flag in flags}, list(given)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, text = word.lstrip("-").partition("=")
        if name not in known and name in ("h", "help"):
            raise HelpAsked
        if name not in known:
            raise UsageError(f"flag provided but not defined: -{name}")
        if not equals and known[name].switch:
            text = "true"
        elif not equals:
            if not rest:
                raise UsageError(f"flag needs an argument: -{name}")
            text = rest.pop(0)
        values[name] = _value(known[name], text)
    return values, rest


def _value(flag: Flag, text: str) -> Any:
    try:
        if flag.switch:
            return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[text.lower()]
        if isinstance(flag.default, int):
            return int(text)
        return text
    except (KeyError, ValueError):
        raise UsageError(f'invalid value "{text}" for flag -{flag.name}: parse error') from None


def seconds(text: str) -> float:
    """A Go duration: 60s, 1m30s, 500ms."""
    pieces = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        raise UsageError(f'invalid value "{text}" for flag -sax_timeout: parse error')
    return sum(float(number) * {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}[unit] for number, unit in pieces)


def extra_inputs(text: str) -> dict[str, Any]:
    """`k:v,k:v`: a quoted value is a text, a number a number, anything else a text."""
    found: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        if pair.count(":") != 1:
            raise ValueError(
                "Could not parse extra inputs: key-value pair for an extra input must be separated by ':', "
                f"and there must be exactly one: {pair!r}"
            )
        key, value = pair.split(":")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            found[key] = value[1:-1]
        else:
            try:
                found[key] = float(value)
            except ValueError:
                found[key] = value
    return found
