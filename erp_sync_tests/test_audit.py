"""The audit finds what is planted, in each kind of file, and takes nothing harmless for it."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from erp_sync_tests.audit import audit, main

PLANTED = {
    "tax id": "52998224725",
    "tax id ": "529.982.247-25",
    "tax id  ": "11.222.333/0001-81",
    "tax id   ": "12ABC34501DE35",
    "e-mail": "ana.maria+loja@example.com.br",
    "phone": "(11) 98888-7777",
    "phone ": "+5511988887777",
    "person": "Conceição da Silva",
    "street": "Rua das Acácias",
    "token": "Bearer aaaaaaaa.bbbbbbbb.cccccccc",
    "token ": "xoxb-1234567890-abc",
    "password": "mysql+pymysql://svc:hunter2hunter@db.example.com/shop",
    "password ": '"password": "hunter2hunter"',
    "tax id    ": r"\n52998224725",
    "secret": "s3cr3t-c4n4ry",
}


def _text(path: Path, line: str) -> None:
    path.write_text(f"2026-11-24 INFO erp_sync: {line} .\n", encoding="utf-8")


def _json(path: Path, line: str) -> None:
    path.write_text(json.dumps({"message": f"order 1: {line} ."}), encoding="ascii")


def _report(path: Path, line: str) -> None:
    case = f"<testcase name='ana@example.com'><system-out>{escape(line)} .</system-out></testcase>"
    path.write_text(f"<?xml version='1.0'?><testsuites>{case}</testsuites>", encoding="utf-8")


def _gzip(path: Path, line: str) -> None:
    path.write_bytes(gzip.compress(f"x {line} .".encode()))


def _database(path: Path, line: str, *, blob: bool = False, deleted: bool = False) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("CREATE TABLE event_logs (event)")
    connection.execute("INSERT INTO event_logs VALUES (?)", [f"x {line} .".encode() if blob else f"x {line} ."])
    if deleted:
        connection.execute("INSERT INTO event_logs VALUES ('another one')")
        connection.commit()
        connection.execute("DELETE FROM event_logs WHERE rowid = 1")
    connection.commit()
    connection.close()


def _log_of_database(path: Path, line: str) -> None:
    """What stands in the write-ahead log alone."""
    other = path.with_name("writer")
    connection = sqlite3.connect(other)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE event_logs (event)")
    connection.execute("PRAGMA wal_checkpoint")
    connection.execute("INSERT INTO event_logs VALUES (?)", [f"x {line} ."])
    connection.commit()
    for suffix in ("", "-wal"):
        path.with_name(path.name + suffix).write_bytes(other.with_name(f"writer{suffix}").read_bytes())
    connection.close()
    other.unlink()


KINDS: dict[str, Callable[[Path, str], None]] = {
    "text": _text,
    "json": _json,
    "gzip": _gzip,
    "report": _report,
    "database": _database,
    "blob": lambda path, line: _database(path, line, blob=True),
    "deleted": lambda path, line: _database(path, line, deleted=True),
    "log": _log_of_database,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planted_is_found(kind: str, tmp_path: Path) -> None:
    for index, (name, line) in enumerate(PLANTED.items()):
        folder = tmp_path / str(index)
        folder.mkdir()
        KINDS[kind](folder / "file", line)
        found, _ = audit([folder], ["s3cr3t-c4n4ry"])
        assert name.strip() in {leak.kind for leak in found}, (kind, line)
        assert all(line not in str(leak) for leak in found)


def test_what_is_harmless_is_not_taken_for_it(tmp_path: Path) -> None:
    _report(tmp_path / "report", "nothing")
    lines = (
        "order LJ-100001 as 000123 in branch 0101, tax_id = '*********25', total 1234567890.12, 0.52998224725",
        "run 52998224-7252-4f1b-9a11-52998224725a, 20261124165500, mysql+pymysql://svc:***@db/shop, 11111111111",
        "key 35261111222333000181550010000012341000012345, fingerprint 12abc34501de35, 12345678900",
    )
    (tmp_path / "file").write_text("\n".join(lines), encoding="utf-8")
    assert audit([tmp_path])[0] == []


def test_the_command_says_how_much_it_saw_and_fails_where_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.log").write_text("nothing\n", encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    (tmp_path / "b.log").write_text("CPF 529.982.247-25\n", encoding="utf-8")
    assert main([str(tmp_path / "b.log")]) == 1
    said = capsys.readouterr().out
    assert "files {'text': 1}, found {}" in said
    assert "b.log: tax id 529***********" in said
    assert "982" not in said
