"""Whether a profile fits its shop: what a person should know before orders go through it. Changes nothing: what is
written is rolled back.

Contract: contracts/shop-profile.md, "Checking a profile", but for writing stock. No finding holds data of a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from pymysql.constants import FIELD_TYPE
from sqlalchemy import Connection

from erp_sync.database_server import encryption
from erp_sync.database_url import is_local
from erp_sync.errors import Misconfigured, ShopUnavailable
from erp_sync.models import Finding, Order, ShopState, UnreadableOrder
from erp_sync.scrub import excerpt
from erp_sync.shop.connection import is_verified
from erp_sync.shop.database import BY_NUMBER, HEAD, LINES, ORDERS, Query, Shop
from erp_sync.shop.indexes import missing_index
from erp_sync.shop.rights import check_grants
from erp_sync.shop.rows import (
    OPTIONAL_OF_LINES,
    OPTIONAL_OF_ORDERS,
    REQUIRED_OF_LINES,
    REQUIRED_OF_ORDERS,
    Row,
    key_text,
    plain,
)
from erp_sync.shop.statuses import Outcome, ShopStatuses

FULL_SCAN_ROWS = 100_000
"""A full scan of a table that is larger makes every look a burden on the shop."""
CLOCK_AHEAD = timedelta(minutes=10)
SAMPLED_SKUS = 50

_CANONICAL = {ORDERS: (REQUIRED_OF_ORDERS, OPTIONAL_OF_ORDERS), LINES: (REQUIRED_OF_LINES, OPTIONAL_OF_LINES)}
_MONEY = {"total", "goods_total", "discount", "freight", "tax", "unit_price", "line_total", "quantity"}


def check_profile(
    shop: Shop, statuses: ShopStatuses | None = None, *, sample: int = 200, besides: str = ""
) -> list[Finding]:
    """Everything that can be said about this shop, from its last `sample` orders. With `statuses`, each status of the
    map is written to the newest order in a transaction that is rolled back; without, everything is only read.
    `besides`: a database of the same server in which the user may do as it likes.

    Raises ShopUnavailable when the database cannot be asked, Misconfigured when it refuses the login: then there is
    nothing to check. What is wrong with the profile itself is a finding.
    """
    shop.now()
    findings = [*_columns(shop, ORDERS), *_columns(shop, LINES)]
    if any(finding.level == "error" for finding in findings):
        return [*findings, *check_grants_of(shop, besides)]
    looks: Sequence[Callable[[], Iterator[Finding]]] = (
        lambda: _rows(shop, sample),
        lambda: _plans(shop),
        lambda: _rehearsal(shop, statuses),
        lambda: _encryption(shop),
    )
    for look in looks:
        try:
            findings += look()
        except (Misconfigured, ShopUnavailable) as error:
            findings.append(Finding("error", "profile", str(error), "correct it and check again"))
    return [*findings, *check_grants_of(shop, besides)]


def check_grants_of(shop: Shop, besides: str = "") -> list[Finding]:
    return [Finding(level, "grants", message, advice) for level, message, advice in check_grants(shop, besides)]


def _columns(shop: Shop, part: str) -> Iterator[Finding]:
    source = shop.profile.read.orders if part == ORDERS else shop.profile.read.lines
    query = shop.query(part, f"SELECT * FROM (\n{source.sql}\n) q LIMIT 0")  # noqa: S608 - the profile is SQL
    try:
        columns = shop.read(lambda connection: _described(shop, connection, query))
    except (Misconfigured, ShopUnavailable) as error:
        yield Finding("error", part, str(error), "correct this SELECT: it must run by itself")
        return
    missing = [name for name in _CANONICAL[part][0] if name not in columns]
    if part == LINES and not {"unit_price", "line_total"} & columns.keys():
        missing.append("unit_price (or line_total)")
    for name in missing:
        yield Finding("error", part, f"the column {name} is missing", f"add it to the SELECT: ... AS {name.split()[0]}")
    known = {*_CANONICAL[part][0], *_CANONICAL[part][1]}
    for name in sorted(columns.keys() - known):
        yield Finding("warning", part, f"the column {name} is not known and is ignored", "correct its name or drop it")
    if not shop.is_sqlite:
        for name in sorted(_MONEY & columns.keys()):
            if columns[name] in (FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE):
                advice = f"write CAST(... AS DECIMAL(15,4)) AS {name}, or better, change the column's type"
                yield Finding("error", part, f"{name} is a binary float, which loses cents", advice)
    if not missing:
        yield Finding("ok", part, f"one SELECT with all required columns, {len(columns)} in all")


def _described(shop: Shop, connection: Connection, query: Query) -> dict[str, object]:
    """Column = the driver's code of its type; None on SQLite, whose columns have none."""
    result = shop.execute(connection, query)
    description = result.cursor.description if result.cursor else ()
    columns = {column[0]: column[1] for column in description}
    result.close()
    return columns


