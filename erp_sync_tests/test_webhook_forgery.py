"""Some thousands of forgeries, none accepted; and that each safeguard is needed: without it some get through."""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from erp_sync.ledger.ledger import Ledger
from erp_sync.settings import Settings
from erp_sync.webhook import app as receiving
from erp_sync.webhook import signature
from erp_sync.webhook.signature import Headers, Sender
from erp_sync_tests.bench.forgery import FORGERIES, OF_STANDARD, attempt
from erp_sync_tests.webhooks import STANDARD_SECRET

COUNT = int(os.environ.get("ERP_SYNC_TEST_FORGERIES", "10500"))


def test_no_forgery_is_accepted(local_ledger: Ledger) -> None:
    report = attempt(local_ledger, COUNT)
    assert sum(report.tried.values()) == COUNT
    assert min(report.tried.values()) > COUNT // len(FORGERIES) - 1
    assert (report.accepted, report.new_rows) == ({}, 0)
    assert report.replays >= report.tried["again"]
    assert max(report.statuses) < 500


Mutant = Callable[[pytest.MonkeyPatch], None]


def _nothing_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hmac, "compare_digest", lambda _one, _other: True)


def _only_so_much_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hmac, "compare_digest", lambda one, other: bool(other) and one.startswith(other))


def _case_is_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hmac, "compare_digest", lambda one, other: one.lower() == other.lower())


def _version_is_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hmac, "compare_digest", lambda one, other: one.split(b",")[-1] == other.split(b",")[-1])


def _no_tolerance_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(signature, "TOLERANCE_SECONDS", 10**12)


def _twice_is_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(signature, "_only", lambda headers, name: dict(headers).get(name, b""))


def _secret_as_it_is_written(patch: pytest.MonkeyPatch) -> None:
    genuine = signature.senders

    def with_text(settings: Settings) -> dict[str, Sender]:
        return {
            name: replace(sender, keys=(*sender.keys, STANDARD_SECRET.encode()))
            for name, sender in genuine(settings).items()
        }

    patch.setattr(receiving, "senders", with_text)


def _around(patch: pytest.MonkeyPatch, changed: Callable[[Headers, bytes], tuple[Headers, bytes]]) -> None:
    genuine = Sender.event_id
    patch.setattr(Sender, "event_id", lambda self, headers, body, now: genuine(self, *changed(headers, body), now))


def _not_the_raw_body(patch: pytest.MonkeyPatch) -> None:
    def parsed(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        try:
            return headers, json.dumps(json.loads(body), separators=(",", ":")).replace("/", "\\/").encode()
        except ValueError:
            return headers, body

    _around(patch, parsed)


def _id_and_time_not_signed(patch: pytest.MonkeyPatch) -> None:
    """As if the signature were over the body alone; which one is right for it, the genuine requests have shown."""
    right: dict[bytes, bytes] = {}

    def event_id(self: Sender, headers: Headers, body: bytes, _now: float) -> str | None:
        if self.scheme == "spatie":
            return self._by_spatie(headers, body)
        found = dict(headers)
        given = found.get(b"webhook-signature", b"")
        same = right.setdefault(body, given) == given
        return found.get(b"webhook-id", b"").decode() if same and given else None

    patch.setattr(Sender, "event_id", event_id)


def _each_try_is_new(patch: pytest.MonkeyPatch) -> None:
    genuine = Sender.event_id

    def event_id(self: Sender, headers: Headers, body: bytes, now: float) -> str | None:
        found = genuine(self, headers, body, now)
        return found and base64.b32encode(os.urandom(20)).decode()

    patch.setattr(Sender, "event_id", event_id)


def _any_type(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(receiving, "_refusal", lambda _request: None)


@pytest.mark.parametrize(
    ("mutant", "kinds"),
    [
        (_nothing_compared, {"flipped", "another_order", "made_up", "proof_of_another", "to_another_source"}),
        (_only_so_much_compared, {"signature_spelled_otherwise"}),
        (_case_is_nothing, {"signature_spelled_otherwise"}),
        (_version_is_nothing, {"signature_spelled_otherwise"}),
        (_no_tolerance_is_kept, {"late"}),
        (_twice_is_once, {"proof_twice"}),
        (_not_the_raw_body, {"written_anew", "longer"}),
        (_id_and_time_not_signed, {"id_changed", "time_moved"}),
        (_each_try_is_new, {"again"}),
        (_any_type, {"of_another_type", "encoded"}),
        (_secret_as_it_is_written, {"secret_not_decoded"}),
    ],
)
def test_without_a_safeguard_some_get_through(
    local_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, mutant: Mutant, kinds: set[str]
) -> None:
    mutant(monkeypatch)
    report: Any = attempt(local_ledger, len(FORGERIES) * 30)
    assert kinds <= report.accepted.keys()
    for kind in kinds & OF_STANDARD:
        assert report.accepted[kind] == report.tried[kind], "each of them has nothing wrong but this"
