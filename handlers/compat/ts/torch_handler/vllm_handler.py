"""ts.torch_handler.vllm_handler"""

raise ImportError(
    "vLLM's handler can't be subclassed here: archive with the ready-made vllm_handler, or subclass "
    "flambeau.handlers.text_generation.TextGeneration"
)