def _rows(shop: Shop, sample: int) -> Iterator[Finding]:
    orders = shop.profile.read.orders.sql
    newest = shop.query(ORDERS, f"{HEAD} FROM (\n{orders}\n) q ORDER BY q.order_id DESC LIMIT :count")
    rows = shop.read(lambda connection: shop.rows(connection, newest, count=sample))
    if not rows:
        yield Finding("warning", ORDERS, "yields no order: nothing could be checked", "check again with orders there")
        return
    yield from _unique(rows)
    yield from _states(rows)
    yield from _clock(shop, rows)
    ready = [key_text(row["order_id"]) for row in rows if row["state"] == ShopState.READY]
    yield from _totals(shop, shop.fetch(list(dict.fromkeys(ready))))


def _unique(rows: Sequence[Row]) -> Iterator[Finding]:
    keys = [key_text(row["order_id"]) for row in rows]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        message = f"order_id {twice[0]} comes {keys.count(twice[0])} times, {len(twice)} orders more than once"
        yield Finding("error", ORDERS, message, "a join multiplies the rows: join one row only, or use a sub-select")
    else:
        yield Finding("ok", ORDERS, f"order_id is unique among the last {len(keys)}")
    numbers = [plain(row["number"]) for row in rows]
    if not twice and len(set(numbers)) < len(numbers):
        message = "number is not unique: " + next(number for number in numbers if numbers.count(number) > 1)
        yield Finding("warning", ORDERS, message, "only the first order of a number is sent: correct the others")


def _states(rows: Sequence[Row]) -> Iterator[Finding]:
    known = {str(state) for state in ShopState}
    for state in sorted({plain(row["state"]) for row in rows} - known):
        advice = "let the CASE yield ready, waiting, cancelled or closed for it"
        yield Finding("error", ORDERS, f"state yields {excerpt(state, 40)!r}", advice)
    if not any(row["state"] == ShopState.READY for row in rows):
        message = f"none of the last {len(rows)} orders is ready, so totals could not be checked"
        yield Finding("warning", ORDERS, message, "make sure that the CASE of state yields ready for a finalized order")


def _clock(shop: Shop, rows: Sequence[Row]) -> Iterator[Finding]:
    changes = [head.changed_at for head in map(shop.head, rows)]
    if None in changes:
        message = f"changed_at is empty or no date in {changes.count(None)} of {len(changes)} orders"
        yield Finding("warning", ORDERS, message, "such orders are found by the nightly sweep only: fill the column")
    latest = max((change for change in changes if change is not None), default=None)
    now = shop.now()
    if latest is not None and latest > now + CLOCK_AHEAD:
        message = f"the latest changed_at ({latest.isoformat()}) is ahead of the database's clock ({now.isoformat()})"
        advice = "app_timezone is not the zone that the shop writes, or session_timezone not the one it writes through"
        yield Finding("error", "[shop] app_timezone", message, advice)


def _totals(shop: Shop, orders: Sequence[Order | UnreadableOrder]) -> Iterator[Finding]:
    unreadable = [order for order in orders if isinstance(order, UnreadableOrder)]
    for order in unreadable[:5]:
        message = f"order {order.number or order.order_id} cannot be read: {order.problems[0]}"
        yield Finding("error", "[read]", message, order.problems[0].advice)
    readable = [order for order in orders if isinstance(order, Order)]
    wrong = [(order, difference) for order in readable if (difference := _difference(order))]
    if wrong:
        first, difference = wrong[0]
        message = (
            f"totals do not add up in {len(wrong)} of {len(readable)} ready orders; {first.number}: "
            f"total {first.total}, its parts differ by {difference}"
        )
        advice = "total = sum(quantity x unit_price) - discount + tax + freight: find the part that the SELECTs miss"
        yield Finding("error", "[read]", message, advice)
    elif readable:
        yield Finding("ok", "[read]", f"the totals of the last {len(readable)} ready orders add up")
    bare = [order.number for order in readable if not order.lines]
    if bare:
        yield Finding("warning", LINES, f"{len(bare)} ready orders have no line, {bare[0]} is one", "such are not sent")
    yield from _skus(shop, readable)


def _difference(order: Order) -> Decimal:
    goods, discounts, taxes = Decimal(0), Decimal(0), Decimal(0)
    for line in order.lines:
        goods += line.line_total if line.line_total is not None else line.quantity * (line.unit_price or Decimal(0))
        discounts += line.discount
        taxes += line.tax
    discount = order.discount if order.discount is not None else discounts
    tax = order.tax if order.tax is not None else taxes
    return order.total - (goods - discount + tax + order.freight).quantize(order.total)


