"""What analysts and ops do in the browser: find the red days in the graph, see why, read the checks, backfill them.

`ERP_SYNC_PICTURES=folder python -m pytest erp_sync_tests/test_ui.py` keeps what was seen; README.md's pictures are
asset-graph.png and backfill.png of it.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import FloatRect, Page, ViewportSize, expect, sync_playwright

from erp_sync.defs.names import AGREES, ERP_ORDERS, HEALTH_RECONCILIATION, ORDERS_JOB
from erp_sync.demo import Stage, environment, stage
from erp_sync.sandbox.shop_schema import orders
from erp_sync.settings import load_settings
from erp_sync.sync.connections import open_connections
from erp_sync_tests.live import CONFIG, LiveDagster, numbers_in, today, until

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 40_000
WINDOW: ViewportSize = {"width": 1400, "height": 800}


@pytest.fixture
def live() -> Iterator[tuple[Stage, LiveDagster]]:
    with (
        stage(latency_ms=20, config=CONFIG + "[statuses]\nevery_minutes = 1\n[stock]\nevery_minutes = 1\n") as on,
        LiveDagster(on) as dagster,
    ):
        yield on, dagster


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport=WINDOW)
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield page
        browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where what was seen is kept."""
    return Path(os.environ.get("ERP_SYNC_PICTURES", tmp_path))


def test_failed_days_are_seen_and_backfilled_in_the_browser(
    live: tuple[Stage, LiveDagster], page: Page, pictures: Path
) -> None:
    on, dagster = live
    on.erp.kill()
    days = [today() - timedelta(days=1), today()]
    order, older, refused = on.shop.checkout(), on.shop.place_order(), on.shop.place_bad_order("payment")
    on.shop.change_order(older, placed_at=on.shop.now() - timedelta(days=1))
    on.shop.finalize(older)
    dagster.start()

    # The sensor finds the orders, and its run meets a dead ERP. With the sensor stopped, as in a maintenance window,
    # nothing but the backfill can send them.
    with dagster.instance() as instance:
        failures = dg.RunsFilter(job_name=ORDERS_JOB, statuses=[dg.DagsterRunStatus.FAILURE])
        until("a run fails", lambda: instance.get_runs(failures), 90)
    page.goto(f"{dagster.url}/locations/erp_sync.definitions/sensors/finalized_orders")
    switch = page.locator("input[type=checkbox]").first
    expect(switch).to_be_checked()
    switch.dispatch_event("click")
    expect(switch).not_to_be_checked()
    _wait_for_runs(dagster)
    for day in days:
        until("the day's last run fails", partial(_run_fails, dagster, day), 90)

    # From the graph to the day, and to the run that says why.
    _see_the_whole_graph(page, dagster)
    failed = page.get_by_text("(2 failed)")
    expect(failed).to_be_visible()
    _keep(page, pictures / "graph-with-failed-days.png")
    failed.click()
    page.set_viewport_size(WINDOW)
    expect(page.get_by_text("Failed (2)")).to_be_visible()
    page.goto(f"{dagster.url}/assets/erp/orders?view=partitions&partition={days[0]}")
    expect(page.get_by_text("failed, and did not materialize this asset")).to_be_visible()
    _keep(page, pictures / "failed-day.png")
    page.locator("a[href^='/runs/']").first.click()
    expect(page.get_by_text("the ERP").first).to_be_visible()
    _keep(page, pictures / "why-it-failed.png")

    page.goto(f"{dagster.url}/assets/erp/orders?view=checks&checkDetail=no_order_refused")
    expect(page.get_by_text("Refused by the ERP, or cannot be sent as they are: 1 order").first).to_be_visible()
    expect(page.get_by_text(refused.number)).to_be_visible()
    expect(page.get_by_text("what_to_do")).to_be_visible()
    _keep(page, pictures / "failed-check.png")
    on.shop.change_order(refused, payment_method="pix")

    on.erp.restart()
    _wait_for_breaker(on, retry=refused.number)
    assert numbers_in(on) == []
    until("the failed days are chosen", lambda: _choose_the_failed_days(page, dagster), 90)
    _keep(page, pictures / "backfill.png", clip=page.get_by_role("dialog").bounding_box())
    page.get_by_role("dialog").get_by_role("button", name="Launch").click()
    numbers = sorted(placed.number for placed in (order, older, refused))
    until("the orders are in the ERP", lambda: sorted(numbers_in(on)) == numbers, 60)
    page.goto(f"{dagster.url}/assets/erp/orders?view=partitions&partition={today()}")
    expect(page.get_by_text("Materialized (2)")).to_be_visible()
    expect(page.get_by_text("Failed (0)")).to_be_visible()
    expect(page.get_by_text("orders_sent").first).to_be_visible()
    _keep(page, pictures / "green-again.png")

    page.goto(f"{dagster.url}/locations/erp_sync.definitions/sensors/finalized_orders")
    switch.dispatch_event("click")
    expect(switch).to_be_checked()
    page.goto(f"{dagster.url}/assets/erp/orders?view=checks&checkDetail=no_order_refused")
    expect(page.get_by_text("No order is refused or invalid.")).to_be_visible()


