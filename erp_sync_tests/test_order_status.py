"""From the ERP's rows to a status, rule by rule of contracts/protheus-rest.md, 6.4; and the access key of an NF-e."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erp_sync import nfe_key
from erp_sync.models import ErpItem, ErpRelease, Invoice, OrderProgress, OrderStatus
from erp_sync.order_status import ENDED, INVOICED, derive, fingerprint, goes_back, unknown_codes

D = Decimal
S = OrderStatus
RESIDUE = "XXXXXXXXX"
NOTE = "000012345"


def item(
    quantity: str = "2", invoiced: str = "0", block: str = "", *, released: str = "0", invoice: str = ""
) -> ErpItem:
    return ErpItem(D(quantity), D(invoiced), D(released), block, invoice)


OPEN, PART, WHOLE = item(), item(invoiced="1"), item(invoiced="2")
LEFT_OVER, HELD = item(block="R"), item(block="S")
PART_LEFT_OVER = item(invoiced="1", block="R")
INVOICE = Invoice("000012345", "1", date(2026, 11, 24))
DELIVERED = replace(INVOICE, delivered_at=datetime(2026, 11, 26, 14, 30))  # noqa: DTZ001 - the ERP's wall clock
OTHER = replace(INVOICE, number="000012399")
PASSED, INVOICED_RELEASE = ErpRelease("", ""), ErpRelease("10", "10")


def order(*items: ErpItem, **values: Any) -> OrderProgress:
    given_values: dict[str, Any] = {
        "branch": "0101",
        "number": "000123",
        "external_id": "LJ-100001",
        "note": "",
        "release_flag": "",
        "block": "",
    }
    return OrderProgress(**given_values | values, items=items)


def credit(*codes: str) -> tuple[ErpRelease, ...]:
    return tuple(ErpRelease(code, "") for code in codes)


def stock(*codes: str) -> tuple[ErpRelease, ...]:
    return tuple(ErpRelease("", code) for code in codes)


CASES: list[tuple[str, OrderProgress, OrderStatus]] = [
    # Rule 2: nothing is left, and nothing was ever invoiced.
    ("2a one item, residue", order(LEFT_OVER), S.CANCELLED),
    ("2a all items residue", order(LEFT_OVER, LEFT_OVER), S.CANCELLED),
    ("2a residue, released before", order(LEFT_OVER, release_flag="S"), S.CANCELLED),
    ("2a residue, closed as some sources do", order(LEFT_OVER, release_flag="E", note=RESIDUE), S.CANCELLED),
    ("2a residue, with a block", order(LEFT_OVER, block="1", releases=credit("01")), S.CANCELLED),
    ("2a not while one item is open", order(LEFT_OVER, OPEN), S.OPEN),
    ("2a not while one item is held by hand", order(LEFT_OVER, HELD), S.OPEN),
    ("2b header residue, no invoice", order(OPEN, note=RESIDUE, release_flag="S"), S.CANCELLED),
    ("2b header residue, no items", order(note=RESIDUE), S.CANCELLED),
    ("2b header residue in a narrower field", order(OPEN, note="XXXXXX"), S.CANCELLED),
    ("2b its only invoice was cancelled", order(PART_LEFT_OVER, note=RESIDUE), S.CANCELLED),
    ("2b not with a number that holds an X", order(OPEN, note="XXXXXXXX1", release_flag="S"), S.OPEN),
    ("2b not with a few X", order(OPEN, note="XXX", release_flag="S"), S.OPEN),
    ("2b not with small letters", order(OPEN, note="xxxxxxxxx", release_flag="S"), S.OPEN),
    # Rule 3: part was invoiced, the rest is given up.
    ("3a header residue, one invoice", order(PART, note=RESIDUE, invoices=(INVOICE,)), S.INVOICED_SHORT),
    (
        "3a header residue, a whole and an open item",
        order(WHOLE, OPEN, note=RESIDUE, invoices=(INVOICE,)),
        S.INVOICED_SHORT,
    ),
    ("3a header residue over complete items", order(WHOLE, note=RESIDUE, invoices=(INVOICE,)), S.INVOICED_SHORT),
    ("3b the open items are residue", order(WHOLE, LEFT_OVER, note=NOTE, invoices=(INVOICE,)), S.INVOICED_SHORT),
    ("3b the rest of one item is residue", order(PART_LEFT_OVER, note=NOTE, invoices=(INVOICE,)), S.INVOICED_SHORT),
    ("3b closed as well", order(WHOLE, LEFT_OVER, release_flag="E", invoices=(INVOICE,)), S.INVOICED_SHORT),
    ("3b not while one item is open", order(WHOLE, LEFT_OVER, OPEN, invoices=(INVOICE,)), S.PARTIALLY_INVOICED),
    # Rule 4: everything is invoiced.
    ("4a every item", order(WHOLE, WHOLE, note=NOTE, release_flag="E", invoices=(INVOICE,)), S.INVOICED),
    ("4a more than was ordered", order(item(invoiced="3"), invoices=(INVOICE,)), S.INVOICED),
    ("4a fractions", order(item("1.5", "1.50"), invoices=(INVOICE,)), S.INVOICED),
    ("4a not by a fraction less", order(item("1.5", "1.4999"), invoices=(INVOICE,)), S.PARTIALLY_INVOICED),
    ("4a although the flag was lost", order(WHOLE, invoices=(INVOICE,)), S.INVOICED),
    ("4a a mark of residue on what is complete", order(item(invoiced="2", block="R"), note=NOTE), S.INVOICED),
    ("4a with the releases that led to it", order(WHOLE, note=NOTE, releases=(INVOICED_RELEASE,)), S.INVOICED),
    ("4a beside a line without a quantity", order(WHOLE, item("0"), invoices=(INVOICE,)), S.INVOICED),
    ("4a not by lines without a quantity alone", order(item("0"), release_flag="S"), S.RELEASED),
    ("4b closed", order(PART, note=NOTE, release_flag="E", invoices=(INVOICE,)), S.INVOICED),
    ("4b closed, no items", order(release_flag="E", note=NOTE, invoices=(INVOICE,)), S.INVOICED),
    ("4c a number and nothing open", order(WHOLE, note=NOTE, release_flag="S", invoices=(INVOICE,)), S.INVOICED),
    # Rule 5: some of it is invoiced.
    ("5 part of an item", order(PART, note=NOTE, release_flag="S", invoices=(INVOICE,)), S.PARTIALLY_INVOICED),
    ("5 one of two items", order(WHOLE, OPEN, note=NOTE, invoices=(INVOICE,)), S.PARTIALLY_INVOICED),
    ("5 a little", order(item("1000", "0.0001"), OPEN), S.PARTIALLY_INVOICED),
    ("5 the rest is held by hand", order(WHOLE, HELD, invoices=(INVOICE,)), S.PARTIALLY_INVOICED),
    ("5 the rest is blocked", order(PART, block="1", releases=credit("09")), S.PARTIALLY_INVOICED),
    # Rule 6: blocked as a whole.
    ("6.1 rule", order(OPEN, block="1"), S.BLOCKED_RULE),
    ("6.1 rule, before what its releases say", order(OPEN, block="1", releases=credit("01")), S.BLOCKED_RULE),
    ("6.1 a code that nobody knows", order(OPEN, block="7", release_flag="S"), S.BLOCKED_RULE),
    ("6.2 budget", order(OPEN, block="2"), S.BLOCKED_BUDGET),
    # Rule 7: credit.
    *((f"7 credit {code}", order(OPEN, releases=credit(code)), S.BLOCKED_CREDIT) for code in ("01", "04", "05", "06")),
    ("7 a code that nobody knows", order(OPEN, releases=credit("77")), S.BLOCKED_CREDIT),
    ("7 one of several rows", order(OPEN, releases=(*credit("", "10"), ErpRelease("01", "02"))), S.BLOCKED_CREDIT),
    ("7 before stock", order(OPEN, releases=(*stock("02"), *credit("01"))), S.BLOCKED_CREDIT),
    ("7 although it is released", order(OPEN, release_flag="S", releases=credit("01")), S.BLOCKED_CREDIT),
    ("7 rejected", order(OPEN, releases=credit("09")), S.REJECTED_CREDIT),
    ("7 rejected, the last of several", order(OPEN, releases=credit("01", "", "09")), S.REJECTED_CREDIT),
    # Rule 8: stock.
    ("8 no stock", order(OPEN, release_flag="S", releases=stock("02")), S.BLOCKED_STOCK),
    ("8 by hand", order(OPEN, release_flag="S", releases=stock("03")), S.BLOCKED_STOCK),
    ("8 a code that nobody knows", order(OPEN, release_flag="S", releases=stock("88")), S.BLOCKED_STOCK),
    ("8 one of several rows", order(OPEN, release_flag="S", releases=stock("", "10", "02")), S.BLOCKED_STOCK),
    ("8 not by a row that is invoiced", order(OPEN, release_flag="S", releases=(ErpRelease("10", "02"),)), S.RELEASED),
    # Rule 9: released.
    ("9 released", order(OPEN, release_flag="S"), S.RELEASED),
    ("9 released, with its rows", order(OPEN, release_flag="S", releases=(PASSED, PASSED)), S.RELEASED),
    ("9 one row for each of several items", order(OPEN, OPEN, release_flag="S", releases=(PASSED,) * 4), S.RELEASED),
    ("9 part of it held by hand", order(OPEN, HELD, release_flag="S"), S.RELEASED),
    ("9 released, no items", order(release_flag="S"), S.RELEASED),
    # Rule 10: anything else.
    ("10 new", order(OPEN), S.OPEN),
    ("10 no items", order(), S.OPEN),
    ("10 held by hand", order(HELD), S.OPEN),
    ("10 the number of an invoice that was cancelled", order(OPEN, note=NOTE, release_flag="S"), S.OPEN),
    # Delivered, on top of what is invoiced for good.
    ("delivered", order(WHOLE, invoices=(DELIVERED,)), S.DELIVERED),
    ("delivered, short", order(PART_LEFT_OVER, note=NOTE, invoices=(DELIVERED,)), S.DELIVERED),
    ("delivered, each of several", order(WHOLE, invoices=(DELIVERED, replace(DELIVERED, number="2"))), S.DELIVERED),
    ("delivered, not while one invoice is on its way", order(WHOLE, invoices=(DELIVERED, OTHER)), S.INVOICED),
    ("delivered, not without an invoice", order(WHOLE), S.INVOICED),
    ("delivered, not while more is to be invoiced", order(PART, invoices=(DELIVERED,)), S.PARTIALLY_INVOICED),
    ("delivered, not when it is cancelled", order(LEFT_OVER, invoices=(DELIVERED,)), S.CANCELLED),
]


@pytest.mark.parametrize(("progress", "status"), [pytest.param(*case, id=name) for name, *case in CASES])
def test_each_rule(progress: OrderProgress, status: OrderStatus) -> None:
    assert derive(progress) is status


@pytest.mark.parametrize(("progress", "status"), [pytest.param(*case, id=name) for name, *case in CASES])
def test_the_order_of_rows_does_not_matter(progress: OrderProgress, status: OrderStatus) -> None:
    for items in permutations(progress.items):
        for releases in permutations(progress.releases[:3]):
            mixed = replace(progress, items=items, releases=(*releases, *progress.releases[3:]))
            assert derive(mixed) is status


def test_the_first_rule_that_matches_wins() -> None:
    """Each step takes away what the rule before it needs; all later rules still match."""
    everything: dict[str, Any] = {"release_flag": "S", "block": "1", "releases": (*credit("09", "01"), *stock("02"))}
    steps: list[tuple[OrderProgress, OrderStatus]] = [
        (order(LEFT_OVER, note=RESIDUE, **everything), S.CANCELLED),
        (order(PART_LEFT_OVER, WHOLE, note=RESIDUE, invoices=(INVOICE,), **everything), S.INVOICED_SHORT),
        (order(WHOLE, **everything), S.INVOICED),
        (order(PART, **everything), S.PARTIALLY_INVOICED),
        (order(OPEN, **everything), S.BLOCKED_RULE),
        (order(OPEN, **everything | {"block": "2"}), S.BLOCKED_BUDGET),
        (order(OPEN, **everything | {"block": ""}), S.REJECTED_CREDIT),
        (order(OPEN, **everything | {"block": "", "releases": (*credit("01"), *stock("02"))}), S.BLOCKED_CREDIT),
        (order(OPEN, **everything | {"block": "", "releases": stock("02")}), S.BLOCKED_STOCK),
        (order(OPEN, release_flag="S"), S.RELEASED),
        (order(OPEN), S.OPEN),
    ]
    assert [derive(progress) for progress, _ in steps] == [status for _, status in steps]


@pytest.mark.parametrize("note", ["", NOTE, "9", "000000000", "A00000001", "NF0001"])
@pytest.mark.parametrize("items", [(OPEN,), (OPEN, OPEN), (PART,), (OPEN, WHOLE), (LEFT_OVER, OPEN)])
def test_the_header_s_invoice_number_alone_proves_nothing(note: str, items: Sequence[ErpItem]) -> None:
    """It stands there after the first part of it, and still does when that invoice was cancelled."""
    before = derive(order(*items, release_flag="S"))
    after = derive(order(*items, release_flag="S", note=note))
    assert after not in (INVOICED | ENDED)
    assert after is before or (before is S.RELEASED and after is S.OPEN)


@pytest.mark.parametrize("repeated", [2, 7])
def test_releases_that_are_repeated_change_nothing(repeated: int) -> None:
    for _, progress, status in CASES:
        assert derive(replace(progress, releases=progress.releases * repeated)) is status


def test_codes_that_nobody_knows_are_named_once() -> None:
    known = order(OPEN, block="2", releases=(*credit("", "01", "04", "05", "06", "09", "10"), *stock("02", "03", "10")))
    assert unknown_codes(known) == []
    odd = order(OPEN, block="9", releases=(ErpRelease("77", "88"), ErpRelease("77", ""), ErpRelease("", "10 ")))
    assert unknown_codes(odd) == ["C5_BLQ = '9'", "C9_BLCRED = '77'", "C9_BLEST = '88'", "C9_BLEST = '10 '"]


# What must hold for whatever the ERP holds.

TEXTS = st.one_of(
    st.sampled_from(
        [*("", "R", "S", "E", "1", "2", "9", "01", "02", "09", "10", "X", "XXXXXX", "/", "\x1f"), NOTE, RESIDUE]
    ),
    st.text(max_size=4),
)
QUANTITIES = st.decimals(-2, 5, places=2, allow_nan=False)
ITEMS = st.builds(ErpItem, QUANTITIES, QUANTITIES, QUANTITIES, TEXTS, TEXTS)
MOMENTS = st.none() | st.just(DELIVERED.delivered_at)
INVOICES = st.builds(Invoice, TEXTS, TEXTS, st.none() | st.just(INVOICE.issued_on), TEXTS, MOMENTS)
ORDERS = st.builds(
    OrderProgress,
    branch=TEXTS,
    number=TEXTS,
    external_id=TEXTS,
    note=TEXTS,
    release_flag=TEXTS,
    block=TEXTS,
    items=st.lists(ITEMS, max_size=4).map(tuple),
    tracking_code=TEXTS,
    releases=st.lists(st.builds(ErpRelease, TEXTS, TEXTS), max_size=4).map(tuple),
    invoices=st.lists(INVOICES, max_size=3).map(tuple),
)


@given(ORDERS)
def test_nothing_is_called_invoiced_or_cancelled_without_evidence(progress: OrderProgress) -> None:
    status = derive(progress)
    some = any(line.invoiced > 0 for line in progress.items)
    everything = some and all(line.invoiced >= line.quantity for line in progress.items)
    given_up = [line for line in progress.items if line.invoiced < line.quantity and line.block == "R"]
    eliminated = len(progress.note) >= 6 and progress.note == "X" * len(progress.note)
    if status is S.CANCELLED:
        assert (given_up and not some) or (eliminated and not progress.invoices)
    elif status is S.INVOICED_SHORT:
        assert some and (eliminated or given_up)
    elif status is S.INVOICED:
        assert everything or progress.release_flag == "E"
    elif status is S.DELIVERED:
        assert progress.invoices
        assert all(invoice.delivered_at is not None for invoice in progress.invoices)
        assert derive(replace(progress, invoices=(INVOICE,))) in (S.INVOICED, S.INVOICED_SHORT)
    elif status is S.PARTIALLY_INVOICED:
        assert some
    # A row that is not there is never derived: that takes two looks.
    assert status not in (S.DELETED, S.NOT_FOUND)


@given(ORDERS)
def test_unknown_codes_never_make_an_order_free(progress: OrderProgress) -> None:
    if derive(progress) in (S.OPEN, S.RELEASED):
        assert unknown_codes(replace(progress, releases=())) == []
        assert [code for code in unknown_codes(progress) if code.startswith("C9_BLCRED")] == []


def stands_for(progress: OrderProgress) -> tuple[object, ...]:
    """Header and lines as a person would compare them."""
    lines = [(line.quantity, line.invoiced, line.released, line.block, line.invoice) for line in progress.items]
    return (
        *(progress.external_id, progress.note, progress.release_flag, progress.block, progress.tracking_code),
        tuple(sorted(lines)),
    )


@given(ORDERS, ORDERS)
def test_fingerprints_are_equal_where_what_they_stand_for_is(one: OrderProgress, other: OrderProgress) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (stands_for(one) == stands_for(other))


@given(ORDERS, st.randoms())
def test_a_fingerprint_does_not_depend_on_the_order_of_lines_or_on_what_is_read_later(
    progress: OrderProgress, random: Any
) -> None:
    mixed = list(progress.items)
    random.shuffle(mixed)
    assert fingerprint(replace(progress, items=tuple(mixed), releases=(), invoices=())) == fingerprint(progress)


def test_a_fingerprint_sees_every_flag_and_quantity() -> None:
    lines = (item("2", "1", "S", released="1", invoice=NOTE), OPEN)
    base = order(*lines, note=NOTE, release_flag="S", block="1", tracking_code="BR1")
    others = []
    for name in ("external_id", "note", "release_flag", "block", "tracking_code"):
        flag: dict[str, Any] = {name: "?"}
        others.append(replace(base, **flag))
    for name, value in {"quantity": D(9), "invoiced": D(0), "released": D(2), "block": "R", "invoice": "1"}.items():
        changed: dict[str, Any] = {name: value}
        others.append(replace(base, items=(replace(lines[0], **changed), OPEN)))
    others += [replace(base, items=lines[:1]), replace(base, items=(*lines, OPEN)), replace(base, items=())]
    prints = [fingerprint(one) for one in (base, *others)]
    assert len(set(prints)) == len(prints)
    assert all(len(one) == 32 for one in prints)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (order(item(block="R/", invoice="1")), order(item(block="R", invoice="/1"))),
        (order(note="A\x1fB"), order(note="A", release_flag="B")),
        (order(note="A", block="B"), order(note="A", release_flag="B")),
        (order(OPEN, tracking_code=""), order(tracking_code="2/0/0//")),
    ],
)
def test_texts_that_hold_separators_are_not_mixed_up(one: OrderProgress, other: OrderProgress) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_one_quantity_written_in_two_ways_is_one() -> None:
    assert fingerprint(order(item("2", "0.50"))) == fingerprint(order(item("2.000", "0.5")))
    assert fingerprint(order(item("100"))) == fingerprint(order(item("1E+2")))
    assert fingerprint(order(item("20"))) != fingerprint(order(item("2")))


def test_a_fingerprint_of_text_that_is_no_unicode() -> None:
    assert fingerprint(order(note="\ud800")) != fingerprint(order(note="\ud801"))


def test_going_back_is_a_strict_order() -> None:
    every = list(OrderStatus)
    assert not any(goes_back(status, status) for status in every)
    for one, other in product(every, repeat=2):
        assert not (goes_back(one, other) and goes_back(other, one))
    for one, two, three in product(every, repeat=3):
        if goes_back(one, two) and goes_back(two, three):
            assert goes_back(one, three)
        # What lies at the same point of an order's life is interchangeable.
        if not goes_back(one, two) and not goes_back(two, one):
            assert goes_back(one, three) == goes_back(two, three)


@pytest.mark.parametrize(
    ("old", "new", "back"),
    [
        (S.OPEN, S.RELEASED, False),
        (S.RELEASED, S.OPEN, False),
        (S.RELEASED, S.BLOCKED_CREDIT, False),
        (S.RELEASED, S.INVOICED, False),
        (S.PARTIALLY_INVOICED, S.INVOICED, False),
        (S.PARTIALLY_INVOICED, S.RELEASED, True),
        (S.INVOICED, S.PARTIALLY_INVOICED, True),
        (S.INVOICED, S.INVOICED_SHORT, False),
        (S.INVOICED_SHORT, S.INVOICED, False),
        (S.INVOICED, S.OPEN, True),
        (S.INVOICED, S.DELIVERED, False),
        (S.DELIVERED, S.INVOICED, True),
        (S.DELIVERED, S.CANCELLED, False),
        (S.CANCELLED, S.DELETED, False),
        (S.DELETED, S.CANCELLED, False),
        (S.DELETED, S.OPEN, True),
        (S.CANCELLED, S.INVOICED_SHORT, True),
        (S.OPEN, S.DELETED, False),
        (S.NOT_FOUND, S.RELEASED, True),
    ],
)
def test_what_lies_before_what(old: OrderStatus, new: OrderStatus, back: bool) -> None:
    assert goes_back(old, new) is back


# The access key of an NF-e.

KEY = "35261111222333000181550010000123451123456788"
"""The contract's example, of the invoice 12345."""
CNPJ, LETTERS = "11222333000181", "12ABC34501DE35"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def rest(text: str) -> int:
    """Modulo 11 over ASCII - 48, written from the rule in contracts/protheus-rest.md, 13."""
    weights = [2, 3, 4, 5, 6, 7, 8, 9] * 6
    return sum((ord(char) - 48) * weight for char, weight in zip(reversed(text), weights, strict=False)) % 11


