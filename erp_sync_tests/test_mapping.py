"""Header, items, customer and texts of the order as the ERP gets it; the arithmetic is in test_mapping_amounts.py."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erp_sync.erp_fields import storable
from erp_sync.errors import InvalidOrder
from erp_sync.mapping import COLUMN_LINEAGE, MAX_ITEMS, customer_key, item_code, map_order, payload_hash
from erp_sync.models import Address, Customer, CustomerCode, ErpOrder, Order, OrderLine, Problem, ShopState
from erp_sync.settings import Settings

D = Decimal
TODAY = date(2026, 11, 23)
HOME = Address("Rua das Flores", "12", "ap 3", "Centro", "São Paulo", "3550308", "SP", "01310-100")
WORK = replace(HOME, street="Avenida Paulista", number="900", district="Bela Vista")
ANA = Customer("Ana Souza", "529.982.247-25", email="ana@example.com", phone="+55 (11) 98765-4321", billing=HOME)
LINE = OrderLine("881", "CAFE-500", D("2"), D("31.5"), None, warehouse="01")
ORDER = Order(
    order_id="7",
    number="WEB-100045",
    state=ShopState.READY,
    changed_at=datetime(2026, 11, 23, 13, tzinfo=UTC),
    ordered_at=datetime(2026, 11, 23, 12, tzinfo=UTC),
    business_day=TODAY,
    currency="BRL",
    total=D("76.90"),
    customer=ANA,
    lines=(LINE,),
    discount=D(5),
    freight=D("18.9"),
    payment="pix",
    carrier="correios",
    notes="Pedido web 100045",
)


def configured(*, erp: dict[str, Any] | None = None, **orders: Any) -> Settings:
    carriers = {"correios": "000004"}
    return Settings.model_validate({"erp": erp or {}, "orders": {"carriers": carriers, **orders}})


def mapped(order: Order, settings: Settings | None = None) -> ErpOrder:
    return map_order(order, settings or configured(), TODAY, {"BRL"})


def problems(order: Order, settings: Settings | None = None) -> list[Problem]:
    with pytest.raises(InvalidOrder) as caught:
        mapped(order, settings)
    return list(caught.value.problems)


def of_customer(**changes: Any) -> Order:
    return replace(ORDER, customer=replace(ANA, **changes))


def of_line(**changes: Any) -> Order:
    return replace(ORDER, lines=(replace(LINE, **changes),))


def test_the_contracts_example() -> None:
    sent = mapped(ORDER)
    assert sent.external_id == "WEB-100045"
    assert sent.header == {
        "C5_XPEDWEB": "WEB-100045",
        "C5_TIPO": "N",
        "C5_TIPOCLI": "F",
        "C5_CONDPAG": "001",
        "C5_EMISSAO": "20261123",
        "C5_TPFRETE": "C",
        "C5_FRETE": D("18.90"),
        "C5_DESCONT": D("5.00"),
        "C5_TRANSP": "000004",
        "C5_MENNOTA": "Pedido web 100045",
        "C5_INDPRES": "2",
        "LIBERA": False,
    }
    assert sent.items == (
        {
            "C6_ITEM": "01",
            "C6_PRODUTO": "CAFE-500",
            "C6_QTDVEN": D(2),
            "C6_PRCVEN": D("31.50"),
            "C6_PRUNIT": D("31.50"),
            "C6_VALOR": D("63.00"),
            "C6_OPER": "01",
            "C6_LOCAL": "01",
        },
    )
    assert sent.customer.tax_id == "52998224725"
    assert sent.customer.given is None
    assert sent.customer.fields == {
        "A1_PESSOA": "F",
        "A1_CGC": "52998224725",
        "A1_NOME": "Ana Souza",
        "A1_NREDUZ": "Ana Souza",
        "A1_TIPO": "F",
        "A1_CONTRIB": "2",
        "A1_INSCR": "ISENTO",
        "A1_DDD": "11",
        "A1_TEL": "987654321",
        "A1_EMAIL": "ana@example.com",
        "A1_END": "Rua das Flores, 12",
        "A1_COMPLEM": "ap 3",
        "A1_BAIRRO": "Centro",
        "A1_MUN": "São Paulo",
        "A1_EST": "SP",
        "A1_CEP": "01310100",
        "A1_COD_MUN": "50308",
        "A1_PAIS": "105",
        "A1_CODPAIS": "01058",
    }
    assert sent.total == D("76.90")
    assert sent.notes == ()


def test_item_codes() -> None:
    codes = [item_code(position) for position in range(1, MAX_ITEMS + 1)]
    assert [codes[at - 1] for at in (1, 9, 10, 99, 100, 125, 126, 150, 161, 162)] == (
        ["01", "09", "10", "99", "9A", "9Z", "A0", "AO", "AZ", "B0"]
    )
    assert codes[-1] == "ZZ"
    assert codes == sorted(set(codes))
    for outside in (0, MAX_ITEMS + 1):
        with pytest.raises(ValueError, match=str(outside)):
            item_code(outside)


def test_150_lines_and_one_too_many() -> None:
    def many(count: int) -> Order:
        return replace(ORDER, lines=(LINE,) * count, total=63 * count + D("13.90"))

    assert [item["C6_ITEM"] for item in mapped(many(150)).items][98:101] == ["99", "9A", "9B"]
    assert len(mapped(many(MAX_ITEMS)).items) == MAX_ITEMS
    (problem,) = problems(many(MAX_ITEMS + 1))
    assert (problem.field, problem.value) == ("lines", str(MAX_ITEMS + 1))


def test_two_lines_with_one_sku_and_case_twins_stay_apart() -> None:
    twins = tuple(replace(LINE, sku=sku) for sku in ("BOLSA-01", "bolsa-01", "bolsa-01"))
    sent = mapped(replace(ORDER, lines=twins, total=D("202.90")))
    assert [item["C6_PRODUTO"] for item in sent.items] == ["BOLSA-01", "bolsa-01", "bolsa-01"]


WRONG: dict[str, tuple[Order, str, str, str]] = {
    # name: the order, the problem's field, its value, a part of the advice
    "no number": (replace(ORDER, number=""), "number", "", "C5_XPEDWEB"),
    "number too wide": (replace(ORDER, number="W" * 21), "number", "W" * 21, "20"),
    "number with an accent": (replace(ORDER, number="CAFÉ-1"), "number", "CAF\\xc9-1", "ASCII"),
    "number with a control character": (replace(ORDER, number="A\x00B"), "number", "A\\x00B", "printable"),
    "currency": (replace(ORDER, currency="USD"), "currency", "USD", "BRL"),
    "far future": (replace(ORDER, business_day=date(2099, 1, 1)), "ordered_at", "2099-01-01", "future"),
    "no lines": (replace(ORDER, lines=()), "lines", "0", "no line"),
    "no sku": (of_line(sku=""), "lines.sku (line_id 881)", "", "product's code"),
    "sku too wide": (of_line(sku="S" * 16), "lines.sku (line_id 881)", "S" * 16, "C6_PRODUTO holds 15"),
    "sku with an emoji": (of_line(sku="CAFÉ☕"), "lines.sku (line_id 881)", "CAF\\xc9\\u2615", "CP1252"),
    "warehouse too wide": (of_line(warehouse="main"), "lines.warehouse (line_id 881)", "main", "C6_LOCAL holds 2"),
    "payment": (replace(ORDER, payment="crypto"), "payment", "crypto", "orders.payments"),
    "no payment": (replace(ORDER, payment=""), "payment", "", "orders.default_payment"),
    "no tax id": (of_customer(tax_id=""), "tax_id", "", "empty"),
    "no tax id, but a customer code": (of_customer(tax_id="", erp_customer="000731"), "tax_id", "", "empty"),
    "repeated tax id": (of_customer(tax_id="111.111.111-11"), "tax_id", "************11", "repeats"),
    "wrong tax id": (of_customer(tax_id="52998224726"), "tax_id", "*********26", "check digits"),
    "no name": (of_customer(name="🎉"), "customer_name", "", "empty"),
    "customer code": (of_customer(erp_customer="0007311/01"), "erp_customer", "0007311/01", "A1_COD"),
    "country": (of_customer(billing=replace(HOME, country="PT")), "billing_country", "PT", "orders.countries"),
    "delivery country": (replace(ORDER, delivery=replace(HOME, country="ar")), "delivery_country", "AR", "countries"),
    "total": (replace(ORDER, total=D("76.91")), "total", "76.91", "76.9"),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_problem_each_named_with_its_value(name: str) -> None:
    order, field, value, advice = WRONG[name]
    (problem,) = problems(order)
    assert (problem.field, problem.value) == (field, value)
    assert advice in problem.advice


def test_a_value_of_a_mistaken_column_shows_nobody_s_data() -> None:
    wrong = replace(of_line(line_id="(11) 98888-7777", sku="ana.maria@example.com"), currency="529.982.247-25")
    assert [(problem.field, problem.value) for problem in problems(wrong)] == [
        ("currency", "************25"),
        ("lines.sku (line_id ***)", "***"),
    ]
    (long,) = problems(of_line(sku="78912345678901234"))
    assert long.value == "78912345678901234"


def test_all_problems_are_told_at_once() -> None:
    wrong = replace(
        ORDER, number="", currency="USD", payment="", customer=replace(ANA, tax_id="1"), lines=(replace(LINE, sku=""),)
    )
    fields = [problem.field for problem in problems(replace(wrong, total=D(1)))]
    assert fields == ["tax_id", "number", "currency", "payment", "lines.sku (line_id 881)", "total"]


def test_no_problem_shows_personal_data() -> None:
    secret = Customer("Ana", "52998224726", "x" * 20, "ana@example.com", "11987654321", replace(HOME, country="XX"))
    text = " ".join(map(str, problems(replace(ORDER, customer=secret, delivery=replace(WORK, country="YY")))))
    for value in ("52998224726", "ana@", "98765", "Flores", "Paulista", "01310"):
        assert value not in text


def test_tomorrow_is_no_future_yet() -> None:
    assert mapped(replace(ORDER, business_day=TODAY + timedelta(days=1))).header["C5_EMISSAO"] == "20261124"
    assert problems(replace(ORDER, business_day=TODAY + timedelta(days=2)))


def test_names_and_widths_come_from_the_settings() -> None:
    settings = configured(
        erp={"external_id_field": "C5_XID", "external_id_width": 36, "widths": {"C6_PRODUTO": 30, "A1_NOME": 5}},
        tes="501",
        default_payment="009",
    )
    order = replace(of_line(sku="S" * 30), number="W" * 36, payment="crypto")
    sent = mapped(order, settings)
    assert sent.header["C5_XID"] == "W" * 36
    assert "C5_XPEDWEB" not in sent.header
    assert sent.header["C5_CONDPAG"] == "009"
    assert sent.items[0]["C6_TES"] == "501"
    assert "C6_OPER" not in sent.items[0]
    assert sent.customer.fields["A1_NOME"] == "Ana S"
    assert sent.notes == ("A1_NOME: cut from 9 to 5 characters",)


def test_carrier_and_kind_of_freight() -> None:
    sent = mapped(replace(ORDER, carrier="motoboy"))
    assert "C5_TRANSP" not in sent.header
    assert sent.header["C5_TPFRETE"] == "C"
    assert sent.notes == ("C5_TRANSP: left out, carrier 'motoboy' is not in orders.carriers of the settings",)
    bare = mapped(replace(ORDER, carrier="", freight=D(0), total=D(58)))
    assert bare.header["C5_TPFRETE"] == "S"
    assert bare.header.keys().isdisjoint({"C5_FRETE", "C5_TRANSP", "C5_DESPESA"})
    assert bare.notes == ()


WIDE = configured(erp={"widths": {"C5_MENNOTA": 250}})


def test_another_delivery_address_comes_before_the_notes() -> None:
    sent = mapped(replace(ORDER, delivery=WORK), WIDE)
    assert sent.header["C5_MENNOTA"] == (
        "Entrega: Avenida Paulista, 900, ap 3, Bela Vista, São Paulo/SP, CEP 01310-100 - Pedido web 100045"
    )
    cut = mapped(replace(ORDER, delivery=WORK))
    assert cut.header["C5_MENNOTA"] == "Entrega: Avenida Paulista, 900, ap 3, Bela Vista, São Paulo/"
    assert cut.notes == ("C5_MENNOTA: cut from 97 to 60 characters",)


def test_the_same_delivery_address_written_differently() -> None:
    same = replace(HOME, street=" RUA  das flores", zip="01310100", city_code="", country="")
    assert mapped(replace(ORDER, delivery=same)).header["C5_MENNOTA"] == "Pedido web 100045"


def test_a_second_store_is_refused() -> None:
    store = configured(delivery_to="store")
    mapped(ORDER, store)
    (problem,) = problems(replace(ORDER, delivery=WORK), store)
    assert problem.field == "orders.delivery_to"


def test_emoji_and_accents() -> None:
    sent = mapped(replace(of_customer(name="José 🎉 Conceição"), notes="é p/ presente 🎁\r\nobrigada!"))
    assert sent.customer.fields["A1_NOME"] == "José Conceição"
    assert sent.header["C5_MENNOTA"] == "é p/ presente obrigada!"
    assert sent.total == ORDER.total
    lost = "characters that Protheus cannot hold (CP1252) were replaced or left out"
    assert sent.notes == (f"A1_NOME: {lost}", f"C5_MENNOTA: {lost}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        (" a \t b ", "a b"),
        ("Jose\u0301", "José"),
        ("Łódź Ā", "ódz A"),
        ("ＡＢ①", "AB1"),
        ("€ “x” – …", "€ “x” – …"),
        ("a\u00a0b\u200bc\u00add", "a bcd"),
        ("👩‍👧 x", "x"),
        ("\ud800x\x81", "x"),
    ],
)
def test_what_cp1252_holds(text: str, expected: str) -> None:
    assert storable(text) == expected


@given(st.text(st.characters()), st.integers(1, 60))
def test_every_text_becomes_one_that_fits(text: str, width: int) -> None:
    sent = mapped(replace(ORDER, notes=text), configured(erp={"widths": {"C5_MENNOTA": width}}))
    message = sent.header.get("C5_MENNOTA", "")
    assert isinstance(message, str)
    assert len(message.encode("cp1252")) <= width
    assert storable(message) == message
    assert unicodedata.is_normalized("NFC", message)
    unchanged = message == " ".join(unicodedata.normalize("NFC", text).split())
    assert unchanged == (sent.notes == ())


def test_a_company_with_letters_in_its_cnpj() -> None:
    customer = mapped(of_customer(tax_id="12.abc.345/01de-35")).customer
    assert customer.tax_id == customer.fields["A1_CGC"] == "12ABC34501DE35"
    assert customer.fields["A1_PESSOA"] == "J"
    assert "A1_INSCR" not in customer.fields


def test_a_customer_abroad() -> None:
    abroad = Address("Rua Augusta", "5", city="Lisboa", state="LX", zip="1100-048", country="pt")
    customer = mapped(of_customer(billing=abroad), configured(countries={"PT": "607"})).customer
    address = {
        name: value
        for name, value in customer.fields.items()
        if name in COLUMN_LINEAGE and "billing" in str(COLUMN_LINEAGE[name])
    }
    assert address == {"A1_END": "Rua Augusta, 5", "A1_MUN": "Lisboa", "A1_EST": "EX", "A1_PAIS": "607"}


def test_a_given_customer_is_never_created() -> None:
    customer = mapped(of_customer(erp_customer="000731/02", name="")).customer
    assert (customer.given, customer.tax_id, customer.fields) == (CustomerCode("000731", "02"), "52998224725", {})
    assert mapped(of_customer(erp_customer="000731")).customer.given == CustomerCode("000731", "")


def test_without_a_tax_id_where_none_is_required() -> None:
    guest = of_customer(tax_id="")
    fallback = configured(require_tax_id=False, default_customer="999999/01")
    assert mapped(guest, fallback).customer.given == CustomerCode("999999", "01")
    assert mapped(of_customer(tax_id="", erp_customer="000731"), fallback).customer.given == CustomerCode("000731", "")
    assert mapped(ORDER, fallback).customer.given is None
    (problem,) = problems(guest, configured(require_tax_id=False))
    assert "orders.default_customer" in problem.advice
    (problem,) = problems(guest, configured(require_tax_id=False, default_customer="123456789"))
    assert problem.field == "orders.default_customer"


@pytest.mark.parametrize(
    ("phone", "fields"),
    [
        ("(11) 98765-4321", {"A1_DDD": "11", "A1_TEL": "987654321"}),
        ("0 11 3333 4444", {"A1_DDD": "11", "A1_TEL": "33334444"}),
        ("5511987654321", {"A1_DDD": "11", "A1_TEL": "987654321"}),
        ("(55) 98765-4321", {"A1_DDD": "55", "A1_TEL": "987654321"}),
        ("3333-4444", {"A1_TEL": "33334444"}),
        ("none", {}),
        ("1" * 16, {}),
    ],
)
def test_phones(phone: str, fields: dict[str, str]) -> None:
    sent = mapped(of_customer(phone=phone)).customer.fields
    assert {name: sent[name] for name in ("A1_DDD", "A1_TEL") if name in sent} == fields


def test_parts_of_an_address_that_are_none_are_left_out_and_noted() -> None:
    odd = replace(HOME, zip="1310-100", state="São Paulo", city_code="355030")
    sent = mapped(of_customer(billing=odd, email="x" * 61))
    assert sent.customer.fields.keys().isdisjoint({"A1_CEP", "A1_EST", "A1_COD_MUN", "A1_EMAIL"})
    assert [note.partition(":")[0] for note in sent.notes] == ["A1_EMAIL", "A1_CEP", "A1_EST", "A1_COD_MUN"]
    assert mapped(of_customer(billing=replace(HOME, state="rj"))).customer.fields["A1_EST"] == "RJ"
    assert mapped(of_customer(billing=replace(HOME, city_code="50308"))).customer.fields["A1_COD_MUN"] == "50308"


def test_a_long_street_keeps_its_number() -> None:
    street = mapped(of_customer(billing=replace(HOME, street="Rua " + "a" * 50, number="1234"))).customer.fields[
        "A1_END"
    ]
    assert street == "Rua " + "a" * 30 + ", 1234"
    assert len(street) == 40


CHANGES: list[Callable[[Order], Order]] = [
    lambda order: replace(order, number="WEB-2"),
    lambda order: replace(order, business_day=date(2026, 11, 22)),
    lambda order: replace(order, total=D("76.91")),
    lambda order: replace(order, discount=None),
    lambda order: replace(order, customer=replace(ANA, tax_id="11222333000181")),
    lambda order: replace(order, customer=replace(ANA, billing=replace(HOME, state="RJ"))),
    lambda order: replace(order, delivery=HOME),
    lambda order: replace(order, lines=(replace(LINE, sku="cafe-500"),)),
    lambda order: replace(order, lines=(LINE, replace(LINE, line_id="882"))),
    lambda order: replace(order, lines=(replace(LINE, line_id="882"), LINE)),
    lambda order: replace(order, notes="31.5"),
    lambda order: replace(order, payment="boleto"),
]


def test_the_payload_hash_tells_what_matters() -> None:
    hashes = {payload_hash(ORDER), *(payload_hash(change(ORDER)) for change in CHANGES)}
    assert len(hashes) == len(CHANGES) + 1
    assert all(len(digest) == 64 for digest in hashes)


def test_the_payload_hash_ignores_the_rest() -> None:
    later = ORDER.changed_at + timedelta(hours=1)
    same = replace(
        ORDER, state=ShopState.CLOSED, changed_at=later, ordered_at=later, total=D("76.9"), discount=D("5.000"),
        freight=D("1.89E+1"), lines=(replace(LINE, quantity=D("2.00"), unit_price=D("31.50")),),
    )  # fmt: skip
    assert payload_hash(same) == payload_hash(ORDER)
    # Written down: the ledger keeps it between releases.
    assert payload_hash(ORDER) == "ce0a94ba92089103e99b0e64f35e0e81f89bdc0576e01d2de47e1d970a8c5bea"


def test_the_customer_key_is_one_per_customer() -> None:
    customer = mapped(ORDER).customer
    key = customer_key(customer)
    assert len(key) == 32
    assert customer_key(replace(customer, fields={})) == key
    others = [
        replace(customer, tax_id="11222333000181"),
        replace(customer, given=CustomerCode("000731", "")),
        replace(customer, given=CustomerCode("000731", "01")),
        replace(customer, tax_id="", given=CustomerCode("000731", "01")),
    ]
    assert len({key, *map(customer_key, others)}) == 5


def of_lines(count: int, total: str, line: dict[str, Any] | None = None, **header: Any) -> Order:
    plain = replace(ORDER, carrier="", freight=D(0), discount=None, delivery=WORK)
    return replace(plain, lines=(replace(LINE, **(line or {})),) * count, total=D(total), **header)


WEIGHT = {"quantity": D("0.33"), "unit_price": D("9.99")}
GRAM = {"quantity": D(1), "unit_price": D("1.2345")}
ONE_COLUMN_APART: list[tuple[str, Order, Order]] = [
    # a canonical column, and two orders that differ in it, and in the total where they would not add up otherwise
    ("orders.number", ORDER, replace(ORDER, number="X")),
    ("orders.payment", ORDER, replace(ORDER, payment="boleto")),
    ("orders.ordered_at", ORDER, replace(ORDER, business_day=date(2026, 11, 22))),
    ("orders.notes", ORDER, replace(ORDER, notes="X")),
    ("orders.customer_name", ORDER, of_customer(name="X")),
    ("orders.tax_id", ORDER, of_customer(tax_id="11222333000181")),
    ("orders.email", ORDER, of_customer(email="x@example.com")),
    ("orders.phone", ORDER, of_customer(phone="2133334444")),
    ("orders.carrier", of_lines(1, "63"), replace(of_lines(1, "63"), carrier="correios")),
    ("orders.freight", of_lines(1, "63"), of_lines(1, "64", freight=D(1))),
    ("orders.freight", of_lines(2, "16.6", WEIGHT, freight=D(10)), of_lines(2, "16.6", WEIGHT, freight=D("10.01"))),
    ("orders.tax", of_lines(2, "16.6", WEIGHT, tax=D(10)), of_lines(2, "16.6", WEIGHT, tax=D("10.01"))),
    ("orders.discount", of_lines(1, "63"), of_lines(1, "60", discount=D(3))),
    ("orders.total", of_lines(2, "6.60", WEIGHT), of_lines(2, "6.59", WEIGHT)),
    ("orders.total", of_lines(3, "3.69", GRAM), of_lines(3, "3.70", GRAM)),
    ("lines.sku", ORDER, of_line(sku="X")),
    ("lines.warehouse", ORDER, of_line(warehouse="")),
    ("lines.tax", of_lines(1, "63"), of_lines(1, "64", {"tax": D(1)})),
    ("lines.tax", of_lines(2, "16.6", {**WEIGHT, "tax": D(5)}), of_lines(2, "16.6", {**WEIGHT, "tax": D("5.005")})),
    ("lines.discount", of_lines(1, "55", discount=D(8)), of_lines(1, "55", {"discount": D(5)}, discount=D(8))),
    (
        "lines.quantity",
        of_lines(1, "100", {"quantity": D(3), "line_total": D(100)}),
        of_lines(1, "100", {"quantity": D(4), "line_total": D(100)}),
    ),
    (
        "lines.line_total",
        of_lines(1, "100", {"quantity": D(3), "line_total": D(100)}),
        of_lines(1, "102", {"quantity": D(3), "line_total": D(102)}),
    ),
    ("lines.unit_price", of_lines(2, "6.59", WEIGHT), of_lines(2, "6.59", {**WEIGHT, "unit_price": D("9.98")})),
]
for _part, _value in {
    "street": "X",
    "number": "9",
    "complement": "X",
    "district": "X",
    "city": "X",
    "city_code": "3300100",
    "state": "RJ",
    "zip": "20000000",
    "country": "PT",
}.items():
    _home, _work = replace(HOME, **{_part: _value}), replace(WORK, **{_part: _value})
    ONE_COLUMN_APART += [
        (f"orders.billing_{_part}", ORDER, of_customer(billing=_home)),
        # The billing address also decides whether the delivery address is another one.
        (
            f"orders.billing_{_part}",
            replace(ORDER, delivery=_home),
            replace(of_customer(billing=_home), delivery=_home),
        ),
        (f"orders.delivery_{_part}", replace(ORDER, delivery=WORK), replace(ORDER, delivery=_work)),
    ]


def test_the_lineage_is_what_a_change_in_the_shop_changes_in_the_erp() -> None:
    settings = configured(erp={"widths": {"C5_MENNOTA": 250}}, countries={"PT": "607"})
    witnessed: dict[str, set[str]] = {field: set() for field in COLUMN_LINEAGE}
    for column, before, after in ONE_COLUMN_APART:
        changed = different_fields(mapped(before, settings), mapped(after, settings))
        possible = {column} | ({"orders.total"} if before.total != after.total else set())
        for field in changed:
            assert possible & set(COLUMN_LINEAGE[field]), f"{field} depends on {column}"
            witnessed[field].add(column)
    claimed = {field: set(columns) for field, columns in COLUMN_LINEAGE.items()}
    assert {field: columns & claimed[field] for field, columns in witnessed.items()} == claimed


def different_fields(one: ErpOrder, other: ErpOrder) -> set[str]:
    def values(order: ErpOrder, field: str) -> list[object]:
        return [part.get(field) for part in parts(order)]

    return {field for field in COLUMN_LINEAGE if values(one, field) != values(other, field)}


def parts(order: ErpOrder) -> list[Mapping[str, object]]:
    return [order.header, order.customer.fields, *order.items]


def test_the_lineage_names_every_field_and_no_other() -> None:
    sent = [mapped(ORDER), mapped(replace(ORDER, tax=D(1), total=D("77.9"))), mapped(ORDER, configured(tes="501"))]
    fields = {field for order in sent for part in parts(order) for field in part}
    assert fields == COLUMN_LINEAGE.keys()
