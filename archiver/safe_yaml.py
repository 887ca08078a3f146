"""YAML of people we do not know: SafeLoader, and what its aliases unfold to is weighed before anything is made of it.

Ten lines of aliases of aliases stand for billions of nodes. Loaded they share their parts and take no room; printed, or sent
to a worker, they take all there is. Not for: what a document means.
"""

from typing import Any

import yaml

MAX_UNFOLDED = 4 << 20  # nodes and letters; a file of 1 MiB without aliases has at most half as many


class _Loader(yaml.SafeLoader):
    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _weight(node, {}) > MAX_UNFOLDED:
            raise yaml.YAMLError(f"its aliases unfold to more than {MAX_UNFOLDED} nodes and letters")
        return node


def load(text: bytes | str) -> Any:
    """yaml.YAMLError, ValueError or RecursionError for what can't be read."""
    return yaml.load(text, Loader=_Loader)


def _weight(node: yaml.Node, known: dict[int, int]) -> int:
    """What the node unfolds to; 0 in `known` marks those that we are inside of."""
    weight = known.get(id(node))
    if weight == 0:
        raise yaml.YAMLError("an alias stands inside of what it names")
    if weight is None:
        known[id(node)] = 0
        if isinstance(node, yaml.MappingNode):
            weight = 1 + sum(_weight(key, known) + _weight(value, known) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            weight = 1 + sum(_weight(item, known) for item in node.value)
        else:
            weight = 1 + len(node.value)
        known[id(node)] = weight
    return weight
