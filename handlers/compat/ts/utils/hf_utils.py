"""ts.utils.hf_utils"""

raise ImportError(
    "models of the hub are named by their address: model_path hf://owner/name, or register url=hf://owner/name"
)
