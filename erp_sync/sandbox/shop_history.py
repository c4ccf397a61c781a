"""Years of orders for the demo shop in minutes: set-based, nothing passes through Python."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Engine, text

CHUNK = 100_000
"""Orders to a transaction."""

_NUMBERS = "SELECT 10000 * e.d + 1000 * f.d + 100 * g.d + 10 * h.d + i.d AS n FROM " + ", ".join(
    f"(SELECT 0 AS d {' '.join(f'UNION ALL SELECT {digit}' for digit in range(1, 10))}) {name}" for name in "efghi"
)
"""0 to CHUNK - 1. Digits, because neither MySQL nor SQLite has MariaDB's sequences."""

# One or two lines to an order, by the evenness of n; the second line never repeats the first's SKU.
_ORDERS = """
INSERT INTO orders (id, number, status, customer_id, billing_address_id, currency, subtotal, discount, shipping_cost,
                    tax, total, payment_method, shipping_method, placed_at, paid_at, created_at, updated_at)
SELECT :last_id + 1 + k.n, {number}, :status, c.id, c.address_id, 'BRL',
       ROUND(k.q1 * p1.price + k.q2 * p2.price, 2), 0, 19.90, 0,
       ROUND(k.q1 * p1.price + k.q2 * p2.price + 19.90, 2),
       CASE k.m % 3 WHEN 0 THEN 'pix' WHEN 1 THEN 'card' ELSE 'boleto' END, 'sedex', {at}, {at}, {at}, {at}
FROM ({keys}) k
JOIN ({products}) p1 ON p1.place = k.p1
JOIN ({products}) p2 ON p2.place = k.p2
JOIN (SELECT c.id, MIN(a.id) AS address_id, ROW_NUMBER() OVER (ORDER BY c.id) - 1 AS place
      FROM customers c JOIN addresses a ON a.customer_id = c.id GROUP BY c.id) c ON c.place = k.m % :customers
"""
_ITEMS = """
INSERT INTO order_items (order_id, product_id, sku, name, quantity, unit_price, discount, created_at, updated_at)
SELECT :last_id + 1 + k.n, p.id, p.sku, p.name, k.{quantity}, p.price, 0, {at}, {at}
FROM ({keys}) k JOIN ({products}) p ON p.place = k.{place}
WHERE k.{quantity} > 0
"""
_KEYS = f"""
SELECT n, n + :done AS m, 1 + n % 3 AS q1, 2 * (n % 2) AS q2,
       (n + :done) * 7 % :products AS p1, ((n + :done) * 7 + 1) % :products AS p2
FROM ({_NUMBERS}) numbers WHERE n < :chunk
"""
_PRODUCTS = "SELECT id, sku, name, price, ROW_NUMBER() OVER (ORDER BY id) - 1 AS place FROM products"


def add_history(engine: Engine, count: int, *, since: datetime, until: datetime, status: str = "delivered") -> None:
    """`count` sound orders of the customers and products that are there, spread evenly from `since` to `until`.

    Both are the shop's wall clock (naive), and all four dates of an order are the same. Numbers are made from ids as
    everywhere in this shop. The stock is not touched. Nobody else may write meanwhile; with 5 million orders that is
    several minutes on MariaDB.
    """
    sqlite = engine.dialect.name == "sqlite"
    step = f"k.m * {int((until - since).total_seconds())} / {count}"
    parts = {
        "keys": _KEYS,
        "products": _PRODUCTS,
        "at": f"datetime(:since, '+' || ({step}) || ' seconds')"
        if sqlite
        else f"DATE_ADD(:since, INTERVAL FLOOR({step}) SECOND)",
        "number": "'LJ-' || (100001 + :last_id + k.n)" if sqlite else "CONCAT('LJ-', 100001 + :last_id + k.n)",
    }
    with engine.connect() as connection:
        customers, products = _count(connection, "customers"), _count(connection, "products")
    if not customers or products < 2:
        raise LookupError("history needs customers and at least 2 products: call add_customers and stock_catalogue")
    for done in range(0, count, CHUNK):
        with engine.begin() as connection:
            if not sqlite:  # the rows are consistent by construction; checking each costs half of the time
                connection.execute(text("SET SESSION foreign_key_checks = 0"))
            given = {
                "done": done,
                "chunk": min(CHUNK, count - done),
                "last_id": connection.scalar(text("SELECT COALESCE(MAX(id), 0) FROM orders")),
                "customers": customers,
                "products": products,
                "status": status,
                "since": since.strftime("%Y-%m-%d %H:%M:%S"),
            }
            for statement in (
                _ORDERS.format(**parts),
                _ITEMS.format(**parts, quantity="q1", place="p1"),
                _ITEMS.format(**parts, quantity="q2", place="p2"),
            ):
                connection.execute(text(statement), given)
            if not sqlite:
                connection.execute(text("SET SESSION foreign_key_checks = 1"))


def _count(connection: Connection, table: str) -> int:
    return int(connection.scalar(text(f"SELECT COUNT(*) FROM {table}")) or 0)
