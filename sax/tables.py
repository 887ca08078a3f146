"""Tables and numbers as saxutil prints them."""

import re
import textwrap

WIDTH = 30  # cells are wrapped there, by words; a longer word widens its column
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})*|\d+)(?:\.\d+)?%?", re.A)


def number(value: float) -> str:
    """Go's %G with eight significant digits."""
    return f"{value:.8G}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    cells = [[_lines(cell) for cell in row] for row in rows]
    widths = [max([len(head), *(len(line) for row in cells for line in row[at])]) for at, head in enumerate(heads)]
    border = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [border, _row([_centred(head.upper(), width) for head, width in zip(heads, widths, strict=True)]), border]
    for row in cells:
        for at in range(max(len(cell) for cell in row)):
            lines.append(_row([_aligned(cell, at, width) for cell, width in zip(row, widths, strict=True)]))
    return "\n".join([*lines, border, ""])


def csv(heads: list[str], rows: list[list[str]]) -> str:
    """Nothing is quoted, as in the original."""
    return "\n".join(["# " + ",".join(heads), *(",".join(row) for row in rows), ""])


def _lines(cell: str) -> list[str]:
    found = [piece for line in cell.split("\n") for piece in textwrap.wrap(line, WIDTH, break_long_words=False) or [""]]
    return found or [""]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _centred(text: str, width: int) -> str:
    left = (width - len(text) + 1) // 2
    return " " * left + text + " " * (width - len(text) - left)


def _aligned(cell: list[str], at: int, width: int) -> str:
    text = cell[at] if at < len(cell) else ""
    return text.rjust(width) if NUMBER.fullmatch(text) else text.ljust(width)
