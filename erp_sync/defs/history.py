"""What Dagster's storage remembers, and how the old part of it goes: runs with all that belongs to them, and events
that belong to no run. Ticks are Dagster's own business (`retention` in dagster.yaml).

The last event of each kind, asset and partition stays, and the last result of each check, with their runs: without
them a day that was done would be shown as missing. So each business day keeps a run or two for ever.

`DagsterInstance.delete_run` alone leaves the results of checks, and with SQLite the run's own database and log files;
killed in between it leaves even events that nothing leads to any more. Here the run's row goes last: killed anywhere,
the next pass finds the run again.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.storage.event_log import SqlEventLogStorage

CHUNK = 1000
"""Rows of one transaction."""
RUNS = 100
"""Runs between two looks at the clock."""
RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What may become part of a path that is deleted."""

Ids = Sequence[str]


@dataclass
class HistoryPurged:
    runs: int = 0
    runs_left: int = 0
    """Old enough, but the time was up."""
    runs_kept: int = 0
    """Old enough, but what they hold is the last of its kind, or their backfill is still at work."""
    runless_events: int = 0
    stray_runs: int = 0
    """Runs that somebody deleted before, whose files were still there."""
    bytes_freed: int = 0
    """Of files. The databases of all runs do not shrink: what is free in them is used again."""


@dataclass(frozen=True)
class Ages:
    succeeded: timedelta
    """Of runs and of events that belong to none."""
    failed: timedelta
    """Of runs that failed or were cancelled."""


class History:
    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._files = RunFiles(instance)

    def purge(
        self,
        ages: Ages,
        *,
        budget: float,
        now: datetime | None = None,
        progress: Callable[[HistoryPurged], None] = lambda _purged: None,
    ) -> HistoryPurged:
        """Deletes what ended before these ages, the oldest first, for about `budget` seconds. The rest is for the
        next pass. Safe beside everything, and twice at once; a run that is not finished is never touched."""
        give_up = time.monotonic() + budget
        now = now or datetime.now(UTC)
        purged = HistoryPurged()
        kept = self._kept_runs()
        old = self._finished([dg.DagsterRunStatus.SUCCESS], now - ages.succeeded)
        old += self._finished([dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED], now - ages.failed)
        going = [run_id for run_id in old if run_id not in kept]
        purged.runs_kept, purged.runs_left = len(old) - len(going), len(going)
        for some in _chunks(going, RUNS):
            if time.monotonic() >= give_up:
                break
            self._delete(some, purged)
            progress(purged)
        purged.runless_events = self._purge_runless(now - ages.succeeded, give_up)
        self._delete_strays(now - ages.succeeded, give_up, purged)
        return purged

    @property
    def _events(self) -> "SqlEventLogStorage":
        from dagster._core.storage.event_log import SqlEventLogStorage

        storage = self._instance.event_log_storage
        assert isinstance(storage, SqlEventLogStorage)  # noqa: S101 - every storage of open-source Dagster is
        return storage

    def _finished(self, statuses: list[dg.DagsterRunStatus], before: datetime) -> list[str]:
        """The oldest first."""
        filters = dg.RunsFilter(statuses=statuses, updated_before=before)
        return list(self._instance.get_run_ids(filters))[::-1]

    def _kept_runs(self) -> set[str]:
        import sqlalchemy as sa
        from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus
        from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable

        events, results = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
        kind = (events.asset_key, events.dagster_event_type, events.partition)
        last_events = sa.select(sa.func.max(events.id)).where(events.asset_key.is_not(None)).group_by(*kind)
        last_results = sa.select(sa.func.max(results.id)).group_by(
            results.asset_key, results.check_name, results.partition
        )
        holders = [
            sa.select(events.run_id).where(events.id.in_(last_events)),
            sa.select(results.run_id).where(results.id.in_(last_results)),
        ]
        kept: set[str] = set()
        with self._events.index_connection() as connection:
            for query in holders:
                kept.update(connection.execute(query).scalars())
        at_work = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]
        for backfill in self._instance.get_backfills(filters=BulkActionsFilter(statuses=at_work)):
            tags = {"dagster/backfill": backfill.backfill_id}
            kept.update(self._instance.get_run_ids(dg.RunsFilter(tags=tags)))
        return kept

    def _delete(self, run_ids: Ids, purged: HistoryPurged) -> None:
        from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

        results = AssetCheckExecutionsTable
        with self._events.index_connection() as connection:
            connection.execute(results.delete().where(results.c.run_id.in_(run_ids)))
            for run_id in run_ids:
                # Where the run has a database of its own, that goes as a file.
                self._events.delete_events_for_run(connection, run_id)
        for run_id in run_ids:
            purged.bytes_freed += self._files.delete(run_id)
            self._instance.run_storage.delete_run(run_id)
            purged.runs += 1
            purged.runs_left -= 1

    def _purge_runless(self, before: datetime, give_up: float) -> int:
        """Observations, freshness, checks that were reported from outside: what is in no run."""
        deleted = self._purge_runless_in(self._events.index_connection, before, give_up)
        if self._files.has_database_of_its_own:  # the same events once more
            self._purge_runless_in(lambda: self._events.run_connection(""), before, give_up)
        return deleted

    def _purge_runless_in(
        self, connect: Callable[[], AbstractContextManager[Any]], before: datetime, give_up: float
    ) -> int:
        import sqlalchemy as sa
        from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable

        rows = {
            SqlEventLogStorageTable: ("timestamp", ("asset_key", "dagster_event_type", "partition")),
            AssetCheckExecutionsTable: ("create_timestamp", ("asset_key", "check_name", "partition")),
        }
        deleted = 0
        for table, (time_column, kind) in rows.items():
            runless = table.c.run_id == ""
            last = sa.select(sa.func.max(table.c.id)).where(runless).group_by(*(table.c[name] for name in kind))
            with connect() as connection:
                stays = set(connection.execute(last).scalars())
            old = table.c[time_column] < before.replace(tzinfo=None)
            after = 0
            while time.monotonic() < give_up:
                page = sa.select(table.c.id).where(runless, old, table.c.id > after).order_by(table.c.id).limit(CHUNK)
                with connect() as connection:
                    ids = list(connection.execute(page).scalars())
                if not ids:
                    break
                after = ids[-1]
                going = [one for one in ids if one not in stays]
                with connect() as connection:
                    deleted += connection.execute(table.delete().where(table.c.id.in_(going))).rowcount
        return deleted

    def _delete_strays(self, before: datetime, give_up: float, purged: HistoryPurged) -> None:
        """Files of runs that are no more: deleted in the UI, which leaves them."""
        for run_ids in _chunks(self._files.run_ids(before), RUNS):
            if time.monotonic() >= give_up:
                break
            known = set(self._instance.get_run_ids(dg.RunsFilter(run_ids=list(run_ids))))
            for run_id in set(run_ids) - known:
                purged.bytes_freed += self._files.delete(run_id)
                purged.stray_runs += 1


