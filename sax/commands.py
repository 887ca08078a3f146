"""saxutil's commands that concern cells and what is published in them."""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..management.cell import names, overrides
from ..management.cell.errors import SaxError
from ..management.cell.names import METHODS
from ..management.cell.root import CellRoot, cells, required_root
from . import tables
from .calls import ask_admin
from .flags import Flag, UsageError

FOREVER = 1e9
LS_ARGUMENT = "Provide /sax, /sax/<cell>, or /sax/<cell>/<model>"


@dataclass(frozen=True)
class Call:
    """One invocation: the command's flags and arguments, and the global ones."""

    flags: dict[str, Any]
    args: list[str]
    root: str | None
    timeout: float

    def ask(self, verb: str, model: str, **payload: Any) -> Any:
        asked = {"model": model, **payload}
        return ask_admin(verb, asked, names.parse_model(model).cell_name, self.root, self.timeout)


@dataclass(frozen=True)
class Command:
    name: str
    synopsis: str
    usage: str
    run: Callable[[Call], None]
    least: int
    most: int
    complaint: str
    flags: tuple[Flag, ...] = ()


def ls(call: Call) -> None:
    full, flags = call.args[0], call.flags
    if not f"{full}/".startswith("/sax/"):
        raise SaxError("InvalidArgument", f'{LS_ARGUMENT}, not "{full}"')
    show = tables.csv if flags["csv"] else tables.table
    if full.rstrip("/") == "/sax":
        rows = [[str(at), cell] for at, cell in enumerate(cells(required_root(call.root)))]
        sys.stdout.write(show(["#", "CELL"] if not flags["csv"] else ["#", "cell"], rows))
    elif full.count("/") == 2:
        names.parse_cell(full)
        models = ask_admin("list", {"cell": full}, full, call.root, call.timeout)["models"]
        rows = [[str(at), model.rpartition("/")[2]] for at, model in enumerate(models)]
        if flags["details"]:
            rows = [
                [*row, ", ".join(call.ask("status", model)["methods"])] for row, model in zip(rows, models, strict=True)
            ]
        heads = ["#", "Model ID", "Methods"] if flags["details"] else ["#", "Model ID"]
        sys.stdout.write(show(heads, rows))
    else:
        _ls_model(call, show)


def _ls_model(call: Call, show: Callable[[list[str], list[list[str]]], str]) -> None:
    details, acls = call.flags["details"] is not False, call.flags["acls"]
    if not (details or acls):
        raise SaxError("InvalidArgument", "You need to specify one of --details or --acls to be true.")
    status = call.ask("status", call.args[0])
    if details:
        heads = ["Model", "Model Path", "Checkpoint Path", "# of Replicas", "(Selected) ReplicaAddress", "Methods"]
        address = random.choice(status["addresses"]) if status["addresses"] else ""
        row = [
            status["model"].rpartition("/")[2], status["model_path"], status["checkpoint"], str(status["assigned_replicas"]),
            address, ", ".join(status["methods"]),
        ]  # fmt: skip
        sys.stdout.write(show(heads, [row]))
    if acls:
        sys.stdout.write(show(["Method", "ACL"], [[method, acl] for method, acl in sorted(status["acls"].items())]))
    for address, reason in sorted(status["failures"].items()):
        print(f"{address} can not load it: {reason}", file=sys.stderr)


def publish(call: Call) -> None:
    model, path, checkpoint, replicas = call.args[:4]
    number = _count(replicas)
    pairs = call.args[4:]
    if any("=" not in pair for pair in pairs):
        raise UsageError("Overrides should be of the form key=val")
    try:
        names.parse_model(model)
    except SaxError as error:
        raise SaxError(error.code, f"Invalid model ID {model}, should be /sax/<cell>/<model>: {error.text}") from None
    given = {"model_path": path, "checkpoint": checkpoint, "replicas": number, "overrides": overrides.parse(pairs)}
    answer = call.ask("publish", model, **given)
    if warning := answer.get("warning"):
        print(f"warning: {warning}", file=sys.stderr)
    if call.flags["wait"]:
        call.ask("wait", model, replicas=number, seconds=call.timeout)


def unpublish(call: Call) -> None:
    call.ask("unpublish", call.args[0])


def update(call: Call) -> None:
    if call.flags["replicas"] < 0:
        raise SaxError("InvalidArgument", "Num replicas must be non-negative.")
    call.ask("update", call.args[0], replicas=call.flags["replicas"])


