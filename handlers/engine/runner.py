"""Runs a step's plan through a model: the interface of all runners, and the one for any Hugging Face decoder.

The model's modules stay as they are; only its attention is ours. A decoder that does attention in a way we do not know is
found out while loading (`self_check`), and then `SequentialRunner` runs it.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from .attention import Attention
from .kv_cache import KvCache, KvShape
from .packed import pack_linears
from .scheduler import Plan

NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Output:
    """Of the flat batch's rows which were asked for."""

    logits: torch.Tensor  # [asked rows, vocabulary]
    hidden: torch.Tensor | None  # [all rows, size], when asked for


class Runner(Protocol):
    vocab_size: int
    max_model_len: int
    reuses_prefixes: bool
    device: torch.device
    dtype: torch.dtype

    def run(self, plan: Plan, rows: list[int], hidden: bool) -> Output:
        """One forward pass; `rows` says which rows' logits are wanted, at least one."""

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Keys and values of one slot's first positions into another slot."""

    def give_back(self, slot: int, start: int, end: int) -> None:
        """Nobody needs the memory of these positions, whole blocks of one slot."""


class Unsupported(Exception):
    """This runner can't run this model; another one may, with a fresh copy of it when this one is not `untouched`."""

    def __init__(self, reason: str, untouched: bool = True) -> None:
        super().__init__(reason)
        self.untouched = untouched


def flat(plan: Plan) -> tuple[list[int], list[int]]:
    """Tokens and positions of the batch: decoding rows, then chunks."""
    ids = [row.ids[-1] for row in plan.decode]
    positions = [row.computed for row in plan.decode]
    for chunk in plan.chunks:
        ids += chunk.sequence.ids[chunk.start : chunk.end]
        positions += range(chunk.start, chunk.end)
    return ids, positions


def prepare(attention: Attention, plan: Plan) -> None:
    attention.prepare(
        [row.slot for row in plan.decode if row.slot is not None],
        [row.computed for row in plan.decode],
        [(chunk.sequence.slot or 0, chunk.start, chunk.end) for chunk in plan.chunks],
    )


def kv_shape(config: Any) -> KvShape:
    """From a decoder's configuration; Unsupported for what keeps something else than keys and values."""
    if getattr(config, "is_encoder_decoder", False):
        raise Unsupported("encoder-decoder models do not decode in one stack")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    length = getattr(config, "max_position_embeddings", None) or 0
    if kinds - {"full_attention"} or (window and window < length):
        raise Unsupported(f"layers with {', '.join(sorted(kinds))} and a window of {window}")
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return KvShape(config.num_hidden_layers, kv_heads, dim)


class HfRunner:
    """Implements Runner with a model's own modules."""

    reuses_prefixes = True

    def __init__(self, model: Any, slots: int, max_model_len: int) -> None:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface

        config = model.config.get_text_config()
        self.model, self.max_model_len, self.vocab_size = model, max_model_len, config.vocab_size
        self.device, self.dtype = model.get_input_embeddings().weight.device, model.dtype
        self._layers: dict[int, tuple[Attention, int]] = {}  # a layer's attention, and its number on that device
        self._attentions: list[Attention] = []
        for device, layers in _by_device(kv_shape(config), devices_of_layers(model), self.device).items():
            shape = replace(kv_shape(config), layers=len(layers))
            attention = Attention(KvCache(shape, slots, max_model_len, model.dtype, device))
            self._attentions.append(attention)
            self._layers |= {layer: (attention, number) for number, layer in enumerate(layers)}
        self._calls = 0
        name = f"flambeau_{next(NUMBERS)}"
        AttentionInterface.register(name, self._attend)
        AttentionMaskInterface.register(name, _no_mask)
        model.set_attn_implementation(name)
        pack_linears(model)

    def run(self, plan: Plan, rows: list[int], hidden: bool) -> Output:
        ids, positions = flat(plan)
        for attention in self._attentions:
            prepare(attention, plan)
        kept: list[torch.Tensor] = []
        hook = self.model.base_model.register_forward_hook(lambda _, __, out: kept.append(out[0])) if hidden else None
        self._calls = 0
        try:
            out = self.model(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=torch.tensor([positions], device=self.device),
                use_cache=False,
                logits_to_keep=torch.tensor(rows),  # on the CPU: the last layer may be on any device
            )
        finally:
            if hook is not None:
                hook.remove()
        if self._calls != len(self._layers):
            raise Unsupported(f"{self._calls} of {len(self._layers)} layers asked for attention", untouched=False)
        return Output(out.logits[0], kept[0][0] if kept else None)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        for attention in self._attentions:
            attention.cache.copy_prefix(source, target, length)

    def give_back(self, slot: int, start: int, end: int) -> None:
        for attention in self._attentions:
            attention.cache.give_back(slot, start, end)

    def _attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """What the model's layers call: [1, heads, rows, dim] in, [1, rows, heads, dim] out."""
        if options.get("softcap") is not None or options.get("s_aux") is not None:
            raise Unsupported("attention with capped scores or sinks", untouched=False)
        self._calls += 1
        q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        attention, number = self._layers[module.layer_idx]
        return attention(number, q, k, v, scale)[None], None


def devices_of_layers(model: Any) -> dict[int, torch.device]:
    """Where a spread model's layers are, by their number."""
    found: dict[int, torch.device] = {}
    for module in model.modules():
        number, weight = getattr(module, "layer_idx", None), next(module.parameters(), None)
        if isinstance(number, int) and weight is not None:
            found[number] = weight.device
    return found


def _by_device(shape: KvShape, devices: dict[int, torch.device], otherwise: torch.device) -> dict[torch.device, list[int]]:
    layers: dict[torch.device, list[int]] = {}
    for number in range(shape.layers):
        layers.setdefault(devices.get(number, otherwise), []).append(number)
    return layers


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are made per row by `Attention.prepare`."""
