"""No value of a shop or of an ERP becomes SQL: each `where` that is sent means the named rows and nothing else, the
shop's and the ledger's statements get values as parameters, and a profile's SELECT cannot write.

test_erp_generic_query.py has the single literal; here the whole `where` is run, over a table that holds rows which any
escape would hit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from erp_sync.erp.answers import Answer
from erp_sync.erp.client import ErpClient
from erp_sync.erp.protheus import Protheus
from erp_sync.erp.statuses import ErpStatuses
from erp_sync.erp.stock import ErpStock
from erp_sync.errors import ErpSyncError
from erp_sync.ledger.ledger import Ledger
from erp_sync.models import CustomerCode, LedgerState, Severity, Sighting
from erp_sync.sandbox.shop import DemoShop, catalogue, create_schema
from erp_sync.settings import Settings
from erp_sync.shop.database import Shop, open_shop
from erp_sync.shop.profile import load_profile
from erp_sync.shop.statement import BadStatement, Statement
from erp_sync.shop.statuses import open_shop_statuses
from erp_sync.shop.stock import ShopStock, open_shop_stock
from erp_sync_tests.ledger_entries import due, found
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.test_hostile_erp import EXAMPLES

TRICKS: tuple[str, ...] = (
    "'",
    "''",
    "\\'",
    "\\",
    '"',
    "`",
    "--",
    "-- ",
    "/*",
    "*/",
    "#",
    ";",
    "%",
    "_",
    "(",
    ")",
    ",",
    "=",
    "\x00",
    "\n",
    "\r",
)
TRICKS += (
    " OR 1=1",
    "' OR '1'='1",
    "') OR (1=1",
    " UNION SELECT ",
    "’",
    "＇",
    "ʼ",
    "\u02b9",
    "\u2019",
    "\\u0027",
    "&#39;",
    "%27",
)
TRICKS += (
    "\xa0",
    "\u3000",
    "\u200b",
    "\u202e",
    "\ufeff",
    "¿'",
    "縗'",
    "é",
    "e\u0301",
    "ß",
    "İ",
    "x",
    " ",
    "0",
    "000001",
    ":sku",
    "%s",
    "?",
)
HOSTILE = st.one_of(
    st.lists(st.sampled_from(TRICKS), min_size=1, max_size=6).map("".join),
    st.text(min_size=1, max_size=30),
    st.sampled_from(TRICKS).map(lambda trick: trick * 500),
)
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SETTINGS = Settings(erp_url="http://127.0.0.1:1", erp_user="x", erp_password="x", erp_tenant="01,0101")  # type: ignore[arg-type]


class Asks(ErpClient):
    """The client without a network: keeps what would be asked."""

    def __init__(self) -> None:
        self.tenant = "01,0101"
        self.asked: list[dict[str, str]] = []

    def get(self, path: str, parameters: Sequence[tuple[str, str]]) -> Answer:
        self.asked.append(dict(parameters))
        return Answer(200, "", {"items": [], "hasNext": False}, None, 1.0)

    def of_flow(self, flow: str) -> Asks:
        return self


def builders(client: Asks, value: str) -> dict[str, tuple[str, Callable[[], object]]]:
    """Everything that puts a value into a `where`: the field it stands for, and the call."""
    protheus, statuses, stock = Protheus(client, SETTINGS), ErpStatuses(client, SETTINGS), ErpStock(client, SETTINGS)
    return {
        "find_orders": ("C5_XPEDWEB", lambda: protheus.find_orders([value])),
        "read_orders": ("C5_NUM", lambda: protheus.read_orders([value])),
        "find_customers": ("A1_CGC", lambda: protheus.find_customers([value])),
        "customer": ("A1_COD", lambda: protheus.customer(CustomerCode(value, ""))),
        "store": ("A1_LOJA", lambda: protheus.customer(CustomerCode("000001", value))),
        "progress": ("C5_NUM", lambda: statuses.progress([value])),
        "deleted": ("C5_NUM", lambda: statuses.deleted([value])),
        "releases": ("C9_PEDIDO", lambda: statuses.releases([value])),
        "invoices": ("D2_PEDIDO", lambda: statuses.invoices([value])),
        "named": ("B2_COD", lambda: stock.named([value], "witness")),
        "registered": ("B1_COD", lambda: stock.registered([value])),
        "page": ("B2_COD", lambda: stock._read(value)),
    }


def rows_that_match(where: str, field: str, value: str) -> list[str]:
    """The where, run by a real database over the value's own row and others that it must not touch."""
    database = sqlite3.connect(":memory:")
    names: tuple[str, ...] = (
        "C5_XPEDWEB",
        "C5_NUM",
        "C6_NUM",
        "A1_CGC",
        "A1_COD",
        "A1_LOJA",
        "C9_PEDIDO",
        "D2_PEDIDO",
        "B2_COD",
        "B1_COD",
    )
    names += ("B2_LOCAL",)
    database.execute(f"CREATE TABLE t ({', '.join(f'{name} TEXT' for name in names)})")
    others = ("", "somebody else's", "000001x", value + "x", "x" + value, "'")
    for own in (value, *(other for other in others if other.rstrip() != value.rstrip())):
        row = {**dict.fromkeys(names, "000001"), "B2_LOCAL": "01", field: own}
        database.execute(f"INSERT INTO t VALUES ({', '.join('?' * len(names))})", [row[name] for name in names])
    return [row[0] for row in database.execute(f"SELECT {field} FROM t WHERE {where}")]


