"""One answer for several threads: never one to a question that was put before they came."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

import pytest

from erp_sync.sync.shared_answer import SharedAnswer

PATIENCE = 10.0


class _Slow:
    """A question whose asker is kept waiting before it looks; the answer is what was true when it looked."""

    def __init__(self) -> None:
        self.truth = 1
        self.asked = 0
        self.under_way = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def ask(self) -> int:
        self.asked += 1
        seen = self.truth
        self.under_way.release()
        assert self.go_on.acquire(timeout=PATIENCE)
        return seen


def test_who_comes_while_a_question_is_under_way_waits_for_the_next_one_and_shares_it() -> None:
    slow = _Slow()
    shared = SharedAnswer(slow.ask)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(shared)
        assert slow.under_way.acquire(timeout=PATIENCE)
        slow.truth = 2
        later = _arrive(pool, shared, 5)
        slow.go_on.release()
        assert first.result(PATIENCE) == 1
        assert slow.under_way.acquire(timeout=PATIENCE)
        slow.go_on.release()
        assert [each.result(PATIENCE) for each in later] == [2] * 5
    assert slow.asked == 2


def _arrive(pool: ThreadPoolExecutor, shared: SharedAnswer[int], callers: int) -> list[Future[int]]:
    """They have all come when this returns."""
    before = shared._arrived
    later = [pool.submit(shared) for _ in range(callers)]
    arrived = threading.Event()
    while shared._arrived < before + callers:
        arrived.wait(0.001)
    return later


def test_nobody_is_given_an_old_answer() -> None:
    answers = count(1)
    shared = SharedAnswer(lambda: next(answers))
    assert [shared(), shared(), shared()] == [1, 2, 3]


def test_a_question_that_failed_is_asked_again_by_the_next_caller() -> None:
    tries = count(1)

    def ask() -> int:
        if (asked := next(tries)) == 1:
            raise ValueError("away")
        return asked

    shared = SharedAnswer(ask)
    with pytest.raises(ValueError, match="away"):
        shared()
    assert shared() == 2
