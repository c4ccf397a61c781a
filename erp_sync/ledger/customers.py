"""A customer whose create we began, as the ledger knows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from erp_sync.models import Problem


@dataclass(frozen=True, slots=True)
class CustomerEntry:
    """Datetimes are aware, on the ledger's clock. Customers that the ERP had before have no entry."""

    customer_key: str
    version: int
    """The fencing token, as in Entry."""
    send_by: datetime | None
    """No byte of any create so far leaves after this. None: none is on its way."""
    next_at: datetime | None
    """Until then nobody else may create it. None: anybody may, who has asked the ERP first."""
    problems: tuple[Problem, ...] = ()
    """Why the ERP probably refused it: believed once its absence is final."""
