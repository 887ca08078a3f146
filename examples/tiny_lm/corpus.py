"""Text that any Debian machine with Python has: licences, the standard library's docstrings, packages' documentation, man pages."""

import ast
import gzip
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path

DOCUMENTS = ("*.md", "*.rst", "*.txt", "METADATA")
MAX_FILE_BYTES = 200_000


def texts() -> list[str]:
    """Documents in a fixed order, each of at least a few lines and mostly letters; no two the same."""
    seen: set[int] = set()
    found = []
    for text in _candidates():
        text = "\n".join(line.rstrip() for line in text.splitlines())
        letters = sum(letter.isalpha() or letter.isspace() for letter in text)
        if len(text) >= 200 and letters > 0.8 * len(text) and text.isascii() and hash(text[:500]) not in seen:
            seen.add(hash(text[:500]))
            found.append(text)
    return found


def _candidates() -> Iterator[str]:
    for folder in ("/usr/share/common-licenses", "/usr/share/doc", "/usr/share/perl"):
        for path in sorted(Path(folder).rglob("*")) if Path(folder).is_dir() else ():
            if path.is_file() and not path.is_symlink() and path.suffix in ("", ".txt", ".md", ".gz", ".pod"):
                yield _read(path)
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts and "test" not in path.parts:
            yield from _docstrings(path)
    for folder in site.getsitepackages():
        for pattern in DOCUMENTS:
            for path in sorted(Path(folder).rglob(pattern)):
                yield _read(path)
        for path in sorted(Path(folder).rglob("*.py")):
            yield from _docstrings(path)


def _read(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except (OSError, EOFError):
        return ""
    return data.decode("utf-8", "ignore")


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(_read(path))
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield text
