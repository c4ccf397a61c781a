"""A picture of the last reconciled days: orders, value, time to the ERP, what does not agree, statuses, stock drift."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from erp_sync.ledger.reconciled_day import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from erp_sync.alert_texts import Language
    from erp_sync.ledger.reconciled_day import ReconciledDay

_SHOP, _ERP = "#4f43dd", "#f2a33a"
_HOUR = timedelta(hours=1)
_WORDS: dict[str, tuple[str, str]] = {
    "orders": ("Orders", "Pedidos"),
    "value": ("Value", "Valor"),
    "minutes": ("Minutes to the ERP", "Minutos até o ERP"),
    "findings": ("Findings", "Ocorrências"),
    "statuses": ("Status in the ERP, last day", "Status no ERP, último dia"),
    "drift": ("Stocks corrected per run, last day", "Estoques corrigidos por execução, último dia"),
    "shop": ("shop", "loja"),
    "erp": ("ERP", "ERP"),
    "median": ("median", "mediana"),
    "none": ("none", "nenhum"),
}


def overview_png(days: Sequence[ReconciledDay], drift: Sequence[tuple[datetime, int]], language: Language) -> bytes:
    """A PNG. `days`: the oldest first, at least one; `drift`: stocks that were not what they should be, by run."""
    # Of matplotlib only what draws into memory: no window, no state shared between threads.
    from matplotlib.dates import DateFormatter
    from matplotlib.figure import Figure

    from erp_sync.sync.reconcile_report import kind_words

    def word(name: str) -> str:
        return _WORDS[name][language == "pt-BR"]

    places = list(range(len(days)))
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    orders, value, minutes, findings, statuses, stock = figure.subplots(2, 3).flat
    titles = {
        "orders": orders,
        "value": value,
        "minutes": minutes,
        "findings": findings,
        "statuses": statuses,
        "drift": stock,
    }
    for name, axes in titles.items():
        axes.set_title(word(name), fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)

    def by_day(axes: Axes) -> None:
        step = max(len(days) // 7, 1)
        axes.set_xticks(places[::step], [f"{day.day:%d/%m}" for day in days[::step]])
        # A bar of a single day would fill the whole field.
        axes.set_xlim(-0.7, max(len(days), 5) - 0.3)
        axes.set_ylim(bottom=0)

    for axes, shop, erp in (
        (orders, [day.shop_orders for day in days], [day.erp_orders for day in days]),
        (value, [float(day.shop_value) for day in days], [float(day.erp_value) for day in days]),
    ):
        axes.bar([place - 0.2 for place in places], shop, 0.4, color=_SHOP, label=word("shop"))
        axes.bar([place + 0.2 for place in places], erp, 0.4, color=_ERP, label=word("erp"))
        by_day(axes)
        axes.legend(fontsize=8, frameon=False)
    for label, color, took in (
        (word("median"), _SHOP, [day.median_minutes for day in days]),
        ("p95", _ERP, [day.p95_minutes for day in days]),
    ):
        known = [(place, value) for place, value in zip(places, took, strict=True) if value is not None]
        minutes.plot([place for place, _ in known], [value for _, value in known], "o-", color=color, label=label)
    by_day(minutes)
    minutes.legend(fontsize=8, frameon=False)
    below = [0] * len(days)
    for kind in (kind for kind in KINDS if any(day.count(kind) for day in days)):
        counts = [day.count(kind) for day in days]
        findings.bar(places, counts, 0.6, bottom=below, label=kind_words(kind, language))
        below = [low + count for low, count in zip(below, counts, strict=True)]
    by_day(findings)
    # The legend has the upper half.
    findings.set_ylim(top=2 * max(below) or 1)
    if any(below):
        findings.legend(fontsize=7, frameon=False, ncols=2, loc="upper left")
    else:
        findings.text(0.5, 0.5, word("none"), fontsize=8, ha="center", transform=findings.transAxes)
    counted = Counter(days[-1].statuses).most_common()[::-1]
    statuses.barh([status for status, _ in counted], [count for _, count in counted], 0.6, color=_SHOP)
    statuses.set_ylim(-0.7, max(len(counted), 4) - 0.3)
    stock.plot([at for at, _ in drift], [stocks for _, stocks in drift], ".-", color=_SHOP)
    stock.set_ylim(0, 1.1 * max((stocks for _, stocks in drift), default=1) or 1)
    if drift:
        # Around a single moment matplotlib shows years.
        stock.set_xlim(drift[0][0] - _HOUR, drift[-1][0] + _HOUR)
    else:
        stock.set_xticks([])
    stock.xaxis.set_major_formatter(DateFormatter("%d/%m %H:%M", tz=UTC))  # type: ignore[no-untyped-call]
    stock.tick_params(axis="x", labelrotation=30)
    for counts in (orders.yaxis, findings.yaxis, statuses.xaxis, stock.yaxis):
        counts.get_major_locator().set_params(integer=True)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    drawn, picture = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_figure(drawn, dpi=80)
    # Dagster keeps it for as long as the run: few colours make a fifth of the bytes.
    Image.open(drawn).convert("RGB").quantize(48).save(picture, "PNG", optimize=True)
    return picture.getvalue()