@BOUNDED
@given(HOSTILE, st.integers(0, 11))
@example("' OR '1'='1", 0)
@example("x\\", 3)
@example("a\xa0b", 11)
def test_a_where_means_the_named_row_or_is_refused(value: str, which: int) -> None:
    client = Asks()
    name = list(builders(client, value))[which]
    field, call = builders(client, value)[name]
    try:
        call()
    except ValueError as refused:
        assert "cannot be asked for" in str(refused)
        assert client.asked == []
        assert not value.isprintable()
        return
    except ErpSyncError:
        pass  # nothing was found: all that counts is what was asked
    asks_for_it = [asked for asked in client.asked if field in asked["where"]]
    assert asks_for_it
    for asked in asks_for_it[:1]:
        assert set(asked) <= {"tables", "fields", "where", "DeletedFilter", "order", "page", "pageSize"}
        matching = rows_that_match(asked["where"], field, value)
        if name == "page":
            assert value in matching
            assert all(each >= value for each in matching)
        else:
            assert {each.rstrip() for each in matching} <= {value.rstrip(), "witness"}
            assert value in matching or value != value.rstrip()


def test_the_only_builder_of_a_where_is_the_one_that_quotes() -> None:
    """Every other parameter of a query is a name from a list, or a number."""
    client = Asks()
    Protheus(client, SETTINGS).external_ids_of(date(2026, 11, 24))
    [asked] = client.asked
    assert asked["where"] == "C5_EMISSAO='20261124' AND C5_XPEDWEB>='!'"


