"""From the handler's name in an archive to something that answers batches.

`swiss.py`, `swiss`, `swiss:other` and `swiss.py:other` name a module in the model's folder: its function `handle` (or
`other`), else its one class with `initialize` and `handle`. A name without a file there is one of the ready-made handlers.
Not for: running what was found.
"""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .base import ContinuousHandler, spoken
from .context import Context
from .protocol import LoadFailure

Entry = Callable[[Any, Context], Any]

# Ready-made handlers, by the names that archives use: module and class. What TorchServe had and we have not says why.
READY_MADE = {
    "base_handler": ("base_handler", "BaseHandler"),
    "image_classifier": ("image_classification", "ImageClassifier"),
    "image_segmenter": ("image_segmentation", "ImageSegmenter"),
    "object_detector": ("object_detection", "ObjectDetector"),
    "text_classifier": ("text_classification", "TextClassifier"),
    "text_generation": ("text_generation", "TextGeneration"),
    "chat": ("chat", "Chat"),
    "embedding": ("embedding", "Embedding"),
    "scoring": ("scoring", "Scoring"),
    "text_stream": ("text_stream", "TextStream"),
    "vllm_handler": ("vllm_handler", "VllmHandler"),
}

MISSING = {
    "trt_llm_handler": "TensorRT-LLM is not supported; use the ready-made handler text_generation or chat",
    "dali_image_classifier": "NVIDIA DALI is not supported; use image_classifier",
}


class EntryPointError(Exception):
    """The handler names nothing that could answer."""


class Loading:
    """Loads a handler step by step, so that a failure can say in which step it happened."""

    def __init__(self, handler: str, model_dir: str, envelope: str | None = None) -> None:
        self.phase = "import"
        self._handler = handler
        self._model_dir = model_dir
        self._envelope = envelope

    def load(self, context: Context) -> "Entry | ContinuousHandler":
        path, _, wanted = self._handler.partition(":")
        module = self._import(path)
        self.phase = "entry point"
        if module is None:
            target: Any = _ready_made(path)
        else:
            target = _find(module, wanted or None)
        if not isinstance(target, type):
            self.phase = "initialize"
            target(None, context)  # a function is called once without data, so that it can load its model
            return self._wrapped(target)
        handler = target()
        self.phase = "initialize"
        if hasattr(handler, "initialize"):
            handler.initialize(context)
        if isinstance(handler, ContinuousHandler):
            return handler
        return self._wrapped(handler.handle)  # looked up late: initialize may have replaced it

    def _wrapped(self, entry: Entry) -> Entry:
        if not self._envelope:
            return entry
        from .envelopes import wrapped

        return wrapped(entry, self._envelope)

    def failure(self, error: BaseException) -> LoadFailure:
        return LoadFailure(
            phase=self.phase,
            exception=type(error).__name__,
            message=spoken(error),
            location=location(error, self._model_dir),
            traceback="".join(traceback.format_exception(error)),
        )

    def _import(self, path: str) -> ModuleType | None:
        """The module of a file in the model's folder, or of an installed package; None for a ready-made handler."""
        if file := own_file(path, self._model_dir):
            return _import_file(file)
        stem = path.removesuffix(".py")
        if stem in READY_MADE:
            return None
        if reason := refusal(path):
            raise EntryPointError(reason)
        return importlib.import_module(stem)


def own_file(path: str, model_dir: str) -> str | None:
    """The file that a handler's name means, when the model's folder has it."""
    stem = path.removesuffix(".py")
    candidates = (os.path.join(model_dir, f"{name}.py") for name in (stem, os.path.basename(stem)))
    return next(filter(os.path.isfile, candidates), None)


def refusal(path: str) -> str:
    """Why a name that is neither a file of the model's nor a ready-made handler can't be an installed module; "" if it can."""
    stem = path.removesuffix(".py")
    if stem in MISSING:
        return f"{stem}: {MISSING[stem]}"
    return f"the archive has no file {path}" if path.endswith(".py") or "/" in path else ""


def _import_file(file: str) -> ModuleType:
    """Under the file's own name, which pickles refer to, unless a module of the server or of Python has that name."""
    name = os.path.basename(file).removesuffix(".py")
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"model_{name}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _find(module: ModuleType, wanted: str | None) -> Any:
    if wanted is not None:
        if not callable(found := getattr(module, wanted, None)):
            raise EntryPointError(f"{module.__name__} has no function or class {wanted}")
        return found
    if callable(function := getattr(module, "handle", None)):
        return function
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    able = [kind for kind in own if _is_handler(kind)]
    # A base class is no rival of the class that is made from it.
    leaves = [kind for kind in able if not any(other is not kind and issubclass(other, kind) for other in able)]
    if len(leaves) == 1:
        return leaves[0]
    if leaves:
        names = ", ".join(kind.__name__ for kind in leaves)
        raise EntryPointError(
            f"{module.__name__} has {len(leaves)} handler classes ({names}); name one: {module.__name__}:CLASS"
        )
    raise EntryPointError(f"{module.__name__} has neither a function handle nor a class with initialize and handle")


def _is_handler(kind: type) -> bool:
    return hasattr(kind, "initialize") and (hasattr(kind, "handle") or hasattr(kind, "step"))


def _ready_made(name: str) -> Any:
    module, kind = READY_MADE[name]
    return getattr(importlib.import_module(f".{module}", __package__), kind)


def location(error: BaseException, model_dir: str) -> str:
    """`handler.py:12`: the innermost line of the model's own files that the error passed; "" if none."""
    home = os.path.realpath(model_dir) + os.sep
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    for filename, line in reversed(places):
        real = os.path.realpath(filename)
        if real.startswith(home):
            return f"{real.removeprefix(home)}:{line}"
    return ""
