"""Statuses written into the shop, on SQLite and on MariaDB: what is overwritten, what is not, and who else writes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pymysql
import pytest
from pymysql.cursors import Cursor
from sqlalchemy import Engine, Row, create_engine, make_url, select, text
from sqlalchemy.exc import DBAPIError

from erp_sync.errors import Misconfigured, ShopUnavailable
from erp_sync.sandbox.shop import DemoShop, PlacedOrder, catalogue, create_schema
from erp_sync.sandbox.shop_schema import orders
from erp_sync.shop.connection import shop_engine
from erp_sync.shop.database import open_shop
from erp_sync.shop.profile import Profile, ReadSection, ShopSection, StatusSection, load_profile
from erp_sync.shop.statuses import TOGETHER, Outcome, ShopStatuses, StatusOutcome, StatusWrite, open_shop_statuses
from erp_sync_tests.ledger_entries import CuttingProxy
from erp_sync_tests.mariadb import MariaDB

KEY = "35261111222333000181550010000123451123456788"
NOTHING: dict[str, str | datetime | None] = {
    "erp_number": "000123",
    "invoice_number": None,
    "invoice_series": None,
    "invoice_key": None,
    "invoiced_at": None,
    "tracking_code": None,
    "delivered_at": None,
}
WRITTEN, SAME = Outcome.WRITTEN, Outcome.SAME


def wish(
    number: str, value: str = "packing", *, news: bool = True, ours: Collection[str] = (), **details: Any
) -> StatusWrite:
    return StatusWrite(number, value, {**NOTHING, **details}, news, ours)


def in_time() -> float:
    return time.monotonic() + 60


class Demo:
    """The demo shop behind the shipped profile."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = create_engine(url)
        create_schema(self.engine)
        self.shop = DemoShop(self.engine)
        self.shop.stock_catalogue(catalogue(20))
        self.shop.add_customers(3)
        statuses = open_shop_statuses(url, load_profile("laravel"))
        assert statuses is not None
        self.statuses = statuses

    def close(self) -> None:
        self.statuses.close()
        self.engine.dispose()

    def order(self, status: str = "paid", **columns: Any) -> PlacedOrder:
        placed = self.shop.place_order("paid")
        self.shop.change_order(placed, status=status, **columns)
        return placed

    def write(self, *wanted: StatusWrite) -> list[StatusOutcome]:
        return self.statuses.write(wanted, in_time())

    def outcomes(self, *wanted: StatusWrite) -> list[Outcome]:
        return [outcome.outcome for outcome in self.write(*wanted)]

    def row(self, placed: PlacedOrder) -> Row[Any]:
        with self.engine.connect() as connection:
            return connection.execute(select(orders).where(orders.c.id == placed.order_id)).one()

    def shows(self, *placed: PlacedOrder) -> list[str]:
        return [self.row(each).status for each in placed]


@pytest.fixture
def demo(database_url: str) -> Iterator[Demo]:
    demo = Demo(database_url)
    yield demo
    demo.close()


@pytest.fixture
def demo_on_mariadb(mariadb: MariaDB) -> Iterator[Demo]:
    demo = Demo(mariadb.create_database())
    yield demo
    demo.close()


# What is written


def test_a_status_with_all_its_details(demo: Demo) -> None:
    placed = demo.order()
    before = demo.row(placed)
    invoiced, delivered = datetime(2026, 11, 24), datetime(2026, 11, 26, 14, 30, 59)  # noqa: DTZ001 - the shop's wall clock
    details: dict[str, Any] = {
        "erp_number": "000123",
        "invoice_number": "000012345",
        "invoice_series": "1",
        "invoice_key": KEY,
        "invoiced_at": invoiced,
        "tracking_code": "BR123456789BR",
        "delivered_at": delivered,
    }
    assert demo.write(wish(placed.number, "delivered", **details)) == [StatusOutcome(WRITTEN, "delivered")]
    after = demo.row(placed)
    changed = {name: getattr(after, name) for name in after._fields if getattr(after, name) != getattr(before, name)}
    assert changed == {"status": "delivered", **details}


def test_what_is_not_known_takes_nothing_away(demo: Demo) -> None:
    placed = demo.order()
    demo.write(wish(placed.number, invoice_number="1", invoice_key=KEY, tracking_code="BR1"))
    demo.write(wish(placed.number, erp_number="000124"))
    row = demo.row(placed)
    assert (row.erp_number, row.invoice_number, row.invoice_key, row.tracking_code) == ("000124", "1", KEY, "BR1")


def test_other_orders_are_not_touched(demo: Demo) -> None:
    placed = [demo.order() for _ in range(3)]
    assert demo.outcomes(wish(placed[1].number)) == [WRITTEN]
    assert demo.shows(*placed) == ["paid", "packing", "paid"]
    assert demo.row(placed[0]).erp_number is None


def test_the_same_without_news_is_nothing_to_do(demo: Demo) -> None:
    placed = demo.order("packing")
    assert demo.write(wish(placed.number, news=False, tracking_code="BR1")) == [StatusOutcome(SAME, "packing")]
    assert demo.row(placed).tracking_code is None
    assert demo.write(wish(placed.number, tracking_code="BR1")) == [StatusOutcome(WRITTEN, "packing")]
    assert demo.row(placed).tracking_code == "BR1"


def test_another_value_is_written_although_nothing_is_news(demo: Demo) -> None:
    """Somebody set it back: we told the shop before, and it does not show it."""
    placed = demo.order("paid")
    assert demo.outcomes(wish(placed.number, news=False)) == [WRITTEN]
    assert demo.shows(placed) == ["packing"]


