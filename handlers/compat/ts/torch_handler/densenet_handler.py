"""ts.torch_handler.densenet_handler"""

raise ImportError("densenet_handler needs torchvision's DenseNet: archive the model file with image_classifier instead")
