"""Somebody else's text is redacted before it is cut: half a secret or half a CPF would be known by nobody."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError
from dagster._core.instance.ref import InstanceRef
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from erp_sync.definitions import build_definitions
from erp_sync.defs.doctor import dagster
from erp_sync.doctor import aws, erp_routes, examination
from erp_sync.doctor.installation import Installation
from erp_sync.erp.answers import read_answer
from erp_sync.erp.generic_query import day, number
from erp_sync.erp_fields import FieldLimits
from erp_sync.errors import OddRow
from erp_sync.ledger.database import Database
from erp_sync.models import Finding, UnreadableOrder
from erp_sync.scrub import never_show
from erp_sync.settings import Settings
from erp_sync.shop.connection import meaning
from erp_sync.shop.profile import load_profile
from erp_sync.shop.statuses import Outcome, StatusOutcome
from erp_sync.sync import inspection
from erp_sync.sync.telling import Teller
from erp_sync_tests.test_mapping import ORDER, mapped
from erp_sync_tests.test_shop_rows import read
from erp_sync_tests.test_telling import entry

SECRET = "s3cr3t-of-the-excerpts"
NOBODY = Installation(Settings(), None)


def _refused(text: str) -> OperationalError:
    return OperationalError("SELECT 1", {}, sqlite3.OperationalError(text))


def _of_the_shop(text: str) -> str:
    return str(
        meaning(_refused(text), create_engine("sqlite:///shop.sqlite"), load_profile("laravel"), "[read] orders")
    )


def _of_the_ledger(text: str) -> str:
    return str(Database("sqlite:///ledger.sqlite").meaning(_refused(text)))


def _of_a_doctor_s_area(text: str) -> str:
    def breaks(_: Installation) -> Iterator[Finding]:
        yield from ()
        raise RuntimeError(text)

    return str(examination.examine(NOBODY, {"it": breaks}))


def _of_aws(text: str) -> str:
    return aws._why(ClientError({"Error": {"Code": text}}, "x"))


def _of_a_route(text: str) -> str:
    made = read_answer(201, {}, json.dumps({"pedido": text}).encode(), 1.0)
    client = cast("Any", type("Client", (), {"knock": lambda *_: made}))()
    return next(erp_routes.routes(client, Settings())).message


def _of_a_field(text: str) -> str:
    limits = FieldLimits({})
    limits.refuse("x", text, "")
    return str(limits.problems)


def _of_a_row(text: str) -> str:
    order = read(state=text)
    assert isinstance(order, UnreadableOrder)
    return str(order.problems)


def _of_a_carrier(text: str) -> str:
    return str(mapped(replace(ORDER, carrier=text)).notes)


def _of_a_shop_s_status(text: str) -> str:
    return str(Teller._problem(entry(), "x", StatusOutcome(Outcome.KEPT, text)))


def _of_an_erp_s_number(text: str) -> str:
    with pytest.raises(OddRow) as odd:
        number({"C6_VALOR": text}, "C6_VALOR")
    return str(odd.value)


def _of_an_erp_s_date(text: str) -> str:
    with pytest.raises(OddRow) as odd:
        day({"C5_EMISSAO": text}, "C5_EMISSAO")
    return str(odd.value)


def _of_a_sample(text: str) -> str:
    return str(inspection._most_used({text: 1}))


@pytest.mark.parametrize(
    ("length", "shown"),
    [
        (300, _of_the_shop),
        (300, _of_the_ledger),
        (200, _of_a_doctor_s_area),
        (200, _of_aws),
        (20, _of_a_route),
        (60, _of_a_field),
        (40, _of_a_row),
        (40, _of_a_carrier),
        (60, _of_a_shop_s_status),
        (40, _of_a_sample),
        (40, _of_an_erp_s_number),
        (40, _of_an_erp_s_date),
    ],
)
def test_what_is_cut_shows_no_half_of_a_secret(length: int, shown: Callable[[str], str]) -> None:
    never_show([SECRET])
    for word in (SECRET, "52998224725", "ana@example.com"):
        for before in range(max(length - 30, 0), length):
            said = shown(f"{'y' * before} {word} z")
            assert "y" * before in said
            assert word[:4] not in said, (before, said)


def test_neither_does_what_dagster_s_storage_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(_: str) -> InstanceRef:
        raise RuntimeError(f"{'y' * 190} 52998224725")

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(InstanceRef, "from_dir", fails)
    said = str(list(dagster(NOBODY, build_definitions)))
    assert "yyy" in said
    assert "5299" not in said