def key_of(issuer: str, invoice: int, code: str = "12345678", series: int = 1) -> str:
    text = f"352611{issuer}55{series:03d}{invoice:09d}1{code}"
    assert len(text) == 43
    return with_digit(text)


def with_digit(text: str) -> str:
    return text + (str(11 - rest(text)) if rest(text) > 1 else "0")


ZERO_KEY = key_of(CNPJ, 12345, "00000005")


def fault(key: str, invoice: str = "000012345", issuers: Sequence[str] = ()) -> str:
    return nfe_key.fault(key, invoice_number=invoice, issuers=issuers)


def test_the_contract_s_example() -> None:
    assert key_of(CNPJ, 12345) == KEY
    assert fault(KEY) == ""
    assert fault(KEY, issuers=[LETTERS, CNPJ]) == ""
    assert nfe_key.issuer(KEY) == CNPJ


def test_an_issuer_with_letters() -> None:
    key = key_of(LETTERS, 12345)
    assert nfe_key.issuer(key) == LETTERS
    assert fault(key) == fault(key, issuers=[LETTERS]) == ""
    assert "issuer" in fault(key, issuers=[CNPJ])


@pytest.mark.parametrize("invoice", ["12345", "012345", "000012345"])
def test_invoice_numbers_of_any_width(invoice: str) -> None:
    assert fault(KEY, invoice) == ""


