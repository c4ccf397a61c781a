"""The main job on the embedded default: a sandbox ERP, a demo shop and a ledger in one folder, nothing outside it."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erp_sync.errors import ErpSyncError, Misconfigured
from erp_sync.models import LedgerState, OrderStatus
from erp_sync.sandbox.background import SandboxErp, start_in_background
from erp_sync.sandbox.config import Fault, SandboxConfig, Switches
from erp_sync.sandbox.erp_channels import OtherChannels
from erp_sync.sandbox.erp_users import ErpUsers
from erp_sync.sandbox.shop import BAD_KINDS, ODD_KINDS, DemoShop, PlacedOrder, catalogue, create_schema
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.pipeline import Window
from erp_sync.sync.watch import OrdersWatch

if TYPE_CHECKING:
    from sqlalchemy import Engine

PRODUCTS = 200
GIVE_UP_SECONDS = 600
ERP_PACE = 0.15
"""Of how many rounds of the demo's loop, five in a second, an ERP user does something."""
CANCELLED_SHARE = 0.05
CHANNEL_STEPS = 100
WRITE_TIMEOUT = 3.0
CONFIG = """\
[erp]
settle_seconds = 3
connect_timeout = 2
read_timeout = 5
write_timeout = {write_timeout}
max_parallel = 8
max_parallel_writes = 4
[orders]
start_day = {start_day}
linger_seconds = 60
carriers = {{ sedex = "000001", pac = "000002", transportadora = "000003" }}
[statuses]
every_minutes = 1
delivered_from = "f2_dtentr"
[stock]
every_minutes = 1
[logs]
format = "text"
environment = "demo"
"""
FAULTS = (
    Fault(kind="commit_then_drop", endpoint="create_order", probability=0.04),
    Fault(kind="commit_then_500", endpoint="create_order", probability=0.03),
    Fault(kind="commit_late", endpoint="create_order", probability=0.02, seconds=WRITE_TIMEOUT + 1),
    Fault(kind="success_not_written", endpoint="create_order", probability=0.02),
    Fault(kind="error_in_200", endpoint="create_order", probability=0.02),
    Fault(kind="html_502", endpoint="create_order", probability=0.02),
    Fault(kind="http_503_busy", endpoint="create_order", probability=0.02),
    Fault(kind="drop_before", endpoint="create_order", probability=0.02),
    Fault(kind="commit_then_drop", endpoint="create_customer", probability=0.02),
    Fault(kind="html_502", endpoint="read", probability=0.02),
    Fault(kind="unauthorized", endpoint="read", probability=0.01),
)
"""About a fifth of the creates goes wrong, one way or another."""


@dataclass
class Stage:
    """What the demo plays on. `environment` is what any process needs to join."""

    folder: Path
    erp: SandboxErp
    shop: DemoShop
    environment: dict[str, str]


