"""The declared settings as text: config.properties in the repository's root, and the tables of docs/configuration.md.

`make settings` (`python -m flambeau.management.settings_text`) writes both anew; a test holds them to the declarations.
"""

from dataclasses import Field
from pathlib import Path
from typing import Any

from .settings import declared

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- settings -->", "<!-- /settings -->"
HEAD = """# Flambeau's settings, each with its default and a word on it; lines that begin with # are off.
# The syntax is Java's: lines end by a backslash to go on, $$NAME$$ stands for an environment variable.
# Command line beats TS_<KEY> (with enable_envvars_config=true) beats this file beats the default.
"""


def as_properties() -> str:
    lines = [HEAD.rstrip()]
    for setting in declared().values():
        if setting.metadata["section"]:
            lines += ["", f"## {setting.metadata['section']}"]
        lines += [f"# {setting.metadata['words']}", f"#{setting.name}={value_text(setting)}"]
    return "\n".join(lines) + "\n"


def as_tables() -> str:
    lines = []
    for setting in declared().values():
        if setting.metadata["section"]:
            lines += ["", f"## {setting.metadata['section']}", "", "| key | default | meaning |", "|---|---|---|"]
        words = setting.metadata["words"].replace("|", "\\|")
        lines.append(f"| `{setting.name}` | {f'`{text}`' if (text := value_text(setting)) else '–'} | {words} |")
    return "\n".join(lines).strip() + "\n"


def value_text(setting: "Field[Any]") -> str:
    value = setting.default
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def with_tables(page: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{as_tables()}{END}{after}"


if __name__ == "__main__":
    (ROOT / "config.properties").write_text(as_properties())
    page = ROOT / "docs" / "configuration.md"
    page.write_text(with_tables(page.read_text()))
