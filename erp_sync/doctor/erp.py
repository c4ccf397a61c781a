"""The ERP: certificate, login, clock, tenant, rights, dictionary, codes, products."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from erp_sync.database_server import clock
from erp_sync.doctor.erp_gate import gate_of
from erp_sync.doctor.erp_routes import routes
from erp_sync.doctor.installation import Installation
from erp_sync.erp.client import ErpClient
from erp_sync.erp.dictionary import Field, dictionary_fields, padded_width
from erp_sync.erp.generic_query import PATH, AtLeast, GenericQuery, In, Query, text
from erp_sync.erp.protheus import Protheus
from erp_sync.erp.transport import reason, tls_context
from erp_sync.erp_fields import WIDTHS
from erp_sync.errors import ErpSyncError, ErpUnavailable, Misconfigured, Unavailable
from erp_sync.models import CustomerCode, Finding, Order, ShopState
from erp_sync.settings import Settings
from erp_sync.shop.database import open_shop
from erp_sync.sync.needed import needed_queries, usable_products

FLOW = "backfill"
"""The last in rank: its calls wait for those of all flows."""
READ_SECONDS = 10.0
CERTIFICATE_DAYS = 14
PRODUCTS = 50
PRODUCTS_OF = timedelta(days=3)
TENANT_ROWS = 100


def erp(installation: Installation) -> Iterator[Finding]:
    """Certificate, login, clock, tenant, rights, dictionary, codes and routes. Asks, and leaves nothing behind."""
    settings = installation.settings
    if settings.erp_url is None:
        yield Finding("warning", "ERP", "not looked at: ERP_SYNC_ERP_URL is missing or wrong", "set it first")
        return
    yield from _tls(settings, settings.erp_url)
    try:
        settings.require_erp()
    except Misconfigured as error:
        yield Finding("warning", "login", f"not looked at: {error}", "set it first")
        return
    brief = settings.model_copy(update={"erp": settings.erp.model_copy(update=_brief(settings))})
    with gate_of(settings) as (gate, left_alone_until):
        if left_alone_until is not None:
            message = f"the flows leave the ERP alone until {left_alone_until:%H:%M:%S} UTC: it did not answer them"
            yield Finding("warning", "breaker", message, "if it answers below, they go on by themselves then")
        with closing(ErpClient.from_settings(brief, gate, flow=FLOW)) as client:
            try:
                client.login()
            except ErpSyncError as error:
                yield Finding("error", "login", str(error), "the rest of the ERP is looked at once it lets us in")
                return
            style = settings.erp.token_style
            yield Finding(
                "ok", "login", "Basic: sent with each call" if style == "basic" else f"gives a token ({style})"
            )
            yield from _asked(client, installation)


def _brief(settings: Settings) -> dict[str, float]:
    """Nobody waits for the doctor as long as for an order."""
    return {"read_timeout": min(settings.erp.read_timeout, READ_SECONDS)}


def _tls(settings: Settings, root: str) -> Iterator[Finding]:
    parts = urlsplit(root)
    host = parts.hostname or ""
    if parts.scheme == "http":
        yield Finding("ok", "TLS", f"plain http, to {host} alone: nobody listens in between")
        return
    try:
        context = tls_context(settings.erp_ca_bundle)
        address = (host, parts.port or 443)
        with (
            socket.create_connection(address, settings.erp.connect_timeout) as raw,
            context.wrap_socket(raw, server_hostname=host) as connection,
        ):
            protocol, cipher, certificate = connection.version(), connection.cipher(), connection.getpeercert()
    except Misconfigured as error:
        yield Finding("error", "TLS", str(error), "correct ERP_SYNC_ERP_CA_BUNDLE")
        return
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate of {parts.netloc} is not trusted: {error.verify_message}"
        advice = (
            "ERP_SYNC_ERP_CA_BUNDLE: the PEM file of the authority that signed it; and call the ERP by its name there"
        )
        yield Finding("error", "TLS", message, advice)
        return
    except OSError as error:
        message = f"no TLS with {parts.netloc}: {reason(error)}"
        yield Finding("error", "TLS", message, "correct ERP_SYNC_ERP_URL, or let the ERP offer TLS 1.2 or later there")
        return
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str((certificate or {})["notAfter"])), UTC)
    days = (ends - datetime.now(UTC)).days
    if days < CERTIFICATE_DAYS:
        advice = "have the ERP's certificate renewed before that"
        yield Finding("warning", "TLS", f"the certificate of {parts.netloc} ends on {ends:%Y-%m-%d}", advice)
    name = cipher[0] if cipher else ""
    yield Finding("ok", "TLS", f"verified, {protocol} {name}, certificate until {ends:%Y-%m-%d}")


def _asked(client: ErpClient, installation: Installation) -> Iterator[Finding]:
    settings, profile = installation.settings, installation.profile
    query = GenericQuery(client)
    conditions = Query("SE4", ("E4_CODIGO",), (In("E4_CODIGO", ("001",)),))
    asked_at = time.monotonic()
    try:
        query.rows(conditions)
    except ErpSyncError as error:
        yield Finding("error", "genericQuery", str(error), "without it nothing can be read: the rest was not looked at")
        return
    took = time.monotonic() - asked_at
    yield Finding("ok", "genericQuery", f"answers in {took * 1000:.0f} ms")
    if query.erp_time is None:
        yield Finding("warning", "clock", "the ERP's answers have no Date header", "compare its clock by hand")
    else:
        ours = datetime.now(UTC) - timedelta(seconds=took / 2)
        yield clock("the ERP's clock", query.erp_time, "this machine's", ours)
    follows_stock = profile is not None and profile.stock is not None
    looks: Sequence[Callable[[], Iterator[Finding]]] = (
        lambda: tenant(client, query, settings),
        lambda: _fields(query, settings, follows_stock=follows_stock),
        lambda: dictionary(client, settings),
        lambda: _codes(query, settings),
        lambda: _default_customer(client, settings),
        lambda: _products(query, installation),
        lambda: routes(client, settings),
    )
    for look in looks:
        try:
            yield from look()
        except ErpSyncError as error:
            yield Finding("error", "ERP", str(error), "correct it, or wait until it is back, and look again")


def tenant(client: ErpClient, query: GenericQuery, settings: Settings) -> Iterator[Finding]:
    """Rows of our branch prove little: a service that was prepared for one branch gives them to everybody. So two
    strangers ask for them too, of a made-up branch of our company and of our branch in a made-up company."""
    ours = settings.require_erp()[3]
    advice = "correct ERP_SYNC_ERP_TENANT, or have the REST service honour the tenantId header"
    witness: Query | None = None
    for asked in (
        Query("SB2", ("B2_COD",), (AtLeast("B2_COD", ""),)),
        Query("SC5", ("C5_NUM",), (AtLeast("C5_NUM", ""),)),
    ):
        try:
            if query.page(asked, order=(), size=TENANT_ROWS)[0]:
                witness = asked
                break
        except Misconfigured as error:
            if "ERP_SYNC_ERP_TENANT" in str(error):
                yield Finding("error", "tenant", str(error), advice)
                return
    company, _, branch = ours.partition(",")
    served, told = [], []
    for what, stranger in (
        ("branch", f"{company},{_other(branch)}"),
        ("company", f"{_other(company)},{branch}"),
    ):
        try:
            refused = _refuses(client.of_tenant(stranger), witness)
        except ErpUnavailable as error:
            yield Finding("warning", "tenant", f"another {what} could not be tried: {error}", "look again later")
            continue
        if refused:
            told.append(f"another {what} gets {refused}")
        else:
            served.append(what)
    if told and not served:
        yield Finding("ok", "tenant", f"{ours} is honoured: {', '.join(told)}")
    elif served and witness is None:
        message = (
            f"{ours} could not be proven: the branch has neither stock nor orders yet, and a made-up "
            f"{' and a made-up '.join(served)} is served"
        )
        yield Finding("warning", "tenant", message, "look again with the first row of SB2 or SC5 there")
    elif served:
        ignored = "the tenantId header" if len(served) == 2 else f"the {served[0]} in the tenantId header"
        message = f"{ignored} is ignored: a made-up {served[0]} gets the rows of {settings.erp_branch} too"
        yield Finding("warning", "tenant", message, f"nothing is wrong while this is your {served[0]}; {advice}")


def _other(code: str) -> str:
    return ("Y" if set(code) == {"Z"} else "Z") * len(code)


def _refuses(client: ErpClient, witness: Query | None) -> str:
    """How a branch or company that does not exist is told apart; "" where it is not."""
    asked = witness or Query("SB2", ("B2_COD",), (AtLeast("B2_COD", ""),))
    try:
        items = client.get(PATH, asked.parameters(1, (), 1)).fields().get("items")
    except Misconfigured:
        return "an error"
    except ErpUnavailable as error:
        if not re.search(r"HTTP (4\d\d|500)", str(error)):
            raise
        return "an error"
    return "no rows" if witness is not None and not items else ""


def _fields(query: GenericQuery, settings: Settings, *, follows_stock: bool) -> Iterator[Finding]:
    for needed in needed_queries(settings, follows_stock=follows_stock):
        try:
            rows, _ = query.page(needed, order=(), size=1)
        except (Misconfigured, ErpUnavailable) as error:
            lacking = _lacking(query, needed)
            named = f"{', '.join(lacking)}: " if lacking else ""
            advice = f"give the user of ERP_SYNC_ERP_USER the right to read {', '.join(lacking) or needed.table}"
            yield Finding("error", needed.table, f"{named}{error}", advice)
            continue
        how = "readable" if rows else "not refused; it has no row yet"
        yield Finding("ok", needed.table, f"{len(needed.fields)} fields are {how}")


def _lacking(query: GenericQuery, needed: Query) -> list[str]:
    """Which of its fields it is, asked one by one."""
    lacking = []
    for name in needed.fields:
        one = Query(needed.table, (name,), needed.where, deleted=needed.deleted, custom=needed.custom)
        try:
            query.page(one, order=(), size=1)
        except (Misconfigured, ErpUnavailable):
            lacking.append(name)
    return lacking


def dictionary(client: ErpClient, settings: Settings) -> Iterator[Finding]:
    field, width = settings.erp.external_id_field, settings.erp.external_id_width
    assumed = {**WIDTHS, **settings.erp.widths}
    try:
        found = dictionary_fields(client, [field, *assumed])
    except (Misconfigured, ErpUnavailable):
        real = padded_width(client, "SC5", field)
        if real is None:
            message = f"the width of {field} could not be read: this site shows no SX3, and no order has it padded"
            advice = f"compare erp.external_id_width = {width} in the ERP's configurator: a longer id is cut silently"
            yield Finding("warning", field, message, advice)
        else:
            yield _external_id(field, Field("C", real), width)
        return
    yield _external_id(field, found.get(field), width)
    narrow = [
        f"{name} = {found[name].width} (not {assumed[name]})"
        for name in assumed
        if name in found and found[name].width < assumed[name]
    ]
    if narrow:
        message = f"narrower in the ERP's dictionary than here: {', '.join(narrow)}"
        yield Finding("warning", "erp.widths", message, "write these widths into [erp] widths")
    hidden = [name for name in assumed if name not in found]
    if hidden:
        message = f"{len(hidden)} of {len(assumed)} fields are not shown by the ERP's dictionary: {', '.join(hidden)}"
        advice = "compare their widths in the ERP's configurator, or let the user of ERP_SYNC_ERP_USER read all of SX3"
        yield Finding("warning", "erp.widths", message, advice)
    if not narrow and not hidden:
        yield Finding("ok", "erp.widths", "no field is narrower in the ERP's dictionary than here")


def _external_id(field: str, found: Field | None, width: int) -> Finding:
    if found is None:
        message = f"the ERP's dictionary has no field {field}"
        return Finding("error", field, message, "have it made (SC5, C), or correct erp.external_id_field")
    if found.kind != "C":
        message = f"{field} is of type {found.kind} in the ERP's dictionary, an order's number is a text"
        return Finding("error", field, message, "have it made anew as C, or correct erp.external_id_field")
    advice = f"set erp.external_id_width = {found.width}"
    if found.width < width:
        message = f"{field} is {found.width} wide, erp.external_id_width = {width}: longer ids are cut silently"
        return Finding("error", field, message, advice)
    if found.width > width:
        message = f"{field} is {found.width} wide, erp.external_id_width = {width}: longer ids are refused without need"
        return Finding("warning", field, message, advice)
    return Finding("ok", field, f"exists, {width} wide")


def _codes(query: GenericQuery, settings: Settings) -> Iterator[Finding]:
    orders = settings.orders
    payments = sorted({*orders.payments.values(), *filter(None, [orders.default_payment])})
    carriers = sorted(set(orders.carriers.values()))
    for setting, table, field, wanted in (
        ("orders.payments", "SE4", "E4_CODIGO", payments),
        ("orders.carriers", "SA4", "A4_COD", carriers),
    ):
        if not wanted:
            yield Finding("ok", setting, "none is set")
            continue
        try:
            rows = query.rows(Query(table, (field,), (In(field, wanted, len(max(wanted, key=len))),)))
        except Misconfigured as error:
            advice = f"give the user of ERP_SYNC_ERP_USER the right to read {table}"
            yield Finding("warning", setting, f"could not be compared with {table}: {error}", advice)
            continue
        missing = [code for code in wanted if code not in {text(row, field) for row in rows}]
        if missing:
            message = (
                f"{', '.join(missing)} of {len(wanted)} codes is not in the ERP ({table}): such orders are refused"
            )
            yield Finding("error", setting, message, f"correct {setting}, or create the code in {table}")
        else:
            yield Finding("ok", setting, f"all {len(wanted)} codes are in the ERP ({table})")


def _default_customer(client: ErpClient, settings: Settings) -> Iterator[Finding]:
    given = settings.orders.default_customer
    if not given:
        return
    code, _, store = given.partition("/")
    found = Protheus(client, settings).customer(CustomerCode(code, store))
    if not any(not customer.blocked for customer in found):
        state = "blocked in the ERP" if found else "not in the ERP"
        advice = "correct it, or create or unblock the customer (SA1)"
        yield Finding("error", "orders.default_customer", f"{given} is {state}", advice)
    else:
        yield Finding("ok", "orders.default_customer", f"{given} is in the ERP")


def _products(query: GenericQuery, installation: Installation) -> Iterator[Finding]:
    subject = "products"
    try:
        skus = _ordered(installation)
    except (Unavailable, Misconfigured):
        yield Finding(
            "warning", subject, "not looked at: the shop cannot be asked for its SKUs", "see the shop's lines"
        )
        return
    if not skus:
        yield Finding("ok", subject, "no order of the last days has any")
        return
    try:
        usable = usable_products(query, skus, installation.settings)
    except Misconfigured as error:
        advice = "give the user of ERP_SYNC_ERP_USER the right to read SB1"
        yield Finding("warning", subject, f"could not be compared with SB1: {error}", advice)
        return
    bad = [sku for sku in skus if sku not in usable]
    if bad:
        message = (
            f"{len(bad)} of {len(skus)} that were ordered lately are not in the ERP, or blocked: {', '.join(bad[:5])}"
        )
        yield Finding("error", subject, message, "create or unblock them (SB1), or correct the SKU in the shop")
    else:
        yield Finding("ok", subject, f"{len(skus)} that were ordered lately are in the ERP, and not blocked")


def _ordered(installation: Installation) -> list[str]:
    settings, profile = installation.settings, installation.profile
    if profile is None:
        raise Misconfigured("the profile is missing or wrong")
    with closing(open_shop(settings.require_shop_url(), profile)) as shop:
        heads = shop.recent(shop.now() - PRODUCTS_OF, 200)
        wanted = [head.order_id for head in heads if head.state in (ShopState.READY, ShopState.WAITING)]
        orders = shop.fetch(wanted[-100:])
    found = {line.sku: None for order in orders if isinstance(order, Order) for line in order.lines if line.sku}
    return list(found)[:PRODUCTS]