@contextmanager
def stage(
    *,
    faults: tuple[Fault, ...] = (),
    seed: int = 1,
    latency_ms: float = 40,
    shop_url: str | None = None,
    ledger_url: str | None = None,
    config: str | None = None,
    stocked: bool = False,
    **sandbox_config: Any,
) -> Iterator[Stage]:
    """Set up, and removed at the end. Without URLs shop and ledger are SQLite files in the folder.

    `config` replaces the demo's erp_sync.toml, `sandbox_config` goes into the ERP's `SandboxConfig`. `stocked`: the
    ERP has what the shop has.
    """
    import sqlalchemy as sa

    folder = Path(tempfile.mkdtemp(prefix="erp_sync-demo-"))
    engine = sa.create_engine(shop_url or f"sqlite:///{folder / 'shop.sqlite'}")
    sandbox = SandboxConfig(
        database=folder / "erp.sqlite",
        seed=seed,
        faults=faults,
        switches=Switches(latency_ms=latency_ms),
        **sandbox_config,
    )
    try:
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        create_schema(engine)
        products = catalogue(PRODUCTS, seed)
        shop = DemoShop(engine, seed)
        shop.stock_catalogue(products)
        with start_in_background(sandbox) as erp:
            erp.add_products([product.sku for product in products])
            if stocked:
                erp.admin("POST", "/stock", [{"code": product.sku, "QATU": product.stock} for product in products])
            written = folder / "erp_sync.toml"
            text = config or CONFIG.format(
                write_timeout=WRITE_TIMEOUT, start_day=(datetime.now(UTC) - timedelta(days=7)).date()
            )
            written.write_text(text, encoding="utf-8")
            environment = {
                "ERP_SYNC_CONFIG": str(written),
                "ERP_SYNC_SHOP_URL": engine.url.render_as_string(hide_password=False),
                "ERP_SYNC_SHOP_PROFILE": "laravel",
                "ERP_SYNC_LEDGER_URL": ledger_url or f"sqlite:///{folder / 'ledger.sqlite'}",
                "ERP_SYNC_ERP_URL": erp.root_url,
                "ERP_SYNC_ERP_USER": sandbox.user,
                "ERP_SYNC_ERP_PASSWORD": sandbox.password.get_secret_value(),
                "ERP_SYNC_ERP_TENANT": sandbox.tenant,
            }
            yield Stage(folder, erp, shop, environment)
    finally:
        engine.dispose()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Report:
    """What came of the orders, by the sandbox's own journal."""

    orders: int = 0
    """Finalized orders that belong in the ERP."""
    exact: int = 0
    """In the ERP exactly once with their exact total."""
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong_total: list[str] = field(default_factory=list)
    bad: int = 0
    """Orders that must be refused."""
    bad_refused: int = 0
    bad_sent: list[str] = field(default_factory=list)
    unsettled: int = 0
    """Whose ledger entry is not final."""
    adopted: int = 0
    cancelled: int = 0
    """Orders that the shop cancelled after they were sent."""
    strayed: list[str] = field(default_factory=list)
    """Orders whose shop row does not say what the ERP says in the end."""
    stocks: int = 0
    """Stocks of the shop that were compared with the ERP's in the end, after other channels sold too."""
    wrong_stocks: list[str] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def exact_all(self) -> bool:
        settled = self.bad == self.bad_refused and not self.unsettled
        return self.exact == self.orders and settled and not (self.strayed or self.wrong_stocks)

    @property
    def requests_per_order(self) -> float:
        return sum(self.requests.values()) / max(self.exact, 1)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.exact_all,
            "orders": self.orders,
            "exact": self.exact,
            "lost": self.lost,
            "twice": self.twice,
            "wrong_total": self.wrong_total,
            "bad": self.bad,
            "bad_refused": self.bad_refused,
            "bad_sent": self.bad_sent,
            "unsettled": self.unsettled,
            "adopted": self.adopted,
            "cancelled": self.cancelled,
            "strayed": self.strayed,
            "stocks": self.stocks,
            "wrong_stocks": self.wrong_stocks,
            "requests": self.requests,
            "requests_per_order": round(self.requests_per_order, 2),
            "seconds": round(self.seconds, 1),
        }


def run_once(count: int, *, faults: bool, seed: int, show: bool) -> Report:
    """`count` orders through the whole main job, without Dagster's daemon; compared with the ERP's journal."""
    with stage(faults=FAULTS if faults else (), seed=seed, stocked=True) as on, environment(on.environment):
        good, bad = _place(on.shop, count)
        connections = open_connections(load_settings())
        started = time.perf_counter()
        adopted = _send_all(connections, show)
        report = verify(on.erp.journal(), good, bad, connections)
        report.seconds = time.perf_counter() - started
        report.adopted = adopted
        report.requests = on.erp.admin("GET", "/state")["requests"]
        # Of two shop rows with one number nobody can tell which is meant: neither is told anything.
        shared = {order.number for order in bad}
        alone = [order for order in good if order.number not in shared]
        report.cancelled, report.strayed = live_on(on, connections, alone, seed=seed)
        report.stocks, report.wrong_stocks = follow_stock(on, connections, seed=seed)
        return report


def _place(shop: DemoShop, count: int) -> tuple[list[PlacedOrder], list[PlacedOrder]]:
    """`count` finalized orders, from 40 on one of each odd and each bad kind among them."""
    good: list[PlacedOrder] = []
    bad: list[PlacedOrder] = []
    if count >= 40:
        good += [shop.place_odd_order(kind) for kind in ODD_KINDS]
        bad += [shop.place_bad_order(kind) for kind in BAD_KINDS]
        good += [order.twin for order in bad if order.twin is not None]
    return good + shop.checkout_many(count - len(good) - len(bad)), bad


