"""Databases for every test: a SQLite file, and a private MariaDB (one server per pytest process)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

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
