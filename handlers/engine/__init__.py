"""Continuous batching for language models: one loop, `schedule → run → sample → deliver`."""
