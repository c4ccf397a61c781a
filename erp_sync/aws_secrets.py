"""Secrets that the environment only names, `aws-secret:NAME-or-ARN#key`, read from AWS Secrets Manager.

Without `#key` the secret's whole text is the value, with it one text of the JSON object that the secret holds. Region
and credentials are found as boto3 finds them; an ARN's own region wins.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from erp_sync.errors import Misconfigured, SecretUnavailable
from erp_sync.proxies import in_the_clear

PREFIX = "aws-secret:"
_REFERENCE = re.compile(
    PREFIX + r"(?P<id>arn:[a-z-]+:secretsmanager:(?P<region>[a-z0-9-]+):[0-9]{12}:secret:[\w/+=.@-]+|[\w/+=.@-]{1,512})"
    r"(?:#(?P<key>[^#\s]{1,128}))?",
    re.ASCII,
)
_NO_LOGIN = frozenset(
    re.findall(
        r"\w+",
        "AccessDeniedException AccessDenied UnrecognizedClientException InvalidClientTokenId ExpiredTokenException "
        "ExpiredToken SignatureDoesNotMatch InvalidSignatureException IncompleteSignature DecryptionFailure "
        "MissingAuthenticationToken OptInRequired",
    )
)
_BUSY = frozenset(("Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalServiceError"))

_lock = threading.Lock()
_texts: dict[str, SecretStr] = {}


def is_reference(value: str) -> bool:
    return value.startswith(PREFIX)


def fetch(setting: str, reference: str) -> SecretStr:
    """The value. A secret is asked for once per process: a new value needs a new process.

    Raises Misconfigured for a reference, a right or a key that is wrong, and SecretUnavailable where AWS gives no
    answer; neither these nor the variables of the functions they pass through hold the secret.
    """
    form = _REFERENCE.fullmatch(reference)
    if form is None:
        raise Misconfigured(
            f"{setting} begins with {PREFIX} and names no secret: write {PREFIX}NAME#KEY or {PREFIX}ARN#KEY; #KEY is "
            "for one that holds JSON"
        )
    name, key = form["id"], form["key"]
    with _lock:
        if name not in _texts:
            _texts[name] = _ask(f"{setting}: {_named(name)}", name, form["region"])
    value, wrong = _part(_texts[name], key)
    if wrong:
        raise Misconfigured(f"{setting}: {_named(name)} holds {wrong}: correct the reference or the secret")
    return value


def _named(name: str) -> str:
    return f"the secret {name} in AWS Secrets Manager"


def _part(text: SecretStr, key: str | None) -> tuple[SecretStr, str]:
    """The value under the key, or what is there instead."""
    if key is None:
        return text, "" if text.get_secret_value() else "nothing"
    try:
        parts = json.loads(text.get_secret_value())
    except ValueError:
        parts = None
    if not isinstance(parts, dict):
        return text, f"no JSON object, and so nothing under {key!r}"
    value = parts.get(key)
    return (SecretStr(value), "") if isinstance(value, str) and value else (text, f"no text under {key!r}")


def _ask(where: str, name: str, region: str | None) -> SecretStr:
    try:
        from botocore import exceptions
    except ImportError:
        raise Misconfigured(f"{where} cannot be asked for, boto3 is missing: install erp-sync[aws]") from None
    # It logs answers when debugging. What it would not say anyway, it is not told to say.
    boto = logging.getLogger("botocore")
    boto.setLevel(max(logging.INFO, boto.getEffectiveLevel()))
    try:
        text = _client(where, region).get_secret_value(SecretId=name).get("SecretString")
    except exceptions.ClientError as error:
        raise _refusal(where, error.response) from None
    except (exceptions.NoRegionError, exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise Misconfigured(f"{where} cannot be asked for ({error}): give the process a role and AWS_REGION") from None
    except exceptions.SSLError:
        raise Misconfigured(
            f"{where} cannot be asked for: the certificate of AWS, or of a proxy before it, is not trusted; for an "
            "authority of your own set AWS_CA_BUNDLE"
        ) from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.CredentialRetrievalError) as error:
        raise SecretUnavailable(f"{where}: AWS does not answer ({type(error).__name__})") from None
    except exceptions.BotoCoreError as error:
        raise Misconfigured(f"{where} cannot be asked for ({type(error).__name__}): correct AWS's settings") from None
    if text is None:
        raise Misconfigured(f"{where} is binary: store it as text")
    return SecretStr(text)


def _client(where: str, region: str | None) -> Any:
    import boto3
    from botocore.config import Config

    patience = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3})
    client = boto3.client("secretsmanager", region_name=region, config=patience)
    address = urlsplit(client.meta.endpoint_url)
    if address.scheme != "https" and address.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise Misconfigured(f"{where} is not asked for: AWS_ENDPOINT_URL is plain http, it would travel in the clear")
    if in_the_clear(client.meta.endpoint_url):
        raise Misconfigured(
            f"{where} is not asked for: AWS_ENDPOINT_URL is plain http, and it would leave this machine through the "
            "proxy that HTTP_PROXY names: set NO_PROXY=localhost,127.0.0.1"
        )
    return client


def _refusal(where: str, response: Any) -> Misconfigured | SecretUnavailable:
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "ResourceNotFoundException":
        return Misconfigured(f"{where} does not exist in this account and region: correct its name")
    if code in _NO_LOGIN:
        return Misconfigured(
            f"{where} is denied ({code}): allow secretsmanager:GetSecretValue on it, and kms:Decrypt on its key"
        )
    if code in _BUSY or status >= 500:
        return SecretUnavailable(f"{where}: AWS does not give it now ({code or status})")
    return Misconfigured(f"{where} is not given ({code or status}): see it in AWS's console")
