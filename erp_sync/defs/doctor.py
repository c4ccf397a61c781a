"""What the doctor says of Dagster itself: daemon, sensors and schedules, storage."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from erp_sync.defs.failures import latest_states
from erp_sync.errors import Misconfigured
from erp_sync.models import Finding
from erp_sync.scrub import excerpt

if TYPE_CHECKING:
    from erp_sync.doctor.installation import Installation
    from erp_sync.settings import Settings

Build = Callable[["Settings"], dg.Definitions]
SILENT_SECONDS = 180.0
"""The daemon gives a sign every 30 seconds."""
_WRITES = re.compile(r"\s*(?:CREATE|ALTER|DROP|INSERT|UPDATE|DELETE|REPLACE|TRUNCATE)\b", re.IGNORECASE)


class _WouldWrite(Exception):
    pass


def dagster(installation: Installation, build: Build) -> Iterator[Finding]:
    """Reads the instance that DAGSTER_HOME names; where there is none yet, none is made. `build` makes the code
    location, whose sensors and schedules must be on."""
    home = os.environ.get("DAGSTER_HOME", "")
    if not home:
        message = "DAGSTER_HOME is not set: nothing runs by itself"
        yield Finding(
            "warning", "Dagster", message, "set it to the folder of dagster.yaml, here as for Dagster's daemon"
        )
        return
    folder = Path(home)
    if not folder.is_absolute() or not folder.is_dir():
        yield Finding("error", "DAGSTER_HOME", f"{home} is no folder", "give the absolute path of an existing folder")
        return
    if (folder / "dagster.yaml").is_file():
        yield Finding("ok", "DAGSTER_HOME", f"{home}, with a dagster.yaml")
    else:
        advice = "copy dagster.yaml there: without it retention, run monitoring and the pools are off"
        yield Finding("warning", "DAGSTER_HOME", f"{home} has no dagster.yaml", advice)
    try:
        ref = InstanceRef.from_dir(home)
        if (nothing := _nothing_yet(ref)) is not None:
            yield nothing
            return
        with _makes_nothing():
            opened = dg.DagsterInstance.from_ref(ref)
        with opened as instance:
            yield from of_instance(instance, installation, build)
    except _WouldWrite:
        message = "tables are missing in it, which Dagster makes when it starts: it never ran on it, or is newer"
        yield Finding("warning", "storage", message, "start dagster-daemon and dagster-webserver")
    except Exception as error:  # dagster's, its storage's driver's and its YAML's have no ancestor in common
        what = excerpt(str(error), 200).partition("\n")[0]
        message = f"cannot be used: {type(error).__name__}: {what}"
        yield Finding("error", "storage", message, "correct storage: in dagster.yaml, and see that it answers")


def _nothing_yet(ref: InstanceRef) -> Finding | None:
    """To open SQLite files that are not there would make them."""
    data = ref.storage_data
    if data is None or data.class_name != "DagsterSqliteStorage":
        return None
    folder = Path(str(data.config_dict.get("base_dir", "")))
    if (folder / "history" / "runs.db").is_file():
        return None
    message = f"SQLite in {folder}, and nothing is there yet: Dagster has never run"
    return Finding("warning", "storage", message, "start dagster-daemon and dagster-webserver")


@contextmanager
def _makes_nothing() -> Iterator[None]:
    """While a storage is opened in this thread, none of its statements may change it: each kind of storage makes the
    tables that it misses, and that of MySQL has no setting against it. Raises _WouldWrite."""
    from sqlalchemy import Engine, event

    here = threading.get_ident()

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == here and _WRITES.match(statement):
            raise _WouldWrite

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", look)


def of_instance(instance: dg.DagsterInstance, installation: Installation, build: Build) -> Iterator[Finding]:
    """Raises what its storage raises."""
    yield _storage(instance)
    yield _daemon(instance)
    yield _switched_off(instance, installation, build)


def _storage(instance: dg.DagsterInstance) -> Finding:
    kind = type(instance.run_storage).__name__.removesuffix("RunStorage")
    runs = instance.get_runs_count()
    if kind.startswith("InMemory"):
        message = "in memory: runs and ticks are forgotten with the process"
        return Finding("error", "storage", message, "set DAGSTER_HOME, or storage: in dagster.yaml")
    return Finding("ok", "storage", f"{kind}, {runs} runs")


def _daemon(instance: dg.DagsterInstance) -> Finding:
    advice = "start dagster-daemon, or see its log"
    heartbeats, now = instance.get_daemon_heartbeats(), time.time()
    if not heartbeats:
        return Finding("error", "daemon", "it never gave a sign", advice)
    required = sorted(instance.get_required_daemon_types())
    silent = [kind for kind in required if kind in heartbeats and now - heartbeats[kind].timestamp > SILENT_SECONDS]
    if silent:
        seconds = max(now - heartbeats[kind].timestamp for kind in silent)
        return Finding("error", "daemon", f"silent for {seconds:.0f} s: {', '.join(silent)}", advice)
    missing = [kind for kind in required if kind not in heartbeats]
    if missing:
        return Finding("warning", "daemon", f"never gave a sign: {', '.join(missing)}", advice)
    failing = {kind: len(heartbeats[kind].errors or ()) for kind in required if heartbeats[kind].errors}
    if failing:
        message = f"alive, with {sum(failing.values())} errors of late: {', '.join(failing)}"
        return Finding("warning", "daemon", message, "see its log")
    return Finding("ok", "daemon", "alive")


def _switched_off(instance: dg.DagsterInstance, installation: Installation, build: Build) -> Finding:
    try:
        repository = build(installation.settings).get_repository_def()
    except Misconfigured as error:
        return Finding("error", "automation", f"the code location does not load: {error}", "correct it first")
    on = {each.name: each.default_status.value == "RUNNING" for each in repository.sensor_defs}
    on |= {each.name: each.default_status.value == "RUNNING" for each in repository.schedule_defs}
    for name, state in latest_states(instance, on.keys()).items():
        on[name] = state.is_running
    off = sorted(name for name, is_on in on.items() if not is_on)
    if off:
        message = f"switched off: {', '.join(off)}"
        return Finding("error", "automation", message, "switch them on in Dagster's UI, under Automation")
    return Finding("ok", "automation", f"all {len(on)} sensors and schedules are on")