# The shop -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shops(mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A demo shop on each kind of database."""
    urls = [f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.sqlite'}", mariadb.create_database()]
    for url in urls:
        engine = sa.create_engine(url)
        create_schema(engine)
        demo = DemoShop(engine)
        demo.stock_catalogue(catalogue(5))
        demo.checkout_many(3)
        engine.dispose()
    return urls


def content(url: str) -> list[Any]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = [
            connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY id")).all()
            for table in ("orders", "order_items", "products", "customers")
        ]
    engine.dispose()
    return found


def _nothing_is_found(shop: Shop, stock: ShopStock) -> None:
    @settings(max_examples=EXAMPLES // 2, deadline=None)
    @given(HOSTILE)
    @example("' OR '1'='1")
    @example("1 OR 1=1")
    @example("x\\' OR 1=1 -- ")
    @example("%(sku)s %s :sku ?")
    def look(value: str) -> None:
        assume("\x00" not in value and not value.strip().isdecimal())  # the shop has orders 1 to 3
        assert shop.fetch([value]) == []
        assert shop.heads([value]) == {}
        assert shop.heads_by_number([value]) == []
        assert shop.held_lines([value]) == []
        assert shop.shown_statuses([value]) == {}
        assert stock.present([(value, "")]) == {(value, ""): []}
        shop.sweep(value, 10)
        stock.skus(value, 5)

    look()


def test_no_value_reaches_the_shop_as_sql(shops: list[str]) -> None:
    laravel = load_profile("laravel")
    for url in shops:
        before = content(url)
        shop, statuses, stock = open_shop(url, laravel), open_shop_statuses(url, laravel), open_shop_stock(url, laravel)
        assert statuses is not None
        assert stock is not None

        _nothing_is_found(shop, stock)
        assert content(url) == before
        for part in (shop, statuses, stock):
            part.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; DELETE FROM orders",
        "SELECT 1; SELECT 2",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT 1 INTO @x",
        "SELECT * FROM orders FOR UPDATE",
        "SELECT LOAD_FILE('/etc/passwd')",
        "SELECT SLEEP(100)",
        "SELECT /*!50000 1 INTO OUTFILE '/tmp/x' */",
        "SELECT 1 --x\n; DROP TABLE orders",
        "SELECT 'a\\'; DELETE FROM orders; -- '",
        "WITH x AS (SELECT 1) DELETE FROM orders",
        "WITH x AS (UPDATE orders SET total = 0 RETURNING id) SELECT * FROM x",
        "SELECT 1) q; DROP TABLE orders; SELECT * FROM (SELECT 1",
        "DELETE FROM orders",
        "PRAGMA writable_schema = 1",
        "CALL drop_everything()",
        "SET @x = 1",
    ],
)
def test_a_profile_s_select_that_does_more_is_refused(sql: str) -> None:
    with pytest.raises(BadStatement):
        Statement.reading(sql)


def test_and_the_session_refuses_what_the_words_do_not_show(shops: list[str]) -> None:
    """A function of the shop that writes looks like any other: the transaction is read-only all the same."""
    for url in shops:
        before = content(url)
        if not url.startswith("sqlite"):
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    "CREATE FUNCTION quiet() RETURNS INT MODIFIES SQL DATA "
                    "BEGIN UPDATE orders SET total = 0; RETURN 1; END"
                )
            engine.dispose()
        shop = open_shop(url, load_profile("laravel"))
        writes = ["UPDATE orders SET total = 0", "DELETE FROM products", "CREATE TABLE y (x INT)"]
        writes += [] if url.startswith("sqlite") else ["SELECT quiet()"]
        for sql in writes:
            with pytest.raises(ErpSyncError):
                shop.read(lambda connection, sql=sql: connection.exec_driver_sql(sql).close())  # type: ignore[misc]
        with pytest.raises((ErpSyncError, sqlite3.ProgrammingError, sqlite3.Warning)):
            shop.read(lambda connection: connection.exec_driver_sql("SELECT 1; DELETE FROM orders").close())
        shop.close()
        assert content(url) == before


# The ledger ---------------------------------------------------------------------------------------------------------


def test_the_ledger_keeps_a_value_as_it_is(ledger: Ledger) -> None:
    count = iter(range(1_000_000))

    @settings(max_examples=EXAMPLES // 4, deadline=None)
    @given(HOSTILE)
    @example("'; DROP TABLE erp_sync_orders; -- ")
    @example("%_\\")
    def kept(value: str) -> None:
        assume("\x00" not in value)
        order_id = f"{value[:200]}{next(count)}"
        assert ledger.add(found(due(order_id, number=order_id))) == [True]
        assert [entry.number for entry in ledger.by_number(order_id)] == [order_id]
        assert list(ledger.entries([order_id])) == [order_id]
        assert ledger.numbers_known([order_id, value + "not"]) == {order_id}
        assert [entry.order_id for entry in ledger.actionable(5, numbers=[order_id])] == [order_id]
        assert ledger.by_number(f"{order_id}' OR '1'='1") == []
        ledger.set_mark("injection", value)
        mark = ledger.mark("injection")
        assert mark is not None
        assert mark[1] == value
        ledger.report(Sighting("injection", "run_failed", Severity.ERROR, detail=value[:1000], subject=value[:100]))
        assert ledger.open_incidents()[0].detail == value[:1000]

    kept()
    assert ledger.counts() == {LedgerState.DUE: next(count)}
