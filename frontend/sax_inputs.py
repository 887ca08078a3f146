"""What Sax's callers send, read strictly: bodies, query strings, `extra_inputs`; and what a published model declares.

Pure functions and small records; not for: HTTP, which is `sax`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ..handlers.generation import GenerationRequest, SamplingParams
from ..management.cell import names
from ..management.cell.errors import invalid

LOWEST = -1e30  # a score that is no number, or minus infinity: JSON has neither
MAX_STEPS = 4096
EXTRA_INPUTS: dict[str, Any] = {  # of a language model that declares nothing else
    "temperature": 1.0,
    "per_example_max_decode_steps": 128,
    "per_example_top_k": 0,
    "per_example_top_p": 1.0,
    "seed": None,
    "stop": "",
}
WHOLE = frozenset({"per_example_max_decode_steps", "per_example_top_k", "seed"})


@dataclass(frozen=True)
class Declared:
    """The `sax` section of a model's YAML, or what stands for it when there is none."""

    extra_inputs: Mapping[str, Any] = field(default_factory=lambda: EXTRA_INPUTS)
    methods: tuple[str, ...] = ()
    samples: int = 1
    top_k: int = 0  # the largest that may be asked for; 0: any
    max_steps: int = MAX_STEPS
    include_prefix: bool = False
    limit: int = 0  # requests of one method that may be under way; 0: only the queue limits them


def declared(model_yaml: Mapping[str, Any], capabilities: list[str]) -> Declared:
    section = model_yaml.get("sax")
    if not isinstance(section, Mapping):
        by_capability = {"generate": ("lm.generate", "lm.generate_stream"), "score": ("lm.score",), "embed": ("lm.embed",)}
        named = [method for capability in capabilities for method in by_capability.get(capability, ())]
        return Declared(methods=(*named, "custom"))
    return Declared(
        extra_inputs=section.get("extra_inputs", EXTRA_INPUTS),
        methods=tuple(section.get("methods", ())),
        samples=int(section.get("samples", 1)),
        top_k=int(section.get("top_k", 0)),
        max_steps=int(section.get("max_steps", MAX_STEPS)),
        include_prefix=bool(section.get("include_prefix", False)),
        limit=int(section.get("limit", 0)),
    )


def fields(body: bytes, query: Mapping[str, str]) -> dict[str, Any]:
    """The body, which is JSON whatever its type says; without one, the query string."""
    if not body and query:
        return dict(query)
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise invalid("the body should be a JSON object")
    return dict(query) | given


def text(given: Mapping[str, Any], name: str) -> str:
    if name not in given:
        raise invalid(f"{name}: Field required")
    if not isinstance(given[name], str):
        raise invalid(f"{name}: Input should be a valid string")
    return str(given[name])


def whole(given: Mapping[str, Any], name: str) -> int:
    """A whole number, also written as text or as 1.0."""
    if name not in given:
        raise invalid(f"{name}: Field required")
    value = names.whole_number(given[name])
    if value is None:
        raise invalid(f"{name}: Input should be a valid integer")
    return value


def suffixes(given: Mapping[str, Any]) -> list[str]:
    """One, several, or none, which is the empty one."""
    found = given.get("suffix") or [""]
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(suffix, str) for suffix in found):
        raise invalid("suffix: a list of texts is wanted")
    return found


def extra_inputs(given: Mapping[str, Any], model: Declared) -> dict[str, Any]:
    """The declared inputs with the values given; absent or null is the model's default."""
    asked = given.get("extra_inputs")
    if asked is None:
        return dict(model.extra_inputs)
    if not isinstance(asked, dict):
        raise invalid("extra_inputs: Input should be a valid dictionary")
    merged = dict(model.extra_inputs)
    for key, value in asked.items():
        if key not in merged:
            raise invalid(
                f"The extra_inputs key `{key}` in the RPC request is not defined in ServableModel.extra_inputs. "
                f"Current ServableModel.extra_inputs is {json.dumps(dict(model.extra_inputs))}"
            )
        if value is not None:
            merged[key] = _fit(key, value, merged[key])
    return merged


def _fit(key: str, value: Any, default: Any) -> Any:
    if isinstance(default, list):
        good = isinstance(value, list) and len(value) == len(default) and all(_is_number(item) for item in value)
    elif isinstance(default, str):
        good = isinstance(value, str)
    else:
        good = _is_number(value) and (key not in WHOLE or (value == int(value) and abs(value) < 2**63))
    if not good:
        raise invalid(f"extra_inputs.{key}: {json.dumps(value)} is not of the declared kind, {json.dumps(default)}")
    return int(value) if key in WHOLE else value


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


def generation(query: str, extra: Mapping[str, Any], model: Declared, *, stream: bool) -> GenerationRequest:
    """Bounds are checked here, so that a typo is an error and not a surprise."""
    temperature, top_p = float(extra.get("temperature", 1.0)), float(extra.get("per_example_top_p", 1.0))
    steps, top_k = int(extra.get("per_example_max_decode_steps", 128)), int(extra.get("per_example_top_k", 0))
    if temperature < 0:
        raise invalid(f"temperature {temperature:g} is negative")
    if not 0 <= top_p <= 1:
        raise invalid(f"per_example_top_p {top_p:g} is not between 0 and 1")
    if not 1 <= steps <= model.max_steps:
        raise invalid(f"per_example_max_decode_steps {steps} is not between 1 and {model.max_steps}")
    if top_k < 0 or (model.top_k and top_k > model.top_k):
        raise invalid(f"per_example_top_k {top_k} is not between 0 and {model.top_k or 'any'}")
    stop, seed = extra.get("stop") or "", extra.get("seed")
    sampling = SamplingParams(
        max_tokens=steps,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p or 1e-6,  # zero keeps the best token alone
        seed=seed,
        stop=(stop,) if stop else (),
        logprobs=0,
        n=model.samples,
    )
    return GenerationRequest(prompt=query, sampling=sampling, echo=model.include_prefix, stream=stream)


def finite(score: float) -> float:
    return score if math.isfinite(score) else LOWEST
