"""Webhooks of a real PHP: bodies as its json_encode writes them, signed as the packages of Laravel shops do it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from erp_sync.ledger.ledger import open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.webhook.app import receiver
from erp_sync_tests.webhooks import BODY, SPATIE_SECRET, STANDARD_SECRET, serving, settings, stored

PHP = shutil.which("php") or ""
SHOP = r"""<?php
// Posts each payload twice, as spatie/laravel-webhook-server signs it and as Standard Webhooks does.
[, $url, $secret, $whsec] = $argv;
$answers = [];
foreach (json_decode(stream_get_contents(STDIN), true) as $number => $payload) {
    $body = json_encode($payload);
    $id = "msg_php_$number";
    $time = (string) time();
    $key = base64_decode(substr($whsec, strlen('whsec_')));
    $signature = base64_encode(pack('H*', hash_hmac('sha256', "$id.$time.$body", $key)));
    $schemes = [
        'loja' => ['Signature: ' . hash_hmac('sha256', $body, $secret)],
        'padrao' => ["webhook-id: $id", "webhook-timestamp: $time", "webhook-signature: v1,$signature"],
    ];
    foreach ($schemes as $source => $headers) {
        $context = stream_context_create(['http' => [
            'method' => 'POST',
            'header' => implode("\r\n", ['Content-Type: application/json', ...$headers]),
            'content' => $body,
            'ignore_errors' => true,
            'timeout' => 3,
        ]]);
        file_get_contents("$url/webhooks/$source", false, $context);
        $answers[] = [$source, explode(' ', $http_response_header[0])[1], $body];
    }
}
echo json_encode($answers);
"""

PAYLOADS: list[dict[str, Any]] = [
    {"event": "order.paid", "order_id": 42, "cliente": "João / café"},
    {"order_id": "LJ-1001", "nome": '\U0001f4a1 <b>"O\'Neil" & filhos</b>', "url": "https://loja.example/pedido/1"},
    {"order_id": 9223372036854775807, "total": 10.1, "itens": [{"sku": "BOLSA-01", "qtd": 1.5}], "cupom": None},
    {"order_id": "9f0c8a1e-3b0d-4a53-8a55-6f6a2f1b8c11", "nested": {"a": {"b": [[], {}]}}, "": ""},
    {"order_id": 7, "texto": "linha 1\nlinha 2\t\x7f\u2028\u2029\u0000"},
]


@pytest.mark.skipif(not PHP, reason="needs php (in Debian: php-cli)")
def test_a_php_shop_is_understood(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    migrate(url)
    ledger = open_ledger(url)
    script = tmp_path / "shop.php"
    script.write_text(SHOP)
    with serving(receiver(settings(), ledger)) as address:
        done = subprocess.run(
            [PHP, "-n", str(script), address, SPATIE_SECRET, STANDARD_SECRET],
            input=json.dumps(PAYLOADS),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    answers = json.loads(done.stdout)
    assert [(source, status) for source, status, _ in answers] == [("loja", "202"), ("padrao", "202")] * len(PAYLOADS)
    bodies = [body for _, _, body in answers]
    assert bodies[0].encode() == BODY, "the body of the contract's vectors is PHP's own"
    expected = sorted(str(payload["order_id"]) for payload in PAYLOADS)
    for scheme in ("loja", "padrao"):
        assert sorted(named for source, _, named in stored(ledger) if source == scheme) == expected
    ledger.close()
