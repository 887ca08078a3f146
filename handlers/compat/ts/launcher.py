"""ts.launcher"""

raise ImportError("start the server by its command, flambeau start (or torchserve --start)")
