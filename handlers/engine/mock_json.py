"""The smallest JSON that a schema allows: what the engine without a model writes when it is held to a grammar."""

import json
from typing import Any

MAX_DEPTH = 32


def example(grammar: str) -> str:
    """Of `json_object`, `json_schema:…` and `tools:…`; empty for other grammars and for what can't be read."""
    kind, _, text = grammar.partition(":")
    if kind == "json_object":
        return "{}"
    try:
        schema = json.loads(text)
    except ValueError:
        return ""
    return json.dumps(value(schema, schema)) if kind in ("json_schema", "tools") else ""


def value(schema: Any, root: Any, depth: int = 0) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None
    if reference := schema.get("$ref"):
        return value(_follow(reference, root), root, depth + 1)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return value(schema[key][0], root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else None)
    return _of_kind(kind[0] if isinstance(kind, list) else kind, schema, root, depth)


def _of_kind(kind: str | None, schema: dict[str, Any], root: Any, depth: int) -> Any:
    if kind == "object":
        wanted = schema.get("required", schema.get("properties", {}))
        return {name: value(schema.get("properties", {}).get(name), root, depth + 1) for name in wanted}
    if kind == "array":
        return [value(schema.get("items"), root, depth + 1) for _ in range(schema.get("minItems", 0))]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"string": "a" * schema.get("minLength", 1), "boolean": True}.get(str(kind))


def _follow(reference: str, root: Any) -> Any:
    found = root
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part, {}) if isinstance(found, dict) else {}
    return found
