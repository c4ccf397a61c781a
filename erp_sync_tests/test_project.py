"""The project's own rules: who may import whom, what is locked, what the deployment's files say."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance.config import PoolGranularity
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.scheduler.instigation import TickStatus
from packaging.requirements import Requirement
from packaging.version import Version

from erp_sync_tests import __main__ as suite

ROOT = Path(__file__).parent.parent

TIERS = {
    "models": 0,
    "errors": 0,
    "alert_texts": 0,
    "tax_id": 0,
    "scrub": 0,
    "cloudwatch": 0,
    "aws_secrets": 0,
    "proxies": 0,
    "settings": 1,
    "logs": 1,
    "alerts": 1,
    "slack": 1,
    "money": 2,
    "database_mysql": 2,
    "database_server": 2,
    "database_url": 2,
    "erp_fields": 2,
    "customer_fields": 2,
    "nfe_key": 2,
    "order_status": 2,
    "stock_formula": 2,
    "mapping": 2,
    "ledger": 3,
    "shop": 3,
    "erp": 3,
    "sync": 4,
    "defs": 5,
    "definitions": 5,
    "webhook": 5,
    "demo": 5,
    "doctor": 5,
    "cli": 5,
}
"""A part imports its own tier and those below it; of the parts in tier 1 and 3 none imports another of its tier."""
APART = {1, 3}
USE_SANDBOX = {"sandbox", "demo", "cli"}
USE_DAGSTER = {"defs", "definitions"}

Import = tuple[str, str]
"""Dotted module that imports, dotted name that is imported."""


def imports(root: Path) -> Iterator[Import]:
    """Every import below the folder `root/erp_sync`, wherever it stands in a file; relative ones made absolute."""
    for path in sorted((root / "erp_sync").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        package = parts[:-1]
        module = ".".join(package if parts[-1] == "__init__" else parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
                full = ".".join(filter(None, [base, node.module]))
                yield from ((module, f"{full}.{alias.name}") for alias in node.names)


def part(dotted: str) -> str:
    """`ledger` of erp_sync.ledger.entry."""
    return dotted.split(".")[1] if "." in dotted else ""


def wrong(found: Import) -> str:
    """Why this import is against the rules. "": it is not."""
    importer, imported = found
    if not part(importer):
        return f"erp_sync/__init__.py imports {imported}"
    top = imported.partition(".")[0]
    if re.match(r"dagster(_|$)", top) and part(importer) not in USE_DAGSTER:
        return f"{importer} imports {imported}"
    if top != "erp_sync" or part(importer) == part(imported):
        return ""
    if part(imported) == "sandbox":
        return "" if part(importer) in USE_SANDBOX else f"{importer} imports the sandbox"
    if part(importer) == "sandbox":
        return f"the sandbox shares code: {importer} imports {imported}"
    above, below = TIERS.get(part(importer)), TIERS.get(part(imported))
    if above is None or below is None:
        return f"{importer} imports {imported}: give both a tier in this test"
    if below > above or (below == above and above in APART):
        return f"{importer} imports {imported}, which is not below it"
    return ""


def test_imports_run_one_way() -> None:
    found = list(imports(ROOT))
    assert len(found) > 100
    assert [reason for reason in map(wrong, found) if reason] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models.py", "from erp_sync.errors import Problem\nfrom erp_sync import settings"),
        ("ledger/entry.py", "from erp_sync.shop.database import Shop"),
        ("shop/rows.py", "from ..erp import client"),
        ("settings.py", "def late():\n    import erp_sync.mapping"),
        ("sync/orders.py", "from erp_sync.defs.assets.orders import erp_orders"),
        ("sync/orders.py", "import dagster as dg"),
        ("cli.py", "from dagster_aws.ecs import EcsRunLauncher"),
        ("sync/orders.py", "from erp_sync.sandbox import shop"),
        ("sandbox/shop.py", "from erp_sync.tax_id import mask"),
        ("helpers.py", "from erp_sync.models import Order"),
        ("__init__.py", "import dagster"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / "erp_sync" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    assert len([reason for reason in map(wrong, imports(tmp_path)) if reason]) == 1


def test_the_linter_keeps_dagster_at_the_edge() -> None:
    def ruff(file: str) -> str:
        command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", file, "-"]
        text = "import dagster\nprint(dagster)\n"
        return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False).stdout

    assert "stays at the edge" in ruff("erp_sync/sync/orders.py")
    for file in ("erp_sync/defs/assets/orders.py", "erp_sync/definitions.py", "erp_sync_tests/test_project.py"):
        assert "All checks passed" in ruff(file)


def locked() -> dict[str, Version]:
    text = (ROOT / "requirements.lock").read_text()
    return {
        name: Version(version)
        for name, version in re.findall(r"^([a-z0-9._-]+)(?:\[.+?\])?==([^\s;]+)", text, re.MULTILINE)
    }


def test_every_package_is_locked_with_its_hash_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|\n-", text)
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) > 50
    assert [
        block for block in blocks if not re.search(r"^[a-z0-9._-]+(\[.+\])?==.*\n( +--hash=sha256:[0-9a-f]{64})", block)
    ] == []


def test_the_lock_is_of_this_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    versions = locked()
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[requirement.name.lower()]), requirement


@pytest.mark.parametrize(
    ("package", "floor"),
    [
        ("dagster", "1.13.27"),
        ("requests", "2.33.0"),
        ("urllib3", "2.7.0"),
        ("pymysql", "1.2.4"),
        ("starlette", "1.3.1"),
        ("sqlalchemy", "2.0"),
    ],
)
def test_no_version_with_a_known_hole_is_locked(package: str, floor: str) -> None:
    assert locked()[package] >= Version(floor)


@pytest.fixture
def dagster_home(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    return tmp_path


def test_the_instance_is_what_its_file_says(dagster_home: Path) -> None:
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        for daemon in ("sensors", "schedules"):
            assert instance.get_settings(daemon) == {"use_threads": True, "num_workers": 8}
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert not instance.run_retries_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_start_timeout_seconds == 600
        assert instance.run_monitoring_max_runtime_seconds == 1800
        assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
        assert instance.run_coordinator.dequeue_interval_seconds == 1
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.pool_granularity is PoolGranularity.RUN
        assert concurrency.pool_config.default_pool_limit == 1
        assert concurrency.run_queue_config is not None
        assert concurrency.run_queue_config.max_concurrent_runs == 10
        kept = instance.get_tick_retention_settings(InstigatorType.SENSOR)
        assert kept[TickStatus.SKIPPED] == 1
        assert all(days > 0 for days in kept.values())
        assert all(days > 0 for days in instance.get_tick_retention_settings(InstigatorType.SCHEDULE).values())


def test_the_workspace_loads_without_a_secret(dagster_home: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ERP_SYNC_")}
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", str(ROOT / "workspace.yaml")],
        env=environment | {"DAGSTER_HOME": str(dagster_home)},
        cwd=dagster_home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Validation successful for code location erp_sync" in done.stdout + done.stderr


def test_no_file_names_a_place_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    assert len(files) > 50
    place = re.compile(rb"/(work|root|home/[a-z]+|Users/[A-Za-z]+)/")
    assert [str(file) for file in files if file.is_file() and place.search(file.read_bytes())] == []


def test_no_file_opens_the_web_server_to_others() -> None:
    """It has no login. By itself it listens on loopback; where a file starts it, it says nothing else."""
    from dagster_webserver.cli import dagster_webserver

    (host,) = (option for option in dagster_webserver.params if option.name == "host")
    assert host.default == "127.0.0.1"
    started = []
    for file in (ROOT / name for name in ("Dockerfile", "README.md", "dagster.yaml", "erp_sync", "deploy")):
        for path in [file] if file.is_file() else file.rglob("*.*"):
            if path.suffix in ("", ".py", ".md", ".yaml", ".conf"):
                text = re.sub(r"[\s\"',()\[\]`]+", " ", path.read_text())
                started += re.findall(r"dagster-webserver (-.{0,60})", text)
    assert len(started) >= 6
    assert [line for line in started if not re.match(r"-h 127\.0\.0\.1 -p \S+ ", line)] == []


def test_each_answer_to_a_threat_is_shown_by_a_test() -> None:
    text = (ROOT / "deploy" / "security.md").read_text()
    rows = re.findall(r"^\|(?! door|---)(.+)\|$", text, re.MULTILINE)
    assert len(rows) > 15
    assert [row for row in rows if not re.search(r"`test_\w+`", row.split("|")[-1])] == []
    there = {
        name
        for path in (ROOT / "erp_sync_tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert set(re.findall(r"`(test_\w+)`", text)) - there == set()


def test_the_readme_says_how_to_test() -> None:
    block = re.search(r"^<!-- test -->\n```sh\n(.+)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert block is not None
    install, _, test = block[1].rpartition(" && ")
    assert test == ".venv/bin/python -m erp_sync_tests"
    assert "-r requirements.lock" in install


def test_what_is_missing_for_the_tests_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program, path=None: None)
    debian = ["mariadb-server-core", "mariadb-client-core", "chromium", "php-cli", "nginx", "bubblewrap"]
    assert suite.missing_packages() == debian
    with pytest.raises(SystemExit, match="in Debian: chromium"):
        suite.install(["chromium"])
    monkeypatch.setattr(shutil, "which", lambda program, path=None: program)
    assert suite.missing_packages() == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="sudo apt-get install chromium"):
        suite.install(["chromium"])


def test_installing_starts_no_service_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "POLICY", tmp_path / "policy-rc.d")
    for own in (False, True):
        if own:
            suite.POLICY.write_text("#!/bin/sh\nexit 0\n")
            suite.POLICY.chmod(0o755)
        with suite.no_service_is_started():
            assert subprocess.run([suite.POLICY], check=False).returncode == (0 if own else 101)
        assert suite.POLICY.exists() == own


def test_a_run_without_tests_fails() -> None:
    command = [sys.executable, "-m", "erp_sync_tests", "-n", "0", "-q", "-k", "no_such_test", __file__]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode != 0
