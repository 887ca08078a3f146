"""Managed platforms that start a server by their own rules: which variables they set, and what these mean here.

Vertex AI says port and routes by AIP_*; SageMaker configures by a properties file and binds to its own network. On both the
platform stands between the network and us, so tokens are off unless the configuration turns them on. Not for: their
request formats, which are the data plane's.
"""

from collections.abc import Mapping
from pathlib import Path

from .errors import SettingsError

SAGEMAKER = ("SAGEMAKER_MULTI_MODEL", "SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_SAFE_PORT_RANGE")
VERTEX_ROUTES = ("AIP_HEALTH_ROUTE", "AIP_PREDICT_ROUTE")


def on_vertex(environ: Mapping[str, str]) -> bool:
    return environ.get("AIP_MODE") == "PREDICTION"


def guards_the_network(environ: Mapping[str, str]) -> bool:
    return on_vertex(environ) or any(name in environ for name in SAGEMAKER)


def settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What the platform decides, as config.properties would write it. SettingsError naming the variable that is missing."""
    if not on_vertex(environ):
        port = environ.get("SAGEMAKER_BIND_TO_PORT")
        return {"inference_address": f"http://0.0.0.0:{port}"} if port else {}
    for name in VERTEX_ROUTES:
        if not environ.get(name, "").startswith("/"):
            raise SettingsError(f"AIP_MODE=PREDICTION needs {name}, a path such as /ping")
    found = {"inference_address": f"http://0.0.0.0:{environ.get('AIP_HTTP_PORT', '8080')}"}
    storage = environ.get("AIP_STORAGE_URI", "")
    if storage and Path(storage).is_dir():
        found |= {"model_store": storage, "load_models": "all"}
    return found
