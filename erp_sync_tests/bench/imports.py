"""What `import erp_sync.definitions` costs beside `import dagster`, in fresh processes that take turns.

python -m erp_sync_tests.bench.imports [--repeats 11]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass

from erp_sync_tests.bench.machine import machine

_TIMED = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"


@dataclass(frozen=True)
class Imported:
    dagster_seconds: float
    definitions_seconds: float
    ratio: float
    """The median of the ratios of each turn: what else the machine does weighs on both."""
    machine: str


def measure(repeats: int) -> Imported:
    turns = [(_seconds("dagster"), _seconds("erp_sync.definitions")) for _ in range(repeats + 1)][1:]
    return Imported(
        dagster_seconds=round(statistics.median(dagster for dagster, _ in turns), 3),
        definitions_seconds=round(statistics.median(definitions for _, definitions in turns), 3),
        ratio=round(statistics.median(definitions / dagster for dagster, definitions in turns), 3),
        machine=machine(),
    )


def _seconds(module: str) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ERP_SYNC_")}
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(module)], env=environment, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    print(json.dumps(asdict(measure(parser.parse_args().repeats))))


if __name__ == "__main__":
    main()
