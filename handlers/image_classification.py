"""Classify images: each one's most probable classes, by the names in the archive's index_to_name.json.

`topk` in the model's YAML (`handler: {topk: 3}`) says how many; five unless told otherwise.
"""

from typing import Any

from .context import Context
from .labels import map_class_to_label
from .timing import timed
from .vision import VisionHandler


class ImageClassifier(VisionHandler):
    topk = 5

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self.topk = int((self.model_yaml_config.get("handler") or {}).get("topk", self.topk))

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    @timed
    def postprocess(self, data: Any) -> list[Any]:
        import torch

        probabilities = torch.softmax(data.float(), dim=1)
        best = torch.topk(probabilities, min(self.topk, probabilities.shape[1]), dim=1)
        return map_class_to_label(best.values.tolist(), self.mapping, best.indices.tolist())
