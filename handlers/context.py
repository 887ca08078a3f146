"""What a handler sees of its model and of the batch it is running: one Context per worker, the same in every call.

`system_properties` and the names of the methods are TorchServe's. Not for: what the requests' bodies hold (`rows`).
"""

from collections.abc import Callable
from typing import Any

from .protocol import RequestHead, WorkerConfig


class Headers(dict[str, Any]):
    """Headers in the case in which they were received; looked up in any case."""

    def __missing__(self, key: str) -> Any:
        wanted = key.lower()
        for name, value in self.items():
            if name.lower() == wanted:
                return value
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default


class RequestProcessor:
    """One request of the batch: what it said besides its body, and what its answer shall say."""

    __slots__ = ("_head", "_headers", "_parts", "_phrase", "_response_headers", "_status")

    def __init__(self, head: RequestHead, parts: dict[str, str] | None = None) -> None:
        self._head = head
        self._parts = parts  # field → content type
        self._headers: Headers | None = None
        self._status = 200
        self._phrase = ""
        self._response_headers: dict[str, str] | None = None

    def get_request_properties(self) -> Headers:
        """All headers, `url_path`, `explain`, and for each field of the body its content type."""
        if self._headers is None:
            head = self._head
            headers = Headers({field: {"content-type": kind} for field, kind in (self._parts or {}).items()})
            for name, value in head.headers:
                headers[name.decode("latin-1")] = value.decode("utf-8", "replace")
            headers["url_path"] = head.url_path
            headers["explain"] = str(head.operation == "explain")
            if head.operation == "describe":
                headers["describe"] = "True"
            self._headers = headers
        return self._headers

    def get_request_property(self, key: str) -> Any:
        return self.get_request_properties().get(key)

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self._status = code
        self._phrase = reason_phrase or ""

    @property
    def untouched(self) -> bool:
        """The handler left status and headers as they are."""
        return self._status == 200 and not self._phrase and not self._response_headers

    def get_response_status_code(self) -> int:
        return self._status

    def get_response_status_phrase(self) -> str:
        return self._phrase

    def add_response_property(self, key: str, value: str) -> None:
        if self._response_headers is None:
            self._response_headers = {}
        self._response_headers[key] = value

    def get_response_headers(self) -> dict[str, str]:
        if self._response_headers is None:
            self._response_headers = {}
        return self._response_headers

    def get_response_header(self, key: str) -> str | None:
        return self.get_response_headers().get(key)


class Context:
    """The model's facts, which stay, and the running batch's requests, which change."""

    def __init__(self, config: WorkerConfig, metrics: Any = None) -> None:
        self.model_name = config.model
        self.manifest = config.manifest
        self.model_yaml_config = config.model_yaml
        self.metrics = metrics
        self.model_version = config.version
        self.worker_id = config.worker_id
        self.device_ids = config.device_ids
        self.header_key_sequence_id = config.sequence_id_header
        self.header_key_sequence_start = config.sequence_start_header
        self.header_key_sequence_end = config.sequence_end_header
        self.system_properties: dict[str, Any] = {
            "model_dir": config.model_dir,
            "gpu_id": config.gpu_id,
            "batch_size": config.batch_size,
            "server_name": "MMS",
            "server_version": config.server_version,
            "limit_max_image_pixels": config.limit_max_image_pixels,
        }
        sax = config.model_yaml.get("sax")
        if isinstance(sax, dict) and "checkpoint" in sax:
            self.system_properties["checkpoint"] = sax["checkpoint"]  # as it was published in a cell; empty: none
        self.request_processor: list[RequestProcessor] = []
        self.request_ids: dict[int, str] = {}
        self.stopping_criteria: list[Any] | None = None  # continuous batching: for each request, a test of its answers
        self.cache: dict[str, Any] = {}  # the handler's own, by sequence or request id
        self.send_part: Callable[[int, Any], None] = _no_stream  # (index, part): streams a part of an answer at once
        self.cl_socket: Any = None  # TorchServe's socket; ours is not the handler's to write to

    @property
    def model_dir(self) -> str:
        return str(self.system_properties["model_dir"])

    @property
    def gpu_id(self) -> int | None:
        return self.system_properties["gpu_id"]  # type: ignore[no-any-return]

    @property
    def batch_size(self) -> int:
        return int(self.system_properties["batch_size"])

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx)

    def get_sequence_id(self, idx: int) -> str | None:
        return self.get_request_header(idx, self.header_key_sequence_id)  # type: ignore[no-any-return]

    def get_request_header(self, idx: int, key: str) -> Any:
        """A header's text, or None; for the name of a multipart field, `{"content-type": …}`."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> Headers:
        return self.request_processor[idx].get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self.get_response_headers(idx).get("content-type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self.request_processor[idx].get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for processor in self.request_processor:
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str]:
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()


def _no_stream(_idx: int, _part: Any) -> None:
    raise RuntimeError("parts can be sent only while a batch is being handled")
