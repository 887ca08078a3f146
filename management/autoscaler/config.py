"""What the autoscaler is told: its file (accelerators, pace) and each model's `slo:` section.

A value we cannot use stops the start, or leaves the model alone with the reason told; nothing is guessed.
"""

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ..errors import SettingsError

SHORTEST_PERIOD, LONGEST_PERIOD = 0.1, 86400.0  # seconds


class AutoscalerConfigError(SettingsError):
    """A key or a value that can't be used; says which."""


@dataclass(frozen=True)
class Accelerator:
    """Where workers run: a group of CPU cores, or the GPUs of one type."""

    name: str
    capacity: int = 1  # workers that may run on it
    cost: float = 1.0  # of one worker, in any currency per hour
    cores: tuple[int, ...] = ()  # the workers are kept on these; empty: not on a CPU group
    power_idle: int = 0  # watts
    power_full: int = 0


@dataclass(frozen=True)
class Prometheus:
    """Where the loads of models are read which other servers (vLLM) answer."""

    url: str
    jobs: Mapping[str, str]  # model or model/version → the label `job` of its metrics
    window: str = "1m"
    timeout_seconds: float = 5.0


@dataclass(frozen=True)
class AutoscalerConfig:
    accelerators: tuple[Accelerator, ...] = ()
    prometheus: Prometheus | None = None
    period_seconds: float = 10.0
    hold_seconds: float = 60.0  # the largest load of so long counts: down only when it stays low
    max_step_down: int = 0  # workers of a model that may go at once; 0: any number
    scale_down_ratio: float = 1.0  # go down only below this share of what runs
    cooldown_seconds: float = 30.0  # after a change a model may not shrink for so long
    power_weight: float = 0.0  # cost of a watt
    dry_run: bool = False  # decide and tell, do nothing
    performance_file: str = ""  # where profiles are kept; performance.json beside the state when not given


@dataclass(frozen=True)
class Slo:
    """A model's objectives. Milliseconds where the name says so; 0 asks nothing."""

    service_class: str = "default"
    priority: int = 50  # 1 is served first, 100 last
    itl_ms: float = 0.0
    ttft_ms: float = 0.0
    latency_ms: float = 0.0  # of models without tokens: the whole answer
    tps: float = 0.0
    percentile: float = 0.0  # 90, 95, 99; 0: the mean
    min_workers: int = 0
    max_workers: int = 0  # 0: what the accelerators hold
    idle_seconds: float = 0.0  # without a request for so long the model has no worker; 0: it keeps one
    cold_start_seconds: float = 0.0  # how far ahead a growing load is looked at
    tokens_in: float = 128.0  # a request's, until some were seen
    tokens_out: float = 64.0


def read_config(path: Path) -> AutoscalerConfig:
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise AutoscalerConfigError(f"{path}: {error}") from None
    config = _typed(AutoscalerConfig, document, str(path), {"accelerators", "prometheus"})
    if not SHORTEST_PERIOD <= config.period_seconds <= LONGEST_PERIOD:
        raise AutoscalerConfigError(f"{path}: period_seconds: expected {SHORTEST_PERIOD:g} to {LONGEST_PERIOD:g}")
    listed = document.get("accelerators") or []
    if not isinstance(listed, list):
        raise AutoscalerConfigError(f"{path}: accelerators: not a list")
    accelerators = tuple(_accelerator(each, f"{path}: accelerators[{index}]") for index, each in enumerate(listed))
    names = [each.name for each in accelerators]
    if len(set(names)) < len(names):
        raise AutoscalerConfigError(f"{path}: accelerators: a name is given twice")
    prometheus = _prometheus(document.get("prometheus"), f"{path}: prometheus")
    return AutoscalerConfig(**{**vars(config), "accelerators": accelerators or (this_machine(),), "prometheus": prometheus})


def this_machine() -> Accelerator:
    """All cores as one accelerator, a worker for each."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return Accelerator("cpu", capacity=len(cores), cores=cores)


def _accelerator(document: Any, where: str) -> Accelerator:
    given = _typed(Accelerator, document, where, {"cores"})
    cores = document.get("cores") or []
    if not isinstance(cores, list) or not all(isinstance(core, int) for core in cores):
        raise AutoscalerConfigError(f"{where}.cores: not a list of core numbers")
    if missing := set(cores) - os.sched_getaffinity(0):
        raise AutoscalerConfigError(f"{where}.cores: this process may not use {', '.join(map(str, sorted(missing)))}")
    return Accelerator(**{**vars(given), "cores": tuple(cores)})


def _prometheus(document: Any, where: str) -> Prometheus | None:
    if document is None:
        return None
    given = _given(Prometheus, document, where, {"jobs"})
    if not given["url"].startswith(("http://", "https://")):
        raise AutoscalerConfigError(f"{where}.url: {given['url']!r} is not an http address")
    jobs = document.get("jobs")
    if not isinstance(jobs, Mapping) or not jobs or not all(isinstance(job, str) for job in jobs.values()):
        raise AutoscalerConfigError(f"{where}.jobs: not a mapping of models to Prometheus' jobs")
    return Prometheus(jobs={str(model): job for model, job in jobs.items()}, **given)


def read_slo(model_yaml: Mapping[str, Any]) -> Slo | None:
    """None when the model asks for nothing: then its workers are not ours to choose."""
    section = model_yaml.get("slo")
    if section is None:
        return None
    if isinstance(section, Mapping) and "class" in section:
        section = {**section, "service_class": section["class"]}
        section.pop("class")
    slo: Slo = _typed(Slo, section, "slo", set())
    if slo.percentile and not 50 <= slo.percentile < 100:
        raise AutoscalerConfigError(f"slo.percentile: {slo.percentile:g} is not from 50 to below 100, such as 95")
    return slo


def _typed(kind: type[Any], document: Any, where: str, other: set[str]) -> Any:
    return kind(**_given(kind, document, where, other))


def _given(kind: type[Any], document: Any, where: str, other: set[str]) -> dict[str, Any]:
    """What the document says of a dataclass' fields, but for those read elsewhere."""
    if not isinstance(document, Mapping):
        raise AutoscalerConfigError(f"{where}: not a mapping")
    known = {each.name: each for each in fields(kind)}
    if unknown := {str(key) for key in document} - known.keys():
        raise AutoscalerConfigError(f"{where}: unknown key {', '.join(sorted(unknown))}")
    given = {
        key: _cast(known[key], value, f"{where}.{key}")
        for key, value in document.items()
        if key not in other and value is not None
    }
    if missing := {name for name, each in known.items() if each.default is MISSING} - given.keys() - other:
        raise AutoscalerConfigError(f"{where}: {', '.join(sorted(missing))} is missing")
    return given


def _cast(known: Any, value: Any, where: str) -> Any:
    kind = known.type
    if (kind is bool and isinstance(value, bool)) or (kind is str and isinstance(value, str)):
        return value
    number = kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63
    if number and (kind is float or value == int(value)):
        return kind(value)
    raise AutoscalerConfigError(f"{where}: {value!r} can't be used as {kind.__name__}")


def sleeps(model_yaml: Mapping[str, Any]) -> bool:
    """Whether a model may be without workers, so that a request for it must wake one."""
    section = model_yaml.get("slo")
    return isinstance(section, Mapping) and bool(section.get("idle_seconds"))
