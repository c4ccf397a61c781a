"""Databases for every test: a SQLite file, and a private MariaDB (one server per pytest process)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from erp_sync_tests.mariadb import MariaDB


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """Shared by all tests: who kills or reconfigures a server starts one of his own."""
    with MariaDB() as server:
        yield server


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The SQLAlchemy URL of an empty database; every test runs on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'database.sqlite'}"
    server: MariaDB = request.getfixturevalue("mariadb")
    return server.create_database()
