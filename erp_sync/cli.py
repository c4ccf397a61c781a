"""The `erp-sync` command. Logs go to stderr, results to stdout, `--json` alone to stdout.

Exit codes: 0 the pass did its work (refusals included); 1 the system failed, or a guard stopped it; 2 bad usage,
settings or credentials.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from erp_sync.errors import ErpSyncError, Misconfigured
from erp_sync.scrub import redact

if TYPE_CHECKING:
    from rich.progress import Progress

    from erp_sync.ledger.entry import Entry
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.ledger.reconciled_day import ReconciledDay
    from erp_sync.ledger.status_entry import StatusEntry
    from erp_sync.settings import Settings
    from erp_sync.sync.connections import Connections
    from erp_sync.sync.forgetting import ForgetResult
    from erp_sync.sync.reconcile import ReconcileResult
    from erp_sync.sync.results import OrdersResult, StatusesResult, StockResult
    from erp_sync.sync.retention import LedgerPurged

Result = TypeVar(
    "Result", "OrdersResult", "StatusesResult", "StockResult", "ReconcileResult", "LedgerPurged", "ForgetResult"
)

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of a table.")


def main() -> None:
    try:
        # Not standalone, click gives an Exit's code back instead of leaving with it.
        sys.exit(cli(standalone_mode=False))
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        words = io.StringIO()
        error.show(words)
        click.echo(redact(words.getvalue()), err=True, nl=False)
        sys.exit(2)
    except Misconfigured as error:
        click.echo(redact(f"erp-sync: {error}"), err=True)
        sys.exit(2)
    except ErpSyncError as error:
        click.echo(redact(f"erp-sync: {error.in_full()}"), err=True)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-v", "--verbose", is_flag=True, help="Log each call to the ERP to stderr.")
@click.option("--json-logs", is_flag=True, help="Log one JSON object a line, and at INFO.")
def cli(verbose: bool, json_logs: bool) -> None:
    """Sends a shop's finalized orders to TOTVS Protheus, exactly once.

    Addresses and secrets come from the environment (ERP_SYNC_SHOP_URL, ERP_SYNC_LEDGER_URL, ERP_SYNC_ERP_URL,
    ERP_SYNC_ERP_USER, ERP_SYNC_ERP_PASSWORD, ERP_SYNC_ERP_TENANT), everything else from the TOML file that
    ERP_SYNC_CONFIG names. `erp-sync demo` needs none of them.
    """
    from erp_sync.logs import configure_logs

    quiet = logging.INFO if json_logs else logging.WARNING
    level = logging.DEBUG if verbose else quiet
    configure_logs("json" if json_logs else "text", stream=sys.stderr, level=level)


@cli.command()
@click.option("--once", is_flag=True, help="Run the whole main job headless on N orders, check it, and exit.")
@click.option(
    "--orders",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="With --once: how many orders are finalized.",
)
@click.option("--faults/--no-faults", default=True, show_default=True, help="Let the sandbox ERP misbehave.")
@click.option("--seed", default=1, show_default=True, help="Of the demo data and of the faults.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Of Dagster's UI, on 127.0.0.1."
)
@JSON
def demo(*, once: bool, orders: int, faults: bool, seed: int, port: int, as_json: bool) -> None:
    """Sandbox ERP, demo shop, ledger and Dagster on this machine, with orders arriving.

    Nothing outside a temporary folder is touched, and Ctrl-C removes it. With --once the orders go through without
    Dagster's daemon, are compared with the sandbox's own journal, and the exit code tells: 0 if each order is in the
    ERP exactly once with its exact total.
    """
    from erp_sync import demo as demos

    given = click.get_current_context().find_root().params
    if not (given["verbose"] or given["json_logs"]):
        # What became of single orders is told by the demo's own words.
        logging.getLogger("order_story").setLevel(logging.ERROR)
    if once:
        report = demos.run_once(orders, faults=faults, seed=seed, show=not as_json)
        if as_json:
            click.echo(json.dumps(report.as_json()))
        else:
            demos.print_report(report)
        raise click.exceptions.Exit(0 if report.exact_all else 1)
    demos.run_until_interrupted(faults=faults, seed=seed, port=port)


@cli.command()
def migrate() -> None:
    """Create the ledger's tables, or bring them up to date. Safe to repeat, and while everything runs."""
    from erp_sync.ledger.migrate import migrate as upgrade
    from erp_sync.settings import load_settings

    revision = upgrade(load_settings().require_ledger_url())
    click.echo(f"the ledger is at revision {revision}")


