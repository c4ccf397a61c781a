"""The protocol over schedules of kills, pauses, lost answers and late commits.

30,000 of them here; `python -m erp_sync_tests.simulation --schedules 100000` goes through more.
"""

import os

import pytest

from erp_sync_tests.simulation import SAFEGUARDS, run_schedule, run_schedules

SCHEDULES = int(os.environ.get("ERP_SYNC_TEST_SCHEDULES", "30000"))


@pytest.mark.timeout(900)
def test_every_schedule_ends_with_each_order_in_the_erp_once() -> None:
    assert run_schedules(SCHEDULES, processes=os.cpu_count() or 1) == []


@pytest.mark.parametrize("safeguard", SAFEGUARDS)
def test_a_removed_safeguard_is_caught(safeguard: str) -> None:
    assert any(run_schedule(seed, without=safeguard) for seed in range(3000))


def test_a_seed_is_one_schedule() -> None:
    caught = next(seed for seed in range(3000) if run_schedule(seed, without="settle"))
    assert run_schedule(caught, without="settle") == run_schedule(caught, without="settle") != []
