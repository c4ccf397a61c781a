"""What the doctor says of shop and ledger: one defect at a time on a real MariaDB, and it is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url

from erp_sync import database_server
from erp_sync.doctor.examination import Area, examine
from erp_sync.doctor.installation import Installation
from erp_sync.doctor.ledger import ledger, same_server
from erp_sync.doctor.shop import shop
from erp_sync.ledger.migrate import migrate
from erp_sync.models import Finding
from erp_sync.sandbox.shop import DemoShop, catalogue, create_schema
from erp_sync.settings import Settings
from erp_sync.shop.database import open_shop
from erp_sync.shop.grants import all_of, needed_grants
from erp_sync.shop.indexes import missing_index
from erp_sync.shop.profile import Profile, ReadSection, load_profile
from erp_sync.shop.statement import Statement
from erp_sync_tests.certificates import Authority
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.test_stock_race import bulk_profile

LARAVEL = load_profile("laravel")


@dataclass
class Databases:
    """A shop with a few orders and a migrated ledger, on one server, each with a user of its own and no right more."""

    server: MariaDB
    shop_name: str
    ledger_name: str

    def as_root(self, *statements: str) -> None:
        self.server.execute(*statements)

    def url(self, name: str, user: str, host: str = "127.0.0.1", **query: str) -> str:
        return self.server.url(name, user=user, password="x", host=host, query=query)

    def shop(self, profile: Profile | None = LARAVEL, *, user: str = "shop_user", **query: str) -> list[Finding]:
        settings = {
            "shop_url": self.url(self.shop_name, user, **query),
            "ledger_url": self.url(self.ledger_name, "ledger_user"),
        }
        return list(shop(Installation(Settings.model_validate(settings), profile)))

    def ledger(self, *, user: str = "ledger_user", name: str = "", **query: str) -> list[Finding]:
        settings = {
            "shop_url": self.url(self.shop_name, "shop_user"),
            "ledger_url": self.url(name or self.ledger_name, user, **query),
        }
        return list(ledger(Installation(Settings.model_validate(settings), LARAVEL)))


def wrong(found: list[Finding]) -> list[Finding]:
    assert all(finding.advice for finding in found if finding.level != "ok"), found
    return [finding for finding in found if finding.level != "ok"]


def ledger_rights(name: str, user: str) -> str:
    return f"GRANT ALTER, CREATE, INDEX, DELETE, INSERT, SELECT, UPDATE ON {name}.* TO {user}@'%'"


def filled(url: str) -> None:
    engine = create_engine(url)
    create_schema(engine)
    demo = DemoShop(engine)
    demo.stock_catalogue(catalogue(20))
    demo.add_customers(5)
    demo.checkout_many(10)
    engine.dispose()


@pytest.fixture(scope="module")
def databases(mariadb: MariaDB) -> Databases:
    shop_url, ledger_url = mariadb.create_database(), mariadb.create_database()
    shop_name, ledger_name = (str(make_url(url).database) for url in (shop_url, ledger_url))
    filled(shop_url)
    opened = open_shop(mariadb.url(shop_name, user="shop_user"), LARAVEL)
    mariadb.execute(
        *(f"CREATE OR REPLACE USER {user}@'%' IDENTIFIED BY 'x'" for user in ("shop_user", "ledger_user", "other")),
        *needed_grants(opened),
        ledger_rights(ledger_name, "ledger_user"),
    )
    opened.close()
    made = Databases(mariadb, shop_name, ledger_name)
    migrate(made.url(ledger_name, "ledger_user"))
    return made


@pytest.fixture
def other(databases: Databases) -> Iterator[str]:
    """A user whom a test gives what it needs."""
    databases.as_root("CREATE OR REPLACE USER other@'%' IDENTIFIED BY 'x'")
    yield "other"


def test_a_sound_shop_and_ledger_have_nothing_but_good_lines(databases: Databases) -> None:
    found = databases.shop()
    assert wrong(found) == []
    said = {finding.subject: finding.message for finding in found}
    assert said["version"].startswith("MariaDB 10.")
    assert {"shop", "clock", "[shop] app_timezone", "grants", "ERP_SYNC_SHOP_URL", "[status] write"} <= said.keys()
    assert [one.message for one in found if one.subject == "clock"][1].endswith("the ledger's agree (+0 s)")
    found = databases.ledger()
    assert wrong(found) == []
    assert {"ledger", "version", "clock", "durability", "grants", "migrations", "ERP_SYNC_LEDGER_URL"} <= {
        finding.subject for finding in found
    }


# Rights ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "level", "says"),
    [
        ("UPDATE (stock) ON {}.products", "error", "lacks UPDATE (stock) ON {}.products"),
        ("UPDATE (tracking_code) ON {}.orders", "error", "lacks UPDATE (delivered_at, "),
        ("SELECT ON {}.order_items", "error", "lacks SELECT ON {}.order_items"),
    ],
)
def test_a_right_of_the_shop_that_is_missing_is_granted_by_the_statement_that_is_told(
    databases: Databases, lost: str, level: str, says: str
) -> None:
    name = databases.shop_name
    databases.as_root(f"REVOKE {lost.format(name)} FROM shop_user@'%'")
    (grants,) = [one for one in databases.shop() if one.subject == "grants"]
    databases.as_root(*grants.advice.split("; "))
    assert (grants.level, says.format(name) in grants.message) == (level, True), grants
    assert wrong(databases.shop()) == []


def test_a_right_on_the_whole_shop_that_is_missing_takes_no_other_away(
    databases: Databases, other: str, tmp_path: Path
) -> None:
    name, profile = databases.shop_name, bulk_profile(tmp_path)
    statements = needed_grants(open_shop(databases.url(name, other), profile))
    writing = [one for one in statements if "GRANT UPDATE" in one]
    databases.as_root(f"GRANT SELECT ON {name}.* TO other@'%'", *writing)
    (grants,) = wrong(databases.shop(profile, user=other))
    assert "lacks CREATE TEMPORARY TABLES" in grants.message
    databases.as_root(*grants.advice.split("; "))
    assert wrong(databases.shop(profile, user=other)) == []


@pytest.mark.parametrize(
    ("right", "says"),
    [
        ("UPDATE (total) ON {}.orders", "UPDATE (total) ON {}.orders"),
        ("DELETE ON {}.orders", "DELETE ON {}.orders"),
        ("UPDATE ON {}.products", "UPDATE ON {}.products"),
        ("SELECT ON *.*", "SELECT ON *.*"),
        ("SELECT ON mysql.*", "SELECT ON mysql.*"),
        ("GRANT OPTION ON {}.products", "GRANT OPTION ON {}.products"),
        ("EXECUTE ON PROCEDURE {}.p", "EXECUTE ON {}.p"),
        ("ALL ON {}.*", "ALL PRIVILEGES ON {}.*"),
    ],
)
def test_a_right_of_the_shop_beyond_need_is_named(databases: Databases, other: str, right: str, says: str) -> None:
    name = databases.shop_name
    statements = needed_grants(open_shop(databases.url(name, other), LARAVEL))
    databases.as_root(f"CREATE OR REPLACE PROCEDURE {name}.p() SELECT 1")
    databases.as_root(*statements, f"GRANT {right.format(name)} TO other@'%'")
    (finding,) = wrong(databases.shop(user=other))
    assert (finding.level, finding.subject) == ("warning", "grants")
    assert f"may do more than needed: {says.format(name)}" in finding.message
    assert all(statement in finding.advice for statement in statements)


def test_the_statements_are_for_the_account_that_logs_in(databases: Databases, other: str) -> None:
    """Granted to another host's, they would make a new user without a password."""
    databases.as_root("CREATE OR REPLACE USER other@'127.0.0.%' IDENTIFIED BY 'x'")
    databases.as_root(f"GRANT SELECT ON {databases.shop_name}.orders TO other@'127.0.0.%'")
    databases.as_root(f"GRANT USAGE ON {databases.ledger_name}.* TO other@'127.0.0.%'")
    (grants,) = [one for one in databases.shop(user=other) if one.subject == "grants"]
    databases.as_root(*grants.advice.split("; "))
    assert "TO 'other'@'127.0.0.%'" in grants.advice
    assert wrong(databases.shop(user=other)) == []
    databases.as_root("DROP USER other@'127.0.0.%'")


