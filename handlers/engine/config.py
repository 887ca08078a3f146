"""The `handler:` section of a text model's YAML, as the engine understands it; other keys are the author's own."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_args

EngineName = Literal["auto", "hf", "fused", "static", "mock", "vllm"]
Quantization = Literal["nf4", "fp4", "int8"]
PromptFormat = Literal["", "llama-2-chat"]


class ConfigError(ValueError):
    """A value in the model's YAML that can't be used: the model is not loaded."""


@dataclass(frozen=True)
class MockConfig:
    """What the engine without a model does; see `mock`."""

    mode: Literal["digits", "echo", "hash"] = "hash"
    steps_per_second: float = 300.0  # 0: as fast as it goes; ignored when alpha, beta, gamma or delta are given
    alpha: float = 0.0  # milliseconds of a decode step: alpha + beta · rows
    beta: float = 0.0
    gamma: float = 0.0  # milliseconds of a prefill: gamma + delta · prompt tokens
    delta: float = 0.0
    crash_at_step: int = 0
    raise_at_step: int = 0
    stall_at_step: int = 0
    stall_seconds: float = 3600.0
    load_seconds: float = 0.0  # as if there were weights to read


@dataclass(frozen=True)
class TextModelConfig:
    model_path: str = ""  # a folder in the archive, an absolute one, or hf://owner/name
    engine: EngineName = "auto"  # auto: fused where the architecture allows it, else hf, else static
    dtype: str = "auto"  # float32, bfloat16, float16; auto: as the weights say, float32 on a CPU for float16
    quantize: Quantization | None = None
    num_gpu_per_model: int = 1
    gpu_max_memory: int | None = None  # bytes on each GPU; `per_gpu_mem` is the same
    threads: int = 0  # of torch, on a CPU; 0: torch's own choice
    max_batch_rows: int = 32  # sequences that decode together
    max_batch_tokens: int = 0  # tokens of one step; 0: 256 on a CPU, 2048 on a GPU
    max_model_len: int = 0  # positions; 0: what the model's configuration says
    kv_cache_tokens: int = 0  # of all sequences together; 0: max_batch_rows full sequences, as far as memory reaches
    max_waiting: int | None = None  # requests the worker takes beyond its rows; as many as it has rows unless said
    prefix_cache: bool = True  # take over what earlier texts with the same beginning left
    self_check: bool = True  # compare with the model's own forward pass while loading
    cuda_graphs: bool = True  # record decoding steps on a GPU
    trust_remote_code: bool = False  # run Python that comes with the weights
    prompt_format: PromptFormat = ""  # of HELM's prompts
    system: str = ""  # the system text of prompt_format
    close_inst: Literal["auto", "never"] = "auto"  # auto: llama-2-chat prompts that have no [/INST] get one
    chat_template: str = ""  # a file in the archive or a template; the tokenizer's own otherwise
    truncate_prompt: bool = False  # cut prompts that are too long from the left, rather than refuse them
    pooling: Literal["", "mean", "cls", "last"] = ""  # of embeddings; "": as the model folder says, else mean or last
    normalize: bool = True  # embeddings have length 1
    deny: list[str] = field(default_factory=list)  # HELM: a text with one of these words is replaced by an apology
    mock: MockConfig = field(default_factory=MockConfig)


def read(section: Mapping[str, Any]) -> TextModelConfig:
    """Refuses what it cannot use; a null is absent; keys it does not know are the author's own."""
    given = {str(key): value for key, value in section.items() if value is not None}
    if "per_gpu_mem" in given:
        given.setdefault("gpu_max_memory", given["per_gpu_mem"])
    mock = given.pop("mock", {})
    if not isinstance(mock, Mapping):
        raise ConfigError(f"handler.mock: {mock!r} is not a mapping")
    config = TextModelConfig(
        **_values(TextModelConfig, given, "handler"), mock=MockConfig(**_values(MockConfig, mock, "mock"))
    )
    if config.num_gpu_per_model < 1:
        raise ConfigError(f"handler.num_gpu_per_model: {config.num_gpu_per_model} is less than 1")
    if config.max_batch_rows < 1:
        raise ConfigError(f"handler.max_batch_rows: {config.max_batch_rows} is less than 1")
    return config


def _values(kind: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {field.name: field for field in fields(kind) if field.name != "mock"}  # type: ignore[arg-type]
    return {key: _cast(f"{where}.{key}", known[key], value) for key, value in given.items() if key in known}


def _cast(name: str, field_: Any, value: Any) -> Any:
    choices = [
        choice for part in (field_.type, *get_args(field_.type)) for choice in get_args(part) if isinstance(choice, str)
    ]
    if choices:
        if (value := str(value)) not in choices:
            raise ConfigError(f"{name}: {value!r} is none of {', '.join(filter(None, choices))}")
        return value
    default = field_.default if field_.default is not MISSING else field_.default_factory()
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[str(value).lower()]
        if isinstance(default, list):
            return [str(item) for item in value]
        if isinstance(default, float):
            return float(value)
        if isinstance(default, int) or int in get_args(field_.type):
            return int(float(value))  # YAML reads 4.8e10 as a string
        return str(value)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{name}: {value!r} can't be used") from None
