"""ts.torch_handler.trt_llm_handler"""

raise ImportError(
    "trt_llm_handler is not supported: the ready-made handlers text_generation and chat bring an engine of their own"
)
