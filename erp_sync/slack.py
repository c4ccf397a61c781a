"""Slack's Web API, as far as alerts need it: one channel, new messages, edits, replies in a thread.

Nothing is tried twice here: a post whose answer was lost may have arrived, so when to try again is the caller's to say.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from erp_sync.errors import ErpSyncError, Misconfigured
from erp_sync.proxies import in_the_clear

if TYPE_CHECKING:
    from slack_sdk import WebClient

Block = Mapping[str, Any]

TIMEOUT = 5
_PAGES = 25
"""Of 200 channels each."""

_TOKEN = "ERP_SYNC_SLACK_TOKEN"  # noqa: S105 - the setting's name
_CHANNEL = "ERP_SYNC_SLACK_CHANNEL"
_LOGIN = frozenset(
    re.findall(
        r"\w+",
        "not_authed invalid_auth account_inactive token_revoked token_expired no_permission missing_scope "
        "access_denied not_allowed_token_type org_login_required ekm_access_denied team_access_not_granted",
    )
)
_BUSY = frozenset(
    re.findall(
        r"\w+",
        "ratelimited rate_limited message_limit_exceeded fatal_error internal_error service_unavailable "
        "request_timeout accesslimited",
    )
)
_PLACE = frozenset(
    re.findall(
        r"\w+",
        "channel_not_found not_in_channel is_archived restricted_action restricted_action_read_only_channel "
        "no_write_access_to_channel",
    )
)


class SlackError(ErpSyncError):
    """What Slack did not do. The message names the setting that a person must correct, and never the token."""

    def __init__(self, message: str, *, whole: bool, retry_after: float | None = None, code: str = "") -> None:
        super().__init__(message)
        self.code = code
        """Slack's own word; "" where it was not Slack that answered."""
        self.whole = whole
        """True: the next message would fare no better. False: it is about this one."""
        self.retry_after = retry_after
        """Seconds that Slack asked us to wait. None: it did not say."""


