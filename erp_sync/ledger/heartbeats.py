"""Heartbeats of runs: who is at work on which days, and whose process is gone."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from erp_sync.errors import ErpSyncError
from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import heartbeats

logger = logging.getLogger(__name__)

FORGOTTEN_AFTER = timedelta(days=1)


class Heartbeats(LedgerPart):
    @contextmanager
    def heartbeat(self, run_id: str, flow: str, days: Sequence[date], every: float = 10.0) -> Iterator[None]:
        """Beats every so many seconds from a thread of its own, whatever the block does; ends with the block.

        Raises LedgerUnavailable if not even the first beat is possible; a later one that fails is only logged.
        """
        self._beat(run_id, flow, days)
        over = threading.Event()

        def beat() -> None:
            while not over.wait(every):
                try:
                    self._beat(run_id, flow, days)
                except ErpSyncError as error:
                    logger.warning("run %s: a heartbeat was lost: %s", run_id, error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=every)
            try:
                self._end(run_id)
            except ErpSyncError as error:
                logger.warning("run %s: its end was not written: %s", run_id, error)

    def heartbeats_alive(self, flow: str | None, within: timedelta) -> dict[str, frozenset[date]]:
        """Run id and days of the flow's runs (None: of all flows) that gave a sign in the last `within`.

        A beat that lies ahead of the clock counts for `within` at most: the clock jumped back.
        """
        now = self.now()
        query = select(heartbeats.c.run_id, heartbeats.c.days).where(
            heartbeats.c.beat_at > now - within, heartbeats.c.beat_at <= now + within
        )
        if flow is not None:
            query = query.where(heartbeats.c.flow == flow)
        return {
            row.run_id: frozenset(date.fromisoformat(day) for day in json.loads(row.days))
            for row in self._database.rows(query)
        }

    def _beat(self, run_id: str, flow: str, days: Sequence[date]) -> None:
        now = self.now()

        def work(connection: Connection) -> None:
            known = update(heartbeats).where(heartbeats.c.run_id == run_id).values(beat_at=now)
            if connection.execute(known).rowcount:
                return
            connection.execute(delete(heartbeats).where(heartbeats.c.beat_at < now - FORGOTTEN_AFTER))
            text = json.dumps([day.isoformat() for day in days])
            row = {"run_id": run_id, "flow": flow, "days": text, "started_at": now, "beat_at": now}
            connection.execute(insert(heartbeats), row)

        self._database.write(work)

    def _end(self, run_id: str) -> None:
        def work(connection: Connection) -> None:
            connection.execute(delete(heartbeats).where(heartbeats.c.run_id == run_id))

        self._database.write(work)
