"""Databases for every test: a SQLite file, and a private MariaDB (one server per pytest process)."""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from erp_sync import scrub
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.logs import configure_logs
from erp_sync_tests.ledger_entries import Hand
from erp_sync_tests.mariadb import MariaDB

FreshDatabase = Callable[[], str]
"""The SQLAlchemy URL of another empty database at each call."""


@pytest.fixture(autouse=True)
def readable_logs() -> None:
    """As on the command line, whatever was imported or tested before: the code location logs JSON as it is loaded."""
    configure_logs("text", level=logging.WARNING)


@pytest.fixture(autouse=True)
def forgetful_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test must never show, another may."""
    for name in ("_known", "_secrets"):
        monkeypatch.setattr(scrub, name, getattr(scrub, name))


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """Shared by all tests: who kills or reconfigures a server starts one of his own."""
    with MariaDB() as server:
        yield server


@pytest.fixture(params=["sqlite", "mariadb"])
def fresh_database(request: pytest.FixtureRequest, tmp_path: Path) -> FreshDatabase:
    """Every test that needs databases runs on both kinds."""
    if request.param == "sqlite":
        names = count()
        return lambda: f"sqlite:///{tmp_path / f'database{next(names)}.sqlite'}"
    server: MariaDB = request.getfixturevalue("mariadb")
    return server.create_database


@pytest.fixture
def database_url(fresh_database: FreshDatabase) -> str:
    """The SQLAlchemy URL of an empty database."""
    return fresh_database()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that is not this machine's, of which only the name service knows that it leads to 127.0.0.1."""
    name, find = "db.example.com", socket.getaddrinfo

    def found(host: Any, *arguments: Any, **options: Any) -> Any:
        return find("127.0.0.1" if host == name else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    return name


@pytest.fixture
def hand() -> Hand:
    """The ledger's clock, which a test turns."""
    return Hand()


@pytest.fixture
def ledger(database_url: str, hand: Hand) -> Iterator[Ledger]:
    """A new one, on each kind of database."""
    migrate(database_url)
    ledger = open_ledger(database_url, clock=hand)
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a migrated ledger, to copy."""
    path = tmp_path_factory.mktemp("empty") / "ledger.sqlite"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def local_ledger(empty_ledger: Path, tmp_path: Path) -> Iterator[Ledger]:
    """A new one on SQLite, with the real clock."""
    ledger = open_ledger(f"sqlite:///{shutil.copy(empty_ledger, tmp_path)}")
    yield ledger
    ledger.close()


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no session of boto3 that another test began with others, or in another region."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "sa-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """Where something that behaves like AWS listens, with nothing in it yet."""
    import requests
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # What it keeps is of the process, whichever server it was told to.
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10).raise_for_status()
    yield f"http://{host}:{port}"
    server.stop()
