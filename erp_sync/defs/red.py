"""What Dagster may keep and show of an error: it would store the message of any exception as it is."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from erp_sync.errors import ErpSyncError
from erp_sync.scrub import excerpt, redact


def red(failure: Exception) -> dg.Failure:
    """Of an ErpSyncError the cause alone, in one line: a stack trace of ours tells operators nothing."""
    cause = type(failure).__name__
    if isinstance(failure, ErpSyncError):
        return dg.Failure(description=redact(failure.in_full()), metadata={"cause": cause})
    stack = redact("".join(traceback.format_tb(failure.__traceback__)))
    what = f"a defect, report it: {cause}: {excerpt(str(failure), 500)}"
    return dg.Failure(description=what, metadata={"cause": cause, "stack": stack[-8000:]})


@contextmanager
def redacted() -> Iterator[None]:
    """Around a tick. A defect becomes a Failure; an ErpSyncError, which holds nothing that must not be seen, stays."""
    try:
        yield
    except (dg.Failure, ErpSyncError):
        raise
    except Exception as defect:
        raise red(defect) from None
