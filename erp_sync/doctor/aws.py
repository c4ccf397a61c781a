"""AWS: credentials and the log group."""

from __future__ import annotations

from collections.abc import Iterator

from erp_sync.doctor.installation import Installation
from erp_sync.models import Finding
from erp_sync.scrub import excerpt


def aws(installation: Installation) -> Iterator[Finding]:
    """CloudWatch, where lines go there without the awslogs driver. Nothing is written."""
    group = installation.settings.logs.cloudwatch_group
    if not group:
        yield Finding("ok", "CloudWatch", "not used: [logs] cloudwatch_group is empty")
        return
    try:
        import boto3
        import watchtower  # noqa: F401 - what sends the lines
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        yield Finding("error", "CloudWatch", f"{error.name} is not installed", "install erp-sync[aws]")
        return
    patience = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
    try:
        session = boto3.Session()
        who = session.client("sts", config=patience).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        message = f"no usable credentials: {_why(error)}"
        yield Finding("error", "AWS", message, "give the task a role, and set AWS_REGION or AWS_DEFAULT_REGION")
        return
    yield Finding("ok", "AWS", f"known as {str(who.get('Arn', '')).rpartition(':')[2]}")
    try:
        found = session.client("logs", config=patience).describe_log_groups(logGroupNamePrefix=group, limit=50)
    except (BotoCoreError, ClientError) as error:
        advice = "allow logs:DescribeLogGroups to look again, or see that the group exists"
        yield Finding("warning", "CloudWatch", f"the group {group} could not be looked for: {_why(error)}", advice)
        return
    if group in {each["logGroupName"] for each in found["logGroups"]}:
        yield Finding("ok", "CloudWatch", f"the group {group} exists")
    else:
        message = f"there is no group {group} in this region"
        yield Finding("error", "CloudWatch", message, "create it, or correct [logs] cloudwatch_group")


def _why(error: Exception) -> str:
    code = getattr(error, "response", {}).get("Error", {}).get("Code")
    return excerpt(str(code or error), 200)
