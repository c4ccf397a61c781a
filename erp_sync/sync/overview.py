"""A picture of the last reconciled days: orders, value, time to the ERP, what does not agree, statuses, stock drift."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from erp_sync.ledger.reconciled_day import KINDS

if TYPE_CHECKING:
    from erp_sync.ledger.reconciled_day import ReconciledDay
    from erp_sync.sync.reconcile_report import Language

_SHOP, _ERP = "#4f43dd", "#f2a33a"
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from erp_sync.sync.reconcile_report import kind_words

    def word(name: str) -> str:
        return _WORDS[name][language == "pt-BR"]

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    panels = figure.subplots(2, 3).flat
    names = [f"{day.day:%d/%m}" for day in days]
    places = list(range(len(days)))

    def panel(title: str) -> Any:
        axes = next(panels)
        axes.set_title(title, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def by_day(axes: Any) -> None:
        step = max(len(days) // 7, 1)
        axes.set_xticks(places[::step], names[::step])
        axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)

    for title, shop, erp in (
        ("orders", [day.shop_orders for day in days], [day.erp_orders for day in days]),
        ("value", [float(day.shop_value) for day in days], [float(day.erp_value) for day in days]),
    ):
        axes = panel(word(title))
        axes.bar([place - 0.2 for place in places], shop, 0.4, color=_SHOP, label=word("shop"))
        axes.bar([place + 0.2 for place in places], erp, 0.4, color=_ERP, label=word("erp"))
        by_day(axes)

    axes = panel(word("minutes"))
    for label, color, minutes in (
        (word("median"), _SHOP, [day.median_minutes for day in days]),
        ("p95", _ERP, [day.p95_minutes for day in days]),
    ):
        known = [(place, value) for place, value in zip(places, minutes, strict=True) if value is not None]
        axes.plot([place for place, _ in known], [value for _, value in known], "o-", color=color, label=label)
    by_day(axes)

    axes = panel(word("findings"))
    below = [0] * len(days)
    for kind in KINDS:
        counts = [day.count(kind) for day in days]
        if any(counts):
            axes.bar(places, counts, 0.6, bottom=below, label=kind_words(kind, language))
            below = [low + count for low, count in zip(below, counts, strict=True)]
    by_day(axes)
    if not any(below):
        axes.text(0.5, 0.5, word("none"), transform=axes.transAxes, ha="center", color="gray")

    axes = panel(word("statuses"))
    statuses = Counter(days[-1].statuses).most_common()[::-1]
    axes.barh([status for status, _ in statuses], [count for _, count in statuses], color=_SHOP)

    axes = panel(word("drift"))
    axes.plot([at for at, _ in drift], [stocks for _, stocks in drift], ".-", color=_SHOP)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", labelrotation=30)

    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(picture, dpi=80)
    return picture.getvalue()