def test_who_has_the_ledger_beside_the_shop_has_no_right_too_many(databases: Databases, other: str) -> None:
    settings = Settings.model_validate(
        {"shop_url": databases.url(databases.shop_name, other), "ledger_url": databases.url("its_own", other)}
    )
    statements = needed_grants(open_shop(databases.url(databases.shop_name, other), LARAVEL))
    databases.as_root(*statements, "CREATE OR REPLACE DATABASE its_own", ledger_rights("its_own", other))
    migrate(databases.url("its_own", other))
    installation = Installation(settings, LARAVEL)
    assert wrong([*shop(installation), *ledger(installation)]) == []


def test_a_right_of_the_ledger_that_is_missing(databases: Databases, other: str) -> None:
    name = databases.ledger_name
    databases.as_root(f"GRANT SELECT, INSERT, UPDATE ON {name}.* TO other@'%'")
    (finding,) = wrong(databases.ledger(user=other))
    assert (finding.level, finding.subject) == ("error", "grants")
    assert f"lacks DELETE ON {name}.*, which it needs to work" in finding.message
    assert finding.advice.startswith("GRANT SELECT, INSERT, UPDATE, DELETE ON "), "and nothing to change tables with"
    databases.as_root(finding.advice)
    assert wrong(databases.ledger(user=other)) == []