@cli.command()
@click.option("--alive", is_flag=True, help="Only whether the alarms are at work: exit code 1 where they are not.")
@JSON
def doctor(*, alive: bool, as_json: bool) -> None:
    """What is missing or wrong, and what to do: settings, shop, ledger, ERP, Dagster, Slack, AWS, open incidents.

    Only looks: nothing is written, migrated, sent or posted but its own turns in the ledger's queue for the ERP. Exit
    code 2 where settings are missing or wrong (what can be looked at without them is), 1 where anything else is an
    error, 0 with warnings at most.
    --alive needs ERP_SYNC_LEDGER_URL alone, for a container's health check or a cron job outside Dagster: exit code 1
    where the alarms gave no sign for alerts.alive_seconds.
    """
    if alive:
        _alive(as_json)
    from erp_sync.definitions import build_definitions
    from erp_sync.defs.doctor import dagster
    from erp_sync.doctor.alarms import alarms, report_of
    from erp_sync.doctor.areas import AREAS
    from erp_sync.doctor.examination import Area, examine, worst
    from erp_sync.doctor.installation import installation

    known = installation()
    areas: dict[str, Area] = {**AREAS, "Dagster": partial(dagster, build=build_definitions), "incidents": alarms}
    with _progress() as progress:
        task = progress.add_task("looking")
        lines = examine(
            known, areas, progress=lambda left: progress.update(task, description=f"looking at {', '.join(left)}")
        )
    counts = Counter(finding.level for findings in lines.values() for finding in findings)
    if as_json:
        answers = all(finding.level != "error" for finding in lines["ledger"])
        report = report_of(known.settings) if answers else None
        said = {
            "errors": counts["error"],
            "warnings": counts["warning"],
            "areas": {area: [asdict(finding) for finding in findings] for area, findings in lines.items()},
            **(report.as_json() if report is not None else {}),
        }
        click.echo(json.dumps(said, ensure_ascii=False))
    else:
        for area, findings in lines.items():
            click.echo(area)
            for finding in findings:
                click.echo(f"  {finding.level:<8} {finding.subject}: {finding.message}")
                if finding.advice and finding.level != "ok":
                    click.echo(f"{'':<11}-> {finding.advice}")
        click.echo(f"errors {counts['error']}, warnings {counts['warning']}")
    raise click.exceptions.Exit(worst(lines))


def _alive(as_json: bool) -> NoReturn:
    from erp_sync.doctor import watch
    from erp_sync.ledger.ledger import open_ledger
    from erp_sync.settings import load_settings

    settings = load_settings()
    ledger = open_ledger(settings.require_ledger_url())
    click.get_current_context().call_on_close(ledger.close)
    report = watch.examine(ledger, settings)
    if as_json:
        click.echo(json.dumps(report.as_json(alive_only=True), ensure_ascii=False))
    else:
        finding = report.watch()
        advice = f": {finding.advice}" if finding.level != "ok" else ""
        click.echo(f"{finding.subject:<8} {finding.message}{advice}")
    raise click.exceptions.Exit(0 if report.alive else 1)


@cli.group()
def run() -> None:
    """One pass of a flow, without Dagster: the same code."""