class RunFiles:
    """The files of a run on this machine: a database of its own where Dagster stores in SQLite, and captured output.

    Elsewhere there are none: captured output in a bucket is a matter of the bucket's own rules.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        from dagster._core.storage.event_log import SqliteEventLogStorage
        from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

        events, output = instance.event_log_storage, instance.compute_log_manager
        self._events = events if isinstance(events, SqliteEventLogStorage) else None
        self._output = output if isinstance(output, LocalComputeLogManager) else None

    @property
    def has_database_of_its_own(self) -> bool:
        return self._events is not None

    def run_ids(self, before: datetime) -> list[str]:
        """Runs with a database that nobody wrote to since then."""
        if self._events is None:
            return []
        folder = Path(self._events.path_for_shard("any")).parent
        files = [path for path in folder.glob("*.db") if RUN_ID.fullmatch(path.stem)]
        return [path.stem for path in files if path.stat().st_mtime < before.timestamp()]

    def delete(self, run_id: str) -> int:
        """Returns the bytes that were freed. A run whose id is none that Dagster gives keeps its files, as everything
        does that a link leads to."""
        if not RUN_ID.fullmatch(run_id):
            return 0
        freed = 0
        if self._events is not None:
            database = self._events.path_for_shard(run_id)
            for path in (Path(database + suffix) for suffix in ("-wal", "-shm", "-journal", "")):
                freed += _size(path)
                path.unlink(missing_ok=True)
        if self._output is not None:
            folder = Path(self._output.get_captured_local_path(["any"], "out")).parent / run_id
            if folder.is_dir() and not folder.is_symlink():
                freed += sum(_size(Path(path) / name) for path, _, names in os.walk(folder) for name in names)
                shutil.rmtree(folder, ignore_errors=True)
        return freed


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _chunks(ids: Ids, size: int) -> Iterator[Ids]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
