"""The loop that chooses worker counts: observe what arrives, ask the optimizer, scale through the management plane."""
