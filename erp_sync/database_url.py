"""The address of a database, the shop's or the ledger's, checked; and TLS as it asks for it."""

from __future__ import annotations

import ssl
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from erp_sync.errors import Misconfigured

NOT_THE_DRIVER_S = ("ssl", "ssl_ca", "ssl_cert", "ssl_key", "charset", "local_infile")
"""Options that are ours to set. PyMySQL's own of these names accept a server of the wrong authority."""
_TLS_OPTIONS = frozenset(NOT_THE_DRIVER_S[:4])
_FORM = "write mysql+pymysql://user:password@host/database"


def parse_url(setting: str, url: str) -> URL:
    """Raises Misconfigured, which shows no part of the URL."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise Misconfigured(f"{setting} is no SQLAlchemy URL: {_FORM}") from None
    if "@" in (address.host or ""):
        # What stands before it is the end of the password, and would be told as the server's name.
        raise Misconfigured(f"{setting} has more than one @: write one of the password as %40")
    return address


def check_database(setting: str, address: URL) -> None:
    """Raises Misconfigured."""
    if address.database in (None, "", ":memory:"):
        raise Misconfigured(f"{setting} names no database: {_FORM}")


def tls_context(setting: str, address: URL, ca_bundle: Path | None = None) -> ssl.SSLContext | None:
    """`ca_bundle` or `?ssl_ca=FILE` (a private CA), `?ssl=true` (the system's CAs), `ssl_cert` and `ssl_key` (a client
    certificate). With any of them the server's certificate and name are verified, with TLS 1.2 or later; None without.

    Raises Misconfigured.
    """
    options = {name: str(value) for name, value in address.query.items() if name.startswith("ssl")}
    unknown = sorted(options.keys() - _TLS_OPTIONS)
    if unknown:
        raise Misconfigured(f"{setting} has the option {unknown[0]}: for TLS use {', '.join(sorted(_TLS_OPTIONS))}")
    if options.get("ssl", "true") != "true":
        raise Misconfigured(f"{setting} has ssl={options['ssl']}: write ssl=true, or leave it out")
    ca = str(ca_bundle) if ca_bundle else options.get("ssl_ca")
    if not options and not ca:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "ssl_cert" in options:
            context.load_cert_chain(options["ssl_cert"], options.get("ssl_key"))
    except OSError as error:
        files = ", ".join(filter(None, [ca, options.get("ssl_cert"), options.get("ssl_key")]))
        raise Misconfigured(
            f"{setting}: the certificate files ({files}) cannot be read: {error.strerror or error}"
        ) from None
    return context
