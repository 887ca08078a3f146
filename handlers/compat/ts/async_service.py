"""ts.async_service"""

raise ImportError("the worker awaits async handlers itself: write 'async def handle'")
