"""Asking a published model, with the original's names: Model(id).LM().Generate(…), .VM().Classify(…), .CM().Custom(…).

Not for: publishing it, which is `admin`.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..management.cell.errors import SaxError
from .calls import TIMEOUT_SECONDS, Machines, call, stream


@dataclass(frozen=True)
class Options:
    """Of a client."""

    proxy_addr: str | None = None  # ask this server; nobody is looked up
    fail_fast: bool = False
    sax_root: str | None = None


@dataclass
class ModelOptions:
    """Of one request."""

    extra_inputs: dict[str, Any] = field(default_factory=dict)
    timeout: float = TIMEOUT_SECONDS

    def SetExtraInput(self, key: str, value: float) -> None:
        self.extra_inputs[key] = value

    def SetExtraInputTensor(self, key: str, value: list[float]) -> None:
        self.extra_inputs[key] = list(value)

    def SetExtraInputString(self, key: str, value: str) -> None:
        self.extra_inputs[key] = value

    def SetTimeout(self, seconds: float) -> None:
        self.timeout = seconds


class Model:
    def __init__(self, id: str, options: Options | None = None) -> None:
        self.id = id
        self._options = options or Options()
        self.machines = Machines(id, self._options.sax_root, self._options.proxy_addr)

    def ask(self, path: str, payload: dict[str, Any], options: ModelOptions | None) -> Any:
        options = options or ModelOptions()
        asked = {"model": self.id, "extra_inputs": options.extra_inputs, **payload}
        return call(self.machines, path, asked, options.timeout, self._options.fail_fast)

    def LM(self) -> "LanguageModel":
        return LanguageModel(self)

    def VM(self) -> "VisionModel":
        return VisionModel(self)

    def CM(self) -> "CustomModel":
        return CustomModel(self)

    def AM(self) -> NoReturn:
        raise SaxError("Unimplemented", "audio models are not served here")

    def MM(self) -> NoReturn:
        raise SaxError("Unimplemented", "multimodal models are not served here")


class LanguageModel:
    def __init__(self, model: Model) -> None:
        self._model = model

    def Generate(self, text: str, options: ModelOptions | None = None) -> list[tuple[str, float]]:
        return [(made, score) for made, score in self._model.ask("/generate", {"query": text}, options)]

    def GenerateStream(
        self,
        text: str,
        callback: Callable[[bool, list[tuple[str, int, list[float]]]], None],
        options: ModelOptions | None = None,
    ) -> None:
        """`callback(last, [(text, prefix_len, scores), …])`: keep prefix_len code points of what you have, add the text."""
        options = options or ModelOptions()
        payload = {"model": self._model.id, "query": text, "stream": True, "extra_inputs": options.extra_inputs}
        for event in stream(self._model.machines, "/generate", payload, options.timeout):
            callback(False, [(item["text"], item["prefix_len"], item["scores"]) for item in event["items"]])
        callback(True, [])

    def Score(self, prefix: str, suffix: list[str], options: ModelOptions | None = None) -> list[float]:
        return list(self._model.ask("/score", {"prefix": prefix, "suffix": suffix}, options))

    def Embed(self, text: str, options: ModelOptions | None = None) -> list[float]:
        return list(self._model.ask("/embed", {"query": text}, options))


class VisionModel:
    def __init__(self, model: Model) -> None:
        self._model = model

    def Classify(self, image: bytes, options: ModelOptions | None = None) -> list[tuple[str, float]]:
        return [(label, score) for label, score in _run(self._model, "vm.classify", image, options)]

    def Embed(self, image: bytes, options: ModelOptions | None = None) -> list[float]:
        return list(_run(self._model, "vm.embed", image, options))

    def Generate(self, text: str, options: ModelOptions | None = None) -> list[tuple[bytes, float]]:
        """PNG images and their scores."""
        made = _run(self._model, "vm.generate", text.encode(), options)
        return [(base64.b64decode(image), score) for image, score in made]


class CustomModel:
    def __init__(self, model: Model) -> None:
        self._model = model

    def Custom(self, request: bytes, options: ModelOptions | None = None) -> bytes:
        return base64.b64decode(_run(self._model, "custom", request, options)["data"])


def _run(model: Model, method: str, data: bytes, options: ModelOptions | None) -> Any:
    return model.ask("/run", {"method": method, "data": base64.b64encode(data).decode()}, options)
