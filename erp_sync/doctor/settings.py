"""Settings: each that is missing or wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

from erp_sync.doctor.installation import Installation
from erp_sync.models import Finding


def settings(installation: Installation) -> Iterator[Finding]:
    """Each that is missing or wrong; and what contradicts the profile."""
    lines = [*installation.wrong, *installation.settings.missing()]
    section = installation.profile.stock if installation.profile is not None else None
    if section is not None:
        lines.append(installation.settings.stock.contradiction(section.basis, section.warehouses))
    for line in dict.fromkeys(filter(None, lines)):
        name = re.match(r"[\w.]+", line)
        message, _, advice = line.rpartition(": ")
        yield Finding("error", name[0] if name else "settings", message or line, advice)
    if not any(lines):
        yield Finding("ok", "settings", "all that is needed is set")
