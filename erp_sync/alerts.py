"""What a message says of an incident, in Portuguese or English: pure functions from incidents to Block Kit.

A message stays far within Slack's limits, whatever the texts of an incident hold; those come scrubbed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from erp_sync.alert_texts import KINDS, UNITS, WHO, Kind, Language, Unit
from erp_sync.models import Incident, Severity

HEADER_LENGTH = 150
SECTION_LENGTH = 2500
LIST_SECTIONS = 2
LINE_LENGTH = 240
TEXT_LENGTH = 600
"""Of the plain text, which notifications and clients without Block Kit show."""

List = Literal["new", "over", "digest"]
"""What a list is for: many new incidents at once, many that are over at once, the day's open ones."""

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SIGNS = {Severity.ERROR: "🔴", Severity.WARNING: "🟡"}
_OVER = "✅"


@dataclass(frozen=True, slots=True)
class Message:
    text: str
    blocks: tuple[dict[str, Any], ...]

    @property
    def hash(self) -> str:
        """32 characters; alike for messages that say the same."""
        return hashlib.sha256(json.dumps([self.text, self.blocks]).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of one kind of incident."""

    title: str
    cause: str
    who: str
    step: str


def words(incident: Incident, language: Language) -> Words:
    kind = _kind(incident)
    title, cause, step = kind.texts[language]
    name = incident.kind.partition("/")[2] if incident.kind not in KINDS else ""
    return Words(f"{title}: {name}" if name else title, cause, WHO[kind.who][language], step)


def message(incident: Incident, now: datetime, language: Language, ui_url: str = "") -> Message:
    """The message that opens a thread, as it stands at `now`: of an open incident, or of one that is over."""
    said = words(incident, language)
    ended = incident.closed_at
    sign = _SIGNS[incident.severity] if ended is None else _OVER
    title = f"{sign} {_heading(incident, said, language)}"
    cause = f"*{_say(language, 'Causa', 'Cause')}:* {said.cause}"
    if incident.detail:
        cause += f"\n> {_fit(incident.detail, 1500)}"
    blocks = [_section(cause)]
    if ended is None:
        facts = _facts(incident, now, language)
        who, step = _say(language, "Quem resolve", "Who can fix it"), _say(language, "Próximo passo", "Next step")
        blocks += [_section(facts)] if facts else []
        blocks.append(_section(f"*{who}:* {said.who}\n*{step}:* {said.step}"))
    else:
        blocks.append(_section(f"*{_ended(incident, ended, language)}*"))
    below = [_say(language, "Aberto em ", "Open since ") + _date(incident.opened_at)]
    if ui_url and re.fullmatch(r"[0-9A-Za-z-]{1,64}", incident.run_id):
        below.append(f"<{ui_url}/runs/{incident.run_id}|{_say(language, 'Execução no Dagster', 'Run in Dagster')}>")
    text = f"{title}. {incident.detail or said.cause} {said.step if ended is None else ''}"
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": " · ".join(below)}]})
    return Message(_fit(text, TEXT_LENGTH), (_header(title), *blocks))


def ending(incident: Incident, language: Language) -> Message:
    """The reply in the thread of an incident that is over."""
    text = f"{_OVER} {_ended(incident, incident.closed_at or incident.last_seen_at, language)}"
    return Message(text, (_section(text),))


def listing(
    incidents: Sequence[Incident],
    now: datetime,
    language: Language,
    what: List,
    *,
    clean: Callable[[Incident], Incident] = lambda incident: incident,
) -> Message:
    """One message for many incidents: what is open before what is over, errors before warnings, the oldest first.

    `clean` scrubs an incident; of thousands, those that find room.
    """
    total = _number(len(incidents), language)
    title = {
        "new": _say(language, f"{total} alertas novos de uma vez", f"{total} new alerts at once"),
        "over": _say(language, f"{total} alertas resolvidos", f"{total} alerts are over"),
        "digest": _say(language, f"Ainda em aberto: {total}", f"Still open: {total}"),
    }[what]
    ended = sum(one.closed_at is not None for one in incidents)
    if what == "new" and ended:
        left = _number(len(incidents) - ended, language)
        title += _say(language, f" ({left} em aberto)", f" ({left} still open)")
    first = sorted(incidents, key=lambda one: (one.closed_at is not None, one.severity, one.opened_at, one.cause))
    lines = (_line(clean(one), now, language) for one in first)
    sections, shown = _filled(lines)
    if shown < len(first):
        rest = _number(len(first) - shown, language)
        see = "`erp-sync doctor`"
        sections.append(_say(language, f"… e mais {rest}: {see}", f"… and {rest} more: {see}"))
    sign = _OVER if ended == len(incidents) else "📋"
    return Message(_fit(title, TEXT_LENGTH), (_header(f"{sign} {title}"), *map(_section, sections)))


def span(time: timedelta, language: Language, *, exact: bool = True) -> str:
    """A duration in words, to the minute; not `exact`: to the hour, and beyond two days to the day."""
    minutes = max(int(time.total_seconds()), 0) // 60
    hours, days = minutes // 60, minutes // 1440
    if minutes < 1:
        return _say(language, "menos de 1 min", "less than 1 min")
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min" if exact and minutes % 60 else f"{hours} h"
    whole = _say(language, f"{days} dias", f"{days} days")
    return f"{whole} {hours % 24} h" if exact and hours % 24 else whole


def amount(incident: Incident, count: int, language: Language) -> str:
    """Such as "3 pedidos". "": it counts nothing."""
    unit = _kind(incident).unit
    if not count or unit is Unit.NOTHING:
        return ""
    one, many = UNITS[unit][language]
    return f"{_number(count, language)} {one if count == 1 else many}"


def _kind(incident: Incident) -> Kind:
    return KINDS.get(incident.kind) or KINDS["check_failed" if incident.kind.startswith("check/") else "other"]


def _heading(incident: Incident, said: Words, language: Language) -> str:
    again = incident.openings
    times = _say(language, f" ({again}ª vez)", f" (occurrence {again})") if again > 1 else ""
    subject = incident.subject[:60]
    return f"{said.title}{times}" + (f": {subject}" if subject else "")


def _facts(incident: Incident, now: datetime, language: Language) -> str:
    facts = []
    held = amount(incident, incident.count, language)
    if held:
        facts.append(f"*{_say(language, 'Agora', 'Now')}:* {held}")
    if incident.oldest_at is not None:
        age = span(now - incident.oldest_at, language, exact=False)
        facts.append(f"*{_say(language, 'Mais antigo', 'Oldest')}:* {_say(language, f'há {age}', f'{age} ago')}")
    if incident.sample:
        sample = ", ".join(_fit(one, 60) for one in incident.sample[:5])
        facts.append(f"*{_say(language, 'Exemplos', 'Examples')}:* {sample}")
    return "\n".join(facts)


def _ended(incident: Incident, closed_at: datetime, language: Language) -> str:
    lasted = span(closed_at - incident.opened_at, language)
    peak = amount(incident, incident.peak, language)
    text = _say(language, f"Resolvido depois de {lasted}", f"Over after {lasted}")
    return text + (_say(language, f"; no pico, {peak}", f"; at its peak, {peak}") if peak else "") + "."


def _line(incident: Incident, now: datetime, language: Language) -> str:
    said = words(incident, language)
    if incident.closed_at is not None:
        sign, rest = _OVER, [_ended(incident, incident.closed_at, language)]
    else:
        age = span(now - incident.opened_at, language, exact=False)
        sign = _SIGNS[incident.severity]
        rest = [amount(incident, incident.count, language), _say(language, f"aberto há {age}", f"open for {age}")]
    return _fit(f"{sign} {_heading(incident, said, language)} — {' · '.join(filter(None, rest))}", LINE_LENGTH)


def _filled(lines: Iterable[str]) -> tuple[list[str], int]:
    """The lines in as many sections as a list has, and how many of them found room."""
    sections = [""]
    shown = 0
    for line in lines:
        if _width(sections[-1]) + _width(line) + 1 > SECTION_LENGTH:
            if len(sections) == LIST_SECTIONS:
                break
            sections.append("")
        sections[-1] += f"\n{line}" if sections[-1] else line
        shown += 1
    return sections, shown


def _header(text: str) -> dict[str, Any]:
    return {"type": "header", "text": {"type": "plain_text", "text": _fit(text, HEADER_LENGTH), "emoji": True}}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _date(at: datetime) -> str:
    """Shown in the reader's own time zone."""
    at = at.astimezone(UTC)
    return f"<!date^{int(at.timestamp())}^{{date_short_pretty}} {{time}}|{at:%Y-%m-%d %H:%M} UTC>"


def _say(language: Language, portuguese: str, english: str) -> str:
    return portuguese if language == "pt-BR" else english


def _number(number: int, language: Language) -> str:
    return f"{number:,}".replace(",", "." if language == "pt-BR" else ",")


def _fit(text: str, length: int) -> str:
    """Escaped for Slack, on one line, at most so long; cut before a character, never inside one or its escape."""
    plain = text[: length + 1].encode("utf-8", "replace").decode()
    whole = [_ESCAPES.get(char, char) if char.isprintable() else " " for char in plain]
    if sum(map(_width, whole)) <= length:
        return "".join(whole)
    room = length - 1
    kept = []
    for char in whole:
        room -= _width(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept) + "…"


def _width(text: str) -> int:
    """In UTF-16 units: whichever way Slack counts, it is not longer."""
    return len(text) + sum(char > "\uffff" for char in text)
