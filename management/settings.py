"""Server settings: defaults, then config.properties, then TS_* variables, then the command line; the last one wins.

Each is declared once, here, with its default, its type and a word on it; config.properties in the root and the table in
docs/configuration.md are written from this. A model's own settings travel in its archive. Not for: the files' syntax.
"""

import difflib
import json
import logging
import os
import re
import types
from collections.abc import Collection, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from . import addresses, properties
from .errors import SettingsError

logger = logging.getLogger(__name__)

OF_SNAPSHOTS = {"python", "tsConfigFile", "version"}  # what TorchServe adds to the configuration it saves
ALLOWED_BY_TORCHSERVE = "file://.*,http(s)?://.*"


def _is(
    default: Any,
    words: str,
    *,
    minimum: float | None = None,
    choices: tuple[str, ...] = (),
    section: str = "",
    address: bool = False,
) -> Any:
    metadata = {"words": words, "minimum": minimum, "choices": choices, "section": section, "address": address}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    # -- where it listens
    inference_address: str = _is(
        "http://127.0.0.1:8080", "predictions; http, https or unix:/path", section="Where it listens", address=True
    )
    management_address: str = _is(
        "http://127.0.0.1:8081", "registering and scaling; may equal inference_address", address=True
    )
    metrics_address: str = _is("http://127.0.0.1:8082", "Prometheus metrics; may equal one of the others", address=True)
    grpc_inference_address: str = _is("127.0.0.1", "host of the gRPC inference service")
    grpc_management_address: str = _is("127.0.0.1", "host of the gRPC management service")
    grpc_inference_port: int = _is(7070, "where flambeau[grpc] is installed; 0: no gRPC", minimum=0)
    grpc_management_port: int = _is(7071, "where flambeau[grpc] is installed; 0: no gRPC", minimum=0)
    grpc_inference_max_connection_age_ms: int | None = _is(
        None, "a connection is asked to end then; never when not given", minimum=1
    )
    grpc_inference_max_connection_age_grace_ms: int | None = _is(
        None, "and is cut so long after; its calls may finish when not given", minimum=1
    )
    grpc_management_max_connection_age_ms: int | None = _is(
        None, "a connection is asked to end then; never when not given", minimum=1
    )
    grpc_management_max_connection_age_grace_ms: int | None = _is(
        None, "and is cut so long after; its calls may finish when not given", minimum=1
    )
    enable_grpc_ssl: bool = _is(False, "both gRPC services speak TLS, with the certificate below")
    keystore: str | None = _is(
        None, "PKCS12 file with key and certificate, for https addresses and enable_grpc_ssl", section="TLS"
    )
    keystore_pass: str | None = _is(None, "its password")
    keystore_type: str = _is(
        "PKCS12", "JKS is Java's own and can't be read here: convert it by keytool", choices=("PKCS12",)
    )
    private_key_file: str | None = _is(None, "PEM key, instead of a keystore")
    certificate_file: str | None = _is(None, "PEM certificate chain, instead of a keystore")
    # -- the cell: Sax's protocol, and many machines
    cell: str | None = _is(None, "/sax/<cell>: its models are published and served here", section="The cell")
    sax_root: str | None = _is(None, "folder (or URL) where cells are found; SAX_ROOT, else a folder beside the state")
    sax_address: str = _is("http://127.0.0.1:8888", "Sax's HTTP protocol, when there is a cell", address=True)
    cell_admin: bool = _is(True, "this server decides who runs what; false: it joins the cell and obeys its admin")
    cell_chip: str = _is("cpu", "accelerator of this machine, as the assigner counts its memory")
    cell_topology: str = _is("1", "how many of them: 1, 4, 2x2")
    cell_tags: str | None = _is(None, "what models may ask for by `constraints`, comma-separated")
    cell_model_filter: str | None = _is(None, "only model paths that match this regular expression as a whole are served")
    cluster: str | None = _is(None, "machines that join by themselves: `auto` or an address of Ray's; local:N to try it")
    cell_prune_seconds: float = _is(10.0, "a machine that is silent for so long is dead", minimum=1)
    # -- models
    model_store: str | None = _is(None, "folder of model archives that may be registered by name", section="Models")
    workflow_store: str | None = _is(None, "folder of workflow archives; model_store when not given")
    load_models: str | None = _is(None, "at start: `all`, `a.mar`, `name=a.mar`, comma-separated")
    models: str | None = _is(
        None, "JSON {name: {version: {minWorkers, maxWorkers, batchSize, …}}} for models loaded at start"
    )
    model_snapshot: str | None = _is(None, "JSON written by snapshots; what it names is loaded at start")
    allowed_urls: str | None = _is(
        None, "regular expressions of URLs that may be registered, comma-separated; without it model_store alone"
    )
    use_env_allowed_urls: bool = _is(False, "TS_ALLOWED_URLS may override allowed_urls")
    default_workers_per_model: int = _is(
        0, "workers of a model loaded at start; 0: as many as GPUs, else CPUs (at most 4)", minimum=0
    )
    default_response_timeout: float = _is(120.0, "seconds a worker may be silent before it is replaced", minimum=0.001)
    default_startup_timeout: float = _is(120.0, "seconds a worker may take to load its model", minimum=0.001)
    unregister_model_timeout: float = _is(120.0, "seconds a worker may take to finish when it is taken away", minimum=0)
    job_queue_size: int = _is(100, "requests that may wait per model; one more is answered 503", minimum=0)
    default_service_handler: str | None = _is(None, "handler of archives that name none, `module:function`")
    service_envelope: str | None = _is(None, "how bodies are wrapped", choices=("body", "json", "kserve", "kservev2"))
    install_py_dep_per_model: bool = _is(False, "install an archive's requirements.txt into a folder of the model's own")
    initial_worker_port: int = _is(9000, "the first worker's id", minimum=1)
    initial_distribution_port: int = _is(29500, "accepted; processes that compute together meet at a free port", minimum=1)
    number_of_gpu: int | None = _is(
        None, "GPUs to use; all of NVIDIA's when not given. ROCm and WSL2 need it: there no device file tells", minimum=0
    )
    max_archive_size: int = _is(20 << 30, "bytes an archive may unpack to", minimum=1)
    max_archive_members: int = _is(100_000, "files and folders an archive may hold", minimum=1)
    # -- requests
    max_request_size: int = _is(6553500, "bytes of a request's body; more is answered 413", minimum=1, section="Requests")
    max_response_size: int = _is(6553500, "bytes of a response's body", minimum=1)
    limit_max_image_pixels: bool = _is(True, "PIL's limit against decompression bombs stays on")
    decode_input_request: bool = _is(True, "JSON and text bodies are decoded before the handler sees them")
    http_processes: int = _is(1, "processes that speak HTTP; one serves tens of thousands of requests a second", minimum=1)
    busy_poll_us: int = _is(
        300,
        "microseconds that a process under traffic looks for what comes next before it sleeps; 0: it sleeps at once",
        minimum=0,
    )
    full_queue_status: int = _is(503, "answer when a model's queue is full: 503 or 429", choices=("503", "429"))
    header_timeout: float = _is(10.0, "seconds a client may take to send its headers", minimum=0.1)
    keep_alive_timeout: float = _is(75.0, "seconds an idle connection stays open", minimum=0)
    drain_delay: float = _is(0.0, "seconds that a stopping server, no longer ready, still accepts connections", minimum=0)
    drain_timeout: float = _is(30.0, "seconds that requests in flight get when the server stops", minimum=0)
    ts_open_inference_protocol: bool = _is(False, "accepted; the /v2 routes are always served")
    ts_header_key_sequence_id: str = _is("ts_request_sequence_id", "header that names a request's sequence")
    ts_header_key_sequence_start: str = _is(
        "ts_request_sequence_start", "header that the first request of a sequence gets whose id we made"
    )
    ts_header_key_sequence_end: str = _is(
        "ts_request_sequence_end", "header by which clients tell a handler that a sequence ends"
    )
    # -- who may do what
    disable_token_authorization: bool | None = _is(
        None, "true: no tokens; false: tokens everywhere; not given: tokens on APIs off loopback", section="Who may do what"
    )
    token_expiration_min: float = _is(60.0, "minutes an inference or management token lives", minimum=0.01)
    token_auth_status: int = _is(401, "answer to a missing or wrong token; 400 is TorchServe's", choices=("401", "400"))
    jwt_secret_file: str | None = _is(
        None, "file with the secret of JSON web tokens (HS256), which inference and management then ask for; docs/jwt.md"
    )
    jwt_jwks_file: str | None = _is(None, "public keys (RS256, EdDSA) instead of a secret")
    jwt_required_claims: str | None = _is(None, "claims without which a token is refused, such as exp,sub")
    jwt_audience: str | None = _is(None, "tokens must be meant for it (aud)")
    jwt_issuer: str | None = _is(None, "tokens must come from it (iss)")
    key_file: str | None = _is(None, "where the tokens are written; key_file.json in the working folder when not given")
    enable_model_api: bool | None = _is(
        None, "models may be registered and deleted over HTTP; not given: when management is on loopback or needs tokens"
    )
    insecure: bool = _is(False, "start even though management is off loopback and needs no token")
    compat: bool = _is(
        False,
        "TorchServe's own defaults where ours are stricter: allowed_urls, token_auth_status, and start as with insecure",
    )
    allowed_hosts: str | None = _is(
        None, "Host headers that are answered besides loopback names, comma-separated; `*`: all"
    )
    cors_allowed_origin: str | None = _is(None, "access-control-allow-origin of every answer")
    cors_allowed_methods: str | None = _is(None, "access-control-allow-methods")
    cors_allowed_headers: str | None = _is(None, "access-control-allow-headers")
    blacklist_env_vars: str | None = _is(None, "regular expression of environment variables hidden from workers")
    # -- metrics and logs
    metrics_mode: str = _is(
        "prometheus", "log | prometheus | legacy; TorchServe's default is log", choices=("log", "prometheus", "legacy")
    )
    metrics_config: str | None = _is(None, "metrics.yaml; a bundled one when not given")
    model_metrics_auto_detect: bool = _is(
        False, "metrics that handlers emit are taken though metrics.yaml does not list them"
    )
    enable_metrics_api: bool = _is(True, "serve /metrics")
    vllm_metrics: bool = _is(False, "language models' metrics under vLLM's names too, for dashboards that query them")
    disable_system_metrics: bool = _is(False, "no CPU, memory and disk metrics")
    system_metrics_cmd: str | None = _is(None, "accepted; system metrics are collected in the server itself")
    metric_time_interval: float = _is(60.0, "seconds between two looks at the system", minimum=0.1)
    async_logging: bool = _is(False, "accepted; logs never block a request")
    debug: bool = _is(False, "log more")
    # -- files of its own
    state_file: str | None = _is(
        None, "registered models, kept over restarts; logs/config/state.json when not given", section="Files of its own"
    )
    runtime_dir: str | None = _is(None, "private folder for sockets and routes; a temporary one when not given")
    enable_envvars_config: bool = _is(False, "TS_<KEY> in the environment overrides this file")
    autoscaler_config: str | None = _is(
        None, "YAML of the autoscaler (docs/autoscaler.md); without it workers are scaled by hand", section="Autoscaler"
    )
    # -- accepted, and without meaning here
    number_of_netty_threads: int = _is(0, "accepted; see http_processes", section="Accepted, without effect", minimum=0)
    netty_client_threads: int = _is(0, "accepted", minimum=0)
    prefer_direct_buffer: bool = _is(False, "accepted; Java's")
    use_native_io: bool = _is(True, "accepted; Java's")
    io_ratio: int = _is(50, "accepted; Java's")
    vmargs: str | None = _is(None, "accepted; Java's")
    plugins_path: str | None = _is(None, "accepted; Java's plugins can't be loaded")
    ipex_enable: bool = _is(False, "accepted; Intel's extension has been folded into PyTorch")
    ipex_gpu_enable: bool = _is(False, "accepted")
    cpu_launcher_enable: bool = _is(False, "accepted")
    cpu_launcher_args: str | None = _is(None, "accepted")


