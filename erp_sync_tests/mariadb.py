"""A real, private MariaDB on loopback: for tests, crash tests and benchmarks, with or without pytest.

    with MariaDB() as mariadb:
        url = mariadb.create_database()
        mariadb.kill()      # SIGKILL, as a power cut would end it
        mariadb.start()     # what was committed is still there

It needs `mariadbd` and `mariadb-install-db` (Debian: `mariadb-server-core mariadb-client-core`) and leaves nothing
behind: its data live in a temporary folder that `close` removes.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pymysql
from sqlalchemy import URL

from erp_sync_tests.certificates import Authority


class MariaDB:
    """One server, started at once. `root` has no password; the port stays the same over restarts.

    `authority`: start with TLS and a certificate for localhost, 127.0.0.1 and db.example.com signed by it.
    """

    def __init__(self, *, authority: Authority | None = None, options: Sequence[str] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="erp-sync-mariadb-"))
        self.port = _free_port()
        self.socket = self.folder / "mariadb.sock"
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._options = list(options)
        if authority is not None:
            certificate, key = authority.issue(self.folder, "localhost", names=("db.example.com",))
            self._options += [f"--ssl-cert={certificate}", f"--ssl-key={key}"]
        try:
            self._install()
            self.start()
        except BaseException:
            self.close()
            raise

    def url(
        self,
        database: str,
        *,
        user: str = "root",
        password: str | None = None,
        host: str = "127.0.0.1",
        query: dict[str, str] | None = None,
    ) -> str:
        """The SQLAlchemy URL of one database on this server."""
        return URL.create(
            "mysql+pymysql", user, password, host, self.port, database, query=query or {}
        ).render_as_string(hide_password=False)

    def create_database(self) -> str:
        """The URL of a new, empty database (utf8mb4, the default collation, which ignores case)."""
        name = f"t{os.getpid()}_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return self.url(name)

    def execute(self, *statements: str) -> None:
        """Statements of the administrator (grants, globals), each committed."""
        with (
            pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)

    def value(self, statement: str) -> str:
        """The last column of the statement's first row, as text; for `SHOW STATUS` and the like."""
        with (
            pymysql.connect(unix_socket=str(self.socket), user="root") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            row = cursor.fetchone()
        if row is None:
            raise LookupError(f"no row: {statement}")
        return str(row[-1])

    def start(self) -> None:
        """Returns when the server takes connections; InnoDB's recovery is over then."""
        with (self.folder / "output").open("ab") as output:
            written = output.tell()
            self._process = subprocess.Popen(
                [
                    _binary("mariadbd"),
                    "--no-defaults",
                    f"--datadir={self.folder / 'data'}",
                    f"--socket={self.socket}",
                    f"--pid-file={self.folder / 'pid'}",
                    f"--user={_user()}",
                    f"--port={self.port}",
                    "--bind-address=127.0.0.1",
                    "--skip-name-resolve",
                    "--innodb-flush-log-at-trx-commit=1",
                    "--character-set-server=utf8mb4",
                    *self._options,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        give_up = time.monotonic() + 60
        while b"ready for connections" not in (log := (self.folder / "output").read_bytes()[written:]):
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"mariadbd did not start:\n{log[-2000:].decode(errors='replace')}")
            time.sleep(0.01)

    def stop(self) -> None:
        """An orderly shutdown."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, every connection breaks."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends the server and removes its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _install(self) -> None:
        done = subprocess.run(
            [
                _binary("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                f"--user={_user()}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            # Two installs at once delete each other's temporary tables in a shared folder.
            env={**os.environ, "TMPDIR": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"mariadb-install-db failed:\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}")


def _binary(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RuntimeError(f"{name} is missing: apt-get install mariadb-server-core mariadb-client-core")
    return found


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