def _skus(shop: Shop, orders: Sequence[Order]) -> Iterator[Finding]:
    """Each sampled SKU is exactly one row of what `[stock] find` searches."""
    stock = shop.profile.stock
    skus = sorted({line.sku for order in orders for line in order.lines if line.sku})[:SAMPLED_SKUS]
    if stock is None or not skus:
        return
    query = shop.query("[stock] find", stock.find.sql)
    warehouse = next(iter(stock.warehouses.values()), "")
    bad = 0
    for sku in skus:
        found = shop.read(lambda connection, sku=sku: shop.rows(connection, query, sku=sku, warehouse=warehouse))  # type: ignore[misc]
        if len(found) > 1:
            bad += 1
            advice = "compare to the letter: sku = :sku AND HEX(sku) = HEX(:sku)"
            yield Finding("error", "[stock] find", f"the SKU {sku} is found {len(found)} times", advice)
        elif not found:
            bad += 1
            yield Finding(
                "warning", "[stock] find", f"the SKU {sku} of an order is not found", "compare the two columns"
            )
        elif "quantity" not in found[0]:
            yield Finding("error", "[stock] find", "the column quantity is missing", "write ... AS quantity")
            return
    if not bad:
        yield Finding("ok", "[stock] find", f"{len(skus)} sampled SKUs are found exactly once each")
    if stock.skus is not None:
        listed = shop.query("[stock] skus", f"SELECT * FROM (\n{stock.skus.sql}\n) q LIMIT 1")  # noqa: S608
        rows = shop.read(lambda connection: shop.rows(connection, listed))
        if rows and "sku" not in rows[0]:
            yield Finding("error", "[stock] skus", "the column sku is missing", "write ... AS sku")


def _plans(shop: Shop) -> Iterator[Finding]:
    told: set[tuple[str, str, str]] = set()
    for plan in shop.plans(datetime.now(UTC) - timedelta(minutes=5)):
        bad = [scan for row in plan.rows if (scan := _sqlite_scan(row) if shop.is_sqlite else _full_scan(row))]
        for table, rows in bad:
            cause = (plan.part, plan.wanted, table)
            if cause in told:
                continue
            told.add(cause)
            size = f" of about {rows} rows" if rows else ""
            index = missing_index(plan.statement, table.partition(" ")[0], plan.wanted)
            # A look by number is rare, and made one at a time: a burden only with webhooks that name numbers.
            is_burden = rows > FULL_SCAN_ROWS and plan.wanted != BY_NUMBER
            yield Finding(
                "error" if is_burden else "warning",
                plan.part,
                f"the {plan.what} reads {table} from end to end{size}",
                f"ask the shop's owner for an index: {index}"
                if index
                else "changed_at, order_id, number must be bare, indexed columns; no GROUP BY; joins over indexed ones",
            )
        if not bad:
            yield Finding("ok", plan.part, f"the {plan.what} uses indexes")


def _rehearsal(shop: Shop, statuses: ShopStatuses | None) -> Iterator[Finding]:
    if statuses is None:
        return
    newest = shop.query(ORDERS, f"{HEAD} FROM (\n{shop.profile.read.orders.sql}\n) q ORDER BY q.order_id DESC LIMIT 1")
    row = shop.read(lambda connection: shop.rows(connection, newest))
    if not row:
        return  # that there is no order was said before
    number = shop.head(row[0]).number
    bad = False
    for value, outcome in statuses.rehearse(number).items():
        if outcome.outcome is Outcome.UNKNOWN:
            yield Finding("error", "[status] find", f"finds no order {number}", "compare it with [read] orders.number")
            return
        if outcome.outcome is Outcome.AMBIGUOUS:
            yield Finding("error", "[status] find", f"finds order {number} more than once", "compare to the letter")
            return
        if outcome.outcome is Outcome.FAILED:
            bad = True
            yield Finding("error", "[status] write", f"status {value!r} cannot be written: {outcome.why}", "correct it")
    if not bad:
        yield Finding("ok", "[status] write", f"every status of the map could be written to {number} (rolled back)")


def _full_scan(row: Row) -> tuple[str, int] | None:
    """A table that is read whole. For a handful of rows the optimizer may prefer that, though it has an index."""
    rows = int(row["rows"] or 0)
    whole = row["type"] == "ALL" or (row["type"] == "index" and rows > FULL_SCAN_ROWS)
    if not whole or (row["possible_keys"] and rows <= 1000):
        return None
    return str(row["table"]), rows


def _sqlite_scan(row: Row) -> tuple[str, int] | None:
    detail = str(row["detail"])
    if not detail.startswith("SCAN ") or "CONSTANT ROW" in detail or "json_each" in detail or "INDEX" in detail:
        return None
    return detail.removeprefix("SCAN "), 0


def _encryption(shop: Shop) -> Iterator[Finding]:
    if shop.is_sqlite:
        return
    shown = shop.read(lambda connection: connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_%%'").all())
    status = {str(row[0]): str(row[1]) for row in shown}
    yield encryption(
        "ERP_SYNC_SHOP_URL",
        status.get("Ssl_version", ""),
        status.get("Ssl_cipher", ""),
        is_local=is_local(shop.engine.url),
        is_verified=is_verified(shop.engine),
    )