def test_a_right_to_change_tables_is_missed_only_where_they_must_be_changed(databases: Databases, other: str) -> None:
    name = databases.ledger_name
    databases.as_root(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO other@'%'")
    assert wrong(databases.ledger(user=other)) == [], "another user migrates"
    databases.as_root("CREATE OR REPLACE DATABASE to_be_migrated")
    databases.as_root("GRANT SELECT, INSERT, UPDATE, DELETE ON to_be_migrated.* TO other@'%'")
    found = [one for one in wrong(databases.ledger(user=other, name="to_be_migrated")) if "lacks" in one.message]
    assert [(one.level, one.message.partition(" ON ")[0]) for one in found] == [
        ("warning", "the user 'other' lacks CREATE, ALTER, INDEX")
    ]


def test_a_ledger_user_who_may_read_the_shop(databases: Databases, other: str) -> None:
    name = databases.ledger_name
    databases.as_root(ledger_rights(name, other), f"GRANT SELECT ON {databases.shop_name}.customers TO other@'%'")
    (finding,) = wrong(databases.ledger(user=other))
    assert (finding.level, finding.subject) == ("warning", "grants")
    assert f"more than needed: SELECT ON {databases.shop_name}.customers" in finding.message


@pytest.mark.parametrize(
    ("rights", "says"),
    [
        ("ALL ON {} TO {} WITH GRANT OPTION", "ALL PRIVILEGES ON {0}.*, GRANT OPTION ON {0}.*"),
        ("SELECT, INSERT, UPDATE, DELETE, DROP, TRIGGER ON {} TO {}", "DROP ON {0}.*, TRIGGER ON {0}.*"),
        ("SELECT, INSERT, UPDATE, DELETE ON {} TO {} WITH GRANT OPTION", "GRANT OPTION ON {0}.*"),
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_a_right_too_many_on_the_ledger_is_taken_by_the_statements_that_are_told(
    databases: Databases, other: str, rights: str, says: str, escaped: bool
) -> None:
    name = databases.ledger_name
    databases.as_root("GRANT " + rights.format(all_of(name) if escaped else f"{name}.*", "other@'%'"))
    (finding,) = wrong(databases.ledger(user=other))
    assert (finding.level, finding.subject) == ("warning", "grants")
    assert finding.message == f"the user 'other' may do more than needed: {says.format(name)}"
    databases.as_root(*finding.advice.split("; "))
    assert wrong(databases.ledger(user=other)) == []


def test_an_administrator_is_not_told_to_lock_himself_out(databases: Databases, other: str) -> None:
    databases.as_root("GRANT ALL ON *.* TO other@'%'")
    (finding,) = wrong(databases.ledger(user=other))
    assert "ALL PRIVILEGES ON *.*" in finding.message
    assert "a user for the ledger alone" in finding.advice and "REVOKE" not in finding.advice


@pytest.mark.parametrize("is_default", [False, True])
def test_what_comes_with_a_role_is_not_passed_over(databases: Databases, other: str, is_default: bool) -> None:
    databases.as_root(
        "CREATE OR REPLACE ROLE everything",
        *(f"GRANT ALL ON {name}.* TO everything" for name in (databases.shop_name, databases.ledger_name)),
        "GRANT everything TO other@'%'",
        *(["SET DEFAULT ROLE everything FOR other@'%'"] if is_default else []),
        *needed_grants(open_shop(databases.url(databases.shop_name, other), LARAVEL)),
    )
    of_shop = wrong(databases.shop(user=other))
    databases.as_root("REVOKE ALL PRIVILEGES, GRANT OPTION FROM other@'%'", "GRANT everything TO other@'%'")
    databases.as_root(ledger_rights(databases.ledger_name, other))
    of_ledger = wrong(databases.ledger(user=other))
    for found in (of_shop, of_ledger):
        assert {(one.level, one.subject) for one in found} == {("warning", "grants")}
        assert found[-1].message == "the user 'other' has roles: what they allow it was not looked at"
        assert len(found) == (2 if is_default else 1), "what is in force at the login is seen"
        assert not any("REVOKE" in one.advice for one in found), "it is not the user's own"


# Server ---------------------------------------------------------------------------------------------------------------


def test_wrong_passwords_names_and_servers_are_one_error(databases: Databases) -> None:
    nobody = databases.url(databases.shop_name, "nobody")
    broken = (
        "mysql+pymysql://u:x@127.0.0.1:1/y",
        "not a url",
        "oracle://u:x@h/y",
        "mysql://u:x@h:p/y",
        "mysql://u:@x@h/y",
    )
    for url in (nobody, *broken):
        installation = Installation(Settings.model_validate({"shop_url": url, "ledger_url": url}), LARAVEL)
        for area in (shop, ledger):
            found = _told(_examined(area, installation))
            assert [(one.level, "x@" in one.message) for one in found] == [("error", False)], (url, found)
            assert "defect" not in found[0].advice, found


def _told(found: list[Finding]) -> list[Finding]:
    return [one for one in found if one.level != "ok"]


def _examined(area: Area, installation: Installation) -> list[Finding]:
    return examine(installation, {"it": area})["it"]


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MariaDB, Path, Path]]:
    """A server that is a single node of its kind and careless about power cuts, with TLS; its authority; another."""
    folder = tmp_path_factory.mktemp("tls")
    authority, other = Authority(folder), Authority(folder, "another CA")
    options = ["--innodb-flush-log-at-trx-commit=2", "--log-bin", "--sync-binlog=0"]
    with MariaDB(authority=authority, options=options) as server:
        server.execute("CREATE USER u@'%' IDENTIFIED BY 'x'", "GRANT ALL ON *.* TO u@'%'")
        yield server, authority.bundle, other.bundle


def test_encryption_its_authority_and_durability(with_tls: tuple[MariaDB, Path, Path], elsewhere: str) -> None:
    server, bundle, foreign = with_tls
    name = str(make_url(server.create_database()).database)

    def said(area: Area, setting: str, **query: str) -> list[tuple[str, str]]:
        url = server.url(name, user="u", password="x", host=elsewhere, query=query)
        installation = Installation(Settings.model_validate({setting: url}), LARAVEL)
        return [(one.level, one.message) for one in _examined(area, installation) if one.subject.startswith("ERP_SYNC")]

    filled(server.url(name))
    for area, setting in ((shop, "shop_url"), (ledger, "ledger_url")):
        (verified,) = [one for one in said(area, setting, ssl_ca=str(bundle)) if "verified" in one[1]]
        assert verified[0] == "ok" and "encrypted and verified, TLSv1.3 TLS_" in verified[1]
        (blind,) = [one for one in said(area, setting, ssl="false") if "verified" in one[1]]
        assert blind[0] == "warning" and "certificate is not verified" in blind[1]
        url = server.url(name, user="u", password="x", query={"ssl_ca": str(foreign)})
        (refused,) = _told(_examined(area, Installation(Settings.model_validate({setting: url}), LARAVEL)))
        assert refused.level == "error" and "CERTIFICATE_VERIFY_FAILED" in refused.message
    url = server.url(name, user="u", password="x")
    found = _examined(ledger, Installation(Settings.model_validate({"ledger_url": url}), LARAVEL))
    durability = [(one.level, one.message) for one in found if one.subject == "durability"]
    assert [level for level, _ in durability] == ["warning", "warning"]
    assert "innodb_flush_log_at_trx_commit = 2" in durability[0][1] and "sync_binlog = 0" in durability[1][1]


def test_a_connection_that_is_not_encrypted(databases: Databases, elsewhere: str) -> None:
    for found in (databases.shop(host=elsewhere, ssl="false"), databases.ledger(host=elsewhere, ssl="false")):
        assert [(one.level, one.message) for one in wrong(found)] == [("warning", "the connection is not encrypted")]


def test_clocks_that_are_apart(databases: Databases) -> None:
    """Of the shop's, by the session's own clock: SET timestamp."""
    databases.as_root("SET GLOBAL init_connect = 'SET timestamp = UNIX_TIMESTAMP() + 300'")
    try:
        found = [*databases.shop(), *databases.ledger()]
    finally:
        databases.as_root("SET GLOBAL init_connect = ''")
    told = [(one.level, one.message) for one in found if one.subject == "clock"]
    assert [level for level, _ in told] == ["warning", "ok", "warning"], told
    assert re.search(r"the shop's clock is (299|300) s ahead of this machine's", told[0][1])


# Profile and indexes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drop", "again", "subjects", "advice"),
    [
        (
            "ALTER TABLE orders DROP INDEX orders_updated_at_index",
            "CREATE INDEX orders_updated_at_index ON orders (updated_at)",
            {"[read] orders"},
            "CREATE INDEX erp_sync_updated_at ON orders (updated_at)",
        ),
        (
            "ALTER TABLE products DROP INDEX ix_products_sku",
            "CREATE INDEX ix_products_sku ON products (sku)",
            {"[stock] find"},
            "CREATE INDEX erp_sync_sku ON products (sku)",
        ),
        (
            "ALTER TABLE orders DROP INDEX ix_orders_number",
            "CREATE INDEX ix_orders_number ON orders (number)",
            {"[status] find", "[read] orders"},
            "CREATE INDEX erp_sync_number ON orders (number)",
        ),
    ],
)
def test_an_index_that_is_missed(databases: Databases, drop: str, again: str, subjects: set[str], advice: str) -> None:
    at = f"USE {databases.shop_name}"
    databases.as_root(at, drop)
    try:
        found = wrong(databases.shop())
    finally:
        databases.as_root(at, again)
    assert {(one.level, one.subject) for one in found} == {("warning", subject) for subject in subjects}, found
    assert all(one.advice.endswith(advice) for one in found)
    databases.as_root(at, advice)  # it is a statement that runs
    databases.as_root(at, f"DROP INDEX {advice.split()[2]} ON {advice.split()[4]}")


