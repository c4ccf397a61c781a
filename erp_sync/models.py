"""What the shop and the ERP have in common, as plain data: frozen, typed, no I/O.

Money and quantities are `Decimal`, datetimes are aware, texts are stripped and never `None`: an absent text is `""`.
`None` is used only where it means something of its own, and the field says what.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal


class ShopState(enum.StrEnum):
    """What the profile's `state` column may say (contracts/shop-profile.md, "Canonical columns")."""

    READY = "ready"
    WAITING = "waiting"
    CANCELLED = "cancelled"
    CLOSED = "closed"


class OrderStatus(enum.StrEnum):
    """What has become of an order in the ERP (contracts/protheus-rest.md, 6.4); `delivered` comes on top of it."""

    OPEN = "open"
    BLOCKED_RULE = "blocked_rule"
    BLOCKED_BUDGET = "blocked_budget"
    BLOCKED_CREDIT = "blocked_credit"
    REJECTED_CREDIT = "rejected_credit"
    BLOCKED_STOCK = "blocked_stock"
    RELEASED = "released"
    PARTIALLY_INVOICED = "partially_invoiced"
    INVOICED_SHORT = "invoiced_short"
    INVOICED = "invoiced"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"
    DELETED = "deleted"
    NOT_FOUND = "not_found"
    """No row, not even a deleted one: nobody can tell what became of it."""


class Cancellation(enum.StrEnum):
    """How far the cancellation in the ERP is of an order that the shop cancelled after it was sent."""

    NONE = ""
    WANTED = "wanted"
    SENDING = "sending"
    IN_DOUBT = "in_doubt"
    CANCELLED = "cancelled"
    RESIDUE = "residue"
    """What was not invoiced yet is cancelled."""
    TOO_LATE = "too_late"
    """It is invoiced: a person has to act."""
    REFUSED = "refused"
    RESTORED = "restored"
    """Somebody restored it in the ERP after it was cancelled or deleted there: nobody works against him."""


CANCEL_UNDER_WAY = frozenset({Cancellation.WANTED, Cancellation.SENDING, Cancellation.IN_DOUBT})


class LedgerState(enum.StrEnum):
    """Where an order stands on its way to the ERP."""

    DUE = "due"
    SENDING = "sending"
    IN_DOUBT = "in_doubt"
    SENT = "sent"
    REFUSED = "refused"
    INVALID = "invalid"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why an order cannot be sent, for a person: where, what stands there, what to do about it.

    `value` never holds a whole tax id, e-mail, phone or street: whoever makes a Problem masks it first.
    """

    field: str
    value: str
    advice: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value!r}: {self.advice}"


@dataclass(frozen=True, slots=True)
class Address:
    street: str = ""
    number: str = ""
    complement: str = ""
    district: str = ""
    city: str = ""
    city_code: str = ""
    state: str = ""
    zip: str = ""
    country: str = "BR"


@dataclass(frozen=True, slots=True)
class Customer:
    name: str
    tax_id: str = ""
    """As the shop has it, mask and all; `tax_id.normalize` decides whether it is one."""
    erp_customer: str = ""
    """`A1_COD` or `A1_COD/A1_LOJA`; wins over the match by tax id."""
    email: str = ""
    phone: str = ""
    billing: Address = Address()


@dataclass(frozen=True, slots=True)
class OrderLine:
    line_id: str
    sku: str
    quantity: Decimal
    unit_price: Decimal | None
    """None: the shop gives `line_total` instead."""
    line_total: Decimal | None
    """Before the line's discount; replaces quantity x unit_price. None: the shop gives `unit_price`."""
    description: str = ""
    discount: Decimal = Decimal(0)
    tax: Decimal = Decimal(0)
    warehouse: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """A shop order as its database has it now: header and lines of one snapshot."""

    order_id: str
    number: str
    state: ShopState
    changed_at: datetime
    ordered_at: datetime
    business_day: date
    """The day of `ordered_at` in the profile's business time zone: the partition. Never changes."""
    currency: str
    total: Decimal
    customer: Customer
    lines: tuple[OrderLine, ...]
    goods_total: Decimal | None = None
    """None: the shop does not say."""
    discount: Decimal | None = None
    """Of the whole order. None: the sum of the lines' discounts."""
    freight: Decimal = Decimal(0)
    tax: Decimal | None = None
    """Of the whole order, freight's tax included. None: the sum of the lines' taxes."""
    delivery: Address | None = None
    """None: the billing address."""
    payment: str = ""
    carrier: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class HeldLine:
    """What one line of a shop order holds of the stock."""

    order_id: str
    sku: str
    warehouse: str
    """The ERP's code (C6_LOCAL). "": the shop does not say."""
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class UnreadableOrder:
    """A shop order whose row cannot be understood. It becomes `invalid`; the orders around it go on."""

    order_id: str
    number: str
    business_day: date | None
    """None: `ordered_at` is empty or not a date."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class OrderHead:
    """The few columns a scan reads, enough to decide whether an order deserves a look."""

    order_id: str
    number: str
    state: str
    """A `ShopState` value, or whatever else the profile's CASE yielded ("" for NULL)."""
    changed_at: datetime | None
    ordered_at: datetime | None
    business_day: date | None
    """None: `ordered_at` is empty or not a date."""
    total: str
    """As text: a hint that something changed, not a figure."""


@dataclass(frozen=True, slots=True)
class CustomerCode:
    """A1_COD and A1_LOJA."""

    code: str
    store: str

    def __str__(self) -> str:
        return f"{self.code}/{self.store}"


