"""The address of a database, the shop's or the ledger's, checked; and TLS as it asks for it."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from erp_sync.errors import Misconfigured

NOT_THE_DRIVER_S = ("ssl", "ssl_ca", "ssl_cert", "ssl_key", "charset", "local_infile")
"""Options that are ours to set. PyMySQL's own of these names accept a server of the wrong authority."""
_TLS_OPTIONS = frozenset(NOT_THE_DRIVER_S[:4])
TLS_FAILED = 2026
"""PyMySQL's code where the server offers no TLS."""
_ELSEWHERE = frozenset(("host", "read_default_file", "read_default_group"))
"""Options of PyMySQL that may name another host than the URL."""
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


def is_local(address: URL) -> bool:
    """Whether the database is a file, a socket, or on loopback: nobody listens in between."""
    if address.get_backend_name() == "sqlite" or "unix_socket" in address.query:
        return True
    if not _ELSEWHERE.isdisjoint(address.query):
        return False
    host = address.host or "localhost"
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_context(setting: str, address: URL, ca_bundle: Path | None = None) -> ssl.SSLContext | None:
    """What verifies the server's certificate and name, with TLS 1.2 or later: the system's authorities, or a private
    one, `ca_bundle` or `?ssl_ca=FILE`. `ssl_cert` and `ssl_key` are a client certificate.

    None, and nobody is verified: with `?ssl=false`, and on this machine without any option. Raises Misconfigured.
    """
    options = {name: str(value) for name, value in address.query.items() if name.startswith("ssl")}
    unknown = sorted(options.keys() - _TLS_OPTIONS)
    if unknown:
        raise Misconfigured(f"{setting} has the option {unknown[0]}: for TLS use {', '.join(sorted(_TLS_OPTIONS))}")
    if options.get("ssl", "true") not in ("true", "false"):
        raise Misconfigured(f"{setting} has ssl={options['ssl']}: write ssl=true or ssl=false, or leave it out")
    ca = str(ca_bundle) if ca_bundle else options.get("ssl_ca")
    if options.get("ssl") == "false":
        if ca or len(options) > 1:
            raise Misconfigured(f"{setting} has ssl=false beside what verifies the server: leave one of them out")
        return None
    if is_local(address) and not options and not ca:
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


def tls_refusal(setting: str, where: str, code: int, text: str) -> Misconfigured | None:
    """What a database error, by its code and text, means if it is about TLS. None: it is not."""
    if code != TLS_FAILED and "CERTIFICATE_VERIFY_FAILED" not in text and "[SSL" not in text:
        return None
    return Misconfigured(
        f"{setting}: TLS with {where} failed ({text}): let the server offer TLS, give its certificate authority as "
        "ssl_ca=FILE, and the host name that its certificate holds; or ssl=false, in a network that nobody else enters"
    )
