"""Images from requests to tensors, as torchvision's transforms of the same names do it, with Pillow alone."""

import binascii
import io
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from .base import PredictionException

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's channels, which pretrained models expect to be taken off
DEVIATION = (0.229, 0.224, 0.225)
MOST_PIXELS = 1 << 24  # of an image made larger


def read(value: bytes | bytearray | str) -> "Image":
    """An RGB picture from a file's bytes, or from their base64."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = (
            b64decode(value.partition(",")[2] if value.startswith("data:") else value) if isinstance(value, str) else value
        )
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, binascii.Error) as error:
        raise PredictionException(f"the body is no image that can be read: {type(error).__name__}", 400) from None
    except Image.DecompressionBombError:
        raise PredictionException("the image has too many pixels", 400) from None


def resize(image: "Image", shorter: int) -> "Image":
    """The shorter side becomes `shorter`, the other one in proportion."""
    from PIL.Image import Resampling

    width, height = image.size
    scale = shorter / min(width, height)
    size = (shorter, int(height * scale)) if width <= height else (int(width * scale), shorter)
    if size[0] * size[1] > MOST_PIXELS:  # 50 kB of a line one pixel high would take gigabytes
        raise PredictionException(f"the image is too narrow: {width} × {height} pixels", 400)
    return image.resize(size, Resampling.BILINEAR)


def center_crop(image: "Image", side: int) -> "Image":
    width, height = image.size
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def to_tensor(image: "Image") -> Any:
    """Channels first, from 0 to 1."""
    import numpy
    import torch

    return torch.from_numpy(numpy.array(image)).permute(2, 0, 1).contiguous().float().div_(255)


def normalize(tensor: Any) -> Any:
    import torch

    mean, deviation = (torch.tensor(channels).view(3, 1, 1) for channels in (MEAN, DEVIATION))
    return (tensor - mean) / deviation


def as_pretrained_models_expect(image: "Image") -> Any:
    """Resize(256), CenterCrop(224), ToTensor, Normalize."""
    return normalize(to_tensor(center_crop(resize(image, 256), 224)))
