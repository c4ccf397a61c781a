"""The real client against the sandbox ERP over HTTP: orders, customers, quirks and faults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from erp_sync.erp.client import ErpClient
from erp_sync.erp.gate import OpenGate
from erp_sync.erp.protheus import Protheus
from erp_sync.errors import ErpSyncError, ErpUnavailable, InDoubt, Misconfigured, Refused
from erp_sync.models import CustomerCode, ErpCustomer, ErpOrder, FoundOrder
from erp_sync.sandbox.background import SandboxErp, start_in_background
from erp_sync.sandbox.config import Fault, SandboxConfig, Switches
from erp_sync.settings import ErpSection, Settings

CPF = "52998224725"
CNPJ = "12ABC34501DE35"
SKUS = ["CAFE-500", "BOLSA-01", "bolsa-01"]


@pytest.fixture(scope="module")
def running() -> Iterator[SandboxErp]:
    with start_in_background(SandboxConfig()) as sandbox:
        sandbox.add_products(SKUS)
        sandbox.admin("POST", "/customers", [{"A1_COD": "000731", "A1_LOJA": "01", "A1_CGC": CPF, "A1_NOME": "Ana"}])
        yield sandbox


@pytest.fixture
def sandbox(running: SandboxErp) -> Iterator[SandboxErp]:
    yield running
    running.set_faults()
    running.switch(**Switches().model_dump(mode="json"))


@pytest.fixture
def erp(sandbox: SandboxErp) -> Protheus:
    return protheus(sandbox)


def protheus(
    sandbox: SandboxErp,
    *,
    password: str = "",
    tenant: str = "",
    root: str = "",
    write_timeout: float = 5,
    **section: Any,
) -> Protheus:
    settings = Settings(
        erp_url=root or sandbox.root_url,
        erp_user=sandbox.user,
        erp_password=SecretStr(password or sandbox.password),
        erp_tenant=tenant or sandbox.tenant,
        erp=ErpSection(write_timeout=write_timeout, read_timeout=5, **section),
    )
    return Protheus(ErpClient.from_settings(settings, OpenGate()), settings)


CUSTOMER = CustomerCode("000731", "01")
UNKNOWN = ErpCustomer(tax_id="", given=None, fields={})


def order_of(external_id: str, *skus: str, **header: str | Decimal) -> ErpOrder:
    items: tuple[dict[str, str | Decimal], ...] = tuple(
        {
            "C6_ITEM": f"{line:02d}",
            "C6_PRODUTO": sku,
            "C6_QTDVEN": Decimal("3"),
            "C6_PRCVEN": Decimal("33.33"),
            "C6_PRUNIT": Decimal("33.33"),
            "C6_VALOR": Decimal("99.99"),
            "C6_OPER": "01",
        }
        for line, sku in enumerate(skus or ("CAFE-500",), start=1)
    )
    return ErpOrder(
        external_id,
        header={
            "C5_XPEDWEB": external_id,
            "C5_TIPO": "N",
            "C5_TIPOCLI": "F",
            "C5_CONDPAG": "001",
            "C5_FRETE": Decimal("18.90"),
            "C5_DESCONT": Decimal("5.10"),
            "C5_MENNOTA": "Café, ação à vista",
            "LIBERA": False,
            **header,
        },
        items=items,
        customer=UNKNOWN,
        total=Decimal("99.99") * len(items) + Decimal("13.80"),
    )


def soon() -> float:
    return time.monotonic() + 5


def create(erp: Protheus, order: ErpOrder) -> str:
    return erp.create_order(order, CUSTOMER, soon).number


def test_an_order_is_created_and_found_exactly(erp: Protheus) -> None:
    order = order_of("WEB-1", "CAFE-500", "BOLSA-01", "bolsa-01")
    created = erp.create_order(order, CUSTOMER, soon)
    assert (created.branch, created.existed, created.stored_external_id) == ("0101", False, "WEB-1")
    assert created.milliseconds > 0
    found = FoundOrder("WEB-1", "0101", created.number, False, CUSTOMER, Decimal("313.77"), 3)
    assert order.total == found.total
    assert erp.find_orders(["WEB-1", "WEB-NONE"]) == {"WEB-1": [found]}
    assert erp.read_orders([created.number, "ZZZZZZ"]) == {created.number: found}


def test_a_batch_costs_two_requests(erp: Protheus, sandbox: SandboxErp) -> None:
    ids = [f"BATCH-{index}" for index in range(60)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda external_id: create(erp, order_of(external_id)), ids))
    before = sandbox.admin("GET", "/state")["requests"]
    found = erp.find_orders(ids)
    after = sandbox.admin("GET", "/state")["requests"]
    assert set(found) == set(ids)
    assert all(len(orders) == 1 for orders in found.values())
    assert sum(after.values()) - sum(before.values()) == 2


def test_deleted_orders_are_found_and_marked(erp: Protheus, sandbox: SandboxErp) -> None:
    number = create(erp, order_of("GONE-1", "CAFE-500", "BOLSA-01"))
    other = create(erp, order_of("STAYS-1", "CAFE-500", "BOLSA-01"))
    sandbox.admin("DELETE", f"/orders/0101/{number}")
    sandbox.admin("PATCH", f"/orders/0101/{other}", {"removed": ["02"]})
    found = erp.find_orders(["GONE-1", "STAYS-1"])
    (gone,), (stays,) = found["GONE-1"], found["STAYS-1"]
    assert (gone.number, gone.deleted, gone.line_count) == (number, True, 2)
    assert (stays.deleted, stays.line_count, stays.total) == (False, 1, Decimal("113.79"))
    assert erp.read_orders([number])[number].deleted


def test_two_orders_with_one_id_are_both_found(erp: Protheus, sandbox: SandboxErp) -> None:
    sandbox.switch(duplicates="second_order")
    numbers = {create(erp, order_of("TWICE-1")) for _ in range(2)}
    assert {order.number for order in erp.find_orders(["TWICE-1"])["TWICE-1"]} == numbers


def test_an_existing_order_is_said_to_exist(erp: Protheus, sandbox: SandboxErp) -> None:
    number = create(erp, order_of("AGAIN-1"))
    again = erp.create_order(order_of("AGAIN-1"), CUSTOMER, soon)
    assert (again.number, again.existed) == (number, True)
    sandbox.switch(duplicates="refused")
    with pytest.raises(InDoubt, match="already"):
        create(erp, order_of("AGAIN-1"))


def test_an_id_that_the_erp_cut_is_told(erp: Protheus) -> None:
    created = erp.create_order(order_of("X" * 24), CUSTOMER, soon)
    assert created.stored_external_id == "X" * 20


@pytest.mark.parametrize(
    "switches",
    [
        {"trimmed_values": True},
        {"padded_comparison": True},
        {"caseless_comparison": True},
        {"upper_case_keys": True},
        {"numbers_as_text": True},
        {"has_next": "number"},
        {"has_next": "text"},
        {"has_next": "digit"},
        {"unstable_order": True},
        {"cp1252": True},
        {"control_characters": True},
        {"last_page_repeats_first": True},
        {"token_status": 200},
        {"cold_start": True},
        {"body_required": True},
        {"sticky_cookie": True},
        {"create_status": 200},
        {"null_crashes": True},
        {"tenant_required": True},
    ],
)
def test_quirks_change_nothing(sandbox: SandboxErp, switches: dict[str, Any]) -> None:
    sandbox.switch(**switches)
    if "cold_start" in switches:
        sandbox.admin("POST", "/tokens/expire", {"refresh_too": True})
    erp = protheus(sandbox)
    name = next(iter(switches)).upper()[:8]
    external_id = f"{name}-{next(iter(switches.values()))}-A"
    number = create(erp, order_of(external_id))
    create(erp, order_of(external_id.lower()))
    found = erp.find_orders([external_id, "'; --", "WEB'1", "a%"])
    assert {key: [order.number for order in orders] for key, orders in found.items()} == {external_id: [number]}
    assert found[external_id][0].total == Decimal("113.79")
    assert erp.find_customers([CPF])[CPF][0].code == CUSTOMER
    erp.probe()


def test_refusals_name_field_and_value(erp: Protheus) -> None:
    with pytest.raises(Refused) as caught:
        create(erp, order_of("NO-1", "UNKNOWN-SKU"))
    assert (caught.value.field, caught.value.value) == ("C6_PRODUTO", "UNKNOWN-SKU")
    assert caught.value.certain
    assert caught.value.help_code == "REGNOIS"
    with pytest.raises(Refused) as caught:
        erp.create_order(order_of("NO-2"), CustomerCode("999999", "01"), soon)
    assert (caught.value.help_code, caught.value.field) == ("A410NCLIE", "C5_CLIENTE")
    assert erp.find_orders(["NO-1", "NO-2"]) == {}


@pytest.mark.parametrize("shape", ["E1", "E2", "E3", "E4", "E5", "E6", "E7"])
def test_every_error_shape_is_either_understood_or_doubted(erp: Protheus, sandbox: SandboxErp, shape: str) -> None:
    sandbox.switch(error_shape=shape)
    with pytest.raises(InDoubt if shape == "E7" else Refused) as caught:
        create(erp, order_of("SHAPE-1", "UNKNOWN-SKU"))
    if isinstance(caught.value, Refused):
        assert caught.value.field == "C6_PRODUTO"
        assert caught.value.certain is (shape in ("E1", "E2", "E3"))


@pytest.mark.parametrize(
    ("kind", "error", "written"),
    [
        ("drop_before", InDoubt, False),
        ("commit_then_drop", InDoubt, True),
        ("commit_then_500", InDoubt, True),
        ("commit_late", InDoubt, True),
        ("html_502", InDoubt, False),
        ("http_503_licence", ErpUnavailable, False),
        ("http_503_busy", ErpUnavailable, False),
        ("lock_then_error", InDoubt, False),
    ],
)
def test_what_a_fault_leaves_behind_is_judged_right(
    sandbox: SandboxErp, kind: Any, error: type[ErpSyncError], written: bool
) -> None:
    seconds = 0.8 if kind == "commit_late" else 0
    sandbox.set_faults(Fault(kind=kind, endpoint="create_order", times=1, seconds=seconds))
    erp = protheus(sandbox, write_timeout=0.4)
    external_id = f"F-{kind}"[:20]
    with pytest.raises(error):
        create(erp, order_of(external_id))
    time.sleep(seconds)
    assert (external_id in erp.find_orders([external_id])) is written


def test_error_in_200_is_no_success_and_no_certain_refusal(erp: Protheus, sandbox: SandboxErp) -> None:
    sandbox.set_faults(Fault(kind="error_in_200", endpoint="create_order", times=1))
    with pytest.raises((Refused, InDoubt)) as caught:
        create(erp, order_of("IN200-1"))
    assert not isinstance(caught.value, Refused) or not caught.value.certain


def test_a_token_that_dies_in_the_middle_is_renewed(erp: Protheus, sandbox: SandboxErp) -> None:
    create(erp, order_of("TOKEN-1"))
    sandbox.admin("POST", "/tokens/expire", {"refresh_too": True})
    create(erp, order_of("TOKEN-2"))
    sandbox.set_faults(Fault(kind="unauthorized", endpoint="create_order", times=1))
    create(erp, order_of("TOKEN-3"))
    found = erp.find_orders(["TOKEN-1", "TOKEN-2", "TOKEN-3"])
    assert [len(orders) for orders in found.values()] == [1, 1, 1]


def test_reads_live_through_short_troubles(erp: Protheus, sandbox: SandboxErp) -> None:
    for kind in ("drop_before", "html_502", "http_503_busy"):
        sandbox.set_faults(Fault(kind=kind, endpoint="read", times=1))
        erp.probe()


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"password": "wrong"}, "ERP_SYNC_ERP_PASSWORD"),
        ({"tenant": "01,0199"}, "ERP_SYNC_ERP_TENANT"),
        ({"root": "{root}/other"}, "ERP_SYNC_ERP_URL"),
    ],
)
def test_a_wrong_setting_is_named_by_the_probe(sandbox: SandboxErp, options: dict[str, Any], setting: str) -> None:
    given: dict[str, Any] = {name: value.replace("{root}", sandbox.root_url) for name, value in options.items()}
    with pytest.raises(Misconfigured, match=setting):
        protheus(sandbox, **given).probe()


def test_a_wrong_path_is_named(sandbox: SandboxErp) -> None:
    erp = protheus(sandbox, orders_path="/ecommerce/v1/outros", customers_path="/ecommerce/v1/nada")
    with pytest.raises(Misconfigured, match=r"erp\.orders_path"):
        create(erp, order_of("PATH-1"))
    with pytest.raises(Misconfigured, match=r"erp\.customers_path"):
        erp.create_customer(ErpCustomer(CNPJ, None, {}), soon)


@pytest.mark.parametrize("switches", [{"fixed_branch": "0102"}, {"all_branches": True}])
def test_rows_of_another_branch_are_loud(sandbox: SandboxErp, switches: dict[str, Any]) -> None:
    name = next(iter(switches))[:10]
    create(protheus(sandbox, tenant="01,0102"), order_of(f"BR-{name}"))
    sandbox.switch(**switches)
    with pytest.raises(Misconfigured, match="ERP_SYNC_ERP_TENANT"):
        protheus(sandbox).find_orders([f"BR-{name}"])


@pytest.mark.parametrize("switch", ["protected_fields", "level_fields"])
def test_a_field_that_may_not_be_read_is_loud(erp: Protheus, sandbox: SandboxErp, switch: str) -> None:
    sandbox.switch(**{switch: ["A1_CGC"]})
    with pytest.raises(Misconfigured, match="A1_CGC"):
        erp.find_customers([CPF])


def test_customers_by_tax_id_and_by_code(erp: Protheus, sandbox: SandboxErp) -> None:
    sandbox.admin(
        "POST", "/customers", [{"A1_COD": "000900", "A1_LOJA": store, "A1_CGC": CNPJ} for store in ("01", "02")]
    )
    sandbox.admin("PATCH", "/customers/000900/01", {"blocked": True})
    found = erp.find_customers([CNPJ, CPF, "11144477735"])
    assert [(str(row.code), row.blocked) for row in found[CNPJ]] == [("000900/01", True), ("000900/02", False)]
    assert set(found) == {CNPJ, CPF}
    assert len(erp.customer(CustomerCode("000900", ""))) == 2
    assert [row.tax_id for row in erp.customer(CustomerCode("000900", "02"))] == [CNPJ]
    assert erp.customer(CustomerCode("000900", "03")) == []


def test_a_customer_is_created(erp: Protheus) -> None:
    fields = {
        "A1_PESSOA": "F",
        "A1_NOME": "Zé da Sílva",
        "A1_NREDUZ": "Zé",
        "A1_TIPO": "F",
        "A1_END": "Rua das Flores, 12",
        "A1_EST": "SP",
        "A1_MUN": "São Paulo",
    }
    code = erp.create_customer(ErpCustomer("11144477735", None, {**fields, "A1_CGC": "11144477735"}), soon)
    assert [row.code for row in erp.find_customers(["11144477735"])["11144477735"]] == [code]
    with pytest.raises(Refused) as caught:
        erp.create_customer(ErpCustomer("11144477736", None, fields), soon)
    assert (caught.value.field, caught.value.value) == ("A1_CGC", "*********36")


def test_names_are_settings() -> None:
    config = SandboxConfig(
        root="/api", orders_path="/x/orders", customers_path="/x/people", external_id_field="C5_XIDVTEX"
    )
    with start_in_background(config) as sandbox:
        sandbox.add_products(SKUS)
        sandbox.admin("POST", "/customers", [{"A1_COD": "000731", "A1_LOJA": "01", "A1_CGC": CPF}])
        names: dict[str, Any] = {
            "orders_path": "/x/orders",
            "customers_path": "/x/people",
            "external_id_field": "C5_XIDVTEX",
        }
        order = order_of("VTEX-1")
        header = {name: value for name, value in order.header.items() if name != "C5_XPEDWEB"}
        for style in ("headers", "query", "form", "basic"):
            erp = protheus(sandbox, token_style=style, **names)
            named = ErpOrder(f"VTEX-{style}", header, order.items, UNKNOWN, order.total)
            assert len(erp.find_orders([f"VTEX-{style}"])) == 0
            number = create(erp, named)
            assert [found.number for found in erp.find_orders([f"VTEX-{style}"])[f"VTEX-{style}"]] == [number]
