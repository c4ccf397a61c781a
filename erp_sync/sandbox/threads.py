"""The server's threads: calls beyond them wait for a while, then hear 503 (contracts/protheus-rest.md, 11)."""

from __future__ import annotations

import asyncio
from collections import deque


class Threads:
    def __init__(self) -> None:
        self.busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self, limit: int, timeout: float) -> bool:
        """False: no thread became free within `timeout` seconds. `limit` 0: there is always one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while limit and self.busy >= limit:
            turn = loop.create_future()
            self._waiting.append(turn)
            try:
                await asyncio.wait_for(turn, deadline - loop.time())
            except TimeoutError:
                return False
        self.busy += 1
        return True

    def leave(self) -> None:
        self.busy -= 1
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
