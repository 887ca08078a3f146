"""ts.torch_handler.distributed.base_deepspeed_handler"""

raise ImportError("DeepSpeed is not supported: models larger than a GPU are served by text_generation")
