"""The least rights that are shipped (deploy/grants.sql): with them everything runs, and nothing else can be done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

import erp_sync.shop
from erp_sync.demo import Stage, environment, stage
from erp_sync.ledger.migrate import migrate
from erp_sync.sandbox.shop import BAD_KINDS
from erp_sync.settings import Settings, load_settings
from erp_sync.shop.check import check_profile
from erp_sync.shop.database import open_shop
from erp_sync.shop.grants import LEDGER_USER, MIGRATE_USER, SHOP_USER, grants_file, ledger_grants, shop_grants
from erp_sync.shop.profile import Profile, load_profile
from erp_sync.shop.statement import Statement
from erp_sync.sync.connections import open_connections
from erp_sync.sync.forgetting import forget
from erp_sync.sync.retention import purge_ledger
from erp_sync.tax_id import normalize
from erp_sync_tests.live import CONFIG, until
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.test_stock_race import bulk_profile

FILE = Path(__file__).parent.parent / "deploy" / "grants.sql"
NO_RIGHT = {1044, 1142, 1143, 1227, 1370, 1045, 1410}


def test_the_file_is_what_the_code_says() -> None:
    assert FILE.read_text(encoding="utf-8") == grants_file(load_profile("laravel"), "shop", "erp_sync")


@pytest.mark.parametrize(
    ("name", "shown"), [("erp_sync", r"`erp\_sync`.*"), ("e%`x", r"`e\%``x`.*"), ("shop-1", "`shop-1`.*")]
)
def test_a_database_s_name_is_no_pattern(name: str, shown: str) -> None:
    assert ledger_grants(name, "o'neil", migrates=False) == [
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {shown} TO 'o''neil'@'%'"
    ]


@dataclass
class Limited:
    """The stage, whose users have the least rights of its profile."""

    on: Stage
    profile: Profile
    shop_url: str
    ledger_url: str


@pytest.fixture(params=["rows", "bulk"])
def limited(request: pytest.FixtureRequest, mariadb: MariaDB, tmp_path: Path) -> Iterator[Limited]:
    shop, ledger = (make_url(mariadb.create_database()).database or "" for _ in range(2))
    profile = load_profile("laravel") if request.param == "rows" else bulk_profile(tmp_path)
    users = (SHOP_USER, LEDGER_USER, MIGRATE_USER)
    mariadb.execute(
        *(f"CREATE OR REPLACE USER '{user}'@'%' IDENTIFIED BY 'x'" for user in users),
        f"CREATE TABLE {shop}.secrets (x INT)",
    )
    with stage(latency_ms=0, config=CONFIG, shop_url=mariadb.url(shop), stocked=True) as on:
        # Rights on a table can only be given where it exists: the shop's was there first.
        text = grants_file(profile, shop, ledger)
        mariadb.execute(*(line.rstrip(";") for line in text.splitlines() if line.startswith("GRANT")))
        urls = {
            "ERP_SYNC_SHOP_URL": mariadb.url(shop, user=SHOP_USER, password="x"),
            "ERP_SYNC_LEDGER_URL": mariadb.url(ledger, user=LEDGER_USER, password="x"),
            "ERP_SYNC_SHOP_PROFILE": profile.name,
        }
        migrate(mariadb.url(ledger, user=MIGRATE_USER, password="x"))
        with environment({**on.environment, **urls}):
            yield Limited(on, profile, urls["ERP_SYNC_SHOP_URL"], urls["ERP_SYNC_LEDGER_URL"])


def test_everything_runs_with_these_rights_and_nothing_else_can_be_done(limited: Limited, mariadb: MariaDB) -> None:
    shop = limited.on.shop
    placed = shop.checkout_many(6)
    shop.place_bad_order(next(iter(BAD_KINDS)))
    connections = open_connections(load_settings())
    ledger = connections.ledger
    flow = connections.orders_flow()

    def settled() -> bool:
        assert flow.run(sweep=True).failure is None
        return ledger.next_wake() is None

    until("all is settled", settled, 30)
    limited.on.erp.set_stock([{"code": sku, "QATU": 7} for sku in skus(limited.on)[:30]])
    shop.cancel(placed[0])
    for result in (connections.statuses_flow().run(), connections.statuses_flow().run()):
        assert result.failure is None
    stock = connections.stock_flow().run(accept=True)
    assert (stock.failure, stock.failed, stock.written > 3) == (None, 0, True)
    reconciled = connections.reconcile_flow().run([ledger.by_number(placed[1].number)[0].day])  # type: ignore[list-item]
    assert reconciled.failure is None
    order = connections.shop.fetch([str(placed[1].order_id)])[0]
    assert forget(normalize(order.customer.tax_id), connections.shop, ledger, connections.erp, Settings()).orders  # type: ignore[union-attr]
    purge_ledger(ledger, connections.settings)
    found = check_profile(open_shop(limited.shop_url, limited.profile), connections.shop_statuses)
    assert [finding for finding in found if finding.level != "ok"] == []
    connections.close()

    ledger_name, shop_name = (make_url(url).database for url in (limited.ledger_url, limited.shop_url))
    _cannot(
        limited.shop_url,
        "UPDATE orders SET total = 0",
        "UPDATE orders SET status = 'x', number = 'y'",
        "UPDATE products SET price = 0",
        "UPDATE customers SET name = ''",
        "INSERT INTO orders (id) VALUES (1)",
        "INSERT INTO products (sku) SELECT 'x'",
        "DELETE FROM orders",
        "TRUNCATE orders",
        "DROP TABLE orders",
        "ALTER TABLE orders ADD x INT",
        "CREATE TABLE y (x INT)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW SET @x = 1",
        "RENAME TABLE orders TO y",
        "LOCK TABLES orders WRITE",
        "SELECT * FROM secrets",
        f"SELECT * FROM {ledger_name}.erp_sync_orders",
        "SELECT * FROM mysql.global_priv",
        "SELECT 1 INTO OUTFILE '/tmp/erp_sync_never'",
        "SET GLOBAL max_connections = 1",
        f"GRANT SELECT ON {shop_name}.orders TO {SHOP_USER}",
        *(["CREATE TEMPORARY TABLE y (x INT)"] if limited.profile.stock and not limited.profile.stock.bulk else []),
    )
    _cannot(
        limited.ledger_url,
        f"SELECT * FROM {shop_name}.orders",
        f"SELECT * FROM {ledger_name.replace('_', 'x')}.erp_sync_orders",  # type: ignore[union-attr]
        "SELECT * FROM mysql.global_priv",
        "DROP TABLE erp_sync_orders",
        "TRUNCATE erp_sync_orders",
        "ALTER TABLE erp_sync_orders ADD x INT",
        "CREATE TABLE y (x INT)",
        "CREATE INDEX y ON erp_sync_orders (state)",
        "SELECT 1 INTO OUTFILE '/tmp/erp_sync_never'",
        f"GRANT ALL ON {ledger_name}.* TO {LEDGER_USER}",
    )


def test_a_name_alike_is_not_granted(mariadb: MariaDB) -> None:
    """What `_` would stand for, unescaped."""
    mariadb.execute(
        "CREATE OR REPLACE USER 'alike'@'%' IDENTIFIED BY 'x'",
        "CREATE OR REPLACE DATABASE alike_1",
        "CREATE OR REPLACE DATABASE alikex1",
        "CREATE TABLE alikex1.t (x INT)",
        *ledger_grants("alike_1", "alike", migrates=True),
    )
    _cannot(mariadb.url("alike_1", user="alike", password="x"), "SELECT * FROM alikex1.t", "DROP DATABASE alikex1")


def test_a_table_that_is_written_is_read_by_its_where(tmp_path: Path) -> None:
    """Though no SELECT of the profile names it."""
    shipped = Path(erp_sync.shop.__file__).parent / "profiles" / "laravel.toml"
    text = shipped.read_text(encoding="utf-8").replace("UPDATE products SET stock", "UPDATE shelf SET stock")
    (tmp_path / "p.toml").write_text(text, encoding="utf-8")
    granted = shop_grants(load_profile(tmp_path / "p.toml"), "shop", "u")
    assert "GRANT SELECT ON shop.shelf TO 'u'@'%'" in granted
    assert "GRANT UPDATE (stock) ON shop.shelf TO 'u'@'%'" in granted


@pytest.mark.parametrize(
    ("update", "granted"),
    [
        ("UPDATE products p JOIN erp_sync_stock s ON p.sku = s.sku SET p.stock = s.quantity", "(stock) ON d.products"),
        ("UPDATE erp_sync_stock s, products AS p SET p.stock = s.quantity", "(stock) ON d.products"),
        ("UPDATE erp_sync_stock JOIN x.`products` ON 1 = 1 SET products.a = 1, stock = 2", "(a, stock) ON x.products"),
        (
            "UPDATE products p JOIN shelves l ON l.id = p.id JOIN erp_sync_stock s ON s.sku = p.sku SET l.n = 1",
            "(n) ON d.shelves",
        ),
    ],
)
def test_the_columns_that_a_joined_update_writes(update: str, granted: str) -> None:
    laravel = load_profile("laravel")
    assert laravel.stock is not None
    stock = laravel.stock.model_copy(update={"write": [], "bulk": Statement.writing(update)})
    grants = shop_grants(laravel.model_copy(update={"stock": stock, "status": None}), "d", "u")
    assert [grant for grant in grants if "UPDATE" in grant] == [f"GRANT UPDATE {granted} TO 'u'@'%'"]
    assert not [grant for grant in grants if "erp_sync_stock" in grant]


WRITING = (
    "INSERT INTO told (`key`, n) SELECT o.id, 1 FROM goods o WHERE NOT EXISTS (SELECT 1 FROM told t WHERE t.n = 9)",
    "INSERT INTO told (`key`, n) VALUES (7, 1) ON DUPLICATE KEY UPDATE n = VALUES(n)",
    "INSERT IGNORE INTO told (`key`, n) VALUES (7, 1)",
    "UPDATE goods SET stock = (SELECT MAX(n) FROM told) WHERE EXTRACT(YEAR FROM at) > 1",
)


@pytest.mark.parametrize("statement", WRITING)
def test_a_statement_that_writes_has_all_the_rights_that_it_needs(mariadb: MariaDB, statement: str) -> None:
    name = make_url(mariadb.create_database()).database or ""
    mariadb.execute(
        "CREATE OR REPLACE USER 'writer'@'%' IDENTIFIED BY 'x'",
        f"CREATE TABLE {name}.told (`key` INT PRIMARY KEY, n INT)",
        f"CREATE TABLE {name}.goods (id INT, stock INT, at DATETIME)",
        f"INSERT INTO {name}.goods VALUES (1, 2, NOW())",
    )
    laravel = load_profile("laravel")
    assert laravel.stock is not None
    stock = laravel.stock.model_copy(update={"write": [Statement.writing(statement)]})
    grants = shop_grants(laravel.model_copy(update={"stock": stock, "status": None}), name, "writer")
    mariadb.execute(*(grant for grant in grants if ".told" in grant or ".goods" in grant))
    assert not [grant for grant in grants if re.search(r"\.(at|INTO) ", grant)]
    engine = sa.create_engine(mariadb.url(name, user="writer", password="x"))
    with engine.begin() as connection:
        assert connection.exec_driver_sql(statement).rowcount == 1
    engine.dispose()


def skus(on: Stage) -> list[str]:
    engine = sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"])
    with engine.connect() as connection:
        found = list(connection.scalars(sa.text("SELECT sku FROM products")))
    engine.dispose()
    return found


def _cannot(url: str, *statements: str) -> None:
    engine = sa.create_engine(url)
    for statement in statements:
        with engine.connect() as connection, pytest.raises(DBAPIError) as refused:
            connection.exec_driver_sql(statement)
        assert refused.value.orig is not None
        assert refused.value.orig.args[0] in NO_RIGHT, (statement, refused.value)
    engine.dispose()