@pytest.mark.parametrize("present", ["pending", "cancelled", "refunded", "delivered", "something new"])
def test_what_may_not_be_overwritten_is_kept(demo: Demo, present: str) -> None:
    placed = demo.order(present)
    assert demo.write(wish(placed.number, tracking_code="BR1")) == [StatusOutcome(Outcome.KEPT, present)]
    row = demo.row(placed)
    assert (row.status, row.tracking_code, row.erp_number) == (present, None, None)


@pytest.mark.parametrize("present", ["cancelled", "something of ours"])
def test_what_we_wrote_before_may_be_overwritten(demo: Demo, present: str) -> None:
    placed = demo.order(present[:20])
    ours = [present[:20], "other"]
    assert demo.outcomes(wish(placed.number, ours=["other"]), wish(placed.number, ours=ours)) == [Outcome.KEPT, WRITTEN]
    assert demo.shows(placed) == ["packing"]


@pytest.mark.parametrize(
    ("present", "value", "shown", "outcome"),
    [
        ("paid", "packing", "packing", WRITTEN),
        ("packing", "packing", "packing", WRITTEN),
        ("shipped", "packing", "shipped", WRITTEN),
        ("shipped", "paid", "shipped", WRITTEN),
        ("packing", "shipped", "shipped", WRITTEN),
        ("shipped", "delivered", "delivered", WRITTEN),
        ("paid", "cancelled", "cancelled", WRITTEN),
        ("delivered", "delivered", "delivered", WRITTEN),
        ("delivered", "packing", "delivered", Outcome.KEPT),
    ],
)
def test_a_shop_that_is_ahead_keeps_its_value_and_gets_the_details(
    demo: Demo, present: str, value: str, shown: str, outcome: Outcome
) -> None:
    placed = demo.order(present)
    assert demo.write(wish(placed.number, value, tracking_code="BR1")) == [StatusOutcome(outcome, shown)]
    row = demo.row(placed)
    assert (row.status, row.tracking_code) == (shown, "BR1" if outcome is WRITTEN else None)


def test_a_shop_that_is_ahead_without_news_is_left_alone(demo: Demo) -> None:
    placed = demo.order("shipped")
    assert demo.write(wish(placed.number, news=False)) == [StatusOutcome(SAME, "shipped")]


def test_what_is_ours_does_not_make_an_order_go_back(demo: Demo) -> None:
    placed = demo.order("shipped")
    assert demo.outcomes(wish(placed.number, "packing", ours=["packing", "shipped"])) == [WRITTEN]
    assert demo.shows(placed) == ["shipped"]


def test_unknown_and_ambiguous_numbers_stop_nobody(demo: Demo) -> None:
    good, twin = demo.order(), demo.order()
    demo.shop.change_order(demo.order(), number=twin.number)
    said = demo.write(wish("LJ-NONE"), wish(twin.number), wish(good.number), wish(""))
    assert [one.outcome for one in said] == [Outcome.UNKNOWN, Outcome.AMBIGUOUS, WRITTEN, Outcome.UNKNOWN]
    assert demo.shows(twin, good) == ["paid", "packing"]


def test_outcomes_come_in_the_order_of_the_wishes(demo: Demo) -> None:
    placed = [demo.order(status) for status in ("packing", "paid", "refunded", "paid")]
    wanted = [wish(each.number, news=False) for each in reversed(placed)]
    assert demo.outcomes(*wanted, wish("LJ-NONE")) == [WRITTEN, Outcome.KEPT, WRITTEN, SAME, Outcome.UNKNOWN]
    assert demo.outcomes() == []


def test_many_orders_are_written_in_several_transactions(demo: Demo) -> None:
    placed = demo.shop.checkout_many(2 * TOGETHER + 7)
    assert demo.outcomes(*(wish(each.number) for each in placed)) == [WRITTEN] * len(placed)
    assert set(demo.shows(*placed)) == {"packing"}


def test_one_order_several_times_in_one_call(demo: Demo, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "erp_sync")
    placed = demo.order()
    wanted = [wish(placed.number, value, news=False) for value in ("packing", "packing", "delivered", "packing")]
    assert demo.outcomes(*wanted) == [WRITTEN, SAME, WRITTEN, Outcome.KEPT]
    assert "once more" not in caplog.text, "what it wrote itself was taken for somebody else's change"


def test_numbers_that_differ_by_case_accent_or_blanks_are_different_orders(demo: Demo) -> None:
    numbers = ["LJ-a", "LJ-A", "LJ-á", "LJ-A ", " LJ-A"]
    placed = [demo.order(number=number) for number in numbers]
    for place, number in enumerate(numbers):
        assert demo.outcomes(wish(number, "delivered")) == [WRITTEN], number
        assert demo.shows(*placed) == ["delivered"] * (place + 1) + ["paid"] * (len(numbers) - place - 1)


@pytest.mark.parametrize(
    "odd",
    [*("O'Neil", 'say "hi"', "`x`", "100%", "%s %(x)s", ":number", "a\\b", "a\\'b", "caixa 📦", "l\nn", "; DROP"), ""],
)
def test_quotes_emoji_and_signs_in_values(demo: Demo, odd: str) -> None:
    placed, bystander = demo.order(number=f"N{odd}"), demo.order()
    assert demo.write(wish(f"N{odd}", odd[:20] or "x", tracking_code=odd)) == [StatusOutcome(WRITTEN, odd[:20] or "x")]
    row = demo.row(placed)
    assert (row.number, row.status, row.tracking_code) == (f"N{odd}", odd[:20] or "x", odd)
    assert demo.shows(bystander) == ["paid"]


def test_a_profile_without_statuses_has_nobody_to_write_them(database_url: str) -> None:
    profile = load_profile("laravel").model_copy(update={"status": None})
    assert open_shop_statuses(database_url, profile) is None


