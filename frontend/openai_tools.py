"""What an OpenAI answer is held to (response_format, tools), and the calls that are in it. Pure functions."""

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from .openai_body import Invalid, flag

# How templates teach models to call: between marks (Hermes, Qwen), after one (Mistral), or as bare JSON (Llama).
MARKED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
BEGINNINGS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
BARE = ("{", "[{")
MAX_CALLS = 16  # in one answer that can be nothing else
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # their keys are anybody's names
VALUES = ("const", "enum", "default", "examples")  # no schemas

Call = dict[str, Any]


@dataclass(frozen=True)
class Tools:
    """`choice` is none, auto, required, or a function's name."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    choice: str = "none"
    parallel: bool = True  # False: the first call is the answer

    @property
    def constrained(self) -> bool:
        """The answer can be nothing but calls."""
        return self.choice not in ("none", "auto")

    @property
    def names(self) -> set[str]:
        return {function["name"] for function in self.functions}

    def grammar(self) -> str | None:
        """`required` and named choices work with any model, since nothing else can come out: one call, or where several are
        welcome, a list of them."""
        if not self.constrained:
            return None
        calls: list[dict[str, Any]] = []
        definitions: dict[str, Any] = {}
        for number, function in enumerate(self.functions):
            if self.choice in ("required", function["name"]):
                parameters = function.get("parameters") or {"type": "object"}
                if (moved := _moved(parameters, f"#/$defs/tool{number}")) != parameters:
                    definitions[f"tool{number}"], parameters = moved, {"$ref": f"#/$defs/tool{number}"}
                calls.append(_call_schema(function["name"], parameters))
        wanted = calls[0] if len(calls) == 1 else {"anyOf": calls}
        if self.parallel and self.choice == "required":
            definitions["call"], call = wanted, {"$ref": "#/$defs/call"}
            wanted = {"anyOf": [call, {"type": "array", "items": call, "minItems": 1, "maxItems": MAX_CALLS}]}
        return "tools:" + json.dumps(wanted | ({"$defs": definitions} if definitions else {}))


def _call_schema(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """The schema as it must read when its root stands at `place` of another one: references follow it."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            found[key] = place + value[1:]
        elif key in NAMED and isinstance(value, dict):
            found[key] = {name: _moved(item, place) for name, item in value.items()}
        else:
            found[key] = value if key in VALUES else _moved(value, place)
    return found


def tools_of(given: dict[str, Any]) -> Tools:
    tools = given.get("tools", [])
    if not isinstance(tools, list) or not all(_is_function(tool) for tool in tools):
        raise Invalid("tools: a list of {type: function, function: {name, …}} is wanted.", "tools")
    functions = [tool["function"] for tool in tools]
    choice = given.get("tool_choice", "auto" if tools else "none")
    if isinstance(choice, dict):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, dict) else None
        if choice not in [function["name"] for function in functions]:
            raise Invalid(f"tool_choice: there is no tool {choice!r}.", "tool_choice")
    elif choice not in ("none", "auto", "required"):
        raise Invalid("tool_choice: none, auto, required or a function is wanted.", "tool_choice")
    if choice == "required" and not tools:
        raise Invalid("tool_choice: required needs tools.", "tool_choice")
    return Tools([] if choice == "none" else functions, str(choice), flag(given, "parallel_tool_calls", True))


def _is_function(tool: object) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return False
    return isinstance(function.get("parameters") or {}, dict)


def grammar_of(given: dict[str, Any]) -> str | None:
    """`response_format`, and vLLM's `structured_outputs` and `guided_…`, as a grammar of ours."""
    structured = given.get("structured_outputs", {})
    if not isinstance(structured, dict):
        raise Invalid("structured_outputs: an object is wanted.", "structured_outputs")
    guided = {kind: given[f"guided_{kind}"] for kind in ("json", "regex", "choice", "grammar") if f"guided_{kind}" in given}
    wanted = {kind: value for kind, value in {**structured, **guided}.items() if value}
    if wanted:
        return _guided(wanted)
    return _response_format(given.get("response_format", {}))


def _guided(wanted: dict[str, Any]) -> str:
    match wanted:
        case {"json": str(schema)}:
            return "json_schema:" + schema
        case {"json": dict(schema)}:
            return "json_schema:" + json.dumps(schema)
        case {"regex": str(pattern)}:
            return "regex:" + pattern
        case {"choice": list(choices)} if all(isinstance(choice, str) for choice in choices):
            return "regex:" + "|".join(re.escape(choice) for choice in choices)
        case {"grammar": str(grammar)}:
            return "lark:" + grammar
        case {"json_object": True}:
            return "json_object"
    raise Invalid(
        "structured_outputs: one of json, regex, choice, grammar and json_object is wanted.", "structured_outputs"
    )


def _response_format(wanted: object) -> str | None:
    match wanted:
        case {"type": "json_object"}:
            return "json_object"
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return "json_schema:" + json.dumps(schema)
        case {"type": "text"} | {}:
            if not isinstance(wanted, dict) or wanted.get("type", "text") == "text":
                return None
    raise Invalid(
        "response_format: type text, json_object, or json_schema with json_schema.schema is wanted.", "response_format"
    )


def calls_in(tools: Tools, text: str) -> tuple[str, list[Call]]:
    """What is said beside the calls, and the calls; without any, the text as it is."""
    pieces, said = MARKED.findall(text), text.partition("<tool_call>")[0].strip()
    if not pieces:
        pieces, said = [text.strip().removeprefix("[TOOL_CALLS]").removeprefix("<|python_tag|>").strip()], ""
    calls = [call for piece in pieces for call in _calls(tools, piece)]
    return (said, calls if tools.parallel else calls[:1]) if calls else (text, [])


def _calls(tools: Tools, piece: str) -> list[Call]:
    try:
        found = json.loads(piece)
    except (ValueError, RecursionError):
        return []
    calls = []
    for call in found if isinstance(found, list) else [found]:
        if isinstance(call, dict) and call.get("name") in tools.names:
            arguments = call.get("arguments", call.get("parameters", {}))
            words = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            function = {"name": call["name"], "arguments": words}
            calls.append({"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function})
    return calls


class Listener:
    """A streamed answer that may become a call: passes on what is surely text, and keeps what may be a call."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._kept = ""
        self._said = False

    def hear(self, text: str) -> str:
        """What may be shown now."""
        self._kept += text
        if self._tools.constrained:
            return ""
        at = self._possible_call()
        shown, self._kept = self._kept[:at], self._kept[at:]
        self._said = self._said or bool(shown.strip())
        return shown

    def end(self) -> tuple[str, list[Call]]:
        """What is left to be shown, and the calls."""
        said, calls = calls_in(self._tools, self._kept)
        return ("" if calls else said), calls

    def _possible_call(self) -> int:
        """Where a call may begin: at a mark or the beginning of one; as bare JSON only at the very start."""
        kept = self._kept
        bare = kept.lstrip()
        if not self._said and (not bare or bare.startswith(BARE) or any(mark.startswith(bare) for mark in BARE)):
            return 0
        found = [at for mark in BEGINNINGS if (at := kept.find(mark)) >= 0]
        if found:
            return min(found)
        longest = max(len(mark) for mark in BEGINNINGS) - 1
        for size in range(min(longest, len(kept)), 0, -1):
            if any(mark.startswith(kept[-size:]) for mark in BEGINNINGS):
                return len(kept) - size
        return len(kept)
