"""From the server's settings to the HTTP processes' options file, key by key as `frontend.options` declares them."""

import os
from typing import Any

import msgspec

from .addresses import parse
from .guard import Access, allowed_hosts, refusal_status
from .logs import Logs
from .settings import Settings
from .tls import Certificate


def frontend_options(
    settings: Settings, logs: Logs, certificate: Certificate | None, version: str, access: Access
) -> dict[str, Any]:
    inference = parse(settings.inference_address)
    others = {parse(settings.management_address), parse(settings.metrics_address)}
    return {
        "binds": [settings.inference_address],
        "sax_binds": [settings.sax_address] if settings.cell else [],
        "sax_cell": settings.cell or "",
        "processes": settings.http_processes,
        "server_version": version,
        "max_request_bytes": settings.max_request_size,
        "max_response_bytes": settings.max_response_size,
        "header_timeout_seconds": settings.header_timeout,
        "keep_alive_seconds": settings.keep_alive_timeout,
        "drain_seconds": settings.drain_timeout,
        "drain_delay_seconds": settings.drain_delay,
        "busy_poll_seconds": settings.busy_poll_us / 1e6,
        "cors": cors_headers(settings),
        "allowed_hosts": allowed_hosts(settings),
        "queue_full_status": settings.full_queue_status,
        "token_authorization": access.inference_tokens,
        "jwt": msgspec.to_builtins(access.jwt),
        "token_status": refusal_status(settings),
        "sequence_id_header": settings.ts_header_key_sequence_id,
        "sequence_start_header": settings.ts_header_key_sequence_start,
        "same_port": inference in others,
        "predict_route": os.environ.get("AIP_PREDICT_ROUTE"),
        "health_route": os.environ.get("AIP_HEALTH_ROUTE"),
        "access_log": str(logs.access_file),
        "metrics_log": None if settings.metrics_mode == "prometheus" else str(logs.server_metrics_file),
        "certificate_file": certificate.certificate_file if certificate else None,
        "private_key_file": certificate.private_key_file if certificate else None,
        "grpc_tls": settings.enable_grpc_ssl,
        "grpc_inference_age": {
            "most": settings.grpc_inference_max_connection_age_ms,
            "grace": settings.grpc_inference_max_connection_age_grace_ms,
        },
        "grpc_management_age": {
            "most": settings.grpc_management_max_connection_age_ms,
            "grace": settings.grpc_management_max_connection_age_grace_ms,
        },
        "debug": settings.debug,
    }


def cors_headers(settings: Settings) -> dict[str, str]:
    """Of every answer of every API."""
    given = {
        "Access-Control-Allow-Origin": settings.cors_allowed_origin,
        "Access-Control-Allow-Methods": settings.cors_allowed_methods,
        "Access-Control-Allow-Headers": settings.cors_allowed_headers,
    }
    return {name: value for name, value in given.items() if value}
