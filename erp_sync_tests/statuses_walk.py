"""The life of orders at random: ERP users, the shop's people and passes of the flow come in any order, and whatever can
go wrong goes wrong in between. When all is quiet again, each order is as the ERP's own tables have it, or it says why
it is not.

A walk is a list of steps drawn from a seed. Each step has dice of its own, so that a walk that ends badly can be cut
down to the steps that matter: the failure shows those.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from erp_sync.demo import Stage, environment, stage
from erp_sync.erp.client import ErpClient
from erp_sync.erp.statuses import ErpStatuses
from erp_sync.errors import ErpUnavailable, LedgerUnavailable, ShopUnavailable
from erp_sync.ledger import tables
from erp_sync.ledger.gate import LedgerGate
from erp_sync.ledger.ledger import open_ledger
from erp_sync.ledger.status_entry import StatusEntry, StatusEvent
from erp_sync.models import Cancellation, OrderStatus
from erp_sync.sandbox.background import AdminRefusal
from erp_sync.sandbox.config import Fault, FaultKind
from erp_sync.sandbox.shop import DemoShop, PlacedOrder
from erp_sync.sandbox.shop_schema import orders
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.problems import CANCELLATION, SHOP_STATUS, problem_of
from erp_sync.sync.sending import SEND_WINDOW
from erp_sync.sync.statuses import StatusesFlow
from erp_sync_tests.crash import CANCEL, STATUS_READS, STATUS_WRITES, Mortal

CONFIG = """\
[erp]
settle_seconds = 0.2
connect_timeout = 2
read_timeout = 0.5
write_timeout = 0.2
max_parallel_writes = 1
[orders]
start_day = {start_day}
carriers = {{ sedex = "000001", pac = "000002", transportadora = "000003" }}
[statuses]
delivered_from = "f2_dtentr"
young_days = 365
grace_days = 60
"""
WORDS = {
    OrderStatus.OPEN: "paid",
    OrderStatus.BLOCKED_RULE: "rule_block",
    OrderStatus.BLOCKED_BUDGET: "budget_block",
    OrderStatus.BLOCKED_CREDIT: "credit_block",
    OrderStatus.REJECTED_CREDIT: "credit_refused",
    OrderStatus.BLOCKED_STOCK: "no_stock",
    OrderStatus.RELEASED: "packing",
    OrderStatus.PARTIALLY_INVOICED: "partly_invoiced",
    OrderStatus.INVOICED_SHORT: "invoiced_short",
    OrderStatus.INVOICED: "invoiced",
    OrderStatus.DELIVERED: "delivered",
    OrderStatus.CANCELLED: "cancelled",
    OrderStatus.DELETED: "cancelled",
}
"""A word of the shop for each status, so that none hides behind another one."""
LIFE = ("paid", "packing", "shipped")
"""The profile's `allow_from`."""
FOREIGN = "in_dispute"
LOG = "status_log"
"""Every change of a status in the shop, by whomever; a trigger writes it."""


def write_profile(folder: Path) -> Path:
    """The shipped profile, with all WORDS."""
    shipped = resources.files("erp_sync.shop").joinpath("profiles", "laravel.toml").read_text(encoding="utf-8")
    ready = "".join(f"WHEN '{word}' THEN 'ready'\n" for word in sorted({*WORDS.values()} - {*LIFE, "cancelled"}))
    shipped = shipped.replace("WHEN 'paid' THEN 'ready'", f"WHEN 'paid' THEN 'ready'\n{ready}")
    head, _, rest = shipped.partition("[status.map]")
    words = "".join(f'{status} = "{word}"\n' for status, word in WORDS.items())
    profile = folder / "shop.toml"
    profile.write_text(f"{head}[status.map]\n{words}{rest[rest.index('[stock]') :]}", encoding="utf-8")
    return profile


def log_statuses(shop: sa.Engine) -> None:
    """From now on every change of a status is in LOG."""
    key = "INTEGER PRIMARY KEY AUTOINCREMENT" if shop.dialect.name == "sqlite" else "INT PRIMARY KEY AUTO_INCREMENT"
    columns = f"seq {key}, order_id BIGINT, was VARCHAR(20), is_now VARCHAR(20)"
    insert = f"INSERT INTO {LOG} (order_id, was, is_now) SELECT NEW.id, OLD.status, NEW.status"
    body = (
        f"BEGIN {insert} WHERE OLD.status <> NEW.status; END"
        if shop.dialect.name == "sqlite"
        else f"FOR EACH ROW {insert} FROM DUAL WHERE OLD.status <> NEW.status"
    )
    with shop.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {LOG} ({columns})")
        connection.exec_driver_sql(f"CREATE TRIGGER log_status AFTER UPDATE ON orders {body}")


