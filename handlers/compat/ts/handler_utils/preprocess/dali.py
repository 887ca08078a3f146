"""ts.handler_utils.preprocess.dali"""

raise ImportError("NVIDIA DALI is not supported")
