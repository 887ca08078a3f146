"""Classify texts with a model of words: the archive brings its vocabulary, `source_vocab.pt`, a mapping of words to numbers.

The model takes word numbers and the offsets at which texts begin (as torch.nn.EmbeddingBag does) and answers a row of
scores for each text.
"""

import os
from collections.abc import Mapping
from typing import Any

from . import text_cleaning as clean
from .base import PredictionException
from .base_handler import BaseHandler
from .context import Context
from .labels import map_class_to_label


class TextHandler(BaseHandler):
    """A BaseHandler with a vocabulary and ways to clean texts."""

    source_vocab: Mapping[str, int]

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        path = self.get_source_vocab_path(context)
        import torch

        try:
            self.source_vocab = torch.load(path, weights_only=True)
        except Exception as error:
            raise RuntimeError(
                f"{os.path.basename(path)} is no plain mapping of words to numbers; torchtext's own vocabularies can't be had "
                f"any more: save vocab.get_stoi() instead"
            ) from error

    def get_source_vocab_path(self, context: Context) -> str:
        name = self.manifest.get("model", {}).get("sourceVocab", "source_vocab.pt")
        path = os.path.join(str(context.system_properties["model_dir"]), os.path.basename(name))
        if not os.path.isfile(path):
            raise RuntimeError(f"the archive has no {os.path.basename(name)}: the model's vocabulary")
        return path

    def _remove_html_tags(self, text: str) -> str:
        return clean.without_tags(text)

    def _expand_contractions(self, text: str) -> str:
        return clean.without_contractions(text)

    def _remove_accented_characters(self, text: str) -> str:
        return clean.without_accents(text)

    def _remove_punctuation(self, text: str) -> str:
        return clean.without_punctuation(text)

    _remove_puncutation = _remove_punctuation  # the name that TorchServe's first versions had

    def _tokenize(self, text: str) -> list[str]:
        return clean.words(text)


class TextClassifier(TextHandler):
    ngrams = 2

    def preprocess(self, data: list[dict[str, Any]]) -> Any:
        """All texts' numbers in one row, and where each text begins."""
        import torch

        numbers: list[int] = []
        offsets: list[int] = []
        for row in data:
            offsets.append(len(numbers))
            numbers += self._numbers(row.get("data") or row.get("body"))
        return torch.tensor(numbers, device=self.device), torch.tensor(offsets, device=self.device)

    def _numbers(self, text: Any) -> list[int]:
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8", "replace")
        if not isinstance(text, str):
            raise PredictionException("a text is wanted", 400)
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        tokens = self._tokenize(self._remove_punctuation(self._remove_accented_characters(text)))
        unknown = self.source_vocab.get("<unk>")
        found = [self.source_vocab.get(gram, unknown) for gram in clean.ngrams(tokens, self.ngrams)]
        return [number for number in found if number is not None]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(*data)

    def postprocess(self, data: Any) -> list[Any]:
        import torch

        return map_class_to_label(torch.softmax(data.float(), dim=1).tolist(), self.mapping)
