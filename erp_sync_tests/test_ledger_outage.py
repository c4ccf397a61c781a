"""The database dies, or the network does: no change is lost, doubled, or reported as what it was not."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from erp_sync.errors import LedgerUnavailable, Misconfigured
from erp_sync.ledger.customers import CustomerEntry
from erp_sync.ledger.entry import Change
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync_tests.certificates import Authority
from erp_sync_tests.ledger_entries import START, CuttingProxy, Hand, due, found, step
from erp_sync_tests.mariadb import MariaDB


@pytest.fixture
def proxied(mariadb: MariaDB) -> Iterator[tuple[CuttingProxy, Ledger]]:
    url = mariadb.create_database()
    migrate(url)
    with CuttingProxy(mariadb.port) as proxy:
        ledger = open_ledger(url.replace(f":{mariadb.port}/", f":{proxy.port}/"), clock=Hand())
        yield proxy, ledger
        ledger.close()


@pytest.mark.parametrize("how", ["request", "reply"])
def test_a_change_whose_commit_lost_its_answer_is_made_once(proxied: tuple[CuttingProxy, Ledger], how: str) -> None:
    proxy, ledger = proxied
    ledger.add(found(due("1"), due("2")))
    one, two = ledger.entries(["1", "2"]).values()
    proxy.cuts = [how]
    change = step(one, "intent", hold="customer", next_at=START + timedelta(seconds=210))
    assert ledger.change([change, step(replace(two, version=7))]) == [True, False]
    assert proxy.done == [how]
    assert ledger.entries(["1"])["1"] == change.new
    assert [event.kind for _, event, _ in ledger.story("1")] == ["found", "intent"]


@pytest.mark.parametrize("how", ["request", "reply"])
def test_a_change_of_another_is_never_taken_for_ours(proxied: tuple[CuttingProxy, Ledger], how: str) -> None:
    """The version alone does not tell: another process may have made the same step."""
    proxy, ledger = proxied
    ledger.add(found(due("1")))
    [old] = ledger.entries(["1"]).values()
    assert ledger.change([step(old, "claimed")]) == [True]
    proxy.cuts = [how]
    assert ledger.change([step(old, "claimed")]) == [False]


def test_ours_is_known_even_when_somebody_else_changed_it_since(
    proxied: tuple[CuttingProxy, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, ledger = proxied
    ledger.add(found(due("1")))
    [old] = ledger.entries(["1"]).values()
    first = step(old, "intent")
    slept: list[float] = []

    def meanwhile(seconds: float) -> None:
        if not slept:
            slept.append(seconds)
            assert ledger.change([step(first.new, "sent")]) == [True]

    monkeypatch.setattr("erp_sync.ledger.database.time.sleep", meanwhile)
    proxy.cuts = ["reply"]
    assert ledger.change([first]) == [True]
    assert [event.kind for _, event, _ in ledger.story("1")] == ["found", "intent", "sent"]


@pytest.mark.parametrize("how", ["request", "reply"])
def test_what_is_added_or_claimed_once_is_reported_so(proxied: tuple[CuttingProxy, Ledger], how: str) -> None:
    proxy, ledger = proxied
    proxy.cuts = [how]
    assert ledger.add(found(due("1"), due("2"))) == [True, True]
    proxy.cuts = [how]
    assert ledger.change_customer(None, CustomerEntry("k", 1))
    proxy.cuts = [how]
    assert ledger.change_customer(CustomerEntry("k", 1), CustomerEntry("k", 2))
    assert not ledger.change_customer(CustomerEntry("k", 1), CustomerEntry("k", 2))
    proxy.cuts = [how]
    assert ledger.claim_mark("sweep", timedelta(minutes=5))
    proxy.cuts = [how]
    assert not ledger.claim_mark("sweep", timedelta(minutes=5))
    assert len(proxy.done) == 4, "a claim that is not free asks without a transaction"


def test_many_cuts_at_random(proxied: tuple[CuttingProxy, Ledger]) -> None:
    proxy, ledger = proxied
    numbers = [str(number) for number in range(60)]
    ledger.add(found(*map(due, numbers)))
    dice = random.Random(7)
    proxy.cuts = [dice.choice(["pass", "pass", "request", "reply"]) for _ in range(200)]

    def twice(order_id: str) -> int:
        entry = ledger.entries([order_id])[order_id]
        made = 0
        for _ in range(2):
            change = step(entry, hold=f"customer {order_id}", next_at=START)
            made += ledger.change([change])[0]
            assert ledger.change([step(entry)]) == [False]
            entry = change.new
        return made

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(twice, numbers))
    assert Counter(proxy.done).keys() == {"request", "reply"}
    assert len(proxy.done) > 40
    assert made == [2] * 60
    assert {entry.version for entry in ledger.list()} == {3}
    assert all(len(ledger.story(order_id)) == 3 for order_id in numbers)


def test_a_commit_still_under_way_is_waited_for(proxied: tuple[CuttingProxy, Ledger]) -> None:
    """Read without a lock, the row would look unchanged, and the change be reported lost just before it lands."""
    proxy, ledger = proxied
    ledger.add(found(due("1")))
    [old] = ledger.entries(["1"]).values()
    proxy.cuts = ["late"]
    assert ledger.change([step(old, "intent")]) == [True]
    proxy.cuts = ["late"]
    assert ledger.change_customer(None, CustomerEntry("k", 1))
    proxy.cuts = ["late"]
    assert ledger.claim_mark("sweep", timedelta(minutes=5))
    proxy.cuts = ["late"]
    assert ledger.add(found(due("2"))) == [True]
    assert proxy.done == ["late"] * 4


def test_kill_9_of_the_database_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with MariaDB() as server:
        url = server.create_database()
        migrate(url)
        ledger = open_ledger(url)
        ledger.add(found(*(due(str(number), ledger.now()) for number in range(8))))
        reported: dict[str, list[tuple[Change, bool | None]]] = {str(number): [] for number in range(8)}
        over = threading.Event()

        def work(order_id: str) -> None:
            while not over.is_set():
                try:
                    entry = ledger.entries([order_id])[order_id]
                except LedgerUnavailable:
                    continue
                change = step(entry)
                try:
                    reported[order_id].append((change, ledger.change([change])[0]))
                except LedgerUnavailable:
                    reported[order_id].append((change, None))

        threads = [threading.Thread(target=work, args=(order_id,)) for order_id in reported]
        for thread in threads:
            thread.start()
        for pause in (0.3, 0.5, 0.2):
            time.sleep(pause)
            server.kill()
            time.sleep(0.1)
            server.start()
        time.sleep(0.5)
        over.set()
        for thread in threads:
            thread.join(30)
        assert sum(len(each) for each in reported.values()) > 20
        for order_id, results in reported.items():
            stored = {version + 1 for version in range(len(ledger.story(order_id)))}
            assert max(stored) == ledger.entries([order_id])[order_id].version
            for change, made in results:
                if made is not None:
                    assert made == (change.new.version in stored), (order_id, change.new.version)
            versions = [change.new.version for change, made in results if made]
            assert len(versions) == len(set(versions))
        ledger.close()


def test_a_database_that_is_down_is_said_at_once_and_in_one_line(tmp_path: Path) -> None:
    with MariaDB() as server:
        url = server.create_database()
        migrate(url)
        ledger = open_ledger(url)
        server.kill()
        for call in (ledger.counts, lambda: ledger.add(found(due("1"))), lambda: open_ledger(url)):
            started = time.monotonic()
            with pytest.raises(LedgerUnavailable, match=r"the ledger at mysql://127\.0\.0\.1") as raised:
                call()
            assert time.monotonic() - started < 3
            assert "\n" not in str(raised.value)
        server.start()
        assert ledger.add(found(due("1"))) == [True]
        server.restart()
        assert ledger.counts()
        ledger.close()


def test_a_certificate_of_another_authority_is_refused(
    tmp_path: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    with MariaDB(authority=ours) as server:
        url = server.create_database()
        good = url + f"?ssl_ca={ours.bundle}"
        migrate(good)
        ledger = open_ledger(good)
        assert ledger.database.rows(text("SHOW STATUS LIKE 'Ssl_cipher'"))[0]._asdict()["Value"]
        ledger.close()
        remote = url.replace("127.0.0.1", elsewhere)
        for wrong in (f"{url}?ssl_ca={theirs.bundle}", f"{url}?ssl=true", remote):
            with pytest.raises(Misconfigured, match=r"CERTIFICATE_VERIFY_FAILED.* ssl_ca=FILE.* ssl=false"):
                open_ledger(wrong)
        open_ledger(f"{remote}?ssl=false").close()
        monkeypatch.setenv("SSL_CERT_FILE", str(ours.bundle))
        open_ledger(remote).close()


def test_sqlite_that_cannot_be_opened_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but it is long enough to be one" * 50)
    for file in ("missing/ledger.sqlite", "text"):
        with pytest.raises(Misconfigured, match="ERP_SYNC_LEDGER_URL"):
            migrate(f"sqlite:///{tmp_path / file}")


def test_a_writer_of_another_process_is_waited_for_on_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    migrate(url)
    ledger, other = open_ledger(url), open_ledger(url)
    with other.database.writer.connect() as connection:
        connection.execute(text("DELETE FROM erp_sync_early_orders"))
        with ThreadPoolExecutor(1) as pool:
            added = pool.submit(ledger.add, found(due("1")))
            time.sleep(0.2)
            assert not added.done()
            connection.commit()
            assert added.result(10) == [True]
    assert ledger.database.rows(text("PRAGMA journal_mode"))[0][0] == "wal"
    assert ledger.database.rows(text("PRAGMA synchronous"))[0][0] == 2
    ledger.close()
    other.close()


def test_a_deadlock_within_a_savepoint_is_repeated_as_any_other(mariadb: MariaDB) -> None:
    """The server rolls the whole transaction back, so what is told is that the savepoint is gone."""
    url = mariadb.create_database()
    migrate(url)
    ledger = open_ledger(url)
    runs: list[int] = []

    def work(connection: Connection) -> int:
        runs.append(1)
        with connection.begin_nested():
            if len(runs) == 1:
                connection.exec_driver_sql("ROLLBACK")
        return len(runs)

    assert ledger.database.write(work) == 2
    ledger.close()
