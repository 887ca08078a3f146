"""`@timed`: a step's duration as the metric `ts_handler_<step>`, when the model's YAML says `handler: {profile: true}`."""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def timed(function: F) -> F:
    @functools.wraps(function)
    def measured(self: Any, *args: Any, **kwargs: Any) -> Any:
        context: Any = getattr(self, "context", None)
        options = (getattr(context, "model_yaml_config", None) or {}).get("handler") or {}
        if not options.get("profile"):
            return function(self, *args, **kwargs)
        started = time.monotonic()
        result = function(self, *args, **kwargs)
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.synchronize()  # kernels are still running when the call returns
        context.metrics.add_time(f"ts_handler_{function.__name__}", (time.monotonic() - started) * 1000)
        return result

    return measured  # type: ignore[return-value]