@pytest.mark.parametrize("invoice", ["000012346", "123450", "1", "0"])
def test_the_key_of_another_invoice(invoice: str) -> None:
    assert fault(KEY, invoice) == "belongs to the invoice 12345"


def test_a_number_that_is_none_is_not_compared() -> None:
    assert fault(KEY, "A00012345") == fault(KEY, "") == ""
    assert fault(with_digit(KEY[:-1].replace("000012345", "00001234A"))) == ""


@pytest.mark.parametrize(
    "key",
    [
        "",
        KEY[:-1],
        KEY + "8",
        KEY + "\n",
        " " + KEY,
        " " * 44,
        KEY.replace("2", "２"),
        "".join(chr(ord(digit) + 0xFEE0) for digit in KEY),
        "".join(chr(ord(digit) + 0x630) for digit in KEY),
        key_of(LETTERS, 12345).lower(),
        KEY[:6] + "11.222.333/0001-81" + KEY[20:],
        KEY[:43] + "é",
        KEY[:20] + "-" + KEY[21:],
        KEY[:20] + "\x00" + KEY[21:],
    ],
)
def test_what_has_not_the_form_of_a_key(key: str) -> None:
    assert "an NF-e key has 44" in fault(key)


@pytest.mark.parametrize("issuers", [[LETTERS], [CNPJ[:-1]], [""], ["11.222.333/0001-81"]])
def test_the_key_of_another_issuer(issuers: list[str]) -> None:
    assert fault(KEY, issuers=issuers) == "names another issuer than statuses.issuers"


