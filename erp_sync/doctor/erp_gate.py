"""How the doctor keeps to the limits of the ERP without a say in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from erp_sync.doctor.ledger import missing_file
from erp_sync.erp.gate import Gate, OpenGate
from erp_sync.errors import ErpSyncError
from erp_sync.ledger.breaker import Breaker
from erp_sync.ledger.clock import local_time
from erp_sync.ledger.database import Database
from erp_sync.ledger.gate import FLOWS
from erp_sync.ledger.ledger import check_revision
from erp_sync.ledger.pace import Pace
from erp_sync.ledger.part import DATABASE_TIME
from erp_sync.ledger.slots import Slots
from erp_sync.settings import Settings

PATIENCE_SECONDS = 10.0


class Bystander:
    """The limits of all processes, as the last in rank; the breaker is not told what becomes of a call. The doctor
    asks for what may be wrong: five such answers in a row would stop the orders."""

    def __init__(self, database: Database, settings: Settings) -> None:
        section = settings.erp
        self._database = database
        self._breaker = Breaker(database, self._now)
        self._slots = Slots(database, self._now, parallel=section.max_parallel, writes=section.max_parallel_writes)
        self._pace = Pace(database, self._now, per_minute=section.max_per_minute) if section.max_per_minute else None

    @contextmanager
    def call(self, flow: str, *, write: bool) -> Iterator[None]:
        rank = FLOWS.index(flow)
        slot = self._slots.take(rank, write=write, patience=PATIENCE_SECONDS)
        try:
            if self._pace is not None:
                self._pace.wait(rank, PATIENCE_SECONDS)
            yield
        finally:
            self._slots.give(slot, rank)

    def succeeded(self) -> None:
        pass

    def failed(self) -> None:
        pass

    def breaker_open(self) -> datetime | None:
        return self._breaker.open_until()

    def close(self) -> None:
        self._slots.close()
        self._database.close()

    def _now(self) -> datetime:
        """Not `Ledger.now`, which writes to the ledger where the clock jumps."""
        if self._database.is_sqlite:
            return local_time()
        at: datetime = self._database.rows(DATABASE_TIME)[0][0]
        return at.replace(tzinfo=UTC)


@contextmanager
def gate_of(settings: Settings) -> Iterator[tuple[Gate, datetime | None]]:
    """And until when the breaker leaves the ERP alone. Without a usable ledger there are no limits to share; the doctor
    makes one call at a time."""
    bystander = _bystander(settings)
    if bystander is None:
        yield OpenGate(), None
        return
    try:
        yield bystander, bystander.breaker_open()
    finally:
        bystander.close()


def _bystander(settings: Settings) -> Bystander | None:
    if settings.ledger_url is None or missing_file(settings) is not None:
        return None
    database: Database | None = None
    try:
        database = Database(settings.ledger_url.get_secret_value())
        check_revision(database)
    except ErpSyncError:
        if database is not None:
            database.close()
        return None
    return Bystander(database, settings)
