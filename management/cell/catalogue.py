"""What is published in a cell: who may change it, what is a good change, and the file it is in before a call returns.

Not for: who runs it, which is `cell`'s.
"""

import logging
import secrets
from collections.abc import Iterator

import msgspec

from . import acl, names
from .errors import SaxError, invalid, not_found
from .messages import Published
from .names import ModelKey
from .root import Folder

logger = logging.getLogger(__name__)

STATE = "state.json"


class State(msgspec.Struct, frozen=True, kw_only=True):
    models: dict[str, Published] = {}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an update gives; what is None stays."""

    path: str | None = None  # may be said, not changed
    checkpoint: str | None = None
    replicas: int | None = None
    overrides: dict[str, str] | None = None
    admin_acl: str | None = None
    acls: dict[str, str] | None = None


class Catalogue:
    def __init__(self, cell: str, folder: Folder, admin_acl: str = "") -> None:
        self.admin_acl = admin_acl
        self._cell = cell
        self._folder = folder
        content = folder.read(STATE)
        restored = msgspec.json.decode(content, type=State).models if content else {}
        self._models = {names.parse_model(full): spec for full, spec in restored.items()}

    def __iter__(self) -> Iterator[ModelKey]:
        return iter(sorted(self._models))

    def __contains__(self, key: ModelKey) -> bool:
        return key in self._models

    def __getitem__(self, key: ModelKey) -> Published:
        return self._models[key]

    def key(self, full: str) -> ModelKey:
        key = names.parse_model(full)
        if key.cell_name != self._cell:
            raise invalid(f"model {key} must be within SAX cell {names.quoted(self._cell)}")
        return key

    def find(self, full: str) -> tuple[ModelKey, Published]:
        key = self.key(full)
        if key not in self._models:
            raise not_found(f"model {key} not found")
        return key, self._models[key]

    def check_new(self, full: str, path: str, checkpoint: str, replicas: int, role: str | None) -> ModelKey:
        """Whether it may be published at all."""
        acl.check_admin(self.admin_acl, role)
        key = self.key(full)
        names.check_path(path)
        names.check_checkpoint(checkpoint)
        names.check_replicas(replicas)
        if key in self._models:
            raise SaxError("AlreadyExists", f"model {key} already exists")
        return key

    def add(self, key: ModelKey, path: str, checkpoint: str, replicas: int, overrides: dict[str, str]) -> Published:
        uuid = secrets.token_hex(16)
        spec = Published(path=path, checkpoint=checkpoint, replicas=replicas, overrides=overrides, uuid=uuid)
        self._store(self._models | {key: spec})
        logger.info("%s is published: %s from %s, %d replicas", key, path, checkpoint, replicas)
        return spec

    def change(self, full: str, change: Change, role: str | None) -> tuple[ModelKey, Published]:
        """A new revision only when checkpoint or overrides have changed."""
        key, old = self.find(full)
        acl.check_admin(old.admin_acl or self.admin_acl, role)
        if change.path is not None:
            names.check_path(change.path)
            if change.path != old.path:
                raise invalid("invalid model update: model path can't be changed")
        if change.checkpoint is not None:
            names.check_checkpoint(change.checkpoint)
        if change.replicas is not None:
            names.check_replicas(change.replicas)
        acl.check_names(change.admin_acl, change.acls)
        given = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
        new: Published = msgspec.structs.replace(old, **given)
        if (new.checkpoint, new.overrides) != (old.checkpoint, old.overrides):
            new = msgspec.structs.replace(new, revision=old.revision + 1)
        self._store(self._models | {key: new})
        logger.info("%s is updated: %s, %d replicas", key, new.checkpoint, new.replicas)
        return key, new

    def remove(self, full: str, role: str | None) -> ModelKey:
        key, old = self.find(full)
        acl.check_admin(old.admin_acl or self.admin_acl, role)
        self._store({other: spec for other, spec in self._models.items() if other != key})
        logger.info("%s is unpublished", key)
        return key

    def _store(self, models: dict[ModelKey, Published]) -> None:
        state = State(models={str(key): spec for key, spec in sorted(models.items())})
        self._folder.write(STATE, msgspec.json.format(msgspec.json.encode(state)))
        self._models = models
