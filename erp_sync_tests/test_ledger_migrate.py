"""The ledger's schema: made once, by whoever comes first, and never over somebody else's tables."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from erp_sync.errors import Misconfigured
from erp_sync.ledger import migrate as migrate_module
from erp_sync.ledger.database import Database
from erp_sync.ledger.ledger import open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.tables import REVISION, VERSION_TABLE, metadata
from erp_sync_tests.ledger_entries import due, found


def test_the_migrations_make_exactly_the_tables_that_the_queries_use(database_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    migrate(database_url)
    engine = create_engine(database_url)
    options: dict[str, Any] = {"version_table": VERSION_TABLE, "compare_type": True}
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        if engine.dialect.name == "mysql":
            collations = connection.execute(
                text(
                    "SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = DATABASE() "
                    f"AND collation_name IS NOT NULL AND table_name <> '{VERSION_TABLE}'"
                )
            )
            assert collations.scalars().all() == ["utf8mb4_bin"]
    engine.dispose()


def test_the_newest_migration_is_the_one_the_code_expects() -> None:
    from alembic.script import ScriptDirectory

    folder = migrate_module.__file__.replace("migrate.py", "migrations")
    assert ScriptDirectory(folder).get_current_head() == REVISION


def test_migrating_again_changes_nothing_and_does_not_even_load_alembic(database_url: str) -> None:
    assert migrate(database_url) == REVISION
    ledger = open_ledger(database_url)
    ledger.add(found(due("1")))
    script = f"import sys; from erp_sync.ledger.migrate import migrate; migrate({database_url!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sqlalchemy" in loaded
    assert not loaded & {"alembic", "pandas", "dagster", "requests"}
    assert done.stderr == ""
    assert ledger.entries(["1"])
    ledger.close()


def test_several_processes_may_migrate_at_once(database_url: str) -> None:
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(migrate, [database_url] * 4)) == [REVISION] * 4
    open_ledger(database_url).close()


def test_a_migration_that_was_cut_off_is_finished_by_the_next(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import op

    for allowed in (1, 3, 7, 9):
        left = [allowed]
        create: Callable[..., Any] = op.create_table

        def cut_off(*args: Any, left: list[int] = left, create: Callable[..., Any] = create, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return create(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(op, "create_table", cut_off)
            with pytest.raises(KeyboardInterrupt):
                migrate(database_url)
    with pytest.raises(Misconfigured, match="run erp-sync migrate"):
        open_ledger(database_url)
    migrate(database_url)
    open_ledger(database_url).close()


def test_another_revision_is_refused(database_url: str) -> None:
    with pytest.raises(Misconfigured, match="run erp-sync migrate"):
        open_ledger(database_url)
    migrate(database_url)
    for revision, words in (("9999", "newer erp_sync"), ("0000", "run erp-sync migrate")):
        engine = create_engine(database_url)
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"))
        engine.dispose()
        with pytest.raises(Misconfigured, match=words):
            open_ledger(database_url)
    with pytest.raises(Misconfigured, match="newer erp_sync"):
        engine = create_engine(database_url)
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        engine.dispose()
        migrate(database_url)


def test_the_shop_s_database_is_refused(database_url: str) -> None:
    """Nothing is ever created in the shop's database, whatever somebody wrote into the wrong setting."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER)"))
    engine.dispose()
    with pytest.raises(Misconfigured, match=r"ERP_SYNC_LEDGER_URL.*orders.*of its own"):
        migrate(database_url)
    database = Database(database_url)
    show = "SELECT name FROM sqlite_master" if database.is_sqlite else "SHOW TABLES"
    assert [row[0] for row in database.rows(text(show))] == ["orders"]
    database.close()