@run.command("orders")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Only orders of this business day.")
@click.option("--number", "numbers", multiple=True, help="Only this order. May be repeated.")
@click.option("--sweep", is_flag=True, help="Look at every order of the shop, not only at the last day's changes.")
@JSON
def run_orders(day: datetime | None, numbers: Sequence[str], sweep: bool, as_json: bool) -> None:
    """Send what is due: found in the shop, looked up in the ERP, created, read back.

    Without --day and --number: everything since orders.start_day.
    """
    from erp_sync.sync.pipeline import Window

    connections = _connections()
    connections.erp.probe()
    flow = connections.orders_flow()
    if numbers:
        _known(numbers, flow.look_for(numbers))
    window = Window(days=[day.date()] if day else None, numbers=numbers or None)
    sweep = sweep or not (day or numbers)
    _finish_orders(lambda show: flow.run(window, sweep=sweep, budget=math.inf, progress=show), as_json)


@run.command("statuses")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Only orders of this business day, final ones too.")
@click.option("--number", "numbers", multiple=True, help="Only this order, final or not. May be repeated.")
@JSON
def run_statuses(day: datetime | None, numbers: Sequence[str], as_json: bool) -> None:
    """Ask the ERP what became of the orders it has, cancel there what the shop cancelled, and tell the shop.

    Without --day and --number: every order that is not final, however recently it was asked for.
    """
    from erp_sync.sync.statuses import StatusWindow

    connections = _connections()
    connections.erp.probe()
    if numbers:
        _known(numbers, {number for number in numbers if connections.ledger.by_number(number)})
    window = StatusWindow(day=day.date() if day else None, numbers=numbers or None, everything=not (day or numbers))
    flow = connections.statuses_flow()

    def words(result: StatusesResult) -> str:
        return f"asked {result.asked}, changed {result.changed}, told {result.told}, cancelled {result.cancelled}"

    result = _with_progress("asking the ERP", words, lambda show: flow.run(window, budget=math.inf, progress=show))
    names = ("asked", "changed", "told", "kept", "cancelled", "too_late", "cancel_refused")
    _finish(result, names, as_json)


@run.command("stock")
@click.option("--dry-run", is_flag=True, help="Compare only: print what would change, and write nothing.")
@click.option("--accept", is_flag=True, help="Write it however many stocks change (stock.max_change_share).")
@click.option(
    "--csv", type=click.Path(path_type=Path), help="All differences go into this file (stock.differences_csv)."
)
@JSON
def run_stock(dry_run: bool, accept: bool, csv: Path | None, as_json: bool) -> None:
    """Read the ERP's stock and write what may be sold to the shop: only what differs, and up only by fresh figures.

    Exit code 1 where more than stock.max_change_share of the stocks would change: then nothing is written.
    """
    if dry_run and accept:
        raise click.UsageError("--dry-run writes nothing, so there is nothing to --accept: give one of them")
    connections = _connections()
    connections.erp.probe()
    flow = connections.stock_flow()

    def words(result: StockResult) -> str:
        return f"products {result.skus}, different {result.different}, written {result.written}"

    result = _with_progress(
        "reading the ERP's stock",
        words,
        lambda show: flow.run(dry_run=dry_run, accept=accept, budget=math.inf, csv=csv, progress=show),
    )
    if dry_run and not as_json:
        for change in result.changes:
            place = f"{change.sku} ({change.warehouse})" if change.warehouse else change.sku
            click.echo(f"{place}: {change.before} -> {change.after}")
        if result.different > len(result.changes):
            click.echo(f"and {result.different - len(result.changes)} smaller changes")
    names = (
        "skus",
        "found",
        "unknown",
        "unknown_to_erp",
        "asked_by_name",
        "zero_by_name",
        "ambiguous",
        "different",
        "written",
        "raised",
        "lowered",
        "held_back",
        "failed",
    )
    _finish(result, names, as_json)
    if result.guard:
        raise _Stopped(result.guard)
    if result.csv_problem:
        raise click.ClickException(result.csv_problem)


