"""Proxies that the environment names, as far as they would see what is no business of theirs."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def in_the_clear(url: str, proxy: str | None = None) -> bool:
    """Whether what is sent to the address passes a proxy without TLS: `proxy`, or the environment's."""
    parts = urlsplit(url)
    return parts.scheme == "http" and bool(proxy or getproxies().get("http")) and not proxy_bypass(parts.netloc)
