"""The receiver while its MariaDB hangs, is gone, or loses an answer: the sender hears of it, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import requests

from erp_sync.ledger.ledger import open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.webhook.app import READY_SECONDS, receiver
from erp_sync_tests.ledger_entries import CuttingProxy
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.webhooks import good, order_body, serving, settings, standard, stored

IN_TIME = 3.0
"""Seconds: then the sender gives up."""


@pytest.fixture
def own_mariadb() -> Iterator[MariaDB]:
    with MariaDB() as server:
        yield server


def _refused_in_time(url: str) -> None:
    started = time.monotonic()
    answer = good(url)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert time.monotonic() - started < IN_TIME


def _until_it_is_back(url: str) -> None:
    give_up = time.monotonic() + 30
    while good(url).status_code != 202:
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_a_database_that_hangs_or_is_gone_is_a_503_in_time_and_no_restart(own_mariadb: MariaDB) -> None:
    url = own_mariadb.create_database()
    migrate(url)
    ledger = open_ledger(url)
    process = own_mariadb._process
    assert process is not None
    with serving(receiver(settings(), ledger)) as address:
        assert good(address).status_code == 202
        os.kill(process.pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                _refused_in_time(address)
            assert requests.get(f"{address}/readyz", timeout=IN_TIME).status_code == 503
            assert requests.get(f"{address}/healthz", timeout=IN_TIME).status_code == 200
        finally:
            os.kill(process.pid, signal.SIGCONT)
        _until_it_is_back(address)
        own_mariadb.kill()
        _refused_in_time(address)
        own_mariadb.start()
        _until_it_is_back(address)
        time.sleep(READY_SECONDS)
        assert requests.get(f"{address}/readyz", timeout=IN_TIME).status_code == 200
    ledger.close()


@pytest.mark.parametrize(("cut", "first"), [("reply", {202, 503}), ("request", {202, 503})])
def test_an_event_whose_storing_lost_its_answer_is_there_once(mariadb: MariaDB, cut: str, first: set[int]) -> None:
    """The sender's retry is confirmed, whatever became of its first try."""
    url = mariadb.create_database()
    migrate(url)
    with CuttingProxy(mariadb.port) as proxy:
        ledger = open_ledger(url.replace(f":{mariadb.port}/", f":{proxy.port}/"))
        hints: list[str] = []
        with serving(receiver(settings(), ledger, notify=lambda hint: hints.append(hint.event_id))) as address:
            assert good(address).status_code == 202
            proxy.cuts.append(cut)
            body = order_body()
            sent = [
                requests.post(
                    f"{address}/webhooks/padrao", data=body, headers=standard(body, "msg_1"), timeout=5
                ).status_code
                for _ in range(2)
            ]
        assert proxy.done == [cut]
        assert sent[0] in first
        assert sent[1] in {200, 202}
        assert sent.count(202) == 1
        assert [event for _, event, _ in stored(ledger) if event == "msg_1"] == ["msg_1"]
        assert hints.count("msg_1") == 1
        ledger.close()
