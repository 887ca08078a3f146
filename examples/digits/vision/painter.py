"""The decoder of a conditional autoencoder: a digit and eight numbers in, an 8×8 grey image out."""

import torch
from torch import nn

STYLE = 8


class Painter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10 + STYLE, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())

    def forward(self, digits: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """digits: long [N], style: float [N, STYLE], normal → images [N, 1, 8, 8] in 0…1"""
        one_hot = nn.functional.one_hot(digits, 10).float()
        return self.layers(torch.cat([one_hot, style], 1)).reshape(-1, 1, 8, 8)
