"""Random models of a few thousand parameters, and what `generate()` says about them."""

from copy import deepcopy
from functools import cache

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SIZE = {"vocab_size": 200, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZE, "num_key_value_heads": 2, "max_position_embeddings": 512}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "llama-tied": LlamaConfig(
        **GROUPED, tie_word_embeddings=True, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    ),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=16),
    "mistral": MistralConfig(**{**GROUPED, "hidden_size": 96, "num_attention_heads": 6}, sliding_window=None),
    "mistral-window": MistralConfig(**GROUPED, sliding_window=8),
    "gpt2": GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=4, n_positions=512),
}


def _config(name, vocab_size):
    config = deepcopy(CONFIGS[name])
    config.vocab_size, config.initializer_range = vocab_size, 0.3  # gaps between logits wide enough for float32
    config.bos_token_id = config.eos_token_id = None
    return config


@cache
def weights(name, vocab_size):
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(_config(name, vocab_size), dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)  # biases that do something
    return model.state_dict()


def model(name, dtype=torch.float32, vocab_size=200):
    """A fresh one each time: engines change the models they are given."""
    made = AutoModelForCausalLM.from_config(_config(name, vocab_size), dtype=dtype)
    made.load_state_dict(weights(name, vocab_size))
    return made.eval()


def generate(model, ids, tokens):
    out = model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, use_cache=True)
    return out[0, len(ids) :].tolist()


def unrecorded(step, given):
    """Steps of a fixed shape, run as they are."""
    return lambda: step(*given)
