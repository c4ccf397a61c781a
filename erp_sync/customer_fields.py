"""A shop customer as a row of SA1 (contracts/protheus-rest.md, 8.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from erp_sync.erp_fields import FieldLimits
from erp_sync.models import Address, Customer, CustomerCode, ErpCustomer
from erp_sync.tax_id import mask, normalize

if TYPE_CHECKING:
    from erp_sync.settings import OrdersSection

_STATE = re.compile(r"A[CLMP]|BA|CE|DF|ES|GO|M[AGST]|P[ABEIR]|R[JNORS]|S[CEP]|TO")
_CODE = re.compile(r"([0-9A-Za-z]+)(?:/([0-9A-Za-z]+))?")


def map_customer(customer: Customer, orders: OrdersSection, limits: FieldLimits) -> ErpCustomer:
    """Who buys. The customer code that the shop or `orders.default_customer` gives wins over a match by tax id; such a
    customer is in the ERP already, so its `fields` are empty: it is never created.

    What is wrong ends up in `limits.problems`; then the result must not be sent.
    """
    tax_id = ""
    given = _given("erp_customer", customer.erp_customer, limits)
    if customer.tax_id:
        try:
            tax_id = normalize(customer.tax_id)
        except ValueError as error:
            limits.refuse("tax_id", mask(customer.tax_id), str(error))
    elif orders.require_tax_id:
        limits.refuse("tax_id", "", "is empty: fill in the customer's CPF or CNPJ in the shop")
    elif not customer.erp_customer:
        if orders.default_customer:
            given = _given("orders.default_customer", orders.default_customer, limits)
        else:
            limits.refuse("tax_id", "", "is empty: fill it in, or set orders.default_customer in the settings")
    check_country("billing_country", customer.billing, orders, limits)
    fields = {} if given else _fields(customer, tax_id, orders, limits)
    return ErpCustomer(tax_id, given, fields)


def check_country(name: str, address: Address, orders: OrdersSection, limits: FieldLimits) -> None:
    """Outside Brazil A1_PAIS comes from `orders.countries` (contracts/shop-profile.md, "Canonical columns")."""
    country = _country(address)
    if country != "BR" and country not in orders.countries:
        limits.refuse(name, country, "has no A1_PAIS: add the country to orders.countries in the settings")


def address_text(address: Address) -> str:
    """The address in one line, for a person."""
    street = ", ".join(filter(None, (address.street, address.number, address.complement)))
    city = "/".join(filter(None, (address.city, address.state)))
    country = _country(address)
    parts = (street, address.district, city, address.zip and f"CEP {address.zip}", country if country != "BR" else "")
    return ", ".join(filter(None, parts))


def _country(address: Address) -> str:
    return address.country.upper() or "BR"


def _given(name: str, text: str, limits: FieldLimits) -> CustomerCode | None:
    if not text:
        return None
    code, store = limits.width("A1_COD"), limits.width("A1_LOJA")
    match = _CODE.fullmatch(text)
    if match is None or len(match[1]) > code or len(match[2] or "") > store:
        advice = f"is no A1_COD or A1_COD/A1_LOJA ({code} and {store} letters or digits at most): correct it"
        limits.refuse(name, text, advice)
        return None
    return CustomerCode(match[1], match[2] or "")


def _fields(customer: Customer, tax_id: str, orders: OrdersSection, limits: FieldLimits) -> dict[str, str]:
    """A1_ fields for a create; those without a value are left out, and whatever a site made mandatory it asks for."""
    person = len(tax_id) == 11
    name = limits.text("A1_NOME", customer.name)
    if not name:
        limits.refuse("customer_name", "", "is empty, or has no character that Protheus can hold: correct it")
    fields = {
        "A1_PESSOA": "F" if person else "J",
        "A1_CGC": tax_id,
        "A1_NOME": name,
        "A1_NREDUZ": name[: limits.width("A1_NREDUZ")].rstrip(),
        "A1_TIPO": "F",
        "A1_CONTRIB": "2",
        # Whether a company is registered with its state is not known here, so nothing is claimed about it.
        "A1_INSCR": "ISENTO" if person else "",
        **_phone(customer.phone, limits),
        "A1_EMAIL": _email(customer.email, limits),
        **_address(customer.billing, orders, limits),
    }
    return {field: value for field, value in fields.items() if value}


def _address(address: Address, orders: OrdersSection, limits: FieldLimits) -> dict[str, str]:
    fields = {
        "A1_END": _street(address, limits),
        "A1_COMPLEM": limits.text("A1_COMPLEM", address.complement),
        "A1_BAIRRO": limits.text("A1_BAIRRO", address.district),
        "A1_MUN": limits.text("A1_MUN", address.city),
    }
    country = _country(address)
    if country != "BR":
        return {**fields, "A1_EST": "EX", "A1_PAIS": orders.countries.get(country, "")}
    zip_code = re.sub(r"[ .-]", "", address.zip)
    state = address.state.upper()
    # IBGE's 7 digits begin with the state's two, which A1_COD_MUN leaves out.
    city_code = address.city_code[2:] if len(address.city_code) == 7 else address.city_code
    return {
        **fields,
        "A1_CEP": _known("A1_CEP", "zip", zip_code, _is_digits(zip_code, 8), limits),
        "A1_EST": _known("A1_EST", "state", state, bool(_STATE.fullmatch(state)), limits),
        "A1_COD_MUN": _known("A1_COD_MUN", "city_code", city_code, _is_digits(city_code, 5), limits),
        "A1_PAIS": "105",
        "A1_CODPAIS": "01058",
    }


def _known(field: str, column: str, value: str, known: bool, limits: FieldLimits) -> str:
    if value and not known:
        limits.note(f"{field}: left out, billing_{column} is none")
    return value if known else ""


def _is_digits(text: str, count: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) == count


def _street(address: Address, limits: FieldLimits) -> str:
    """Street and number; the street is cut first, an address without its number is none."""
    whole = limits.text("A1_END", ", ".join(filter(None, (address.street, address.number))))
    number = limits.text("A1_END", address.number)
    if not number or not address.street or whole.endswith(number):
        return whole
    room = limits.width("A1_END") - len(number) - 2
    return f"{whole[:room].rstrip(' ,')}, {number}" if room > 0 else whole


def _phone(phone: str, limits: FieldLimits) -> dict[str, str]:
    digits = re.sub(r"[^0-9]", "", phone).lstrip("0")
    if len(digits) in (12, 13) and digits.startswith("55"):
        digits = digits[2:]
    if len(digits) in (10, 11):
        return {"A1_DDD": digits[:2], "A1_TEL": digits[2:]}
    if len(digits) > limits.width("A1_TEL"):
        limits.note("A1_TEL: left out, the phone is longer than the field")
        return {}
    return {"A1_TEL": digits}


def _email(email: str, limits: FieldLimits) -> str:
    """Left out rather than cut: a part of an address is another one."""
    if len(email) > limits.width("A1_EMAIL") or not (email.isascii() and email.isprintable()):
        limits.note("A1_EMAIL: left out, it does not fit the field")
        return ""
    return email
