"""TorchServe's snapshots: the configuration and the registered models in one .cfg file, which either server starts from.

Written to `logs/config/` at the start, at each change and at the end; atomically, the newest by name. Our own state is in
the registry's file, which these never replace. Not for: durability.
"""

import json
import logging
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from . import properties
from .registry import State, VersionRecord

logger = logging.getLogger(__name__)

KEPT = 20  # of those that changes write; the ones of starts and ends stay


class Snapshots:
    """`configuration`: config.properties as it was read, and the stores wherever they were named."""

    def __init__(self, folder: Path, configuration: Mapping[str, str]) -> None:
        self._folder, self._configuration = folder, configuration
        self._written: State | None = None

    def write(self, state: State, kind: str) -> None:
        """`kind`: "startup", "shutdown", "snapshot". A disk that is full costs the snapshot, not the change."""
        if kind == "snapshot" and state is self._written:
            return
        now = datetime.now()
        name = f"{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}-{kind}.cfg"
        document = {
            "name": f"{kind}.cfg",
            "modelCount": len(state.models),
            "created": int(now.timestamp() * 1000),
            "models": as_torchserve(state),
        }
        pairs = {**self._configuration, "model_snapshot": json.dumps(document, indent=2)}
        next_ = self._folder / f".{name}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(os.open(next_, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # a keystore's password
                file.write(properties.render(pairs, f"Saving snapshot\n# {now:%a %b %d %H:%M:%S %Y}"))
            os.replace(next_, self._folder / name)
            self._written = state
            for old in sorted(self._folder.glob("*-snapshot.cfg"))[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            next_.unlink(missing_ok=True)
            logger.error("Snapshot %s was not written: %s", name, error)


def newest(folder: Path) -> Path | None:
    return max(folder.glob("*.cfg"), default=None, key=lambda path: path.name)


def as_torchserve(state: State) -> dict[str, Any]:
    return {
        name: {record.version: _facts(record, record.version == state.defaults[name]) for record in versions.values()}
        for name, versions in state.models.items()
    }


def _facts(record: VersionRecord, is_default: bool) -> dict[str, Any]:
    return {
        "defaultVersion": is_default,
        "marName": Path(record.archive).name,
        "minWorkers": record.min_workers,
        "maxWorkers": record.max_workers,
        "batchSize": record.batch_size,
        "maxBatchDelay": record.max_batch_delay_ms,
        "responseTimeout": int(record.response_timeout),
        "startupTimeout": int(record.startup_timeout),
        "runtimeType": record.runtime,
    }