def update_checkpoint(call: Call) -> None:
    call.ask("update", call.args[0], checkpoint=call.args[1])


def getacl(call: Call) -> None:
    status = call.ask("status", call.args[0])
    if len(call.args) == 2:
        names.check_method(call.args[1])
        acl = status["acls"].get(call.args[1])
        print(acl or f"No ACLs set for method {call.args[1]}.")
    else:
        print(status["admin_acl"] or "No admin ACLs set for model.")


def setacl(call: Call) -> None:
    model, acl = call.args[0], call.args[-1]
    if len(call.args) == 2:
        call.ask("update", model, admin_acl=acl)
    else:
        call.ask("update", model, acls=call.ask("status", model)["acls"] | {call.args[1]: acl})


def watch(call: Call) -> None:
    """Until the model is unpublished, which is an error."""
    admin, seqno = "", 0
    while True:
        asked = {"model": call.args[0], "admin": admin, "seqno": seqno, "seconds": 30}
        cell = names.parse_model(call.args[0]).cell_name
        found = ask_admin("watch", asked, cell, call.root, FOREVER)
        if found.get("full") is not None or (admin and found["admin"] != admin):
            print("Reset", flush=True)
        print("".join(f"+ {address}\n" for address in found.get("full") or ()), end="", flush=True)
        print("".join(f"{sign} {address}\n" for sign, address in found.get("changes", ())), end="", flush=True)
        admin, seqno = found["admin"], found["seqno"]


def create(call: Call) -> None:
    cell, fs_root, acl = call.args
    root = CellRoot(required_root(call.root), cell)
    if names.parse_cell(cell) in cells(required_root(call.root)):
        raise SaxError("AlreadyExists", f"cell {cell} already exists")
    root.create(fs_root, acl)


def delete(call: Call) -> None:
    root = CellRoot(required_root(call.root), call.args[0])
    root.config()
    print(f"Delete {call.args[0]} and all that is published in it? (y/n) ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SaxError("Canceled", "nothing is deleted")
    if (lock := root.lock()) is None:
        raise SaxError("FailedPrecondition", f"{call.args[0]} has a running admin")
    root.delete()
    lock.release()


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{text} is not a number of replicas") from None


WAIT = Flag("wait", False, "Return when the replicas are loaded.")
LS_FLAGS = (
    Flag("csv", False, "Comma-separated values instead of tables."),
    Flag("details", None, "Details of models (default true); of all models of a cell when given."),
    Flag("acls", True, "Methods' ACLs."),
)
CELL_COMMANDS = (
    Command("create", "create a cell.", "create <cell> <file system root> <admin acl>", create, 3, 3, "Provide cell, root, ACL"),
    Command("delete", "delete a cell.", "delete <cell>", delete, 1, 1, "Provide a cell"),
    Command("getacl", "list the ACLs of a model.", "getacl <model ID> [method]", getacl, 1, 2, "Provide a model ID"),
    Command("ls", "list cells, models, or a model.", "ls /sax[/<cell>[/<model>]]", ls, 1, 1,
            LS_ARGUMENT, LS_FLAGS),
    Command("publish", "publish a model.", "publish <model ID> <model path> <checkpoint path> <replicas> [key=val]…", publish, 4,
            10**6, "Provide model ID, model path, checkpoint path, and number of replicas, and optional overrides.", (WAIT,)),
    Command("setacl", "set an ACL of a model.", f"setacl <model ID> [{'|'.join(METHODS[:3])}|…] <acl>", setacl, 2, 3,
            "Provide a model ID and an ACL"),
    Command("unpublish", "unpublish a model.", "unpublish <model ID>", unpublish, 1, 1, "Provide a model ID"),
    Command("update", "update the number of replicas.", "update -replicas <n> <model ID>", update, 1, 1, "Provide a model ID",
            (Flag("replicas", -1, "The number of replicas there shall be."),)),
    Command("update_checkpoint", "update the checkpoint of a model.", "update_checkpoint <model ID> <checkpoint path>",
            update_checkpoint, 2, 2, "Provide a model ID and a checkpoint path"),
    Command("watch", "watch the addresses of a model.", "watch <model ID>", watch, 1, 1, "Provide a model ID"),
)  # fmt: skip
