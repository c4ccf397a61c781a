"""Whether the custom endpoints that write are there, asked so that nothing can come of it.

Creates are asked without a byte of content: there is no customer, no item and no name that a service could write, and
none can be read out of it. Not `{}`, which a service that only stages what it gets might take for an order.

The cancel call names an order in its path and one in its body, and a service may look for either. So both are there,
as wide as their fields (a look by a shorter key would find the first order that begins so), and the ERP has just said
that it has neither. An empty body would be more dangerous: a service that looks for the external id "" would find an
order that somebody typed in by hand.

Contract: contracts/protheus-rest.md, 5.3, 7 and 8.2.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from urllib.parse import quote

from erp_sync.erp.answers import Answer
from erp_sync.erp.client import ErpClient
from erp_sync.erp.protheus import Protheus
from erp_sync.erp.refusal import read_refusal
from erp_sync.errors import ErpSyncError, ErpUnavailable, Misconfigured
from erp_sync.models import Finding
from erp_sync.scrub import excerpt
from erp_sync.settings import Settings

NOWHERE = "/erp-sync-doctor/nenhum"
"""No service has it: how this ERP says that it does not know a path."""
NUMBER = "NENHUM"
"""Of no order: numbers count up from 000001, and letters come after 999999."""
_DONE = re.compile(r"(?i)\d{5}|sucesso|success|\"situacao\"")
"""In a 2xx: a number, or words of something that was done."""


def routes(client: ErpClient, settings: Settings) -> Iterator[Finding]:
    unknown = client.knock(NOWHERE)
    for setting, path, proof in (
        ("erp.orders_path", settings.erp.orders_path, "pedido"),
        ("erp.customers_path", settings.erp.customers_path, "codigo"),
    ):
        answer = _knock(client, path)
        made = answer.fields().get(proof) if isinstance(answer, Answer) and answer.is_success else None
        if made:
            message = f"{path} answers {excerpt(str(made), 20)} to a request without content"
            yield Finding("error", setting, message, "look at that record in the ERP: its service must refuse this")
        else:
            yield _finding(setting, path, answer, unknown, "it refuses what is empty")
    yield _cancel(client, settings, unknown)


def _cancel(client: ErpClient, settings: Settings, unknown: Answer) -> Finding:
    erp, setting = settings.erp, "cancellation"
    number = NUMBER.ljust(erp.widths.get("C5_NUM", 6), "M")
    external_id = secrets.token_hex(125)[: erp.external_id_width].upper()
    protheus = Protheus(client, settings)
    try:
        there = protheus.read_orders([number]) or protheus.find_orders([external_id])
    except ErpSyncError as error:
        return Finding("warning", setting, f"not asked: {error}", "see the lines of SC5 and SC6")
    if there:
        return Finding("warning", setting, f"not asked: the ERP has an order {number}", "try a cancellation by hand")
    path = f"{erp.orders_path}/{quote(settings.erp_branch, safe='')}/{number}/cancelar"
    body = {erp.external_id_field: external_id, "motivo": "erp-sync doctor", "modo": "exclusao"}
    answer = _knock(client, path, body)
    form = answer.fields().get("forma") if isinstance(answer, Answer) and answer.is_success else None
    if form and form != "inexistente":
        message = f"says {excerpt(str(form), 20)!r} of an order {number} that does not exist"
        return Finding(
            "error", setting, message, "look in the ERP for what was cancelled just now, and have it corrected"
        )
    good = "it knows that there is no such order"
    if isinstance(answer, Answer) and form:
        return Finding("ok", setting, f"{path} answers (HTTP {answer.status}): {good}")
    return _finding(setting, path, answer, unknown, good, sent=external_id)


def _knock(client: ErpClient, path: str, body: dict[str, str] | None = None) -> Answer | str:
    """Or why there was none."""
    try:
        return client.knock(path, body)
    except (ErpUnavailable, Misconfigured) as error:
        return str(error)


def _finding(setting: str, path: str, answer: Answer | str, unknown: Answer, good: str, *, sent: str = "") -> Finding:
    """`sent` may be in the answer, and is no number of the ERP's."""
    if isinstance(answer, str):
        return Finding("warning", setting, f"{path} could not be asked: {answer}", "look again once the ERP answers")
    said = f"HTTP {answer.status}"
    same = answer.status == unknown.status and _plain(answer, path) == _plain(unknown, NOWHERE)
    if same or answer.status == 405:
        advice = "correct the path in [erp], or have the service compiled and published"
        return Finding("error", setting, f"{path} is unknown to the ERP ({said})", advice)
    if answer.status in (401, 403):
        advice = "give the user of ERP_SYNC_ERP_USER the right to this service"
        return Finding("error", setting, f"{path} may not be used ({said})", advice)
    if 300 <= answer.status < 400:
        return Finding("error", setting, f"{path} is redirected ({said})", "give the root that it redirects to")
    refusal = read_refusal(answer)
    if answer.is_page or answer.status in (429, 502, 503, 504) or (refusal is None and not answer.is_success):
        return Finding(
            "warning", setting, f"{path} says nothing of itself ({said})", "look again; see the ERP's console"
        )
    if answer.is_success and (refusal is None or _DONE.search(answer.text.replace(sent, "") if sent else answer.text)):
        advice = "see in the ERP that nothing came of it just now, and have its service refuse this"
        return Finding("warning", setting, f"{path} answers {said} and refuses nothing", advice)
    # What a body says of a route that is not there is known of no server, and may hold a time or a request's id.
    if answer.status == unknown.status and not (refusal and refusal.is_precise):
        message = f"{path} cannot be told from a missing route: the ERP answers {said} to both"
        return Finding("warning", setting, message, "compare the path in [erp] with that of the published service")
    return Finding("ok", setting, f"{path} answers ({said}): {good}")


def _plain(answer: Answer, path: str) -> str:
    """Some repeat the path."""
    return answer.text.replace(path, "")
