"""Segment images: for each pixel its class and how sure the model is of it."""

from typing import Any

from .vision import VisionHandler


class ImageSegmenter(VisionHandler):
    def postprocess(self, data: Any) -> list[Any]:
        """A model of torchvision answers {"out": classes by pixels}, others the tensor itself."""
        import torch

        scores = data["out"] if isinstance(data, dict) else data
        sureness, classes = torch.softmax(scores.float(), dim=1).max(dim=1)
        return torch.stack([classes.type(sureness.dtype), sureness], dim=3).tolist()  # type: ignore[no-any-return]
