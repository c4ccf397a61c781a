"""What the receiver takes and answers, as OpenAPI. Not served: who sends here has it from the shop's own developers."""

from __future__ import annotations

from typing import Any

from erp_sync.webhook import app


def _answers(*answers: app.Answer) -> dict[str, Any]:
    by_status: dict[str, Any] = {}
    for answer in answers:
        said = by_status.setdefault(str(answer.status), {"description": answer.text, "content": _TEXT})
        said["headers"] = {"Retry-After": {"schema": {"type": "integer"}}} if answer is app.AWAY else {}
    return by_status


_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_HEADERS = {
    "Signature": "spatie: lower-case hex HMAC-SHA256 of the raw body",
    "webhook-id": "standard: the event, the same at each try",
    "webhook-timestamp": "standard: seconds since the epoch, at most five minutes from the receiver's clock",
    "webhook-signature": "standard: v1,BASE64 of the HMAC-SHA256 of id.timestamp.body; or several, with blanks",
}

OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "erp_sync webhooks", "version": "1"},
    "paths": {
        "/webhooks/{source}": {
            "post": {
                "summary": "An order of the shop is worth a look. One of two sets of headers proves the sender.",
                "parameters": [
                    {
                        "name": "source",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "pattern": "^[^/]+$"},
                    },
                    *(
                        {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}}
                        for name, meaning in _HEADERS.items()
                    ),
                ],
                "requestBody": {
                    "required": True,
                    "description": f"{app.LONGEST_BODY} bytes at most. The settings say where it names the order.",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
                "responses": _answers(*app.ANSWERS),
            }
        },
        "/healthz": {"get": {"summary": "Whether the process answers.", "responses": _answers(app.ALIVE)}},
        "/readyz": {
            "get": {"summary": "Whether an event could be stored now.", "responses": _answers(app.READY, app.AWAY)}
        },
    },
}
