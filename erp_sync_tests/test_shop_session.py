"""The shop's sessions on a real MariaDB: breaks, TLS, passwords, clocks, round trips, query plans."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from erp_sync.errors import Misconfigured, ShopUnavailable
from erp_sync.models import Order
from erp_sync.sandbox.shop import DemoShop, catalogue, create_schema
from erp_sync.sandbox.shop_history import add_history
from erp_sync.shop.check import check_profile
from erp_sync.shop.connection import is_verified
from erp_sync.shop.database import Shop, open_shop
from erp_sync.shop.profile import Profile, ReadSection, ShopSection, load_profile
from erp_sync_tests.certificates import Authority
from erp_sync_tests.mariadb import MariaDB


@pytest.fixture
def url(mariadb: MariaDB) -> str:
    url = mariadb.create_database()
    seed(url)
    return url


def seed(url: str, orders: int = 3) -> DemoShop:
    engine = create_engine(url)
    create_schema(engine)
    demo = DemoShop(engine)
    demo.stock_catalogue(catalogue(20))
    demo.add_customers(5)
    demo.checkout_many(orders)
    engine.dispose()
    return demo


@pytest.fixture
def shop(url: str) -> Iterator[Shop]:
    shop = open_shop(url, load_profile("laravel"))
    yield shop
    shop.close()


def look(shop: Shop) -> int:
    return len(shop.recent(shop.now() - timedelta(minutes=5), 10))


def test_a_killed_idle_connection_is_replaced_without_a_word(mariadb: MariaDB, shop: Shop) -> None:
    assert look(shop) == 3
    mine = shop.read(lambda connection: connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())
    mariadb.execute(f"KILL CONNECTION {mine}")
    assert look(shop) == 3


def test_reading_goes_on_after_the_server_was_killed_and_restarted() -> None:
    with MariaDB() as server:
        url = server.create_database()
        seed(url)
        shop = open_shop(url, load_profile("laravel"))
        assert look(shop) == 3
        server.kill()
        with pytest.raises(ShopUnavailable, match="is not available"):
            look(shop)
        server.start()
        assert look(shop) == 3
        server.restart()
        assert len(shop.fetch(["1", "2", "3"])) == 3
        shop.close()


def test_tls_verifies_the_authority_and_the_name(
    tmp_path: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = Authority(tmp_path, "right"), Authority(tmp_path, "wrong")
    profile = load_profile("laravel")
    with MariaDB(authority=right) as server:
        url = server.create_database()
        seed(url)
        remote = url.replace("127.0.0.1", elsewhere)
        with monkeypatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(right.bundle))
            unasked = open_shop(remote, profile)
        for good in (
            open_shop(url, profile, ca_bundle=right.bundle),
            open_shop(f"{url}?ssl_ca={right.bundle}", profile),
            unasked,
        ):
            cipher, version = (
                good.read(lambda c, name=name: c.exec_driver_sql(f"SHOW STATUS LIKE '{name}'").one()[1])  # type: ignore[misc]
                for name in ("Ssl_cipher", "Ssl_version")
            )
            assert cipher
            assert version in ("TLSv1.2", "TLSv1.3")
            assert is_verified(good.engine)
            good.close()
        for bad in (
            open_shop(url, profile, ca_bundle=wrong.bundle),
            open_shop(f"{url}?ssl=true", profile),
            open_shop(remote, profile),
        ):
            with pytest.raises(Misconfigured, match=r"CERTIFICATE_VERIFY_FAILED.* ssl_ca=FILE.* ssl=false"):
                bad.now()
            bad.close()
        with contextlib.closing(open_shop(f"{remote}?ssl=false", profile)) as blind:
            blind.now()
            assert not is_verified(blind.engine)


def test_unasked_it_is_encrypted_where_the_server_offers_it_and_no_authority_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's authorities cost each new connection 25 ms, in which no other thread runs."""
    read: list[object] = []
    for authority in (Authority(tmp_path), None):
        with MariaDB(authority=authority) as server:
            shop = open_shop(server.create_database(), load_profile("laravel"))
            with monkeypatch.context() as patch:
                patch.setattr(ssl, "create_default_context", lambda **given: read.append(given))
                cipher = shop.read(lambda c: c.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").one()[1])
            shop.close()
            assert bool(cipher) is (authority is not None)
    assert read == []


def test_a_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue(tmp_path, "db.example.com", addresses=("192.0.2.1",))
    with MariaDB(options=[f"--ssl-cert={certificate}", f"--ssl-key={key}"]) as server:
        shop = open_shop(server.create_database(), load_profile("laravel"), ca_bundle=authority.bundle)
        with pytest.raises(Misconfigured, match="host name"):
            shop.now()
        shop.close()


def test_a_server_without_tls_is_refused_when_tls_is_asked_for(mariadb: MariaDB, url: str, tmp_path: Path) -> None:
    shop = open_shop(url, load_profile("laravel"), ca_bundle=Authority(tmp_path).bundle)
    with pytest.raises(Misconfigured, match="TLS"):
        shop.now()
    shop.close()


def test_wrong_credentials_and_missing_rights_name_the_setting(mariadb: MariaDB, url: str) -> None:
    database = url.rpartition("/")[2]
    mariadb.execute(
        "CREATE OR REPLACE USER reader@'127.0.0.1' IDENTIFIED BY 'right'",
        f"GRANT SELECT ON {database}.order_items TO reader@'127.0.0.1'",
    )
    profile = load_profile("laravel")
    for wrong, says in (
        (mariadb.url(database, user="reader", password="topsecret"), "ERP_SYNC_SHOP_URL: the shop's database refuses"),
        (mariadb.url("nowhere"), "ERP_SYNC_SHOP_URL: the shop's server has no database 'nowhere'"),
        (mariadb.url(database, user="reader", password="right"), "[read] orders: the user 'reader' lacks a right"),
    ):
        shop = open_shop(wrong, profile)
        with pytest.raises(Misconfigured) as error:
            shop.recent(datetime.now(UTC), 1)
        assert says in str(error.value)
        assert "topsecret" not in str(error.value)
        assert "topsecret" not in repr(shop.engine)
        shop.close()


def test_an_empty_look_is_one_round_trip(mariadb: MariaDB, shop: Shop) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    shop.recent(later, 10)
    mine = shop.read(lambda c: c.exec_driver_sql("SHOW SESSION STATUS LIKE 'Questions'").one()[1])
    for _ in range(20):
        shop.recent(later, 10)
    now = shop.read(lambda c: c.exec_driver_sql("SHOW SESSION STATUS LIKE 'Questions'").one()[1])
    assert int(now) - int(mine) == 21


def test_the_session_is_strict_and_read_only_whatever_the_server_says(shop: Shop) -> None:
    row = shop.read(
        lambda c: c.exec_driver_sql(
            "SELECT @@sql_mode, @@time_zone, @@character_set_client, @@tx_read_only, @@max_statement_time"
        ).one()
    )
    assert "STRICT_ALL_TABLES" in row[0]
    assert tuple(row[1:4]) == ("-03:00", "utf8mb4", 1)
    assert row[4] > 0


def test_a_slow_query_is_ended_by_the_server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr("erp_sync.shop.connection.STATEMENT_SECONDS", 1)
    shop = open_shop(url, load_profile("laravel"))
    shop.now()
    started = time.monotonic()
    with pytest.raises(ShopUnavailable, match="longer than"):
        shop.read(lambda c: c.exec_driver_sql("SELECT COUNT(*) FROM seq_1_to_100000 a, seq_1_to_100000 b").one())
    assert time.monotonic() - started < 10
    shop.close()


def test_a_lock_wait_is_tried_again_as_a_whole(mariadb: MariaDB, shop: Shop) -> None:
    """The second try finds the lock gone."""
    from pymysql.err import OperationalError
    from sqlalchemy.exc import OperationalError as Wrapped

    tries = []

    def work(_: Any) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise Wrapped("SELECT", {}, OperationalError(1213, "Deadlock found"))
        return 7

    assert shop.read(work) == 7
    assert len(tries) == 3


def test_datetime_and_timestamp_both_mean_the_shops_wall_clock(mariadb: MariaDB) -> None:
    """TIMESTAMP shifts with the session's zone, DATETIME does not: with the zone that the shop writes through, both
    come back as written."""
    url = mariadb.create_database()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("SET time_zone = '-03:00'"))
        connection.execute(text("CREATE TABLE o (id INT PRIMARY KEY, d DATETIME(6), t TIMESTAMP NULL)"))
        connection.execute(text("INSERT INTO o VALUES (1, '2026-11-20 22:30:00.25', '2026-11-20 22:30:00')"))
    engine.dispose()
    sql = (
        "SELECT id AS order_id, 'N' AS number, 'ready' AS state, t AS changed_at, d AS ordered_at, 'BRL' AS currency, "
        "1.00 AS total, 'Ana' AS customer_name FROM o"
    )
    lines = "SELECT id AS order_id, 1 AS line_id, 'A' AS sku, 1 AS quantity, 1.00 AS unit_price FROM o"
    for session, changed in (("-03:00", datetime(2026, 11, 21, 1, 30)), ("+00:00", datetime(2026, 11, 21, 4, 30))):  # noqa: DTZ001
        values = {
            "app_timezone": "America/Sao_Paulo",
            "business_timezone": "America/Sao_Paulo",
            "session_timezone": session,
            "currencies": ["BRL"],
        }
        profile = Profile(
            name="clocks",
            shop=ShopSection.model_validate(values),
            read=ReadSection.model_validate({"orders": sql, "lines": lines}),
        )
        shop = open_shop(url, profile)
        (order,) = shop.fetch(["1"])
        assert isinstance(order, Order)
        assert order.ordered_at == datetime(2026, 11, 21, 1, 30, 0, 250_000, tzinfo=UTC)
        assert order.business_day == date(2026, 11, 20)
        assert order.changed_at == changed.replace(tzinfo=UTC)
        assert len(shop.recent(order.changed_at, 5)) == 1
        assert shop.recent(order.changed_at + timedelta(seconds=1), 5) == []
        shop.close()


