"""ts.context"""

from flambeau.handlers.context import Context as WorkersContext
from flambeau.handlers.context import RequestProcessor as WorkersProcessor
from flambeau.handlers.protocol import RequestHead, WorkerConfig

__all__ = ["Context", "RequestProcessor"]


class RequestProcessor(WorkersProcessor):
    """Made from headers, as unit tests of old handlers make it."""

    def __init__(self, request_header):
        super().__init__(RequestHead("predict", "", []))
        self.get_request_properties().update(request_header)


class _AlsoTheWorkers(type):
    def __instancecheck__(cls, other):
        return isinstance(other, WorkersContext)


class Context(WorkersContext, metaclass=_AlsoTheWorkers):
    """A worker's context, with TorchServe's arguments for unit tests of old handlers."""

    def __init__(
        self,
        model_name,
        model_dir,
        manifest,
        batch_size,
        gpu,
        mms_version,
        limit_max_image_pixels=True,
        metrics=None,
        model_yaml_config=None,
    ):
        config = WorkerConfig(
            worker_id="",
            model=model_name,
            version="",
            model_dir=str(model_dir),
            handler="",
            listen="",
            manifest=manifest,
            model_yaml=model_yaml_config or {},
            batch_size=batch_size,
            gpu_id=gpu,
            limit_max_image_pixels=limit_max_image_pixels,
            server_version=mms_version,
        )
        super().__init__(config, metrics)
