"""`python -m erp_sync_tests.audit [--word SECRET]... PATH...`: whether files hold what no output may hold.

Looks into texts, gzip and SQLite files (all tables, the log beside them, and what was deleted and not overwritten yet)
for CPFs and CNPJs with right check digits, e-mails, phones, the demo's people and their streets, tokens, passwords, and
the given words. Of a JUnit report it takes what the tests wrote, and not their names. Written without erp_sync's own
redaction: both would share the mistake. Exit code 1: it found some.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from validate_docbr import CNPJ, CPF

from erp_sync.sandbox import shop_people

_FREE = r"(?<![\w.%-])"
_TAX_ID = re.compile(
    rf"{_FREE}(?:\d{{3}}\.\d{{3}}\.\d{{3}}-\d{{2}}|\d{{11}}"
    r"|[0-9A-Z]{2}\.[0-9A-Z]{3}\.[0-9A-Z]{3}/[0-9A-Z]{4}-\d{2}|[0-9A-Z]{12}\d{2})(?![\w]|-\w|\.\d)"
)
_PEOPLE = "|".join(
    rf"(?:{'|'.join(map(re.escape, first))}) (?:{'|'.join(map(re.escape, second))})\b"
    for first, second in (
        (shop_people._FIRST, shop_people._LAST),
        (shop_people._TRADES, shop_people._LAST),
    )
)
PATTERNS = {
    "e-mail": re.compile(r"(?<![\w.+/-])(?!__repository__@)[\w.+-]+@(?:[\w-]+\.)+[a-z]{2,}\b(?!\.py)"),
    "phone": re.compile(rf"{_FREE}(?:\+?55 ?)?\(?[1-9]{{2}}\)? ?9\d{{4}}-?\d{{4}}(?![\w.-])"),
    "person": re.compile(_PEOPLE),
    "street": re.compile("|".join(map(re.escape, shop_people._STREETS))),
    "token": re.compile(
        r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]+|\b[Bb]earer [\w.-]{12,}|\bxox[a-z]-[\w-]{8,}|\bAKIA[A-Z0-9]{16}\b"
    ),
    "password": re.compile(
        r"://[^\s:/@\"']+:(?!\*+@|\.\.\.@|…@)[^\s:/@\"']+@[\w.\[]+|(?i:password|senha)[\"']?[=:] ?[\"']?(?!\*)\w{6,}"
    ),
}
_OUTPUTS = ("system-out", "system-err")
_BREAK = re.compile(r"\\+[nrt]")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


class Leak(NamedTuple):
    place: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.kind} {self.text[:3]}{'*' * max(len(self.text) - 3, 0)}"


def leaks_in(text: str, place: str, words: Iterable[str] = ()) -> Iterator[Leak]:
    plain = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    plain = _BREAK.sub(" ", plain).replace("\\", "")
    for match in _TAX_ID.finditer(plain):
        if _is_tax_id(match.group()):
            yield Leak(place, "tax id", match.group())
    for kind, pattern in PATTERNS.items():
        yield from (Leak(place, kind, match.group()) for match in pattern.finditer(plain))
    yield from (Leak(place, "secret", word) for word in words if word in plain)


def audit(paths: Iterable[Path], words: Iterable[str] = ()) -> tuple[list[Leak], Counter[str]]:
    """All leaks, and how many files of each kind were looked at."""
    found: list[Leak] = []
    kinds: Counter[str] = Counter()
    known = list(words)
    for path in sorted(_files(paths)):
        content = path.read_bytes()
        head = content[:16]
        if head == b"SQLite format 3\0":
            kinds["sqlite"] += 1
            found += [leak for text in _cells(path) for leak in leaks_in(text, str(path), known)]
        # And as it is: what was deleted from a database stays in its file.
        content = gzip.decompress(content) if head[:2] == b"\x1f\x8b" else content
        kinds["gzip" if head[:2] == b"\x1f\x8b" else "text" if b"\0" not in head else "binary"] += 1
        content = _written(content) if head[:5] == b"<?xml" else content
        found += leaks_in(content.decode("utf-8", "replace"), str(path), known)
    return list(dict.fromkeys(found)), kinds


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
        else:
            yield path


def _written(report: bytes) -> bytes:
    """Outputs and logs: the names of tests hold what they plant."""
    said = (element.text or "" for element in ElementTree.fromstring(report).iter() if element.tag in _OUTPUTS)
    return "\n".join(said).encode()


def _cells(path: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, folder)
        connection = sqlite3.connect(Path(folder) / path.name)
        connection.text_factory = lambda text: text.decode(errors="replace")
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    if isinstance(value, str | bytes | int):
                        yield value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        connection.close()


def _is_tax_id(text: str) -> bool:
    bare = re.sub(r"[./-]", "", text)
    if len(set(bare)) == 1 or re.match(r"20[2-9]\d(0[1-9]|1[0-2])([0-2]\d|3[01])", bare):  # a moment, all in digits
        return False
    return bool(CPF().validate(bare) if len(bare) == 11 else CNPJ().validate(bare))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m erp_sync_tests.audit", description=__doc__)
    parser.add_argument("--word", action="append", default=[], help="a secret that must stand nowhere")
    parser.add_argument("paths", nargs="+", type=Path)
    given = parser.parse_args(arguments)
    found, kinds = audit(given.paths, given.word)
    for leak in found[:50]:
        print(leak)
    print(f"files {dict(kinds)}, found {dict(Counter(leak.kind for leak in found))}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
