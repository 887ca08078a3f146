"""Service envelopes: requests in another protocol's clothes, undressed for the handler, its answers dressed again.

`service_envelope` names one: `body` hands the bare bodies on; `json` and `kserve` speak of instances and predictions;
`kservev2` of named tensors. Several requests make one batch, and each gets its own part of the answers.
"""

import json
from base64 import b64decode
from typing import Any

from .base import PredictionException
from .context import Context
from .entry_point import Entry


class BaseEnvelope:
    """Around a handler's entry point; `parse_input` and `format_output` are a subclass's."""

    def __init__(self, handle_fn: Entry) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: list[dict[str, Any]], context: Context) -> Any:
        self.context = context
        if not data or context.get_request_header(0, "describe") == "True":
            return self._handle_fn(data, context)
        results = self._handle_fn(self.parse_input(data), context)
        return self.format_output(results) if isinstance(results, list) else results

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        raise NotImplementedError

    def format_output(self, data: list[Any]) -> list[Any]:
        raise NotImplementedError


class BodyEnvelope(BaseEnvelope):
    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        return [row.get("data", row.get("body")) for row in data]

    def format_output(self, data: list[Any]) -> list[Any]:
        return data


class InstancesEnvelope(BaseEnvelope):
    """{"instances": [...]} → {"predictions": [...]}; the handler gets the instances of all requests as one batch."""

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        per_request = [self.instances(parsed(row)) for row in data]
        self._lengths = [len(instances) for instances in per_request]
        return [instance for instances in per_request for instance in instances]

    def instances(self, body: Any) -> list[Any]:
        return listed(body, "instances")

    def key(self) -> str:
        return "predictions"

    def format_output(self, data: list[Any]) -> list[Any]:
        if len(self._lengths) == 1:
            return [{self.key(): data}]
        answers, at = [], 0
        for length in self._lengths:
            answers.append({self.key(): data[at : at + length]})
            at += length
        return answers


class JSONEnvelope(InstancesEnvelope):
    """TensorFlow's form: {"b64": …} is bytes."""

    def instances(self, body: Any) -> list[Any]:
        return [self._decoded(instance) for instance in listed(body, "instances")]

    def _decoded(self, instance: Any) -> Any:
        if not isinstance(instance, dict):
            return instance
        if list(instance) == ["b64"]:
            return b64decode(instance["b64"])
        return {key: self._decoded(value) if isinstance(value, dict) else value for key, value in instance.items()}

    def format_output(self, data: list[Any]) -> list[Any]:
        return [json.dumps(answer) for answer in super().format_output(data)]


class KServeEnvelope(InstancesEnvelope):
    def key(self) -> str:
        return "explanations" if self.context.get_request_header(0, "explain") == "True" else "predictions"


class KServev2Envelope(BaseEnvelope):
    """{"inputs": [tensor, …]} → {"outputs": [tensor, …]}; the handler gets each request's list of inputs."""

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        bodies = [parsed(row) for row in data]
        inputs = [listed(body, "inputs") for body in bodies]
        self._ids = [body.get("id") for body in bodies]
        return inputs

    def format_output(self, data: list[Any]) -> list[Any]:
        alone = len(self._ids) == 1
        return [self._answer(at, data if alone else data[at : at + 1]) for at in range(len(self._ids))]

    def _answer(self, at: int, outputs: list[Any]) -> dict[str, Any]:
        answer = {"id": self._ids[at] or self.context.get_request_id(at)}
        model = (self.context.manifest or {}).get("model") or {}
        answer["model_name"] = model.get("modelName", self.context.model_name)
        if "modelVersion" in model:
            answer["model_version"] = model["modelVersion"]
        answer["outputs"] = [self._tensor(output) for output in outputs]
        return answer

    def _tensor(self, output: Any) -> dict[str, Any]:
        import numpy

        array = numpy.array(output)
        explains = self.context.get_request_header(0, "explain") == "True"
        return {
            "name": "explain" if explains else "predict",
            "shape": list(array.shape),
            "datatype": datatype(array.dtype),
            "data": array.flatten().tolist() if array.shape else array.tolist(),
        }


ENVELOPES: dict[str, type[BaseEnvelope]] = {
    "body": BodyEnvelope,
    "json": JSONEnvelope,
    "kserve": KServeEnvelope,
    "kservev2": KServev2Envelope,
}


def wrapped(entry: Entry, envelope: str) -> Entry:
    if envelope not in ENVELOPES:
        raise ValueError(f"service_envelope {envelope} is none of {', '.join(ENVELOPES)}")
    return ENVELOPES[envelope](entry).handle


def parsed(row: dict[str, Any]) -> Any:
    """A request's JSON, which some clients send without saying that it is JSON."""
    body = row.get("data") or row.get("body") or row
    if isinstance(body, (bytes, bytearray, str)):
        try:
            return json.loads(body)
        except ValueError:
            raise PredictionException("the body is no JSON", 400) from None
    return body


def listed(body: Any, key: str) -> list[Any]:
    found = body.get(key) if isinstance(body, dict) else None
    if not isinstance(found, list):
        raise PredictionException(f'the body has no list "{key}"', 400)
    return found


def datatype(dtype: Any) -> str:
    """numpy's type in the Open Inference Protocol's words: float32 is FP32."""
    if dtype.kind == "b":
        return "BOOL"
    letters = {"u": "UINT", "i": "INT", "f": "FP"}.get(dtype.kind)
    return f"{letters}{dtype.itemsize * 8}" if letters else "BYTES"