class ErpTables:
    """The sandbox's own database, read and put back behind its back."""

    _LIFE = ("SC5", "SC6", "SC9", "SD2", "SF2", "GW1", "GWU", "deleted_with_order")

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None, timeout=10, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._kept: dict[str, list[tuple[Any, ...]]] = {}

    def close(self) -> None:
        self._db.close()

    def keep(self) -> None:
        self._kept = {alias: list(map(tuple, self._db.execute(f"SELECT * FROM {alias}"))) for alias in self._LIFE}

    def rewind(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for alias, rows in self._kept.items():
            self._db.execute(f"DELETE FROM {alias}")
            if rows:
                self._db.executemany(f"INSERT INTO {alias} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        self._db.execute("COMMIT")

    def last(self, log: str) -> int:
        """The last seq of `journal` or `arrival`."""
        return int(self._db.execute(f"SELECT coalesce(max(seq), 0) FROM {log}").fetchone()[0])

    def rows(self, alias: str, **equal: str) -> list[sqlite3.Row]:
        condition = "".join(f" AND {name} = ?" for name in equal)
        sql = f"SELECT * FROM {alias} WHERE D_E_L_E_T_ = ''{condition} ORDER BY R_E_C_N_O_"
        return self._db.execute(sql, tuple(equal.values())).fetchall()

    def status(self, number: str) -> OrderStatus:
        """Of an order that was created: contracts/protheus-rest.md, 6.4, word by word and first match wins; then
        delivered."""
        headers = self.rows("SC5", C5_NUM=number)
        if not headers:
            return OrderStatus.DELETED
        [header] = headers
        items = self.rows("SC6", C6_NUM=number)
        lines = self.rows("SD2", D2_PEDIDO=number)
        releases = self.rows("SC9", C9_PEDIDO=number)
        nine_x = header["C5_NOTA"] == "XXXXXXXXX"
        invoiced = [item for item in items if item["C6_QTDENT"] > 0]
        open_ = [item for item in items if item["C6_QTDENT"] < item["C6_QTDVEN"]]
        residue = open_ != [] and all(item["C6_BLQ"].strip() == "R" for item in open_)
        if (residue and not invoiced) or (nine_x and not lines):
            return OrderStatus.CANCELLED
        closed = header["C5_LIBEROK"] == "E" or not open_
        if (nine_x or residue) and invoiced:
            return self._delivered(lines) or OrderStatus.INVOICED_SHORT
        if closed:
            return self._delivered(lines) or OrderStatus.INVOICED
        if invoiced:
            return OrderStatus.PARTIALLY_INVOICED
        if header["C5_BLQ"]:
            return OrderStatus.BLOCKED_BUDGET if header["C5_BLQ"] == "2" else OrderStatus.BLOCKED_RULE
        credit = {release["C9_BLCRED"] for release in releases} - {"", "10"}
        if credit:
            return OrderStatus.REJECTED_CREDIT if "09" in credit else OrderStatus.BLOCKED_CREDIT
        if {release["C9_BLEST"] for release in releases if release["C9_BLCRED"] == ""} - {"", "10"}:
            return OrderStatus.BLOCKED_STOCK
        return OrderStatus.RELEASED if header["C5_LIBEROK"] and not header["C5_NOTA"] else OrderStatus.OPEN

    def _delivered(self, lines: Sequence[sqlite3.Row]) -> OrderStatus | None:
        documents = {(line["D2_DOC"], line["D2_SERIE"]) for line in lines}
        headers = [self.rows("SF2", F2_DOC=doc, F2_SERIE=series)[0] for doc, series in documents]
        return OrderStatus.DELIVERED if headers and all(row["F2_DTENTR"] for row in headers) else None

    def last_invoice(self, number: str) -> sqlite3.Row | None:
        """The row of SF2."""
        documents = [(line["D2_DOC"], line["D2_SERIE"]) for line in self.rows("SD2", D2_PEDIDO=number)]
        if not documents:
            return None
        doc, series = max(documents)
        return self.rows("SF2", F2_DOC=doc, F2_SERIE=series)[0]


@dataclass
class Known:
    """An order at the beginning of every walk: in the ERP, open."""

    placed: PlacedOrder
    branch: str
    number: str
    """C5_NUM."""

    @property
    def key(self) -> str:
        return str(self.placed.order_id)

    @property
    def path(self) -> str:
        return f"/orders/{self.branch}/{self.number}"


class Ground:
    """A stage with a few orders in the ERP. `rewind` puts everything back to where it was when all was quiet."""

    def __init__(self, on: Stage, connections: Connections, sent: Sequence[PlacedOrder]) -> None:
        self.on = on
        self.settings = connections.settings
        self.shop_engine = sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"])
        self.ledger_engine = sa.create_engine(on.environment["ERP_SYNC_LEDGER_URL"])
        self.erp = ErpTables(on.folder / "erp.sqlite")
        self.connections = connections
        self.ahead = timedelta()
        """Of the ledger's and the shop's clock."""
        self.shop = DemoShop(self.shop_engine, clock=self.now)
        self.ledger = open_ledger(on.environment["ERP_SYNC_LEDGER_URL"], clock=self.now)
        found = connections.ledger.statuses([str(order.order_id) for order in sent])
        self.known = [
            Known(order, (entry := found[str(order.order_id)]).erp_branch, entry.erp_number) for order in sent
        ]
        self._shop: list[dict[str, Any]] = []
        self._ledger: dict[str, list[dict[str, Any]]] = {}
        self.keep()
        log_statuses(self.shop_engine)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def keep(self) -> None:
        """What `rewind` goes back to."""
        self.connections.gate.close()
        self._shop = self._rows(self.shop_engine, orders)
        self._ledger = {table.name: self._rows(self.ledger_engine, table) for table in tables.metadata.sorted_tables}
        self.erp.keep()

    @staticmethod
    def _rows(engine: sa.Engine, table: sa.Table) -> list[dict[str, Any]]:
        stored = sa.select(*(column for column in table.columns if column.computed is None))
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(stored).mappings()]

    def close(self) -> None:
        self.erp.close()
        self.ledger.close()
        self.shop_engine.dispose()
        self.ledger_engine.dispose()

    def rewind(self) -> None:
        self.on.erp.set_faults()
        self.wait_for_the_erp()
        self.erp.rewind()
        self.ahead = timedelta()
        with self.shop_engine.begin() as connection:
            for row in self._shop:
                connection.execute(orders.update().where(orders.c.id == row["id"]).values(**row))
            connection.exec_driver_sql(f"DELETE FROM {LOG}")
        with self.ledger_engine.begin() as connection:
            for table in tables.metadata.sorted_tables:
                connection.execute(table.delete())
                if rows := self._ledger[table.name]:
                    connection.execute(table.insert(), rows)

    def wait_for_the_erp(self) -> None:
        """Until it is through with what it was sent: it commits no later than within write time-out and settle time."""
        give_up = time.monotonic() + 20
        while self.on.erp.admin("GET", "/state")["calls_now"] and time.monotonic() < give_up:
            time.sleep(0.01)

    def row(self, order: Known) -> Any:
        with self.shop_engine.connect() as connection:
            return connection.execute(sa.select(orders).where(orders.c.id == order.placed.order_id)).one()

    def entry(self, order: Known) -> StatusEntry:
        return self.ledger.statuses([order.key])[order.key]

    def log(self, order: Known) -> list[tuple[int, str, str]]:
        """(seq, was, is now) of each change of its status in the shop."""
        sql = f"SELECT seq, was, is_now FROM {LOG} WHERE order_id = {order.placed.order_id} ORDER BY seq"
        with self.shop_engine.connect() as connection:
            return [(row[0], row[1], row[2]) for row in connection.exec_driver_sql(sql)]


@contextmanager
def ground(config: str, size: int, *, shop_url: str | None = None, ledger_url: str | None = None) -> Iterator[Ground]:
    """`size` orders of several items are in the ERP, and the flow has seen them."""
    config = config.format(start_day=(datetime.now(UTC) - timedelta(days=7)).date())
    setting = stage(latency_ms=0, config=config, shop_url=shop_url, ledger_url=ledger_url)
    with setting as on, environment({**on.environment, "ERP_SYNC_SHOP_PROFILE": str(write_profile(on.folder))}):
        on.environment["ERP_SYNC_SHOP_PROFILE"] = str(on.folder / "shop.toml")
        connections = open_connections(load_settings())
        placed = [on.shop.place_odd_order("two_lines_one_sku") for _ in range(size)]
        while connections.orders_flow().run().in_doubt or connections.ledger.actionable(1):
            pass
        assert connections.statuses_flow().run().told == size
        made = Ground(on, connections, placed)
        try:
            yield made
        finally:
            made.close()
            connections.close()


@dataclass(frozen=True)
class Step:
    kind: str
    order: int
    seed: int


ORDERS = 4
LENGTH = 45
KINDS = {
    "release": 6,
    "block": 4,
    "other_block": 4,
    "reverse": 1,
    "rule": 3,
    "part_invoice": 6,
    "invoice": 4,
    "key": 4,
    "deliver": 5,
    "cancel_invoice": 4,
    "residue": 2,
    "delete": 3,
    "restore": 3,
    "quantity": 2,
    "shop_cancels": 8,
    "shop_reopens": 4,
    "shop_disputes": 2,
    "shop_ships": 2,
    "time": 8,
    "pass_": 14,
    "pass_with_faults": 10,
    "pass_with_cancel_fault": 10,
    "pass_killed": 8,
    "pass_cut_off": 6,
    "pass_and_event": 8,
    "pass_and_pass": 3,
    "pass_refused_by_the_shop": 2,
}
"""What may happen, and how much likelier one is than another."""
READ_FAULTS: tuple[FaultKind, ...] = (
    *("html_502", "drop_before", "http_503_busy", "http_503_licence", "lock_then_error", "error_in_200"),
    *("unauthorized", "slow", "cp1252", "rows_missing", "rows_missing", "rows_missing", "other_branch_rows"),
)
CANCEL_FAULTS: tuple[FaultKind, ...] = (
    *("drop_before", "commit_then_drop", "commit_then_500", "commit_late", "success_not_written", "error_in_200"),
    *("http_503_busy", "http_503_licence", "html_502", "lock_then_error", "unauthorized", "slow", "cp1252"),
)
LATE = 0.3
"""Seconds after which a late cancellation is committed: the caller has gone, the settle time is not over."""
EVENTS = [kind for kind in KINDS if not kind.startswith(("pass", "time"))]
"""What people do."""
_ENDED = (OrderStatus.DELETED, OrderStatus.CANCELLED)
_ALL_INVOICED = (OrderStatus.INVOICED_SHORT, OrderStatus.INVOICED, OrderStatus.DELIVERED)
_RANKS = {"partly_invoiced": 1, "invoiced_short": 2, "invoiced": 2, "delivered": 3, "cancelled": 4}
"""The shop's words after which there is no way back. All others: 0."""


class People:
    """Whoever does something to the orders, and what must hold once all is quiet again. `mode`: `cancel_mode`."""

    def __init__(self, on: Ground, mode: str = "auto") -> None:
        self.mode = mode
        self._on = on
        self._journal_before = on.erp.last("journal")
        self._own: set[int] = set()
        """Of LOG: what the shop itself changed."""
        self._own_cancels: Counter[str] = Counter()
        self._restored: set[str] = set()
        """Restored in the ERP, or hidden from every look of a pass: that looks the same."""

    def do(self, step: Step) -> str:
        """What came of it."""
        said: str = getattr(self, step.kind)(self._on.known[step.order], random.Random(step.seed))
        return said

    def wrong(self) -> list[str]:
        """[]: nothing."""
        return [wrong for order in self._on.known for wrong in self._wrong(order)]

    # The ERP's users ------------------------------------------------------------------------------------------------

    def _admin(self, method: str, path: str, payload: object = None) -> str:
        try:
            self._on.on.erp.admin(method, path, payload or {})
        except AdminRefusal as refusal:
            if refusal.status not in (404, 409):
                raise
            return "not possible"
        return "done"

    def release(self, order: Known, dice: random.Random) -> str:
        some = {"quantity": {dice.choice(("01", "02")): 1}} if dice.random() < 0.4 else {}
        return self._admin("POST", f"{order.path}/release", some)

    def block(self, order: Known, dice: random.Random) -> str:
        codes = dice.choice(({"credit": "01"}, {"credit": "04"}, {"credit": "09"}, {"stock": "02"}, {"stock": "03"}))
        some = {"items": [dice.choice(("01", "02"))]} if dice.random() < 0.4 else {}
        return f"{codes} {self._admin('POST', f'{order.path}/release', codes | some)}"

    def other_block(self, order: Known, dice: random.Random) -> str:
        credit, stock = dice.choice((("", ""), ("", ""), ("09", ""), ("01", ""), ("", "02")))
        return f"{credit or stock} {self._admin('PATCH', f'{order.path}/releases', {'credit': credit, 'stock': stock})}"

    def reverse(self, order: Known, dice: random.Random) -> str:
        return self._admin("DELETE", f"{order.path}/releases")

    def rule(self, order: Known, dice: random.Random) -> str:
        rule = dice.choice(("1", "2", "7", "", "", ""))
        return f"{rule!r} {self._admin('PATCH', order.path, {'rule': rule})}"

    def part_invoice(self, order: Known, dice: random.Random) -> str:
        items = {dice.choice(("01", "02")): dice.choice((1, 1, 2))}
        body = {"items": items, "key": dice.random() < 0.6}
        return f"{body} {self._admin('POST', f'{order.path}/invoice', body)}"

    def invoice(self, order: Known, dice: random.Random) -> str:
        return self._admin("POST", f"{order.path}/invoice", {"key": dice.random() < 0.6})

    def _some_invoice(self, order: Known, dice: random.Random) -> str | None:
        """Its path."""
        lines = self._on.erp.rows("SD2", D2_PEDIDO=order.number)
        documents = sorted({(line["D2_SERIE"], line["D2_DOC"]) for line in lines})
        if not documents:
            return None
        series, doc = dice.choice(documents)
        return f"/invoices/{order.branch}/{series}/{doc}"

    def key(self, order: Known, dice: random.Random) -> str:
        path = self._some_invoice(order, dice)
        return self._admin("POST", f"{path}/key") if path else "not possible"

    def deliver(self, order: Known, dice: random.Random) -> str:
        path = self._some_invoice(order, dice)
        return self._admin("POST", f"{path}/deliver") if path else "not possible"

    def cancel_invoice(self, order: Known, dice: random.Random) -> str:
        path = self._some_invoice(order, dice)
        return self._admin("DELETE", path) if path else "not possible"

    def residue(self, order: Known, dice: random.Random) -> str:
        some = {"items": [dice.choice(("01", "02"))]} if dice.random() < 0.5 else {}
        return f"{some} {self._admin('POST', f'{order.path}/residue', some)}"

    def delete(self, order: Known, dice: random.Random) -> str:
        return self._admin("DELETE", order.path)

    def restore(self, order: Known, dice: random.Random) -> str:
        said = self._admin("POST", f"{order.path}/restore")
        if said == "done":
            self._restored.add(order.key)
        return said

    def quantity(self, order: Known, dice: random.Random) -> str:
        change: dict[str, Any] = {"items": {dice.choice(("01", "02")): {"quantity": dice.choice((1, 2, 4))}}}
        if dice.random() < 0.2:
            change = {"removed": ["02"]}
        return f"{change} {self._admin('PATCH', order.path, change)}"

    # The shop's people ----------------------------------------------------------------------------------------------

    def _shop_sets(self, order: Known, status: str) -> str:
        """By themselves: the log knows whose change it was."""
        on = self._on
        was = on.row(order).status
        if was == status:
            return "was so already"
        known = {seq for seq, _, _ in on.log(order)}
        on.shop.change_order(order.placed, status=status)
        self._own |= {seq for seq, was, now in on.log(order) if seq not in known and now == status}
        return f"was {was}"

    def shop_cancels(self, order: Known, dice: random.Random) -> str:
        said = self._shop_sets(order, "cancelled")
        self._own_cancels[order.key] += said.startswith("was ") and said != "was so already"
        return said

    def shop_reopens(self, order: Known, dice: random.Random) -> str:
        if self._on.row(order).status not in ("cancelled", FOREIGN):
            return "not possible"
        return self._shop_sets(order, "paid")

    def shop_disputes(self, order: Known, dice: random.Random) -> str:
        return self._shop_sets(order, FOREIGN)

    def shop_ships(self, order: Known, dice: random.Random) -> str:
        return self._shop_sets(order, "shipped")

    # What must hold -------------------------------------------------------------------------------------------------

    def _wrong(self, order: Known) -> Iterator[str]:
        entry = self._on.entry(order)
        status = self._on.erp.status(order.number)
        about = (
            f"{order.placed.number}: {status} in the ERP, the shop shows {self._on.row(order).status!r}, the ledger "
            f"{entry.status}, told {entry.told_status}, cancellation {entry.cancellation.value!r}, "
            f"problems {[str(problem) for problem in entry.problems]}"
        )
        found = (
            *self._wrong_status(order, entry, status),
            *self._wrong_word(order, entry, status),
            *self._wrong_cancellation(order, entry, status),
            *self._wrong_story(order, entry),
        )
        for wrong in found:
            yield f"{wrong} ({about})"

    def _wrong_status(self, order: Known, entry: StatusEntry, status: OrderStatus) -> Iterator[str]:
        if entry.status is not status and not (entry.status in _ENDED and status in _ENDED):
            yield "the ledger has another status than the ERP"
        if entry.cancel_at is not None or (entry.missing_since is not None and status not in _ENDED):
            yield "something is not at rest"

    def _wrong_word(self, order: Known, entry: StatusEntry, status: OrderStatus) -> Iterator[str]:
        row, log = self._on.row(order), self._on.log(order)
        word, shown = WORDS[status], row.status
        problem = problem_of(entry.problems, SHOP_STATUS)
        told = WORDS[entry.told_status] if entry.told_status is not None else ""
        is_own = bool(log) and log[-1][0] in self._own
        written = [(was, now) for seq, was, now in log if seq not in self._own]
        story = self._on.ledger.status_story(order.key)
        tellings = [WORDS[at] for _, event, at in story if event.kind == "told" and at is not None]
        if any(_RANKS.get(after, 0) < _RANKS.get(before, 0) for before, after in [*written, *pairwise(tellings)]):
            yield f"the shop was led back: {written}, told {tellings}"
        # Told before, or written by a process that died before it could note it.
        farthest = told if is_own else max(told, shown, key=lambda each: _RANKS.get(each, 0))
        held_back = _RANKS.get(farthest, 0) > _RANKS.get(word, 0)
        if written and not is_own and shown != told and not _is_ahead(shown, told) and not held_back:
            yield "what the shop was told last is not what the ledger says"
        is_foreign = shown == FOREIGN and is_own
        if problem is None and held_back:
            yield "the shop is held back, and nothing says so"
        if problem is not None and not held_back and not is_foreign:
            yield "a problem about a word of the shop that is right"
        if shown == word:
            details = self._wrong_details(order, row) if not held_back else ()
            yield from details
            return
        cancelled_by_itself = shown == "cancelled" and is_own
        changed_since = is_own and told == word
        if not (
            held_back
            or cancelled_by_itself
            or _is_ahead(shown, word)
            or changed_since
            or (is_foreign and entry.problems)
        ):
            yield f"the shop does not show {word!r}"

    def _wrong_details(self, order: Known, row: Any) -> Iterator[str]:
        invoice = self._on.erp.last_invoice(order.number)
        if row.erp_number != order.number:
            yield f"the shop has the ERP number {row.erp_number}"
        if invoice is not None and (row.invoice_number, row.invoice_series) != (invoice["F2_DOC"], invoice["F2_SERIE"]):
            yield f"the shop has the invoice {row.invoice_number}, the last one is {invoice['F2_DOC']}"
        if invoice is not None and invoice["F2_CHVNFE"] and row.invoice_key != invoice["F2_CHVNFE"]:
            yield f"the shop has the key {row.invoice_key}"

    def _wrong_cancellation(self, order: Known, entry: StatusEntry, status: OrderStatus) -> Iterator[str]:
        shown, log = self._on.row(order).status, self._on.log(order)
        stage, problem = entry.cancellation, problem_of(entry.problems, CANCELLATION)
        journal = self._on.on.erp.journal(self._journal_before)
        effects = [line for line in journal if line["kind"] == "order_cancelled" and line["number"] == order.number]
        if effects and not self._own_cancels[order.key]:
            yield "it was cancelled in the ERP, and the shop had never cancelled it"
        wanted = shown == "cancelled" and bool(log) and log[-1][0] in self._own
        if wanted:
            whole_or_nothing = self.mode == "exclusao"
            is_partly = whole_or_nothing and status is OrderStatus.PARTIALLY_INVOICED
            may_stand = {
                Cancellation.TOO_LATE: is_partly or status in _ALL_INVOICED,
                Cancellation.RESIDUE: status in _ALL_INVOICED,
                Cancellation.REFUSED: whole_or_nothing,
                Cancellation.RESTORED: order.key in self._restored,
            }
            if status in _ENDED:
                if problem is not None or stage not in (Cancellation.CANCELLED, Cancellation.NONE):
                    yield "it is cancelled on both sides, and the ledger says something else"
            elif not may_stand.get(stage):
                yield "the shop cancelled it, the ERP did not"
            elif problem is None:
                yield "its cancellation is a person's business, and nothing says so"
        elif shown == FOREIGN:
            if stage in (Cancellation.CANCELLED, Cancellation.RESIDUE) and problem is None:
                yield "it is not cancelled in the shop any more, and nothing says so"
        elif shown != "cancelled":
            came_too_late = stage in (Cancellation.CANCELLED, Cancellation.RESIDUE)
            if not came_too_late and stage is not Cancellation.NONE:
                yield "the shop wants it, its cancellation goes on"
            if (problem is not None) != came_too_late:
                yield "the shop wants it, and the cancellation's problem is wrong"
            if came_too_late and status not in (*_ENDED, *_ALL_INVOICED):
                yield "the shop wants it and the ERP has it, and the ledger takes it for cancelled"
        elif problem is not None and status in _ENDED:
            yield "it is cancelled on both sides, and there is a problem"

    def _wrong_story(self, order: Known, entry: StatusEntry) -> Iterator[str]:
        story = self._on.ledger.status_story(order.key)
        if story[-1][2] is not entry.status:
            yield f"the last event says {story[-1][2]}"
        yield from two_looks(story)
        yield from cancel_calls(story, doubt=timedelta(seconds=self._on.settings.erp.doubt_seconds))
        if entry.told_status is not None and not any(
            event.kind == "told" and status is entry.told_status for _, event, status in story
        ):
            yield "the shop was told something, and no event says so"


Story = Sequence[tuple[datetime, StatusEvent, OrderStatus | None]]


def two_looks(story: Story) -> Iterator[str]:
    """An order that has gone counts once it was missed twice, unless a cancel call had left."""
    missed = sent = False
    for _, event, status in story:
        if event.kind == "missing":
            missed = True
        elif event.kind == "cancel_sent":
            sent = True
        elif event.kind == "status":
            if status in (OrderStatus.DELETED, OrderStatus.NOT_FOUND) and not missed and not sent:
                yield f"{status} at the first look"
            missed = missed and status in (OrderStatus.DELETED, OrderStatus.NOT_FOUND)


def cancel_calls(story: Story, doubt: timedelta) -> Iterator[str]:
    """No call leaves while an earlier one may still have an effect."""
    sent_at: datetime | None = None
    in_doubt = False
    for at, event, _ in story:
        if event.kind == "cancel_sent":
            if in_doubt and sent_at is not None and at < sent_at + SEND_WINDOW + doubt:
                yield "a second cancel call left while the first one was in doubt"
            sent_at, in_doubt = at, False
        elif event.kind == "cancel_in_doubt":
            in_doubt = True


def _is_ahead(shown: str, word: str) -> bool:
    """Whether the shop is farther on by `allow_from`, and so keeps what it shows."""
    return shown in LIFE and word in LIFE and LIFE.index(shown) > LIFE.index(word)


def _standing(entry: StatusEntry) -> StatusEntry:
    """Without what every look changes."""
    return replace(entry, version=0, asked_at=None, deep_at=None, next_at=None, write_at=None, telling_until=None)


class _Killed(BaseException):
    """The process is gone: what it was about to do is not done."""


class _Twist:
    """Something happens at the so-many-th step of a pass."""

    def __init__(self, at: int, happens: Callable[[str], str]) -> None:
        self.said = ""
        self._at = at
        self._happens = happens
        self._steps = count(1)

    def here(self, name: str) -> None:
        if next(self._steps) == self._at:
            self.said = f"; {name}: "
            self.said += self._happens(name)

    def soon(self, name: str, seconds: float) -> None:
        """Nothing can happen here within one process."""


class Walk(People):
    """One walk over the ground, its beginning included."""

    def __init__(self, on: Ground, seed: int, steps: Sequence[Step] | None = None) -> None:
        dice = random.Random(seed)
        on.rewind()
        super().__init__(on, dice.choices(("auto", "exclusao", "residuo"), (6, 1, 1))[0])
        self.seed = seed
        self.switches = {
            "part_invoice_fills_header": dice.random() < 0.5,
            "closed_flag": dice.choice("ES"),
            "cancelled_invoice_reopens": dice.choice(("released", "open")),
            "residue_flag": dice.choice("SE"),
            "residue_keeps_invoice": dice.random() < 0.5,
            "cancel_refusal": dice.choice(("ttalk", "ttalk", "legacy_400", "legacy_500")),
        }
        kinds = dice.choices(list(KINDS), list(KINDS.values()), k=LENGTH)
        at_hand = dice.choice((1, 2, ORDERS))
        drawn = [Step(kind, dice.randrange(at_hand), dice.randrange(2**32)) for kind in kinds]
        self.steps = drawn if steps is None else steps
        self.trace: list[str] = []
        statuses = on.settings.statuses.model_copy(update={"cancel_mode": self.mode})
        self._settings = on.settings.model_copy(update={"statuses": statuses})

    def run(self) -> list[str]:
        """What is wrong at its end; []: nothing."""
        on, erp = self._on, self._settings.erp
        on.on.erp.switch(**self.switches)
        # More slots than the flow has threads: which of them is still held depends on the time of day.
        gate = LedgerGate(on.ledger, parallel=8, writes=4)
        root, user, password, tenant = self._settings.require_erp()
        times = {name: getattr(erp, name) for name in ("connect_timeout", "read_timeout", "write_timeout")}
        client = ErpClient(root, user, password, tenant, gate=gate, sleep=lambda _: None, **times)
        self._erp = ErpStatuses(client, self._settings)
        try:
            for place, step in enumerate(self.steps, 1):
                number = on.known[step.order].placed.number
                self.trace.append(f"{place:3} {number} {step.kind}: {self.do(step)}")
            return self._settle() or self.wrong()
        finally:
            gate.close()
            client.close()

    # Time, and the flow ---------------------------------------------------------------------------------------------

    def time(self, order: Known, dice: random.Random) -> str:
        """The ERP is through with what it was sent before the settle time is over."""
        self._on.wait_for_the_erp()
        seconds = dice.choice((6, 45, 45, 150, 700, 4000, 30_000))
        self._on.ahead += timedelta(seconds=seconds)
        return f"{seconds} s"

    def _flow(self, twist: _Twist | None = None) -> StatusesFlow:
        on = self._on
        shop: Any = on.connections.shop
        shop_statuses: Any = on.connections.shop_statuses
        ledger: Any = on.ledger
        erp: Any = self._erp
        if twist is not None:
            shop = Mortal(shop, twist, frozenset({"heads", "recent"}))
            shop_statuses = Mortal(shop_statuses, twist, frozenset({"write"}))
            ledger = Mortal(ledger, twist, STATUS_WRITES)
            erp = Mortal(erp, twist, STATUS_READS | CANCEL)
        return StatusesFlow(shop, shop_statuses, ledger, erp, self._settings)

    def pass_(self, order: Known, dice: random.Random, twist: _Twist | None = None) -> str:
        try:
            result = self._flow(twist).run()
            said = str(result.failure or f"asked {result.asked}, changed {result.changed}, told {result.told}")
        except _Killed:
            said = "killed"
        return said[:150] + (twist.said if twist else "")

    def pass_with_faults(self, order: Known, dice: random.Random) -> str:
        """From some step on; as many as a read has tries, or fewer."""
        on = self._on.on.erp
        faults = [
            Fault(
                kind=kind,
                endpoint="read",
                times=dice.choice((1, 1, 2, 3, 6)),
                matching=order.number if kind == "rows_missing" else "",
                seconds=0.1 if kind in ("slow", "lock_then_error") else 0,
            )
            for kind in dice.sample(READ_FAULTS, dice.choice((1, 1, 2)))
        ]

        def armed(_name: str) -> str:
            on.set_faults(*faults)
            if any(fault.kind == "rows_missing" and (fault.times or 0) >= 3 for fault in faults):
                self._restored.add(order.key)
            return ", ".join(f"{fault.times} x {fault.kind}" for fault in faults)

        said = self.pass_(order, dice, _Twist(dice.randint(1, 12), armed))
        on.set_faults()
        return said

    def pass_with_cancel_fault(self, order: Known, dice: random.Random) -> str:
        kind = dice.choice(CANCEL_FAULTS)
        seconds = {"commit_late": LATE, "slow": 0.1, "lock_then_error": 0.1}.get(kind, 0)
        self._on.on.erp.set_faults(
            Fault(kind=kind, endpoint="cancel_order", times=dice.choice((1, 2)), seconds=seconds)
        )
        said = self.pass_(order, dice)
        self._on.on.erp.set_faults()
        return f"{kind}: {said}"

    def pass_killed(self, order: Known, dice: random.Random) -> str:
        def killed(_name: str) -> str:
            raise _Killed

        return self.pass_(order, dice, _Twist(dice.randint(1, 45), killed))

    def pass_cut_off(self, order: Known, dice: random.Random) -> str:
        """Ledger, shop or ERP is not there for a moment: before it heard, or before it was heard."""

        def cut_off(name: str) -> str:
            what = name.rsplit(maxsplit=1)[-1]
            if what in STATUS_WRITES:
                raise LedgerUnavailable("cut off")
            if what in STATUS_READS:
                raise ErpUnavailable("cut off")
            if what in ("heads", "recent", "write"):
                raise ShopUnavailable("cut off")
            return "but nothing is cut off here"

        return self.pass_(order, dice, _Twist(dice.randint(1, 45), cut_off))

    def pass_and_event(self, order: Known, dice: random.Random) -> str:
        """In the middle of the pass somebody does something."""
        kind = dice.choices(EVENTS, [KINDS[kind] for kind in EVENTS])[0]
        seed = dice.randrange(2**32)

        def event(_name: str) -> str:
            return f"{kind} {getattr(self, kind)(order, random.Random(seed))}"

        return self.pass_(order, dice, _Twist(dice.randint(1, 45), event))

    def pass_and_pass(self, order: Known, dice: random.Random) -> str:
        """In the middle of the pass another process makes a whole one."""
        return self.pass_(order, dice, _Twist(dice.randint(1, 45), lambda _: self.pass_(order, dice)))

    def pass_refused_by_the_shop(self, order: Known, dice: random.Random) -> str:
        refuse = f"WHEN NEW.id = {order.placed.order_id} BEGIN SELECT RAISE(ABORT, 'refused'); END"
        with self._on.shop_engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE TRIGGER refuse BEFORE UPDATE ON orders {refuse}")
        said = self.pass_(order, dice)
        with self._on.shop_engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER refuse")
        return said

    def _settle(self) -> list[str]:
        """Left alone, everything comes to rest."""
        on = self._on
        before: object = None
        for place in range(14):
            on.wait_for_the_erp()
            on.ahead += timedelta(minutes=65)
            failure = self._flow().run().failure
            if failure is not None:
                return [f"the pass failed though nothing was wrong any more: {failure}"]
            now = [(_standing(on.entry(order)), on.row(order).status) for order in on.known]
            if now == before and place >= 3:
                return []
            before = now
        return ["it never comes to rest"]


def shortest(on: Ground, seed: int, steps: Sequence[Step], seconds: float = 30) -> Walk:
    """A walk of few steps that ends badly all the same."""
    give_up = time.monotonic() + seconds
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps) and time.monotonic() < give_up:
            fewer = [*steps[:start], *steps[start + size :]]
            if Walk(on, seed, fewer).run():
                steps = fewer
            else:
                start += size
        size //= 2
    return Walk(on, seed, steps)


def told(walk: Walk, wrong: Sequence[str]) -> str:
    """Of a walk that ended badly."""
    return "\n".join([f"seed {walk.seed}, cancel_mode {walk.mode}, {walk.switches}", *walk.trace, *wrong])
