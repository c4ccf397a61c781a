"""The limits that all processes share: breaker, parallel slots, calls per minute. They live in the ledger."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Gate(Protocol):
    def call(self, flow: str, *, write: bool) -> AbstractContextManager[None]:
        """Entering may wait for a slot and may raise BreakerOpen or LedgerUnavailable; leaving gives the slot back."""

    def succeeded(self) -> None:
        """The ERP answered, be it with a refusal."""

    def failed(self) -> None:
        """The ERP as a system failed: no connection, no answer in time, an error page, a 5xx that is no refusal."""


class OpenGate:
    """No limits: for a single process that asks a little, such as a check of the settings."""

    def call(self, flow: str, *, write: bool) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's shape
        return nullcontext()

    def succeeded(self) -> None:
        pass

    def failed(self) -> None:
        pass
