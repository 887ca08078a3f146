"""`gunicorn --config gunicorn.conf.py`: a text server of one model on port 7000, started as the original's was.

MODEL is a folder of weights, a name on the hub or an archive; or MOCK_MODEL=1. See docs/llm-apis.md for the others.
"""

import os

from flambeau.management.standalone import Backend

bind = f"127.0.0.1:{os.environ.get('SERVICE_PORT', '7000')}"
workers = 1
worker_class = "asgi"
asgi_lifespan = "off"
timeout = 120
wsgi_app = "flambeau.frontend.gateway:create_server()"


def on_starting(server):  # type: ignore[no-untyped-def]
    """The server itself, behind gunicorn: control plane, inference and the model's worker."""
    server.backend = Backend.start(os.environ)


def on_exit(server):  # type: ignore[no-untyped-def]
    server.backend.stop()
