"""ts.torch_handler.distributed.base_neuronx_microbatching_handler"""

raise ImportError("AWS Neuron is not supported")