@run.command("reconcile")
@click.option("--day", "days", type=click.DateTime(["%Y-%m-%d"]), multiple=True, help="This day. May be repeated.")
@click.option("--csv", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write what was found here too.")
@JSON
def run_reconcile(days: Sequence[datetime], file: Path | None, as_json: bool) -> None:
    """Compare shop, ledger and ERP order by order: did every order of the day arrive, to the cent?

    Without --day: the last business days ([reconcile] days, 3) and today so far. What repairs itself is told to the
    flows; for the rest it says who decides. Findings are no failure: the exit code is 0.
    """
    from erp_sync.sync.reconcile_report import table_rows, write_csv

    connections = _connections()
    connections.erp.probe()
    flow = connections.reconcile_flow()
    wanted = [day.date() for day in days] or flow.last_days()
    result = _with_progress(
        "comparing shop and ERP", lambda done: f"days {len(done.days)}", lambda show: flow.run(wanted, progress=show)
    )
    language = connections.settings.language
    rows = list(table_rows(result.days, language))
    if as_json:
        click.echo(json.dumps([_figures(day, rows) for day in result.days], ensure_ascii=False))
    else:
        for day in result.days:
            click.echo(
                f"{day.day}: shop {day.shop_orders} orders {day.shop_value:.2f}, ERP {day.erp_orders} orders "
                f"{day.erp_value:.2f}, on their way {day.waiting}, findings {len(day.findings)}"
            )
        for row in rows:
            figures = f"shop {row['shop'] or '-'}, ERP {row['erp'] or '-'}"
            click.echo(f"{row['day']} {row['order']}: {row['finding']} ({figures}): {row['what_to_do']}")
            if row["note"]:
                click.echo(f"  {row['note']}")
    if file is not None:
        try:
            write_csv(file, result.days, language)
        except OSError as error:
            raise click.UsageError(f"--csv {file}: cannot be written: {error.strerror}") from None
    if result.failure is not None:
        raise result.failure


def _figures(day: ReconciledDay, rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    names = ("shop_orders", "shop_value", "erp_orders", "erp_value", "value_difference", "waiting")
    minutes = ("median_minutes", "p95_minutes", "statuses")
    return {
        "day": day.day.isoformat(),
        **{name: _text(getattr(day, name)) for name in (*names, *minutes)},
        "findings": [row for row in rows if row["day"] == day.day.isoformat()],
    }


class _Stopped(ErpSyncError):
    """A guard stopped it: exit code 1."""

    def in_full(self) -> str:
        return str(self)


@cli.command()
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER...")
@JSON
def retry(numbers: Sequence[str], as_json: bool) -> None:
    """Try refused, invalid or cancelled orders again, now. An order that the ERP has is never created again."""
    from erp_sync.sync.pipeline import Window

    flow = _connections().orders_flow()
    _known(numbers, flow.retry(numbers))
    window = Window(numbers=numbers)
    _finish_orders(lambda show: flow.run(window, budget=math.inf, progress=show), as_json)


@cli.command()
@click.argument("number")
@JSON
def order(number: str, as_json: bool) -> None:
    """The whole story of one order. Needs ERP_SYNC_LEDGER_URL alone."""
    ledger = _ledger()
    entries = ledger.by_number(number)
    if not entries:
        raise click.ClickException(
            f"the ledger knows no order {number!r}: see `erp-sync orders`, or look for it with "
            f"`erp-sync run orders --number {number}`"
        )
    statuses = ledger.statuses([entry.order_id for entry in entries])
    stories = [(entry, statuses.get(entry.order_id), _story(ledger, entry.order_id)) for entry in entries]
    # Every change of an entry is a step with its version: where some are missing, retention took them.
    shortened = {
        entry.order_id for entry, _, story in stories if sum("state" in line for line in story) < entry.version
    }
    if as_json:
        lines = [
            {**_plain(entry), **_life(status), "story": story, "story_shortened": entry.order_id in shortened}
            for entry, status, story in stories
        ]
        click.echo(json.dumps(lines[0] if len(lines) == 1 else lines, ensure_ascii=False))
        return
    for entry, status, story in stories:
        where = f", ERP order {entry.erp_number} in branch {entry.erp_branch}" if entry.erp_number else ""
        life = f", {status.status} there" if status is not None and status.status else ""
        click.echo(f"order {entry.number} of {entry.day}: {entry.state}{where}{life}")
        for problem in (*entry.problems, *(status.problems if status is not None else ())):
            click.echo(f"  ! {problem}")
        for line in story:
            took = f" ({line['milliseconds']:.0f} ms)" if line.get("milliseconds") is not None else ""
            erp_at = line.get("erp_at")
            clock = f" [{datetime.fromisoformat(erp_at):%H:%M:%S} UTC in the ERP]" if erp_at else ""
            at = datetime.fromisoformat(line["at"])
            click.echo(f"  {at:%Y-%m-%d %H:%M:%S} UTC  {line['kind']:<16} {line['text']}{took}{clock}")
        if entry.order_id in shortened:
            click.echo(
                "  (the routine steps in between were deleted: it was final for longer than [retention] event_days)"
            )


@cli.command()
@click.option("--state", type=click.Choice(["due", "sending", "in_doubt", "sent", "refused", "invalid", "cancelled"]))
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Only orders of this business day.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The newest so many.")
@JSON
def orders(state: str | None, day: datetime | None, limit: int, as_json: bool) -> None:
    """What the ledger knows: number, day, state, ERP number, and what is wrong. Needs ERP_SYNC_LEDGER_URL alone."""
    from erp_sync.models import LedgerState

    ledger = _ledger()
    entries = ledger.list(state=LedgerState(state) if state else None, day=day.date() if day else None, limit=limit)
    statuses = ledger.statuses([entry.order_id for entry in entries])
    if as_json:
        lines = [{**_plain(entry), **_life(statuses.get(entry.order_id))} for entry in entries]
        click.echo(json.dumps(lines, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("order", "day", "state", "ERP order", "there", "total", "problem", box=None)
    for entry in entries:
        life = statuses.get(entry.order_id)
        problem = "; ".join(map(str, (*entry.problems, *(life.problems if life else ()))))
        total = "" if entry.total is None else f"{entry.total:.2f}"
        there = (life.status if life else None) or ""
        table.add_row(entry.number, str(entry.day or ""), entry.state, entry.erp_number, there, total, problem)
    # Without markup: "[" is a letter like any other in a number. A pipe gets one line an order, however long.
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table if entries else "no such order")


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@JSON
def purge(dry_run: bool, as_json: bool) -> None:
    """Delete what the ledger kept for long enough ([retention] event_days): routine steps of orders that are final.

    Orders stay, and with them when each was found, sent and done. Needs ERP_SYNC_LEDGER_URL alone. Where Dagster runs,
    its job `retention` does it every night.
    """
    from erp_sync.settings import load_settings
    from erp_sync.sync.retention import purge_ledger

    ledger, settings = _ledger(), load_settings()

    def words(result: LedgerPurged) -> str:
        return f"orders shortened {result.orders}, steps {result.steps}"

    result = _with_progress(
        "looking for old orders", words, lambda show: purge_ledger(ledger, settings, dry_run=dry_run, progress=show)
    )
    figures = {"orders": result.orders, "steps": result.steps, **result.rows}
    if as_json:
        click.echo(json.dumps(figures))
    else:
        click.echo(", ".join(f"{name} {count}" for name, count in figures.items()))


@cli.command()
@click.option(
    "--tax-id",
    required=True,
    metavar="CPF|CNPJ",
    help="Whose; - asks for it, or reads a line of stdin, for no history.",
)
@click.option("--dry-run", is_flag=True, help="Only count what would be taken out.")
@JSON
def forget(tax_id: str, dry_run: bool, as_json: bool) -> None:
    """Take a person out of the ledger (LGPD): nothing in it tells any more which orders are his.

    Numbers, amounts, states, ERP numbers and invoices stay. To be run before shop and ERP forget him: they are asked
    which orders are his. Safe beside everything that runs, and to repeat. Exit code 1 where some of his orders are
    still on their way: they are left as they are, and it has to be run again.
    """
    from erp_sync.scrub import never_show
    from erp_sync.sync.forgetting import forget as forget_person
    from erp_sync.tax_id import mask, normalize

    if tax_id == "-":
        tax_id = click.prompt("CPF or CNPJ", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    try:
        person = normalize(tax_id.strip())
    except ValueError as error:
        raise Misconfigured(f"--tax-id: {error}") from None
    never_show([person, tax_id.strip()])
    connections = _connections()

    def words(result: ForgetResult) -> str:
        return f"orders looked at {result.seen}, forgotten {result.orders}"

    def run_it(show: Callable[[ForgetResult], None]) -> ForgetResult:
        shop, ledger, erp = connections.shop, connections.ledger, connections.erp
        return forget_person(person, shop, ledger, erp, connections.settings, dry_run=dry_run, progress=show)

    result = _with_progress("asking shop and ERP", words, run_it)
    if as_json:
        figures = ("orders", "already", "postponed", "customer_postponed", "incidents", "complete")
        shown = {name: getattr(result, name) for name in figures}
        click.echo(json.dumps({"tax_id": mask(person), "dry_run": dry_run, **shown}))
    else:
        done = "would no longer tell" if dry_run else "no longer tell"
        click.echo(f"{mask(person)}: {result.orders} orders {done} whose they are, {result.already} did not before")
        click.echo(
            "Not touched, because it is theirs: what the shop and the ERP hold. Dagster's runs and the logs never held "
            "more than order numbers and the last two digits; deploy/privacy.md says when they go."
        )
    if not result.complete:
        raise _Stopped(_postponed(result.postponed))


def _postponed(numbers: Sequence[str]) -> str:
    again = "run it again in an hour"
    if not numbers:
        return f"the person was created in the ERP a moment ago, and that is still to be remembered: {again}"
    shown = ", ".join(numbers[:10]) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
    return f"still on their way, in doubt or being told to the shop, and left as they are: {shown}; {again}"


@cli.group()
def profile() -> None:
    """Profiles describe a shop's database (one TOML file with SQL in it)."""


@profile.command("check")
@click.argument("file")
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="How many of the newest ready orders are added up.",
)
@JSON
def profile_check(file: str, sample: int, as_json: bool) -> None:
    """Check a profile (a path, or a shipped name such as `laravel`) against the shop.

    Its data stays as it is: statuses are written to the newest order in a transaction that is rolled back.
    """
    from erp_sync.doctor.examination import shown
    from erp_sync.settings import load_settings
    from erp_sync.shop.check import check_profile
    from erp_sync.shop.database import open_shop
    from erp_sync.shop.profile import load_profile
    from erp_sync.shop.statuses import open_shop_statuses

    url, described = load_settings().require_shop_url(), load_profile(file)
    found = check_profile(open_shop(url, described), open_shop_statuses(url, described), sample=sample)
    findings = [shown(finding) for finding in found]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False))
    else:
        for finding in findings:
            click.echo(f"{finding.level:<8} {finding.subject}: {finding.message}")
            if finding.advice:
                click.echo(f"{'':<9}{finding.advice}")
    raise click.exceptions.Exit(1 if any(finding.level == "error" for finding in findings) else 0)


@profile.command("grants")
@click.argument("file")
@click.option("--shop", default="shop", show_default=True, help="The name of the shop's database.")
@click.option("--ledger", default="erp_sync", show_default=True, help="The name of the ledger's database.")
def profile_grants(file: str, shop: str, ledger: str) -> None:
    """Print the least rights that a profile (a path, or a shipped name) needs, as SQL. Nothing is connected to."""
    from erp_sync.shop.grants import grants_file
    from erp_sync.shop.profile import load_profile

    for option, name in (("--shop", shop), ("--ledger", ledger)):
        if not name.strip() or not name.isprintable():
            raise click.UsageError(f"{option} {name!r} is no database's name: give the one in the address")
    click.echo(grants_file(load_profile(file), shop, ledger), nl=False)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", type=click.IntRange(0, 65535), default=8091, show_default=True, help="0 takes any free one.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain, PEM. At least TLS 1.2 is spoken.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key, PEM, without a password.")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front ends TLS: plain HTTP beyond loopback is meant.")
