"""Shop, ledger and ERP opened from the settings: what every entry point (Dagster, command line) starts with."""

from __future__ import annotations

from dataclasses import dataclass

from erp_sync.erp.client import ErpClient
from erp_sync.erp.protheus import Protheus
from erp_sync.erp.retail_stock import RetailStock
from erp_sync.erp.statuses import ErpStatuses
from erp_sync.erp.stock import ErpStock
from erp_sync.errors import Misconfigured
from erp_sync.ledger.gate import LedgerGate
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.settings import Settings
from erp_sync.shop.database import Shop, open_shop
from erp_sync.shop.profile import Profile, load_profile
from erp_sync.shop.statuses import ShopStatuses, open_shop_statuses
from erp_sync.shop.stock import ShopStock, open_shop_stock
from erp_sync.slack import Slack
from erp_sync.sync.announcing import Announcer
from erp_sync.sync.orders import OrdersFlow
from erp_sync.sync.reconcile import ReconcileFlow
from erp_sync.sync.statuses import StatusesFlow
from erp_sync.sync.stock import StockFlow


@dataclass(frozen=True)
class Connections:
    """Open for the life of the process; each part reconnects by itself. Safe to share between threads."""

    settings: Settings
    shop: Shop
    ledger: Ledger
    gate: LedgerGate
    erp: Protheus
    client: ErpClient
    shop_statuses: ShopStatuses | None
    """None: the profile has no `[status]` block."""
    shop_stock: ShopStock | None
    """None: the profile has no `[stock]` block."""

    def close(self) -> None:
        """Give back what other processes could use, and close what is open."""
        self.gate.close()
        self.client.close()
        self.shop.close()
        for part in (self.shop_statuses, self.shop_stock):
            if part is not None:
                part.close()
        self.ledger.close()

    def orders_flow(self) -> OrdersFlow:
        return OrdersFlow(self.shop, self.ledger, self.erp, self.settings)

    def statuses_flow(self) -> StatusesFlow:
        erp = ErpStatuses(self.client, self.settings)
        return StatusesFlow(self.shop, self.shop_statuses, self.ledger, erp, self.settings)

    def reconcile_flow(self) -> ReconcileFlow:
        """Its calls come after those of all other flows."""
        erp = Protheus(self.client.of_flow("backfill"), self.settings)
        lives = ErpStatuses(self.client, self.settings, flow="backfill")
        return ReconcileFlow(self.shop, self.ledger, erp, lives, self.settings)

    def stock_flow(self) -> StockFlow:
        """Raises Misconfigured where the profile says nothing of stock, or something else than the settings."""
        if self.shop_stock is None:
            raise Misconfigured(
                f"profile {self.shop.profile.name}: it has no [stock] block: write one, or leave the stock flow off"
            )
        if self.settings.stock.source == "retail":
            retail = RetailStock(self.client, self.settings)
            return StockFlow(self.shop, self.shop_stock, self.ledger, retail, self.settings)
        erp = ErpStock(self.client, self.settings)
        return StockFlow(self.shop, self.shop_stock, self.ledger, erp, self.settings, by_name=erp)

    def announcer(self) -> Announcer:
        """Raises Misconfigured where Slack's channel is missing."""
        account = self.settings.slack_account()
        slack = None if account is None else Slack(*account)
        return Announcer(self.ledger, slack, self.settings, zone=self.shop.business_timezone)


def check_settings(settings: Settings) -> Profile:
    """Raises Misconfigured for the first setting that is missing or wrong, as far as no network is needed to see it."""
    settings.require_start_day()
    profile = load_profile(settings.shop_profile)
    settings.require_shop_url()
    settings.require_ledger_url()
    settings.require_erp()
    return profile


def open_connections(settings: Settings) -> Connections:
    """Raises Misconfigured for the first setting that is missing or wrong; the ledger's schema is brought up to date.

    The shop and the ERP are not asked before they are needed.
    """
    profile = check_settings(settings)
    shop_url = settings.require_shop_url()
    shop = open_shop(shop_url, profile)
    shop_statuses, shop_stock = open_shop_statuses(shop_url, profile), open_shop_stock(shop_url, profile)
    ledger_url = settings.require_ledger_url()
    migrate(ledger_url)
    ledger = open_ledger(ledger_url)
    gate = LedgerGate.from_settings(ledger, settings.erp)
    client = ErpClient.from_settings(settings, gate)
    erp = Protheus(client, settings)
    return Connections(settings, shop, ledger, gate, erp, client, shop_statuses, shop_stock)
