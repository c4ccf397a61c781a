"""What the modules of the admin side's routes share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request

from erp_sync.sandbox.refusals import Refusal

AdminRoute = tuple[str, str, Callable[[Request], Awaitable[Any]]]
"""Method, path below /sandbox, and what answers."""


def number_of(request: Request, name: str, default: int) -> int:
    """A whole number of the query string."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise Refusal(f"{name} = {text!r}: must be a whole number", status=422)
    return int(text)