def test_the_shop_for_reading_still_cannot_write(demo: Demo) -> None:
    """Neither before nor after somebody wrote through the other engine."""
    placed = demo.order()
    for _ in range(2):
        shop = open_shop(demo.url, load_profile("laravel"))
        with pytest.raises(DBAPIError, match=r"(?i)read.?only"), shop.engine.connect() as connection:
            connection.exec_driver_sql(f"UPDATE orders SET status = 'lost' WHERE id = {placed.order_id}")
        shop.close()
        demo.write(wish(placed.number))
    assert demo.shows(placed) == ["packing"]


# Time is over


def test_nothing_is_committed_when_the_time_is_over(demo: Demo) -> None:
    placed = [demo.order() for _ in range(2)]
    for by in (time.monotonic() - 1, time.monotonic()):
        with pytest.raises(ShopUnavailable, match="longer than the claim"):
            demo.statuses.write([wish(each.number) for each in placed], by)
        assert demo.shows(*placed) == ["paid", "paid"]
    assert demo.outcomes(*(wish(each.number) for each in placed)) == [WRITTEN] * 2


def test_time_that_passes_while_a_lock_is_waited_for_counts(demo: Demo) -> None:
    placed = demo.order()
    with ThreadPoolExecutor(1) as pool, demo.engine.connect() as other:
        held = _hold(other, placed)
        writing = pool.submit(demo.statuses.write, [wish(placed.number)], time.monotonic() + 0.2)
        time.sleep(0.3)
        held()
        with pytest.raises(ShopUnavailable, match="longer than the claim"):
            writing.result(10)
    assert demo.shows(placed) == ["paid"]


def _hold(connection: Any, placed: PlacedOrder) -> Callable[[], None]:
    """Changes the order's row without committing, until the answer is called; that rolls back."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    connection.execute(orders.update().where(orders.c.id == placed.order_id).values(status="lost"))
    rollback: Callable[[], None] = connection.rollback
    return rollback


def test_a_row_that_somebody_holds_for_a_moment_is_waited_for(demo: Demo) -> None:
    placed = demo.order()
    with ThreadPoolExecutor(1) as pool, demo.engine.connect() as other:
        held = _hold(other, placed)
        writing = pool.submit(demo.write, wish(placed.number))
        time.sleep(0.2)
        assert not writing.done()
        held()
        assert writing.result(10) == [StatusOutcome(WRITTEN, "packing")]
    assert demo.shows(placed) == ["packing"]


# Statements that do not do what they should


class Small:
    """A shop of one table of orders, one of shipments, and one's own statements."""

    FIND = "SELECT status AS status FROM orders WHERE number = :number"
    WRITE = ("UPDATE orders SET status = :status, note = :tracking_code WHERE number = :number",)

    def __init__(self, url: str, *, status: str = "VARCHAR(20)", note: str = "") -> None:
        self.url = url
        self.engine = create_engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        note = note or ("CHECK (LENGTH(note) <= 10)" if self.is_sqlite else "")
        with self.engine.begin() as connection:
            key = "INTEGER PRIMARY KEY" if self.is_sqlite else "INT AUTO_INCREMENT PRIMARY KEY"
            columns = f"id {key}, number VARCHAR(20), status {status}, note VARCHAR(10) {note}"
            connection.execute(text(f"CREATE TABLE orders ({columns})"))
            connection.execute(text("CREATE INDEX orders_number ON orders (number)"))
            connection.execute(text("CREATE TABLE shipments (number VARCHAR(20) PRIMARY KEY, code VARCHAR(10), n INT)"))
        self._opened: list[ShopStatuses] = []

    def add(self, *numbers: str, status: str = "paid") -> None:
        rows = [{"number": number, "status": status} for number in numbers]
        with self.engine.begin() as connection:
            connection.execute(text("INSERT INTO orders (number, status) VALUES (:number, :status)"), rows)
            connection.execute(text("INSERT INTO shipments (number, n) VALUES (:number, 0)"), rows)

    def profile(self, *write: str, find: str = FIND, allow_from: Sequence[str] = ("paid",)) -> Profile:
        values = {"find": find, "write": list(write or self.WRITE), "allow_from": list(allow_from), "map": {}}
        zones = {"app_timezone": "America/Sao_Paulo", "business_timezone": "America/Sao_Paulo", "currencies": ["BRL"]}
        return Profile(
            name="small",
            shop=ShopSection.model_validate(zones),
            read=ReadSection.model_validate({"orders": "SELECT 1", "lines": "SELECT 1"}),
            status=StatusSection.model_validate(values),
        )

    def statuses(self, *write: str, url: str = "", **values: Any) -> ShopStatuses:
        statuses = open_shop_statuses(url or self.url, self.profile(*write, **values))
        assert statuses is not None
        self._opened.append(statuses)
        return statuses

    def rows(self, what: str = "number, status, note FROM orders") -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(f"SELECT {what} ORDER BY number"))]

    def shown(self) -> dict[str, str]:
        return {number: status for number, status, _ in self.rows()}

    def close(self) -> None:
        for statuses in self._opened:
            statuses.close()
        self.engine.dispose()


@pytest.fixture
def small(database_url: str) -> Iterator[Small]:
    small = Small(database_url)
    yield small
    small.close()


@pytest.fixture
def small_on_mariadb(mariadb: MariaDB) -> Iterator[Small]:
    small = Small(mariadb.create_database())
    yield small
    small.close()


def reasons(outcomes: Sequence[StatusOutcome]) -> list[str]:
    assert all((one.outcome is Outcome.FAILED) == bool(one.why) for one in outcomes)
    return [one.why for one in outcomes]


def test_what_the_shop_shows_instead_is_nobody_s_data(small: Small) -> None:
    small.add("1")
    write = "UPDATE orders SET status = 'ana@example.com' WHERE number = :number OR :status = ''"
    assert "makes the shop show '***', not" in reasons(small.statuses(write).write([wish("1")], in_time()))[0]


