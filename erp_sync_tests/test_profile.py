"""The profile file: what it may say, and the one line that comes back when it says something else."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erp_sync.errors import Misconfigured
from erp_sync.shop.profile import load_profile, shipped_profiles
from erp_sync.shop.statement import BadStatement, Statement

MINIMAL = """
[shop]
app_timezone = "America/Sao_Paulo"
business_timezone = "America/Sao_Paulo"
currencies = ["BRL"]
[read]
orders = "SELECT * FROM erp_orders"
lines = "SELECT * FROM erp_lines"
"""
STATUS = """
[status]
find = "SELECT status FROM orders WHERE number = :number"
write = ["UPDATE orders SET status = :status WHERE number = :number"]
allow_from = ["paid"]
map = { invoiced = "invoiced" }
"""
STOCK = """
[stock]
find = "SELECT stock AS quantity FROM products WHERE sku = :sku"
write = ["UPDATE products SET stock = :quantity WHERE sku = :sku"]
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "shop.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_minimal_profile_has_the_defaults(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, MINIMAL))
    assert profile.shop.session_timezone == "+00:00"
    assert profile.shop.money == "decimal"
    assert profile.status is None
    assert profile.stock is None


def test_every_shipped_profile_is_complete() -> None:
    assert "laravel" in shipped_profiles()
    for name in shipped_profiles():
        profile = load_profile(name)
        assert profile.status is not None
        assert profile.stock is not None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("America/Sao_Paulo", "Mars/Olympus", "[shop] app_timezone = 'Mars/Olympus': is no time zone"),
        ("[read]", "[raed]", "[read] is missing"),
        ('currencies = ["BRL"]', "", "[shop] currencies is missing"),
        ('currencies = ["BRL"]', "currencies = []", "[shop] currencies"),
        ('currencies = ["BRL"]', 'currencies = ["BRL"]\nmoney = "cents"', "[shop] money = 'cents'"),
        ('currencies = ["BRL"]', 'currencies = ["BRL"]\ncolour = 1', "[shop] colour is no key of a profile"),
        ('currencies = ["BRL"]', 'currencies = ["BRL"]\nsession_timezone = "0\' "', "[shop] session_timezone"),
        ("SELECT * FROM erp_orders", "DELETE FROM orders", "[read] orders = 'DELETE FROM orders': starts with DELETE"),
        ("SELECT * FROM erp_lines", "", "[read] lines = '': is empty"),
        ("SELECT * FROM erp_lines", "SELECT :since", "lines uses the parameter :since"),
        ("SELECT * FROM erp_orders", "SELECT :number", "orders uses the parameter :number, which it does not get"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_key_and_value(tmp_path: Path, old: str, new: str, says: str) -> None:
    file = write(tmp_path, MINIMAL.replace(old, new, 1))
    with pytest.raises(Misconfigured) as error:
        load_profile(file)
    assert says in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("map = { invoiced", "map = { billed", "map.billed is no status of the ERP"),
        (":status WHERE number = :number", ":status", "write does not use :number"),
        ("status = :status", "status = :quantity", ":quantity, which it does not get"),
        ("UPDATE orders SET status = :status", "DROP TABLE orders, :status, :number; --", "[status] write.0"),
        ('allow_from = ["paid"]', "allow_from = []", "[status] allow_from"),
        ("WHERE number = :number", "WHERE id = 1", "find does not use :number"),
        ("SET stock = :quantity WHERE sku = :sku", "SET stock = :quantity", "write does not use :sku"),
        ("[stock]", '[stock]\nbasis = "guessed"', "[stock] basis = 'guessed'"),
        ("[stock]", '[stock]\nbulk = "UPDATE products SET stock = 1"', "erp_sync_stock"),
        ("[stock]", "[stock]\nwaiting_holds = 1", "[stock] waiting_holds = 1"),
    ],
)
def test_the_write_blocks_are_validated(tmp_path: Path, old: str, new: str, says: str) -> None:
    good = MINIMAL + STATUS + STOCK
    assert old in good
    load_profile(write(tmp_path, good))
    with pytest.raises(Misconfigured) as error:
        load_profile(write(tmp_path, good.replace(old, new, 1)))
    assert says in str(error.value)


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(Misconfigured, match=r"ERP_SYNC_SHOP_PROFILE = 'larvel'.*laravel"):
        load_profile("larvel")
    with pytest.raises(Misconfigured, match="cannot be read"):
        load_profile("/nowhere/shop.toml")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; DROP TABLE orders",
        "SELECT 1) q; DELETE FROM orders -- ",
        "SELECT (1",
        "WITH x AS (SELECT 1) DELETE FROM orders",
        "SELECT * FROM orders INTO OUTFILE '/tmp/x'",
        "SELECT LOAD_FILE('/etc/passwd')",
        "SELECT * FROM orders FOR UPDATE",
        "SELECT * FROM orders LOCK IN SHARE MODE",
        "SELECT SLEEP(100)",
        "SELECT /*!50000 1 */",
        "SELECT /*M! 1 */",
        "SELECT 5--3",
        "SELECT 1 # 2",
        "SELECT 'it\\'s' ; '",
        "SELECT 'open",
        "SELECT 1 /* open",
        "SELECT ?",
        "EXPLAIN SELECT 1",
        "REPLACE INTO orders SELECT 1",
        "",
        "-- nothing\n",
    ],
)
def test_hostile_or_broken_sql_is_refused(sql: str) -> None:
    with pytest.raises(BadStatement):
        Statement.reading(sql)


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT 'a;b', \"c:d\", `e:f` FROM t -- :g ; x\n WHERE at >= :since", {"since"}),
        ("SELECT REPLACE(phone, '-', ''), INSERT(a, 1, 1, '') FROM t;", set()),
        ("SELECT '12:30', JSON_EXTRACT(x, '$.a') FROM t WHERE model = 'App\\\\Models\\\\Order'", set()),
        ("WITH x AS (SELECT 1) SELECT * FROM x WHERE id IN (:order_ids) OR id IN :order_ids", {"order_ids"}),
        ("SELECT `update`, 'it''s' FROM t /* DROP */", set()),
    ],
)
def test_ordinary_sql_passes_and_its_parameters_are_found(sql: str, parameters: set[str]) -> None:
    assert Statement.reading(sql).parameters == parameters


