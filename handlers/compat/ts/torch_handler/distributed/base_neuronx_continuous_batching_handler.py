"""ts.torch_handler.distributed.base_neuronx_continuous_batching_handler"""

raise ImportError("AWS Neuron is not supported")
