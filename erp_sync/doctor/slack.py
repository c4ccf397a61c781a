"""Slack: token, scopes, channel."""

from __future__ import annotations

from collections.abc import Iterator

from erp_sync.doctor.installation import Installation
from erp_sync.errors import Misconfigured
from erp_sync.models import Finding
from erp_sync.slack import Slack, SlackError

_CHANNEL = "ERP_SYNC_SLACK_CHANNEL"
_TOKEN = "ERP_SYNC_SLACK_TOKEN"  # noqa: S105 - the setting's name


def slack(installation: Installation) -> Iterator[Finding]:
    """Token, scopes and channel. Nothing is posted."""
    try:
        account = installation.settings.slack_account()
        bot = None if account is None else Slack(*account)
    except Misconfigured as error:
        yield Finding("warning", "Slack", f"not looked at: {error}", "correct it first")
        return
    if bot is None:
        yield Finding("ok", "Slack", "not used: incidents are told here and in Dagster's UI")
        return
    try:
        name, scopes = bot.identity()
    except SlackError as error:
        yield Finding("error", _TOKEN, str(error), "give a valid bot token, and let this machine reach Slack")
        return
    if scopes and "chat:write" not in scopes:
        message = f"the token of {name} may not post: it lacks the scope chat:write"
        yield Finding("error", _TOKEN, message, "add chat:write to the Slack app, and install it anew")
    else:
        yield Finding("ok", _TOKEN, f"valid, the bot is {name}")
    yield _channel(bot, scopes)


def _channel(bot: Slack, scopes: frozenset[str]) -> Finding:
    try:
        info = bot.channel_info()
    except SlackError as error:
        if error.code == "missing_scope":
            message = f"{bot.channel} could not be looked at: the token may not read channels"
            advice = "add channels:read (groups:read for a private one) to the Slack app, or look there for the bot"
            return Finding("warning", _CHANNEL, message, advice)
        return Finding("error", _CHANNEL, str(error), "give the channel's id, and invite the bot there")
    if not info:
        message = f"the bot sees no channel {bot.channel}"
        return Finding("error", _CHANNEL, message, "give the channel's id, and invite the bot there")
    if info.get("is_archived"):
        return Finding("error", _CHANNEL, f"{bot.channel} is archived", "give another channel")
    public = not info.get("is_private") and "chat:write.public" in scopes
    if not info.get("is_member") and not public:
        return Finding("error", _CHANNEL, f"the bot is no member of {bot.channel}", "invite the bot there: /invite")
    return Finding("ok", _CHANNEL, f"{bot.channel} is reached, the bot may post there")
