"""The shop: server, session, rights, profile, indexes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any

from pymysql.constants import FIELD_TYPE
from sqlalchemy import Connection

from erp_sync.database_server import clock, version
from erp_sync.database_url import parse_url
from erp_sync.doctor.installation import Installation
from erp_sync.doctor.ledger import same_server, time_of_ledger
from erp_sync.errors import ErpSyncError, Misconfigured
from erp_sync.models import Finding
from erp_sync.shop.check import check_profile
from erp_sync.shop.database import HEAD, ORDERS, Shop, open_shop
from erp_sync.shop.profile import load_profile

SAMPLE = 50
"""Of the newest orders. `erp-sync profile check` looks at more."""


def shop(installation: Installation) -> Iterator[Finding]:
    """Server, session, rights, profile and indexes. Only reads: no status is rehearsed."""
    settings, profile = installation.settings, installation.profile
    if settings.shop_url is None:
        yield Finding("warning", "shop", "not looked at: ERP_SYNC_SHOP_URL is missing or wrong", "set it first")
        return
    url = settings.shop_url.get_secret_value()
    if profile is None:
        # Of the server itself something can be said without it.
        with closing(open_shop(url, load_profile("laravel"))) as server:
            yield from _server(server, installation)
        yield Finding(
            "warning", "profile", "not looked at: ERP_SYNC_SHOP_PROFILE is missing or wrong", "correct it first"
        )
        return
    with closing(open_shop(url, profile)) as opened:
        yield from _server(opened, installation)
        with suppress(ErpSyncError):  # the same SELECT fails below, and is told there
            yield from _time_zone(opened)
        yield from check_profile(opened, sample=SAMPLE, besides=_ledger_beside(installation))
        if profile.status is not None:
            message = "what it writes was not rehearsed: the doctor writes nothing"
            yield Finding("ok", "[status] write", message, f"erp-sync profile check {profile.name}")


def _server(shop: Shop, installation: Installation) -> Iterator[Finding]:
    theirs = shop.now()
    ours = datetime.now(UTC)
    where = shop.engine.url.render_as_string().partition("@")[2] or shop.engine.url.database
    yield Finding("ok", "shop", f"answers at {where}")
    if shop.is_sqlite:
        return
    said = shop.read(lambda connection: connection.exec_driver_sql("SELECT VERSION()").scalar_one())
    yield version(str(said))
    yield clock("the shop's clock", theirs, "this machine's", ours)
    try:
        ledger = time_of_ledger(installation.settings)
    except ErpSyncError:
        return  # it is told where the ledger is looked at
    if ledger is not None:
        yield clock("the shop's clock", shop.now(), "the ledger's", ledger)


def _time_zone(shop: Shop) -> Iterator[Finding]:
    """A TIMESTAMP is shown in the session's zone, and read as the wall clock of app_timezone: both must be one."""
    section = shop.profile.shop
    query = shop.query(ORDERS, f"{HEAD} FROM (\n{shop.profile.read.orders.sql}\n) q LIMIT 0")

    def described(connection: Connection) -> dict[str, Any]:
        result = shop.execute(connection, query)
        return {column[0]: column[1] for column in (result.cursor.description if result.cursor else ())}

    zone = shop.profile.app_timezone
    year = datetime.now(UTC).year
    offsets = {datetime(year, month, 1, tzinfo=zone).strftime("%z") for month in range(1, 13)}
    shown = " or ".join(f"{offset[:3]}:{offset[3:]}" for offset in sorted(offsets))
    shifting = [name for name, kind in shop.read(described).items() if kind == FIELD_TYPE.TIMESTAMP]
    same = section.session_timezone == section.app_timezone or section.session_timezone.replace(":", "") in offsets
    if shop.is_sqlite or not shifting:
        yield Finding("ok", "[shop] app_timezone", f"times are stored as {zone.key} has them ({shown})")
    elif not same:
        names = ", ".join(shifting)
        message = f"TIMESTAMPs ({names}) are read in {section.session_timezone}, and taken for {zone.key} ({shown})"
        advice = f'write session_timezone = "{shown[:6]}" into the profile, or correct app_timezone'
        yield Finding("error", "[shop] session_timezone", message, advice)
    elif len(offsets) > 1 and section.session_timezone != section.app_timezone:
        message = f"{zone.key} changes its offset in the year ({shown}), the session has {section.session_timezone}"
        advice = f'write session_timezone = "{zone.key}" (its server must know the zones: mysql_tzinfo_to_sql)'
        yield Finding("warning", "[shop] session_timezone", message, advice)
    else:
        yield Finding("ok", "[shop] session_timezone", f"TIMESTAMPs are read as {zone.key} has them ({shown})")


def _ledger_beside(installation: Installation) -> str:
    """The ledger's database where shop and ledger are one user's: it may do there as it likes."""
    settings = installation.settings
    if settings.shop_url is None or settings.ledger_url is None:
        return ""
    try:
        ours = parse_url("ERP_SYNC_LEDGER_URL", settings.ledger_url.get_secret_value())
        theirs = parse_url("ERP_SYNC_SHOP_URL", settings.shop_url.get_secret_value())
    except Misconfigured:
        return ""
    return (ours.database or "") if same_server(ours, theirs) and ours.username == theirs.username else ""
