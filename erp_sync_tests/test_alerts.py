"""What messages say, in both languages, and that no text breaks Slack's limits or its markup."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erp_sync import alerts
from erp_sync.alert_texts import KINDS, UNITS, WHO, Language, Unit, Who
from erp_sync.alerts import Message
from erp_sync.models import Incident, Severity
from erp_sync_tests.ledger_entries import START
from erp_sync_tests.live import REPOSITORY
from erp_sync_tests.slack_double import limits_broken

LANGUAGES: tuple[Language, ...] = ("pt-BR", "en")
NOW = START + timedelta(minutes=130)


def incident(kind: str = "check/no_order_refused", **values: Any) -> Incident:
    defaults: dict[str, Any] = {
        "cause": kind,
        "kind": kind,
        "severity": Severity.ERROR,
        "opened_at": START,
        "last_seen_at": NOW,
        "closed_at": None,
        "seen": 3,
        "peak": 7,
        "openings": 1,
    }
    return Incident(**defaults | values)


def texts(message: Message) -> list[str]:
    parts = [part for block in message.blocks for part in ([block["text"]] if "text" in block else block["elements"])]
    return [str(part["text"]) for part in parts]


def body(message: Message) -> str:
    return "\n".join(texts(message))


def test_an_open_incident_says_what_why_who_and_what_next() -> None:
    one = incident(
        subject="erp/orders",
        detail="A410NVALID: C5_CONDPAG <vazio> & inválido",
        count=3,
        oldest_at=START - timedelta(hours=3),
        sample=("LJ-1", "LJ-2"),
        run_id="1f3e-77",
    )
    portuguese = alerts.message(one, NOW, "pt-BR", "https://dagster.example.com")
    assert texts(portuguese)[0] == "🔴 Pedidos recusados: erp/orders"
    for words in (
        "*Causa:* O ERP recusou estes pedidos",
        "> A410NVALID: C5_CONDPAG &lt;vazio&gt; &amp; inválido",
        "*Agora:* 3 pedidos",
        "*Mais antigo:* há 5 h",
        "*Exemplos:* LJ-1, LJ-2",
        "*Quem resolve:* equipe da loja",
        "*Próximo passo:* Corrija o dado",
        "Aberto em <!date^1795435200^",
        "<https://dagster.example.com/runs/1f3e-77|Execução no Dagster>",
    ):
        assert words in body(portuguese)
    english = body(alerts.message(one, NOW, "en", "https://dagster.example.com"))
    for words in (
        "🔴 Orders are refused: erp/orders",
        "*Cause:* The ERP refused",
        "*Now:* 3 orders",
        "*Oldest:* 5 h ago",
        "*Examples:* LJ-1",
        "*Who can fix it:* the shop's team",
        "*Next step:* Correct what",
        "|Run in Dagster>",
    ):
        assert words in english


def test_what_is_over_says_how_long_and_how_many() -> None:
    over = incident(closed_at=NOW, count=1, sample=("LJ-1",))
    assert texts(alerts.message(over, NOW, "pt-BR"))[0] == "✅ Pedidos recusados"
    assert "*Resolvido depois de 2 h 10 min; no pico, 7 pedidos.*" in body(alerts.message(over, NOW, "pt-BR"))
    assert "LJ-1" not in body(alerts.message(over, NOW, "pt-BR"))
    assert body(alerts.ending(over, "en")) == "✅ Over after 2 h 10 min; at its peak, 7 orders."
    assert body(alerts.ending(incident("run_failed", closed_at=NOW), "en")) == "✅ Over after 2 h 10 min."


def test_what_came_back_says_so() -> None:
    back = incident(openings=3, severity=Severity.WARNING)
    assert texts(alerts.message(back, NOW, "pt-BR"))[0] == "🟡 Pedidos recusados (3ª vez)"
    assert texts(alerts.message(back, NOW, "en"))[0] == "🟡 Orders are refused (occurrence 3)"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", [*KINDS, "check/nobody_wrote_a_text", "nobody_knows"])
def test_every_kind_has_its_words(kind: str, language: Language) -> None:
    said = alerts.words(incident(kind), language)
    assert said.title and said.cause and said.who and said.step
    assert len(said.title) <= 60
    assert not re.search(r"[<>&]", said.title + said.cause + said.who + said.step)
    if kind == "check/nobody_wrote_a_text":
        assert said.title.endswith(": nobody_wrote_a_text")
    assert set(WHO) == set(Who)
    assert set(UNITS) == set(Unit) - {Unit.NOTHING}


def test_the_runbook_has_a_line_for_every_kind() -> None:
    text = (REPOSITORY / "deploy" / "runbook.md").read_text(encoding="utf-8")
    lines = next(part for part in text.split("\n\n") if part.startswith("| alert |")).splitlines()
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines if line.startswith("| ")}
    titles = {(kind.texts["en"][0], kind.texts["pt-BR"][0]) for kind in KINDS.values()}
    assert rows - {("alert", "alerta")} == titles


def test_no_link_is_made_of_what_is_no_run() -> None:
    for run_id in ("", "../x", "a|b", "a>b", "é"):
        assert "/runs/" not in body(alerts.message(incident(run_id=run_id), NOW, "en", "https://ui"))
    assert "/runs/" not in body(alerts.message(incident(run_id="1f"), NOW, "en"))


@pytest.mark.parametrize(
    ("minutes", "exact", "words"),
    [
        (-5, True, "menos de 1 min"),
        (0.9, True, "menos de 1 min"),
        (59, True, "59 min"),
        (60, True, "1 h"),
        (125, True, "2 h 5 min"),
        (125, False, "2 h"),
        (48 * 60, True, "2 dias"),
        (50 * 60, True, "2 dias 2 h"),
        (50 * 60, False, "2 dias"),
    ],
)
def test_durations_in_words(minutes: float, exact: bool, words: str) -> None:
    assert alerts.span(timedelta(minutes=minutes), "pt-BR", exact=exact) == words


def test_the_age_alone_changes_a_message_by_the_minute_and_then_by_the_hour() -> None:
    one = incident(oldest_at=START)

    def at(minutes: float) -> str:
        return alerts.message(one, START + timedelta(minutes=minutes), "en").hash

    assert at(3) == at(3.9) != at(4)
    assert at(61) == at(119) != at(121)
    assert alerts.message(incident(seen=4), NOW, "en").hash == alerts.message(incident(seen=5), NOW, "en").hash


def test_a_list_begins_with_what_is_open_and_grave_and_says_what_it_leaves_out() -> None:
    many = [incident("stale", subject=f"s{n}", severity=Severity.WARNING) for n in range(1200)]
    many += [incident(subject="over", closed_at=NOW), incident(subject="grave", count=1234)]
    listed = alerts.listing(many, NOW, "pt-BR", "new")
    assert texts(listed)[0] == "📋 1.202 alertas novos de uma vez (1.201 em aberto)"
    lines = texts(listed)[1].splitlines()
    assert lines[0] == "🔴 Pedidos recusados: grave — 1.234 pedidos · aberto há 2 h"
    assert lines[1].startswith("🟡 Dados desatualizados: s0 — aberto há 2 h")
    shown = sum(len(text.splitlines()) for text in texts(listed)[1:-1])
    assert texts(listed)[-1] == f"… e mais {1202 - shown:,}: `erp-sync doctor`".replace(",", ".")
    english = alerts.listing([incident(closed_at=NOW)], NOW, "en", "over")
    assert texts(english) == [
        "✅ 1 alerts are over",
        "✅ Orders are refused — Over after 2 h 10 min; at its peak, 7 orders.",
    ]
    assert texts(alerts.listing(many[:1], NOW, "en", "digest"))[0] == "📋 Still open: 1"


HOSTILE = st.one_of(
    st.text(max_size=400),
    st.builds(
        lambda piece, times: piece * times,
        st.sampled_from(["<!channel>", "&", "<", "😀", "\ud800", "\n```", "<@U1>", "\x00", "é", "|", "*_~`"]),
        st.integers(0, 4000),
    ),
)
MOMENTS = st.none() | st.integers(-10, 10_000_000).map(lambda seconds: NOW - timedelta(seconds=seconds))
INCIDENTS = st.builds(
    incident,
    kind=st.sampled_from([*KINDS, "check/x", "?"]) | HOSTILE.map(lambda text: "check/" + text),
    cause=st.just("cause"),
    severity=st.sampled_from(Severity),
    subject=HOSTILE,
    detail=HOSTILE,
    sample=st.lists(HOSTILE, max_size=9).map(tuple),
    count=st.integers(0, 2**31),
    oldest_at=MOMENTS,
    closed_at=MOMENTS,
    run_id=HOSTILE,
    peak=st.integers(0, 2**31),
    openings=st.integers(1, 10_000),
)
ALLOWED = re.compile(
    r"<!date\^\d+\^\{date_short_pretty\} \{time\}\|[0-9: -]+ UTC>|<https://ui/runs/[0-9A-Za-z-]+\|[\w ]+>"
)


def holds(message: Message) -> None:
    assert len(message.blocks) <= 10
    sizes = [len(text.encode("utf-16-le")) // 2 for text in texts(message)]
    assert sizes[0] <= 150
    assert min(sizes) > 0 and max(sizes) <= 2500
    assert sum(sizes) + len(message.text.encode("utf-16-le")) // 2 <= 8000
    assert not limits_broken(message.text, list(message.blocks))
    json.dumps(message.blocks, ensure_ascii=False).encode()
    for text in (*texts(message), message.text):
        own = ALLOWED.sub("", re.sub(r"^> ", "", text, flags=re.MULTILINE))
        assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", own), own


@settings(max_examples=60, deadline=None)
@given(one=INCIDENTS, language=st.sampled_from(LANGUAGES))
def test_no_text_breaks_a_message(one: Incident, language: Language) -> None:
    holds(alerts.message(one, NOW, language, "https://ui"))
    holds(alerts.ending(one, language))


@settings(max_examples=30, deadline=None)
@given(one=INCIDENTS, other=INCIDENTS, times=st.integers(1, 60), language=st.sampled_from(LANGUAGES))
def test_no_text_breaks_a_list(one: Incident, other: Incident, times: int, language: Language) -> None:
    for what in ("new", "over", "digest"):
        holds(alerts.listing([one, other] * times, NOW, language, what))


def test_a_cut_is_never_inside_a_character() -> None:
    fitted = [texts(alerts.message(incident(subject="", detail="x" * n + "&😀" * 900), NOW, "en"))[1] for n in range(7)]
    for text in fitted:
        assert re.search(r"(&amp;|😀)…$", text)
        assert 1490 <= len(text.partition("\n> ")[2].encode("utf-16-le")) // 2 <= 1500
