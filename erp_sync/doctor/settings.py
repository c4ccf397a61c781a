"""Settings: each that is missing or wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

from erp_sync.doctor.installation import Installation
from erp_sync.models import Finding


def settings(installation: Installation) -> Iterator[Finding]:
    """Each that is missing or wrong; and what contradicts the profile."""
    wrong = {_name(line) for line in installation.wrong}
    # What is wrong is left out of the settings: it is not missing too.
    missing = [line for line in installation.settings.missing() if _name(line) not in wrong]
    lines = [*installation.wrong, *missing]
    section = installation.profile.stock if installation.profile is not None else None
    if section is not None:
        lines.append(installation.settings.stock.contradiction(section.basis, section.warehouses))
    for line in dict.fromkeys(filter(None, lines)):
        message, _, advice = line.rpartition(": ")
        yield Finding("error", _name(line), message or line, advice)
    if not any(lines):
        yield Finding("ok", "settings", "all that is needed is set")


def _name(line: str) -> str:
    name = re.match(r"[\w.]+", line)
    return name[0] if name else "settings"
