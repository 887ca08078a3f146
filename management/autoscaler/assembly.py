"""The autoscaler of a server, put together from its settings. Imported only by servers which are told to have one."""

from collections.abc import Callable
from pathlib import Path

from .config import AutoscalerConfig, read_config
from .fleet import Control, ControlFleet
from .loop import Autoscaler
from .observe import Both, Observer, Source
from .performance import Book
from .problem import key_of
from .prometheus import PrometheusObserver


def assemble(config_file: Path, state_folder: Path, control: Control, scrape: Callable[[], str]) -> Autoscaler:
    """AutoscalerConfigError when the file can't be used."""
    config = read_config(config_file)
    kept = Path(config.performance_file) if config.performance_file else state_folder / "performance.json"
    fleet = ControlFleet(control, config.accelerators)
    return Autoscaler(config, _source(config, scrape), fleet, Book.open(kept))


def _source(config: AutoscalerConfig, scrape: Callable[[], str]) -> Source:
    ours, theirs = Observer(scrape), config.prometheus
    if theirs is None:
        return ours
    jobs = {job: key_of(model) for model, job in theirs.jobs.items()}
    return Both(ours, PrometheusObserver(theirs.url, jobs, theirs.window, theirs.timeout_seconds))