@pytest.mark.parametrize(
    ("sql", "scanned", "wanted", "index"),
    [
        ("SELECT o.id AS order_id FROM shop.orders AS o", "o", "order_id", "erp_sync_id ON shop.orders (id)"),
        ("SELECT id AS order_id FROM orders", "orders", "order_id", "erp_sync_id ON orders (id)"),
        ("SELECT DATE(o.at) AS changed_at FROM orders o JOIN c ON c.id = o.c", "o", "changed_at", ""),
        ("SELECT o.at AS changed_at FROM orders o JOIN c ON c.id = o.c", "c", "changed_at", "erp_sync_id ON c (id)"),
        ("SELECT q.at AS changed_at FROM (SELECT at FROM orders) q", "<derived2>", "changed_at", ""),
        ("SELECT s FROM p WHERE p.sku = :sku", "p", ":sku", "erp_sync_sku ON p (sku)"),
        ("SELECT s FROM p WHERE LOWER(p.sku) = :sku", "p", ":sku", ""),
        ("SELECT `p`.`s` AS s FROM `p` WHERE `sku` = :sku", "p", ":sku", "erp_sync_sku ON p (sku)"),
    ],
)
def test_the_statement_that_makes_an_index(sql: str, scanned: str, wanted: str, index: str) -> None:
    said = missing_index(Statement.reading(sql), scanned, wanted)
    assert said == (f"CREATE INDEX {index}" if index else "")


