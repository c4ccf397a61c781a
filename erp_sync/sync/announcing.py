"""Telling the channel what the ledger's incidents say: one thread a cause, at least once, one process at a time.

Everything that is told is written down right after; a process that dies in between leaves a message that is posted
once more, never one that is forgotten. What cannot be told now waits in the ledger, however long.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from typing import TypeVar

from erp_sync import alerts
from erp_sync.alerts import List, Message
from erp_sync.erp.scrub import scrub
from erp_sync.ledger.incidents import SHOWN, Telling, Told
from erp_sync.ledger.ledger import Ledger
from erp_sync.ledger.outlet import FARTHEST, Outlet
from erp_sync.models import Incident
from erp_sync.settings import Settings
from erp_sync.slack import Slack, SlackError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MANY = 20
"""More new incidents than this at once are one list, not a thread each."""
PACE = timedelta(seconds=1)
"""Between two messages: Slack takes one a second in a channel."""
EDIT_EVERY = timedelta(minutes=1)
LEASE = timedelta(seconds=30)
"""Longer than any single call to Slack."""
BACKOFF = (timedelta(seconds=5), timedelta(minutes=5))
"""The first pause after a failure, which doubles up to the second."""
DIGEST = "alerts.digest"
"""The mark whose text is the last day with a digest."""


class _Enough(Exception):
    """Time is up, or another process tells now."""


@dataclass
class AnnounceResult:
    posted: int = 0
    """New messages: threads, lists, digests."""
    replied: int = 0
    edited: int = 0
    failure: str = ""
    """Why the channel could not be told. "": it could, or there was nothing to tell."""


def shown(incident: Incident) -> Incident:
    """As people may see it: without the personal data that foreign texts may hold."""
    sample = tuple(map(scrub, incident.sample))
    return replace(incident, subject=scrub(incident.subject), detail=scrub(incident.detail), sample=sample)


class Announcer:
    """`slack` None: nothing is told, and incidents stay where they are. `zone` is that of the digest's hour."""

    def __init__(
        self,
        ledger: Ledger,
        slack: Slack | None,
        settings: Settings,
        *,
        zone: tzinfo = UTC,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._slack = slack
        self._settings = settings
        self._zone = zone
        self._wait = wait

    def run(self, budget: timedelta = timedelta(seconds=15)) -> AnnounceResult:
        """Tells what is to be told, for about so long; what is left comes next time. Safe from several at once.

        Raises LedgerUnavailable and Misconfigured. Trouble with Slack is a line in the log and a pause in the ledger.
        """
        if self._slack is None:
            return AnnounceResult()
        now = self._ledger.now()
        drain = _Drain(self._ledger, self._slack, self._settings, self._zone, self._wait, now + budget)
        # Most of the time there is nothing to tell: two reads, and nothing is written.
        if _waits(self._ledger.outlet().next_try_at, now) or next(drain.steps(), None) is None:
            return drain.result
        drain.run()
        return drain.result


@dataclass
class _Drain:
    ledger: Ledger
    slack: Slack
    settings: Settings
    zone: tzinfo
    wait: Callable[[float], None]
    deadline: datetime
    owner: str = field(default_factory=lambda: secrets.token_hex(16))
    outlet: Outlet = field(default_factory=Outlet)
    result: AnnounceResult = field(default_factory=AnnounceResult)

    def run(self) -> None:
        outlet = self.ledger.take_outlet(self.owner, LEASE)
        if outlet is None:
            return
        self.outlet = outlet
        try:
            if not _waits(outlet.next_try_at, self.ledger.now()):
                steps = list(self.steps())
                # A message at which Slack itself stumbles must not hold up the others: they come first next time.
                turn = outlet.failures % max(len(steps), 1)
                for step in steps[turn:] + steps[:turn]:
                    step()
        except _Enough:
            pass
        except SlackError as error:
            self._pause(error)
        self.ledger.give_outlet_back(self.owner, self.outlet)

    def steps(self) -> Iterator[Callable[[], None]]:
        """What is to be told as the ledger stands, the most urgent first. Each step is one or two calls to Slack."""
        now = self.ledger.now()
        tellings = [one for one in self.ledger.tellings() if not _waits(one.told.next_try_at, now)]
        new = [one for one in tellings if _unheard(one)]
        if len(new) > MANY:
            yield partial(self._list_new, new)
        else:
            yield from (partial(self._post, one) for one in new)
        heard = [one for one in tellings if not _unheard(one)]
        over = [one for one in heard if one.incident.closed_at is not None and not one.told.ending]
        own = [one for one in over if not one.told.listed]
        if len(own) > MANY:
            yield partial(self._list_over, own)
        else:
            yield from (partial(self._end, one) for one in own)
        for address in sorted({_address(one.told) for one in over if one.told.listed}):
            whole = self.ledger.listed_in(*address)
            if not any(_waits(_plus(one.told.at, EDIT_EVERY), now) for one in whole):
                members = [one for one in over if one.told.listed and _address(one.told) == address]
                yield partial(self._end_listed, address, members)
        digest = self._digest_due(now, [one.incident for one in tellings])
        if digest is not None:
            yield digest
        ending = {one.incident.cause for one in over}
        changed = [
            one for one in heard if not one.told.listed and one.incident.cause not in ending and self._to_edit(one, now)
        ]
        yield from (
            partial(self._edit, one) for one in sorted(changed, key=lambda one: (-one.told.ending, one.told.at or now))
        )

    def _post(self, telling: Telling) -> None:
        message = self._message(telling.incident)
        address = self._new([telling], message)
        if address is not None:
            ending = 0 if telling.incident.closed_at is None else SHOWN
            now = self.ledger.now()
            told = Told(telling.incident.openings, ending, 0, *address, message.hash, now)
            self._remember({telling.incident.cause: told})

    def _list_new(self, new: Sequence[Telling]) -> None:
        address = self._new(new, self._list(_incidents(new), "new"))
        if address is None:
            return
        now = self.ledger.now()
        self._remember(
            {
                one.incident.cause: Told(
                    one.incident.openings, 0 if one.incident.closed_at is None else SHOWN, 1, *address, "", now
                )
                for one in new
            }
        )

    def _end(self, telling: Telling) -> None:
        """A reply, which people are notified of; then the message itself."""
        if not telling.told.ts or not self._reply(
            telling.told, alerts.ending(telling.incident, self.settings.language)
        ):
            self._post(telling)
            return
        told = replace(telling.told, opening=telling.incident.openings, ending=1)
        self._remember({telling.incident.cause: told})
        self._edit(replace(telling, told=told))

    def _list_over(self, over: Sequence[Telling]) -> None:
        if self._new(over, self._list(_incidents(over), "over")) is not None:
            self._remember(
                {one.incident.cause: replace(one.told, opening=one.incident.openings, ending=1) for one in over}
            )

    def _end_listed(self, address: tuple[str, str], members: Sequence[Telling]) -> None:
        message = self._list(_incidents(members), "over")
        if not self._reply(members[0].told, message) and self._new(members, message) is None:
            return
        now = self.ledger.now()
        self._remember(
            {
                one.incident.cause: replace(one.told, opening=one.incident.openings, ending=SHOWN, at=now)
                for one in members
            }
        )
        whole = self._list(_incidents(self.ledger.listed_in(*address)), "new")
        try:
            self._call(lambda: self.slack.edit(address, whole.text, whole.blocks))
            self.result.edited += 1
        except SlackError as error:
            self._only_this_one(error)

    def _edit(self, telling: Telling) -> None:
        message, told = self._message(telling.incident), telling.told
        try:
            if told.ts:
                self._call(lambda: self.slack.edit(_address(told), message.text, message.blocks))
                self.result.edited += 1
        except SlackError as error:
            self._only_this_one(error)
            told = replace(told, ts="")  # somebody deleted it, or it is another bot's: its end will be a new message
        ending = SHOWN if told.ending else 0
        now = self.ledger.now()
        told = replace(told, opening=telling.incident.openings, ending=ending, hash=message.hash, at=now)
        self._remember({telling.incident.cause: told})

    def _to_edit(self, telling: Telling, now: datetime) -> bool:
        if telling.told.ending:
            return True
        recent = _waits(_plus(telling.told.at, EDIT_EVERY), now)
        return bool(telling.told.ts) and not recent and self._message(telling.incident).hash != telling.told.hash

    def _digest_due(self, now: datetime, incidents: Sequence[Incident]) -> Callable[[], None] | None:
        local = now.astimezone(self.zone)
        since = local.replace(hour=self.settings.alerts.digest_hour, minute=0, second=0, microsecond=0)
        still = [one for one in incidents if one.closed_at is None and one.opened_at < since]
        if local < since or not still:
            return None
        day = local.date().isoformat()
        last = self.ledger.mark(DIGEST)
        return partial(self._digest, day, still) if last is None or last[1] != day else None

    def _digest(self, day: str, still: Sequence[Incident]) -> None:
        message = self._list(still, "digest")
        try:
            self._call(lambda: self.slack.post(message.text, message.blocks))
            self.result.posted += 1
        except SlackError as error:
            self._only_this_one(error)
        self.ledger.set_mark(DIGEST, day)

    def _message(self, incident: Incident) -> Message:
        return alerts.message(shown(incident), self.ledger.now(), self.settings.language, self.settings.alerts.ui_url)

    def _list(self, incidents: Sequence[Incident], what: List) -> Message:
        return alerts.listing(incidents, self.ledger.now(), self.settings.language, what, clean=shown)

    def _new(self, tellings: Sequence[Telling], message: Message) -> tuple[str, str] | None:
        """Where the new message is. None: Slack refuses this one, even as plain text; it is tried again later."""
        for blocks in (message.blocks, ()):
            try:
                address = self._call(partial(self.slack.post, message.text, blocks))
            except SlackError as error:
                self._only_this_one(error)
            else:
                self.result.posted += 1
                return address
        now = self.ledger.now()
        self._remember(
            {
                one.incident.cause: replace(
                    one.told, tries=one.told.tries + 1, next_try_at=now + _backoff(one.told.tries)
                )
                for one in tellings
            }
        )
        return None

    def _reply(self, told: Told, message: Message) -> bool:
        """False: the thread is gone."""
        try:
            self._call(lambda: self.slack.post(message.text, message.blocks, _address(told)))
        except SlackError as error:
            self._only_this_one(error)
            return False
        self.result.replied += 1
        return True

    def _only_this_one(self, error: SlackError) -> None:
        if error.whole:
            raise error
        logger.warning("one alert: %s", error)

    def _call(self, action: Callable[[], T]) -> T:
        """At the channel's pace, and only while nobody else may tell."""
        now = self.ledger.now()
        free_at = self.outlet.free_at
        pause = free_at - now if free_at is not None and now < free_at <= now + PACE else timedelta()
        if now + pause >= self.deadline:
            raise _Enough
        if pause:
            self.wait(pause.total_seconds())
            now = self.ledger.now()
        self.outlet = replace(self.outlet, free_at=now + PACE)
        if not self.ledger.keep_outlet(self.owner, LEASE, self.outlet):
            raise _Enough
        result = action()
        self.outlet = replace(self.outlet, next_try_at=None, failures=0)
        return result

    def _remember(self, told: dict[str, Told]) -> None:
        if not self.ledger.tell(self.owner, told):
            raise _Enough

    def _pause(self, error: SlackError) -> None:
        pause = _backoff(self.outlet.failures)
        if error.retry_after is not None:
            pause = min(max(timedelta(seconds=error.retry_after), PACE), FARTHEST)
        self.outlet = replace(self.outlet, failures=self.outlet.failures + 1, next_try_at=self.ledger.now() + pause)
        self.result.failure = str(error)
        logger.error("alerts wait in the ledger: %s; tried again in %d s", error, pause.total_seconds())


def _unheard(telling: Telling) -> bool:
    """The channel has no message of this occurrence. One that came back untold goes on in the thread it had."""
    told = telling.told
    return told.opening < telling.incident.openings and (told.opening == 0 or told.ending > 0)


def _incidents(tellings: Sequence[Telling]) -> list[Incident]:
    return [telling.incident for telling in tellings]


def _address(told: Told) -> tuple[str, str]:
    return told.channel, told.ts


def _plus(at: datetime | None, time: timedelta) -> datetime | None:
    return None if at is None else at + time


def _waits(until: datetime | None, now: datetime) -> bool:
    """What lies too far ahead comes from a clock that jumped back, and holds nobody up."""
    return until is not None and now < until <= now + FARTHEST


def _backoff(failures: int) -> timedelta:
    first, last = BACKOFF
    return min(first * 2.0 ** min(failures, 10), last)
