"""Sax's Python client: the original's names, on our HTTP. `import flambeau.sax as sax`, with SAX_ROOT in the environment.

    sax.Publish("/sax/test/lm", "saxml.server.torch.vllm.Gemma4B", "None", 1)
    sax.WaitForReady("/sax/test/lm", 1)
    sax.Model("/sax/test/lm").LM().Generate("Q: Who are you? A: ")

Every call has a deadline; what goes wrong is a SaxError with `code` and `text`.
"""

from ..management.cell.errors import SaxError
from .admin import (
    GetACL,
    List,
    ListAll,
    ListDetail,
    ModelDetail,
    Publish,
    SetACL,
    Stats,
    Unpublish,
    Update,
    WaitForReady,
)
from .model import Model, ModelOptions, Options

__all__ = [
    "GetACL",
    "List",
    "ListAll",
    "ListDetail",
    "Model",
    "ModelDetail",
    "ModelOptions",
    "Options",
    "Publish",
    "SaxError",
    "SetACL",
    "Stats",
    "Unpublish",
    "Update",
    "WaitForReady",
]