def test_a_mistake_of_the_profile_is_told_and_statuses_are_left_to_its_own_check(databases: Databases) -> None:
    sql = {
        "orders": LARAVEL.read.orders.sql.replace("o.total AS total", "o.total AS sum"),
        "lines": LARAVEL.read.lines.sql,
    }
    broken = LARAVEL.model_copy(update={"read": ReadSection.model_validate(sql)})
    assert ("error", "the column total is missing") in [(one.level, one.message) for one in databases.shop(broken)]
    (rehearsal,) = [one for one in databases.shop() if one.subject == "[status] write"]
    assert rehearsal.advice == "erp-sync profile check laravel"


def test_without_a_profile_the_server_is_still_told(databases: Databases) -> None:
    found = databases.shop(None)
    assert {"shop", "version", "clock"} <= {one.subject for one in found if one.level == "ok"}
    assert [(one.level, one.subject) for one in wrong(found)] == [("warning", "profile")]


@pytest.mark.parametrize(
    ("session", "app", "level"),
    [
        ("-03:00", "America/Sao_Paulo", "ok"),
        ("+00:00", "America/Sao_Paulo", "error"),
        ("+00:00", "UTC", "ok"),
        ("-05:00", "America/New_York", "warning"),
    ],
)
def test_timestamps_are_read_in_the_zone_for_which_they_are_taken(
    databases: Databases, session: str, app: str, level: str
) -> None:
    at = f"USE {databases.shop_name}"
    databases.as_root(at, "ALTER TABLE orders MODIFY updated_at TIMESTAMP NULL")
    zones = LARAVEL.shop.model_copy(update={"session_timezone": session, "app_timezone": app})
    try:
        # A new one: what LARAVEL was asked for it remembers, copies too.
        found = databases.shop(load_profile("laravel").model_copy(update={"shop": zones}))
    finally:
        databases.as_root(at, "ALTER TABLE orders MODIFY updated_at DATETIME NULL")
    assert [one.level for one in found if one.subject == "[shop] session_timezone"] == [level], found


