"""What the command line decides before the server starts, and the models that are loaded when it does.

Not for: settings' syntax (`settings`), nor the commands themselves (`cli`).
"""

import argparse
import asyncio
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..archiver.errors import ArchiveError
from ..archiver.unpack import ARCHIVE_SUFFIXES
from . import addresses
from .control import ControlPlane
from .devices import gpus_to_use
from .errors import ManagementError, ModelConflict, SettingsError
from .platforms import settings_of
from .serving import Registration
from .settings import Loaded, Settings, load
from .snapshots import newest

logger = logging.getLogger(__name__)

WHAT_IS_LOADED = frozenset({"model_snapshot", "load_models", "models"})
MOST_DEFAULT_WORKERS = 4  # TorchServe starts one per CPU, which takes laptops down


@dataclass(frozen=True)
class Plan:
    logs: Path
    metrics_logs: Path
    state_file: Path | None  # None: nothing is kept
    state_folder: Path  # for what is kept beside the state file
    model_store: Path
    models: tuple[str, ...]  # "all", "a.mar", "name=a.mar"
    decides_models: bool  # the configuration says what is loaded: what an earlier one said holds no more
    console: bool
    detached: bool = False  # tells its starter that it is ready, then says no more


def parser(prog: str) -> argparse.ArgumentParser:
    """`torchserve`'s options, which are the server's own too."""
    made = argparse.ArgumentParser(prog=prog, description="Serve PyTorch models; TorchServe's command line.")
    made.add_argument("-v", "--version", action="store_true", help="Return TorchServe Version")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--start", action="store_true", help="Start the model-server")
    which.add_argument("--stop", action="store_true", help="Stop the model-server")
    made.add_argument("--ts-config", help="Configuration file for model server")
    made.add_argument("--model-store", help="Model store location from where local or default models can be loaded")
    made.add_argument("--workflow-store", help="Workflow store location; the model store when not given")
    made.add_argument(
        "--models", nargs="+", metavar="MODEL_PATH1 MODEL_NAME=MODEL_PATH2", help="Models to be loaded; `all`"
    )
    made.add_argument("--log-config", help="Accepted; log4j's configuration has no meaning here")
    made.add_argument("--cpp-log-config", help="Accepted")
    made.add_argument("--foreground", action="store_true", help="Stay in the foreground, log to the terminal")
    made.add_argument(
        "--no-config-snapshots", "--ncs", dest="no_config_snapshots", action="store_true", help="Keep no state"
    )
    made.add_argument("--plugins-path", "--ppath", dest="plugins_path", help="Accepted; Java's plugins can't be loaded")
    made.add_argument("--disable-token-auth", "--dt", dest="disable_token_auth", action="store_true", help="No tokens")
    made.add_argument("--enable-model-api", dest="enable_model_api", action="store_true", help="Models may be registered")
    made.add_argument("--compat", action="store_true", help="TorchServe's own defaults where ours are stricter")
    made.add_argument("--insecure", action="store_true", help="Start though management is open to the network")
    made.add_argument("--detached", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Any setting of config.properties")
    return made


def arrange(given: argparse.Namespace) -> tuple[Loaded, Plan]:
    """SettingsError when it can't be."""
    logs = Path(os.environ.get("LOG_LOCATION", "logs"))
    path, without = _configuration(given, logs)
    loaded = load(path, os.environ, settings_of(os.environ) | _overrides(given), without)
    settings = loaded.settings
    kept = Path(settings.state_file) if settings.state_file else logs / "config" / "state.json"
    plan = Plan(
        logs=logs,
        metrics_logs=Path(os.environ.get("METRICS_LOCATION", logs)),
        state_file=None if given.no_config_snapshots else kept,
        state_folder=kept.parent,
        model_store=_model_store(settings),
        models=tuple(given.models or (() if settings.model_snapshot else _listed(settings.load_models))),
        decides_models=bool(given.models or settings.model_snapshot or settings.load_models is not None),
        console=given.foreground,
        detached=given.detached,
    )
    return loaded, plan


def _configuration(given: argparse.Namespace, logs: Path) -> tuple[Path | None, frozenset[str]]:
    """The file, and which of its keys do not count; the environment goes first, as in TorchServe.

    Where none is named: the last snapshot. One of a server of ours tells the settings, our state file the models."""
    if named := os.environ.get("TS_CONFIG_FILE") or given.ts_config:
        return Path(named), frozenset()
    snapshot = None if given.no_config_snapshots else newest(logs / "config")
    ours = (logs / "config" / "state.json").exists()
    if snapshot and not ours:
        return snapshot, frozenset()
    if Path("config.properties").is_file():
        return Path("config.properties"), frozenset()
    return snapshot, WHAT_IS_LOADED


def greeting(settings: Settings) -> str:
    management = addresses.parse(settings.management_address).url
    inference = addresses.parse(settings.inference_address).url
    return (
        f"TorchServe has started: inference {inference}, management {management}, "
        f"metrics {addresses.parse(settings.metrics_address).url}"
    )


async def first_models(control: ControlPlane, settings: Settings, plan: Plan) -> None:
    """Each on its own: a model that can't be loaded does not stop the others."""
    wanted = registrations(settings, plan)
    causes = await asyncio.gather(*(_first_model(control, registration) for registration in wanted))
    try:
        control.forget_outdated({asked.url: cause for asked, cause in zip(wanted, causes, strict=True) if cause})
    except ManagementError as error:
        logger.error("What the configuration no longer names stays registered: %s", error)


async def _first_model(control: ControlPlane, registration: Registration) -> str:
    """Why it is not loaded, or an empty string."""
    try:
        await control.register(registration, wait=False)
    except ModelConflict as error:
        logger.warning("Model %s of the configuration is not loaded: %s", registration.url, error)
    except (ManagementError, ArchiveError) as error:
        logger.error("Model %s is not loaded at start: %s", registration.url, error)
        return str(error)
    return ""


def registrations(settings: Settings, plan: Plan) -> list[Registration]:
    """Of --models, else of model_snapshot, else of load_models; the key `models` says more about the first and the last."""
    if settings.model_snapshot and not plan.models:
        return _of_snapshot(json.loads(settings.model_snapshot))
    details = json.loads(settings.models or "{}")
    workers = settings.default_workers_per_model or gpus_to_use(settings.number_of_gpu)
    workers = workers or min(os.cpu_count() or 1, MOST_DEFAULT_WORKERS)
    found = []
    for name, url in _named(plan.models, plan.model_store):
        facts = _facts(details, name, url)
        found.append(_registration(name, url, facts, workers))
    return found


def _of_snapshot(document: dict[str, Any]) -> list[Registration]:
    return [
        _registration(name, facts["marName"], facts, 0)
        for name, versions in document.get("models", {}).items()
        for facts in versions.values()
    ]


def _registration(name: str | None, url: str, facts: dict[str, Any], workers: int) -> Registration:
    low = facts.get("minWorkers", workers)
    return Registration(
        url=url,
        name=name,
        handler=None,
        batch_size=facts.get("batchSize"),
        max_batch_delay_ms=facts.get("maxBatchDelay"),
        initial_workers=low,
        max_workers=facts.get("maxWorkers", low),
        response_timeout=facts.get("responseTimeout"),
        startup_timeout=facts.get("startupTimeout"),
        make_default=bool(facts.get("defaultVersion")),
        at_startup=True,
        trusted=True,
    )


def _facts(details: dict[str, Any], name: str | None, url: str) -> dict[str, Any]:
    """Of `models`: by the archive's file name, else by the model's name when it has one version."""
    versions = [v for n, vs in details.items() for v in vs.values() if n == name or v.get("marName") == Path(url).name]
    exact = [v for v in versions if v.get("marName") == Path(url).name]
    chosen = exact or (versions if len(versions) == 1 else [])
    return dict(chosen[0]) if chosen else {}


def _named(models: tuple[str, ...], store: Path) -> list[tuple[str | None, str]]:
    if any(model.lower() == "all" for model in models):
        found = sorted(store.iterdir()) if store.is_dir() else []
        return [(None, p.name) for p in found if p.name.endswith(ARCHIVE_SUFFIXES) or (p / "MAR-INF").is_dir()]
    pairs: list[tuple[str | None, str]] = []
    for model in models:
        name, separator, url = model.partition("=")
        pairs.append((name, url) if separator else (None, model))
    return pairs


def _listed(text: str | None) -> list[str]:
    wanted = [part.strip() for part in (text or "").split(",") if part.strip()]
    return [] if wanted == ["none"] else wanted


def _model_store(settings: Settings) -> Path:
    if settings.model_store is None:
        default = Path("model_store")
        return default if default.is_dir() else Path.cwd()
    store = Path(settings.model_store)
    if not store.is_dir():
        raise SettingsError(f"model_store={store}: no such folder")
    return store


def _overrides(given: argparse.Namespace) -> dict[str, str]:
    if wrong := [pair for pair in given.set if "=" not in pair]:
        raise SettingsError(f"--set {wrong[0]}: KEY=VALUE is wanted")
    said = dict(pair.split("=", 1) for pair in given.set)
    for key in ("model_store", "workflow_store", "plugins_path"):
        if value := getattr(given, key):
            said[key] = value
    switches = {"disable_token_authorization": given.disable_token_auth, "enable_model_api": given.enable_model_api}
    switches |= {"compat": given.compat, "insecure": given.insecure}
    return said | {key: "true" for key, on in switches.items() if on}
