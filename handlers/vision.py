"""What handlers of images share: bodies become tensors; explanations by integrated gradients.

A subclass sets `image_processing`, from a Pillow image to a tensor; torchvision's transforms fit where it is installed.
"""

from collections.abc import Callable
from typing import Any

from . import images
from .base_handler import BaseHandler
from .context import Context
from .timing import timed

STEPS = 15  # points on the way from black to the image


class VisionHandler(BaseHandler):
    image_processing: Callable[[Any], Any] = staticmethod(images.as_pretrained_models_expect)

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels"):
            from PIL import Image

            Image.MAX_IMAGE_PIXELS = None

    @timed
    def preprocess(self, data: list[dict[str, Any]]) -> Any:
        """Image files, their base64, or pixels as nested lists, in `data` or `body`."""
        import torch

        return torch.stack([self.tensor(row) for row in data]).to(self.device)

    def tensor(self, row: dict[str, Any]) -> Any:
        import torch

        value = row.get("data") or row.get("body")
        if isinstance(value, (bytes, bytearray, str)):
            return self.image_processing(images.read(value))
        return torch.as_tensor(value, dtype=torch.float32)

    def get_insights(self, tensor_data: Any, _inputs: Any, target: int | str | bytes = 0) -> list[Any]:
        """How much each pixel speaks for class `target`: gradients averaged on the way from black to the image."""
        import torch
        from numpy.polynomial.legendre import leggauss

        wanted = int(target)  # text, in a form
        points, weights = leggauss(STEPS)
        total = torch.zeros_like(tensor_data)
        for point, weight in zip(points, weights, strict=True):
            at = ((1 + point) / 2 * tensor_data).detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.model(at)[:, wanted].sum(), at)
            total += weight / 2 * gradient
        return (total * tensor_data).tolist()  # type: ignore[no-any-return]
