"""Random models of Llama's shape, made on the fly: speed does not depend on what weights say."""

from pathlib import Path

SHAPES = {
    "15m": {
        "vocab_size": 8192,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
    "13m": {  # as large as the tokenizer of examples/tiny_lm, for the way over HTTP
        "vocab_size": 4096,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
    "125m": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2816,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "1b": {
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
    },
}


def make(name: str, folder: Path) -> Path:
    """The model's folder; made once."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = folder / name
    if not (path / "config.json").is_file():
        torch.manual_seed(0)
        config = LlamaConfig(**SHAPES[name], initializer_range=0.04, bos_token_id=None, eos_token_id=None)
        LlamaForCausalLM(config).save_pretrained(path)
    return path


def load(name: str, folder: Path, dtype: str, device: str = "cpu"):
    import torch
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = LlamaForCausalLM.from_pretrained(make(name, folder), dtype=getattr(torch, dtype)).eval().to(device)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    return model