@dataclass(frozen=True)
class Loaded:
    """The settings in force, and where each one that is not a default came from."""

    settings: Settings
    origins: dict[str, str]
    warnings: tuple[str, ...] = ()
    raw: dict[str, str] = field(default_factory=dict)  # as the file wrote them, for snapshots


def declared() -> dict[str, Field[Any]]:
    return {f.name: f for f in fields(Settings)}


def load(
    path: Path | None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] | None = None,
    without: Collection[str] = (),
) -> Loaded:
    """SettingsError for a value that we cannot use; a key we don't know is a warning, as old files hold many.

    `without`: keys of the file that do not count."""
    known = declared()
    read = properties.parse(_read(path)) if path else {}
    raw = {key: text for key, text in read.items() if key not in without}
    given = {key: properties.expand(text, environ) for key, text in raw.items()}
    warnings = [_unknown(key, path) for key in given if key not in known and key not in OF_SNAPSHOTS]
    origins = {key: str(path) for key in given if key in known}
    values = {key: text for key, text in given.items() if key in known}
    for key, text in _from_environment(values, environ).items():
        values[key], origins[key] = text, f"TS_{key.upper()}"
    for key, text in (overrides or {}).items():
        if key not in known:  # unlike an old file's, a key that is typed now is a mistake
            raise SettingsError(_unknown(key, "command line"))
        values[key], origins[key] = text, "command line"
    settings = Settings(**{key: _cast(known[key], text) for key, text in values.items()})
    return Loaded(settings, origins, tuple(warnings), raw)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None


