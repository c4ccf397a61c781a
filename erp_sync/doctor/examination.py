"""All areas at once, each in its own time: what one cannot reach hides nothing of the others."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from erp_sync.doctor.installation import Installation
from erp_sync.errors import ErpSyncError
from erp_sync.models import Finding
from erp_sync.scrub import excerpt, redact

logger = logging.getLogger(__name__)

Area = Callable[[Installation], Iterator[Finding]]
"""Yields its lines as it finds them, and changes nothing. What it raises becomes its last line."""
SECONDS = 45.0
"""For each area; they run side by side."""


def examine(
    installation: Installation,
    areas: Mapping[str, Area],
    *,
    seconds: float = SECONDS,
    progress: Callable[[Sequence[str]], None] = lambda _: None,
) -> dict[str, list[Finding]]:
    """The lines of each area, in its order. `progress` hears which areas are still at it. Raises nothing."""
    found: dict[str, list[Finding]] = {name: [] for name in areas}
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name, area in areas.items():
        context = contextvars.copy_context()
        # Daemons, and no pool: a look that hangs must not keep the process from ending.
        threading.Thread(
            target=context.run,
            args=(_look, name, area, installation, found[name], ended),
            name=f"doctor-{name}",
            daemon=True,
        ).start()
    left = list(areas)
    give_up = time.monotonic() + seconds
    while left:
        progress(tuple(left))
        try:
            left.remove(ended.get(timeout=max(give_up - time.monotonic(), 0.001)))
        except queue.Empty:
            break
    lines = {name: [shown(finding) for finding in list(findings)] for name, findings in found.items()}
    for name in left:
        message = f"not all of it could be looked at within {seconds:.0f} s"
        lines[name].append(Finding("error", name, message, "see why it is so slow, and look again"))
    return lines


def _look(
    name: str, area: Area, installation: Installation, found: list[Finding], ended: queue.SimpleQueue[str]
) -> None:
    try:
        for finding in area(installation):
            found.append(finding)
    except ErpSyncError as error:
        found.append(Finding("error", name, str(error), "correct it, or wait until it is back, and look again"))
    except Exception as defect:
        logger.info("doctor: %s", name, exc_info=True)
        message = f"cannot be looked at: {type(defect).__name__}: {excerpt(str(defect), 200)}"
        found.append(Finding("error", name, message, "report this defect"))
    finally:
        ended.put(name)


def shown(finding: Finding) -> Finding:
    """An outsider's text, such as a server's, may be in it."""
    return Finding(finding.level, finding.subject, redact(finding.message), redact(finding.advice))


def worst(lines: Mapping[str, Sequence[Finding]]) -> int:
    """The exit code: 2 where settings are missing or wrong, 1 for any other error, else 0."""
    wrong = {name for name, findings in lines.items() for finding in findings if finding.level == "error"}
    return 2 if "settings" in wrong else 1 if wrong else 0
