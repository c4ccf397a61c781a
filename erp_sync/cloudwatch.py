"""Lines straight to CloudWatch, for machines without the awslogs driver (watchtower, the `aws` extra)."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchtower import CloudWatchLogHandler

QUEUE_LIMIT = 10_000
"""Lines that wait for CloudWatch; more are dropped and counted."""
SEND_SECONDS = 10
END_SECONDS = 2
"""So long an end waits for CloudWatch."""


class CloudWatchLines(logging.Handler):
    """The group must exist; region and credentials are found as boto3 finds them. CloudWatch down, slow or throttling:
    lines are dropped, and nothing else happens."""

    def __init__(self, group: str, formatter: logging.Formatter) -> None:
        super().__init__()
        self._group = group
        self._inner: CloudWatchLogHandler | None = None
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
            inner.emit(record)  # type: ignore[no-untyped-call]
        except Exception:
            self.dropped += 1

    def _started(self) -> CloudWatchLogHandler | None:
        """A new one where the last one was closed: every run of Dagster closes the handlers that it finds."""
        inner = self._inner
        if inner is None or inner.shutting_down:
            with self._starting:
                if not self._broken and (self._inner is None or self._inner.shutting_down):
                    try:
                        self._inner = _watchtower(self._group, self.formatter)
                    except Exception as error:
                        self._broken = True
                        logging.getLogger(__name__).error("no logs to CloudWatch: %s", error)
        return self._inner if not self._broken else None

    def close(self) -> None:
        inner = self._inner
        if inner is not None:
            inner.close()  # type: ignore[no-untyped-call]
        super().close()


_OF_CLOUDWATCH = ("boto3", "botocore", "urllib3", "watchtower")


def _watchtower(group: str, formatter: logging.Formatter | None) -> CloudWatchLogHandler:
    import warnings

    import boto3
    import watchtower
    from botocore.config import Config

    class Bounded(watchtower.CloudWatchLogHandler):
        FLUSH_TIMEOUT = END_SECONDS

        def flush(self) -> None:
            """Every few lines somebody calls it, and it would wait for CloudWatch."""

    # It warns of each batch that it could not deliver, on stderr and from its own thread.
    warnings.filterwarnings("ignore", category=watchtower.WatchtowerWarning)
    patience = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 1})
    host = os.environ.get("HOSTNAME", "host").replace(":", "-").replace("*", "-")
    handler = Bounded(
        log_group_name=group,
        log_stream_name=f"erp_sync/{host}/{os.getpid()}-{secrets.token_hex(3)}",
        send_interval=SEND_SECONDS,
        boto3_client=boto3.client("logs", config=patience),
        create_log_group=False,
    )
    handler.setFormatter(formatter)
    return handler