# Ledger ---------------------------------------------------------------------------------------------------------------


def test_a_ledger_that_is_not_migrated_is_not_migrated_by_looking(databases: Databases, other: str) -> None:
    url = databases.server.create_database()
    name = str(make_url(url).database)
    databases.as_root(ledger_rights(name, other))
    (finding,) = wrong(databases.ledger(user=other, name=name))
    assert (finding.level, finding.subject, finding.advice) == ("error", "migrations", "run erp-sync migrate")
    tables = f"SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '{name}'"
    assert databases.server.value(tables) == "0"
    migrate(url)
    for revision, says in (("0001", "before"), ("9999", "of a newer erp_sync")):
        databases.as_root(f"UPDATE {name}.erp_sync_version SET version_num = '{revision}'")
        (finding,) = wrong(databases.ledger(user=other, name=name))
        assert (finding.level, finding.subject, says in finding.message) == ("error", "migrations", True)


def test_one_database_for_shop_and_ledger_is_an_error(databases: Databases) -> None:
    url = databases.server.url(databases.shop_name)
    found = ledger(Installation(Settings.model_validate({"shop_url": url, "ledger_url": url}), LARAVEL))
    assert ("error", "shop and ledger are the same database") in [(one.level, one.message) for one in found]


def test_tables_of_somebody_else_beside_the_ledger(databases: Databases) -> None:
    """The same database under another name of its server."""
    url = databases.server.url(databases.shop_name)
    found = list(ledger(Installation(Settings.model_validate({"ledger_url": url}), LARAVEL)))
    assert any(one.level == "error" and "holds other tables too" in one.message for one in found)


def test_a_sqlite_shop_that_is_its_ledger_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'one.sqlite'}"
    migrate(url)
    found = list(ledger(Installation(Settings.model_validate({"shop_url": url, "ledger_url": url}), LARAVEL)))
    assert [(one.level, one.message) for one in wrong(found)] == [("error", "shop and ledger are the same database")]


# What servers say -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("10.11.6-MariaDB-0+deb12u1", "ok"),
        ("10.6.0-MariaDB", "ok"),
        ("10.5.29-MariaDB", "error"),
        ("8.0.36", "ok"),
        ("8.4.2-cluster", "ok"),
        ("5.7.44-log", "error"),
        ("who knows", "error"),
    ],
)
def test_versions(said: str, level: str) -> None:
    assert database_server.version(said).level == level


def test_how_far_clocks_may_be_apart() -> None:
    now = datetime.now(UTC)
    levels = [database_server.clock("a", now + timedelta(seconds=s), "b", now).level for s in (-59, 61, -61, 601)]
    assert levels == ["ok", "warning", "warning", "error"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("mysql+pymysql://a@localhost/x", "mysql+pymysql://b@127.0.0.1:3306/y", True),
        ("mysql+pymysql://a@db.example.com/x", "mysql+pymysql://a@DB.example.com/y", True),
        ("mysql+pymysql://a@db.example.com/x", "mysql+pymysql://a@db.example.com:3307/x", False),
        ("sqlite:///x", "mysql+pymysql://a@localhost/x", False),
    ],
)
def test_what_is_one_server(one: str, other: str, same: bool) -> None:
    assert same_server(make_url(one), make_url(other)) is same
