"""Pictures for those who have matplotlib, which the extra `plot` brings. Not for: what is drawn."""

from pathlib import Path
from typing import Any


class NoPicture(Exception):
    """It can't be drawn, or not be written where it should."""


def figure_type() -> Any:
    """matplotlib's Figure. Asked for before anything that takes long, so that it is not in vain."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPicture(f"drawing needs matplotlib ({error}): pip install 'flambeau[plot]'") from None
    return Figure


def save(figure: Any, path: Path, dpi: int) -> None:
    try:
        figure.savefig(path, dpi=dpi)
    except (OSError, ValueError) as error:  # ValueError: no format of that name
        raise NoPicture(f"{path}: {error}") from None
