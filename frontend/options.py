"""What the HTTP processes are told at their start: one JSON file in the runtime folder, written by the supervisor.

Everything that may change while they run is in the routing table (`management.routing`), not here. Not for: reading
config.properties, which is `management.settings`, nor writing this file (`management.translate`, `management.data_plane`).
"""

from pathlib import Path
from typing import Literal

import msgspec

from ..management.jwt_auth import JwtOptions


class Cors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Headers added to every answer, each as it is given."""

    allowed_origin: str | None = msgspec.field(default=None, name="Access-Control-Allow-Origin")
    allowed_methods: str | None = msgspec.field(default=None, name="Access-Control-Allow-Methods")
    allowed_headers: str | None = msgspec.field(default=None, name="Access-Control-Allow-Headers")


class ConnectionAge(msgspec.Struct, frozen=True, kw_only=True):
    """Of a gRPC connection, in milliseconds: when it is asked to end, and how long its calls may go on then."""

    most: int | None = None
    grace: int | None = None


class FrontendOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    binds: list[str]  # inference addresses: "http://127.0.0.1:8080", "https://…", "unix:/path"
    sax_binds: list[str] = []  # the same for the Sax protocol; its routes are answered on these alone
    sax_cell: str = ""  # the cell whose models the Sax protocol serves, /sax/<cell>
    sax_root: str = ""  # where other cells are found
    processes: int = 1
    server_version: str = ""  # what /v2 tells

    max_request_bytes: int = 6553500  # of a body; a larger one is answered 413 before it is read
    max_response_bytes: int = 6553500  # of one answer, or unsent of a handler's stream; streams are not limited
    max_header_bytes: int = 65536
    header_timeout_seconds: float = 10.0  # from the connection, or a later request's first byte, to the last header
    body_timeout_seconds: float = 60.0  # a body may pause for so long
    keep_alive_seconds: float = 75.0
    drain_seconds: float = 30.0  # after SIGTERM: what is not answered by then is lost
    drain_delay_seconds: float = 0.0  # after SIGTERM: new connections are accepted for so long
    stream_buffer_bytes: int = 262144  # of events that a text API's client has not taken; one which reads slower is cut off

    busy_poll_seconds: float = 0.0  # `lookout`

    cors: Cors = Cors()
    allowed_hosts: list[str] = []  # Host names beside loopback's and the binds' own; "*": any
    queue_full_status: Literal[503, 429] = 503
    token_authorization: bool = False  # requests must carry a key of `<runtime>/inference_keys.json`
    jwt: JwtOptions | None = None  # requests must bear a JSON web token instead
    token_status: Literal[401, 400] = 401  # of a missing or wrong key; TorchServe says 400
    sequence_id_header: str = "ts_request_sequence_id"  # of models with sequence batching
    sequence_start_header: str = "ts_request_sequence_start"
    same_port: bool = False  # management routes are passed on to `<runtime>/control.sock`
    predict_route: str | None = None  # Vertex AI's AIP_PREDICT_ROUTE, an alias of /invocations
    health_route: str | None = None  # Vertex AI's AIP_HEALTH_ROUTE, an alias of /ping

    access_log: str | None = None  # a file; None: no access log
    metrics_log: str | None = None  # a file for each request's metrics, which are then not only counted
    certificate_file: str | None = None  # PEM; with private_key_file, for the https binds
    private_key_file: str | None = None
    grpc_tls: bool = False  # with the same certificate
    grpc_inference_age: ConnectionAge = ConnectionAge()
    grpc_management_age: ConnectionAge = ConnectionAge()
    debug: bool = False

    @property
    def authorizes(self) -> bool:
        """Requests must show a key or a token, whatever protocol they come by."""
        return self.token_authorization or self.jwt is not None


FILE_NAME = "frontend.json"


def read_options(runtime: Path) -> FrontendOptions:
    return msgspec.json.decode((runtime / FILE_NAME).read_bytes(), type=FrontendOptions)
