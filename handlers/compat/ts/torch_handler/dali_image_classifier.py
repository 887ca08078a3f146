"""ts.torch_handler.dali_image_classifier"""

raise ImportError("NVIDIA DALI is not supported: use ts.torch_handler.image_classifier")
