"""A stage with sent orders, and the reconciliation over it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from erp_sync.demo import Stage, environment, stage
from erp_sync.erp.protheus import Protheus
from erp_sync.erp.statuses import ErpStatuses
from erp_sync.ledger.entry import Entry
from erp_sync.ledger.reconciled_day import ReconciledDay
from erp_sync.mapping import map_order
from erp_sync.models import CustomerCode, LedgerState, Order
from erp_sync.sandbox.shop import SHOP_ZONE, PlacedOrder
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.reconcile import ReconcileFlow, ReconcileResult

START_DAY = datetime.now(SHOP_ZONE).date() - timedelta(days=7)
CONFIG = f"""\
[erp]
settle_seconds = 0.2
connect_timeout = 2
read_timeout = 2
write_timeout = 15
max_parallel_writes = 4
[orders]
start_day = {START_DAY}
carriers = {{ sedex = "000001", pac = "000002", transportadora = "000003" }}
"""


@dataclass
class Books:
    on: Stage
    connections: Connections

    @property
    def day(self) -> date:
        return datetime.now(SHOP_ZONE).date()

    def flow(self, young: timedelta = timedelta(0)) -> ReconcileFlow:
        """As `connections.reconcile_flow`, but nothing is too young to be missed."""
        on = self.connections
        erp = Protheus(on.client.of_flow("backfill"), on.settings)
        lives = ErpStatuses(on.client, on.settings, flow="backfill")
        return ReconcileFlow(on.shop, on.ledger, erp, lives, on.settings, young=young)

    def run(self, *days: date, young: timedelta = timedelta(0)) -> ReconcileResult:
        result = self.flow(young).run(days or [self.day])
        assert result.failure is None, result.failure
        return result

    def today(self, young: timedelta = timedelta(0)) -> ReconciledDay:
        (day,) = self.run(young=young).days
        return day

    def verdicts(self) -> dict[str, str]:
        """What is found of each order, several joined."""
        found: dict[str, str] = {}
        for finding in self.today().findings:
            before = found.get(finding.number)
            found[finding.number] = f"{before} {finding.verdict}" if before else str(finding.verdict)
        return found

    def story(self) -> int:
        """How many events all orders have together."""
        engine = sa.create_engine(self.on.environment["ERP_SYNC_LEDGER_URL"])
        with engine.connect() as connection:
            counts = [
                connection.scalar(sa.text(f"SELECT COUNT(*) FROM {table}"))
                for table in ("erp_sync_events", "erp_sync_status_events")
            ]
        engine.dispose()
        return sum(counts)

    def forget(self, order: PlacedOrder) -> None:
        """The ledger loses the order, as after an older backup was restored."""
        for table in ("erp_sync_orders", "erp_sync_events", "erp_sync_statuses", "erp_sync_status_events"):
            self.ledger_sql(f"DELETE FROM {table} WHERE order_id = :id", id=str(order.order_id))

    def lose_answer(self, order: PlacedOrder, state: str = "in_doubt") -> None:
        """The ledger does not know that the order was sent; somebody looks again in an hour."""
        for table in ("erp_sync_statuses", "erp_sync_status_events"):
            self.ledger_sql(f"DELETE FROM {table} WHERE order_id = :id", id=str(order.order_id))
        self.ledger_sql(
            "UPDATE erp_sync_orders SET state = :state, erp_number = '', erp_branch = '', sent_at = NULL, "
            "verified_at = NULL, next_at = :later WHERE order_id = :id",
            state=state,
            later=datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1) if state == "in_doubt" else None,
            id=str(order.order_id),
        )

    def settle(self) -> None:
        """Passes of orders and statuses until nothing waits."""
        give_up = time.monotonic() + 30
        ledger = self.connections.ledger
        while time.monotonic() < give_up:
            assert self.connections.orders_flow().run(sweep=False).failure is None
            if ledger.next_wake() is None and not ledger.actionable(1):
                looked = self.connections.statuses_flow().run()
                assert looked.failure is None, looked.failure
                return
            time.sleep(0.1)
        raise AssertionError(f"not settled: {ledger.counts()}")

    def sent(self, count: int) -> list[PlacedOrder]:
        placed = self.on.shop.checkout_many(count)
        self.settle()
        assert all(self.entry(order).state is LedgerState.SENT for order in placed)
        return placed

    def entry(self, order: PlacedOrder) -> Entry:
        return self.connections.ledger.entries([str(order.order_id)])[str(order.order_id)]

    def kinds(self, order: PlacedOrder) -> list[str]:
        ledger = self.connections.ledger
        story = [(at, event.kind) for at, event, _ in ledger.story(str(order.order_id))]
        story += [(at, event.kind) for at, event, _ in ledger.status_story(str(order.order_id))]
        return [kind for _, kind in sorted(story)]

    def path(self, order: PlacedOrder) -> str:
        entry = self.entry(order)
        return f"/orders/{entry.erp_branch}/{entry.erp_number}"

    def erp(self, order: PlacedOrder, action: str, payload: object = None) -> Any:
        """A user of the ERP does something: `POST release`, `DELETE`."""
        method, _, what = action.partition(" ")
        return self.on.erp.admin(method, self.path(order) + (f"/{what}" if what else ""), payload or {})

    def type_by_hand(self, external_id: str, like: PlacedOrder, day: date | None = None) -> str:
        """Somebody creates an order in the ERP, past the sync. Its C5_NUM."""
        connections = self.connections
        order = connections.shop.fetch([str(like.order_id)])[0]
        assert isinstance(order, Order)
        mapped = map_order(order, connections.settings, self.day, currencies=connections.shop.profile.shop.currencies)
        code, _, store = self.entry(like).customer_key.partition("/")
        header = mapped.header | {"C5_EMISSAO": f"{day or self.day:%Y%m%d}"}
        del header[connections.settings.erp.external_id_field]
        typed = replace(mapped, external_id=external_id, header=header)
        created = connections.erp.create_order(typed, CustomerCode(code, store), lambda: time.monotonic() + 5)
        return created.number

    def rows_in_erp(self, number: str) -> int:
        return sum(line["external_id"] == number for line in self.on.erp.journal() if line["kind"] == "order")

    def ledger_sql(self, statement: str, **values: Any) -> None:
        self._sql(self.on.environment["ERP_SYNC_LEDGER_URL"], statement, values)

    def shop_sql(self, statement: str, **values: Any) -> None:
        self._sql(self.on.environment["ERP_SYNC_SHOP_URL"], statement, values)

    @staticmethod
    def _sql(url: str, statement: str, values: dict[str, Any]) -> None:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text(statement), values)
        engine.dispose()

    def erp_sql(self, statement: str, **values: Any) -> None:
        """What no user of an ERP can do: its database is changed behind its back."""
        self._sql(f"sqlite:///{self.on.folder / 'erp.sqlite'}", statement, values)

    def vanish(self, order: PlacedOrder) -> None:
        """The ERP's rows of this order are removed, without a trace."""
        self.erp_sql("DELETE FROM SC5 WHERE C5_NUM = :number", number=self.entry(order).erp_number)
        self.erp_sql("DELETE FROM SC6 WHERE C6_NUM = :number", number=self.entry(order).erp_number)


@contextmanager
def books(urls: Sequence[str] = (), config: str = CONFIG) -> Iterator[Books]:
    shop_url, ledger_url = urls or (None, None)
    with (
        stage(latency_ms=0, config=config, shop_url=shop_url, ledger_url=ledger_url) as on,
        environment(on.environment),
    ):
        connections = open_connections(load_settings())
        yield Books(on, connections)
        connections.close()
