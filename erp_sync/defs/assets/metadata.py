"""What the assets of every flow say in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg

from erp_sync.defs.red import red
from erp_sync.logs import log_context


@contextmanager
def at_work(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Lines of log say which run it is, and whatever is raised becomes a Failure that Dagster may keep and show."""
    try:
        with log_context(run_id=context.run.run_id, job=context.run.job_name):
            yield
    except dg.Failure:
        raise
    except Exception as error:
        raise red(error) from None


def minutes_since(moment: datetime | None) -> float:
    """0.0 where there is none."""
    return round(max((datetime.now(UTC) - moment).total_seconds() / 60, 0.0), 1) if moment is not None else 0.0


def columns(names: Sequence[str], meaning: str) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, description=meaning) for name in names])