def _send_all(connections: Connections, show: bool) -> int:
    """As sensor and runs do it: watch, run the days that have something to do, until everything is settled."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    watch = OrdersWatch(connections)
    flow = connections.orders_flow()
    give_up = time.monotonic() + GIVE_UP_SECONDS
    adopted = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal)) as progress:
        task = progress.add_task("orders settled", total=None)
        while time.monotonic() < give_up:
            watched = watch.wait(1.0)
            if watched.needs_sweep or watched.days:
                result = flow.run(Window(days=watched.days), sweep=None)
                if isinstance(result.failure, Misconfigured):
                    raise result.failure
                adopted += result.adopted
            counts = connections.ledger.counts()
            total = sum(counts.values())
            open_ = sum(counts.get(state, 0) for state in _OPEN)
            progress.update(task, total=total, completed=total - open_)
            if total and connections.ledger.next_wake() is None and not connections.ledger.actionable(1):
                break
    return adopted


_OPEN = (LedgerState.DUE, LedgerState.SENDING, LedgerState.IN_DOUBT)


def verify(
    journal: list[dict[str, Any]], good: list[PlacedOrder], bad: list[PlacedOrder], connections: Connections
) -> Report:
    """Compare sets of orders, never counts only."""
    totals: dict[str, list[Decimal]] = {}
    for line in journal:
        if line["kind"] == "order":
            totals.setdefault(line["external_id"], []).append(Decimal(str(line["total"])))
    report = Report(orders=len(good), bad=len(bad))
    for order in good:
        found = totals.get(order.number, [])
        if not found:
            report.lost.append(order.number)
        elif len(found) > 1:
            report.twice.append(order.number)
        elif found[0] != order.total:
            report.wrong_total.append(order.number)
        else:
            report.exact += 1
    sound = {order.number for order in good}
    entries = connections.ledger.entries([str(order.order_id) for order in (*good, *bad)])
    for order in bad:
        entry = entries.get(str(order.order_id))
        if order.number in totals and order.number not in sound:
            report.bad_sent.append(order.number)
        elif entry is not None and entry.state in (LedgerState.INVALID, LedgerState.REFUSED):
            report.bad_refused += 1
    report.unsettled = sum(entry.next_at is not None for entry in entries.values())
    return report


def live_on(on: Stage, connections: Connections, orders: list[PlacedOrder], *, seed: int) -> tuple[int, list[str]]:
    """ERP users do what they do with the orders, the shop cancels some, and statuses and cancellations go both ways
    until nothing is new. Returns how many the shop cancelled, and the numbers whose shop row then disagrees."""
    users = ErpUsers(on.erp, random.Random(seed))  # noqa: S311 - a demo's dice
    flow = connections.statuses_flow()
    flow.run()
    cancelled = orders[:: int(1 / CANCELLED_SHARE)]
    for index in range(2 * len(orders)):
        users.step()
        if index % 40 == 0 and index // 40 < len(cancelled):
            on.shop.cancel(cancelled[index // 40])
    for order in cancelled[2 * len(orders) // 40 + 1 :]:
        on.shop.cancel(order)
    on.erp.set_faults()
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < give_up:
        result = flow.run()
        if isinstance(result.failure, Misconfigured):
            raise result.failure
        if (
            not (result.failure or result.changed or result.told or result.cancelled)
            and not connections.ledger.statuses_under_way()
        ):
            break
    return len(cancelled), strayed(on, connections, {order.number for order in orders}, cancelled)


def strayed(on: Stage, connections: Connections, numbers: set[str], cancelled: list[PlacedOrder]) -> list[str]:
    """By the ERP's screens and the shop's table alone."""
    from sqlalchemy import select

    from erp_sync.sandbox.shop_schema import orders

    with connections.shop.engine.connect() as connection:
        rows = {row.number: row for row in connection.execute(select(orders).where(orders.c.number.in_(numbers)))}
    wanted_gone = {order.number for order in cancelled}
    strayed = []
    after = 0
    while page := on.erp.admin("GET", f"/orders?after={after}&limit=500"):
        after = page[-1]["record"]
        for order in page:
            row = rows.pop(order["external_id"], None)
            if row is not None and not _agrees(order, row, shop_cancelled=row.number in wanted_gone):
                strayed.append(row.number)
    return sorted([*strayed, *rows])


def _agrees(order: dict[str, Any], row: Any, *, shop_cancelled: bool) -> bool:
    gone = order["deleted"] or (order["C5_NOTA"] == "XXXXXXXXX" and not order["invoices"])
    if gone or shop_cancelled:
        invoiced = any(item["C6_QTDENT"] for item in order["items"])
        return row.status == "cancelled" and (gone or invoiced)
    if not order["invoices"]:
        return row.status in ("paid", "packing")
    last = order["invoices"][-1]
    key = last["key"] or None
    return (row.invoice_number, row.invoice_series, row.invoice_key) == (last["doc"], last["series"], key)


def follow_stock(on: Stage, connections: Connections, *, seed: int) -> tuple[int, list[str]]:
    """Other channels sell and suppliers deliver; then one pass. Returns how many stocks the shop has, and the SKUs
    whose figure is not what the ERP's tables leave to be sold, less what the shop sold and the ERP does not have."""
    channels = OtherChannels(on.erp, random.Random(seed))  # noqa: S311 - a demo's dice
    for _ in range(CHANNEL_STEPS):
        channels.step()
    result = connections.stock_flow().run(accept=True)
    if result.failure is not None:
        raise result.failure
    return compared_stocks(on, connections)


