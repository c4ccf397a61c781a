"""People at the ERP's screens: orders of a sandbox ERP live by themselves. A client of its admin side."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from erp_sync.sandbox.background import AdminRefusal, SandboxErp

Event = Literal[
    "release",
    "block",
    "unblock",
    "part_invoice",
    "full_invoice",
    "key",
    "deliver",
    "residue",
    "delete",
    "cancel_invoice",
]
USUAL: Mapping[Event, float] = {
    "release": 10,
    "block": 3,
    "unblock": 6,
    "part_invoice": 4,
    "full_invoice": 10,
    "key": 10,
    "deliver": 5,
    "residue": 0.3,
    "delete": 0.1,
    "cancel_invoice": 0.1,
}
"""How much likelier one event is than another one that the order could have as well."""
_BLOCKS = (("09", ""), ("01", ""), ("04", ""), ("06", ""), ("", "02"), ("", "03"))
_PAGE = 500
_GONE = frozenset({404, 409})

State = Mapping[str, Any]
"""Of an order, as `GET /sandbox/orders/{branch}/{number}` gives it."""


class ErpUsers:
    """Repeatable: the same seed and the same orders in the same states are the same events.

    `weights` changes those of USUAL; 0: never. `key_at_once`: the share of invoices that SEFAZ authorises while they
    are written. `delivered_in`: where a delivery is noted. An order to which nothing can happen any more is left alone
    from then on.
    """

    def __init__(
        self,
        erp: SandboxErp,
        random_: random.Random,
        *,
        weights: Mapping[Event, float] | None = None,
        key_at_once: float = 0.7,
        delivered_in: Sequence[str] = ("f2_dtentr", "gfe"),
    ) -> None:
        self._erp = erp
        self._random = random_
        self._weights = {**USUAL, **(weights or {})}
        self._key_at_once = key_at_once
        self._delivered_in = list(delivered_in)
        self._last = 0
        self._living: list[tuple[str, str]] = []
        self._events: dict[Event, Callable[[State], str]] = {
            "release": self._release,
            "block": self._block,
            "unblock": self._unblock,
            "part_invoice": self._part_invoice,
            "full_invoice": self._full_invoice,
            "key": self._key,
            "deliver": self._deliver,
            "residue": self._residue,
            "delete": self._delete,
            "cancel_invoice": self._cancel_invoice,
        }

    def step(self) -> str | None:
        """One event of one order, and what it was. None: nothing can happen, or someone else was at that order at the
        same time."""
        self._meet_new_orders()
        while self._living:
            at = self._random.randrange(len(self._living))
            branch, number = self._living[at]
            state: State = self._erp.admin("GET", _path("orders", branch, number))
            possible = [event for event in _possible(state) if self._weights[event] > 0]
            if not possible:
                # The last one takes its place: cheap, and as repeatable as the draw.
                self._living[at] = self._living[-1]
                self._living.pop()
                continue
            [event] = self._random.choices(possible, [self._weights[event] for event in possible])
            try:
                return f"order {number}: {self._events[event](state)}"
            except AdminRefusal as refusal:
                if refusal.status not in _GONE:
                    raise
                return None
        return None

    def _meet_new_orders(self) -> None:
        while page := self._erp.admin("GET", f"/orders?after={self._last}&limit={_PAGE}"):
            self._last = page[-1]["record"]
            self._living.extend((order["branch"], order["number"]) for order in page)

    def _release(self, state: State) -> str:
        self._erp.admin("POST", _order(state, "release"), {})
        return "released"

    def _block(self, state: State) -> str:
        credit, stock = self._random.choice(_BLOCKS)
        self._erp.admin("POST", _order(state, "release"), {"credit": credit, "stock": stock})
        return f"released, credit blocked ({credit})" if credit else f"released, no stock ({stock})"

    def _unblock(self, state: State) -> str:
        self._erp.admin("PATCH", _order(state, "releases"), {"credit": "", "stock": ""})
        return "unblocked"

    def _part_invoice(self, state: State) -> str:
        released = [item for item in state["items"] if item["C6_QTDEMP"]]
        chosen = self._random.sample(released, self._random.randint(1, len(released)))
        quantities = {item["C6_ITEM"]: self._part_of(item["C6_QTDEMP"]) for item in chosen}
        written = self._invoice(state, {"items": quantities, "release": False})
        after = self._erp.admin("GET", _order(state))
        return f"invoiced {'in part' if any(map(_open, after['items'])) else 'in full'}, {written}"

    def _full_invoice(self, state: State) -> str:
        return f"invoiced in full, {self._invoice(state, {})}"

    def _invoice(self, state: State, body: dict[str, Any]) -> str:
        key = self._random.random() < self._key_at_once
        written = self._erp.admin("POST", _order(state, "invoice"), {**body, "key": key})
        return f"invoice {written['doc']}/{written['serie']}{'' if key else ', not authorised yet'}"

    def _part_of(self, quantity: float) -> float:
        """Whole units where there are any to choose from."""
        return self._random.randint(1, int(quantity)) if quantity >= 1 else quantity

    def _key(self, state: State) -> str:
        invoice = self._random.choice(_unauthorised(state))
        self._erp.admin("POST", _invoice(state, invoice, "key"), {})
        return f"{_named(invoice)} authorised"

    def _deliver(self, state: State) -> str:
        invoice = self._random.choice(_under_way(state))
        self._erp.admin("POST", _invoice(state, invoice, "deliver"), {"in": self._delivered_in})
        return f"{_named(invoice)} delivered"

    def _residue(self, state: State) -> str:
        self._erp.admin("POST", _order(state, "residue"), {})
        return "residue eliminated"

    def _delete(self, state: State) -> str:
        self._erp.admin("DELETE", _order(state))
        return "deleted"

    def _cancel_invoice(self, state: State) -> str:
        invoice = self._random.choice(_undelivered(state))
        self._erp.admin("DELETE", _invoice(state, invoice))
        return f"{_named(invoice)} cancelled"


def _possible(state: State) -> list[Event]:
    """What an ERP user could do next, always in the same order."""
    if state["deleted"]:
        return []
    items = state["items"]
    pending = [row for item in items for row in item["releases"] if not row["C9_NFISCAL"]]
    blocked = any(row["C9_BLCRED"] or row["C9_BLEST"] for row in pending)
    ruled_out = bool(state["C5_BLQ"])
    could: dict[Event, bool] = {
        "release": not ruled_out and any(map(_unreleased, items)),
        "block": not ruled_out and any(map(_unreleased, items)),
        "unblock": blocked,
        "part_invoice": not ruled_out and any(item["C6_QTDEMP"] for item in items),
        "full_invoice": not ruled_out and bool(pending) and not blocked,
        "key": bool(_unauthorised(state)),
        "deliver": bool(_under_way(state)),
        "residue": any(map(_open, items)),
        "delete": bool(items) and not any(item["C6_QTDENT"] for item in items) and not state["C5_NOTA"],
        "cancel_invoice": bool(_undelivered(state)),
    }
    return [event for event, possible in could.items() if possible]


def _open(item: Mapping[str, Any]) -> bool:
    return bool(item["C6_QTDENT"] < item["C6_QTDVEN"] and item["C6_BLQ"] != "R")


def _unreleased(item: Mapping[str, Any]) -> bool:
    held = sum(row["C9_QTDLIB"] for row in item["releases"] if not row["C9_NFISCAL"])
    return _open(item) and round(item["C6_QTDVEN"] - item["C6_QTDENT"] - held, 2) > 0


def _unauthorised(state: State) -> list[Mapping[str, Any]]:
    return [invoice for invoice in state["invoices"] if not invoice["key"]]


def _under_way(state: State) -> list[Mapping[str, Any]]:
    return [invoice for invoice in state["invoices"] if invoice["key"] and not invoice["delivered"]]


def _undelivered(state: State) -> list[Mapping[str, Any]]:
    return [invoice for invoice in state["invoices"] if not invoice["delivered"]]


def _named(invoice: Mapping[str, Any]) -> str:
    return f"invoice {invoice['doc']}/{invoice['series']}"


def _order(state: State, *rest: str) -> str:
    return _path("orders", state["branch"], state["number"], *rest)


def _invoice(state: State, invoice: Mapping[str, Any], *rest: str) -> str:
    return _path("invoices", state["branch"], invoice["series"], invoice["doc"], *rest)


def _path(*parts: str) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in parts)
