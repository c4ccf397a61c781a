"""The ERP's data dictionary: tables, fields, widths (contracts/protheus-rest.md, 5.4, 6.2, 8.2 and 9.2).

GW1 and GWU are the freight module's documents and their legs (6.4, delivered). SX3 is the dictionary itself, a row for
each field, of all branches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from erp_sync.sandbox.config import SandboxConfig

Kind = Literal["C", "N", "D"]
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_SC5 = """
FILIAL C2 NUM C6 TIPO C1 CLIENTE C6 LOJACLI C2 CLIENT C6 LOJAENT C2 TIPOCLI C1 CONDPAG C3 EMISSAO D8 TPFRETE C1
FRETE N12,2 SEGURO N12,2 DESPESA N12,2 DESCONT N12,2 TRANSP C6 VEND1 C6 TABELA C3 NATUREZ C10 MENNOTA C60 VOLUME1 N5,0
ESPECI1 C10 PESOL N11,4 PBRUTO N11,4 INDPRES C1 LIBEROK C1 NOTA C9 SERIE C3 BLQ C1 PEDECOM C10 STATUS C2 RASTR C20
ORCRES C6"""
_SC6 = """
FILIAL C2 NUM C6 ITEM C2 PRODUTO C15 QTDVEN N9,2 PRCVEN N11,2 PRUNIT N11,2 VALOR N12,2 TES C3 OPER C2 LOCAL C2
ENTREG D8 QTDLIB N9,2 UM C2 CF C5 DESCRI C30 PEDCLI C9 NUMPCOM C15 ITEMPC C6 LOTECTL C10 CLI C6 LOJA C2 QTDENT N9,2
QTDEMP N9,2 NOTA C9 SERIE C3 DATFAT D8 BLQ C2"""
_SC9 = """
FILIAL C2 PEDIDO C6 ITEM C2 SEQUEN C2 PRODUTO C15 CLIENTE C6 LOJA C2 QTDLIB N9,2 DATALIB D8 BLCRED C2 BLEST C2 BLWMS C2
NFISCAL C9 SERIENF C3"""
_SD2 = """
FILIAL C2 DOC C9 SERIE C3 CLIENTE C6 LOJA C2 COD C15 ITEM C2 QUANT N11,2 PRCVEN N14,2 TOTAL N14,2 EMISSAO D8 PEDIDO C6
ITEMPV C2"""
_SF2 = "FILIAL C2 DOC C9 SERIE C3 CLIENTE C6 LOJA C2 EMISSAO D8 VALBRUT N14,2 CHVNFE C44 TIPO C1 DTENTR D8"
_SA1 = """
FILIAL C2 COD C6 LOJA C2 CGC C14 PESSOA C1 NOME C40 NREDUZ C20 TIPO C1 END C40 COMPLEM C50 BAIRRO C40 CEP C8 EST C2
COD_MUN C5 MUN C60 DDD C3 TEL C15 EMAIL C60 INSCR C18 CONTRIB C1 PAIS C3 CODPAIS C5 NATUREZ C10 CONTA C20 RISCO C1
MSBLQL C1 GRPTRIB C3 VEND C6 COND C3"""
_SB1 = "FILIAL C2 COD C15 DESC C30 TIPO C2 UM C2 LOCPAD C2 PRV1 N12,2 MSBLQL C1"
_SB2 = """
FILIAL C2 COD C15 LOCAL C2 QATU N12,2 RESERVA N12,2 QPEDVEN N12,2 QEMP N12,2 QACLASS N12,2 QEMPSA N12,2 QEMPPRJ N12,2
QEMPPRE N12,2 QTNP N12,2 QNPT N12,2 SALPEDI N12,2 VATU1 N14,2"""
_GW1 = "FILIAL C2 CDTPDC C5 EMISDC C14 SERDC C3 NRDC C16 SIT C1"
_GWU = "FILIAL C2 CDTPDC C5 EMISDC C14 SERDC C3 NRDC C16 SEQ C2 DTENT D8 HRENT C5 CDTRP C14"
_SE4 = "FILIAL C2 CODIGO C3 DESCRI C15 MSBLQL C1"
_SA4 = "FILIAL C2 COD C6 NOME C40 MSBLQL C1"
_SX3 = "ARQUIVO C3 CAMPO C10 TIPO C1 TAMANHO N3,0 DECIMAL N2,0"

_TABLES = {
    "SC5": ("C5", _SC5, ("FILIAL", "NUM")),
    "SC6": ("C6", _SC6, ("FILIAL", "NUM", "ITEM", "PRODUTO")),
    "SC9": ("C9", _SC9, ("FILIAL", "PEDIDO", "ITEM", "SEQUEN")),
    "SD2": ("D2", _SD2, ("FILIAL", "DOC", "SERIE", "CLIENTE", "LOJA", "COD", "ITEM")),
    "SF2": ("F2", _SF2, ("FILIAL", "DOC", "SERIE", "CLIENTE", "LOJA")),
    "SA1": ("A1", _SA1, ("FILIAL", "COD", "LOJA")),
    "SB1": ("B1", _SB1, ("FILIAL", "COD")),
    "SB2": ("B2", _SB2, ("FILIAL", "COD", "LOCAL")),
    "GW1": ("GW1", _GW1, ("FILIAL", "CDTPDC", "EMISDC", "SERDC", "NRDC")),
    "GWU": ("GWU", _GWU, ("FILIAL", "CDTPDC", "EMISDC", "SERDC", "NRDC", "SEQ")),
    "SE4": ("E4", _SE4, ("FILIAL", "CODIGO")),
    "SA4": ("A4", _SA4, ("FILIAL", "COD")),
    "SX3": ("X3", _SX3, ("CAMPO",)),
}
_SHARED = {"SA1", "SB1", "SE4", "SA4"}

_SAME_WIDTH = (
    ("C6_PRODUTO", "B1_COD", "B2_COD", "C9_PRODUTO", "D2_COD"),
    ("A1_COD", "C5_CLIENTE", "C5_CLIENT", "C6_CLI", "C9_CLIENTE", "D2_CLIENTE", "F2_CLIENTE"),
    ("A1_LOJA", "C5_LOJACLI", "C5_LOJAENT", "C6_LOJA", "C9_LOJA", "D2_LOJA", "F2_LOJA"),
)
"""Field groups: the dictionary widens all of them at once."""

TITLES = {
    "C5_CLIENTE": "Cliente",
    "C5_LOJACLI": "Loja",
    "C5_CONDPAG": "Cond. Pagto",
    "C5_TRANSP": "Transp.",
    "C5_EMISSAO": "DT Emissao",
    "C6_ITEM": "Item",
    "C6_PRODUTO": "Produto",
    "C6_QTDVEN": "Quantidade",
    "C6_PRCVEN": "Prc Unitario",
    "C6_VALOR": "Vlr.Total",
    "C6_TES": "Tipo Saida",
    "C6_OPER": "Tp. Operacao",
    "A1_CGC": "CNPJ/CPF",
    "A1_NOME": "Nome",
}


@dataclass(frozen=True, slots=True)
class Column:
    table: str
    name: str
    kind: Kind
    width: int
    decimals: int = 0


@dataclass(frozen=True)
class Table:
    alias: str
    columns: dict[str, Column]
    key: tuple[str, ...]
    """The fields of its first index: what it is sorted by where nobody says otherwise."""
    shared: bool
    """One table for all branches: the branch column is blank."""

    @property
    def branch_column(self) -> str:
        """ "": it has none."""
        return self.key[0] if self.key[0].endswith("_FILIAL") else ""

    @cached_property
    def readable(self) -> dict[str, Column]:
        """The columns and the two that every table has."""
        deleted = Column(self.alias, "D_E_L_E_T_", "C", 1)
        number = Column(self.alias, "R_E_C_N_O_", "N", 15)
        return {**self.columns, deleted.name: deleted, number.name: number}


class Dictionary:
    """The tables of one site: the usual ones, with its own widths and its own field for the external id."""

    def __init__(self, config: SandboxConfig) -> None:
        widths = dict(config.widths)
        for group in _SAME_WIDTH:
            given = next((config.widths[name] for name in group if name in config.widths), None)
            if given is not None:
                widths.update(dict.fromkeys(group, given))
        widths[config.external_id_field] = config.external_id_width
        branch_width = max(map(len, config.branches))
        self.tables: dict[str, Table] = {}
        for alias, (prefix, text, key) in _TABLES.items():
            words = text.split()
            specs = {f"{prefix}_{name}": spec for name, spec in zip(words[::2], words[1::2], strict=True)}
            if alias == "SC5":
                specs.setdefault(config.external_id_field, "C20")
            columns = {name: _column(alias, name, spec, widths.get(name)) for name, spec in specs.items()}
            branch = f"{prefix}_FILIAL"
            if branch in columns:
                columns[branch] = Column(alias, branch, "C", branch_width)
            self.tables[alias] = Table(alias, columns, tuple(f"{prefix}_{part}" for part in key), alias in _SHARED)
        unknown = set(config.widths) - {name for table in self.tables.values() for name in table.columns}
        if unknown:
            raise ValueError(f"widths: the dictionary has no field {min(unknown)}: correct its name")

    def fields(self) -> Iterator[dict[str, str | float]]:
        """The rows of SX3."""
        for table in self.tables.values():
            for column in table.columns.values():
                yield {
                    "X3_ARQUIVO": table.alias,
                    "X3_CAMPO": column.name,
                    "X3_TIPO": column.kind,
                    "X3_TAMANHO": float(column.width),
                    "X3_DECIMAL": float(column.decimals),
                }

    @cached_property
    def signature(self) -> str:
        """Differs where a database of one dictionary cannot serve another one."""
        described = repr(sorted((name, table.columns) for name, table in self.tables.items()))
        return hashlib.sha256(described.encode()).hexdigest()


def _column(alias: str, name: str, spec: str, width: int | None) -> Column:
    size, _, decimals = spec[1:].partition(",")
    kind: Kind = "N" if spec[0] == "N" else "D" if spec[0] == "D" else "C"
    if kind != "C" and width is not None:
        raise ValueError(f"widths: {name} is no CHAR field: its width is fixed at {spec[1:]}")
    return Column(alias, name, kind, width or int(size), int(decimals or 0))


def next_code(code: str) -> str:
    """The code after this one, of the same width: `000123`, `000124`; `999999`, `99999A`; `99`, `9A`; `9Z`, `A0`.

    Raises OverflowError after the last one.
    """
    if code.isdigit() and set(code) != {"9"}:
        return str(int(code) + 1).zfill(len(code))
    characters = list(code)
    for index in reversed(range(len(characters))):
        place = _ALPHABET.index(characters[index]) + 1
        characters[index] = _ALPHABET[place % len(_ALPHABET)]
        if place < len(_ALPHABET):
            return "".join(characters)
    raise OverflowError(f"there is no code after {code}")