@pytest.mark.parametrize(
    "write",
    [
        pytest.param("UPDATE orders SET status = :status WHERE number = :number AND id < 0", id="no row"),
        pytest.param("UPDATE orders SET note = :status WHERE number = :number", id="another column"),
        pytest.param("UPDATE orders SET status = :status WHERE number <> :number", id="all rows but that one"),
        pytest.param("UPDATE orders SET status = 'hoppla' WHERE number = :number OR :status = ''", id="another value"),
        pytest.param("UPDATE orders SET status = :status, number = 'gone' WHERE number = :number", id="renamed"),
        pytest.param("INSERT INTO orders (number, status) VALUES (:number, :status)", id="one row more"),
        pytest.param("INSERT INTO shipments (number, code) VALUES ('new', SUBSTR(:number, 1, 1))", id="another table"),
    ],
)
def test_statements_without_the_effect_are_rolled_back_and_named(small: Small, write: str) -> None:
    small.add("1", "2", "3")
    before = small.rows(), small.rows("number, code, n FROM shipments")
    said = small.statuses(write).write([wish("2"), wish("3")], in_time())
    assert all("[status] write makes the shop show" in why and "'packing'" in why for why in reasons(said))
    assert (small.rows(), small.rows("number, code, n FROM shipments")) == before


def test_only_the_order_whose_write_has_no_effect_fails(small: Small) -> None:
    small.add("1", "2", "3")
    statuses = small.statuses("UPDATE orders SET status = :status WHERE number = :number AND number <> '2'")
    said = statuses.write([wish(number) for number in ("1", "2", "3")], in_time())
    assert [one.outcome for one in said] == [WRITTEN, Outcome.FAILED, WRITTEN]
    assert small.shown() == {"1": "packing", "2": "paid", "3": "packing"}


def test_a_value_that_the_database_refuses_fails_its_own_order_alone(small: Small) -> None:
    small.add("1", "2", "3")
    codes = {"1": "BR1", "2": "far too long for it", "3": "BR3"}
    said = small.statuses().write([wish(number, tracking_code=code) for number, code in codes.items()], in_time())
    assert [one.outcome for one in said] == [WRITTEN, Outcome.FAILED, WRITTEN]
    assert "refuses it" in said[1].why
    assert "far too long" not in said[1].why
    assert small.rows() == [("1", "packing", "BR1"), ("2", "paid", None), ("3", "packing", "BR3")]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ENUM('paid','packing')", "shipped"),
        ("INT", "packing"),
        ("VARCHAR(20) CHARACTER SET latin1", "caixa 📦"),
        ("VARCHAR(20) CHECK (status <> 'shipped')", "shipped"),
        ("VARCHAR(20) NOT NULL UNIQUE", "taken"),
    ],
)
def test_what_mariadb_refuses_stops_nobody(mariadb: MariaDB, column: str, value: str) -> None:
    small = Small(mariadb.create_database(), status=column)
    start, good = ("1", "2") if column == "INT" else ("paid", "packing")
    taken = {"3": "taken"} if "UNIQUE" in column else {}
    small.add("1", status=start)
    small.add("2", status="other" if taken else start) if column.startswith("VARCHAR") else small.add("2", status=start)
    for number, status in taken.items():
        small.add(number, status=status)
    statuses = small.statuses(allow_from=[start, "other"])
    said = statuses.write([wish("1", value), wish("2", good)], in_time())
    assert [one.outcome for one in said] == [Outcome.FAILED, WRITTEN], said
    assert small.shown() == {"1": start if column != "INT" else 1, "2": good if column != "INT" else 2, **taken}
    small.close()


def test_a_trigger_that_objects_stops_nobody(small_on_mariadb: Small) -> None:
    small = small_on_mariadb
    small.add("1", "2")
    with small.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER guard BEFORE UPDATE ON orders FOR EACH ROW IF NEW.number = '1' THEN "
                "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'customer 529.982.247-25 says no'; END IF"
            )
        )
    said = small.statuses().write([wish("1"), wish("2")], in_time())
    assert [one.outcome for one in said] == [Outcome.FAILED, WRITTEN]
    assert "529" not in said[0].why
    assert "1644" in said[0].why


def test_a_time_that_the_shop_s_zone_skips_stops_nobody(mariadb: MariaDB) -> None:
    """A TIMESTAMP in a zone with summer time: an hour of the day when it begins does not exist."""
    small = Small(mariadb.create_database())
    with small.engine.begin() as connection:
        connection.execute(text("ALTER TABLE orders ADD delivered TIMESTAMP NULL"))
    small.add("1", "2")
    statuses = small.statuses("UPDATE orders SET status = :status, delivered = :delivered_at WHERE number = :number")
    never, fine = datetime(1969, 12, 31), datetime(2026, 11, 26, 14, 30)  # noqa: DTZ001 - the shop's wall clock
    said = statuses.write([wish("1", delivered_at=never), wish("2", delivered_at=fine)], in_time())
    assert [one.outcome for one in said] == [Outcome.FAILED, WRITTEN]
    small.close()


def test_several_statements_are_one_transaction(small: Small) -> None:
    small.add("1", "2", "3")
    statuses = small.statuses(
        "UPDATE shipments SET code = :tracking_code, n = n + 1 WHERE number = :number",
        "UPDATE orders SET status = :status, note = :tracking_code WHERE number = :number",
    )
    said = statuses.write([wish("1", tracking_code="BR1"), wish("2", tracking_code="far too long for it")], in_time())
    assert [one.outcome for one in said] == [WRITTEN, Outcome.FAILED]
    assert small.rows("number, code, n FROM shipments") == [("1", "BR1", 1), ("2", None, 0), ("3", None, 0)]
    broken = small.statuses(
        "UPDATE shipments SET n = n + 1 WHERE number = :number",
        "UPDATE orders SET status = 'hoppla' WHERE number = :number",
    )
    assert [one.outcome for one in broken.write([wish("3")], in_time())] == [Outcome.FAILED]
    assert small.rows("number, n FROM shipments") == [("1", 1), ("2", 0), ("3", 0)]


