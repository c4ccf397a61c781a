"""Every error a caller may meet, and what it means for the order at hand.

    ErpSyncError
    ├── Misconfigured      a setting, a profile or a credential is wrong: a person must act; no order was touched
    ├── Unavailable        the system failed and nothing happened: the same call may work later
    │   ├── ShopUnavailable
    │   ├── LedgerUnavailable
    │   ├── SecretUnavailable
    │   └── ErpUnavailable     a read failed, or certainly no byte of a write left this machine
    │       ├── BreakerOpen    the ERP was not even asked
    │       └── OddRow         it answered, but a value of one row is not what its field holds
    ├── Refused            the ERP understood the request and said no
    ├── InDoubt            a write left this machine and its outcome is unknown: ask before sending again
    └── InvalidOrder       the order cannot be expressed in the ERP: the shop must change it

No message holds a secret, a tax id, an e-mail, a phone or a street: they end up in logs, in Dagster's UI and in Slack.
"""

from __future__ import annotations

from erp_sync.models import Problem


class ErpSyncError(Exception):
    def in_full(self) -> str:
        """The message as a person needs it who sees nothing else: with the setting that says where to look."""
        return str(self)


class Misconfigured(ErpSyncError):
    """One clear line that names the setting, its value where it is no secret, and what to do."""


class Unavailable(ErpSyncError):
    setting = ""
    """Which setting holds the address of what is away."""

    def in_full(self) -> str:
        return f"{self} ({self.setting}); what is due is sent when it is back"


class ShopUnavailable(Unavailable):
    setting = "ERP_SYNC_SHOP_URL"


class LedgerUnavailable(Unavailable):
    setting = "ERP_SYNC_LEDGER_URL"


class SecretUnavailable(Unavailable):
    """A setting names a secret, and the store that has it does not answer."""

    setting = "AWS Secrets Manager"


class ErpUnavailable(Unavailable):
    setting = "ERP_SYNC_ERP_URL"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the ERP asked us to wait. None: it did not say."""


class BreakerOpen(ErpUnavailable):
    pass


class OddRow(ErpUnavailable):
    pass


class Refused(ErpSyncError):
    """`certain` is False where the answer's status may also mean "crashed after the commit" (a 500, or a 200 with an
    error inside): then the order is looked up once the settle time is over before the refusal is believed."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        help_code: str = "",
        field: str = "",
        value: str = "",
        item: str = "",
        certain: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.help_code = help_code
        self.field = field
        self.value = value
        self.item = item
        self.certain = certain

    def problem(self) -> Problem:
        where = f"{self.field} (item {self.item})" if self.item else self.field
        code = f"{self.help_code}: " if self.help_code else ""
        return Problem(where or "ERP", self.value, f"the ERP refused it: {code}{self}")


class InDoubt(ErpSyncError):
    pass


class InvalidOrder(ErpSyncError):
    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems
