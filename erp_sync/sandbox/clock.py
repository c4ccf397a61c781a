"""The sandbox ERP's clock: the machine's, moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_HERE = ZoneInfo("America/Sao_Paulo")


class Clock:
    """Ages tokens, dates orders and stamps error texts. The journal keeps the machine's own time."""

    def __init__(self) -> None:
        self._offset = timedelta()

    def now(self) -> datetime:
        """Aware, UTC."""
        return datetime.now(UTC) + self._offset

    def local(self) -> datetime:
        """Where the company is: America/Sao_Paulo."""
        return self.now().astimezone(_HERE)

    def advance(self, seconds: float) -> None:
        self._offset += timedelta(seconds=seconds)
