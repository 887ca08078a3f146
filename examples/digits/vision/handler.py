"""Sax's vision methods on two small networks: classify and embed images of digits, draw a digit.

The method comes in the header `x-sax-method`; without it the image is classified. A worker of a cell gets a batch of any of
them. Answers are what the method promises: [[label, score], …], [numbers], [[base64 of a PNG, score], …].
"""

import base64
import io
import json
import re
from pathlib import Path

import torch
from model import DigitsNet
from painter import STYLE, Painter
from PIL import Image

from flambeau.handlers.base import PredictionException


class Digits:
    def initialize(self, context):
        torch.set_num_threads(1)
        folder = Path(context.system_properties["model_dir"])
        self.classifier, self.painter = DigitsNet().eval(), Painter().eval()
        self.classifier.load_state_dict(torch.load(folder / "digits.pt", weights_only=True))
        self.painter.load_state_dict(torch.load(folder / "painter.pt", weights_only=True))
        self.samples = context.model_yaml_config["sax"]["settings"]["SAMPLES"]

    def handle(self, data, context):
        methods = {"vm.classify": self.classify, "vm.embed": self.embed, "vm.generate": self.draw, "custom": self.classify}
        answers = []
        with torch.inference_mode():
            for number, row in enumerate(data):
                method = context.get_request_header(number, "x-sax-method") or "vm.classify"
                answers.append(json.dumps(methods[method](bytes(row.get("body") or row.get("data")))))
        return answers

    def classify(self, png):
        """All ten labels, most likely first; scores are logits."""
        logits = self.classifier(to_tensor(png))[0]
        return [[str(int(label)), float(logits[label])] for label in logits.argsort(descending=True)]

    def embed(self, png):
        features = self.classifier.features(to_tensor(png)).flatten(1)
        return [float(value) for value in self.classifier.embed(features)[0]]

    def draw(self, text):
        """The first digit of the text, best drawing first: as sure as the classifier is that it is that digit."""
        found = re.search(rb"[0-9]", text)
        if found is None:
            raise PredictionException("the text names no digit to draw", 400)
        digit = int(found[0])
        images = self.painter(torch.full((self.samples,), digit), torch.randn(self.samples, STYLE) * 0.5)
        scores = self.classifier(images).log_softmax(1)[:, digit]
        drawn = [[to_png(image), float(score)] for image, score in zip(images, scores, strict=True)]
        return sorted(drawn, key=lambda pair: -pair[1])


def to_tensor(png):
    try:
        image = Image.open(io.BytesIO(png)).convert("L").resize((8, 8))
    except OSError:
        raise PredictionException("the body is no image", 400) from None
    return torch.tensor(list(image.tobytes()), dtype=torch.float32).reshape(1, 1, 8, 8) / 255


def to_png(image):
    pixels = (image[0] * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).resize((64, 64)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
