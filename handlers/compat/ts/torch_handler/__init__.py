"""ts.torch_handler"""
