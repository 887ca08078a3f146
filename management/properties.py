"""Java's `.properties` syntax, which config.properties, snapshots and users' generators are written in.

Comments by `#` or `!`, keys ended by `=`, `:` or white space, lines continued by a last backslash, `\\t \\n \\uXXXX` escapes.
Not for: what the keys mean, which is `settings`.
"""

import os
import re
from collections.abc import Mapping

from .errors import SettingsError

ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
VARIABLE = re.compile(r"\$\$(\w+)\$\$")


def parse(text: str) -> dict[str, str]:
    """Keys and values in the file's order; of a repeated key the last one counts."""
    found = {}
    for line in _logical_lines(text):
        key, value = _split(line)
        found[_unescape(key)] = _unescape(value).strip()
    return found


def expand(value: str, environ: Mapping[str, str] = os.environ) -> str:
    """`$$NAME$$` becomes the environment's NAME; a name that is not there is an error, not an empty string."""

    def lookup(match: re.Match[str]) -> str:
        try:
            return environ[match[1]]
        except KeyError:
            raise SettingsError(f"{value}: the environment has no {match[1]}") from None

    return VARIABLE.sub(lookup, value)


def render(pairs: Mapping[str, str], title: str = "") -> str:
    """The same syntax back; what `parse` reads from it equals `pairs`."""
    lines = [f"# {title}"] if title else []
    return "\n".join([*lines, *(f"{key}={_escape(value)}" for key, value in pairs.items())]) + "\n"


def _logical_lines(text: str) -> list[str]:
    lines: list[str] = []
    continued = False
    for raw in text.splitlines():
        line = raw.lstrip(" \t\f")
        if not continued and (not line or line[0] in "#!"):
            continue
        goes_on = (len(line) - len(line.rstrip("\\"))) % 2 == 1
        part = line[:-1] if goes_on else line
        if continued:
            lines[-1] += part
        else:
            lines.append(part)
        continued = goes_on
    return lines


def _split(line: str) -> tuple[str, str]:
    match = re.match(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", line, re.DOTALL)
    assert match is not None  # every part of the pattern may be empty
    return match[1], match[2]


def _unescape(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else ESCAPES.get(match[2], match[2])

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", one, text)


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return "".join(c if ord(c) < 127 else f"\\u{ord(c):04x}" for c in escaped) if escaped.isascii() is False else escaped
