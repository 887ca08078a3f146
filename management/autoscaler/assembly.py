"""The autoscaler of a server, put together from its settings. Imported only by servers which are told to have one."""

from collections.abc import Callable
from pathlib import Path

from .config import read_config
from .fleet import Control, ControlFleet
from .loop import Autoscaler
from .observe import Observer
from .performance import Book


def assemble(config_file: Path, state_folder: Path, control: Control, scrape: Callable[[], str]) -> Autoscaler:
    """AutoscalerConfigError when the file can't be used."""
    config = read_config(config_file)
    kept = Path(config.performance_file) if config.performance_file else state_folder / "performance.json"
    fleet = ControlFleet(control, config.accelerators)
    return Autoscaler(config, Observer(scrape), fleet, Book.open(kept))