def _choose_the_failed_days(page: Page, dagster: LiveDagster) -> bool:
    """The dialog knows which days failed only some time after it opens; what is chosen before that is nothing."""
    page.goto(f"{dagster.url}/assets/erp/orders?view=partitions")
    page.get_by_role("button", name="Materialize…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Failed", exact=True).click()
    chosen = dialog.get_by_text("2 partitions", exact=True)
    with suppress(AssertionError):
        expect(chosen).to_be_visible(timeout=5_000)
    return chosen.is_visible()


def _run_fails(dagster: LiveDagster, day: date) -> bool:
    """A run of this day, started in a shell. Whether it failed: one that finds nothing due at its moment does not."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "erp_sync.definitions"]
    options = ["--select", "erp/orders", "--partition", day.isoformat()]
    done = subprocess.run([*command, *options], env=dagster.environment, capture_output=True, check=False, timeout=80)
    return done.returncode != 0


def _wait_for_runs(dagster: LiveDagster) -> None:
    at_work = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.QUEUED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
        ]
    )
    with dagster.instance() as instance:
        until("no run is under way", lambda: not instance.get_runs(at_work), 120)


def _wait_for_breaker(on: Stage, *, retry: str) -> None:
    """Until it lets a run ask the ERP again. `retry`: this order is made due, as `erp-sync retry` does."""
    with environment(on.environment):
        connections = open_connections(load_settings())
    gate = connections.gate
    assert connections.orders_flow().retry([retry])
    until("the breaker asks again", lambda: gate.breaker_open() is None or gate.probe_is_due(), 70)
    connections.close()


def _see_the_whole_graph(page: Page, dagster: LiveDagster) -> None:
    """All groups open, with the details that only a wide window shows."""
    page.set_viewport_size({"width": 2200, "height": 900})
    page.goto(f"{dagster.url}/asset-groups")
    expect(page.locator("text=health >> visible=true")).to_have_count(2)
    page.keyboard.press("Alt+e")
    expect(page.get_by_text("81 partitions")).to_have_count(3)


def _the_asset_graph(page: Page, dagster: LiveDagster, pictures: Path) -> None:
    """From the shop, which is only observed, to the ERP and back, and whether they agree; stock the other way."""
    _see_the_whole_graph(page, dagster)
    tags = sorted([*_places(page, "MySQL"), *_places(page, "protheus")], key=lambda tag: tag[0]["x"])
    foot = max(box["y"] for box, _ in tags)
    above = [tag for tag in tags if tag[0]["y"] < foot - 100]
    assert [kind for _, kind in above] == ["MySQL", "protheus", "protheus", "MySQL", "protheus", "MySQL"]
    assert [kind for box, kind in tags if box["y"] >= foot - 100] == ["protheus", "MySQL"]
    left, right = above[0][0]["x"] - 215, above[-1][0]["x"] + 75
    top = min(box["y"] for box, _ in tags) - 215
    whole: FloatRect = {"x": left, "y": top, "width": right - left, "height": foot - top + 45}
    _keep(page, pictures / "asset-graph.png", clip=whole)
    box = above[1][0]
    page.mouse.click(box["x"] - 150, box["y"] - 75)  # the node's labels, beside its links
    expect(page.get_by_text("erp / orders")).to_be_visible()
    expect(page.get_by_text("Every order that the shop finalized").first).to_be_visible()


def _places(page: Page, kind: str) -> Iterator[tuple[FloatRect, str]]:
    expect(page.locator(f"text={kind} >> visible=true")).to_have_count(4)
    for tag in page.locator(f"text={kind} >> visible=true").all():
        box = tag.bounding_box()
        assert box is not None
        yield box, kind


def _keep(page: Page, path: Path, clip: FloatRect | None = None) -> None:
    """In few colours, as files that are read over a slow line."""
    page.wait_for_timeout(300)
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip) if clip else page.screenshot()))
    picture.convert("RGB").quantize(128).save(path, "PNG", optimize=True)


def test_what_the_schedules_bring_is_plotted_and_the_day_is_reconciled(
    live: tuple[Stage, LiveDagster], page: Page, pictures: Path
) -> None:
    on, dagster = live
    order, dearer = on.shop.checkout(), on.shop.checkout()
    dagster.start()
    until("the orders are in the ERP", lambda: sorted(numbers_in(on)) == [order.number, dearer.number], 90)
    in_erp = {
        each["external_id"]: f"/orders/{each['branch']}/{each['number']}" for each in on.erp.admin("GET", "/orders")
    }
    invoice = on.erp.admin("POST", f"{in_erp[order.number]}/invoice", {})
    with dagster.instance() as instance:
        until("no order is under way", lambda: instance.get_latest_materialization_event(ERP_ORDERS), 90)
    price = on.erp.admin("GET", in_erp[dearer.number])["items"][0]["C6_PRCVEN"]
    on.erp.admin("PATCH", in_erp[dearer.number], {"items": {"01": {"price": "0.01"}}})
    _reconcile_today(page, dagster)
    _see_the_reconciliation(page, dagster, dearer.number, pictures)
    on.erp.admin("PATCH", in_erp[dearer.number], {"items": {"01": {"price": str(price)}}})
    _reconcile_today(page, dagster)
    page.goto(f"{dagster.url}/assets/health/reconciliation?view=checks&checkDetail={AGREES}")
    expect(page.get_by_text(f"Reconciled {today()}: all agree.").first).to_be_visible()

    row = until("the shop has the invoice", lambda: _invoiced(on, order.order_id), 130)
    assert (row.invoice_number, row.invoice_key) == (invoice["doc"], invoice["chvnfe"])
    page.goto(f"{dagster.url}/assets/erp/order_status?view=events")
    expect(page.get_by_text("now_invoiced").first).to_be_visible()
    _see_plots(page, dagster, "erp/order_status", "now_invoiced", pictures)
    _see_plots(page, dagster, "shop/order_status", "oldest_unconfirmed_minutes", pictures)
    with dagster.instance() as instance:
        key = dg.AssetKey(["shop", "stock_levels"])
        until("the stock is looked at", lambda: instance.get_latest_materialization_event(key), 90)
    _see_plots(page, dagster, "shop/stock_levels", "stocks_in_shop", pictures)
    page.goto(f"{dagster.url}/assets/shop/order_status?view=lineage")
    expect(page.get_by_text("order_status").first).to_be_visible()
    _wait_for_runs(dagster)
    _the_asset_graph(page, dagster, pictures)


def _reconcile_today(page: Page, dagster: LiveDagster) -> None:
    with dagster.instance() as instance:

        def days() -> int:
            return len(instance.fetch_materializations(HEALTH_RECONCILIATION, limit=9).records)

        before = days()
        page.goto(f"{dagster.url}/assets/health/reconciliation?view=partitions")
        page.get_by_role("button", name="Materialize…").click()
        dialog = page.get_by_role("dialog")
        latest, sure = dialog.get_by_text("Latest", exact=True), dialog.get_by_role("button", name="Confirm")
        expect(latest.or_(sure)).to_be_visible()
        if sure.is_visible():  # asked before the statuses' first pass, which it does not need
            sure.click()
        latest.click()
        dialog.get_by_role("button", name="Launch").click()
        until("the day is reconciled", lambda: days() > before, 60)


def _see_the_reconciliation(page: Page, dagster: LiveDagster, number: str, pictures: Path) -> None:
    """Its table, its picture, its plots, and its check."""
    page.set_viewport_size({"width": 1400, "height": 1800})
    page.goto(f"{dagster.url}/assets/health/reconciliation?view=partitions&partition={today()}")
    expect(page.get_by_text("value_difference")).to_be_visible()
    expect(page.get_by_role("cell", name=number, exact=True)).to_be_visible()
    _keep(page, pictures / "reconciliation.png")
    page.get_by_text("[Show Markdown]").click()
    picture = page.get_by_role("dialog").locator("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 500, "the browser shows the picture"
    _keep(page, pictures / "overview.png")
    _see_plots(page, dagster, "health/reconciliation", "value_in_erp", pictures)
    page.goto(f"{dagster.url}/assets/health/reconciliation?view=checks&checkDetail={AGREES}")
    expect(page.get_by_text(f"Reconciled {today()}: 1 finding, 1 for a person, on {today()}.").first).to_be_visible()
    expect(page.get_by_role("cell", name=number, exact=True)).to_be_visible()
    _keep(page, pictures / "check-of-the-reconciliation.png")


def _invoiced(on: Stage, order_id: int) -> sa.Row[Any] | None:
    engine = sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"])
    with engine.connect() as connection:
        row = connection.execute(sa.select(orders).where(orders.c.id == order_id)).one()
    engine.dispose()
    return row if row.invoice_number else None


def _see_plots(page: Page, dagster: LiveDagster, asset: str, figure: str, pictures: Path) -> None:
    page.set_viewport_size({"width": 1400, "height": 2200})
    page.goto(f"{dagster.url}/assets/{asset}")
    page.get_by_role("button", name="Plots").click()
    expect(page.get_by_text(figure).first).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    _keep(page, pictures / f"{asset.replace('/', '-')}.png")
