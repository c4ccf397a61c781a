"""Orders and customers of a Protheus: paths, fields, queries (contracts/protheus-rest.md, 5 and 8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from erp_sync.erp.answers import Answer, word
from erp_sync.erp.client import ErpClient
from erp_sync.erp.generic_query import AtLeast, GenericQuery, In, Query, Row, batches, is_deleted, number, text
from erp_sync.errors import InDoubt
from erp_sync.models import CreatedOrder, CustomerCode, ErpCustomer, ErpOrder, FoundCustomer, FoundOrder
from erp_sync.settings import Settings

_HEADER = ("C5_NUM", "C5_CLIENTE", "C5_LOJACLI", "C5_FRETE", "C5_SEGURO", "C5_DESPESA", "C5_DESCONT")
_CUSTOMER = ("A1_COD", "A1_LOJA", "A1_CGC", "A1_MSBLQL")
_NUMBER = re.compile(r"[0-9A-Za-z]{1,20}")
_BRANCH = re.compile(r"[0-9A-Za-z ]{0,12}")
_BLOCKED = "1"


class Protheus:
    """Every method raises BreakerOpen and ErpUnavailable, and Misconfigured in one line that names the setting.

    Thread-safe.
    """

    def __init__(self, client: ErpClient, settings: Settings) -> None:
        self._client = client
        self._query = GenericQuery(client)
        self._erp = settings.erp
        self._branch = settings.erp_branch

    def probe(self) -> None:
        """The cheapest read that proves that the ERP answers, knows us, and may be asked."""
        self._query.rows(Query("SE4", ("E4_CODIGO",), (In("E4_CODIGO", ("001",)),)))

    def find_orders(self, external_ids: Sequence[str]) -> dict[str, list[FoundOrder]]:
        """The orders with these external ids, to the letter, deleted ones included; an id without any is left out.

        An id that cannot be asked for (control characters) raises ValueError.
        """
        orders = self._orders(In(self._erp.external_id_field, batch, trimmed=True) for batch in batches(external_ids))
        wanted = set(external_ids)
        found: dict[str, list[FoundOrder]] = {}
        for order in orders:
            # The database may compare without case or accents: another order must not pass for this one.
            if order.external_id in wanted:
                found.setdefault(order.external_id, []).append(order)
        return found

    def read_orders(self, numbers: Sequence[str]) -> dict[str, FoundOrder]:
        """The orders with these C5_NUM, a live one before a deleted one; a number without any is left out."""
        orders = self._orders(In("C5_NUM", batch, self._width("C5_NUM", 6)) for batch in batches(numbers))
        ordered = sorted(orders, key=lambda order: not order.deleted)
        return {order.number: order for order in ordered if order.number in set(numbers)}

    def external_ids_of(self, day: date) -> dict[str, list[str]]:
        """External id = C5_NUM, of the live orders of this C5_EMISSAO that have one, a thousand to a request."""
        external_id = self._erp.external_id_field
        # A blank comes before everything that an id may begin with.
        where = (In("C5_EMISSAO", (f"{day:%Y%m%d}",)), AtLeast(external_id, "!"))
        found: dict[str, list[str]] = {}
        for row in self._query.rows(Query("SC5", ("C5_NUM", external_id), where, custom=(external_id,))):
            if text(row, external_id):
                found.setdefault(text(row, external_id), []).append(text(row, "C5_NUM"))
        return found

    def create_order(self, order: ErpOrder, customer: CustomerCode, intent: Callable[[], float]) -> CreatedOrder:
        """One create, as `ErpClient.post` sends it. Raises Refused and InDoubt too."""
        body: dict[str, Any] = {
            self._erp.external_id_field: order.external_id,
            **order.header,
            "C5_CLIENTE": customer.code,
            "C5_LOJACLI": customer.store,
            "ITENS": order.items,
        }
        return self._client.post(
            self._erp.orders_path, body, intent, self._created_order, path_setting="erp.orders_path"
        )

    def find_customers(self, tax_ids: Sequence[str]) -> dict[str, list[FoundCustomer]]:
        """All stores of these normalised tax ids, blocked ones included; a tax id without any is left out."""
        wanted = set(tax_ids)
        width = self._width("A1_CGC", 14)
        found: dict[str, list[FoundCustomer]] = {}
        for batch in batches(tax_ids):
            for row in self._query.rows(Query("SA1", _CUSTOMER, (In("A1_CGC", batch, width),))):
                customer = _customer(row)
                if customer.tax_id in wanted:
                    found.setdefault(customer.tax_id, []).append(customer)
        return found

    def customer(self, code: CustomerCode) -> list[FoundCustomer]:
        """The customer with this A1_COD, in the given store; in all its stores where `code.store` is ""."""
        where = [In("A1_COD", (code.code,), self._width("A1_COD", 6))]
        if code.store:
            where.append(In("A1_LOJA", (code.store,), self._width("A1_LOJA", 2)))
        rows = self._query.rows(Query("SA1", _CUSTOMER, tuple(where)))
        found = [_customer(row) for row in rows]
        return [row for row in found if row.code.code == code.code and code.store in ("", row.code.store)]

    def create_customer(self, customer: ErpCustomer, intent: Callable[[], float]) -> CustomerCode:
        """One create, as `ErpClient.post` sends it. Raises Refused and InDoubt too."""
        body = {"A1_CGC": customer.tax_id, **customer.fields}
        return self._client.post(
            self._erp.customers_path, body, intent, _created_customer, path_setting="erp.customers_path"
        )

    def _width(self, field: str, default: int) -> int:
        return self._erp.widths.get(field, default)

    def _orders(self, conditions: Iterable[In]) -> list[FoundOrder]:
        external_id = self._erp.external_id_field
        headers: list[Row] = []
        for condition in conditions:
            query = Query("SC5", (*_HEADER, external_id), (condition,), deleted=True, custom=(external_id,))
            headers += self._query.rows(query)
        lines = self._lines(headers)
        return [self._order(header, lines) for header in headers]

    def _order(self, header: Row, lines: dict[tuple[str, bool], list[Decimal]]) -> FoundOrder:
        amounts = lines.get((text(header, "C5_NUM"), is_deleted(header)), [])
        surcharges = sum((number(header, field) for field in ("C5_FRETE", "C5_SEGURO", "C5_DESPESA")), Decimal(0))
        return FoundOrder(
            external_id=text(header, self._erp.external_id_field),
            branch=text(header, "C5_FILIAL"),
            number=text(header, "C5_NUM"),
            deleted=is_deleted(header),
            customer=CustomerCode(text(header, "C5_CLIENTE"), text(header, "C5_LOJACLI")),
            total=sum(amounts, surcharges) - number(header, "C5_DESCONT"),
            line_count=len(amounts),
        )

    def _lines(self, headers: Sequence[Row]) -> dict[tuple[str, bool], list[Decimal]]:
        """C6_VALOR by order number and by whether the line is deleted: a live order has deleted lines too."""
        some_deleted = any(map(is_deleted, headers))
        lines: dict[tuple[str, bool], list[Decimal]] = {}
        for batch in batches([text(header, "C5_NUM") for header in headers]):
            where = (In("C6_NUM", batch, self._width("C5_NUM", 6)),)
            for row in self._query.rows(Query("SC6", ("C6_NUM", "C6_ITEM", "C6_VALOR"), where, deleted=some_deleted)):
                key = (text(row, "C6_NUM"), some_deleted and is_deleted(row))
                lines.setdefault(key, []).append(number(row, "C6_VALOR"))
        return lines

    def _created_order(self, answer: Answer) -> CreatedOrder | None:
        fields = answer.fields()
        order_number = _code(fields.get("pedido"))
        branch = fields.get("filial", "")
        if not order_number or not isinstance(branch, str) or not _BRANCH.fullmatch(branch):
            return None
        stored = fields.get("pedidoexterno")
        return CreatedOrder(
            branch=branch.rstrip() or self._branch,
            number=order_number,
            existed=_is_true(fields.get("jaexistia")),
            stored_external_id=stored.rstrip() if isinstance(stored, str) else None,
            milliseconds=answer.milliseconds,
        )


def _created_customer(answer: Answer) -> CustomerCode | None:
    fields = answer.fields()
    code, store = _code(fields.get("codigo")), _code(fields.get("loja"))
    if code and not store:
        raise InDoubt("the ERP answers a customer's code without its store (loja)")
    return CustomerCode(code, store) if code else None


def _customer(row: Row) -> FoundCustomer:
    return FoundCustomer(
        code=CustomerCode(text(row, "A1_COD"), text(row, "A1_LOJA")),
        tax_id=text(row, "A1_CGC").upper(),
        blocked=text(row, "A1_MSBLQL") == _BLOCKED,
    )


def _code(value: Any) -> str:
    """A code is text and keeps its zeros; anything that is not one proves nothing."""
    trimmed = value.strip() if isinstance(value, str) else ""
    return trimmed if _NUMBER.fullmatch(trimmed) else ""


def _is_true(value: Any) -> bool:
    return word(value).lower() in ("true", "1", ".t.")
