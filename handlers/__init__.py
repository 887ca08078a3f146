"""Inside a worker process: the handler contract, the ready-made handlers, the worker itself. Knows nothing of HTTP."""
