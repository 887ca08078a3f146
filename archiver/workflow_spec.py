"""A workflow's specification: which models and functions, and which feeds which. Read from an opened `.war`.

The YAML is TorchServe's: `models:` holds settings for all and one mapping a model (with its `url`), `dag:` maps a node to
those it feeds. A node that is no model is a function of the workflow's handler file. Not for: running any of it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import safe_yaml
from .errors import InvalidModel
from .manifest import NAME
from .workflow import MANIFEST_PATH

DEFAULTS: dict[str, int] = {
    "min-workers": 1, "max-workers": 1, "batch-size": 1, "max-batch-delay": 50, "timeout-ms": 10_000, "retry-attempts": 1,
}  # fmt: skip
MAX_BYTES = 1 << 20
MAX_NODES = 256
MAX_NUMBER = 2**31 - 1


@dataclass(frozen=True)
class Node:
    name: str
    url: str | None  # None: a function
    inputs: tuple[str, ...]  # the nodes whose answers it gets; none: the request itself
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay_ms: int
    timeout_seconds: float
    attempts: int


@dataclass(frozen=True)
class WorkflowSpec:
    name: str
    handler: str | None  # the file of the functions
    nodes: tuple[Node, ...]  # each after those that feed it
    dag: dict[str, list[str]]  # as written
    shared: dict[str, int]  # the settings for all


def read_workflow(folder: Path, name: str | None = None) -> WorkflowSpec:
    """`name` overrides the manifest's. InvalidModel says what is wrong with it."""
    manifest = _manifest(folder)
    called = name or manifest.get("workflowName")
    if not isinstance(called, str) or not NAME.fullmatch(called):
        raise InvalidModel(f"Workflow name {called!r} is not made of letters, digits, '.', '_' and '-'.")
    document = _yaml(folder, manifest.get("specFile"))
    handler = manifest.get("handler")
    handler = handler if isinstance(handler, str) else None
    dag = _dag(document.get("dag"))
    models = document.get("models")
    if not isinstance(models, dict):
        raise InvalidModel("The workflow's specification has no mapping `models`.")
    shared = {key: _number(models.get(key, default), key) for key, default in DEFAULTS.items()}
    nodes = [_node(node, models.get(node), shared, inputs) for node, inputs in _ordered(dag)]
    functions = [node.name for node in nodes if node.url is None]
    if functions and handler is None:
        raise InvalidModel(
            f"{', '.join(functions)}: neither a model with a url, nor is there a handler file for functions."
        )
    return WorkflowSpec(called, handler, tuple(nodes), dag, shared)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        workflow = json.loads((folder / MANIFEST_PATH).read_bytes())["workflow"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InvalidModel("The archive has no manifest of a workflow.") from None
    if not isinstance(workflow, dict):
        raise InvalidModel("The archive has no manifest of a workflow.")
    return workflow


def _yaml(folder: Path, name: object) -> dict[str, Any]:
    path = folder / name if isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) else None
    if path is None or not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise InvalidModel("The workflow's manifest names no specification file that could be read.")
    try:
        document = safe_yaml.load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InvalidModel("The workflow's specification is no YAML.") from None
    if not isinstance(document, dict):
        raise InvalidModel("The workflow's specification is no mapping.")
    return document


def _dag(value: object) -> dict[str, list[str]]:
    if not isinstance(value, dict) or not value:
        raise InvalidModel("The workflow's specification has no mapping `dag`.")
    dag: dict[str, list[str]] = {}
    for node, fed in value.items():
        names = [node, *(fed if isinstance(fed, list) else [fed])]
        if not all(isinstance(each, str) and NAME.fullmatch(each) for each in names):
            raise InvalidModel(f"dag: {node!r} or what it feeds is no node's name.")
        dag[node] = names[1:]
    return dag


def _ordered(dag: dict[str, list[str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Nodes with their inputs, each after those that feed it."""
    inputs: dict[str, list[str]] = {}
    for node, fed in dag.items():
        inputs.setdefault(node, [])
        for target in fed:
            inputs.setdefault(target, []).append(node)
    if len(inputs) > MAX_NODES:
        raise InvalidModel(f"The workflow has more than {MAX_NODES} nodes.")
    ordered: dict[str, tuple[str, ...]] = {}
    while len(ordered) < len(inputs):
        ready = [node for node, needed in inputs.items() if node not in ordered and all(each in ordered for each in needed)]
        if not ready:
            raise InvalidModel("The workflow's dag goes in a circle.")
        ordered |= {node: tuple(inputs[node]) for node in ready}
    return list(ordered.items())


def _node(name: str, given: object, shared: dict[str, int], inputs: tuple[str, ...]) -> Node:
    own = given if isinstance(given, dict) else {}
    url = own.get("url")
    if given is not None and not isinstance(url, str):
        raise InvalidModel(f"models: {name} has no url.")
    settings = {key: _number(own.get(key, shared[key]), key) for key in DEFAULTS}
    return Node(
        name=name,
        url=url,
        inputs=inputs,
        min_workers=settings["min-workers"],
        max_workers=max(settings["max-workers"], settings["min-workers"]),
        batch_size=settings["batch-size"],
        max_batch_delay_ms=settings["max-batch-delay"],
        timeout_seconds=settings["timeout-ms"] / 1000,
        attempts=settings["retry-attempts"],
    )


def _number(value: object, key: str) -> int:
    least = 0 if key == "max-batch-delay" else 1
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_NUMBER:
        raise InvalidModel(f"models: {key}={value!r} is no positive whole number.")
    return value
