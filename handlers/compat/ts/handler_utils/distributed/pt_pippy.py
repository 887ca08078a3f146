"""ts.handler_utils.distributed.pt_pippy"""

raise ImportError("PiPPy is no longer maintained: models larger than a GPU are served by text_generation")
