"""The inbox of the ledger, on SQLite and on MariaDB."""

from __future__ import annotations

from datetime import timedelta

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
    hand.turn(1)
    assert {one.reference for one in ledger.waiting_hints(10)} == {"42", "44", "45"}
    assert len(ledger.waiting_hints(2)) == 2
    ledger.hints_seen([hint, other_source])
    ledger.look_again(other_case, hand.at + timedelta(seconds=5))
    assert list(ledger.waiting_hints(10)) == []
    hand.turn(5)
    (again,) = ledger.waiting_hints(10)
    assert (again.reference, again.looks) == ("44", 1)
    assert ledger.receive("loja", "msg_1", "42") is None
