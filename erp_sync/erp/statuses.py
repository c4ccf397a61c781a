"""What has become of orders in a Protheus, and the cancel call (contracts/protheus-rest.md, 6 and 7)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, time
from typing import Any
from urllib.parse import quote

from erp_sync.erp.answers import Answer, word
from erp_sync.erp.client import ErpClient
from erp_sync.erp.generic_query import GenericQuery, In, Query, Row, batches, day, is_deleted, number, text
from erp_sync.models import CancelAnswer, ErpItem, ErpRelease, Invoice, OrderProgress
from erp_sync.nfe_key import issuer
from erp_sync.settings import Settings

BATCH = 100
"""C5_NUMs of one IN list: the upper end of what real clients send (contracts/protheus-rest.md, 3)."""

_DELIVERED = "5"
_CNPJ = re.compile(r"[0-9A-Z]{12}[0-9]{2}")
_DONE = ("cancelado", "residuo")

InvoiceKey = tuple[str, str, str, str]
"""Document, series, customer, store: what makes an invoice one of SF2."""


class ErpStatuses:
    """Every read raises BreakerOpen and ErpUnavailable, and Misconfigured in one line that names the setting.

    Reads take the slots of the class `flow`, the cancel call those of `cancellations`. Thread-safe.
    """

    def __init__(self, client: ErpClient, settings: Settings, *, flow: str = "statuses") -> None:
        self._query = GenericQuery(client.of_flow(flow))
        self._cancelling = client.of_flow("cancellations")
        self._erp = settings.erp
        self._statuses = settings.statuses
        self._branch = settings.erp_branch
        self._number_width = settings.erp.widths.get("C5_NUM", 6)

    @property
    def erp_time(self) -> datetime | None:
        """The ERP's own clock at the latest answer, aware, in UTC. None: it does not say."""
        return self._query.erp_time

    def progress(self, numbers: Sequence[str]) -> dict[str, OrderProgress]:
        """Header and items of the live orders with these C5_NUM, two requests per 100; one without any is left out.

        Releases and invoices are empty here: `releases` and `invoices` read them where something moved.
        """
        tracking = self._statuses.tracking_field
        custom = (self._erp.external_id_field, *([tracking] if tracking else []))
        fields = ("C5_NUM", "C5_NOTA", "C5_LIBEROK", "C5_BLQ", *custom)
        headers = self._by_number("SC5", fields, "C5_NUM", numbers, custom=custom)
        lines = ("C6_NUM", "C6_ITEM", "C6_QTDVEN", "C6_QTDENT", "C6_QTDEMP", "C6_BLQ", "C6_NOTA")
        items: dict[str, list[ErpItem]] = defaultdict(list)
        for row in self._by_number("SC6", lines, "C6_NUM", numbers):
            items[text(row, "C6_NUM")].append(_item(row))
        wanted = set(numbers)
        return {
            code: OrderProgress(
                branch=text(row, "C5_FILIAL"),
                number=code,
                external_id=text(row, self._erp.external_id_field),
                note=text(row, "C5_NOTA"),
                release_flag=text(row, "C5_LIBEROK"),
                block=text(row, "C5_BLQ"),
                items=tuple(items[code]),
                tracking_code=text(row, tracking) if tracking else "",
            )
            for row in headers
            if (code := text(row, "C5_NUM")) in wanted
        }

    def deleted(self, numbers: Sequence[str]) -> set[str]:
        """Those of these C5_NUM that the ERP shows as deleted orders, and as no live one."""
        rows = list(self._by_number("SC5", ("C5_NUM",), "C5_NUM", numbers, deleted=True))
        live = {text(row, "C5_NUM") for row in rows if not is_deleted(row)}
        return {text(row, "C5_NUM") for row in rows if is_deleted(row)} - live

    def releases(self, numbers: Sequence[str]) -> dict[str, tuple[ErpRelease, ...]]:
        """The live rows of SC9, by C5_NUM."""
        found: dict[str, list[ErpRelease]] = defaultdict(list)
        for row in self._by_number("SC9", ("C9_PEDIDO", "C9_BLCRED", "C9_BLEST"), "C9_PEDIDO", numbers):
            found[text(row, "C9_PEDIDO")].append(ErpRelease(text(row, "C9_BLCRED"), text(row, "C9_BLEST")))
        return {code: tuple(rows) for code, rows in found.items()}

    def invoices(self, numbers: Sequence[str]) -> dict[str, tuple[Invoice, ...]]:
        """The live invoices by C5_NUM, the oldest first, with their delivery where the settings say where it is."""
        fields = ("D2_PEDIDO", "D2_DOC", "D2_SERIE", "D2_CLIENTE", "D2_LOJA", "D2_EMISSAO")
        by_order: dict[str, dict[InvoiceKey, Row]] = defaultdict(dict)
        for row in self._by_number("SD2", fields, "D2_PEDIDO", numbers):
            by_order[text(row, "D2_PEDIDO")][_invoice_key(row, "D2")] = row
        headers = self._invoice_headers({key for rows in by_order.values() for key in rows})
        keys = {key: text(header, "F2_CHVNFE") for key, header in headers.items()}
        delivered = self._delivered(headers, keys)
        return {
            code: tuple(
                Invoice(
                    number=key[0],
                    series=key[1],
                    issued_on=day(row, "D2_EMISSAO"),
                    key=keys.get(key, ""),
                    delivered_at=delivered.get(key),
                )
                for key, row in sorted(rows.items(), key=lambda item: (text(item[1], "D2_EMISSAO"), item[0]))
            )
            for code, rows in by_order.items()
        }

    def cancel(self, branch: str, order_number: str, external_id: str, intent: Callable[[], float]) -> CancelAnswer:
        """One cancel call, as `ErpClient.post` sends it. Raises Refused (`help_code` FATURADO, A410LIBER,
        PEDIDO_DIVERGENTE), InDoubt, ErpUnavailable and Misconfigured."""
        path = f"{self._erp.orders_path}/{quote(branch, safe='')}/{quote(order_number, safe='')}/cancelar"
        body: dict[str, Any] = {
            self._erp.external_id_field: external_id,
            "motivo": self._statuses.cancel_reason,
            "modo": self._statuses.cancel_mode,
        }

        def proof(answer: Answer) -> CancelAnswer | None:
            return _cancelled(answer, order_number)

        return self._cancelling.post(path, body, intent, proof, path_setting="erp.orders_path")

    def _by_number(
        self,
        table: str,
        fields: tuple[str, ...],
        key: str,
        numbers: Sequence[str],
        *,
        custom: tuple[str, ...] = (),
        deleted: bool = False,
    ) -> Iterator[Row]:
        for batch in batches(numbers, BATCH):
            where = (In(key, batch, self._number_width),)
            yield from self._query.rows(Query(table, fields, where, deleted=deleted, custom=custom))

    def _invoice_headers(self, wanted: Collection[InvoiceKey]) -> dict[InvoiceKey, Row]:
        fields = ["F2_DOC", "F2_SERIE", "F2_CLIENTE", "F2_LOJA", "F2_CHVNFE"]
        if self._statuses.delivered_from == "f2_dtentr":
            fields.append("F2_DTENTR")
        width = self._erp.widths.get("F2_DOC", 9)
        return {
            key: row
            for batch in batches(sorted(key[0] for key in wanted), BATCH)
            for row in self._query.rows(Query("SF2", tuple(fields), (In("F2_DOC", batch, width),)))
            if (key := _invoice_key(row, "F2")) in wanted
        }

    def _delivered(
        self, headers: Mapping[InvoiceKey, Row], keys: Mapping[InvoiceKey, str]
    ) -> dict[InvoiceKey, datetime]:
        if self._statuses.delivered_from == "none" or not headers:
            return {}
        if self._statuses.delivered_from == "f2_dtentr":
            days = {key: day(header, "F2_DTENTR") for key, header in headers.items()}
            return {key: datetime.combine(on, time.min) for key, on in days.items() if on is not None}
        freight = self._freight_deliveries([key[0] for key in headers])
        found: dict[InvoiceKey, datetime] = {}
        for key in headers:
            ours = _of_issuer(freight.get((key[0], key[1]), {}), issuer(keys[key]))
            if ours is not None:
                found[key] = ours
        return found

    def _freight_deliveries(self, documents: Sequence[str]) -> dict[tuple[str, str], dict[str, datetime | None]]:
        """By number and series, then by issuer: when the freight module (GFE) says that it was delivered. None: not
        yet. Several legs: the last one counts."""
        found: dict[tuple[str, str], dict[str, datetime | None]] = defaultdict(dict)
        done: set[tuple[str, str, str]] = set()
        for batch in batches(documents, BATCH):
            shipped = Query("GW1", ("GW1_NRDC", "GW1_SERDC", "GW1_EMISDC", "GW1_SIT"), (In("GW1_NRDC", batch, 16),))
            for row in self._query.rows(shipped):
                document = text(row, "GW1_NRDC"), text(row, "GW1_SERDC"), text(row, "GW1_EMISDC")
                found[document[:2]][document[2]] = None
                if text(row, "GW1_SIT") == _DELIVERED:
                    done.add(document)
        for batch in batches(sorted({document[0] for document in done}), BATCH):
            fields = ("GWU_NRDC", "GWU_SERDC", "GWU_EMISDC", "GWU_SEQ", "GWU_DTENT", "GWU_HRENT")
            legs = self._query.rows(Query("GWU", fields, (In("GWU_NRDC", batch, 16),)))
            for row in sorted(legs, key=lambda leg: text(leg, "GWU_SEQ")):
                document = text(row, "GWU_NRDC"), text(row, "GWU_SERDC"), text(row, "GWU_EMISDC")
                if document in done:
                    found[document[:2]][document[2]] = _moment(row)
        return found


