"""What a figure was measured on."""

from __future__ import annotations

import os
from pathlib import Path


def machine() -> str:
    """Cores and load average: a figure from a busy machine says little."""
    one, five, fifteen = os.getloadavg()
    return f"{os.cpu_count()} cores, load average {one:.2f} {five:.2f} {fifteen:.2f}"


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of them lies. Raises ValueError where there are none."""
    if not values:
        raise ValueError("no values: nothing was measured")
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def cpu_seconds(pid: int) -> float:
    """What the process has used so far, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
