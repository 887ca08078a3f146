"""Digits: a PNG in, the ten classes' probabilities out. Written as any TorchServe user would."""

import io

import torch
from PIL import Image

from flambeau.handlers import BaseHandler


class DigitsHandler(BaseHandler):
    def preprocess(self, data):
        return torch.stack([self.to_tensor(row.get("data") or row.get("body")) for row in data])

    def inference(self, images):
        with torch.inference_mode():
            return self.model(images).softmax(1)

    def postprocess(self, probabilities):
        return [{str(digit): round(p, 4) for digit, p in enumerate(row)} for row in probabilities.tolist()]

    @staticmethod
    def to_tensor(png):
        image = Image.open(io.BytesIO(png)).convert("L").resize((8, 8))
        return torch.tensor(list(image.tobytes()), dtype=torch.float32).reshape(1, 8, 8) / 255