def _unknown(key: str, where: Path | str | None) -> str:
    near = difflib.get_close_matches(key, declared(), n=1)
    return f"{where}: unknown setting {key}" + (f"; did you mean {near[0]}?" if near else "")


def _from_environment(given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    switch = given.get("enable_envvars_config", environ.get("TS_ENABLE_ENVVARS_CONFIG", "false"))
    if switch.lower() != "true":
        return {}
    found = {key: environ[name] for key in declared() if (name := f"TS_{key.upper()}") in environ}
    if given.get("use_env_allowed_urls", "false").lower() != "true":
        found.pop("allowed_urls", None)  # a stricter file must not be loosened by accident
    if found.get("ts_open_inference_protocol") == "oip":  # how the original spells true in the environment
        found["ts_open_inference_protocol"] = "true"
    return found


def _cast(declared_field: Field[Any], text: str) -> Any:
    name, metadata = declared_field.name, declared_field.metadata
    kind, optional = _kind(name)
    if text == "" and (optional or kind is not str):
        return declared_field.default
    value = _convert(name, kind, text)
    if metadata["choices"] and text not in metadata["choices"]:
        raise SettingsError(f"{name}={text}: not one of {', '.join(metadata['choices'])}")
    if metadata["minimum"] is not None and value < metadata["minimum"]:
        raise SettingsError(f"{name}={text}: less than {metadata['minimum']}")
    _check(name, text, is_address=metadata["address"])
    return value


def _convert(name: str, kind: type, text: str) -> Any:
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise SettingsError(f"{name}={text}: not {words[kind]}") from None


def _check(name: str, text: str, *, is_address: bool) -> None:
    if is_address:
        try:
            addresses.parse(text)
        except SettingsError as error:
            raise SettingsError(f"{name}={error}") from None
    if name in ("models", "model_snapshot"):
        try:
            json.loads(text)
        except ValueError as error:
            raise SettingsError(f"{name}: not JSON: {error}") from None
    patterns = (
        text.split(",") if name == "allowed_urls" else [text] if name in ("blacklist_env_vars", "cell_model_filter") else []
    )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingsError(f"{name}: {pattern!r} is no regular expression: {error}") from None


def _kind(name: str) -> tuple[type, bool]:
    hint = _HINTS[name]
    if isinstance(hint, types.UnionType):
        (kind,) = (arg for arg in get_args(hint) if arg is not type(None))
        return kind, True
    return hint, False


_HINTS: dict[str, Any] = get_type_hints(Settings)
