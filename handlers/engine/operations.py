"""What a layer does to its rows between products of matrices: norms, rotary positions, gates. Torch's own, for any device.

Not for: attention (`attention`), or the same in one loop each (`cpu`).
"""

import torch
from torch.nn.functional import silu


class Operations:
    def __init__(self, epsilon: float) -> None:
        self._epsilon = epsilon

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm as Hugging Face has it: in 32 bits, weighted after rounding."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._epsilon)
        return weight * wide.to(x.dtype)

    def add_norm(self, h: torch.Tensor, more: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The norm of h + more, which h is then; [rows, size]."""
        h += more
        return self.norm(h, weight)

    def rotate(self, heads: torch.Tensor, turned: int, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """The first `turned` of [rows, heads, dim] at their positions, whose cos and sin are [rows, dim]. May change them
        in place."""
        x, half = heads[:, :turned], heads.shape[-1] // 2
        return x * cos[:, None] + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin[:, None]

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """silu of the first half of each row, times the second."""
        gate, up = x.chunk(2, dim=-1)
        return silu(gate, inplace=True).mul_(up)  # type: ignore[no-any-return]
