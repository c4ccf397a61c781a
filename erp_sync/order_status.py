"""From the ERP's rows to a status: pure functions over contracts/protheus-rest.md, 6.3 and 6.4.

The header alone proves nothing: `C5_NOTA` holds only the last invoice, and may be filled after the first part of it.
Quantities, releases and live invoices decide.
"""

from __future__ import annotations

import hashlib
import json

from erp_sync.models import OrderProgress, OrderStatus

RESIDUE = "R"
"""C6_BLQ of an item whose open quantity was given up."""
_CLOSED = "E"
_INVOICED_ROW = ("", "10")
"""C9_BLCRED and C9_BLEST of a row that nothing blocks: blank, or 10 once it is invoiced."""
_REJECTED = "09"

_BLOCKS = {"1": OrderStatus.BLOCKED_RULE, "2": OrderStatus.BLOCKED_BUDGET}

STATUS_LINEAGE = {
    "status": (
        *("C5_NOTA", "C5_LIBEROK", "C5_BLQ", "C6_QTDVEN", "C6_QTDENT", "C6_BLQ"),
        *("C9_BLCRED", "C9_BLEST", "D2_DOC", "F2_DTENTR"),
    ),
    "erp_number": ("C5_NUM",),
    "invoice_number": ("D2_DOC",),
    "invoice_series": ("D2_SERIE",),
    "invoice_key": ("F2_CHVNFE",),
    "invoiced_at": ("D2_EMISSAO",),
    "tracking_code": ("C5_RASTR",),
    "delivered_at": ("F2_DTENTR",),
}
"""Parameter of the profile's `[status] write` = the ERP's fields it comes from."""

ENDED = frozenset({OrderStatus.CANCELLED, OrderStatus.DELETED})
"""Nothing is left of the order in the ERP."""
INVOICED = frozenset({OrderStatus.INVOICED, OrderStatus.INVOICED_SHORT, OrderStatus.DELIVERED})
"""All that will ever be invoiced is."""

_STEPS = {
    OrderStatus.PARTIALLY_INVOICED: 1,
    OrderStatus.INVOICED_SHORT: 2,
    OrderStatus.INVOICED: 2,
    OrderStatus.DELIVERED: 3,
    OrderStatus.CANCELLED: 4,
    OrderStatus.DELETED: 4,
    OrderStatus.NOT_FOUND: 4,
}


def goes_back(old: OrderStatus, new: OrderStatus) -> bool:
    """Whether `new` lies before `old` in an order's life: its invoice was cancelled, or a deleted order restored.

    Everything before the first invoice (open, blocked, released) may follow in any order.
    """
    return _STEPS.get(new, 0) < _STEPS.get(old, 0)


def derive(order: OrderProgress) -> OrderStatus:
    """Rules 2 to 10 of the contract's 6.4, the first that matches; then `delivered` where each live invoice is.

    Rule 1, no row at all, is the caller's: it takes two looks. `releases` and `invoices` must have been read.
    """
    status = _rule(order)
    delivered = bool(order.invoices) and all(invoice.delivered_at is not None for invoice in order.invoices)
    return OrderStatus.DELIVERED if status in INVOICED and delivered else status


def _rule(order: OrderProgress) -> OrderStatus:
    items = order.items
    some_invoiced = any(item.invoiced > 0 for item in items)
    open_items = [item for item in items if item.invoiced < item.quantity]
    only_residue = bool(open_items) and all(item.block == RESIDUE for item in open_items)
    eliminated = _is_eliminated(order.note)
    if (only_residue and not some_invoiced) or (eliminated and not order.invoices):
        return OrderStatus.CANCELLED
    if some_invoiced and (eliminated or only_residue):
        return OrderStatus.INVOICED_SHORT
    if (some_invoiced and not open_items) or order.release_flag == _CLOSED:
        return OrderStatus.INVOICED
    if some_invoiced:
        return OrderStatus.PARTIALLY_INVOICED
    if order.block:
        # A code that nobody knows blocks all the same.
        return _BLOCKS.get(order.block, OrderStatus.BLOCKED_RULE)
    blocks = {release.credit for release in order.releases if release.credit not in _INVOICED_ROW}
    if blocks:
        return OrderStatus.REJECTED_CREDIT if _REJECTED in blocks else OrderStatus.BLOCKED_CREDIT
    if any(not release.credit and release.stock not in _INVOICED_ROW for release in order.releases):
        return OrderStatus.BLOCKED_STOCK
    if order.release_flag and not order.note:
        return OrderStatus.RELEASED
    return OrderStatus.OPEN


def lacks_invoices(order: OrderProgress) -> bool:
    """Whether items are invoiced and no invoice shows: it was cancelled this moment, or a read left its rows out."""
    return not order.invoices and any(item.invoiced > 0 for item in order.items)


def unknown_codes(order: OrderProgress) -> list[str]:
    """Codes that the contract's 6.3 does not list, for the order's story; each is taken for a block."""
    known = {
        "C5_BLQ": {"", *_BLOCKS},
        "C9_BLCRED": {"", "01", "04", "05", "06", "09", "10"},
        "C9_BLEST": {"", "02", "03", "10"},
    }
    found = [("C5_BLQ", order.block)]
    found += [("C9_BLCRED", release.credit) for release in order.releases]
    found += [("C9_BLEST", release.stock) for release in order.releases]
    return [f"{field} = {code!r}" for field, code in dict.fromkeys(found) if code not in known[field]]


def fingerprint(order: OrderProgress) -> str:
    """Of header and lines: while it stays the same, neither a quantity nor a flag has moved."""
    # 2 and 2.00 are one quantity, whichever of them the ERP writes today.
    figures = [(item.quantity, item.invoiced, item.released) for item in order.items]
    lines = [[format(figure.normalize(), "f") for figure in line] for line in figures]
    items = sorted([*line, item.block, item.invoice] for line, item in zip(lines, order.items, strict=True))
    flags = [order.external_id, order.note, order.release_flag, order.block, order.tracking_code]
    return hashlib.sha256(json.dumps([flags, items]).encode()).hexdigest()[:32]


def _is_eliminated(note: str) -> bool:
    """Residue: C5_NOTA is nothing but X, as wide as the field."""
    return len(note) >= 6 and set(note) == {"X"}
