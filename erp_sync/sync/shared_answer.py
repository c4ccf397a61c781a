"""One answer for all who wait for it: what costs a round trip to the database is asked once for several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedAnswer(Generic[T]):
    """`ask` as a question of many threads. Whoever calls gets an answer to a question that was put after the call
    began, so it knows all that was true by then; those who came while another question was under way share the next
    one. What `ask` raises goes to one caller alone, the others ask again."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._arriving = threading.Lock()
        self._arrived = 0
        self._asking = threading.Lock()
        self._answers: tuple[int, T] | None = None
        """Up to which caller the latest answer is good, and the answer."""

    def __call__(self) -> T:
        with self._arriving:
            self._arrived += 1
            mine = self._arrived
        with self._asking:
            if self._answers is None or self._answers[0] < mine:
                with self._arriving:
                    arrived = self._arrived
                self._answers = arrived, self._ask()
            return self._answers[1]
