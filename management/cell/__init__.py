"""The cell: models published by name, machines that join, and who runs which replica. Not for: running them."""
