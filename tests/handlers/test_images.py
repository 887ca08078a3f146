import pytest
from PIL import Image

from flambeau.handlers import images
from flambeau.handlers.base import PredictionException


def test_the_shorter_side_decides():
    assert images.resize(Image.new("RGB", (640, 320)), 256).size == (512, 256)


def test_a_line_that_would_grow_to_gigabytes_is_refused():
    with pytest.raises(PredictionException, match="too narrow: 1 × 60000 pixels"):
        images.resize(Image.new("RGB", (1, 60_000)), 256)
