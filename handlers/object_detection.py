"""Detect objects: each one's name, box and score, where the score reaches `threshold` (`handler: {threshold: 0.7}`)."""

from collections.abc import Callable
from typing import Any

from . import images
from .context import Context
from .labels import map_class_to_label
from .vision import VisionHandler


class ObjectDetector(VisionHandler):
    image_processing: Callable[[Any], Any] = staticmethod(images.to_tensor)
    threshold = 0.5

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self.threshold = float((self.model_yaml_config.get("handler") or {}).get("threshold", self.threshold))

    def preprocess(self, data: list[dict[str, Any]]) -> Any:
        """Images keep their sizes, so they stay a list."""
        return [self.tensor(row).to(self.device) for row in data]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(data, *args, **kwargs)

    def postprocess(self, data: Any) -> list[Any]:
        return [self._objects(found) for found in data]

    def _objects(self, found: dict[str, Any]) -> list[dict[str, Any]]:
        sure = found["scores"] >= self.threshold
        objects: list[dict[str, Any]] = []
        for kind, box, score in zip(*(found[key][sure].tolist() for key in ("labels", "boxes", "scores")), strict=True):
            objects.append({**map_class_to_label([[box]], self.mapping, [[kind]])[0], "score": score})
        return objects
