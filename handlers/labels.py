"""Class numbers to names: the archive's index_to_name.json."""

import json
import os
from collections.abc import Sequence
from typing import Any


def load_label_mapping(path: str) -> dict[str, str] | None:
    """None when the archive has no such file. ImageNet's `["n01440764", "tench"]` is a tench; detectors nest a list."""
    if not os.path.isfile(path):
        return None
    name = os.path.basename(path)
    with open(path, encoding="utf-8") as file:
        mapping = json.load(file)
    if isinstance(mapping, dict) and isinstance(nested := mapping.get("object_type_names"), list):
        mapping = {str(at): label for at, label in enumerate(nested)}
    if not isinstance(mapping, dict):
        raise ValueError(f"{name}: an object of class numbers and names is wanted")
    labels = {key: label[-1] if isinstance(label, list) and label else label for key, label in mapping.items()}
    if wrong := [key for key, label in labels.items() if not isinstance(label, str)]:
        raise ValueError(f"{name}: the label of {wrong[0]} is no text")
    return labels


def map_class_to_label(
    probs: Sequence[Sequence[float]],
    mapping: dict[str, str] | None = None,
    lbl_classes: Sequence[Sequence[Any]] | None = None,
) -> list[dict[str, float]]:
    """For each row its classes' names, or numbers where there are no names, with their probabilities."""
    classes = lbl_classes if lbl_classes is not None else [range(len(row)) for row in probs]
    names = mapping or {}
    return [
        {names.get(str(number), str(number)): chance for number, chance in zip(numbers, row, strict=False)}
        for numbers, row in zip(classes, probs, strict=False)
    ]
