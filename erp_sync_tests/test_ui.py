"""What ops do in the browser: see the graph, see the red day, backfill it, see it green.

`ERP_SYNC_SCREENSHOT=deploy/asset-graph.png python -m pytest erp_sync_tests/test_ui.py` takes README.md's picture anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect, sync_playwright

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
        page = browser.new_page(viewport={"width": 1400, "height": 800})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield page
        browser.close()


def test_a_failed_day_is_seen_and_backfilled_in_the_browser(live: tuple[Stage, LiveDagster], page: Page) -> None:
    on, dagster = live
    on.erp.kill()
    order = on.shop.checkout()
    dagster.start()

    # The sensor finds the order, its run meets a dead ERP: the day is red, and the run says why.
    with dagster.instance() as instance:
        failures = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
        [failed, *_] = until("a run fails", lambda: instance.get_runs(failures), 90)
    page.goto(f"{dagster.url}/assets/erp/orders?view=partitions&partition={today()}")
    expect(page.get_by_text("Failed (1)")).to_be_visible()
    page.goto(f"{dagster.url}/runs/{failed.run_id}")
    expect(page.get_by_text("the ERP").first).to_be_visible()

    # With the sensor stopped, as in a maintenance window, nothing but the backfill can send the order.
    page.goto(f"{dagster.url}/locations/erp_sync.definitions/sensors/finalized_orders")
    switch = page.locator("input[type=checkbox]").first
    expect(switch).to_be_checked()
    switch.dispatch_event("click")
    expect(switch).not_to_be_checked()
    _wait_for_runs(dagster)
    until("the day's last run fails", lambda: not _materialize(dagster), 90)
    on.erp.restart()
    _wait_for_breaker(on)
    assert numbers_in(on) == []

    until("the failed day is chosen", lambda: _choose_the_failed_day(page, dagster), 90)
    page.get_by_role("dialog").get_by_role("button", name="Launch").click()
    until("the order is in the ERP", lambda: numbers_in(on) == [order.number], 60)
    page.goto(f"{dagster.url}/assets/erp/orders?view=partitions&partition={today()}")
    expect(page.get_by_text("Materialized (1)")).to_be_visible()
    expect(page.get_by_text("Failed (0)")).to_be_visible()
    expect(page.get_by_text("orders_sent").first).to_be_visible()

    page.goto(f"{dagster.url}/locations/erp_sync.definitions/sensors/finalized_orders")
    switch.dispatch_event("click")
    expect(switch).to_be_checked()
    _the_asset_graph(page, dagster)


def _choose_the_failed_day(page: Page, dagster: LiveDagster) -> bool:
    """The dialog knows which days failed only some time after it opens; what is chosen before that is nothing."""
    page.goto(f"{dagster.url}/assets/erp/orders?view=partitions")
    page.get_by_role("button", name="Materialize…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Failed", exact=True).click()
    chosen = dialog.get_by_text("1 partition", exact=True)
    with suppress(AssertionError):
        expect(chosen).to_be_visible(timeout=5_000)
    return chosen.is_visible()


def _materialize(dagster: LiveDagster) -> bool:
    """A run of today, started in a shell. Whether it succeeded: a run that finds nothing due at its moment does."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "erp_sync.definitions"]
    options = ["--select", "erp/orders", "--partition", today().isoformat()]
    done = subprocess.run([*command, *options], env=dagster.environment, capture_output=True, check=False, timeout=80)
    return done.returncode == 0


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


def _wait_for_breaker(on: Stage) -> None:
    """Until it lets a run ask the ERP again."""
    with environment(on.environment):
        connections = open_connections(load_settings())
    gate = connections.gate
    until("the breaker asks again", lambda: gate.breaker_open() is None or gate.probe_is_due(), 70)
    connections.close()


def _the_asset_graph(page: Page, dagster: LiveDagster) -> None:
    """shop/orders, which is only observed, on the left; erp/orders, which is made from it, on the right."""
    page.goto(f"{dagster.url}/locations/erp_sync.definitions/asset-groups/orders/lineage")
    expect(page.get_by_text("81 partitions")).to_have_count(2)
    shops = [page.get_by_text("MySQL").nth(index).bounding_box() for index in range(2)]
    erps = [page.get_by_text("protheus").nth(index).bounding_box() for index in range(2)]
    places = sorted([*((box["x"], "shop") for box in shops if box), *((box["x"], "erp") for box in erps if box)])
    assert [owner for _, owner in places] == ["shop", "erp", "erp", "shop"], "from the shop to the ERP, and back"
    if target := os.environ.get("ERP_SYNC_SCREENSHOT"):
        left, right = places[0][0] - 215, places[-1][0] + 70
        top = min(box["y"] for box in erps if box) - 130
        page.screenshot(path=target, clip={"x": left, "y": top, "width": right - left, "height": 170})
    erp = min((box for box in erps if box), key=lambda box: box["x"])
    page.mouse.click(erp["x"] - 150, erp["y"] - 75)  # the node's labels, beside its links
    expect(page.get_by_text("erp / orders")).to_be_visible()
    expect(page.get_by_text("Every order that the shop finalized").first).to_be_visible()


def test_a_status_comes_back_by_the_schedule_and_its_figures_are_plotted(
    live: tuple[Stage, LiveDagster], page: Page
) -> None:
    on, dagster = live
    order = on.shop.checkout()
    dagster.start()
    until("the order is in the ERP", lambda: numbers_in(on) == [order.number], 90)
    [in_erp] = on.erp.admin("GET", "/orders")
    invoice = on.erp.admin("POST", f"/orders/{in_erp['branch']}/{in_erp['number']}/invoice", {})
    row = until("the shop has the invoice", lambda: _invoiced(on, order.order_id), 130)
    assert (row.invoice_number, row.invoice_key) == (invoice["doc"], invoice["chvnfe"])

    page.goto(f"{dagster.url}/assets/erp/order_status?view=events")
    expect(page.get_by_text("now_invoiced").first).to_be_visible()
    _see_plots(page, dagster, "erp/order_status", "now_invoiced")
    _see_plots(page, dagster, "shop/order_status", "oldest_unconfirmed_minutes")
    with dagster.instance() as instance:
        key = dg.AssetKey(["shop", "stock_levels"])
        until("the stock is looked at", lambda: instance.get_latest_materialization_event(key), 90)
    _see_plots(page, dagster, "shop/stock_levels", "stocks_in_shop")
    page.goto(f"{dagster.url}/assets/shop/order_status?view=lineage")
    expect(page.get_by_text("order_status").first).to_be_visible()


def _invoiced(on: Stage, order_id: int) -> sa.Row[Any] | None:
    engine = sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"])
    with engine.connect() as connection:
        row = connection.execute(sa.select(orders).where(orders.c.id == order_id)).one()
    engine.dispose()
    return row if row.invoice_number else None


def _see_plots(page: Page, dagster: LiveDagster, asset: str, figure: str) -> None:
    """`ERP_SYNC_PICTURES=folder` keeps what was seen."""
    page.set_viewport_size({"width": 1400, "height": 2200})
    page.goto(f"{dagster.url}/assets/{asset}")
    page.get_by_role("button", name="Plots").click()
    expect(page.get_by_text(figure).first).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    if folder := os.environ.get("ERP_SYNC_PICTURES"):
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/{asset.replace('/', '-')}.png")