def test_driver_texts() -> None:
    statement = Statement.reading(
        "SELECT '10%', ':x' FROM t -- 5%\nWHERE a LIKE :since AND id IN ( :ids ) OR id IN :ids"
    )
    lists = frozenset({"ids"})
    assert (
        statement.for_driver("pyformat", lists)
        == "SELECT '10%%', ':x' FROM t  \nWHERE a LIKE %(since)s AND id IN %(ids)s OR id IN %(ids)s"
    )
    assert (
        statement.for_driver("named", lists)
        == "SELECT '10%', ':x' FROM t  \nWHERE a LIKE :since AND id IN (SELECT value FROM json_each(:ids)) "
        "OR id IN (SELECT value FROM json_each(:ids))"
    )


_SIGNS = ["'", '"', "`", "\\", "--", " ", "/*", "*/", ";", "(", ")", ":a", "#", "%", "x", "1", ",", "\n"]


@given(st.lists(st.sampled_from(_SIGNS), max_size=12))
def test_what_is_accepted_stays_inside_our_statement(signs: list[str]) -> None:
    """SQLite must not see the statement end, nor a text or comment swallow what we wrap around it."""
    try:
        sql = Statement.reading("SELECT " + "".join(signs)).for_driver("named")
    except BadStatement:
        return
    connection = sqlite3.connect(":memory:")
    try:
        rows = connection.execute(f"SELECT 'ours' FROM (\n{sql}\n) q", defaultdict(int)).fetchall()
    except sqlite3.OperationalError as error:
        assert "incomplete input" not in str(error)
        assert "unrecognized token" not in str(error)
    else:
        assert rows == [("ours",)]
    finally:
        connection.close()
