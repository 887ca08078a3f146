"""ts.torch_handler.distributed.base_pippy_handler"""

raise ImportError("PiPPy is no longer maintained: models larger than a GPU are served by text_generation")
