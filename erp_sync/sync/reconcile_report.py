"""What the reconciliation says to people, in their language, and its table for a bookkeeper."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from erp_sync.alert_texts import Language
from erp_sync.ledger.reconciled_day import Finding, ReconciledDay, Verdict
from erp_sync.sync.spreadsheet import inert, whole_file

_KINDS: dict[str, tuple[str, str]] = {
    "missing": ("missing in the ERP", "falta no ERP"),
    "twice": ("twice in the ERP", "duplicado no ERP"),
    "total": ("total different", "total diferente"),
    "lines": ("line count different", "itens diferentes"),
    "changed": ("changed in the shop after it was sent", "alterado na loja após o envio"),
    "found": ("in the ERP, not sent by the sync", "no ERP sem envio da integração"),
    "status": ("status different", "status diferente"),
    "cancelled": ("cancelled on one side only", "cancelado só de um lado"),
    "nfe_key": ("NF-e key missing or invalid", "chave da NF-e ausente ou inválida"),
    "unknown": ("in the ERP, unknown to the shop", "no ERP, desconhecido na loja"),
}

_TODO: dict[Verdict, tuple[str, str]] = {
    Verdict.MISSING_NEW: ("nothing: it was found now and is being sent", "nada: foi encontrado agora e será enviado"),
    Verdict.MISSING_REOPENED: ("nothing: it is due again and is being sent", "nada: voltou à fila e será enviado"),
    Verdict.MISSING_WAITING: (
        "nothing: it is looked up and sent now; if it stays, see why the queue waits (erp-sync order)",
        "nada: será consultado e enviado agora; se persistir, veja por que a fila espera (erp-sync order)",
    ),
    Verdict.MISSING_HELD: (
        "integration team: correct what the note names in shop or ERP; it is sent by itself then (erp-sync retry)",
        "equipe de integração: corrija na loja ou no ERP o que a nota diz; depois é enviado (erp-sync retry)",
    ),
    Verdict.MISSING_VANISHED: (
        (
            "a person decides: the ERP confirmed it, and its row is gone; ask who removed it. It is never sent again "
            "by itself"
        ),
        (
            "decisão de uma pessoa: foi enviado e confirmado, e o registro sumiu; pergunte quem o removeu. Nunca é "
            "reenviado sozinho"
        ),
    ),
    Verdict.MISSING_ID_LOST: (
        "ERP team: write the order number back into the external id of this ERP order",
        "equipe do ERP: grave de volta o número do pedido no id externo deste pedido do ERP",
    ),
    Verdict.TWICE: (
        "ERP team: keep one of these orders and cancel the others before they are invoiced",
        "equipe do ERP: mantenha um destes pedidos e cancele os outros antes de faturar",
    ),
    Verdict.TOTAL: (
        "sales decides which total is right, and corrects the other side",
        "vendas decide qual total está certo e corrige o outro lado",
    ),
    Verdict.TOTAL_UNREADABLE: (
        "ERP team: correct the field that the note names",
        "equipe do ERP: corrija o campo que a nota diz",
    ),
    Verdict.LINES: (
        "sales decides which lines are right, and corrects the other side",
        "vendas decide quais itens estão certos e corrige o outro lado",
    ),
    Verdict.CHANGED: (
        "sales decides: it is never sent again; carry the change into the ERP by hand, or undo it in the shop",
        "vendas decide: nunca é reenviado; faça a alteração no ERP à mão ou desfaça na loja",
    ),
    Verdict.CHANGED_UNREADABLE: (
        "shop team: correct the order's row as the note says",
        "equipe da loja: corrija o registro do pedido como diz a nota",
    ),
    Verdict.FOUND_ADOPT: (
        "nothing: it is looked up and taken over now",
        "nada: será consultado e assumido agora",
    ),
    Verdict.FOUND_PERSON: (
        "integration team: compare shop and ERP, then correct or cancel the order in the ERP",
        "equipe de integração: compare loja e ERP e corrija ou cancele o pedido no ERP",
    ),
    Verdict.STATUS_STALE: ("nothing: the ERP is asked again now", "nada: o ERP será consultado de novo agora"),
    Verdict.STATUS_SHOP: ("nothing: the shop is told again now", "nada: a loja será avisada de novo agora"),
    Verdict.STATUS_KEPT: (
        "shop team: correct the order's status by hand, or [status] allow_from of the profile",
        "equipe da loja: corrija o status do pedido à mão, ou [status] allow_from do perfil",
    ),
    Verdict.CANCELLED_SHOP: (
        "nothing: it is being cancelled in the ERP",
        "nada: está sendo cancelado no ERP",
    ),
    Verdict.CANCELLED_TOO_LATE: (
        "billing decides: cancel the invoice or arrange its return, or reopen the order in the shop",
        "faturamento decide: cancele a nota ou trate a devolução, ou reabra o pedido na loja",
    ),
    Verdict.CANCELLED_ERP: ("nothing: the shop is told now", "nada: a loja será avisada agora"),
    Verdict.CANCELLED_ERP_KEPT: (
        "sales decides: cancel it in the shop too, or restore it in the ERP",
        "vendas decide: cancele também na loja, ou restaure no ERP",
    ),
    Verdict.NFE_MISSING: (
        "billing: transmit the invoice, or see why the tax office does not authorise it",
        "faturamento: transmita a nota, ou veja por que a SEFAZ não autoriza",
    ),
    Verdict.NFE_INVALID: ("billing: correct F2_CHVNFE in the ERP", "faturamento: corrija F2_CHVNFE no ERP"),
    Verdict.UNKNOWN: (
        "sales decides: nobody ordered this in the shop; ask who typed it, then cancel it or remove its external id",
        "vendas decide: ninguém fez este pedido na loja; pergunte quem digitou e cancele ou retire o id externo",
    ),
    Verdict.UNKNOWN_GONE: (
        "sales decides: restore the order in the shop, or cancel it in the ERP",
        "vendas decide: restaure o pedido na loja, ou cancele no ERP",
    ),
}

_TITLES = (
    ("day", "dia"),
    ("order", "pedido"),
    ("ERP order", "pedido ERP"),
    ("finding", "ocorrência"),
    ("shop total", "total loja"),
    ("ERP total", "total ERP"),
    ("difference", "diferença"),
    ("shop says", "loja diz"),
    ("ERP says", "ERP diz"),
    ("what to do", "o que fazer"),
    ("note", "nota"),
)
_LINES = re.compile(r"(\S+) lines, (\S+) units")
_ALL = ("all orders of the day", "todos os pedidos do dia")
_COUNTS = ("{} orders", "{} pedidos")
_AGREES = ("every order agrees", "todos os pedidos conferem")
_SOME = ("{} findings", "{} ocorrências")


def kind_words(kind: str, language: Language) -> str:
    return _in(_KINDS[kind], language)


def what_to_do(verdict: Verdict, language: Language) -> str:
    """Beginning with who decides; "nothing" where the flows repair it by themselves."""
    return _in(_TODO[verdict], language)


def write_csv(path: Path, days: Sequence[ReconciledDay], language: Language) -> None:
    """For each day a line of its sums, then its findings. UTF-8 with BOM, and the separators that a spreadsheet of this
    language expects. No cell begins like a formula. Raises OSError."""
    with whole_file(path, encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";" if language == "pt-BR" else ",")
        writer.writerow([_in(title, language) for title in _TITLES])
        for day in days:
            writer.writerow(_sums(day, language))
            writer.writerows(_line(day, finding, language) for finding in day.findings)


def _sums(day: ReconciledDay, language: Language) -> list[str]:
    said = _in(_SOME, language).format(len(day.findings)) if day.findings else _in(_AGREES, language)
    amounts = [_amount(value, language) for value in (day.shop_value, day.erp_value, day.value_difference)]
    counts = [_in(_COUNTS, language).format(count) for count in (day.shop_orders, day.erp_orders)]
    return [day.day.isoformat(), "", "", _in(_ALL, language), *amounts, *counts, said, ""]


def _line(day: ReconciledDay, finding: Finding, language: Language) -> list[str]:
    totals = (finding.shop_total, finding.erp_total)
    difference = None if None in totals else (finding.shop_total or 0) - (finding.erp_total or 0)
    says = (_says(finding.shop_says, language), _says(finding.erp_says, language))
    texts = (*says, what_to_do(finding.verdict, language), finding.note)
    return [
        day.day.isoformat(),
        _defused(finding.number),
        _defused(finding.erp_numbers),
        kind_words(finding.verdict.kind, language),
        *(_amount(value, language) for value in (*totals, difference)),
        *map(_defused, texts),
    ]


def _amount(value: Decimal | int | None, language: Language) -> str:
    if value is None:
        return ""
    text = f"{value:.2f}"
    return text.replace(".", ",") if language == "pt-BR" else text


def _defused(text: str) -> str:
    return inert(" ".join(text.split()))


def table_rows(days: Sequence[ReconciledDay], language: Language) -> Iterator[dict[str, str]]:
    """The findings as words, for a table that people read."""
    for day in days:
        for finding in day.findings:
            yield {
                "day": day.day.isoformat(),
                "order": finding.number,
                "erp_order": finding.erp_numbers,
                "finding": kind_words(finding.verdict.kind, language),
                "shop": _figure(finding.shop_total, finding.shop_says, language),
                "erp": _figure(finding.erp_total, finding.erp_says, language),
                "what_to_do": what_to_do(finding.verdict, language),
                "note": finding.note,
            }


def _figure(total: Decimal | None, says: str, language: Language) -> str:
    return "; ".join(filter(None, [_amount(total, language), _says(says, language)]))


def _says(text: str, language: Language) -> str:
    return _LINES.sub(r"\1 itens, \2 unidades", text) if language == "pt-BR" else text


def _in(words: tuple[str, str], language: Language) -> str:
    english, portuguese = words
    return portuguese if language == "pt-BR" else english
