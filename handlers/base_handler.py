"""BaseHandler: loads a PyTorch model as its archive describes it and runs preprocess → inference → postprocess on batches.

Weights come as a state dict for the class in the archive's model file, as TorchScript, as safetensors, or as an ONNX or
AOTInductor file. torch is imported when a model is loaded, not before. Subclasses override the steps that differ.
"""

import logging
import os
import tempfile
import time
from typing import Any

from . import weights
from .context import Context
from .labels import load_label_mapping
from .timing import timed

logger = logging.getLogger(__name__)


class BaseHandler:
    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, Any] | None = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.manifest: dict[str, Any] = {}
        self.model_yaml_config: dict[str, Any] = {}
        self.map_location: str | None = None
        self.model_pt_path: str | None = None
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Choose the device, load the weights, compile them if the model's YAML says `pt2`, read the labels."""
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config or {}
        properties = context.system_properties
        self.device, self.map_location = weights.choose_device(properties.get("gpu_id"))
        model_dir = str(properties.get("model_dir"))
        model = self.manifest.get("model", {})
        if serialized_file := model.get("serializedFile"):
            self.model_pt_path = os.path.join(model_dir, serialized_file)
        if model_file := model.get("modelFile"):
            self.model = self._load_pickled_model(model_dir, model_file, self.model_pt_path)
        elif self.model_pt_path is None:
            raise RuntimeError("the archive has neither a model file nor a serialized file")
        elif self.model_pt_path.endswith((".pt", ".pth", ".bin", ".ptl")):
            self.model = self._load_torchscript_model(self.model_pt_path)
        else:
            self.model = weights.load_other(self.model_pt_path, self.device)
        if hasattr(self.model, "eval"):
            self.model.eval()
        if options := weights.compile_options(self.model_yaml_config.get("pt2")):
            self.model = weights.compiled(self.model, options)
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        """The class in the archive's model file, with its state dict."""
        return weights.load_eager(model_dir, model_file, model_pt_path, self.device)

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return weights.load_torchscript(model_pt_path, self.device)

    @timed
    def preprocess(self, data: Any) -> Any:
        """Rows to model input; here: numbers, lists of them or tensors, in `data` or `body`."""
        import torch

        rows = [row.get("data", row.get("body")) if isinstance(row, dict) else row for row in data]
        return torch.as_tensor(rows, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> list[Any]:
        return data.tolist()  # type: ignore[no-any-return]

    def handle(self, data: list[Any], context: Context) -> list[Any]:
        """One batch through the three steps; explanations and descriptions go their own way."""
        started = time.monotonic()
        self.context = context
        if self._is_describe():
            return [self.describe_handle()]
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            return self._infer_with_profiler(data)[0]
        model_input = self.preprocess(data)
        if self._is_explain():
            return self.explain_handle(model_input, data)
        answers = self.postprocess(self.inference(model_input))
        if context.metrics is not None:
            context.metrics.sample_time("HandlerTime", time.monotonic() - started)
        return answers

    def _infer_with_profiler(self, data: list[Any]) -> tuple[list[Any], Any]:
        """The answers, and torch's profile of how they came; a trace of each batch lies below /tmp/pytorch_profiler.

        `profiler_args`, which a subclass may fill, are torch.profiler.profile's."""
        from torch import profiler

        folder = os.path.join(tempfile.gettempdir(), "pytorch_profiler", self.context.model_name)
        arguments = {"record_shapes": True} | self.profiler_args
        arguments.setdefault("on_trace_ready", profiler.tensorboard_trace_handler(folder))
        with profiler.profile(**arguments) as profile:
            with profiler.record_function("preprocess"):
                answers = self.preprocess(data)
            if self._is_explain():
                with profiler.record_function("explain"):
                    answers = self.explain_handle(answers, data)
            else:
                with profiler.record_function("inference"):
                    answers = self.inference(answers)
                with profiler.record_function("postprocess"):
                    answers = self.postprocess(answers)
        logger.info("%s", profile.key_averages().table(sort_by="cpu_time_total", row_limit=10))
        return answers, profile

    def explain_handle(self, data_preprocess: Any, raw_data: list[Any]) -> list[Any]:
        """Explanations by `get_insights(model input, the first row's data or body, target)`, which a subclass defines."""
        insights = getattr(self, "get_insights", None)
        if insights is None:
            raise NotImplementedError(f"{type(self).__name__} has no get_insights: it can't explain")
        first = raw_data[0] if isinstance(raw_data[0], dict) else {}
        body = first.get("body")
        target = first.get("target") or (body.get("target") if isinstance(body, dict) else 0) or 0
        return insights(data_preprocess, first.get("data") or body, target)  # type: ignore[no-any-return]

    def describe_handle(self) -> Any:
        """What `GET /models/{name}?customized=true` tells; a subclass's own."""
        return None

    def _is_explain(self) -> bool:
        self.explain = self._asks("explain")
        return self.explain

    def _is_describe(self) -> bool:
        return self._asks("describe")

    def _asks(self, what: str) -> bool:
        return bool(self.context) and self.context.get_request_header(0, what) == "True"
