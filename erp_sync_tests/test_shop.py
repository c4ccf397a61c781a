"""The shop behind its class, through the shipped profile, on SQLite and on a real MariaDB."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import Engine, create_engine, text

from erp_sync.errors import Misconfigured, ShopUnavailable
from erp_sync.models import Order, OrderHead, ShopState, UnreadableOrder
from erp_sync.sandbox.shop import BAD_KINDS, ODD_KINDS, DemoShop, catalogue, create_schema
from erp_sync.shop.database import Shop, open_shop
from erp_sync.shop.profile import Profile, ReadSection, load_profile


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
    return demo


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    shop = open_shop(database_url, load_profile("laravel"))
    yield shop
    shop.close()


def with_orders(profile: Profile, **sql: str) -> Profile:
    read = {"orders": profile.read.orders.sql, "lines": profile.read.lines.sql} | sql
    return profile.model_copy(update={"read": ReadSection.model_validate(read)})


def minutes_ago(shop: Shop, minutes: float) -> datetime:
    return shop.now() - timedelta(minutes=minutes)


def pages(shop: Shop, since: datetime, size: int) -> list[OrderHead]:
    heads: list[OrderHead] = []
    after = None
    while page := shop.recent(since, size, after):
        heads += page
        assert page[-1].changed_at is not None
        after = (page[-1].changed_at, page[-1].order_id)
    return heads


def one(shop: Shop, order_id: int) -> Order:
    (order,) = shop.fetch([str(order_id)])
    assert isinstance(order, Order), order
    return order


@pytest.mark.parametrize("kind", sorted(ODD_KINDS))
def test_odd_orders_are_read_to_the_cent(kind: str, demo: DemoShop, shop: Shop) -> None:
    placed = demo.place_odd_order(kind)
    order = one(shop, placed.order_id)
    assert (order.number, order.state) == (placed.number, ShopState.READY)
    assert (order.total, len(order.lines)) == (placed.total, placed.lines)
    goods = sum((line.quantity * (line.unit_price or Decimal(0)) for line in order.lines), Decimal(0))
    assert order.discount is not None
    assert order.tax is not None
    assert goods - order.discount + order.tax + order.freight == order.total


@pytest.mark.parametrize("kind", sorted(BAD_KINDS))
def test_bad_orders_never_stop_the_others(kind: str, demo: DemoShop, shop: Shop) -> None:
    before, bad, after = demo.checkout(), demo.place_bad_order(kind), demo.checkout()
    ids = [str(placed.order_id) for placed in (before, bad, after)]
    assert [order.order_id for order in shop.fetch(ids)] == ids
    assert set(ids) <= {head.order_id for head in shop.recent(minutes_ago(shop, 5), 100)}
    assert one(shop, after.order_id).total == after.total


def test_texts_come_through_unharmed(engine: Engine, demo: DemoShop, shop: Shop) -> None:
    placed = demo.place_odd_order("emoji_accents")
    with engine.connect() as connection:
        row = connection.execute(text("SELECT notes FROM orders WHERE id = :id"), {"id": placed.order_id}).one()
    assert one(shop, placed.order_id).notes == row.notes.strip()


def test_case_twins_stay_apart(demo: DemoShop, shop: Shop) -> None:
    skus = {line.sku for line in one(shop, demo.place_odd_order("case_twins").order_id).lines}
    assert len(skus) == 2
    assert len({sku.lower() for sku in skus}) == 1


def test_an_empty_shop(engine: Engine, shop: Shop) -> None:
    assert shop.recent(minutes_ago(shop, 5), 10) == []
    assert shop.sweep(None, 10) == []
    assert shop.sweep("1", 10) == []
    assert shop.fetch(["1", "abc"]) == []
    assert shop.heads_by_number(["LJ-1"]) == []


def test_recent_pages_join_up_although_all_changed_in_one_second(demo: DemoShop, shop: Shop) -> None:
    placed = demo.checkout_many(25)
    whole = shop.recent(minutes_ago(shop, 5), 100)
    assert [head.order_id for head in whole] == [str(order.order_id) for order in placed]
    assert pages(shop, minutes_ago(shop, 5), 4) == whole
    assert shop.recent(shop.now() + timedelta(minutes=5), 10) == []


def test_recent_pages_join_up_over_texts_of_several_forms(engine: Engine, demo: DemoShop, shop: Shop) -> None:
    """SQLite keeps what it is given: with and without a fraction, with a T."""
    if not shop.is_sqlite:
        pytest.skip("MariaDB keeps datetimes")
    placed = demo.checkout_many(9)
    with engine.begin() as connection:
        for order, fraction in zip(placed, ["", ".000000", ".5", ".123456", ".1239", ".999999"] * 2, strict=False):
            connection.execute(
                text("UPDATE orders SET updated_at = '2026-11-20 10:00:0' || :id || :fraction WHERE id = :order"),
                {"id": order.order_id % 2, "fraction": fraction, "order": order.order_id},
            )
    since = datetime(2026, 11, 20, 12, 59, tzinfo=UTC)
    whole = shop.recent(since, 100)
    assert len(whole) == 9
    for size in (1, 2, 4):
        assert [head.order_id for head in pages(shop, since, size)] == [head.order_id for head in whole]


def test_the_head_says_day_state_and_total(demo: DemoShop, shop: Shop) -> None:
    placed = demo.place_order()
    (head,) = shop.recent(minutes_ago(shop, 5), 10)
    assert (head.order_id, head.number, head.state) == (str(placed.order_id), placed.number, "waiting")
    assert Decimal(head.total) == placed.total
    assert head.ordered_at is not None
    assert head.business_day == head.ordered_at.astimezone(shop.business_timezone).date()
    assert abs(head.ordered_at - shop.now()) < timedelta(minutes=1)


def test_a_late_commit_with_an_old_date_is_seen_by_the_wider_nets(demo: DemoShop, shop: Shop) -> None:
    with demo.late_commit(600) as placed:
        pass
    assert shop.recent(minutes_ago(shop, 5), 10) == []
    assert [head.order_id for head in shop.recent(minutes_ago(shop, 60), 10)] == [str(placed.order_id)]
    assert [head.order_id for head in shop.sweep(None, 10)] == [str(placed.order_id)]


def test_the_sweep_counts_as_numbers_count_and_leaves_out_what_is_over(demo: DemoShop, shop: Shop) -> None:
    placed = demo.checkout_many(12)
    demo.cancel(placed[3])
    demo.change_order(placed[4], status="refunded")
    demo.change_order(placed[5], status="invented", updated_at=None, touch=False)
    heads: list[OrderHead] = []
    after = None
    while page := shop.sweep(after, 5):
        heads += page
        after = page[-1].order_id
    expected = [order.order_id for order in placed if order not in placed[3:5]]
    assert [int(head.order_id) for head in heads] == expected
    assert next(head for head in heads if head.order_id == str(placed[5].order_id)).state == "invented"


def test_numbers_match_to_the_letter(engine: Engine, demo: DemoShop, shop: Shop) -> None:
    upper, lower, accent = demo.checkout_many(3)
    for order, number in ((upper, "LJ-A"), (lower, "lj-a"), (accent, "LJ-Á")):
        demo.change_order(order, number=number)
    assert [head.order_id for head in shop.heads_by_number(["LJ-A"])] == [str(upper.order_id)]
    assert [head.number for head in shop.heads_by_number(["LJ-Á", "lj-a", "none"])] == ["lj-a", "LJ-Á"]


def test_hostile_ids_are_values(demo: DemoShop, shop: Shop) -> None:
    placed = demo.checkout()
    assert shop.fetch(["1 OR 1=1", "1'; DROP TABLE orders; --", "01", f"{placed.order_id}.0", "١"]) == []
    assert shop.heads_by_number(["' OR ''='", "%"]) == []
    assert one(shop, placed.order_id).number == placed.number


def test_a_fetch_keeps_the_order_asked_for_and_skips_the_missing(demo: DemoShop, shop: Shop) -> None:
    placed = [str(order.order_id) for order in demo.checkout_many(1100)]
    asked = [*reversed(placed), "999999", placed[0]]
    assert [order.order_id for order in shop.fetch(asked)] == [*reversed(placed)]


def test_header_and_lines_come_from_one_snapshot(engine: Engine, demo: DemoShop, shop: Shop) -> None:
    """A writer changes total and lines in one transaction: no read may see the one without the other."""
    placed = demo.place_odd_order("two_lines_one_sku")
    before = one(shop, placed.order_id)
    stop = threading.Event()

    def change() -> None:
        price = 1
        while not stop.is_set():
            price = price % 90 + 1
            with engine.begin() as connection:
                values = {"p": price, "id": placed.order_id}
                connection.execute(text("UPDATE order_items SET unit_price = :p WHERE order_id = :id"), values)
                connection.execute(text("UPDATE orders SET subtotal = :p WHERE id = :id"), values)

    writer = threading.Thread(target=change)
    writer.start()
    seen: set[Decimal | None] = set()
    try:
        give_up = time.monotonic() + 20
        while len(seen) < 30 and time.monotonic() < give_up:
            order = one(shop, placed.order_id)
            if order.goods_total != before.goods_total:
                assert {line.unit_price for line in order.lines} == {order.goods_total}
                seen.add(order.goods_total)
    finally:
        stop.set()
        writer.join()
    assert len(seen) >= 30, "the writer was hardly seen at work"


def test_nothing_can_be_written_through_the_shops_connections(engine: Engine, shop: Shop) -> None:
    from sqlalchemy.exc import DBAPIError

    with pytest.raises(DBAPIError, match=r"(?i)read.?only|readonly"), shop.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE orders SET total = 0")


def test_late_binding_of_since_and_order_ids(demo: DemoShop, shop: Shop, database_url: str) -> None:
    """A computed changed_at: the author narrows the rows himself."""
    placed = demo.checkout_many(5)
    orders = shop.profile.read.orders.sql.replace(
        "o.updated_at AS changed_at", "COALESCE(o.updated_at, '') AS changed_at"
    )
    lines = shop.profile.read.lines.sql + " WHERE i.order_id IN (:order_ids)"
    expected = [str(order.order_id) for order in placed]
    for where in (
        "WHERE (o.updated_at >= :since OR o.paid_at >= :since)",
        "WHERE o.updated_at >= :since OR o.id IN :order_ids",
        """WHERE o.id IN (SELECT x.id FROM orders x WHERE x.updated_at >= :since
                          UNION SELECT y.id FROM orders y WHERE y.id IN (:order_ids))""",
    ):
        profile = with_orders(shop.profile, orders=f"{orders} {where}", lines=lines)
        late = open_shop(database_url, profile)
        assert [head.order_id for head in late.recent(minutes_ago(late, 5), 10)] == expected
        assert late.recent(late.now() + timedelta(minutes=1), 10) == []
        assert [head.order_id for head in late.sweep(None, 10)] == expected
        orders_read = late.fetch(expected)
        assert [order.order_id for order in orders_read] == expected
        assert all(isinstance(order, Order) and order.lines for order in orders_read)
        late.close()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("o.updated_at AS changed_at", "o.updated_at AS changed", "[read] orders cannot be run"),
        ("FROM orders o", "FROM ordrs o", "[read] orders cannot be run"),
        ("SELECT o.id", "SELECT SELECT o.id", "[read] orders cannot be run"),
    ],
)
def test_a_profile_that_does_not_fit_says_so(
    engine: Engine, shop: Shop, database_url: str, old: str, new: str, says: str
) -> None:
    assert old in shop.profile.read.orders.sql
    wrong = open_shop(database_url, with_orders(shop.profile, orders=shop.profile.read.orders.sql.replace(old, new, 1)))
    with pytest.raises(Misconfigured) as error:
        wrong.recent(minutes_ago(wrong, 5), 10)
    assert says in str(error.value)
    assert "profile laravel" in str(error.value)
    wrong.close()


def test_a_missing_column_of_the_lines_is_named(demo: DemoShop, shop: Shop, database_url: str) -> None:
    placed = demo.checkout()
    lines = shop.profile.read.lines.sql.replace("i.sku AS sku", "i.sku AS code")
    wrong = open_shop(database_url, with_orders(shop.profile, lines=lines))
    with pytest.raises(Misconfigured, match=r"\[read\] lines lacks the column sku"):
        wrong.fetch([str(placed.order_id)])
    wrong.close()


def test_a_join_that_fans_out_makes_the_order_unreadable(demo: DemoShop, shop: Shop, database_url: str) -> None:
    placed = demo.place_odd_order("two_lines_one_sku")
    orders = shop.profile.read.orders.sql + " JOIN order_items fan ON fan.order_id = o.id"
    wrong = open_shop(database_url, with_orders(shop.profile, orders=orders))
    (order,) = wrong.fetch([str(placed.order_id)])
    assert isinstance(order, UnreadableOrder)
    assert order.problems[0].field == "order_id"
    wrong.close()


def test_text_keys(engine: Engine, database_url: str, demo: DemoShop, shop: Shop) -> None:
    """CHAR(36) keys and whatever else: as texts all the way."""
    placed = demo.checkout_many(12)
    cast = "CAST(o.id AS CHAR)" if not shop.is_sqlite else "CAST(o.id AS TEXT)"
    line_cast = cast.replace("o.id", "i.order_id")
    profile = with_orders(
        shop.profile,
        orders=shop.profile.read.orders.sql.replace("o.id AS order_id", f"{cast} AS order_id"),
        lines=shop.profile.read.lines.sql.replace("i.order_id AS order_id", f"{line_cast} AS order_id"),
    )
    other = open_shop(database_url, profile)
    keys = sorted(str(order.order_id) for order in placed)
    assert [head.order_id for head in other.sweep(None, 5)] == keys[:5]
    assert [head.order_id for head in other.sweep(keys[4], 50)] == keys[5:]
    assert [order.order_id for order in other.fetch(keys)] == keys
    other.close()


def test_no_database_there(tmp_path: object) -> None:
    profile = load_profile("laravel")
    with pytest.raises(Misconfigured, match="there is no SQLite file"):
        open_shop("sqlite:////nowhere/shop.sqlite", profile).recent(datetime.now(UTC), 1)
    with pytest.raises(ShopUnavailable, match=r"127\.0\.0\.1:1 is not available"):
        open_shop("mysql+pymysql://u:secret@127.0.0.1:1/shop", profile).now()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("not a url", "is no SQLAlchemy URL"),
        ("postgresql://u:secret@h/shop", "only mysql"),
        ("mysql+pymysql://u:secret@h", "names no database"),
        ("mysql+pymysql://u:secret@h:port/shop", "is no SQLAlchemy URL"),
        ("mysql+pymysql://u:x@secret@h/shop", "more than one @"),
        ("mysql+pymysql://u:secret@h/shop?ssl_ca=/nowhere.pem", "/nowhere.pem"),
        ("mysql+pymysql://u:secret@h/shop?ssl_verify_cert=true", "ssl_verify_cert"),
        ("mysql+pymysql://u:secret@h/shop?ssl=0", "ssl=0"),
        ("mysql+pymysql://u:secret@h/shop?ssl=false&ssl_ca=/nowhere.pem", "ssl=false beside"),
    ],
)
def test_a_wrong_url_is_one_line_without_the_password(url: str, says: str) -> None:
    with pytest.raises(Misconfigured) as error:
        open_shop(url, load_profile("laravel"))
    assert says in str(error.value)
    assert "ERP_SYNC_SHOP_URL" in str(error.value)
    assert "secret" not in str(error.value)
