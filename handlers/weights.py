"""A model's weights from its archive: which device, which format, compiled or not. Imports torch when it is called.

A state dict is read with `weights_only=True`: an archive's weights can't run code. TorchScript is a program by nature.
"""

import importlib
import inspect
import logging
import os
from pickle import UnpicklingError
from typing import Any

logger = logging.getLogger(__name__)


def choose_device(gpu_id: int | None) -> tuple[Any, str]:
    """The device and its kind; a worker that was given no GPU stays on the CPU."""
    import torch

    if gpu_id is None:
        return torch.device("cpu"), "cpu"
    if torch.cuda.is_available():
        # The supervisor may have hidden all GPUs but this worker's own.
        return torch.device("cuda", gpu_id if gpu_id < torch.cuda.device_count() else 0), "cuda"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "mps"
    return torch.device("cpu"), "cpu"


def load_eager(model_dir: str, model_file: str, path: str | None, device: Any) -> Any:
    """The one class of the model file; with its weights, if the archive has any."""
    if not os.path.isfile(os.path.join(model_dir, model_file)):
        raise RuntimeError(f"the archive has no model file {model_file}")
    module = importlib.import_module(os.path.basename(model_file).removesuffix(".py"))
    model = _model_class(module)()
    if path is not None:
        model.load_state_dict(state_dict(path, device))
    return model.to(device)


def _model_class(module: Any) -> Any:
    import torch

    own = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    models = [kind for kind in own if issubclass(kind, torch.nn.Module)]
    leaves = [kind for kind in models if not any(other is not kind and issubclass(other, kind) for other in models)]
    choice = own if len(own) == 1 else leaves
    if len(choice) == 1:
        return choice[0]
    # Several modules: the outermost is the last one defined, for it uses the others.
    if choice:
        last = max(choice, key=lambda kind: inspect.getsourcelines(kind)[1])
        logger.info("the model file has %d modules; taking the last, %s", len(choice), last.__name__)
        return last
    raise ValueError(f"{module.__name__} has no class of a model")


def state_dict(path: str, device: Any) -> Any:
    import torch

    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path, device=str(device))
    try:
        weights = torch.load(path, map_location=device, weights_only=True)
    except UnpicklingError as error:
        raise RuntimeError(
            f"{os.path.basename(path)} holds more than weights, and unpickling the rest would run its code; "
            "save model.state_dict(), best as safetensors"
        ) from error
    return weights["state_dict"] if isinstance(weights, dict) and set(weights) >= {"state_dict"} else weights


def load_torchscript(path: str, device: Any) -> Any:
    import torch

    try:
        return torch.jit.load(path, map_location=device)
    except RuntimeError as error:
        raise RuntimeError(
            f"{os.path.basename(path)} is no TorchScript; weights alone need a model file (--model-file) with their class"
        ) from error


def load_other(path: str, device: Any) -> Any:
    import torch

    name = os.path.basename(path)
    if path.endswith(".onnx"):
        try:
            import onnxruntime
        except ImportError:
            raise RuntimeError(f"{name}: onnxruntime is not installed") from None
        return onnxruntime.InferenceSession(path)
    if path.endswith(".so"):
        return _load_shared_library(path, str(device))
    if path.endswith(".pt2"):
        try:
            return torch._inductor.aoti_load_package(path)
        except RuntimeError as error:
            raise RuntimeError(
                f"{name} holds no compiled code; torch._inductor.aoti_compile_and_package makes it of an exported program"
            ) from error
    if path.endswith(".safetensors"):
        raise RuntimeError(
            f"{name}: safetensors hold weights alone; a model file (--model-file) with their class is needed"
        )
    raise RuntimeError(f"{name}: no weights that can be loaded; known: .pt .pth .safetensors .onnx .pt2 .so")


def _load_shared_library(path: str, device: str) -> Any:
    """What torch._export.aot_compile has made, as long as torch still loads it."""
    import torch

    name = os.path.basename(path)
    if (load := getattr(torch._export, "aot_load", None)) is None:
        raise RuntimeError(
            f"{name}: torch {torch.__version__} loads no .so; make a .pt2 by torch._inductor.aoti_compile_and_package"
        )
    try:
        return load(path, device)
    except RuntimeError as error:
        raise RuntimeError(
            f"{name} can't be loaded: it has to be compiled by torch._export.aot_compile of this torch ({torch.__version__}) "
            f"for {device}"
        ) from error


def compile_options(pt2: Any) -> dict[str, Any] | None:
    """The YAML's `pt2`: a backend's name, torch.compile's options, or {compile: {enable: true, …}}; None: leave it eager."""
    if pt2 is None:
        return None
    if isinstance(pt2, str):
        return {"backend": pt2}
    if not isinstance(pt2, dict):
        raise ValueError("pt2 in the model's YAML: a backend's name or a mapping is wanted")
    if "export" in pt2 and "compile" not in pt2:
        return None
    options = dict(pt2.get("compile", pt2))
    enabled = options.pop("enable", "compile" not in pt2)
    return options or {"backend": "inductor"} if enabled else None


def compiled(model: Any, options: dict[str, Any]) -> Any:
    """A model that can't be compiled is served as it is; the first requests pay for the compilation."""
    import torch

    try:
        return torch.compile(model, **options)
    except Exception:
        logger.warning("torch.compile(%s) failed; going on without", options, exc_info=True)
        return model
