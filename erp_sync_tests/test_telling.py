"""What the shop is told of an order's life: the word, the details, when, and what it is never told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from erp_sync.ledger.status_entry import StatusEntry
from erp_sync.models import Cancellation, Invoice, OrderStatus, Problem
from erp_sync.shop.profile import StatusSection, load_profile
from erp_sync.sync.problems import CANCELLATION, ERP_ORDER, NFE_KEY, SHOP_STATUS, problem_of
from erp_sync.sync.telling import Telling

S = OrderStatus
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CNPJ = "11222333000181"
KEY = "35261111222333000181550010000123451123456788"
INVOICE = Invoice("000012345", "1", date(2026, 11, 24), KEY)
OLDER = Invoice("000012300", "1", date(2026, 11, 20))
MOMENT = datetime(2026, 11, 26, 14, 30)  # noqa: DTZ001 - the ERP's wall clock
SECTION = load_profile("laravel").status


def entry(status: OrderStatus | None = S.INVOICED, *invoices: Invoice, **values: Any) -> StatusEntry:
    given: dict[str, Any] = dict.fromkeys([field.name for field in fields(StatusEntry)])
    given |= {
        "order_id": "1",
        "version": 3,
        "fingerprint": "f",
        "tracking_code": "",
        "told_hash": "",
        "told_values": (),
    }
    given |= {"cancellation": Cancellation.NONE, "cancel_attempts": 0, "problems": (), "number": "LJ-1"}
    given |= {"erp_branch": "0101", "erp_number": "000123", "sent_at": NOW, "status": status, "invoices": invoices}
    return StatusEntry(**given | values)


def telling(section: StatusSection | None = SECTION, issuers: tuple[str, ...] = ()) -> Telling:
    return Telling(section, issuers)


def told(one: StatusEntry, of: Telling | None = None) -> StatusEntry:
    """After the shop was told all of it."""
    how = of or telling()
    return replace(one, told_status=one.status, told_hash=how.hash(one), write_at=None)


def shop_problem(one: StatusEntry) -> str:
    return str(problem_of(one.problems, SHOP_STATUS) or "")


# The word


def test_the_shop_s_words() -> None:
    words = {status: telling().value(status) for status in (None, *OrderStatus)}
    assert {status: word for status, word in words.items() if word is not None} == {
        S.RELEASED: "packing",
        S.PARTIALLY_INVOICED: "packing",
        S.INVOICED: "packing",
        S.DELIVERED: "delivered",
        S.CANCELLED: "cancelled",
        S.DELETED: "cancelled",
    }


@pytest.mark.parametrize("status", [None, *OrderStatus])
def test_a_profile_without_statuses_tells_nothing(status: OrderStatus | None) -> None:
    silent = telling(None)
    assert silent.value(status) is None
    assert silent.planned(entry(status, INVOICE, write_at=NOW), NOW).write_at is None


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        (None, ("packing", "delivered", "cancelled", "old word")),
        (S.OPEN, ("packing", "old word")),
        (S.RELEASED, ("packing", "old word")),
        (S.INVOICED, ("packing", "old word")),
        (S.DELIVERED, ("packing", "delivered", "old word")),
        (S.CANCELLED, ("packing", "delivered", "cancelled", "old word")),
        (S.DELETED, ("packing", "delivered", "cancelled", "old word")),
    ],
)
def test_words_that_lie_ahead_of_the_erp_are_not_overwritten(status: OrderStatus | None, ours: tuple[str, ...]) -> None:
    """Packing stands for invoiced, which is ahead of released, and for released itself."""
    told_values = ("packing", "delivered", "cancelled", "old word")
    assert telling().ours(entry(status, told_values=told_values)) == ours


# The details


def test_the_details_of_an_order_without_an_invoice() -> None:
    details = telling().details(entry(S.RELEASED))
    assert details == {
        "erp_number": "000123",
        "invoice_number": None,
        "invoice_series": None,
        "invoice_key": None,
        "invoiced_at": None,
        "tracking_code": None,
        "delivered_at": None,
    }


def test_the_details_of_an_invoiced_order() -> None:
    assert telling().details(entry(S.INVOICED, INVOICE, tracking_code="BR1")) == {
        "erp_number": "000123",
        "invoice_number": "000012345",
        "invoice_series": "1",
        "invoice_key": KEY,
        "invoiced_at": datetime(2026, 11, 24),  # noqa: DTZ001 - the ERP's day
        "tracking_code": "BR1",
        "delivered_at": None,
    }


def test_of_several_invoices_the_last_one_is_told() -> None:
    details = telling().details(entry(S.INVOICED, OLDER, INVOICE))
    assert (details["invoice_number"], details["invoice_key"]) == ("000012345", KEY)
    details = telling().details(entry(S.INVOICED, INVOICE, replace(OLDER, issued_on=None)))
    assert (details["invoice_number"], details["invoice_key"], details["invoiced_at"]) == ("000012300", None, None)


def test_what_write_may_use_is_what_it_gets() -> None:
    assert SECTION is not None
    given = {"number", "status", *telling().details(entry())}
    assert all(statement.parameters <= given for statement in SECTION.write)


@pytest.mark.parametrize(
    ("status", "moments", "delivered"),
    [
        (S.DELIVERED, [MOMENT], MOMENT),
        (S.DELIVERED, [MOMENT, MOMENT - timedelta(days=1)], MOMENT),
        (S.DELIVERED, [MOMENT - timedelta(days=1), MOMENT], MOMENT),
        (S.DELIVERED, [], None),
        (S.PARTIALLY_INVOICED, [MOMENT], None),
        (S.INVOICED, [MOMENT, None], None),
        (S.INVOICED_SHORT, [None], None),
    ],
)
def test_delivered_is_when_the_last_parcel_was(status: OrderStatus, moments: list[Any], delivered: Any) -> None:
    invoices = [replace(INVOICE, number=str(place), delivered_at=moment) for place, moment in enumerate(moments)]
    assert telling().details(entry(status, *invoices))["delivered_at"] == delivered


@pytest.mark.parametrize(
    ("bad", "issuers"),
    [
        pytest.param(KEY[:-1] + "7", (), id="check digit"),
        pytest.param(KEY[:-1], (), id="length"),
        pytest.param(KEY, ("12ABC34501DE35",), id="issuer"),
        pytest.param("35261111222333000181550010000123461123456785", (), id="of the invoice 12346"),
    ],
)
def test_a_key_that_is_none_is_not_shown_and_reported(bad: str, issuers: tuple[str, ...]) -> None:
    how = telling(issuers=issuers)
    planned = how.planned(entry(S.INVOICED, replace(INVOICE, key=bad)), NOW)
    assert how.details(planned)["invoice_key"] is None
    problem = problem_of(planned.problems, NFE_KEY)
    assert problem is not None
    assert problem.value == "invoice 000012345/1"
    assert "F2_CHVNFE" in problem.advice
    assert planned.write_at == NOW, "the rest is told"
    corrected = telling().planned(replace(planned, invoices=(INVOICE,)), NOW)
    assert problem_of(corrected.problems, NFE_KEY) is None


def test_a_bad_key_of_an_older_invoice_is_reported_as_well() -> None:
    planned = telling().planned(entry(S.INVOICED, replace(OLDER, key="X"), INVOICE), NOW)
    assert problem_of(planned.problems, NFE_KEY) is not None
    assert telling().details(planned)["invoice_key"] == KEY


def test_a_key_of_a_named_issuer() -> None:
    planned = telling(issuers=("12ABC34501DE35", CNPJ)).planned(entry(S.INVOICED, INVOICE), NOW)
    assert planned.problems == ()


# When


def test_what_is_new_is_told_at_once() -> None:
    assert telling().planned(entry(S.RELEASED), NOW).write_at == NOW


@pytest.mark.parametrize("status", [None, S.OPEN, S.BLOCKED_CREDIT, S.BLOCKED_STOCK, S.INVOICED_SHORT, S.NOT_FOUND])
def test_a_status_that_is_not_mapped_leaves_the_shop_alone(status: OrderStatus | None) -> None:
    planned = telling().planned(entry(status, write_at=NOW), NOW)
    assert (planned.write_at, planned.problems) == (None, ())


def test_what_the_shop_knows_is_not_told_again() -> None:
    known = told(entry(S.INVOICED, INVOICE))
    assert telling().planned(known, NOW) == known
    assert telling().planned(replace(known, write_at=NOW), NOW).write_at is None


NEWS: list[Callable[[StatusEntry], StatusEntry]] = [
    lambda one: replace(one, status=S.DELIVERED),
    lambda one: replace(one, invoices=(*one.invoices, replace(INVOICE, number="2"))),
    lambda one: replace(one, invoices=(replace(INVOICE, key=""),)),
    lambda one: replace(one, invoices=(replace(INVOICE, series="2"),)),
    lambda one: replace(one, invoices=(replace(INVOICE, issued_on=None),)),
    lambda one: replace(one, tracking_code="BR1"),
    lambda one: replace(one, erp_number="000124"),
]


@pytest.mark.parametrize("news", NEWS)
def test_every_detail_is_news(news: Callable[[StatusEntry], StatusEntry]) -> None:
    known = told(entry(S.INVOICED, INVOICE))
    now = news(known)
    assert telling().hash(now) != telling().hash(known)
    assert telling().planned(now, NOW).write_at == NOW


def test_what_the_shop_does_not_show_is_no_news() -> None:
    """Another status with the same word, another older invoice, what is only kept here."""
    known = told(entry(S.PARTIALLY_INVOICED, OLDER, INVOICE))
    changes: list[dict[str, Any]] = [
        {"status": S.INVOICED},
        {"invoices": (replace(OLDER, number="7"), INVOICE)},
        {"invoices": (OLDER, replace(INVOICE, delivered_at=MOMENT))},
        {"fingerprint": "g", "asked_at": NOW, "version": 9, "cancellation": Cancellation.WANTED},
        {"problems": (Problem(ERP_ORDER, "", ""),)},
    ]
    for each in changes:
        assert telling().hash(replace(known, **each)) == known.told_hash, each
        assert telling().planned(replace(known, **each), NOW).write_at is None


def test_a_hash_tells_which_detail_a_value_belongs_to() -> None:
    hashes = {
        telling().hash(entry(S.INVOICED, Invoice("7", "", None))),
        telling().hash(entry(S.INVOICED, Invoice("", "7", None))),
        telling().hash(entry(S.INVOICED, tracking_code="7")),
        telling().hash(entry(S.INVOICED)),
        telling().hash(entry(S.DELIVERED)),
        telling().hash(entry(S.OPEN)),
    }
    assert len(hashes) == 6
    assert all(len(one) == 32 for one in hashes)


# Never backwards


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (S.INVOICED, S.RELEASED),
        (S.INVOICED, S.OPEN),
        (S.INVOICED, S.PARTIALLY_INVOICED),
        (S.PARTIALLY_INVOICED, S.BLOCKED_STOCK),
        (S.DELIVERED, S.INVOICED),
        (S.CANCELLED, S.RELEASED),
        (S.DELETED, S.INVOICED),
        (S.DELETED, S.OPEN),
    ],
)
def test_an_erp_that_goes_back_is_a_problem_and_not_told(before: OrderStatus, after: OrderStatus) -> None:
    known = told(entry(before, INVOICE))
    planned = telling().planned(replace(known, status=after, invoices=(), write_at=NOW), NOW)
    assert planned.write_at is None
    assert f"from {before} to {after}" in shop_problem(planned)
    assert planned.told_status is before


def test_what_was_never_told_cannot_go_back() -> None:
    planned = telling().planned(entry(S.RELEASED, told_values=("cancelled",)), NOW)
    assert (planned.write_at, planned.problems) == (NOW, ())


def test_going_on_after_going_back_is_told() -> None:
    known = told(entry(S.INVOICED, INVOICE))
    back = telling().planned(replace(known, status=S.RELEASED, invoices=()), NOW)
    again = telling().planned(replace(back, status=S.INVOICED, invoices=(replace(INVOICE, number="2", key=""),)), NOW)
    assert again.write_at == NOW


@pytest.mark.parametrize("status", [S.INVOICED, S.CANCELLED])
def test_an_erp_that_comes_back_to_what_the_shop_shows_is_no_problem_any_more(status: OrderStatus) -> None:
    known = told(entry(status, INVOICE))
    back = telling().planned(replace(known, status=S.OPEN), NOW)
    assert shop_problem(back)
    again = telling().planned(replace(back, status=status), NOW)
    assert (again.write_at, shop_problem(again)) == (None, "")


def test_other_problems_are_left_alone() -> None:
    others = (Problem(ERP_ORDER, "000123", "a"), Problem(CANCELLATION, "", "b"))
    known = told(entry(S.INVOICED, INVOICE, problems=others))
    for one in (known, replace(known, status=S.OPEN), replace(known, status=S.DELIVERED), replace(known, invoices=())):
        kept = telling().planned(one, NOW).problems
        assert tuple(problem for problem in kept if problem.field in (ERP_ORDER, CANCELLATION)) == others