def changed(key: str, alphabet: str) -> list[str]:
    """Every key that differs in one character."""
    return [
        key[:place] + other + key[place + 1 :] for place, char in enumerate(key) for other in alphabet if other != char
    ]


def passes(keys: Sequence[str]) -> list[str]:
    """Whose check digit nobody objects to."""
    return [key for key in keys if fault(key, key[25:34]) == ""]


@pytest.mark.parametrize(
    ("key", "alphabet", "share"),
    [
        pytest.param(KEY, "0123456789", 0.0, id="digits"),
        pytest.param(KEY, ALPHABET, 0.06, id="letters: 6, A and L, or 9, D and O, are eleven apart"),
        pytest.param(key_of(LETTERS, 12345), ALPHABET, 0.06, id="letters, in a key that has some"),
        pytest.param(ZERO_KEY, "0123456789", 0.11, id="digits, check digit 0: it stands for the rests 0 and 1"),
        pytest.param(ZERO_KEY, ALPHABET, 0.16, id="letters, check digit 0"),
    ],
)
def test_the_share_of_mistyped_characters_that_modulo_11_lets_through(key: str, alphabet: str, share: float) -> None:
    mistyped = changed(key, alphabet)
    through = passes(mistyped)
    assert through == [one for one in mistyped if with_digit(one[:-1]) == one]
    assert not any(one[:-1] == key[:-1] for one in through), "a wrong check digit"
    assert len(through) / len(mistyped) == pytest.approx(share, abs=0.01)


@given(
    st.text(ALPHABET, min_size=12, max_size=12).flatmap(lambda root: st.just(f"{root}00")),
    st.integers(0, 999_999_999),
    st.text("0123456789", min_size=8, max_size=8),
)
def test_every_key_with_its_check_digit_is_one(issuer: str, invoice: int, code: str) -> None:
    key = key_of(issuer, invoice, code)
    assert fault(key, str(invoice), [issuer]) == ""
    assert fault(key, str(invoice + 1), [issuer]) == f"belongs to the invoice {invoice}"


@given(st.text(max_size=50))
def test_no_text_is_too_odd_for_it(text: str) -> None:
    assert isinstance(fault(text, text, [text]), str)
    assert isinstance(fault(KEY, text), str)
