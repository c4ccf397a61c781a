"""Lines straight to CloudWatch, for machines without the awslogs driver (watchtower, the `aws` extra)."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
import time
from typing import Any

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000
"""Lines that wait for CloudWatch; more are dropped and counted."""
SEND_SECONDS = 10
END_SECONDS = 2
"""So long an end waits for CloudWatch."""
COMPLAIN_SECONDS = 60.0


class CloudWatchLines(logging.Handler):
    """The group must exist; region and credentials are found as boto3 finds them. CloudWatch down, slow or throttling:
    lines are dropped, and nothing else happens."""

    def __init__(self, group: str, formatter: logging.Formatter) -> None:
        super().__init__()
        self._group = group
        self._inner: Any = None
        self._starting = threading.Lock()
        self._broken = False
        self.dropped = 0
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] in _OF_CLOUDWATCH or record.__dict__.get("_on_cloudwatch"):
            return
        record.__dict__["_on_cloudwatch"] = True
        try:
            inner = self._started()
            if inner is None or sum(queue.qsize() for queue in inner.queues.values()) >= QUEUE_LIMIT:
                self.dropped += 1
                return
            inner.emit(record)
        except Exception:
            self.dropped += 1

    def _started(self) -> Any:
        if self._inner is None and not self._broken:
            with self._starting:
                if self._inner is None and not self._broken:
                    try:
                        self._inner = _watchtower(self._group, self.formatter)
                        atexit.register(self.finish)
                    except Exception as error:
                        self._broken = True
                        logger.error("no logs to CloudWatch: %s", error)
        return self._inner

    def finish(self) -> None:
        """Send what waits, for two seconds at most. Not `close`: each run of Dagster closes the handlers that it finds,
        while it holds the lock that a sender needs."""
        inner, self._inner, self._broken = self._inner, None, True
        if inner is not None:
            atexit.unregister(self.finish)
            inner.finish()


_OF_CLOUDWATCH = ("boto3", "botocore", "urllib3", "watchtower")


class _Forgiving:
    """A boto3 client of which watchtower hears no error: it would try five times without a pause and then warn, on
    stderr and from its own thread."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._silent_until = 0.0
        self.exceptions = client.exceptions

    def put_log_events(self, **batch: Any) -> dict[str, Any]:
        missing = self.exceptions.ResourceNotFoundException
        try:
            try:
                self._client.put_log_events(**batch)
            except missing:
                stream = {name: batch[name] for name in ("logGroupName", "logStreamName")}
                self._client.create_log_stream(**stream)
                self._client.put_log_events(**batch)
        except Exception as error:
            self._complain(len(batch["logEvents"]), error)
        return {}

    def _complain(self, count: int, error: Exception) -> None:
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + COMPLAIN_SECONDS
            logger.warning("CloudWatch did not take %d lines: %s", count, error, extra={"event": "logs.dropped"})


def _watchtower(group: str, formatter: logging.Formatter | None) -> Any:
    import warnings

    import boto3
    import watchtower
    from botocore.config import Config

    class Bounded(watchtower.CloudWatchLogHandler):
        FLUSH_TIMEOUT = END_SECONDS

        def flush(self) -> None:
            pass

        def close(self) -> None:
            pass

        def finish(self) -> None:
            with warnings.catch_warnings(action="ignore"):
                super().close()  # type: ignore[no-untyped-call]

    patience = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 1})
    host = os.environ.get("HOSTNAME", "host").replace(":", "-").replace("*", "-")
    handler = Bounded(
        log_group_name=group,
        log_stream_name=f"erp_sync/{host}/{os.getpid()}-{secrets.token_hex(3)}",
        send_interval=SEND_SECONDS,
        boto3_client=_Forgiving(boto3.client("logs", config=patience)),
        create_log_group=False,
    )
    handler.setFormatter(formatter)
    return handler
