"""The Open Inference Protocol over gRPC, as TorchServe names it and as KServe's and Triton's clients call it.

A ModelInfer call becomes the JSON body of the protocol's REST form, so handlers see one form whichever way it came.
"""

import json
import struct
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.json_format import MessageToDict

from ..errors import BadRequest, ModelError, RequestError
from ..models import Models
from ..tensors import array_bytes, array_from
from .errors import told
from .messages import message

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


class OpenInference:
    """`package` names the messages it answers with."""

    def __init__(self, models: Models, package: str, server_version: str) -> None:
        self._models = models
        self._package = package
        self._version = server_version

    def methods(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }

    def _message(self, kind: str, /, **fields: Any) -> Any:
        return message(f"{self._package}.{kind}")(**fields)

    async def server_live(self, request: Any, context: Any) -> Any:
        return self._message("ServerLiveResponse", live=True)

    async def server_ready(self, request: Any, context: Any) -> Any:
        self._models.refresh()
        return self._message("ServerReadyResponse", ready=self._models.table.ready)

    async def model_ready(self, request: Any, context: Any) -> Any:
        async with told(context):
            queue = self._models.find(request.name, request.version or None)
            return self._message("ModelReadyResponse", ready=bool(queue.route.replicas))

    async def server_metadata(self, request: Any, context: Any) -> Any:
        return self._message("ServerMetadataResponse", name="Torchserve", version=self._version)

    async def model_metadata(self, request: Any, context: Any) -> Any:
        async with told(context):
            queue = self._models.find(request.name, request.version or None)
            versions = sorted(self._models.table.models[request.name])
            return self._message("ModelMetadataResponse", name=queue.route.name, versions=versions, platform="pytorch")

    async def model_infer(self, request: Any, context: Any) -> Any:
        async with told(context):
            queue = self._models.find(request.model_name, request.model_version or None)
            answer = await self._models.call(
                queue, "predict", json.dumps(request_json(request)).encode(), request_id=str(uuid.uuid4()),
                headers=[(b"Content-Type", b"application/json")],
            )  # fmt: skip
            return self._response(request, queue.route.version, answer.body)

    def _response(self, request: Any, version: str, body: bytes) -> Any:
        """Raw where the request was, as its client may read nothing else, and where a datatype has no other form."""
        try:
            given = json.loads(body)["outputs"]
            raw = bool(request.raw_input_contents) or any(output["datatype"] not in CONTENTS for output in given)
            answer = self._message(
                "ModelInferResponse", model_name=request.model_name, model_version=version, id=request.id
            )
            for output in given:
                name, datatype, shape, data = (output[key] for key in ("name", "datatype", "shape", "data"))
                if raw:
                    answer.outputs.add(name=name, datatype=datatype, shape=shape)
                    answer.raw_output_contents.append(array_bytes(datatype, data))
                else:
                    answer.outputs.add(name=name, datatype=datatype, shape=shape, contents=contents(datatype, data))
            return answer
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
            raise not_open_inference(error) from None


def not_open_inference(error: Exception) -> RequestError:
    return ModelError(500, "InternalServerException", f"The model's answer is none of the Open Inference Protocol: {error}")


def request_json(request: Any) -> dict[str, Any]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs")
    inputs = []
    for number, tensor in enumerate(request.inputs):
        data = from_raw(tensor, raw[number]) if raw else from_contents(tensor)
        shape = list(tensor.shape)
        inputs.append({"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": data})
    parameters = MessageToDict(request)["parameters"] if request.parameters else {}
    plain = {name: next(iter(choice.values())) for name, choice in parameters.items() if choice}
    return {"id": request.id or str(uuid.uuid4()), "inputs": inputs} | ({"parameters": plain} if plain else {})


def from_raw(tensor: Any, data: bytes) -> list[Any]:
    try:
        return array_from(tensor.datatype, data)
    except (ValueError, struct.error) as error:
        raise BadRequest(f"input {tensor.name!r}: {error}") from None


def from_contents(tensor: Any) -> list[Any]:
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise BadRequest(f"input {tensor.name!r} of datatype {tensor.datatype!r} must come in raw_input_contents")
    values = list(getattr(tensor.contents, field))
    return [value.decode(errors="replace") for value in values] if field == "bytes_contents" else values


def contents(datatype: str, data: list[Any]) -> dict[str, list[Any]]:
    return {CONTENTS[datatype]: [value.encode() if isinstance(value, str) else value for value in flat(data)]}


def flat(values: list[Any]) -> list[Any]:
    """Nested lists in row-major order."""
    return [leaf for value in values for leaf in (flat(value) if isinstance(value, list) else [value])]
