"""Engines for MySQL and MariaDB, the shop's or the ledger's."""

from __future__ import annotations

import ssl
from typing import Any

from pymysql import OperationalError
from pymysql.connections import Connection
from sqlalchemy import URL, Engine, create_engine, event

from erp_sync.database_url import NOT_THE_DRIVER_S, TLS_FAILED, is_local

_CLEAR_TEXT = ("mysql_clear_password", "dialog")
"""What a server may ask for instead of a proof of the password: the password."""


def mysql_engine(address: URL, tls: ssl.SSLContext | None, connect_args: dict[str, Any], **options: Any) -> Engine:
    """`tls`: the server is verified with it; None: its connections are encrypted where the server offers that, nobody
    is verified, and no password is said to a server elsewhere."""
    silent = {} if tls or is_local(address) else {"auth_plugin_map": dict.fromkeys(_CLEAR_TEXT, _Refuse)}
    engine = create_engine(
        address.set(drivername="mysql+pymysql").difference_update_query(NOT_THE_DRIVER_S),
        hide_parameters=True,
        connect_args={
            "charset": "utf8mb4",
            "local_infile": False,
            **({"ssl": tls} if tls else {}),
            **silent,
            **connect_args,
        },
        **options,
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> _Connection:
        return _Connection(*args, **options)

    return engine


class _Connection(Connection):
    """PyMySQL reads the system's certificate authorities for each connection, also for those that verify nobody: 25 ms,
    in which no other thread runs, and which each order waited for that met a new connection on its way to the ERP."""

    def _create_ssl_ctx(self, given: ssl.SSLContext | dict[str, Any]) -> ssl.SSLContext:
        if isinstance(given, ssl.SSLContext):
            return given
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


class _Refuse:
    """An authentication plugin of PyMySQL."""

    def __init__(self, _connection: Connection) -> None: ...

    def authenticate(self, _packet: object) -> None:
        raise OperationalError(TLS_FAILED, "it asks for the password in clear text, and nobody verified it")
