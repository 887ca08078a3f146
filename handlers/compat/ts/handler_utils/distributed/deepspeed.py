"""ts.handler_utils.distributed.deepspeed"""

raise ImportError("DeepSpeed is not supported: models larger than a GPU are served by text_generation")
