"""What `erp-sync profile check` finds, for the mistakes that authors make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from erp_sync.models import Finding
from erp_sync.sandbox.shop import DemoShop, catalogue, create_schema
from erp_sync.shop.check import check_profile
from erp_sync.shop.database import Shop, open_shop
from erp_sync.shop.grants import needed_grants, read_tables
from erp_sync.shop.profile import ReadSection, StatusSection, StockSection, load_profile
from erp_sync.shop.statement import Statement
from erp_sync.shop.statuses import open_shop_statuses
from erp_sync_tests.mariadb import MariaDB

LARAVEL = load_profile("laravel")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    create_schema(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def demo(engine: Engine) -> DemoShop:
    demo = DemoShop(engine)
    demo.stock_catalogue(catalogue(40))
    demo.add_customers(10)
    demo.checkout_many(20)
    demo.place_odd_order("header_discount")
    demo.place_odd_order("case_twins")
    return demo


def findings(url: str, *, orders: tuple[str, str] = ("", ""), lines: tuple[str, str] = ("", "")) -> list[Finding]:
    assert orders[0] in LARAVEL.read.orders.sql
    assert lines[0] in LARAVEL.read.lines.sql
    sql = {
        "orders": LARAVEL.read.orders.sql.replace(*orders, 1),
        "lines": LARAVEL.read.lines.sql.replace(*lines, 1),
    }
    return checked(open_shop(url, LARAVEL.model_copy(update={"read": ReadSection.model_validate(sql)})))


def checked(shop: Shop) -> list[Finding]:
    statuses = open_shop_statuses(shop.engine.url.render_as_string(hide_password=False), shop.profile)
    found = check_profile(shop, statuses)
    shop.close()
    if statuses is not None:
        statuses.close()
    return [finding for finding in found if finding.level != "ok" and finding.subject != "grants"]


def test_the_shipped_profile_fits_the_demo_shop(demo: DemoShop, database_url: str) -> None:
    assert findings(database_url) == []


def test_an_empty_shop_is_a_warning(engine: Engine, database_url: str) -> None:
    assert [(f.level, f.message) for f in findings(database_url)] == [
        ("warning", "yields no order: nothing could be checked")
    ]


@pytest.mark.parametrize(
    ("part", "old", "new", "level", "says"),
    [
        ("orders", "o.updated_at AS changed_at", "o.updated_at AS changed", "error", "column changed_at is missing"),
        ("orders", "o.notes AS notes", "o.notes AS remarks", "warning", "column remarks is not known"),
        ("lines", "i.unit_price AS unit_price", "i.unit_price AS price", "error", "unit_price (or line_total)"),
        ("orders", "FROM orders o", "FROM orders o JOIN order_items x ON x.order_id = o.id", "error", "more than once"),
        ("orders", "WHEN 'paid' THEN 'ready'", "WHEN 'paid' THEN 'done'", "error", "state yields 'done'"),
        ("orders", "o.discount AS discount", "0 AS discount", "error", "totals do not add up in"),
        ("orders", "o.number AS number", "'N' AS number", "warning", "number is not unique"),
        ("orders", "o.updated_at AS changed_at", "NULL AS changed_at", "warning", "changed_at is empty"),
        ("orders", "o.updated_at AS changed_at", "'2199-01-01 00:00:00' AS changed_at", "error", "ahead of the"),
        ("orders", "FROM orders o", "FROM ordrs o", "error", "cannot be run"),
        ("lines", "FROM order_items i", "FROM order_items i WHERE i.id = 1", "warning", "ready orders have no line"),
    ],
)
def test_a_mistake_is_found(
    part: str, old: str, new: str, level: str, says: str, demo: DemoShop, database_url: str
) -> None:
    found = findings(database_url, **{part: (old, new)})
    assert [f for f in found if f.level == level and says in f.message and f.advice], found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("WHEN 'paid' THEN 'ready'", f"WHEN 'paid' THEN '{'y' * 31} 529.982.247-25'", "state yields 'yyy"),
        ("o.placed_at AS ordered_at", "'529.982.247-25' AS ordered_at", "cannot be read: ordered_at = '******"),
        ("o.total AS total", "'ana@example.com' AS total", "cannot be read: total = '***'"),
    ],
)
def test_no_finding_shows_whose_a_mistaken_column_is(
    old: str, new: str, says: str, demo: DemoShop, database_url: str
) -> None:
    found = str(findings(database_url, orders=(old, new)))
    assert says in found
    assert [word for word in ("529", "982", "ana@") if word in found] == []


def test_a_case_blind_look_for_skus_and_a_list_of_none_are_found(demo: DemoShop, database_url: str) -> None:
    assert LARAVEL.stock is not None
    stock = StockSection.model_validate(
        {
            "find": "SELECT stock AS quantity FROM products WHERE LOWER(sku) = LOWER(:sku)",
            "write": ["UPDATE products SET stock = :quantity WHERE sku = :sku"],
            "skus": "SELECT sku AS code FROM products",
        }
    )
    found = checked(open_shop(database_url, LARAVEL.model_copy(update={"stock": stock})))
    assert ("error", "[stock] skus") in {(finding.level, finding.subject) for finding in found}
    assert any(f.level == "error" and "is found 2 times" in f.message for f in found), found


@pytest.mark.parametrize(
    ("change", "subject", "message"),
    [
        (("AS status FROM", "AS state FROM"), "profile", "lacks the column status"),
        (("SET status = :status", "SET status = 'paid'"), "[status] write", "the shop show 'paid', not 'packing'"),
        (("WHERE o.number = :number", "WHERE o.number <> :number"), "[status] find", "more than once"),
        (("SET status = :status", "SET status = NULL, notes = :status"), "[status] write", "refuses it"),
    ],
)
def test_the_status_block_is_rehearsed_and_nothing_stays(
    demo: DemoShop, engine: Engine, database_url: str, change: tuple[str, str], subject: str, message: str
) -> None:
    status = LARAVEL.status
    assert status is not None
    find, write = status.find.sql.replace(*change), [statement.sql.replace(*change) for statement in status.write]
    assert (find, write) != (status.find.sql, [statement.sql for statement in status.write])
    if "<>" in find:
        find = find.replace("AND HEX(o.number) = HEX(:number)", "")
    section = {"find": find, "write": write, "allow_from": ["paid"], "map": {"released": "packing"}}
    profile = LARAVEL.model_copy(update={"status": StatusSection.model_validate(section)})
    with engine.connect() as connection:
        before = connection.execute(text("SELECT id, status, notes, erp_number FROM orders ORDER BY id")).all()
    found = checked(open_shop(database_url, profile))
    assert [finding.subject for finding in found if message in finding.message] == [subject], found
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id, status, notes, erp_number FROM orders ORDER BY id")).all() == before


def test_floats_are_found(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    engine = create_engine(url)
    create_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE orders MODIFY total DOUBLE"))
        connection.execute(text("ALTER TABLE order_items MODIFY unit_price FLOAT"))
    engine.dispose()
    messages = [finding.message for finding in findings(url) if finding.level == "error"]
    assert messages == ["total is a binary float, which loses cents", "unit_price is a binary float, which loses cents"]


def test_grants_beyond_need_and_the_statements_that_are_enough(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    name = url.rpartition("/")[2]
    engine = create_engine(url)
    create_schema(engine)
    demo = DemoShop(engine)
    demo.stock_catalogue(catalogue(10))
    demo.add_customers(2)
    demo.checkout()
    engine.dispose()
    mariadb.execute("CREATE OR REPLACE USER erp_sync@'%' IDENTIFIED BY 'x'", f"GRANT ALL ON {name}.* TO erp_sync@'%'")
    limited = mariadb.url(name, user="erp_sync", password="x")
    shop = open_shop(limited, LARAVEL)
    (finding,) = [finding for finding in check_profile(shop) if finding.subject == "grants"]
    assert finding.level == "warning"
    assert "ALL PRIVILEGES" in finding.message
    statements = needed_grants(shop)
    assert f"GRANT SELECT ON {name}.order_items TO 'erp_sync'@'%'" in statements
    assert f"GRANT UPDATE (stock) ON {name}.products TO 'erp_sync'@'%'" in statements
    shop.close()
    mariadb.execute(f"REVOKE ALL ON {name}.* FROM erp_sync@'%'", *statements)
    shop = open_shop(limited, LARAVEL)
    assert [finding for finding in check_profile(shop) if finding.level != "ok"] == []
    shop.close()


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT * FROM a JOIN b ON b.x = a.x LEFT JOIN `c` ON 1 = 1", {"a", "b", "c"}),
        ("SELECT * FROM shop.a, b z, d WHERE EXISTS (SELECT 1 FROM e)", {"shop.a", "b", "d", "e"}),
        ("WITH w AS (SELECT * FROM a) SELECT * FROM w JOIN (SELECT 1 FROM b) q ON 1 = 1", {"a", "b"}),
        ("SELECT (SELECT MAX(x), 2 FROM a), 3 FROM b ORDER BY x, y", {"a", "b"}),
    ],
)
def test_the_tables_of_a_statement(sql: str, tables: set[str]) -> None:
    assert read_tables(Statement.reading(sql)) == tables
