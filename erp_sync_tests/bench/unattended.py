"""Half an hour that nobody watches: orders, stock and statuses through the real daemon with all its sensors and
schedules, an outage of the ERP, a restart of MariaDB, an outage of Slack, and an order that somebody mends half way.

    python -m erp_sync_tests.bench.unattended [--minutes 30] [--keep FOLDER]

In the end everything must agree, every incident must have been told once and be closed, and nothing that was written
anywhere may hold a secret or a customer's data. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.scheduler.instigation import TickStatus

from erp_sync.demo import Stage, compared_stocks, environment, stage, strayed, verify
from erp_sync.errors import ErpSyncError
from erp_sync.ledger import tables
from erp_sync.ledger.incidents import SHOWN
from erp_sync.models import LedgerState
from erp_sync.sandbox import shop_schema
from erp_sync.sandbox.background import AdminRefusal
from erp_sync.sandbox.erp_channels import OtherChannels
from erp_sync.sandbox.erp_users import ErpUsers, Event
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync_tests.bench.machine import machine
from erp_sync_tests.live import LiveDagster
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.slack_double import CHANNEL, TOKEN, SlackDouble

ORDER_EVERY = 5.0
SETTLE_MINUTES = 8
CONFIG = """\
language = "pt-BR"
[erp]
settle_seconds = 3
connect_timeout = 2
read_timeout = 5
write_timeout = 3
max_parallel = 8
max_parallel_writes = 4
[orders]
start_day = {start_day}
carriers = {{ sedex = "000001", pac = "000002", transportadora = "000003" }}
[statuses]
every_minutes = 1
delivered_from = "f2_dtentr"
[stock]
every_minutes = 1
[logs]
format = "json"
"""


@dataclass
class Report:
    minutes: float = 0.0
    orders: int = 0
    exact: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong_total: list[str] = field(default_factory=list)
    unsettled: int = 0
    cancelled_unsent: int = 0
    """Cancelled in the shop before they were sent; never in the ERP, or else named here:"""
    sent_though_cancelled: list[str] = field(default_factory=list)
    strayed: list[str] = field(default_factory=list)
    wrong_stocks: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    """Of the reconciliation."""
    incidents: list[dict[str, Any]] = field(default_factory=list)
    still_open: list[str] = field(default_factory=list)
    slack_messages: int = 0
    untold: list[str] = field(default_factory=list)
    """Incidents without a message, or whose closing nobody was told."""
    first_message_seconds: dict[str, float] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    failed_ticks: list[str] = field(default_factory=list)
    unexplained_ticks: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    scanned_megabytes: float = 0.0
    machine: str = ""

    @property
    def ok(self) -> bool:
        wrong = (
            self.lost,
            self.twice,
            self.wrong_total,
            self.sent_though_cancelled,
            self.strayed,
            self.wrong_stocks,
            self.findings,
        )
        silent = (self.still_open, self.untold, self.unexplained_ticks, self.leaks)
        return self.exact == self.orders and not self.unsettled and not any((*wrong, *silent))


class HalfHour:
    """`say` gets a line at each event."""

    def __init__(self, on: Stage, mariadb: MariaDB, slack: SlackDouble, minutes: float) -> None:
        self._on, self._mariadb, self._slack = on, mariadb, slack
        self._seconds = minutes * 60
        self._report = Report(minutes=minutes, machine=machine())
        self._dice = random.Random(1)
        self._placed: list[PlacedOrder] = []
        self._cancelled: list[PlacedOrder] = []
        self._bad: PlacedOrder | None = None
        self._erp_is_up = True
        self._troubles: list[tuple[datetime, datetime, str]] = []
        """When a failed tick is no wonder."""
        self._slack_was_away: list[tuple[datetime, datetime]] = []

    def run(self, dagster: LiveDagster) -> Report:
        events = deque(
            sorted(
                [
                    (0.10, self._place_a_bad_order),
                    (0.20, self._erp_goes),
                    (0.20 + 1 / 6, self._erp_comes),
                    (0.50, self._mend_the_bad_order),
                    (0.55, self._restart_mariadb),
                    (0.65, self._slack_goes),
                    (0.68, self._place_a_bad_order),
                    (0.78, self._slack_comes),
                    (0.80, self._mend_the_bad_order),
                ],
                key=lambda event: event[0],
            )
        )
        began = time.monotonic()
        # Nothing that a person would have to settle in the end.
        weights: dict[Event, float] = {"residue": 0, "delete": 0, "cancel_invoice": 0}
        users = ErpUsers(self._on.erp, self._dice, weights=weights, delivered_in=["f2_dtentr"])
        channels = OtherChannels(self._on.erp, self._dice)
        order_at = began
        while (passed := time.monotonic() - began) < self._seconds:
            while events and passed >= events[0][0] * self._seconds:
                events.popleft()[1]()
            if passed < 0.85 * self._seconds:
                if time.monotonic() >= order_at:
                    order_at = time.monotonic() + self._dice.expovariate(1 / ORDER_EVERY)
                    self._order()
                if self._erp_is_up:
                    with suppress(AdminRefusal):
                        users.step()
                        if self._dice.random() < 0.2:
                            channels.step()
            time.sleep(1.0)
        self._judge(dagster)
        return self._report

    def _order(self) -> None:
        """Every twentieth is cancelled as soon as the next one comes, before anybody invoices it."""
        # The first statement after MariaDB's restart meets a connection that is none any more.
        with suppress(sa.exc.OperationalError):
            self._placed.append(self._on.shop.checkout())
            if len(self._placed) % 20 == 0:
                self._on.shop.cancel(self._placed[-2])
                self._cancelled.append(self._placed[-2])

    # What happens ---------------------------------------------------------------------------------------------------

    def _place_a_bad_order(self) -> None:
        self._bad = self._on.shop.place_bad_order("payment")
        self._say(f"{self._bad.number} is paid in a way that nobody mapped")

    def _mend_the_bad_order(self) -> None:
        if self._bad is not None:
            self._on.shop.change_order(self._bad, payment_method="pix")
            self._placed.append(self._bad)
            self._say(f"{self._bad.number} is mended")

    def _erp_goes(self) -> None:
        self._erp_is_up = False
        self._on.erp.kill()
        self._trouble("the ERP is away", self._seconds / 6)

    def _erp_comes(self) -> None:
        self._on.erp.restart()
        self._erp_is_up = True
        self._say("the ERP is back")

    def _restart_mariadb(self) -> None:
        self._mariadb.kill()
        self._trouble("MariaDB was killed", 15)
        time.sleep(10)
        self._mariadb.start()
        self._say("MariaDB is back")

    def _slack_goes(self) -> None:
        self._slack.fault = "503"
        now = datetime.now(UTC)
        self._slack_was_away.append((now, now + timedelta(seconds=0.13 * self._seconds)))
        self._say("Slack answers 503")

    def _slack_comes(self) -> None:
        self._slack.fault = ""
        self._say("Slack is back")

    def _trouble(self, what: str, seconds: float) -> None:
        now = datetime.now(UTC)
        self._troubles.append((now - timedelta(seconds=5), now + timedelta(seconds=seconds + 60), what))
        self._say(what)

    # What came of it ------------------------------------------------------------------------------------------------

    def _judge(self, dagster: LiveDagster) -> None:
        connections = open_connections(load_settings())
        report = self._report
        give_up = time.monotonic() + SETTLE_MINUTES * 60
        while time.monotonic() < give_up and (waits := self._waits_for(connections)):
            self._say(f"waiting: {waits}")
            self._settle_what_came_too_late()
            time.sleep(10)
        never_sent = self._never_sent(connections)
        journal = self._on.erp.journal()
        due = [order for order in self._placed if order.number not in never_sent]
        report.sent_though_cancelled = sorted(never_sent & {line["external_id"] for line in journal})
        report.cancelled_unsent = len(never_sent)
        verdict = verify(journal, due, [], connections)
        for name in ("orders", "exact", "lost", "twice", "wrong_total", "unsettled"):
            setattr(report, name, getattr(verdict, name))
        numbers = {order.number for order in due}
        report.strayed = strayed(self._on, connections, numbers, self._cancelled)
        _, report.wrong_stocks = compared_stocks(self._on, connections)
        self._reconcile(connections)
        self._incidents(connections)
        with dagster.instance() as instance:
            self._ticks(instance)
            counts = {status.value: instance.get_runs_count(dg.RunsFilter(statuses=[status])) for status in _ENDS}
            report.runs = counts
        connections.close()
        self._scan(dagster.home)

    def _waits_for(self, connections: Connections) -> str:
        ledger = connections.ledger
        try:
            counts = ledger.counts()
            waiting = sum(counts.get(state, 0) for state in LedgerState) - counts.get(LedgerState.SENT, 0)
            waiting -= counts.get(LedgerState.CANCELLED, 0)
            open_ = [incident.cause for incident in ledger.open_incidents()]
            numbers = {order.number for order in self._placed} - self._never_sent(connections)
            strays = strayed(self._on, connections, numbers, self._cancelled)
        except ErpSyncError as error:
            return str(error)
        parts = [f"{waiting} orders" if waiting else "", f"{len(strays)} statuses" if strays else "", *open_]
        return ", ".join(part for part in parts if part)

    def _never_sent(self, connections: Connections) -> set[str]:
        """Those that the shop cancelled before they left."""
        entries = connections.ledger.entries([str(order.order_id) for order in self._cancelled])
        return {entry.number for entry in entries.values() if entry.state is LedgerState.CANCELLED}

    def _settle_what_came_too_late(self) -> None:
        """A person does his task: the invoices of what the shop cancelled are cancelled."""
        wanted = {order.number for order in self._cancelled}
        after = 0
        while page := self._on.erp.admin("GET", f"/orders?after={after}&limit=500"):
            after = page[-1]["record"]
            for order in (order for order in page if order["external_id"] in wanted):
                for invoice in order["invoices"]:
                    self._on.erp.admin("DELETE", f"/invoices/{order['branch']}/{invoice['series']}/{invoice['doc']}")

    def _reconcile(self, connections: Connections) -> None:
        flow = connections.reconcile_flow()
        result = flow.run(flow.last_days())
        if result.failure is not None:
            self._report.findings.append(str(result.failure))
        for day in result.days:
            self._report.findings += [f"{day.day} {found.number}: {found.verdict}" for found in day.findings]

    def _incidents(self, connections: Connections) -> None:
        """Each that was opened has its message, and its message says that it is over."""
        by_ts = {message.ts: message for message in self._slack.messages}
        table = tables.incidents
        for row in connections.ledger.database.rows(sa.select(table).order_by(table.c.opened_at)):
            message = by_ts.get(row.told_ts)
            self._report.incidents.append(
                {"cause": row.cause, "openings": row.openings, "seen": row.seen, "peak": row.peak}
            )
            if row.closed_at is None:
                self._report.still_open.append(row.cause)
            elif row.told_ending < SHOWN or row.told_opening < row.openings:
                self._report.untold.append(f"{row.cause}: its end")
            if message is None:
                self._report.untold.append(row.cause)
            elif row.openings == 1 and not any(start <= row.opened_at <= end for start, end in self._slack_was_away):
                first = message.at[0] - row.opened_at.timestamp()
                self._report.first_message_seconds[row.cause] = round(first, 2)
        self._report.slack_messages = len(self._slack.messages)

    def _ticks(self, instance: dg.DagsterInstance) -> None:
        for state in instance.all_instigator_state():
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, statuses=[TickStatus.FAILURE])
            for tick in ticks:
                at = datetime.fromtimestamp(tick.timestamp, UTC)
                why = (tick.error.message if tick.error else "").strip().splitlines()
                line = f"{state.instigator_name} {at:%H:%M:%S} {why[0][:150] if why else ''}"
                self._report.failed_ticks.append(line)
                if not any(start <= at <= end for start, end, _ in self._troubles):
                    self._report.unexplained_ticks.append(line)

    def _scan(self, home: Path) -> None:
        """Everything that Dagster and our processes wrote, and every message."""
        secrets = dict(self._secrets())
        pattern = re.compile(b"|".join(re.escape(value.encode()) for value in sorted(secrets, key=len, reverse=True)))
        written = [(str(file.relative_to(home)), file.read_bytes()) for file in home.rglob("*") if file.is_file()]
        messages = json.dumps([[m.text, m.blocks] for m in self._slack.messages], ensure_ascii=False)
        for name, content in [*written, ("Slack", messages.encode())]:
            self._report.scanned_megabytes += len(content) / 1e6
            for found in set(pattern.findall(content)):
                kind = secrets[found.decode()]
                where = content.index(found)
                self._report.leaks.append(f"{kind} in {name} at {where}")

    def _secrets(self) -> Iterator[tuple[str, str]]:
        yield self._on.erp.password, "the ERP's password"
        yield TOKEN, "Slack's token"
        engine = sa.create_engine(self._on.environment["ERP_SYNC_SHOP_URL"])
        with engine.connect() as connection:
            for row in connection.execute(sa.select(shop_schema.customers)).mappings():
                for column in ("cpf_cnpj", "email", "phone"):
                    if (value := str(row[column] or "")) and len(value) >= 8:
                        yield value, f"a customer's {column}"
                digits = re.sub(r"[^0-9A-Z]", "", str(row["cpf_cnpj"] or ""))
                if len(digits) in (11, 14):
                    yield digits, "a customer's tax id"
            for row in connection.execute(sa.select(shop_schema.addresses)).mappings():
                yield str(row["street"]), "a street"
        engine.dispose()

    def _say(self, text: str) -> None:
        print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)  # noqa: DTZ005


_ENDS = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@contextmanager
def _stage(mariadb: MariaDB, slack: SlackDouble) -> Iterator[Stage]:
    config = CONFIG.format(start_day=(datetime.now(UTC) - timedelta(days=7)).date())
    shop_url, ledger_url = mariadb.create_database(), mariadb.create_database()
    with stage(stocked=True, latency_ms=40, config=config, shop_url=shop_url, ledger_url=ledger_url) as on:
        on.environment |= {
            "ERP_SYNC_SLACK_TOKEN": TOKEN,
            "ERP_SYNC_SLACK_CHANNEL": CHANNEL,
            "ERP_SYNC_SLACK_BASE_URL": slack.url,
        }
        with environment(on.environment):
            yield on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--keep", type=Path, help="copy DAGSTER_HOME there in the end")
    given = parser.parse_args()
    with (
        MariaDB() as mariadb,
        SlackDouble(clock=time.time) as slack,
        _stage(mariadb, slack) as on,
        LiveDagster(on) as dagster,
    ):
        dagster.start(web=False)
        report = HalfHour(on, mariadb, slack, given.minutes).run(dagster)
        if given.keep:
            shutil.copytree(dagster.home, given.keep, dirs_exist_ok=True)
    print(json.dumps({"ok": report.ok, **asdict(report)}, ensure_ascii=False, indent=1))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