@click.option(
    "--trusted-proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Address or network of a proxy whose X-Forwarded-For is believed. May be repeated. Without: of nobody.",
)
def webhook(
    *,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    trusted_proxies: Sequence[str],
) -> None:
    """Receive the shop's webhooks: POST /webhooks/SOURCE, for each [webhook.sources.SOURCE] of the settings.

    A webhook whose signature is right is stored in the ledger and confirmed; only the order's id is taken from it. That
    order is then read from the shop and sent at once; with DAGSTER_HOME, Dagster is told of it once a minute. Neither
    shop nor ledger nor ERP has to be there when it starts. GET /healthz says whether the process answers, GET /readyz
    whether an event could be stored now.

    \b
    On one machine with the shop:  erp-sync webhook
    Open to a network:             erp-sync webhook --host 0.0.0.0 --tls-cert chain.pem --tls-key key.pem
    Behind nginx or an ALB:        erp-sync webhook --host 10.0.3.7 --behind-proxy --trusted-proxies 10.0.3.0/24
    """
    from erp_sync.ledger.ledger import open_ledger
    from erp_sync.sync.connections import check_settings, open_connections
    from erp_sync.sync.express import Express
    from erp_sync.webhook.app import receiver
    from erp_sync.webhook.server import Listening, serve

    settings = _settings(service=True)
    context = click.get_current_context()
    ledger = open_ledger(settings.require_ledger_url(), check=False)
    context.call_on_close(ledger.close)
    express = Express(settings, lambda: open_connections(settings), _observations(context))
    context.call_on_close(express.close)
    app = receiver(settings, ledger, notify=express.notify)
    check_settings(settings)

    def begin() -> None:
        express.start()
        # What is loaded by now stays: no collection of garbage walks through it any more while an order waits.
        gc.freeze()

    serve(app, Listening(host, port, tls_cert, tls_key, behind_proxy, tuple(trusted_proxies)), begin)


