"""The container, as far as it can be shown without Docker: nobody in particular, nothing writable but two folders; and
deploy/ecs.yaml, which starts it so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import yaml

from erp_sync.demo import stage
from erp_sync_tests.live import CONFIG, REPOSITORY, dagster_home, free_port, numbers_in, today
from erp_sync_tests.scripted_erp import ScriptedErp, answer

UID = "10001"
"""As in the Dockerfile."""
BIN = Path(sys.executable).parent
WORK = f"""
set -e
test "$(id -u)" = {UID}
grep -q '^CapEff:[[:space:]]*0000000000000000$' /proc/self/status
for file in /probe "$HERE/erp_sync/probe" /usr/probe; do
    if touch "$file" 2>/dev/null; then echo "$file can be written"; exit 1; fi
done
"$BIN/dagster" asset materialize -m erp_sync.definitions --select erp/orders --partition "$DAY"
"$BIN/dagster" code-server start -h 127.0.0.1 -p "$PORT" -m erp_sync.definitions &
for _ in $(seq 200); do
    if (: < "/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then break; fi
    sleep 0.2
done
"$BIN/dagster" api grpc-health-check -p "$PORT"
kill %1
"$BIN/erp-sync" webhook --port "$HOOKS" &
for _ in $(seq 200); do
    if (: < "/dev/tcp/127.0.0.1/$HOOKS") 2>/dev/null; then break; fi
    sleep 0.2
done
"$BIN/python" -c "from urllib.request import urlopen as get; get('http://127.0.0.1:$HOOKS/readyz', timeout=10)"
kill %2
"$BIN/erp-sync" orders
"""
SOURCE = '[webhook.sources.loja]\nscheme = "spatie"\n'


def test_code_server_run_receiver_and_command_need_no_user_no_right_and_no_root_to_write_to() -> None:
    with stage(latency_ms=0, config=CONFIG + SOURCE) as on:
        order = on.shop.checkout()
        home = dagster_home(on.folder)
        place = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
        place += ["--ro-bind", str(REPOSITORY), str(REPOSITORY), "--bind", str(on.folder), str(on.folder)]
        who = ["--unshare-user", "--unshare-pid", "--uid", UID, "--gid", UID, "--cap-drop", "ALL", "--die-with-parent"]
        sandbox = ["bwrap", *place, *who]
        if subprocess.run([*sandbox, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this kernel lets nobody make a namespace of his own")
        variables = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "PYTHONDONTWRITEBYTECODE": "1",
            "MPLCONFIGDIR": "/tmp/matplotlib",
            "DAGSTER_HOME": str(home),
            "HERE": str(REPOSITORY),
            "BIN": str(BIN),
            "PORT": str(free_port()),
            "HOOKS": str(free_port()),
            "ERP_SYNC_WEBHOOK_SECRETS": '{"loja": "segredo-de-dezesseis"}',
            "DAY": today().isoformat(),
            **on.environment,
        }
        done = subprocess.run(
            [*sandbox, "--chdir", str(home), "bash", "-c", WORK],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert numbers_in(on) == [order.number]
        assert "sent" in done.stdout.splitlines()[-1]


TEMPLATE: dict[str, Any] = yaml.safe_load((REPOSITORY / "deploy" / "ecs.yaml").read_text())
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]
CONTAINERS = {
    container["Name"]: container
    for resource in RESOURCES.values()
    if resource["Type"] == "AWS::ECS::TaskDefinition"
    for container in resource["Properties"]["ContainerDefinitions"]
}


def test_cloudformation_takes_the_templates() -> None:
    files = [str(REPOSITORY / "deploy" / name) for name in ("ecs.yaml", "cloudwatch.yaml")]
    done = subprocess.run([str(BIN / "cfn-lint"), *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", CONTAINERS)
def test_each_container_is_nobody_and_writes_nothing(name: str) -> None:
    container = CONTAINERS[name]
    assert container["User"] == f"{UID}:{UID}"
    assert container["ReadonlyRootFilesystem"] is True
    assert container["LinuxParameters"] == {"Capabilities": {"Drop": ["ALL"]}}
    assert container["HealthCheck"]["Command"]
    assert container["LogConfiguration"]["Options"]["mode"] == "non-blocking"
    assert [mount["ContainerPath"] for mount in container["MountPoints"]] == ["/tmp"]
    plain = {each["Name"] for each in container.get("Environment", [])}
    assert not [each for each in plain if any(word in each for word in ("PASSWORD", "TOKEN", "SECRET", "SHOP_URL"))]


def test_each_process_is_started_as_the_dockerfile_says_and_has_no_more_secrets_than_it_needs() -> None:
    programs = {name: container.get("Command", []) for name, container in CONTAINERS.items()}
    text = (REPOSITORY / "Dockerfile").read_text()
    assert " ".join(programs["code-server"]) in text
    assert " ".join(programs["daemon"]) in text
    assert f"USER {UID}:{UID}" in text
    assert 'VOLUME ["/tmp"]' in text
    assert programs["analysts"][-1] == "--read-only"
    for name in ("daemon", "ops", "analysts"):
        assert [each["Name"] for each in CONTAINERS[name]["Secrets"]] == ["DAGSTER_STORAGE_URL"]
    for name in ("ui-proxy", "webhook-proxy"):
        assert "Secrets" not in CONTAINERS[name]


def test_the_image_can_speak_to_the_template_s_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown without a server: its absence is all that is wrong."""
    (extras,) = re.findall(r"'\.\[(.+)\]'", (REPOSITORY / "Dockerfile").read_text())
    assert "postgres" in extras.split(",")
    text = (REPOSITORY / "deploy" / "ecs.yaml").read_text()
    (storage,) = re.findall(r"`(storage: .+?)`", text)
    (url,) = re.findall(r"dagster_storage_url +(\S+)", text)
    home = dagster_home(tmp_path)
    with (home / "dagster.yaml").open("a") as file:
        file.write(f"{storage}\n")
    monkeypatch.setenv("DAGSTER_STORAGE_URL", url.replace("pg.example.com", "127.0.0.1:1"))
    monkeypatch.setattr("dagster_postgres.utils.time", SimpleNamespace(sleep=lambda _: None))
    with pytest.raises(Exception, match="too many retries") as caught:
        dg.DagsterInstance.from_config(str(home))
    assert "psycopg2.OperationalError" in str(caught.value.__cause__)
    assert "Connection refused" in str(caught.value.__cause__)


HEALTH_CHECKS = [
    *(container["HealthCheck"]["Command"][-1] for container in CONTAINERS.values()),
    *re.findall(r"python -c '.+?'", (REPOSITORY / "Dockerfile").read_text().replace('\\"', '"')),
]


@pytest.mark.parametrize("command", [command for command in HEALTH_CHECKS if command.startswith("python ")])
def test_a_health_check_asks_the_process_itself_whatever_proxy_is_set(command: str) -> None:
    with ScriptedErp(answer(200)) as process, ScriptedErp(answer(200)) as proxy:
        here, places = re.subn(r"http://127\.0\.0\.1:\d+", process.root.removesuffix("/rest"), command)
        assert places == 1
        variables = {"PATH": f"{BIN}:/usr/bin:/bin", "HTTP_PROXY": proxy.root.removesuffix("/rest")}

        def unhealthy() -> bool:
            done = subprocess.run(["sh", "-c", here], env=variables, capture_output=True, check=False)
            return done.returncode != 0

        assert not unhealthy()
        process.script = answer(503)
        assert unhealthy()
        assert (len(process.requests), len(proxy.requests)) == (2, 0)


def test_nothing_but_the_proxies_can_be_reached_from_elsewhere() -> None:
    for name, container in CONTAINERS.items():
        reached = {port["ContainerPort"] for port in container.get("PortMappings", [])}
        assert reached == ({8443} if name.endswith("-proxy") else {4000} if name == "code-server" else set())
    for name, resource in RESOURCES.items():
        if resource["Type"] == "AWS::EC2::SecurityGroup":
            for rule in resource["Properties"].get("SecurityGroupIngress", []):
                assert rule["FromPort"] == rule["ToPort"] == (4000 if name == "CodeServerGroup" else 8443)
                assert ("SourceSecurityGroupId" in rule) == (name == "CodeServerGroup")
        if resource["Type"] == "AWS::ECS::Service":
            assert resource["Properties"]["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