@dataclass(frozen=True, slots=True)
class ErpCustomer:
    """A customer as the ERP wants it (contracts/protheus-rest.md, 8.2)."""

    tax_id: str
    """Normalised: 11 digits, or 14 of [0-9A-Z]. Empty only where the settings do not require one."""
    given: CustomerCode | None
    """What the shop's `erp_customer` says; its store is "" where the shop gave the code alone."""
    fields: dict[str, str]
    """A1_ fields for a create."""


@dataclass(frozen=True, slots=True)
class ErpOrder:
    """An order as the ERP wants it (contracts/protheus-rest.md, 5.3), but for the customer's code and store."""

    external_id: str
    header: dict[str, str | Decimal | bool]
    items: tuple[dict[str, str | Decimal], ...]
    customer: ErpCustomer
    total: Decimal
    """What the ERP will make of it: sum(C6_VALOR) + C5_FRETE + C5_SEGURO + C5_DESPESA - C5_DESCONT."""
    notes: tuple[str, ...] = ()
    """What was cut or left out on the way (names, notes, carriers), for the order's story. No personal data."""


@dataclass(frozen=True, slots=True)
class CreatedOrder:
    """A create's positive answer."""

    branch: str
    number: str
    existed: bool
    """True: the endpoint says that it had the order already; nothing proves that it is the same one."""
    stored_external_id: str | None
    """What the ERP says it stored. None: it does not say."""
    milliseconds: float


@dataclass(frozen=True, slots=True)
class FoundOrder:
    """An order as it stands in the ERP (SC5 with its SC6 lines)."""

    external_id: str
    branch: str
    number: str
    deleted: bool
    customer: CustomerCode
    total: Decimal
    line_count: int


@dataclass(frozen=True, slots=True)
class FoundCustomer:
    code: CustomerCode
    tax_id: str
    blocked: bool


@dataclass(frozen=True, slots=True)
class ErpItem:
    """A line of SC6."""

    quantity: Decimal
    invoiced: Decimal
    """C6_QTDENT."""
    released: Decimal
    """C6_QTDEMP."""
    block: str
    """C6_BLQ: `R` residue eliminated, `S` blocked by hand."""
    invoice: str
    """C6_NOTA, the last one of this line."""


@dataclass(frozen=True, slots=True)
class ErpRelease:
    """A live row of SC9: its block codes. Several may stand for one item."""

    credit: str
    stock: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """A live invoice (SF2) of an order; one that is cancelled is not there any more."""

    number: str
    series: str
    issued_on: date | None
    """The ERP's day. None: it does not say."""
    key: str = ""
    """F2_CHVNFE as it stands there; "" until the tax office has authorised it."""
    delivered_at: datetime | None = None
    """The ERP's wall clock, without a zone; midnight where only the day is known. None: not delivered, or not asked."""


@dataclass(frozen=True, slots=True)
class OrderProgress:
    """How far an order has come in the ERP: its header (SC5) with what hangs on it. All texts are stripped."""

    branch: str
    number: str
    external_id: str
    note: str
    """C5_NOTA."""
    release_flag: str
    """C5_LIBEROK."""
    block: str
    """C5_BLQ."""
    items: tuple[ErpItem, ...]
    tracking_code: str = ""
    releases: tuple[ErpRelease, ...] = ()
    invoices: tuple[Invoice, ...] = ()
    """The oldest first."""


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """A cancel call's positive answer (contracts/protheus-rest.md, 7)."""

    residue: bool
    """True: part was invoiced before, only the rest is cancelled."""
    form: str
    """exclusao, residuo or inexistente."""
    milliseconds: float


Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at the installation found: one line for a person. No data of a person, and no secret."""

    level: Level
    subject: str
    """What was looked at: a setting, a key of the profile, or a word such as `grants`."""
    message: str
    advice: str = ""
    """What to do; "" where nothing is to be done."""


class Severity(enum.StrEnum):
    WARNING = "warning"
    ERROR = "error"


ALARMS_ALIVE = "alarms.alive"
"""The ledger's mark that the alarms set whenever they have looked, and the doctor reads."""
CAUSE_LENGTH = 191


@dataclass(frozen=True, slots=True)
class Sighting:
    """One cause of trouble as it stands now. ValueError for a cause that could not be told apart from another."""

    cause: str
    """What is one thread in Slack: ASCII, stable, at most 191 characters, such as `check/erp/orders/none_refused`."""
    kind: str
    """Which text tells it: a key of the alerts' texts, such as `run_failed`; `check/` and its name for a check."""
    severity: Severity
    subject: str = ""
    """The name of the job, check, schedule or asset."""
    detail: str = ""
    """The real cause in one line, without personal data."""
    count: int = 0
    """Orders, or stocks, that it holds now. 0: not counted."""
    oldest_at: datetime | None = None
    """Since when the oldest of them waits. None: not known."""
    sample: tuple[str, ...] = ()
    """At most 5 order numbers or SKUs."""
    run_id: str = ""
    """Dagster's run that tells more."""

    def __post_init__(self) -> None:
        if not (self.cause.isascii() and self.cause.isprintable() and 0 < len(self.cause) <= CAUSE_LENGTH):
            raise ValueError(
                f"cause = {self.cause[:200]!r}: must be 1 to {CAUSE_LENGTH} printable ASCII characters; shorten it, "
                "and leave out what varies"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident(Sighting):
    """A cause of trouble over time: as it was last seen, and its present or last occurrence."""

    opened_at: datetime
    last_seen_at: datetime
    closed_at: datetime | None
    """None: it is open."""
    seen: int
    """How many times it was reported in this occurrence."""
    peak: int
    """The largest `count` of this occurrence."""
    openings: int
    """Which occurrence this is: 1 is the first."""