def _of_issuer(documents: Mapping[str, datetime | None], ours: str) -> datetime | None:
    """When our document was delivered, of those with one number and series, by issuer: a supplier's may be among them.

    `ours` is the CNPJ in the NF-e key. The freight module may know us by a code of its own: then it is the only one
    that is not under another's CNPJ.
    """
    if ours in documents:
        return documents[ours]
    possible = [moment for code, moment in documents.items() if not ours or not _CNPJ.fullmatch(code)]
    return possible[0] if len(possible) == 1 else None


def _invoice_key(row: Row, prefix: str) -> InvoiceKey:
    document, series, customer, store = (text(row, f"{prefix}_{name}") for name in ("DOC", "SERIE", "CLIENTE", "LOJA"))
    return document, series, customer, store


def _item(row: Row) -> ErpItem:
    return ErpItem(
        quantity=number(row, "C6_QTDVEN"),
        invoiced=number(row, "C6_QTDENT"),
        released=number(row, "C6_QTDEMP"),
        block=text(row, "C6_BLQ"),
        invoice=text(row, "C6_NOTA"),
    )


def _moment(row: Row) -> datetime | None:
    on = day(row, "GWU_DTENT")
    if on is None:
        return None
    hours, _, minutes = text(row, "GWU_HRENT").partition(":")
    known = hours.isdecimal() and minutes.isdecimal() and int(hours) < 24 and int(minutes) < 60
    return datetime.combine(on, time(int(hours), int(minutes)) if known else time.min)


def _cancelled(answer: Answer, order_number: str) -> CancelAnswer | None:
    fields = answer.fields()
    situation = word(fields.get("situacao")).lower()
    of = fields.get("pedido")
    if situation not in _DONE or (of is not None and word(of) != order_number):
        return None
    form = word(fields.get("forma")).lower()
    return CancelAnswer(situation == "residuo", form if form.isalpha() else "", answer.milliseconds)
