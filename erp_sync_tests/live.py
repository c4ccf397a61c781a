"""Dagster over the demo's stage: on an instance within the test's process, and as daemon and web server beside it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import requests

from erp_sync.definitions import build_definitions
from erp_sync.defs.names import ERP_ORDERS, ORDERS_JOB
from erp_sync.defs.resources import ErpSync
from erp_sync.demo import Stage, environment, stage
from erp_sync.ledger.entry import Entry
from erp_sync.models import LedgerState
from erp_sync.sandbox.shop import SHOP_ZONE, PlacedOrder

REPOSITORY = Path(__file__).parent.parent
START_DAY = datetime.now(SHOP_ZONE).date() - timedelta(days=20)
CONFIG = f"""\
[erp]
settle_seconds = 1
connect_timeout = 2
read_timeout = 3
write_timeout = 2
max_parallel_writes = 4
[orders]
start_day = {START_DAY}
linger_seconds = 2
carriers = {{ sedex = "000001", pac = "000002", transportadora = "000003" }}
"""


def today() -> date:
    return datetime.now(SHOP_ZONE).date()


def until(what: str, happened: Callable[[], Any], seconds: float, pause: float = 0.2) -> Any:
    """The first true value of `happened`. AssertionError after so many seconds."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if value := happened():
            return value
        time.sleep(pause)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


@dataclass
class Place:
    """The stage, and Dagster within this process."""

    on: Stage
    erp_sync: ErpSync
    defs: dg.Definitions
    instance: dg.DagsterInstance

    @property
    def job(self) -> dg.JobDefinition:
        return self.defs.resolve_job_def(ORDERS_JOB)

    def tick(self) -> dg.SensorResult:
        """One evaluation of the sensor."""
        sensor = self.defs.resolve_sensor_def("finalized_orders")
        result = sensor(dg.build_sensor_context(instance=self.instance, resources={"erp_sync": self.erp_sync}))
        assert isinstance(result, dg.SensorResult)
        return result

    def materialize(self, *days: date, tags: dict[str, str] | None = None) -> dg.ExecuteInProcessResult:
        """A run of a day, or of the range from the first to the last day."""
        if len(days) == 1:
            return self.job.execute_in_process(
                instance=self.instance, raise_on_error=False, tags=tags, partition_key=days[0].isoformat()
            )
        span = {
            "dagster/asset_partition_range_start": days[0].isoformat(),
            "dagster/asset_partition_range_end": days[-1].isoformat(),
        }
        return self.job.execute_in_process(instance=self.instance, raise_on_error=False, tags={**(tags or {}), **span})

    def run_in(self, status: dg.DagsterRunStatus, day: date, tags: dict[str, str] | None = None) -> dg.DagsterRun:
        """A run of this day that stands in Dagster's storage and has no process."""
        which = tags or {"dagster/partition": day.isoformat()}
        return self.instance.create_run_for_job(self.job, status=status, tags=which, remote_job_origin=job_origin())

    def figures(self, day: date) -> dict[str, Any]:
        """Metadata of the day's latest materialization."""
        found = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=ERP_ORDERS, asset_partitions=[day.isoformat()]), limit=1
        )
        materialization = found.records[0].asset_materialization
        assert materialization is not None
        return {name: value.value for name, value in materialization.metadata.items()}

    def entry(self, order: PlacedOrder) -> Entry | None:
        return self.erp_sync.connections().ledger.entries([str(order.order_id)]).get(str(order.order_id))

    def state(self, order: PlacedOrder) -> LedgerState | None:
        entry = self.entry(order)
        return entry.state if entry is not None else None

    def order_on(self, day: date) -> PlacedOrder:
        """A finalized order of that business day."""
        order = self.on.shop.place_order()
        noon = datetime.combine(day, datetime.min.time()) + timedelta(hours=12)
        self.on.shop.change_order(order, placed_at=min(noon, self.on.shop.now()))
        self.on.shop.finalize(order)
        return order

    def swept(self) -> None:
        """As after the first day of operation: the shop was looked at as a whole."""
        assert self.erp_sync.connections().orders_flow().run(sweep=True).failure is None


def job_origin() -> Any:
    """Where a queued run's job is found: Dagster's storage insists, and no public name makes one."""
    from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="erp_sync.definitions"))
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), ORDERS_JOB)


def numbers_in(on: Stage) -> list[str]:
    """External ids of the ERP's orders, by its own journal."""
    return [line["external_id"] for line in on.erp.journal() if line["kind"] == "order"]


def dagster_home(folder: Path) -> Path:
    """An empty instance with the settings of a deployment."""
    home = folder / "dagster"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", home)
    return home


@contextmanager
def place(config: str = CONFIG, **how: Any) -> Iterator[Place]:
    with stage(latency_ms=0, config=config, **how) as on:
        variables = {**on.environment, "DAGSTER_HOME": str(dagster_home(on.folder))}
        erp_sync = ErpSync()
        with environment(variables), dg.DagsterInstance.get() as instance:
            try:
                yield Place(on, erp_sync, build_definitions(erp_sync=erp_sync), instance)
            finally:
                erp_sync.close()


class LiveDagster:
    """Web server and daemon as an installation runs them. They end with the context, whatever happened."""

    def __init__(self, on: Stage) -> None:
        self.home = dagster_home(on.folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**os.environ, **on.environment, "DAGSTER_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *, web: bool = True, daemon: bool = True) -> None:
        """Returns when the daemon runs, and the web server answers."""
        module = ["-m", "erp_sync.definitions"]
        # Daemon and web server would both create the instance's tables at their first start, and one would fail.
        migrate = [str(Path(sys.executable).parent / "dagster"), "instance", "migrate"]
        subprocess.run(migrate, env=self.environment, cwd=self.home, check=True, capture_output=True, timeout=60)
        if daemon:
            self._run("dagster-daemon", "run", *module)
        if web:
            self._run("dagster-webserver", "-h", "127.0.0.1", "-p", str(self.port), *module)
            until(f"the web server answers\n{self.log()}", self._answers, 60)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(Path(sys.executable).parent / program), *arguments]
        with (self.home / "dagster.log").open("ab") as log:
            self._started.append(subprocess.Popen(command, env=self.environment, cwd=self.home, stdout=log, stderr=log))

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/server_info", timeout=2).ok
        except requests.RequestException:
            return False

    def log(self) -> str:
        return (self.home / "dagster.log").read_text(errors="replace")[-4000:]

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with environment({"DAGSTER_HOME": str(self.home)}), dg.DagsterInstance.get() as instance:
            yield instance

    def kill(self) -> int:
        """kill -9 of daemon, web server, code servers and runs, as a power cut does. Returns how many there were."""
        killed = 0
        while pids := self._pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            for process in self._started:
                process.wait(10)
            time.sleep(0.05)
        self._started.clear()
        return killed

    def _pids(self) -> Sequence[int]:
        """All processes of this instance, however they were started: by the DAGSTER_HOME they were given."""
        ours = f"DAGSTER_HOME={self.home}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                with suppress(OSError):
                    alive = b"\nState:\tZ" not in (folder / "status").read_bytes()
                    if alive and ours in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
        return found

    def __enter__(self) -> LiveDagster:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
