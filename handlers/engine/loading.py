"""From a model's configuration to an engine that is ready: weights, devices, runner, self-check."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ..tokenizer import HfTokenizer, Tokenizer
from . import devices, self_check, vllm
from .config import ConfigError, TextModelConfig
from .encoder import EncoderEngine
from .engine import Engine, Limits
from .fixed_steps import cuda_graph
from .fused import FusedRunner
from .grammar import grammars
from .interface import EngineLike
from .runner import HfRunner, Runner, Unsupported, kv_shape
from .sequential import SequentialRunner

log = logging.getLogger(__name__)
SPARE_SLOTS = 8  # keep prefixes of texts that are done while all rows are busy
DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
DEFAULT_MODEL_LEN = 2048
MEMORY_SHARE = 0.5  # of what is free, for keys and values


@dataclass(frozen=True)
class Loaded:
    tokenizer: Tokenizer
    engine: EngineLike


def load(config: TextModelConfig, folder: Path, gpu_id: int | None, chat_template: str = "") -> Loaded:
    """ConfigError says what in the YAML can't be had."""
    _quiet()
    if config.threads:
        torch.set_num_threads(config.threads)
    source = locate(config.model_path, folder)
    hf_config = _read_config(source, config)
    if config.engine == "vllm":
        tokenizer = HfTokenizer.load(
            source, _end_tokens(source, hf_config), chat_template or None, config.trust_remote_code
        )
        return Loaded(tokenizer, vllm.load(config, source, _vllm_kv_bytes(config, hf_config)))
    placement = place(config, gpu_id)
    if any(name.endswith(DECODERS) for name in getattr(hf_config, "architectures", None) or []):
        return _load_decoder(config, source, hf_config, placement, chat_template)
    return _load_encoder(config, source, hf_config, placement)


def locate(model_path: str, folder: Path) -> str:
    """A folder, or the name of a model that the hub (or its local copy) has."""
    if model_path.startswith("hf://"):
        return model_path.removeprefix("hf://")
    path = folder / model_path
    if not (path / "config.json").is_file():
        raise ConfigError(f"handler.model_path: {model_path or 'the archive'} has no config.json")
    return str(path)


