"""ts.handler_utils.utils"""

import importlib

from ts.protocol.otf_message_handler import create_predict_response, send_intermediate_predict_response

__all__ = ["create_predict_response", "import_class", "send_intermediate_predict_response"]


def import_class(class_name, module_prefix=None):
    """`package.module.Class`, the module looked for under `module_prefix` first."""
    module_name, _, name = class_name.rpartition(".")
    if not module_name:
        raise ImportError(f"{class_name}: a class with its module is wanted")
    if module_prefix:
        try:
            return getattr(importlib.import_module(f"{module_prefix}.{module_name}"), name)
        except ImportError:
            pass
    return getattr(importlib.import_module(module_name), name)
