"""A bell that lets any number of tasks wait for the next change."""

import asyncio


class Bell:
    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    def listen(self) -> asyncio.Event:
        """Set by the next ring, even if nobody waits for it yet."""
        return self._event

    async def wait(self, seconds: float) -> None:
        """For the next ring, or so long."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._event.wait()
        except TimeoutError:
            pass