def _observations(context: click.Context) -> Callable[[OrdersResult], None]:
    if not os.environ.get("DAGSTER_HOME"):
        return lambda _: None
    from erp_sync.defs.observations import Observations

    observations = Observations()
    context.call_on_close(observations.close)
    return observations.note


def _settings(*, service: bool = False) -> Settings:
    """And logs as they say, unless a person reads them: what runs on and on has no reader at its side."""
    from erp_sync.logs import configure_logs
    from erp_sync.settings import load_settings

    settings = load_settings()
    logs, given = settings.logs, click.get_current_context().find_root().params
    form = "json" if given["json_logs"] else logs.format or ("json" if service else "text")
    if form == "json" or service:
        configure_logs(
            form,
            stream=sys.stderr,
            level=logging.DEBUG if given["verbose"] else logs.threshold,
            environment=logs.environment,
            cloudwatch_group=logs.cloudwatch_group,
        )
    return settings


def _connections() -> Connections:
    from erp_sync.sync.connections import open_connections

    connections = open_connections(_settings())
    click.get_current_context().call_on_close(connections.close)
    return connections


def _ledger() -> Ledger:
    from erp_sync.ledger.ledger import open_ledger
    from erp_sync.ledger.migrate import migrate as upgrade

    url = _settings().require_ledger_url()
    upgrade(url)
    ledger = open_ledger(url)
    click.get_current_context().call_on_close(ledger.close)
    return ledger