def compared_stocks(on: Stage, connections: Connections) -> tuple[int, list[str]]:
    from sqlalchemy import select

    from erp_sync.sandbox.shop_schema import order_items, orders, products

    rows = on.erp.admin("GET", "/stock?limit=10000")
    left = {row["code"]: row["QATU"] - row["RESERVA"] - row["QPEDVEN"] for row in rows}
    sent = {str(entry.order_id) for entry in connections.ledger.list(state=LedgerState.SENT, limit=100_000)}
    with connections.shop.engine.connect() as connection:
        shown = {row.sku: row.stock for row in connection.execute(select(products.c.sku, products.c.stock))}
        query = select(order_items.c.order_id, order_items.c.sku, order_items.c.quantity).join(orders)
        for order_id, sku, quantity in connection.execute(query.where(orders.c.status.in_(_HOLDING))):
            if str(order_id) not in sent and sku in left:
                left[sku] -= quantity
    return len(shown), sorted(sku for sku, stock in shown.items() if stock != max(0, left[sku]))


_HOLDING = ("pending", "paid", "packing", "shipped", "delivered")


def _statuses(connections: Connections) -> list[tuple[str, int]]:
    counts = connections.ledger.status_counts()
    return [(str(status).replace("_", " "), counts.get(status, 0)) for status in OrderStatus]