def test_an_insert_where_there_is_none_yet(small: Small) -> None:
    """As the contract advises for MariaDB's rights: UPDATE, then INSERT ... WHERE NOT EXISTS."""
    small.add("1")
    with small.engine.begin() as connection:
        connection.execute(text("DELETE FROM shipments"))
    statuses = small.statuses(
        "UPDATE shipments SET code = :tracking_code WHERE number = :number",
        "INSERT INTO shipments (number, code) SELECT number, :tracking_code FROM orders "
        "WHERE number = :number AND NOT EXISTS (SELECT 1 FROM shipments s WHERE s.number = :number)",
        "UPDATE orders SET status = :status WHERE number = :number",
    )
    for code in ("BR1", "BR2"):
        assert statuses.write([wish("1", tracking_code=code)], in_time()) == [StatusOutcome(WRITTEN, "packing")]
        assert small.rows("number, code FROM shipments") == [("1", code)]


@pytest.mark.parametrize("status", ["INT", "DECIMAL(4,0)"])
def test_a_status_that_is_a_number(database_url: str, status: str) -> None:
    small = Small(database_url, status=status)
    small.add("1", status="2")
    statuses = small.statuses(allow_from=["2", "3"])
    assert statuses.write([wish("1", "3")], in_time()) == [StatusOutcome(WRITTEN, "3")]
    assert statuses.write([wish("1", "3", news=False)], in_time()) == [StatusOutcome(SAME, "3")]
    small.close()


def test_a_status_that_is_null_is_kept_unless_it_is_named(small: Small) -> None:
    small.add("1")
    with small.engine.begin() as connection:
        connection.execute(text("UPDATE orders SET status = NULL"))
    assert small.statuses().write([wish("1")], in_time()) == [StatusOutcome(Outcome.KEPT, "")]


@pytest.mark.parametrize(
    ("write", "find", "part"),
    [
        ("UPDATE nowhere SET status = :status WHERE number = :number", Small.FIND, "[status] write"),
        ("UPDATE orders SET nothing = :status WHERE number = :number", Small.FIND, "[status] write"),
        ("UPDATE orders SET status = :status WHER number = :number", Small.FIND, "[status] write"),
        (Small.WRITE[0], "SELECT status AS status FROM nowhere WHERE number = :number", "[status] find"),
    ],
)
def test_sql_that_cannot_be_run_names_the_profile_s_key(small: Small, write: str, find: str, part: str) -> None:
    small.add("1")
    with pytest.raises(Misconfigured) as raised:
        small.statuses(write, find=find).write([wish("1")], in_time())
    assert f"profile small: {part} cannot be run" in str(raised.value)
    assert small.shown() == {"1": "paid"}


def test_a_look_without_the_column_status_is_said(small: Small) -> None:
    small.add("1")
    with pytest.raises(Misconfigured, match=r"profile small: \[status\] find lacks the column status"):
        small.statuses(find="SELECT status AS state FROM orders WHERE number = :number").write([wish("1")], in_time())
    assert small.shown() == {"1": "paid"}


# Others write as well


@contextmanager
def session(url: str) -> Iterator[Cursor]:
    """Somebody else's, with autocommit."""
    address = make_url(url)
    assert address.port is not None
    connection = pymysql.connect(
        host="127.0.0.1", port=address.port, user="root", database=address.database, autocommit=True
    )
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


WAITING = (
    "SELECT p.id FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
    "ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()"
)


def waiting_for_a_lock(url: str) -> list[int]:
    """The sessions of a database that do."""
    # The server answers from a cache, which it renews only when nobody has asked for a tenth of a second.
    time.sleep(0.11)
    with session(url) as cursor:
        cursor.execute(WAITING)
        return [row[0] for row in cursor.fetchall()]


