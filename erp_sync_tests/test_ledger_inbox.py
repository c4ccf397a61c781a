"""The inbox of the ledger, on SQLite and on MariaDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from erp_sync.ledger.inbox import IN_HAND
from erp_sync.ledger.ledger import Ledger
from erp_sync_tests.ledger_entries import START, Hand


def test_an_event_is_kept_once_and_looked_at_until_its_order_is_seen(ledger: Ledger, hand: Hand) -> None:
    hint = ledger.receive("loja", "msg_1", "42")
    assert hint is not None
    assert (hint.source, hint.event_id, hint.reference, hint.received_at) == ("loja", "msg_1", "42", START)
    assert ledger.receive("loja", "msg_1", "43") is None
    other_case = ledger.receive("loja", "MSG_1", "44")
    other_source = ledger.receive("outra", "msg_1", "45")
    assert other_case is not None
    assert other_source is not None
    assert list(ledger.take_hints(10)) == []
    hand.turn(IN_HAND.total_seconds())
    assert {one.reference for one in ledger.take_hints(2)} < {"42", "44", "45"}
    assert len(ledger.take_hints(2)) == 1
    ledger.hints_seen([hint, other_source])
    ledger.look_again([replace(other_case, looks=4), hint], hand.at + timedelta(seconds=5))
    assert list(ledger.take_hints(10)) == []
    hand.turn(5)
    (again,) = ledger.take_hints(10)
    assert (again.reference, again.looks) == ("44", 4)
    assert ledger.receive("loja", "msg_1", "42") is None
