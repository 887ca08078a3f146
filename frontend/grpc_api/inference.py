"""InferenceAPIsService: TorchServe's predictions over gRPC. Each call is one request on the same queues as the REST ones."""

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ..errors import BadRequest, RequestError, status_of
from ..models import Models, Stream
from ..multipart import form_data
from .errors import code_of, told
from .messages import message

PACKAGE = "org.pytorch.serve.grpc.inference"


class Inference:
    def __init__(self, models: Models) -> None:
        self._models = models
        self._response = message(f"{PACKAGE}.PredictionResponse")
        self._health = message(f"{PACKAGE}.TorchServeHealthResponse")

    def methods(self) -> dict[str, Callable[..., Awaitable[Any] | AsyncIterator[Any]]]:
        return {
            "Ping": self.ping,
            "Predictions": self.predictions,
            "StreamPredictions": self.stream_predictions,
            "StreamPredictions2": self.stream_predictions_2,
        }

    async def ping(self, request: Any, context: Any) -> Any:
        self._models.refresh()
        status = "Healthy" if self._models.table.ready else "Unhealthy"
        return self._health(health=json.dumps({"status": status}, indent=2))

    async def predictions(self, request: Any, context: Any) -> Any:
        async with told(context), self._stream(request) as stream:
            await stream.head()
            return self._response(prediction=b"".join([chunk async for chunk in stream]))

    async def stream_predictions(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async with told(context), self._stream(request) as stream:
            async for chunk in stream:
                yield self._response(prediction=chunk)

    async def stream_predictions_2(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """One call for a whole sequence; what goes wrong with one request does not end the others."""
        async for request in requests:
            sequence_id = request.sequence_id or f"ts-seq-{uuid.uuid4()}"
            try:
                async with self._stream(request, sequence_id, begins=not request.sequence_id) as stream:
                    async for chunk in stream:
                        yield self._response(prediction=chunk, sequence_id=sequence_id)
            except RequestError as error:
                answer = self._response(sequence_id=sequence_id)
                answer.status.code = code_of(status_of(error)).value[0]
                answer.status.message = str(error)
                yield answer

    def _stream(self, request: Any, sequence_id: str = "", begins: bool = False) -> Stream:
        if not request.model_name:
            raise BadRequest("Parameter model_name is required.")
        queue = self._models.find(request.model_name, request.model_version or None)
        body, content_type = form_data(dict(request.input))
        headers = [(b"Content-Type", content_type)]
        if sequence_id:
            headers.append((queue.sequence_headers.id, sequence_id.encode()))
        if begins:
            headers.append((queue.sequence_headers.start, b"true"))
        return self._models.stream(queue, "predict", body, request_id=str(uuid.uuid4()), headers=headers)
