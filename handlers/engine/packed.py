"""Linear layers whose weights lie as oneDNN wants them: on a CPU twice as fast in 32 bits, and several times for one row.

The operators are private to torch, so `available` tries them once; without them a layer stays what it is.
"""

from functools import cache
from typing import Any

import torch
from torch import nn

from . import cpu

ROWS_HINT = 32  # the layout is chosen for products with so many rows; right for any number


@cache
def available(dtype: torch.dtype) -> bool:
    """This build of torch can pack, and what comes out is right."""
    try:
        with torch.inference_mode():
            weight, x = torch.randn(64, 64).to(dtype), torch.randn(4, 64).to(dtype)
            error = (pack(weight)(x) - nn.functional.linear(x, weight)).abs().max()
            return bool(error < 0.1)
    except (AttributeError, RuntimeError):
        return False


class Packed(nn.Module):  # type: ignore[misc]
    """A linear layer; use it like one. `weight` is empty, for models that look at its type or device."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        (self.out_features, self.in_features), self.weight = weight.shape, weight.new_empty(0)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS_HINT)
        self._bias = bias
        self._product = cpu.product(self._weight, weight.shape, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._product is not None:
            return self._product(x.reshape(-1, x.shape[-1]).contiguous()).view(*x.shape[:-1], -1)
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


class Plain(nn.Module):  # type: ignore[misc]
    """The same where nothing can be packed: on a GPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._weight, self._bias = weight, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = nn.functional.linear(x, self._weight, self._bias)
        return y


def pack(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    return Packed(weight.detach(), None if bias is None else bias.detach())


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    """Packed where that is possible."""
    if weight.device.type == "cpu" and available(weight.dtype):
        return pack(weight, bias)
    return Plain(weight.detach(), None if bias is None else bias.detach())


def pack_linears(model: Any) -> int:
    """Replaces every plain linear layer of a model on a CPU; returns how many. The old weights are freed as it goes."""
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            weight = _weight(child)
            if weight is not None and weight.device.type == "cpu" and available(weight.dtype):
                setattr(parent, name, pack(weight, child.bias))
                count += 1
    return count


def _weight(module: nn.Module) -> torch.Tensor | None:
    """[columns, depth] of a plain linear layer; GPT-2 has its own kind, the other way round."""
    from transformers.pytorch_utils import Conv1D

    if type(module) is Conv1D:
        return module.weight.T  # type: ignore[no-any-return]
    return module.weight if type(module) is nn.Linear else None
