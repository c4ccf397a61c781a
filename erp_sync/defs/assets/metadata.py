"""What the assets of every flow say in the same way."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg

from erp_sync.errors import ErpSyncError
from erp_sync.logs import log_context
from erp_sync.scrub import redact


def red(failure: ErpSyncError) -> dg.Failure:
    """The cause alone, in one line: a stack trace of ours tells operators nothing."""
    return dg.Failure(description=redact(failure.in_full()), metadata={"cause": type(failure).__name__})


@contextmanager
def at_work(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Lines of log say which run it is. Whatever is raised becomes a Failure that Dagster may keep and show: it would
    store the message and the values of any other exception as they are."""
    try:
        with log_context(run_id=context.run.run_id, job=context.run.job_name):
            yield
    except dg.Failure:
        raise
    except ErpSyncError as error:
        raise red(error) from None
    except Exception as error:
        stack = redact("".join(traceback.format_tb(error.__traceback__)))
        what = f"a defect, report it: {type(error).__name__}: {redact(str(error))[:500]}"
        raise dg.Failure(description=what, metadata={"cause": type(error).__name__, "stack": stack[-8000:]}) from None


def minutes_since(moment: datetime | None) -> float:
    """0.0 where there is none."""
    return round(max((datetime.now(UTC) - moment).total_seconds() / 60, 0.0), 1) if moment is not None else 0.0


def columns(names: Sequence[str], meaning: str) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, description=meaning) for name in names])
