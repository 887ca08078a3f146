"""Class numbers to names: the archive's index_to_name.json."""

import json
import os
from typing import Any


def load_label_mapping(path: str) -> dict[str, Any] | None:
    """None when the archive has no such file. Detectors nest theirs: {"object_type_names": [...]}."""
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as file:
        mapping = json.load(file)
    if not isinstance(mapping, dict):
        raise ValueError(f"{os.path.basename(path)}: an object of numbers and names is wanted")
    names = mapping.get("object_type_names")
    if isinstance(names, list):
        return {str(at): name for at, name in enumerate(names)}
    return names if isinstance(names, dict) else mapping


def map_class_to_label(
    probabilities: list[list[float]],
    mapping: dict[str, Any] | None = None,
    label_classes: list[list[Any]] | None = None,
) -> list[dict[Any, float]]:
    """For each row its classes' names, or numbers where there are no names, with their probabilities."""
    rows = []
    for at, row in enumerate(probabilities):
        classes = label_classes[at] if label_classes is not None else list(range(len(row)))
        rows.append({label(name, mapping): chance for name, chance in zip(classes, row, strict=False)})
    return rows


def label(number: Any, mapping: dict[str, Any] | None) -> Any:
    """A mapping's value may be a list, as ImageNet's: its last word is the name that people read."""
    if not mapping:
        return str(number)
    name = mapping.get(str(number), str(number))
    return name[-1] if isinstance(name, list) and name else name
