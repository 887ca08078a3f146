"""The runner for decoders of Llama's shape: a layer in ten operations, its weights fused and packed.

Llama, Mistral, Qwen2 and Qwen3: RMS norms, rotary positions, gated feed-forward; without windows or quantization.
Everything else is `runner.HfRunner`'s. The model it is made from gives up its weights.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding

from . import cpu
from .attention import Attention
from .fixed_steps import FixedSteps, Recorder
from .kv_cache import KvCache
from .operations import Operations
from .packed import linear
from .runner import Output, Unsupported, flat, kv_shape, prepare
from .scheduler import Plan

SHAPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class Layer:
    input_norm: torch.Tensor
    qkv: nn.Module
    head_norms: torch.Tensor | None  # [query and key heads, dim]
    output: nn.Module
    feed_norm: torch.Tensor
    gate_up: nn.Module
    down: nn.Module


class FusedRunner:
    """Implements Runner."""

    reuses_prefixes = True

    def __init__(self, model: Any, slots: int, max_model_len: int, recorder: Recorder | None = None) -> None:
        config = model.config.get_text_config()
        _refuse_others(model, config)
        self.max_model_len, self.vocab_size = max_model_len, config.vocab_size
        self.device, self.dtype = model.device, model.dtype
        self.cache = KvCache(kv_shape(config), slots + 1, max_model_len, model.dtype, self.device)  # one to spoil
        self.attention = Attention(self.cache)
        self._heads, self._kv_heads = config.num_attention_heads, self.cache.shape.heads
        self._dim = self.cache.shape.dim
        epsilon = config.rms_norm_eps
        self._operations = Operations(epsilon) if recorder else cpu.operations(self.device, self.dtype, epsilon)
        self._rotary = model.model.rotary_emb
        self._norm = model.model.norm.weight.detach()
        self._embeddings = model.get_input_embeddings().weight.detach()
        self._head = linear(model.get_output_embeddings().weight, None)
        self._layers = [self._fuse(layer) for layer in model.model.layers]
        self._next_norms = [layer.input_norm for layer in self._layers[1:]] + [self._norm]
        self._fixed = FixedSteps(self._step, self.attention, slots, recorder) if recorder else None

    def run(self, plan: Plan, rows: list[int], hidden: bool) -> Output:
        if self._fixed is not None and not plan.chunks and not hidden:
            return Output(self._fixed.run(plan), None)
        ids, positions = flat(plan)
        prepare(self.attention, plan)
        asked = None if hidden or len(rows) == len(ids) else torch.tensor(rows, device=self.device)
        states = self._forward(torch.tensor(ids, device=self.device), torch.tensor([positions], device=self.device), asked)
        return Output(self._head(states[rows] if hidden else states), states if hidden else None)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self.cache.copy_prefix(source, target, length)

    def give_back(self, slot: int, start: int, end: int) -> None:
        self.cache.give_back(slot, start, end)

    def _step(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self._head(self._forward(ids, positions, None))  # type: ignore[no-any-return]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, asked: torch.Tensor | None) -> torch.Tensor:
        """[rows] to [rows, size], or of the asked rows only: the others' keys and values are kept, nobody reads the rest."""
        do, h = self._operations, embedding(ids, self._embeddings)
        cos, sin = (part[0] for part in self._rotary(h[None], positions))
        turned, scale = self._heads + self._kv_heads, self._dim**-0.5
        normed = do.norm(h, self._layers[0].input_norm)
        for number, (layer, next_norm) in enumerate(zip(self._layers, self._next_norms, strict=True)):
            heads = layer.qkv(normed).view(len(ids), -1, self._dim)
            if layer.head_norms is not None:
                heads[:, :turned] = do.norm(heads[:, :turned], layer.head_norms)
            qk = do.rotate(heads, turned, cos, sin)
            attended = self.attention(number, qk[:, : self._heads], qk[:, self._heads :], heads[:, turned:], scale)
            attended = attended.flatten(1)
            if asked is not None and layer is self._layers[-1]:
                h, attended = h[asked], attended[asked]
            normed = do.add_norm(h, layer.output(attended), layer.feed_norm)
            normed = do.add_norm(h, layer.down(do.gate(layer.gate_up(normed))), next_norm)
        return normed

    def _fuse(self, layer: Any) -> Layer:
        attention, feed = layer.self_attn, layer.mlp
        norms = None
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
            norms = torch.cat((query.expand(self._heads, -1), key.expand(self._kv_heads, -1)))
        return Layer(
            layer.input_layernorm.weight.detach(),
            _merged(attention.q_proj, attention.k_proj, attention.v_proj),
            norms,
            _merged(attention.o_proj),
            layer.post_attention_layernorm.weight.detach(),
            _merged(feed.gate_proj, feed.up_proj),
            _merged(feed.down_proj),
        )


def _merged(*parts: nn.Linear) -> nn.Module:
    """One layer for several that read the same; their own weights are freed."""
    weight = torch.cat([part.weight.detach() for part in parts])
    biases = [part.bias.detach() for part in parts if part.bias is not None]
    for part in parts:
        part.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
    return linear(weight, torch.cat(biases) if biases else None)


def _refuse_others(model: Any, config: Any) -> None:
    if config.model_type not in SHAPES or type(model).__name__.lower() != f"{config.model_type}forcausallm":
        raise Unsupported(f"{type(model).__name__} has another shape")
    if getattr(model, "is_quantized", False) or any(
        type(child) is not nn.Linear
        for layer in model.model.layers
        for child in (layer.self_attn.q_proj, layer.mlp.down_proj)
    ):
        raise Unsupported("its weights are quantized")
    if config.hidden_act != "silu" or getattr(config, "mlp_bias", False):
        raise Unsupported(f"a feed-forward of another kind ({config.hidden_act})")
    if len({parameter.device for parameter in model.parameters()}) > 1:
        raise Unsupported("it is spread over several devices")
    if getattr(config, "rope_parameters", None) and config.rope_parameters.get("rope_type") in ("dynamic", "longrope"):
        raise Unsupported("positions that depend on the text's length")
    kv_shape(config)
