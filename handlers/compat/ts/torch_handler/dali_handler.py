"""ts.torch_handler.dali_handler"""

raise ImportError("NVIDIA DALI is not supported: use ts.torch_handler.vision_handler")
