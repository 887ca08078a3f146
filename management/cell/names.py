"""Names in a cell: `/sax/<cell>`, `/sax/<cell>/<model>`, model paths, checkpoints, ACLs; and numbers beside them; checked as Sax
checks them.

The complaints are Sax's, word for word. Python's `$` and `\\w` accept more than Go's, hence `fullmatch` and ASCII.
Not for: whether a well-formed name exists.
"""

import json
import re
from dataclasses import dataclass

from .errors import SaxError, invalid

NAME = r"^[a-z]+[a-z0-9-_]*$"
PATH = r"^[a-zA-Z]+[a-zA-Z0-9_.-]*$"
CHECKPOINT = r"^(/|\\d|\\w|_|\\.|-|%|:|=|\\||\\+)+$"  # as Go prints it, quoted
FS_ROOT = r"^[a-zA-Z0-9_./=-]+$"
_NAME = re.compile(r"[a-z]+[a-z0-9_-]*")
_PATH = re.compile(r"[a-zA-Z]+[a-zA-Z0-9_.-]*")
_CHECKPOINT = re.compile(r"[/\w.%:=|+-]+", re.A)
_WRITTEN_NUMBER = re.compile(r"\s*[+-]?\d{1,15}\s*", re.A)
MOST = 10**15  # nobody means a greater number
_FS_ROOT = re.compile(r"[a-zA-Z0-9_./=:-]+")  # unlike Sax's: a URL is a root as well as a folder

METHODS = (
    "am.recognize", "lm.score", "lm.generate", "lm.generate_stream", "lm.embed", "lm.gradient", "mm.generate",
    "vm.classify", "vm.generate", "vm.embed", "vm.detect", "vm.image_to_text", "vm.image_to_image",
    "vm.text_and_image_to_text", "vm.video_to_text", "custom",
)  # fmt: skip
ACLS = {
    "acl/all": frozenset({"admin", "inference"}),
    "acl/admin": frozenset({"admin"}),
    "acl/inference": frozenset({"inference"}),
}


@dataclass(frozen=True, order=True)
class ModelKey:
    cell: str
    model: str

    def __str__(self) -> str:
        return f"/sax/{self.cell}/{self.model}"

    @property
    def cell_name(self) -> str:
        return f"/sax/{self.cell}"

    def registered(self, default_cell: str) -> str:
        """Its name in the registry, where a name holds no slash: bare in the default cell."""
        return self.model if self.cell == default_cell else f"{self.cell}.{self.model}"


def quoted(text: str) -> str:
    """Go's %q, for the texts that occur."""
    return json.dumps(text, ensure_ascii=False)


def parse_cell(full: str) -> str:
    """The cell's bare name."""
    parts = full.split("/")
    if len(parts) != 3 or parts[:2] != ["", "sax"]:
        raise invalid(f"cell full name {quoted(full)} should have the form /sax/<cell name>")
    if not _NAME.fullmatch(parts[2]):
        raise invalid(f"cell name {quoted(parts[2])} must match {quoted(NAME)}")
    return parts[2]


def parse_model(full: str) -> ModelKey:
    head, slash, model = full.rpartition("/")
    if not slash:
        raise invalid(f"model full name {quoted(full)} should have the form /sax/<cell name>/<model name>")
    if not _NAME.fullmatch(model):
        raise invalid(f"model name {quoted(model)} must match {quoted(NAME)}")
    return ModelKey(parse_cell(head), model)


def cell_of(name: str) -> str:
    """The cell's full name, whether `name` is a cell's or a model's."""
    try:
        parse_cell(name)
        return name
    except SaxError:
        return parse_model(name).cell_name


def key_of_registered(name: str, default_cell: str) -> ModelKey | None:
    """The model key by which a cell lists a registered model; None when its name is none of Sax's."""
    cell, dot, model = name.partition(".")
    if not dot:
        cell, model = default_cell, name
    return ModelKey(cell, model) if _NAME.fullmatch(cell) and _NAME.fullmatch(model) else None


def check_path(path: str) -> None:
    if not _PATH.fullmatch(path):
        raise invalid(f"model path {quoted(path)} must match {quoted(PATH)}")


def check_checkpoint(checkpoint: str) -> None:
    if not _CHECKPOINT.fullmatch(checkpoint):
        raise invalid(f'checkpoint path {quoted(checkpoint)} must match "{CHECKPOINT}"')


def whole_number(value: object) -> int | None:
    """What a client gave, also as text or as 1.0; None when it is none, or one that nobody means."""
    if isinstance(value, str) and _WRITTEN_NUMBER.fullmatch(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST:
        return None
    return int(value) if value == int(value) else None


def check_replicas(replicas: int) -> None:
    if replicas < 0:
        raise invalid(f"number of replicas {replicas} must be non-negative")


def check_fs_root(root: str) -> None:
    if not _FS_ROOT.fullmatch(root):
        raise invalid(f"FS root {quoted(root)} must match {quoted(FS_ROOT)}")


def check_acl(acl: str) -> None:
    """An ACL names the token roles it admits; others would need users, which we do not know. Empty: none."""
    if not acl or acl in ACLS:
        return
    if not acl.startswith("acl/"):
        raise invalid(f"{acl} is not a valid ACL name (must start with one of [acl/])")
    raise SaxError("Unimplemented", f"ACL check is not supported: of ACLs there are {', '.join(ACLS)}")


def check_method(method: str) -> None:
    if method not in METHODS:
        raise invalid(f"{method} is not a valid method name ({', '.join(METHODS)})")
