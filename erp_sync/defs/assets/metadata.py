"""What the assets of every flow say in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from erp_sync.errors import ErpSyncError


def red(failure: ErpSyncError) -> dg.Failure:
    """The cause alone, in one line: a stack trace of ours tells operators nothing."""
    return dg.Failure(description=failure.in_full(), metadata={"cause": type(failure).__name__})


def minutes_since(moment: datetime | None) -> float:
    """0.0 where there is none."""
    return round(max((datetime.now(UTC) - moment).total_seconds() / 60, 0.0), 1) if moment is not None else 0.0


def columns(names: Sequence[str], meaning: str) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, description=meaning) for name in names])