def print_report(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What the ERP's own journal says", show_header=False)
    table.add_row("finalized orders", str(report.orders))
    table.add_row("in the ERP once, to the cent", str(report.exact))
    table.add_row("lost / twice / wrong total", f"{len(report.lost)} / {len(report.twice)} / {len(report.wrong_total)}")
    table.add_row("bad orders, refused with a reason", f"{report.bad_refused} of {report.bad}")
    table.add_row("bad orders that reached the ERP", str(len(report.bad_sent)))
    table.add_row("answers lost, order found in the ERP", str(report.adopted))
    back = report.exact - len(report.strayed)
    table.add_row("then lived on; the shop says what the ERP says", f"{back}, {report.cancelled} cancelled in the shop")
    right = report.stocks - len(report.wrong_stocks)
    table.add_row("other channels sold; stocks as in the ERP", f"{right} of {report.stocks}")
    table.add_row("requests per order, sending", f"{report.requests_per_order:.2f}")
    table.add_row("seconds", f"{report.seconds:.1f} ({report.exact / max(report.seconds, 0.001):.0f} orders/s)")
    console = Console()
    console.print(table)
    if report.exact_all:
        console.print("every order is in the ERP exactly once")
    else:
        for name in ("lost", "twice", "wrong_total", "bad_sent", "strayed", "wrong_stocks"):
            if numbers := getattr(report, name):
                console.print(f"{name.replace('_', ' ')}: {', '.join(numbers)}")


def run_until_interrupted(*, faults: bool, seed: int, port: int) -> None:
    """Dagster's UI and daemon over the stage, with orders arriving, until Ctrl-C (or SIGTERM)."""
    from rich.console import Console

    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Misconfigured(f"--port {port} cannot be used ({error.strerror}): give another") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    console.print("setting the stage: sandbox ERP, demo shop, ledger")
    with stage(faults=FAULTS if faults else (), seed=seed, stocked=True) as on, environment(on.environment):
        home = on.folder / "dagster"
        home.mkdir()
        shutil.copy(_instance_file(), home / "dagster.yaml")
        connections = open_connections(load_settings())
        with _dagster(home, port) as dagster:
            console.print(f"Dagster's UI: http://127.0.0.1:{port}/assets/erp/orders")
            console.print(f"the sandbox ERP: {on.erp.root_url}")
            ledger_url = shlex.quote(on.environment["ERP_SYNC_LEDGER_URL"])
            console.print(f"what became of each: ERP_SYNC_LEDGER_URL={ledger_url} erp-sync orders", soft_wrap=True)
            console.print("an order every few seconds; Ctrl-C ends everything\n")
            try:
                _orders_arrive(on, connections, dagster, console)
            except KeyboardInterrupt:
                console.print("\nending; nothing is left behind")


def _orders_arrive(on: Stage, connections: Connections, dagster: list[subprocess.Popen[bytes]], console: Any) -> None:
    shop, dice = on.shop, random.Random()  # noqa: S311 - a demo's dice
    users, channels = ErpUsers(on.erp, dice), OtherChannels(on.erp, dice)
    cancellable: deque[PlacedOrder] = deque(maxlen=20)
    placed: dict[str, float] = {}
    waits: list[float] = []
    next_order = next_line = time.monotonic()
    while all(process.poll() is None for process in dagster):
        now = time.monotonic()
        if now >= next_order:
            kinds = list(BAD_KINDS) if len(placed) % 15 == 14 else []
            order = shop.place_bad_order(kinds[len(placed) // 15 % len(kinds)]) if kinds else shop.checkout()
            placed[str(order.order_id)] = now
            next_order = now + random.expovariate(0.5)
            if kinds and cancellable:
                shop.cancel(cancellable.popleft())
            elif not kinds:
                cancellable.append(order)
        if random.random() < ERP_PACE:  # noqa: S311 - a demo's dice
            users.step()
            channels.step()
        try:
            counts = Counter(connections.ledger.counts())
            for order_id, entry in connections.ledger.entries(list(placed)).items():
                if entry.state is LedgerState.SENT and placed[order_id]:
                    waits.append(now - placed[order_id])
                    placed[order_id] = 0.0
        except ErpSyncError as error:
            console.print(str(error))
        if now >= next_line:
            next_line = now + 5
            middle = f"{sorted(waits)[len(waits) // 2]:.1f} s" if waits else "-"
            words = ", ".join(
                f"{state.value.replace('_', ' ')} {counts[state]}" for state in LedgerState if counts[state]
            )
            console.print(f"finalized {len(placed)}; ledger: {words or 'nothing yet'}; shop to ERP, median {middle}")
            there = ", ".join(f"{status} {count}" for status, count in _statuses(connections) if count)
            console.print(f"  in the ERP: {there or 'not asked yet'}; told to the shop: {connections.ledger.told()}")
        time.sleep(0.2)
    raise Misconfigured("Dagster's web server or daemon has ended by itself: start the demo again")


@contextmanager
def _dagster(home: Path, port: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Web server and daemon as an installation runs them, in process groups of their own."""
    binaries = Path(sys.executable).parent
    module = ["-m", "erp_sync.definitions"]
    commands = [
        [str(binaries / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(port), *module],
        [str(binaries / "dagster-daemon"), "run", *module],
    ]
    # What a killed process leaves among the temporary files goes with a folder of its own. Its name is short: the path
    # of a socket has at most 107 characters.
    with ExitStack() as leaves:
        scratch = leaves.enter_context(tempfile.TemporaryDirectory(prefix="erp_sync-", ignore_cleanup_errors=True))
        environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONUNBUFFERED": "1", "TMPDIR": scratch}
        log = leaves.enter_context((home / "dagster.log").open("wb"))
        # Web server and daemon would both create the instance's tables at their first start, and one would fail.
        migrate = [str(binaries / "dagster"), "instance", "migrate"]
        subprocess.run(migrate, env=environment, cwd=home, stdout=log, stderr=log, check=True)  # noqa: S603
        running = [
            subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
            for command in commands
        ]
        try:
            _wait_for(port, running, home)
            yield running
        finally:
            _end(running)


def _wait_for(port: int, running: list[subprocess.Popen[bytes]], home: Path) -> None:
    import requests

    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        if any(process.poll() is not None for process in running):
            raise Misconfigured(f"Dagster did not start: {(home / 'dagster.log').read_text()[-2000:]}")
        try:
            if requests.get(f"http://127.0.0.1:{port}/server_info", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.3)
    raise Misconfigured(
        f"Dagster's UI did not answer on port {port} within two minutes: see whether the machine is busy"
    )


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    """The whole groups: code servers and runs are children of web server and daemon."""
    for how, patience in ((signal.SIGINT, 12), (signal.SIGTERM, 3)):
        _signal(running, how)
        give_up = time.monotonic() + patience
        while any(process.poll() is None for process in running) and time.monotonic() < give_up:
            time.sleep(0.1)
    _signal(running, signal.SIGKILL)
    for process in running:
        process.wait()


def _signal(running: list[subprocess.Popen[bytes]], how: signal.Signals) -> None:
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)


def _instance_file() -> Path:
    for folder in (Path(__file__).parent.parent, Path(os.environ.get("DAGSTER_HOME") or ".")):
        if (folder / "dagster.yaml").is_file():
            return folder / "dagster.yaml"
    raise Misconfigured("dagster.yaml is not found: run the demo from a clone of erp_sync")


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_sandbox(host: str, port: int, database: Path | None, seed_shop: str | None, count: int) -> None:
    """The sandbox ERP alone, in the foreground, until Ctrl-C; first a demo shop at `seed_shop`, if asked for."""
    import click

    from erp_sync.sandbox.server import Address, run

    config = SandboxConfig(database=database)
    if seed_shop is not None:
        with _engine(seed_shop) as engine:
            create_schema(engine)
            shop = DemoShop(engine)
            shop.stock_catalogue(catalogue(PRODUCTS))
            placed = shop.checkout_many(count)
        click.echo(f"the demo shop is at {engine.url}, with {len(placed)} finalized orders", err=True)

    def ready(address: Address) -> None:
        click.echo(f"export ERP_SYNC_ERP_URL={address.root_url} ERP_SYNC_ERP_TENANT={config.tenant}")
        click.echo(f"export ERP_SYNC_ERP_USER={config.user} ERP_SYNC_ERP_PASSWORD={config.password.get_secret_value()}")
        click.echo(f"# faults, journal and products: {address.admin_url}", err=True)
        if seed_shop is not None:
            threading.Thread(target=_add_products, args=(address.admin_url,), daemon=True).start()

    try:
        run(config, host, port, ready)
    except (OSError, ValueError) as error:
        raise Misconfigured(str(error)) from None


def _add_products(admin_url: str) -> None:
    import requests

    skus = [product.sku for product in catalogue(PRODUCTS)]
    requests.post(f"{admin_url}/products", json=skus, timeout=30).raise_for_status()


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    import sqlalchemy as sa

    from erp_sync.database_mysql import mysql_engine
    from erp_sync.database_url import parse_url, tls_context

    address = parse_url("--seed-shop", url)
    if address.get_backend_name() == "sqlite":
        engine = sa.create_engine(address)
    else:
        engine = mysql_engine(address, tls_context("--seed-shop", address), {})
    try:
        yield engine
    except sa.exc.DBAPIError as error:
        raise Misconfigured(f"the demo shop cannot be created at {engine.url}: {type(error.orig).__name__}") from None
    finally:
        engine.dispose()
