"""What a month of Dagster's history costs, and what retention makes of it: disk, seconds of the purge, of UI queries.

    python -m erp_sync_tests.bench.month [--days 30]

One run of each flow is made for real, over the demo's stage; the month's are copies of it, with ids, days and times of
their own, in the files and tables where Dagster keeps them, and so are the sensor's ticks and observations. The UI's
queries go to a real web server. Takes some minutes and, for 30 days, 5 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import time
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import requests
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus

from erp_sync.definitions import build_definitions
from erp_sync.defs.history import Ages, History
from erp_sync.defs.names import ORDERS_JOB, SHOP_ORDERS, STATUSES_JOB, STOCK_JOB
from erp_sync.defs.resources import ErpSync
from erp_sync.demo import environment, stage
from erp_sync.settings import RetentionSection
from erp_sync_tests.bench.machine import machine
from erp_sync_tests.live import CONFIG, LiveDagster, today

PER_DAY = {STATUSES_JOB: 288, STOCK_JOB: 288, ORDERS_JOB: 144}
SENSOR_TICKS = 17_280
OBSERVATIONS = 1_440
MORE_DAYS = 2
"""After the purge: do they fit into what it left free?"""
REPEATS = 5
QUERIES = {
    "runs page": """{ runsOrError(limit: 25) { ... on Runs { results { runId status startTime endTime jobName
        tags { key value } assetSelection { path } } } } }""",
    "overview timeline": """{ runsOrError(filter: {updatedAfter: AFTER}, limit: 500) { ... on Runs { results { runId
        status jobName startTime endTime creationTime updateTime } } } }""",
    "schedules and sensors": """{ repositoriesOrError { ... on RepositoryConnection { nodes {
        schedules { name scheduleState { status ticks(limit: 1) { tickId status timestamp }
            runs(limit: 1) { runId status } } }
        sensors { name sensorState { status ticks(limit: 1) { tickId status timestamp } } } } } } }""",
    "ticks of the sensor": """{ sensorOrError(sensorSelector: {repositoryName: "__repository__",
        repositoryLocationName: "LOCATION", sensorName: "finalized_orders"}) { ... on Sensor { sensorState {
        ticks(dayRange: 1, limit: 500) { tickId status timestamp } } } } }""",
    "asset graph": """{ assetNodes { assetKey { path } latestMaterializationByPartition { runId timestamp }
        partitionStats { numMaterialized numFailed numPartitions } } }""",
    "stock's page": """{ assetOrError(assetKey: {path: ["shop", "stock_levels"]}) { ... on Asset {
        assetMaterializations(limit: 200) { runId timestamp metadataEntries { label ... on IntMetadataEntry { intValue }
        } } } } }""",
    "days' page": """{ assetNodeOrError(assetKey: {path: ["erp", "orders"]}) { ... on AssetNode {
        assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status startKey endKey } } }
        assetMaterializations(limit: 100) { runId partition timestamp } } } }""",
    "observations": """{ assetOrError(assetKey: {path: ["shop", "orders"]}) { ... on Asset {
        assetObservations(limit: 200) { runId partition timestamp } } } }""",
}


class Storage:
    """The instance's files."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.runs = home / "history" / "runs.db"
        self.shards = home / "history" / "runs"
        self.ticks = home / "schedules" / "schedules.db"

    def megabytes(self) -> dict[str, float]:
        sizes = {
            "all": _size(self._home),
            "runs' databases": sum(_size(path) for path in self.shards.glob("*-*.db*")),
            "runs' output": _size(self._home / "storage"),
            "index": sum(_size(path) for path in self.shards.glob("index.db*")),
            "runless": sum(_size(path) for path in self.shards.glob(".db*")),
            "runs": sum(_size(path) for path in self.runs.parent.glob("runs.db*")),
            "ticks": _size(self.ticks.parent),
        }
        return {name: round(size / 1e6, 1) for name, size in sizes.items()}

    def vacuum(self) -> float:
        """Seconds in which nobody else can write."""
        began = time.monotonic()
        for path in (self.runs, self.shards / "index.db", self.shards / ".db", self.ticks):
            with closing(sqlite3.connect(path, timeout=60)) as database:
                database.execute("VACUUM")
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return round(time.monotonic() - began, 1)

    def copy_run(self, template: str, copies: list[tuple[str, datetime]], partition: str) -> None:
        """As if the template had run at these times under these ids, each for its own day if it has a partition."""
        shard = self.shards / f"{template}.db"
        output = self._home / "storage" / template / "compute_logs"
        logs = [(path.name, path.read_bytes()) for path in output.iterdir()] if output.is_dir() else []
        with closing(sqlite3.connect(shard)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        image = shard.read_bytes()
        for run_id, at in copies:
            path = self.shards / f"{run_id}.db"
            path.write_bytes(image)
            with closing(sqlite3.connect(path, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = OFF")
                database.execute(
                    "UPDATE event_logs SET run_id = ?, event = replace(event, ?, ?), timestamp = ?",
                    (run_id, template, run_id, _text(at)),
                )
            folder = self._home / "storage" / run_id / "compute_logs"
            folder.mkdir(parents=True)
            for name, content in logs:
                (folder / name).write_bytes(content)
        self._copy_rows(self.shards / "index.db", "event_logs", template, copies, partition)
        self._copy_rows(self.runs, "runs", template, copies, partition)
        self._copy_rows(self.runs, "run_tags", template, copies, partition)

    @staticmethod
    def _copy_rows(path: Path, table: str, template: str, copies: list[tuple[str, datetime]], partition: str) -> None:
        with closing(sqlite3.connect(path, timeout=60)) as database:
            cursor = database.execute(f"SELECT * FROM {table} WHERE run_id = ? ORDER BY id", (template,))
            columns = [column[0] for column in cursor.description][1:]
            rows = [row[1:] for row in cursor]

            def copied(name: str, value: Any, run_id: str, at: datetime) -> Any:
                if name in ("timestamp", "create_timestamp", "update_timestamp"):
                    return _text(at)
                if name in ("start_time", "end_time"):
                    return at.timestamp()
                if not isinstance(value, str):
                    return value
                value = value.replace(template, run_id)
                return value.replace(partition, at.date().isoformat()) if partition else value

            values = (
                [copied(name, value, run_id, at) for name, value in zip(columns, row, strict=True)]
                for run_id, at in copies
                for row in rows
            )
            marks = ", ".join("?" * len(columns))
            database.executemany(f"INSERT INTO {table} ({', '.join(map(_quoted, columns))}) VALUES ({marks})", values)
            database.commit()

    def copy_observation(self, times: list[datetime]) -> None:
        """The one that is there, at these times, in both places where Dagster keeps it."""
        for path in (self.shards / ".db", self.shards / "index.db"):
            with closing(sqlite3.connect(path, timeout=60)) as database:
                row = database.execute(
                    "SELECT run_id, event, dagster_event_type, asset_key, partition FROM event_logs WHERE run_id = '' "
                    "AND dagster_event_type = 'ASSET_OBSERVATION' ORDER BY id LIMIT 1"
                ).fetchone()
                database.executemany(
                    "INSERT INTO event_logs (run_id, event, dagster_event_type, asset_key, partition, timestamp) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    ((*row[:4], at.date().isoformat(), _text(at)) for at in times),
                )
                database.commit()

    def copy_tick(self, times: list[datetime]) -> None:
        with closing(sqlite3.connect(self.ticks, timeout=60)) as database:
            cursor = database.execute("SELECT * FROM job_ticks ORDER BY id LIMIT 1")
            columns = [column[0] for column in cursor.description][1:]
            row = dict(zip(columns, cursor.fetchone()[1:], strict=True))
            marks = ", ".join("?" * len(columns))
            database.executemany(
                f"INSERT INTO job_ticks ({', '.join(map(_quoted, columns))}) VALUES ({marks})",
                (
                    list(
                        {
                            **row,
                            "timestamp": _text(at),
                            "create_timestamp": _text(at),
                            "update_timestamp": _text(at),
                        }.values()
                    )
                    for at in times
                ),
            )
            database.commit()


def _quoted(name: str) -> str:
    return f'"{name}"'


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _size(path: Path) -> int:
    return sum(one.lstat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


def _spread(per_day: int, days: int) -> list[datetime]:
    """So many times a day, over days that ended a moment ago, the oldest first."""
    now, step = datetime.now(UTC), timedelta(days=1) / per_day
    return [now - step * count for count in range(days * per_day, 0, -1)]


def _first_runs(defs: dg.Definitions, instance: dg.DagsterInstance) -> dict[str, str]:
    """One real run of each flow; the run ids."""
    ids = {}
    for job in PER_DAY:
        day = today().isoformat() if job == ORDERS_JOB else None
        done = defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, partition_key=day)
        assert done.success, job
        ids[job] = done.run_id
    observed = dg.AssetObservation(SHOP_ORDERS, partition=today().isoformat(), metadata={"orders_found": 12})
    instance.report_runless_asset_event(observed)
    return ids


def _selectors(url: str) -> tuple[str, str, str]:
    """Location, origin and selector of the sensor, as the web server knows them."""
    query = """{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name } sensors {
        name sensorState { id selectorId } } } } } }"""
    node = _ask(url, query)["repositoriesOrError"]["nodes"][0]
    state = next(one["sensorState"] for one in node["sensors"] if one["name"] == "finalized_orders")
    return node["location"]["name"], state["id"].split(":")[0], state["selectorId"]


def _ask(url: str, query: str) -> Any:
    answer = requests.post(f"{url}/graphql", json={"query": query}, timeout=300).json()
    assert "errors" not in answer, answer["errors"][0]["message"]
    return answer["data"]


def _queries(url: str, location: str) -> dict[str, float]:
    """Milliseconds of each, the median of several."""
    after = str((datetime.now(UTC) - timedelta(hours=12)).timestamp())
    found = {}
    for name, query in QUERIES.items():
        took = []
        for _ in range(REPEATS):
            began = time.monotonic()
            _ask(url, query.replace("LOCATION", location).replace("AFTER", after))
            took.append((time.monotonic() - began) * 1000)
        found[name] = round(statistics.median(took), 1)
    return found


def _fill(storage: Storage, ids: dict[str, str], days: int) -> None:
    for job, per_day in PER_DAY.items():
        copies = [(str(uuid.uuid4()), at) for at in _spread(per_day, days)]
        storage.copy_run(ids[job], copies, today().isoformat() if job == ORDERS_JOB else "")
    storage.copy_observation(_spread(OBSERVATIONS, days))
    storage.copy_tick(_spread(SENSOR_TICKS, days))


def month(days: int) -> None:
    with stage(latency_ms=0, config=CONFIG, stocked=True) as on:
        dagster = LiveDagster(on)
        storage = Storage(dagster.home)
        with dagster:
            dagster.start(daemon=False)
            location, origin, selector = _selectors(dagster.url)
            with environment({**on.environment, "DAGSTER_HOME": str(dagster.home)}), dagster.instance() as instance:
                erp_sync = ErpSync()
                ids = _first_runs(build_definitions(erp_sync=erp_sync), instance)
                erp_sync.close()
                _say("one run of each flow", storage.megabytes())
                _say("queries, nothing but that", _queries(dagster.url, location))
                tick = TickData(
                    origin,
                    "finalized_orders",
                    InstigatorType.SENSOR,
                    TickStatus.SKIPPED,
                    time.time(),
                    selector_id=selector,
                    skip_reason="nothing is due that no run takes care of",
                )
                instance.create_tick(tick)
                began = time.monotonic()
                _fill(storage, ids, days)
                _say("generated", {"seconds": round(time.monotonic() - began, 1), "runs": instance.get_runs_count()})
                _say("before", storage.megabytes())
                _say("queries before", _queries(dagster.url, location))

                began = time.monotonic()
                instance.purge_ticks(
                    origin, selector, (datetime.now(UTC) - timedelta(days=1)).timestamp(), [TickStatus.SKIPPED]
                )
                _say("ticks purged as the daemon does", {"seconds": round(time.monotonic() - began, 1)})
                kept = RetentionSection()
                ages = Ages(timedelta(days=kept.run_days), timedelta(days=kept.failed_run_days))
                began = time.monotonic()
                purged = History(instance).purge(ages, budget=3600)
                _say("purged", {"seconds": round(time.monotonic() - began, 1), **vars(purged)})
                _say("after", storage.megabytes())
                _say("queries after", _queries(dagster.url, location))
                began = time.monotonic()
                again = History(instance).purge(ages, budget=3600)
                _say("purged again", {"seconds": round(time.monotonic() - began, 1), **vars(again)})
                _fill(storage, ids, MORE_DAYS)
                _say(f"{MORE_DAYS} days more", storage.megabytes())
                _say("vacuum", {"seconds": storage.vacuum(), **storage.megabytes()})


def _say(what: str, figures: dict[str, Any]) -> None:
    print(json.dumps({"what": what, **figures, "machine": machine()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30)
    month(parser.parse_args().days)


if __name__ == "__main__":
    main()
