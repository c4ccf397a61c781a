"""What a step writes to stdout and stderr, kept in S3: there where a task's own disk is gone with it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import sqlalchemy as sa
from moto.server import ThreadedMotoServer

from erp_sync.demo import stage
from erp_sync_tests.live import CONFIG, REPOSITORY, dagster_home, numbers_in, today
from erp_sync_tests.test_log_scan import personal

BUCKET = "erp-sync-logs"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-aws")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield f"http://{host}:{port}"
    server.stop()


def test_a_run_s_output_is_in_the_bucket_and_holds_no_secret(s3: str, tmp_path: Path) -> None:
    _, _, rest = (REPOSITORY / "deploy" / "logs.md").read_text(encoding="utf-8").partition("```yaml\n")
    documented, _, _ = rest.partition("```")
    bucket = boto3.resource("s3", endpoint_url=s3).create_bucket(Bucket=BUCKET)
    with stage(latency_ms=0, config=CONFIG) as on:
        home = dagster_home(tmp_path)
        with (home / "dagster.yaml").open("a", encoding="utf-8") as settings:
            settings.write(f"{documented}    endpoint_url: {s3}\n")
        order = on.shop.checkout()
        command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "erp_sync.definitions"]
        options = ["--select", "erp/orders", "--partition", today().isoformat()]
        variables = {**os.environ, **on.environment, "DAGSTER_HOME": str(home)}
        done = subprocess.run([*command, *options], env=variables, capture_output=True, check=False, timeout=90)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert numbers_in(on) == [order.number]
        engine = sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"])
        forbidden = personal(engine) | {on.environment["ERP_SYNC_ERP_PASSWORD"], os.environ["AWS_SECRET_ACCESS_KEY"]}
        engine.dispose()

    kept = {each.key: each.get()["Body"].read().decode() for each in bucket.objects.all()}
    endings = sorted(key.rpartition(".")[2] for key in kept)
    assert endings == ["err", "out"]
    [lines] = [text for key, text in kept.items() if key.endswith(".out")]
    sent = [line for line in map(json.loads, lines.splitlines()) if line["event"] == "order.sent"]
    assert [line["order_number"] for line in sent] == [order.number]
    text = "".join(kept.values())
    assert [word for word in forbidden if word in text] == []