class Slack:
    """Every call raises SlackError, and nothing else. Raises Misconfigured where a proxy would see the token."""

    def __init__(self, token: str, channel: str, base_url: str | None = None, *, timeout: int = TIMEOUT) -> None:
        # The client's own lines hold bodies of messages and answers.
        quiet = logging.getLogger("erp_sync.slack.client")
        quiet.setLevel(logging.CRITICAL)
        self.channel = channel
        client = _client_class()
        self._client = client(token, base_url or client.BASE_URL, timeout=timeout, logger=quiet, retry_handlers=[])
        if in_the_clear(self._client.base_url, self._client.proxy):
            raise Misconfigured(
                "ERP_SYNC_SLACK_BASE_URL is plain http, and the token would leave this machine through the proxy that "
                "HTTP_PROXY or HTTPS_PROXY names: set NO_PROXY=localhost,127.0.0.1"
            )

    def post(self, text: str, blocks: Sequence[Block], thread: tuple[str, str] | None = None) -> tuple[str, str]:
        """A new message, or a reply in a `thread`. Returns its address: the channel's id and the message's ts."""
        where = {"channel": thread[0], "thread_ts": thread[1]} if thread else {"channel": self.channel}
        what = {"text": text, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}
        answer = self._call("chat.postMessage", where | what, anew=thread is None)
        channel, ts = answer.get("channel"), answer.get("ts")
        if not isinstance(channel, str) or not isinstance(ts, str):
            raise SlackError("Slack's answer to chat.postMessage says not where the message is", whole=True)
        return channel, ts

    def edit(self, message: tuple[str, str], text: str, blocks: Sequence[Block]) -> None:
        self._call("chat.update", {"channel": message[0], "ts": message[1], "text": text, "blocks": blocks}, anew=False)

    def identity(self) -> tuple[str, frozenset[str]]:
        """The bot's name, and what its token may do; empty where Slack does not say. Nothing is posted."""
        response = self._answer("auth.test", anew=False)
        headers = {str(name).lower(): str(value) for name, value in (response.headers or {}).items()}
        data = response.data if isinstance(response.data, dict) else {}
        scopes = filter(None, (scope.strip() for scope in headers.get("x-oauth-scopes", "").split(",")))
        return str(data.get("user", "")), frozenset(scopes)

    def channel_info(self) -> Mapping[str, Any] | None:
        """What Slack says of the channel. None: the bot sees none of this name. Nothing is posted."""
        if re.fullmatch(r"[CGD][A-Z0-9]{6,}", self.channel):
            found: Mapping[str, Any] = self._read("conversations.info", {"channel": self.channel}).get("channel", {})
            return found
        cursor = ""
        for _ in range(_PAGES):
            page = self._read(
                "conversations.list",
                {"types": "public_channel,private_channel", "limit": "200", **({"cursor": cursor} if cursor else {})},
            )
            for channel in page.get("channels", ()):
                if channel.get("name") == self.channel.removeprefix("#"):
                    return channel  # type: ignore[no-any-return]
            cursor = str((page.get("response_metadata") or {}).get("next_cursor") or "")
            if not cursor:
                break
        return None

    def _read(self, method: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        # A form: Slack takes no JSON where it only reads.
        answer = self._answer(method, anew=True, params=dict(parameters)).data
        return answer if isinstance(answer, dict) else {}

    def _call(self, method: str, body: dict[str, Any], *, anew: bool) -> dict[str, Any]:
        answer = self._answer(method, anew=anew, json=body).data
        return answer if isinstance(answer, dict) else {}

    def _answer(self, method: str, *, anew: bool, **how: Any) -> Any:
        from slack_sdk.errors import SlackApiError

        try:
            return self._client.api_call(method, **how)
        except SlackApiError as error:
            raise _refusal(method, error.response, anew=anew) from None
        except Exception as error:  # urllib's, http.client's, the socket's and the decoder's have no ancestor in common
            reason = getattr(error, "reason", None)
            kind = type(reason if isinstance(reason, Exception) else error).__name__
            raise SlackError(f"Slack did not answer {method} ({kind})", whole=True) from None


def _client_class() -> type[WebClient]:
    """slack_sdk's client, which follows no redirect: urllib would take the token along, to whatever host, and a POST
    that became a GET there and is answered would look like a message that was posted."""
    from slack_sdk import WebClient

    class NoRedirect(HTTPRedirectHandler):
        def redirect_request(self, *_arguments: Any) -> None:
            return None

    class Client(WebClient):
        def _perform_urllib_http_request_internal(self, url: str, req: Request) -> dict[str, Any]:  # noqa: ARG002
            proxies = {"http": self.proxy, "https": self.proxy} if self.proxy else None
            opener = build_opener(NoRedirect, ProxyHandler(proxies), HTTPSHandler(context=self.ssl))
            with opener.open(req, timeout=self.timeout) as answer:
                text = answer.read().decode(answer.headers.get_content_charset() or "utf-8")
                return {"status": answer.code, "headers": answer.headers, "body": text}

    return Client


def _refusal(method: str, response: Any, *, anew: bool) -> SlackError:
    data = response.data if isinstance(response.data, dict) else {}
    code = str(data.get("error", ""))
    if not re.fullmatch(r"[a-z_]{1,64}", code):
        code = ""
    headers = {str(name).lower(): str(value) for name, value in (response.headers or {}).items()}
    retry_after = headers.get("retry-after", "")
    said = f"Slack answered {method} with {code or f'HTTP {response.status_code}'}"
    if code in _LOGIN:
        return SlackError(f"{said}: correct {_TOKEN} (a bot token that may chat:write)", whole=True, code=code)
    if code in _PLACE and anew:
        return SlackError(f"{said}: correct {_CHANNEL}, and invite the bot there", whole=True, code=code)
    if response.status_code == 429 or code in _BUSY or response.status_code >= 500:
        wait = float(retry_after) if re.fullmatch(r"[0-9]{1,5}", retry_after) else None
        return SlackError(said, whole=True, retry_after=wait)
    # Any other code is about this message; without one it was not Slack that answered.
    return SlackError(said, whole=not code, code=code)