def until(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + 10
    while not true():
        assert time.monotonic() < give_up, "it never came to that"
        time.sleep(0.01)


TWO_STEPS = ("UPDATE shipments SET n = n + 1 WHERE number = :number", *Small.WRITE)
"""Somebody who holds the row of `shipments` stops this between its look and its write."""


@contextmanager
def stopped_in_between(small: Small, statuses: ShopStatuses, *wanted: StatusWrite) -> Iterator[Any]:
    """The writing, which has looked and not written yet; it goes on when the block ends."""
    with ThreadPoolExecutor(1) as pool, session(small.url) as holder:
        holder.execute("START TRANSACTION")
        holder.execute("UPDATE shipments SET n = n WHERE number = '1'")
        writing = pool.submit(statuses.write, wanted, in_time())
        until(lambda: waiting_for_a_lock(small.url) or writing.done())
        yield writing
        holder.execute("ROLLBACK")
        writing.exception(20)


@pytest.mark.parametrize(
    ("meanwhile", "outcome", "shown"),
    [
        ("refunded", StatusOutcome(Outcome.KEPT, "refunded"), "refunded"),
        ("shipped", StatusOutcome(WRITTEN, "shipped"), "shipped"),
        ("paid", StatusOutcome(WRITTEN, "packing"), "packing"),
        ("packing", StatusOutcome(WRITTEN, "packing"), "packing"),
    ],
)
def test_a_change_between_look_and_write_is_neither_lost_nor_hindered(
    small_on_mariadb: Small, meanwhile: str, outcome: StatusOutcome, shown: str
) -> None:
    small = small_on_mariadb
    small.add("1", "2")
    statuses = small.statuses(*TWO_STEPS, allow_from=["paid", "packing", "shipped"])
    with session(small.url) as somebody, stopped_in_between(small, statuses, wish("2"), wish("1")) as writing:
        somebody.execute("SET innodb_lock_wait_timeout = 1")
        somebody.execute(f"UPDATE orders SET status = '{meanwhile}' WHERE number = '1'")
    assert writing.result() == [StatusOutcome(WRITTEN, "packing"), outcome]
    assert small.shown() == {"1": shown, "2": "packing"}
    counted = {"1": 0 if outcome.outcome is Outcome.KEPT else 1, "2": 1}
    assert dict(small.rows("number, n FROM shipments")) == counted


def test_an_order_that_vanishes_between_look_and_write(small_on_mariadb: Small) -> None:
    small = small_on_mariadb
    small.add("1")
    statuses = small.statuses(*TWO_STEPS)
    with session(small.url) as somebody, stopped_in_between(small, statuses, wish("1")) as writing:
        somebody.execute("DELETE FROM orders")
    (said,) = writing.result()
    assert said.outcome in (Outcome.UNKNOWN, Outcome.FAILED)
    assert small.rows("number, n FROM shipments") == [("1", 0)]


def test_a_change_that_is_not_committed_yet_is_waited_for_and_respected(small_on_mariadb: Small) -> None:
    small = small_on_mariadb
    small.add("1")
    statuses = small.statuses()
    with ThreadPoolExecutor(1) as pool, session(small.url) as somebody:
        somebody.execute("START TRANSACTION")
        somebody.execute("UPDATE orders SET status = 'refunded' WHERE number = '1'")
        writing = pool.submit(statuses.write, [wish("1")], in_time())
        until(lambda: waiting_for_a_lock(small.url))
        somebody.execute("COMMIT")
        assert writing.result(10) == [StatusOutcome(Outcome.KEPT, "refunded")]
    assert small.shown() == {"1": "refunded"}


def test_a_change_after_the_write_waits_for_the_commit_and_is_not_lost(small_on_mariadb: Small) -> None:
    small = small_on_mariadb
    small.add("0", "1")
    statuses = small.statuses(*TWO_STEPS)
    with ThreadPoolExecutor(1) as pool, session(small.url) as somebody:
        somebody.execute("SET innodb_lock_wait_timeout = 10")
        # Order 0 is written, and its transaction stops at order 1.
        with stopped_in_between(small, statuses, wish("0"), wish("1")) as writing:
            later = pool.submit(somebody.execute, "UPDATE orders SET status = 'refunded' WHERE number = '0'")
            until(lambda: len(waiting_for_a_lock(small.url)) == 2)
            assert not later.done()
        assert later.result(10) == 1
        assert [one.outcome for one in writing.result()] == [WRITTEN, WRITTEN]
    assert small.shown() == {"0": "refunded", "1": "packing"}


def test_a_checkout_does_not_wait_for_us(demo_on_mariadb: Demo) -> None:
    """A look that locked the newest order would lock the gap behind it, where the next one's number belongs."""
    demo = demo_on_mariadb
    older, newest = demo.order(), demo.order()
    with ThreadPoolExecutor(1) as pool, demo.engine.connect() as other:
        held = _hold(other, newest)
        writing = pool.submit(demo.write, wish(older.number), wish(newest.number))
        until(lambda: waiting_for_a_lock(demo.url))
        started = time.monotonic()
        demo.shop.checkout()
        assert time.monotonic() - started < 1
        assert not writing.done()
        held()
        assert [one.outcome for one in writing.result(10)] == [WRITTEN, WRITTEN]


def test_two_writers_of_the_same_orders(small_on_mariadb: Small, caplog: pytest.LogCaptureFixture) -> None:
    small = small_on_mariadb
    numbers = [f"{number:03d}" for number in range(60)]
    small.add(*numbers)
    writers = [small.statuses(*TWO_STEPS, allow_from=["paid", "packing"]) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(writer.write, [wish(number) for number in order], in_time())
            for writer, order in zip(writers, (numbers, numbers[::-1]), strict=True)
        ]
        for writing in both:
            assert {one.outcome for one in writing.result(30)} == {WRITTEN}
    assert set(small.shown().values()) == {"packing"}
    assert {n for _, n in small.rows("number, n FROM shipments")} == {2}


def test_a_deadlock_is_tried_again_as_a_whole(small_on_mariadb: Small, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody takes two orders the other way round. Whoever is the victim: both changes are made in the end."""
    caplog.set_level(logging.INFO, "erp_sync")
    small = small_on_mariadb
    small.add("0", "1")
    statuses = small.statuses(*TWO_STEPS, allow_from=["paid", "packing"])
    with ThreadPoolExecutor(1) as pool, session(small.url) as somebody:
        somebody.execute("START TRANSACTION")
        # So much undo that the server rolls the other one back.
        somebody.execute("UPDATE orders SET note = 'x' WHERE number = '1'")
        somebody.execute("INSERT INTO shipments (number, n) SELECT seq + 1000, 0 FROM seq_1_to_500")
        writing = pool.submit(statuses.write, [wish("0"), wish("1")], in_time())
        until(lambda: waiting_for_a_lock(small.url))
        somebody.execute("UPDATE orders SET note = 'x' WHERE number = '0'")
        somebody.execute("COMMIT")
        assert [one.outcome for one in writing.result(10)] == [WRITTEN, WRITTEN]
    assert "once more" in caplog.text
    assert small.shown() == {"0": "packing", "1": "packing"}
    assert dict(small.rows("number, n FROM shipments WHERE number < '1000'")) == {"0": 1, "1": 1}


def test_a_lock_wait_that_times_out_is_tried_again(
    small_on_mariadb: Small, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "erp_sync")
    monkeypatch.setattr("erp_sync.shop.connection.LOCK_SECONDS", 1)
    small = small_on_mariadb
    small.add("1", "2")
    statuses = small.statuses(*TWO_STEPS)
    with stopped_in_between(small, statuses, wish("1"), wish("2")) as writing:
        until(lambda: "once more" in caplog.text)
    assert [one.outcome for one in writing.result()] == [WRITTEN, WRITTEN]
    assert dict(small.rows("number, n FROM shipments")) == {"1": 1, "2": 1}


def test_a_lock_that_is_never_released_is_given_up(small_on_mariadb: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erp_sync.shop.connection.LOCK_SECONDS", 1)
    monkeypatch.setattr("erp_sync.shop.writing.TRIES", 2)
    small = small_on_mariadb
    small.add("1")
    with stopped_in_between(small, small.statuses(*TWO_STEPS), wish("1")) as writing:
        assert isinstance(writing.exception(20), ShopUnavailable)
    assert small.shown() == {"1": "paid"}


def test_a_status_that_is_another_one_at_every_look_fails_its_own_order_alone(small_on_mariadb: Small) -> None:
    small = small_on_mariadb
    small.add("1", "2")
    jumpy = "CASE WHEN status = 'paid' AND number = '1' THEN CONCAT('paid', UUID_SHORT() % 2) ELSE status END"
    statuses = small.statuses(find=f"SELECT {jumpy} AS status FROM orders WHERE number = :number")
    said = statuses.write([wish("1", ours=["paid0", "paid1"]), wish("2")], in_time())
    assert [one.outcome for one in said] == [Outcome.FAILED, WRITTEN]
    assert "correct [status] find" in said[0].why
    assert small.shown() == {"1": "paid", "2": "packing"}


def test_a_write_that_hits_a_twin_in_the_same_call_blocks_nobody(small_on_mariadb: Small) -> None:
    """The collation takes both numbers for equal, the look does not; the author forgot it in the write alone."""
    small = small_on_mariadb
    small.add("a")
    with small.engine.begin() as connection:
        connection.execute(text("INSERT INTO orders (number, status) VALUES ('A', 'paid')"))
    statuses = small.statuses(find=f"{Small.FIND} AND HEX(number) = HEX(:number)", allow_from=["paid", "packing"])
    assert [one.outcome for one in statuses.write([wish("a"), wish("A")], in_time())] == [WRITTEN, WRITTEN]


# Connections break


def test_a_connection_that_is_killed_between_look_and_write_is_replaced(
    mariadb: MariaDB, small_on_mariadb: Small
) -> None:
    small = small_on_mariadb
    small.add("1", "2")
    statuses = small.statuses(*TWO_STEPS)
    with stopped_in_between(small, statuses, wish("1"), wish("2")) as writing:
        (ours,) = waiting_for_a_lock(small.url)
        mariadb.execute(f"KILL CONNECTION {ours}")
        until(lambda: set(waiting_for_a_lock(small.url)) - {ours})
    assert [one.outcome for one in writing.result()] == [WRITTEN, WRITTEN]
    assert dict(small.rows("number, n FROM shipments")) == {"1": 1, "2": 1}


def test_idle_connections_that_are_killed_are_replaced(mariadb: MariaDB, small_on_mariadb: Small) -> None:
    small = small_on_mariadb
    small.add("1")
    statuses = small.statuses(allow_from=["paid", "packing"])
    assert statuses.write([wish("1")], in_time()) == [StatusOutcome(WRITTEN, "packing")]
    small.engine.dispose()
    for which in (0, 1):
        with session(small.url) as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = DATABASE() ORDER BY id")
            *ids, _ = (row[0] for row in cursor.fetchall())
        assert len(ids) == 2, "the transaction's, and the one that looks from outside"
        mariadb.execute(f"KILL CONNECTION {ids[which]}")
        said = statuses.write([wish("1", tracking_code=f"BR{which}")], in_time())
        assert said == [StatusOutcome(WRITTEN, "packing")]
    assert small.rows() == [("1", "packing", "BR1")]


def test_no_transaction_is_left_open(mariadb: MariaDB, small_on_mariadb: Small) -> None:
    small = small_on_mariadb
    small.add("1", "2")
    statuses = small.statuses()
    statuses.write([wish("1"), wish("2", tracking_code="far too long for it"), wish("3")], in_time())
    with pytest.raises(ShopUnavailable):
        statuses.write([wish("1", "shipped", ours=["packing"])], time.monotonic() - 1)
    name = make_url(small.url).database
    left = "SELECT COUNT(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
    assert mariadb.value(f"{left} ON p.id = t.trx_mysql_thread_id WHERE p.db = '{name}'") == "0"


def test_a_server_that_restarts_between_look_and_write() -> None:
    with MariaDB() as server:
        small = Small(server.create_database())
        small.add("1", "2")
        statuses = small.statuses(*TWO_STEPS)
        with ThreadPoolExecutor(1) as pool:
            holder = pymysql.connect(unix_socket=str(server.socket), user="root", database=make_url(small.url).database)
            with holder.cursor() as cursor:
                cursor.execute("UPDATE shipments SET n = n + 9 WHERE number = '1'")
            writing = pool.submit(statuses.write, [wish("1"), wish("2")], in_time())
            until(lambda: waiting_for_a_lock(small.url))
            server.kill()
            with pytest.raises(ShopUnavailable, match="not available"):
                writing.result(20)
            started = time.monotonic()
            with pytest.raises(ShopUnavailable, match=f"127.0.0.1:{server.port} is not available"):
                statuses.write([wish("1")], in_time())
            assert time.monotonic() - started < 3
            server.start()
        small.engine.dispose()
        assert small.shown() == {"1": "paid", "2": "paid"}
        assert [one.outcome for one in statuses.write([wish("1"), wish("2")], in_time())] == [WRITTEN, WRITTEN]
        assert dict(small.rows("number, n FROM shipments")) == {"1": 1, "2": 1}
        server.restart()
        assert [one.outcome for one in statuses.write([wish("1", news=False)], in_time())] == [SAME]
        small.close()


@pytest.mark.parametrize("how", ["request", "reply"])
def test_a_commit_without_an_answer_is_looked_at_again(mariadb: MariaDB, small_on_mariadb: Small, how: str) -> None:
    small = small_on_mariadb
    small.add("1", "2", "3")
    with CuttingProxy(mariadb.port) as proxy:
        statuses = small.statuses(url=small.url.replace(f":{mariadb.port}/", f":{proxy.port}/"))
        proxy.cuts = [how]
        wanted = [wish("1", news=False), wish("2", tracking_code="BR2"), wish("4")]
        said = [one.outcome for one in statuses.write(wanted, in_time())]
        assert proxy.done == [how]
        assert said == [WRITTEN if how == "request" else SAME, WRITTEN, Outcome.UNKNOWN]
        assert small.rows() == [("1", "packing", None), ("2", "packing", "BR2"), ("3", "paid", None)]
        proxy.cuts = ["request", "request"]
        with pytest.raises(ShopUnavailable):
            statuses.write([wish("3")], in_time())
        assert small.shown()["3"] == "paid"


def test_several_threads_share_one(small: Small) -> None:
    numbers = [f"{number:02d}" for number in range(16)]
    small.add(*numbers)
    statuses = small.statuses()

    def write(number: str) -> Outcome:
        return statuses.write([wish(number)], in_time())[0].outcome

    threads = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write, numbers)) == {WRITTEN}
    assert set(small.shown().values()) == {"packing"}
    assert threading.active_count() <= threads


# Rights


def test_a_missing_right_names_the_statement(mariadb: MariaDB, small_on_mariadb: Small) -> None:
    small = small_on_mariadb
    small.add("1")
    name = make_url(small.url).database or ""
    mariadb.execute(
        "CREATE OR REPLACE USER writer@'127.0.0.1' IDENTIFIED BY 'topsecret'",
        f"GRANT SELECT ON {name}.orders TO writer@'127.0.0.1'",
    )
    url = mariadb.url(name, user="writer", password="topsecret")
    with pytest.raises(Misconfigured) as raised:
        small.statuses(url=url).write([wish("1")], in_time())
    assert "profile small: [status] write: the user 'writer' lacks a right" in str(raised.value)
    assert "topsecret" not in str(raised.value)
    assert small.shown() == {"1": "paid"}

    mariadb.execute(f"GRANT UPDATE (status, note) ON {name}.orders TO writer@'127.0.0.1'")
    assert small.statuses(url=url).write([wish("1")], in_time()) == [StatusOutcome(WRITTEN, "packing")]

    mariadb.execute(f"REVOKE ALL PRIVILEGES ON {name}.orders FROM writer@'127.0.0.1'")
    mariadb.execute(f"GRANT SELECT ON {name}.shipments TO writer@'127.0.0.1'")
    with pytest.raises(Misconfigured, match=r"\[status\] find: the user 'writer' lacks a right"):
        small.statuses(url=url).write([wish("1")], in_time())


def test_wrong_credentials_name_the_setting(mariadb: MariaDB, small_on_mariadb: Small) -> None:
    small = small_on_mariadb
    url = mariadb.url(make_url(small.url).database or "", user="nobody", password="topsecret")
    with pytest.raises(Misconfigured, match=r"ERP_SYNC_SHOP_URL.*refuses the user 'nobody'") as raised:
        small.statuses(url=url).write([wish("1")], in_time())
    assert "topsecret" not in str(raised.value)


# Sessions


def test_the_session_that_writes(mariadb: MariaDB, demo_on_mariadb: Demo) -> None:
    """Strict, in the shop's zone, and without locks on what it only reads."""
    engine = shop_engine(demo_on_mariadb.url, load_profile("laravel"), writes=True)
    with engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT @@sql_mode, @@time_zone, @@character_set_client, @@tx_isolation, @@tx_read_only, @@autocommit"
        ).one()
    engine.dispose()
    assert "STRICT_ALL_TABLES" in row[0]
    assert tuple(row[1:]) == ("-03:00", "utf8mb4", "READ-COMMITTED", 0, 1)


def test_a_timestamp_is_written_as_the_shop_s_wall_clock(mariadb: MariaDB) -> None:
    engine: Engine = create_engine(url := mariadb.create_database())
    create_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE orders MODIFY delivered_at TIMESTAMP NULL"))
    engine.dispose()
    demo = Demo(url)
    placed = demo.order()
    delivered = datetime(2026, 11, 26, 23, 30)  # noqa: DTZ001 - the shop's wall clock
    assert demo.outcomes(wish(placed.number, "delivered", delivered_at=delivered)) == [WRITTEN]
    with session(url) as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"SELECT delivered_at FROM orders WHERE id = {placed.order_id}")
        assert cursor.fetchone() == (datetime(2026, 11, 27, 2, 30),)  # noqa: DTZ001
    demo.close()


def test_sqlite_keeps_datetimes_as_laravel_writes_them(tmp_path: Any) -> None:
    demo = Demo(f"sqlite:///{tmp_path / 'shop.sqlite'}")
    placed = demo.order()
    demo.write(wish(placed.number, "delivered", delivered_at=datetime(2026, 11, 26, 14, 30)))  # noqa: DTZ001
    with demo.engine.connect() as connection:
        shown = connection.exec_driver_sql("SELECT delivered_at FROM orders WHERE delivered_at IS NOT NULL").scalar()
    assert shown == "2026-11-26 14:30:00"
    demo.close()
