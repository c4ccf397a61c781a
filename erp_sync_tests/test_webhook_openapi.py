"""The receiver against its own OpenAPI document, by schemathesis: requests of every kind, each answered as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from erp_sync.ledger.ledger import open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.webhook.app import receiver
from erp_sync.webhook.openapi import OPENAPI
from erp_sync_tests.webhooks import serving, settings, spatie, stored


@pytest.mark.parametrize("signed", [False, True])
def test_every_answer_is_one_that_the_document_names(tmp_path: Path, signed: bool) -> None:
    """`signed`: by one who knows the secret, so that the bodies are looked at too."""
    import schemathesis
    from schemathesis import checks

    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    migrate(url)
    ledger = open_ledger(url)
    answered: set[int] = set()
    with serving(receiver(settings(), ledger)) as address, requests.Session() as session:

        def ask(case: Any) -> None:
            request = requests.Request(**case.as_transport_kwargs(base_url=address))
            if signed and case.method == "POST":
                request.url = f"{address}/webhooks/loja"
            prepared = session.prepare_request(request)
            if signed and case.method == "POST":
                body = prepared.body or b""
                prepared.headers.update(spatie(body.encode() if isinstance(body, str) else bytes(body)))
            answer = session.send(prepared, timeout=5)
            answered.add(answer.status_code)
            case.validate_response(answer, checks=[getattr(checks, name) for name in CHECKS])

        for operation in schemathesis.openapi.from_dict(OPENAPI).get_all_operations():
            found: Any = operation.ok()  # type: ignore[union-attr] # a document that is not valid raises here
            cases = [found.as_strategy(mode) for mode in schemathesis.GenerationMode]
            few = effort(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            few(given(st.one_of(cases))(ask))()
    assert {200} < answered < {200, 202, 400, 401, 405, 413, 415, 422, 431}
    assert (422 in answered) is signed
    assert signed or stored(ledger) == []
    ledger.close()


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
