"""What a look at a MySQL or MariaDB server tells a person, be it the shop's or the ledger's."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from erp_sync.models import Finding

OLDEST = {"MySQL": (8, 0), "MariaDB": (10, 6)}
CLOCK_WARNING = timedelta(minutes=1)
CLOCK_ERROR = timedelta(minutes=10)
"""As far as the narrowest windows reach that look for changes."""


def version(said: str) -> Finding:
    """`said` is what VERSION() gives."""
    name = "MariaDB" if "mariadb" in said.lower() else "MySQL"
    found = re.match(r"(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < OLDEST[name]:
        oldest = ".".join(map(str, OLDEST[name]))
        return Finding(
            "error", "version", f"{name} {said[:40]} is older than {oldest}", f"upgrade to {oldest} or later"
        )
    return Finding("ok", "version", f"{name} {said[:40]}")


def encryption(setting: str, protocol: str, cipher: str, *, is_local: bool, is_verified: bool) -> Finding:
    """`protocol` and `cipher` are the session's Ssl_version and Ssl_cipher; "" where it has none."""
    if cipher and is_verified:
        return Finding("ok", setting, f"encrypted and verified, {protocol} {cipher}".replace("  ", " "))
    if is_local:
        return Finding("ok", setting, "on this machine: nobody listens in between")
    if cipher:
        message = f"the connection is encrypted ({protocol} {cipher}), but the server's certificate is not verified"
        return Finding(
            "warning", setting, message, "write ?ssl_ca=FILE, its certificate authority, instead of ssl=false"
        )
    message = "the connection is not encrypted"
    return Finding("warning", setting, message, "let the server offer TLS, and write ?ssl_ca=FILE instead of ssl=false")


def clock(whose: str, theirs: datetime, other: str, ours: datetime) -> Finding:
    apart = theirs - ours
    seconds = round(apart.total_seconds())
    if abs(apart) < CLOCK_WARNING:
        return Finding("ok", "clock", f"{whose} and {other} agree ({seconds:+d} s)")
    message = f"{whose} is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} {other}"
    advice = "let NTP set the clocks of all servers"
    return Finding("error" if abs(apart) >= CLOCK_ERROR else "warning", "clock", message, advice)
