"""ts.torch_handler.vllm_handler"""

raise ImportError(
    "vllm_handler is not supported: the ready-made handlers text_generation and chat bring an engine of their own"
)