def test_the_clock_is_the_databases(shop: Shop) -> None:
    assert abs(shop.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert shop.now().tzinfo is UTC


def test_several_threads_share_a_shop(shop: Shop) -> None:
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(20):
                assert look(shop) == 3
                assert len(shop.fetch(["1", "2"])) == 2
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_at_150_thousand_orders_every_query_uses_an_index_and_a_look_is_cheap(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    seed(url, 10)
    engine = create_engine(url)
    until = datetime.now(UTC).replace(tzinfo=None)
    add_history(engine, 150_000, since=until - timedelta(days=700), until=until - timedelta(days=1))
    with engine.begin() as connection:
        connection.execute(text("ANALYZE TABLE orders, order_items"))
    engine.dispose()
    shop = open_shop(url, load_profile("laravel"))
    plans = {(plan.part, plan.what): plan.rows for plan in shop.plans(shop.now() - timedelta(minutes=5))}
    look_plan = plans["[read] orders", "look for recent changes"]
    assert [(row["type"], row["key"]) for row in look_plan if row["table"] == "o"] == [
        ("range", "orders_updated_at_index")
    ]
    assert {row["table"] for row in look_plan} == {"o"}, "the joins that a look does not need are still made"
    assert [f for f in check_profile(shop, sample=20) if f.level == "error"] == []
    rows_before = _handler_reads(shop)
    shop.recent(shop.now() + timedelta(minutes=1), 500)
    assert _handler_reads(shop) - rows_before < 5

    computed = shop.profile.read.orders.sql.replace("o.updated_at AS", "COALESCE(o.updated_at, o.created_at) AS")
    computed = computed.replace("o.number AS number", "TRIM(o.number) AS number")
    read = ReadSection.model_validate({"orders": computed, "lines": shop.profile.read.lines.sql})
    slow = open_shop(url, shop.profile.model_copy(update={"read": read}))
    found = [f for f in check_profile(slow, sample=20) if f.level != "ok" and f.subject != "grants"]
    assert [(f.level, f.subject, f.message.partition(" reads")[0]) for f in found] == [
        ("error", "[read] orders", "the look for recent changes"),
        ("warning", "[read] orders", "the look by number"),
    ]
    assert all("number must be bare, indexed columns" in f.advice for f in found)
    shop.close()
    slow.close()


def _handler_reads(shop: Shop) -> int:
    rows = shop.read(lambda c: c.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all())
    names = {
        "Handler_read_key",
        "Handler_read_next",
        "Handler_read_rnd_next",
        "Handler_read_prev",
        "Handler_read_first",
    }
    return sum(int(row[1]) for row in rows if row[0] in names)
