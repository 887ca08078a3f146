"""TorchServe's `vllm_handler`: its YAML in our words, and then the handler `text_generation`.

vLLM is the engine where it is installed, ours else. The paths below /predictions/{model}/1.0/v1 are `frontend.openai`'s. Not for:
subclasses of the original, whose steps are vLLM's own.
"""

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .context import Context
from .engine.config import ConfigError
from .text_generation import TextGeneration

logger = logging.getLogger(__name__)

SAME = {  # an argument of vLLM's engine → the key of our `handler:` section
    "dtype": "dtype",
    "max_num_seqs": "max_batch_rows",
    "max_num_batched_tokens": "max_batch_tokens",
    "max_model_len": "max_model_len",
    "tensor_parallel_size": "num_gpu_per_model",
    "trust_remote_code": "trust_remote_code",
    "enable_prefix_caching": "prefix_cache",
}


class VllmHandler(TextGeneration):
    def initialize(self, context: Context) -> None:
        section = in_our_words(context.model_yaml_config.get("handler") or {}, Path(context.model_dir))
        context.model_yaml_config = {**context.model_yaml_config, "handler": section}
        super().initialize(context)


def in_our_words(section: Mapping[str, Any], model_dir: Path) -> dict[str, Any]:
    """What we know already goes before what is translated. ConfigError for what would give other answers."""
    given = {key: value for key, value in (section.get("vllm_engine_config") or {}).items() if value is not None}
    if section.get("adapters") or given.get("enable_lora"):
        raise ConfigError("vllm_handler: LoRA adapters are not supported; merge them into the weights")
    path = str(given.pop("model", None) or section.get("model_path") or "")
    found = {key: given.pop(name) for name, key in SAME.items() if name in given}
    if "enforce_eager" in given:
        found["cuda_graphs"] = not given.pop("enforce_eager")
    given.pop("served_model_name", None)  # any name will do: the path tells the model
    if given:
        logger.warning("vllm_engine_config: without effect here: %s", ", ".join(sorted(given)))
    found["engine"] = "vllm" if importlib.util.find_spec("vllm") else "auto"
    found["model_path"] = path if not path or (model_dir / path).exists() else f"hf://{path.removeprefix('hf://')}"
    return found | {key: value for key, value in section.items() if key not in ("vllm_engine_config", "model_path")}
