"""Publishing and listing, with the original's names. Not for: asking models, which is `model`."""

from dataclasses import dataclass, field
from typing import Any

from ..management.cell import names
from .calls import TIMEOUT_SECONDS, ask_admin


@dataclass(frozen=True)
class ModelDetail:
    model: str  # the model's path, as in the original
    ckpt: str
    max_replicas: int
    active_replicas: int
    overrides: dict[str, str] = field(default_factory=dict)


def Publish(
    id: str, model_path: str, checkpoint_path: str, num_replicas: int, overrides: dict[str, str] | None = None
) -> None:
    payload = {"model_path": model_path, "checkpoint": checkpoint_path, "replicas": num_replicas, "overrides": overrides}
    _ask("publish", id, payload)


def Update(id: str, model_path: str, checkpoint_path: str, num_replicas: int) -> None:
    """Overrides and ACLs stay as they are."""
    _ask("update", id, {"model_path": model_path, "checkpoint": checkpoint_path, "replicas": num_replicas})


def Unpublish(id: str) -> None:
    _ask("unpublish", id, {})


def List(id: str) -> tuple[str, str, int]:
    """Model path, checkpoint, active replicas."""
    status = _ask("status", id, {})
    return status["model_path"], status["checkpoint"], status["active_replicas"]


def ListDetail(id: str) -> ModelDetail:
    status = _ask("status", id, {})
    return ModelDetail(
        status["model_path"], status["checkpoint"], status["max_replicas"], status["active_replicas"], status["overrides"]
    )


def ListAll(cell: str) -> list[str]:
    names.parse_cell(cell)
    return list(ask_admin("list", {"cell": cell}, cell)["models"])


def Stats(cell: str) -> dict[str, Any]:
    names.parse_cell(cell)
    return dict(ask_admin("stats", {"cell": cell}, cell))


def WaitForReady(id: str, num_replicas: int, timeout: float = TIMEOUT_SECONDS) -> None:
    _ask("wait", id, {"replicas": num_replicas, "seconds": timeout}, timeout + 5)


def GetACL(id: str, method: str | None = None) -> str:
    """The model's admin ACL, or a method's; empty: none."""
    status = _ask("status", id, {})
    return str(status["acls"].get(method, "") if method else status["admin_acl"])


def SetACL(id: str, acl: str, method: str | None = None) -> None:
    if method is None:
        _ask("update", id, {"admin_acl": acl})
    else:
        _ask("update", id, {"acls": _ask("status", id, {})["acls"] | {method: acl}})


def _ask(verb: str, id: str, payload: dict[str, Any], timeout: float = TIMEOUT_SECONDS) -> Any:
    cell = names.parse_model(id).cell_name
    return ask_admin(verb, {"model": id, **payload}, cell, timeout=timeout)
