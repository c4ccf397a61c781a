"""Sales orders: what the custom endpoint and MATA410 behind it do (contracts/protheus-rest.md, 5.3 to 5.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from erp_sync.sandbox.clock import Clock
from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.fields import Fields
from erp_sync.sandbox.order_rows import OrderTables
from erp_sync.sandbox.refusals import Refusal, log_of_routine
from erp_sync.sandbox.stock import Stock
from erp_sync.sandbox.store import Store, Value

_CENT = Decimal("0.01")
_READ_ONLY = frozenset(
    {
        *("C5_FILIAL", "C5_NUM", "C5_LIBEROK", "C5_NOTA", "C5_SERIE", "C5_BLQ"),
        *("C6_FILIAL", "C6_NUM", "C6_CLI", "C6_LOJA", "C6_QTDLIB", "C6_QTDENT", "C6_QTDEMP"),
        *("C6_NOTA", "C6_SERIE", "C6_DATFAT", "C6_BLQ"),
    }
)
_DEFAULTS = (("C5_CLIENT", "C5_CLIENTE"), ("C5_LOJAENT", "C5_LOJACLI"))


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    branch: str
    number: str
    stored_external_id: str

    def answer(self, *, existed: bool) -> dict[str, Any]:
        return {
            "filial": self.branch,
            "pedido": self.number,
            "pedidoExterno": self.stored_external_id,
            "jaExistia": existed,
            "liberado": False,
            "mensagem": "Pedido já existia" if existed else "Pedido incluído",
        }


class Orders:
    def __init__(self, store: Store, tables: OrderTables, stock: Stock, config: SandboxConfig, clock: Clock) -> None:
        self._store = store
        self._tables = tables
        self._stock = stock
        self._config = config
        self._clock = clock
        self._field = config.external_id_field
        dictionary = store.dictionary.tables
        self._header, self._items = dictionary["SC5"], dictionary["SC6"]
        self._settable_header = frozenset(self._header.columns) - _READ_ONLY
        self._settable_item = frozenset(self._items.columns) - _READ_ONLY

    def subject(self, sent: Mapping[str, Any]) -> str:
        """The external id as it was sent, or ""."""
        value = sent.get(self._field)
        return value if isinstance(value, str) else ""

    def existing(self, sent: Mapping[str, Any], branch: str, switches: Switches) -> PlacedOrder | None:
        """The endpoint's own look-up: live rows of its branch, by the id as it was sent, uncut (5.5, the real trap).

        None also where the endpoint has no look-up (Q23 c). Raises Refusal where it refuses what it finds (Q23 b).
        """
        external_id = self.subject(sent)
        if not external_id or switches.duplicates == "second_order":
            return None
        row = self._store.find("SC5", **{self._field: external_id, "C5_FILIAL": branch})
        if row is None:
            return None
        if switches.duplicates == "refused":
            raise log_of_routine(
                "JAGRAVADO",
                "Pedido já incluído anteriormente",
                table="SC5",
                at=self._clock.local(),
                sent=[(self._field, external_id)],
                wrong=self._field,
            )
        return PlacedOrder(branch, row["C5_NUM"], row[self._field])

    def create(self, sent: Mapping[str, Any], branch: str, switches: Switches, *, write: bool = True) -> PlacedOrder:
        """MSExecAuto(MATA410, header, items, 3): everything is checked, then written in one commit.

        With `write` False all of it happens but the commit (Q21). The number is drawn first, and lost by a refusal:
        gaps (Q24). Raises Refusal.
        """
        number = self._store.take_number(f"SC5 {branch}", self._config.first_order_number)
        header, items = self._checked(sent, switches)
        placed = PlacedOrder(branch, number, header.text(self._field))
        values: dict[str, Value] = {"C5_EMISSAO": f"{self._clock.local():%Y%m%d}", **_filled(header.values)}
        for name, default in _DEFAULTS:
            values.setdefault(name, header.text(default))
        values |= {"C5_FILIAL": branch, "C5_NUM": number}
        common: dict[str, Value] = {
            "C6_FILIAL": branch,
            "C6_NUM": number,
            "C6_CLI": header.text("C5_CLIENTE"),
            "C6_LOJA": header.text("C5_LOJACLI"),
        }
        if not write:
            return placed
        rows = [{**self._from_product(item), **_filled(item.values), **common} for item in items]
        with self._store.transaction():
            self._store.insert("SC5", [values])
            self._store.insert("SC6", rows)
            self._stock.ordered(rows)
            self._tables.journal("order", branch, number, external_id=self.subject(sent))
        return placed

    def _checked(self, sent: Mapping[str, Any], switches: Switches) -> tuple[Fields, list[Fields]]:
        at = self._clock.local()
        if sent.get("LIBERA"):
            raise Refusal("LIBERA := true: este serviço não libera pedidos, envie false", status=400)
        rows = sent.get("ITENS")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Refusal("ITENS deve ser uma lista de itens", status=400)
        header = Fields(
            {name: value for name, value in sent.items() if name not in ("ITENS", "LIBERA")},
            self._header,
            settable=self._settable_header,
            cut=frozenset({self._field}),
            switches=switches,
            at=at,
        )
        self._check_header(header)
        if not rows:
            raise header.refusal("A410SEMIT", "Pedido sem itens")
        items = []
        seen: set[str] = set()
        for position, row in enumerate(rows, start=1):
            item = Fields(
                row,
                self._items,
                settable=self._settable_item,
                cut=frozenset(),
                switches=switches,
                at=at,
                item=position,
            )
            self._check_item(item)
            if item.text("C6_ITEM") in seen:
                raise item.refusal("JAGRAVADO", "Já existe registro com esta informação", "C6_ITEM")
            seen.add(item.text("C6_ITEM"))
            items.append(item)
        added = sum((header.number(name) for name in ("C5_FRETE", "C5_SEGURO", "C5_DESPESA")), Decimal(0))
        if sum((item.number("C6_VALOR") for item in items), added) < header.number("C5_DESCONT"):
            raise header.refusal("POSIT", "O desconto é maior que o valor do pedido", "C5_DESCONT")
        return header, items

    def _check_header(self, header: Fields) -> None:
        header.require("C5_TIPO", "C5_CLIENTE", "C5_LOJACLI", "C5_TIPOCLI", "C5_CONDPAG")
        header.one_of("C5_TIPO", "N")
        header.one_of("C5_TIPOCLI", "FRSLX")
        header.one_of("C5_TPFRETE", "CFTRDS")
        customer = self._store.find("SA1", A1_COD=header.text("C5_CLIENTE"), A1_LOJA=header.text("C5_LOJACLI"))
        if customer is None:
            raise header.refusal("A410NCLIE", "Cliente não cadastrado", "C5_CLIENTE")
        if _blocked(customer["A1_MSBLQL"]):
            raise header.refusal("REGBLOQ", "Este registro está bloqueado para uso", "C5_CLIENTE")
        if header.text("C5_CLIENT"):
            header.require("C5_LOJAENT")
            if not self._store.find("SA1", A1_COD=header.text("C5_CLIENT"), A1_LOJA=header.text("C5_LOJAENT")):
                raise header.refusal("A410NCLIE", "Cliente de entrega não cadastrado", "C5_CLIENT")
        if not self._store.find("SE4", E4_CODIGO=header.text("C5_CONDPAG")):
            raise _no_record(header, "C5_CONDPAG")
        if header.text("C5_TRANSP") and not self._store.find("SA4", A4_COD=header.text("C5_TRANSP")):
            raise _no_record(header, "C5_TRANSP")

    def _check_item(self, item: Fields) -> None:
        item.require("C6_ITEM", "C6_PRODUTO")
        code = item.text("C6_ITEM")
        if len(code) != 2 or not (code.isascii() and code.isalnum()):
            raise item.refusal("NVALID", "Conteúdo inválido para o campo", "C6_ITEM")
        product = self._store.find("SB1", B1_COD=item.text("C6_PRODUTO"))
        if product is None:
            raise _no_record(item, "C6_PRODUTO")
        if _blocked(product["B1_MSBLQL"]):
            raise item.refusal("REGBLOQ", "Este registro está bloqueado para uso", "C6_PRODUTO")
        for name in ("C6_QTDVEN", "C6_PRCVEN"):
            if not item.number(name):
                raise item.refusal("A410VZ", "Há campos em branco no item: preço, quantidade ou TES", name)
        if item.text("C6_TES"):
            if item.text("C6_TES") not in self._config.tes:
                raise _no_record(item, "C6_TES")
        elif item.text("C6_OPER"):
            if item.text("C6_OPER") not in self._config.operations:
                raise _no_record(item, "C6_OPER")
        else:
            raise item.refusal("A410VZ", "Há campos em branco no item: preço, quantidade ou TES", "C6_TES")
        item.require("C6_VALOR")
        value = (item.number("C6_QTDVEN") * item.number("C6_PRCVEN")).quantize(_CENT, ROUND_HALF_UP)
        if item.number("C6_VALOR") != value:
            raise item.refusal("A410TOT", f"Valor total do item difere de quantidade x preço ({value})", "C6_VALOR")

    def _from_product(self, item: Fields) -> dict[str, Value]:
        """What the item takes from its product and from the "smart TES" rule where the request leaves it blank."""
        [product] = self._store.rows("SB1", B1_COD=item.text("C6_PRODUTO"))[:1]
        return {
            "C6_TES": self._config.operations.get(item.text("C6_OPER"), ""),
            "C6_LOCAL": product["B1_LOCPAD"],
            "C6_UM": product["B1_UM"],
            "C6_DESCRI": product["B1_DESC"],
        }


def _filled(values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value != ""}


def _blocked(msblql: str) -> bool:
    """`1` is blocked, `2` and blank are not (8.1)."""
    return msblql == "1"


def _no_record(fields: Fields, name: str) -> Refusal:
    return fields.refusal("REGNOIS", "Não há registro relacionado ao código informado", name)