def place(config: TextModelConfig, gpu_id: int | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` that say where the weights go."""
    gpus = torch.cuda.device_count()
    if config.num_gpu_per_model > max(gpus, 1):
        devices.group(gpus, config.num_gpu_per_model, 0)
    if not gpus or gpu_id is None:
        return {}
    used = devices.group(gpus, config.num_gpu_per_model, gpu_id)
    if len(used) == 1 and config.gpu_max_memory is None:
        return {"device_map": {"": used[0]}}
    if (limit := config.gpu_max_memory) is not None:
        return {"device_map": "auto", "max_memory": devices.max_memory(gpus, used, lambda _: limit)}
    memory = devices.max_memory(gpus, used, lambda gpu: torch.cuda.mem_get_info(gpu)[0])
    return {"device_map": "balanced", "max_memory": memory}


def quantization(config: TextModelConfig) -> dict[str, Any]:
    if config.quantize is None:
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ConfigError(f"handler.quantize: {config.quantize} wants bitsandbytes; install the extra `bnb`") from None
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_silence_casts)
    if config.quantize == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0)}
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=config.quantize, bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": four}


def _quiet() -> None:
    """A worker's log is no terminal."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _silence_casts(record: logging.LogRecord) -> bool:
    """LLM.int8 says on every call that it casts its inputs."""
    return "will be cast" not in record.getMessage()


def _read_config(source: str, config: TextModelConfig) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(f"handler.model_path: {config.model_path} can't be read: {error}") from error


def _dtype(config: TextModelConfig, hf_config: Any, on_gpu: bool) -> torch.dtype:
    if config.dtype != "auto":
        found = getattr(torch, config.dtype, None)
        if not isinstance(found, torch.dtype):
            raise ConfigError(f"handler.dtype: {config.dtype} is no type of torch")
        return found
    if config.quantize is not None:
        return torch.bfloat16
    given = getattr(hf_config.get_text_config(), "dtype", None) or torch.float32
    assert isinstance(given, torch.dtype)
    return torch.float32 if given == torch.float16 and not on_gpu else given


def _load_decoder(
    config: TextModelConfig, source: str, hf_config: Any, placement: dict[str, Any], chat_template: str
) -> Loaded:
    from transformers import AutoModelForCausalLM

    text = hf_config.get_text_config()
    quantized = quantization(config)

    def load_model() -> Any:
        return AutoModelForCausalLM.from_pretrained(
            source,
            dtype=_dtype(config, hf_config, bool(placement)),
            trust_remote_code=config.trust_remote_code,
            **placement,
            **quantized,
        ).eval()

    length = _model_len(config, text)
    tokenizer = HfTokenizer.load(source, _end_tokens(source, text), chat_template or None, config.trust_remote_code)
    slots = config.max_batch_rows + (SPARE_SLOTS if config.prefix_cache else 0)
    runner = choose_runner(load_model, config, slots, length)
    limits = Limits(
        max_rows=config.max_batch_rows,
        max_tokens=config.max_batch_tokens or (2048 if runner.device.type == "cuda" else 256),
        kv_tokens=config.kv_cache_tokens or _kv_tokens(text, runner, slots * length),
    )
    engine = Engine(
        runner,
        limits,
        slots=slots,
        eos_token_ids=tokenizer.eos_token_ids,
        prefix_cache=config.prefix_cache,
        pooling=config.pooling or "last",
        normalize=config.normalize,
        grammars=grammars(tokenizer.inner, runner.vocab_size, list(tokenizer.eos_token_ids)),
    )
    return Loaded(tokenizer, engine)


def choose_runner(load_model: Callable[[], Any], config: TextModelConfig, slots: int, length: int) -> Runner:
    """The fastest runner that gives what the model itself gives."""
    model = load_model()
    with torch.inference_mode():
        wanted = self_check.expected(model) if config.self_check else None
    makers: dict[str, Callable[[Any], Runner]] = {
        "fused": lambda model: FusedRunner(
            model, slots, length, cuda_graph if config.cuda_graphs and model.device.type == "cuda" else None
        ),
        "hf": lambda model: HfRunner(model, slots, length),
    }
    for name in makers if config.engine == "auto" else [config.engine] if config.engine in makers else []:
        try:
            with torch.inference_mode():
                runner = makers[name](model)
                if wanted is not None:
                    self_check.check(runner, wanted)
            log.info("runner %s on %s", name, runner.device)
            return runner
        except Unsupported as reason:
            log.log(
                logging.INFO if reason.untouched else logging.WARNING, "runner %s can't run this model: %s", name, reason
            )
            if not reason.untouched:
                model = load_model()
    if config.engine != "static":
        log.warning("falling back to one sequence after the other: right, but slow")
    return SequentialRunner(model, length)


def _model_len(config: TextModelConfig, text: Any) -> int:
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or DEFAULT_MODEL_LEN
    return min(config.max_model_len or limit, limit)


def _end_tokens(source: str, text: Any) -> list[int]:
    """As the generation configuration says, or else the model's."""
    from transformers import GenerationConfig

    try:
        eos = GenerationConfig.from_pretrained(source).eos_token_id
    except OSError:
        eos = getattr(text, "eos_token_id", None)
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def _kv_tokens(text: Any, runner: Runner, most: int) -> int:
    """As many as all slots hold, or as a share of the free memory does."""
    if runner.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(runner.device)
    else:
        free = psutil.virtual_memory().available
    try:
        each = _kv_bytes(text, runner.dtype)
    except Unsupported:
        return most
    return min(most, int(free * MEMORY_SHARE) // each)


def _kv_bytes(text: Any, dtype: torch.dtype) -> int:
    """Of one position."""
    shape = kv_shape(text)
    return shape.layers * shape.heads * (2 * shape.dim) * int(dtype.itemsize)


def _vllm_kv_bytes(config: TextModelConfig, hf_config: Any) -> int | None:
    """As `kv_cache_tokens` says; else on a CPU as much as all rows can fill, within the share of memory that ours takes."""
    text, gpu = hf_config.get_text_config(), torch.cuda.is_available()
    most = int(psutil.virtual_memory().available * MEMORY_SHARE)
    try:
        each = _kv_bytes(text, _dtype(config, hf_config, gpu))
    except Unsupported:
        return None if gpu else most
    if config.kv_cache_tokens:
        return config.kv_cache_tokens * each
    return None if gpu else min(config.max_batch_rows * _model_len(config, text) * each, most)


def _load_encoder(config: TextModelConfig, source: str, hf_config: Any, placement: dict[str, Any]) -> Loaded:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        source,
        dtype=_dtype(config, hf_config, bool(placement)),
        trust_remote_code=config.trust_remote_code,
        **placement,
        **quantization(config),
    ).eval()
    tokenizer = HfTokenizer.load(source, trust_remote_code=config.trust_remote_code)
    engine = EncoderEngine(
        model,
        max_model_len=_encoder_len(config, source, model, tokenizer),
        pooling=config.pooling or _pooling(source) or "mean",
        normalize=config.normalize,
        closing=tokenizer.closing,
    )
    return Loaded(tokenizer, engine)


def _encoder_len(config: TextModelConfig, source: str, model: Any, tokenizer: HfTokenizer) -> int:
    """As many tokens as there are positions; unless the YAML asks for more, as many as the model was made for."""
    positions = getattr(model.config, "max_position_embeddings", None) or DEFAULT_MODEL_LEN
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            positions = min(positions, table.num_embeddings - table.padding_idx - 1)  # RoBERTa counts from behind padding
    meant = [tokenizer.inner.model_max_length, _beside(source, "sentence_bert_config.json").get("max_seq_length")]
    return min(positions, config.max_model_len or min([positions, *filter(None, meant)]))


def _beside(source: str, name: str) -> dict[str, Any]:
    """What sentence-transformers keeps beside the weights; empty where it is not."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    found = json.loads(Path(path).read_text()) if path else {}
    return found if isinstance(found, dict) else {}


def _pooling(source: str) -> str:
    """What a folder of sentence-transformers says."""
    modes = _beside(source, "1_Pooling/config.json")
    keys = {"cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken", "mean": "pooling_mode_mean_tokens"}
    return next((name for name, key in keys.items() if modes.get(key)), "")
