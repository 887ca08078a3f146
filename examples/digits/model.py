"""The network: two convolutions and two linear layers on 8×8 grey images, about 20,000 parameters."""

import torch
from torch import nn


class DigitsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.embed = nn.Linear(32 * 4 * 4, 32)
        self.classify = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: float [N, 1, 8, 8] in 0…1 → logits [N, 10]"""
        return self.classify(torch.relu(self.embed(self.features(images).flatten(1))))