def _known(numbers: Sequence[str], found: set[str]) -> None:
    unknown = [number for number in numbers if number not in found]
    if unknown:
        raise click.ClickException(f"neither the shop nor the ledger has an order {', '.join(map(repr, unknown))}")


def _finish_orders(run: Callable[[Callable[[OrdersResult], None]], OrdersResult], as_json: bool) -> None:
    def words(result: OrdersResult) -> str:
        return f"sent {result.sent}, adopted {result.adopted}, refused {result.refused}, invalid {result.invalid}"

    result = _with_progress("looking for orders", words, run)
    _finish(result, ("found", "sent", "adopted", "refused", "invalid", "due", "in_doubt"), as_json)


def _with_progress(
    beginning: str, words: Callable[[Result], str], run: Callable[[Callable[[Result], None]], Result]
) -> Result:
    with _progress() as progress:
        task = progress.add_task(beginning)
        return run(lambda result: progress.update(task, description=words(result)))


def _progress() -> Progress:
    """On a terminal alone."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _finish(result: OrdersResult | StatusesResult | StockResult, names: Sequence[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({name: getattr(result, name) for name in names}))
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')} {getattr(result, name)}" for name in names))
    if result.failure is not None:
        raise result.failure


def _story(ledger: Ledger, order_id: str) -> list[dict[str, Any]]:
    """All events of an order, on its way to the ERP and there, the oldest first."""
    sending = [{"at": at.isoformat(), "state": state, **asdict(event)} for at, event, state in ledger.story(order_id)]
    living = [
        {"at": at.isoformat(), "status": status, "kind": event.kind, "text": event.text, "erp_at": _text(event.erp_at)}
        for at, event, status in ledger.status_story(order_id)
    ]
    return sorted([*sending, *living], key=lambda line: datetime.fromisoformat(line["at"]))


def _plain(entry: Entry) -> dict[str, Any]:
    plain = {name: _text(value) for name, value in asdict(entry).items()}
    del plain["customer_key"], plain["payload_hash"], plain["version"]
    return plain


def _life(entry: StatusEntry | None) -> dict[str, Any]:
    """What has become of it in the ERP; {} before it is there."""
    if entry is None:
        return {}
    invoices = [{name: _text(value) for name, value in asdict(invoice).items()} for invoice in entry.invoices]
    return {
        "status": entry.status,
        "invoices": invoices,
        "told_status": entry.told_status,
        "cancellation": entry.cancellation,
        "status_problems": [asdict(problem) for problem in entry.problems],
    }


def _text(value: object) -> Any:
    return value.isoformat() if isinstance(value, date) else str(value) if isinstance(value, Decimal) else value


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="0 takes any free one.")
@click.option("--database", type=click.Path(path_type=Path), help="Keep the ERP's memory and journal in this file.")
@click.option("--seed-shop", metavar="URL", help="Create the demo shop's tables and catalogue at this SQLAlchemy URL.")
@click.option(
    "--orders", type=click.IntRange(0), default=0, show_default=True, help="With --seed-shop: so many finalized orders."
)
def sandbox(host: str, port: int, database: Path | None, seed_shop: str | None, orders: int) -> None:
    """An ERP that behaves like Protheus, alone; and, with --seed-shop, a demo shop for it.

    Prints the REST root, user and password to use; faults are set at run time through {root}/../sandbox.
    """
    from erp_sync import demo as demos

    demos.run_sandbox(host, port, database, seed_shop, orders)
