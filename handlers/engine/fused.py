"""The runner for decoders of Llama's shape: a layer in nine operations, its weights fused and packed.

Llama, Mistral, Qwen2 and Qwen3: RMS norms, rotary positions, gated feed-forward; without windows or quantization.
Everything else is `runner.HfRunner`'s. The model it is made from gives up its weights.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding, silu

from .attention import Attention
from .fixed_steps import FixedSteps, Recorder
from .kv_cache import KvCache
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
        self._dim, self._epsilon = self.cache.shape.dim, config.rms_norm_eps
        self._rotary = model.model.rotary_emb
        self._norm = model.model.norm.weight.detach()
        self._embeddings = model.get_input_embeddings().weight.detach()
        self._head = linear(model.get_output_embeddings().weight, None)
        self._layers = [self._fuse(layer) for layer in model.model.layers]
        self._fixed = FixedSteps(self._step, self.attention, slots, recorder) if recorder else None

    def run(self, plan: Plan, rows: list[int], hidden: bool) -> Output:
        if self._fixed is not None and not plan.chunks and not hidden:
            return Output(self._fixed.run(plan), None)
        ids, positions = flat(plan)
        prepare(self.attention, plan)
        h = self._forward(torch.tensor(ids, device=self.device), torch.tensor([positions], device=self.device))
        if hidden:
            states = self._normed(h, self._norm)
            return Output(self._head(states[rows]), states)
        asked = h if len(rows) == len(ids) else h[rows]
        return Output(self._head(self._normed(asked, self._norm)), None)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self.cache.copy_prefix(source, target, length)

    def _step(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self._head(self._normed(self._forward(ids, positions), self._norm))  # type: ignore[no-any-return]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[rows] to the last layer's [rows, size]."""
        h = embedding(ids, self._embeddings)
        cos, sin = (part[0, :, None] for part in self._rotary(h[None], positions))  # [rows, 1, dim]
        half = self._dim // 2
        rows, turned, scale = len(ids), self._heads + self._kv_heads, self._dim**-0.5
        for number, layer in enumerate(self._layers):
            qkv = layer.qkv(self._normed(h, layer.input_norm)).view(rows, -1, self._dim)
            qk, v = qkv[:, :turned], qkv[:, turned:]
            if layer.head_norms is not None:
                qk = self._normed(qk, layer.head_norms)
            qk = qk * cos + torch.cat((-qk[..., half:], qk[..., :half]), dim=-1) * sin
            attended = self.attention(number, qk[:, : self._heads], qk[:, self._heads :], v, scale)
            h += layer.output(attended.reshape(rows, -1))
            gate, up = layer.gate_up(self._normed(h, layer.feed_norm)).chunk(2, dim=-1)
            h += layer.down(silu(gate, inplace=True).mul_(up))
        return h

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm as Hugging Face has it: in 32 bits, weighted after rounding."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._epsilon)
        return weight * wide.to(x.dtype)

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
