"""Forged, replayed, late, truncated and mutated webhooks: how many of them does the receiver accept?

    python -m erp_sync_tests.bench.forgery [--requests 100000] [--seed 1]

In this process, against the ASGI application and a real ledger. Everything starts from genuine requests that were
accepted, and knows no secret. Accepted means: an answer below 300, or a new row; but a genuine request sent again as it
was is answered 200, which a sender needs whose first answer was lost, and changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from starlette.types import ASGIApp

from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.webhook.app import receiver
from erp_sync_tests.webhooks import (
    NEW_SECRET,
    NOW,
    SPATIE_SECRET,
    STANDARD_SECRET,
    call,
    settings,
    spatie,
    standard,
    stored,
)


@dataclass(frozen=True)
class Request:
    source: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    apart: int = 0
    """Seconds by which the receiver's clock has gone on since it was signed."""

    def header(self, name: str) -> str:
        return dict(self.headers).get(name, "")

    def but(self, **values: str) -> Request:
        """With other headers; `_` in a name is a hyphen."""
        changed = {**dict(self.headers), **{name.replace("_", "-"): value for name, value in values.items()}}
        return replace(self, headers=tuple(changed.items()))

    def without(self, name: str) -> Request:
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0] != name))

    @property
    def signature(self) -> str:
        return "signature" if self.source != "padrao" else "webhook-signature"

    def signed(self, value: str) -> Request:
        return self.but(**{self.signature: value})


Forge = Callable[[random.Random, Request, Request], Request]
"""Of a genuine request, and another genuine one to mix it with."""


def genuine(rng: random.Random, number: int) -> Request:
    source = ("loja", "fila", "padrao")[number % 3]
    order = str(rng.randrange(1, 10**9)) if source == "fila" else rng.randrange(1, 10**9)
    payload = {"event": "order.paid", "order_id": order, "data": {"order": {"number": order}}, "nome": "João / café"}
    payload["nonce"] = rng.randrange(10**12)
    # As PHP's json_encode writes it.
    body = json.dumps(payload, separators=(",", ":")).replace("/", "\\/").encode()
    if source == "padrao":
        headers = standard(body, f"msg_{number}", NOW + rng.randrange(-200, 200))
    else:
        headers = spatie(body, SPATIE_SECRET if source == "loja" else NEW_SECRET)
    return Request(source, tuple(headers.items()), body)


# Forgeries ------------------------------------------------------------------------------------------------------------


def _flipped(rng: random.Random, one: Request, _other: Request) -> Request:
    body = bytearray(one.body)
    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return replace(one, body=bytes(body))


def _another_order(rng: random.Random, one: Request, _other: Request) -> Request:
    number = str(rng.randrange(1, 10**9)).encode()
    return replace(one, body=re.sub(rb'("order_id":"?)\d+', rb"\g<1>" + number, one.body, count=1) + b" ")


def _truncated(rng: random.Random, one: Request, _other: Request) -> Request:
    return replace(one, body=one.body[: rng.randrange(len(one.body))])


def _longer(rng: random.Random, one: Request, _other: Request) -> Request:
    extra = rng.choice([b" ", b"\n", b"\r\n", b"\0", b"{}", b"\xef\xbb\xbf", one.body])
    return replace(one, body=one.body + extra if rng.random() < 0.5 else extra + one.body)


def _written_anew(rng: random.Random, one: Request, _other: Request) -> Request:
    value = json.loads(one.body)
    body = rng.choice(
        [
            json.dumps(value),
            json.dumps(value, separators=(",", ":")),
            json.dumps(value, ensure_ascii=False, separators=(",", ":")),
            json.dumps(value, sort_keys=True, separators=(",", ":")),
        ]
    ).encode()
    return replace(one, body=body)


def _without_proof(rng: random.Random, one: Request, _other: Request) -> Request:
    names = [name for name, _ in one.headers if name != "content-type"]
    return one.without(rng.choice(names))


def _proof_twice(rng: random.Random, one: Request, other: Request) -> Request:
    pair = (one.signature, rng.choice([one.header(one.signature), other.header(other.signature), "v1,AAAA", ""]))
    return replace(one, headers=(pair, *one.headers) if rng.random() < 0.5 else (*one.headers, pair))


def _signature_changed(rng: random.Random, one: Request, _other: Request) -> Request:
    right = one.header(one.signature)
    place = rng.randrange(3, len(right) - 2)
    wrong = rng.choice([letter for letter in "0123456789abcdef" if letter != right[place]])
    return one.signed(right[:place] + wrong + right[place + 1 :])


def _signature_spelled_otherwise(rng: random.Random, one: Request, _other: Request) -> Request:
    right = one.header(one.signature)
    plain = right.removeprefix("v1,")
    if one.source == "padrao":
        forms = [plain, f"v0,{plain}", f"v1a,{plain}", f"v2,{plain}", f"v1={plain}", f"V1,{plain}", f"v1,{plain},"]
        forms += [right.rstrip("="), right.replace("=", "%3D"), f"v1,,{plain}", f"v1,{plain[:-4]}"]
        forms += [f"v1, {plain}", f"v1,{base64.b64decode(plain).hex()}"]
    else:
        forms = [right.upper(), f"sha256={right}", f"v1,{right}", right[:32], right + "00", f"0x{right}", f'"{right}"']
        forms += [base64.b64encode(bytes.fromhex(right)).decode(), right + " ", right + "\x00", quote(right) + "%00"]
    return one.signed(rng.choice([form for form in forms if form != right]))


def _made_up(rng: random.Random, one: Request, _other: Request) -> Request:
    """By who knows how it is done, and not the secret."""
    signed, keys = one.body, [b"", b"secret", b"segredo-de-test", b"segredo-de-teste ", rng.randbytes(16), one.body]
    if one.source == "padrao":
        signed = f"{one.header('webhook-id')}.{one.header('webhook-timestamp')}.".encode() + one.body
        keys += [STANDARD_SECRET.encode()[:-1], b"whsec_", SPATIE_SECRET.encode()]
    key, kind = rng.choice(keys), rng.choice(["sha256", "sha1", "sha512", "md5"])
    digest = rng.choice([hmac.new(key, signed, kind).digest(), hashlib.new(kind, key + signed).digest()])
    return one.signed(f"v1,{base64.b64encode(digest).decode()}" if one.source == "padrao" else digest.hex())


def _secret_not_decoded(_rng: random.Random, one: Request, _other: Request) -> Request:
    """With the letters of the secret for a key: a scheme's secret, but not its key."""
    if one.source != "padrao":
        return one.signed(hmac.new(base64.b64encode(SPATIE_SECRET.encode()), one.body, "sha256").hexdigest())
    signed = f"{one.header('webhook-id')}.{one.header('webhook-timestamp')}.".encode() + one.body
    digest = hmac.new(STANDARD_SECRET.encode(), signed, "sha256").digest()
    return one.signed(f"v1,{base64.b64encode(digest).decode()}")


def _proof_of_another(_rng: random.Random, one: Request, other: Request) -> Request:
    return replace(one, body=other.body) if one.body != other.body else one.without(one.signature)


def _to_another_source(rng: random.Random, one: Request, _other: Request) -> Request:
    places = ["loja", "fila", "padrao", "nobody", "LOJA", "loja ", "loja%00", "loja;fila", "..", "*", "lojа", "loja\n"]
    return replace(one, source=rng.choice([place for place in places if place != one.source]))


def _to_another_address(rng: random.Random, one: Request, _other: Request) -> Request:
    return replace(one, source=one.source + rng.choice(["/", "/x", "//", "/../fila", "/.", "\\", "?x", "#"]))


def _time_moved(rng: random.Random, one: Request, _other: Request) -> Request:
    moment = int(one.header("webhook-timestamp"))
    moved = moment + rng.choice([-1, 1]) * rng.randrange(1, 90)
    forms = [str(moved), f"+{moment}", f"0{moment}", f"{moment}.0", f" {moment}", f"{moment:_}", hex(moment), "", "nan"]
    return one.but(webhook_timestamp=rng.choice(forms))


def _id_changed(rng: random.Random, one: Request, other: Request) -> Request:
    mine = one.header("webhook-id")
    theirs = other.header("webhook-id") if other.source == "padrao" and other != one else "msg_other"
    forms = [
        theirs,
        mine.upper(),
        mine + "x",
        mine[:-1],
        "",
        f"{mine}.{one.header('webhook-timestamp')}",
        f"{mine}\x00",
    ]
    return one.but(webhook_id=rng.choice(forms))


def _parts_moved(rng: random.Random, one: Request, _other: Request) -> Request:
    """The same signed text, parted elsewhere."""
    if one.source != "padrao":
        return replace(one, body=one.header("signature").encode() + one.body)
    mine, moment = one.header("webhook-id"), one.header("webhook-timestamp")
    moved = [
        (f"{mine}.{moment}", "", one.body),
        (mine, "", f"{moment}.".encode() + one.body),
        ("", mine, f"{moment}.".encode() + one.body),
        ("", "", f"{mine}.{moment}.".encode() + one.body),
    ]
    event, at, body = rng.choice(moved)
    return replace(one.but(webhook_id=event, webhook_timestamp=at), body=body)


def _late(rng: random.Random, one: Request, _other: Request) -> Request:
    """What was genuine then: seconds, days or years ago, or by a clock that runs ahead."""
    off = NOW - int(one.header("webhook-timestamp"))
    apart = rng.choice([301, 302, 600, 86_400, 10**8, -301, -400, -86_400]) - off
    # With an id that is new to the receiver: it never got it, somebody kept it.
    return replace(_FRESH[one], apart=apart)


def _encoded(rng: random.Random, one: Request, _other: Request) -> Request:
    packed = rng.choice([gzip.compress(one.body), base64.b64encode(one.body), one.body])
    coding = rng.choice(["gzip", "deflate", "br", "identity, gzip", "x"])
    return replace(one, body=packed).but(content_encoding=coding)


def _of_another_type(rng: random.Random, one: Request, _other: Request) -> Request:
    kind = rng.choice(
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "json"]
    )
    return one.but(content_type=kind)


def _again(_rng: random.Random, one: Request, _other: Request) -> Request:
    return one


FORGERIES: dict[str, Forge] = {
    forge.__name__.strip("_"): forge
    for forge in (
        _flipped,
        _another_order,
        _truncated,
        _longer,
        _written_anew,
        _without_proof,
        _proof_twice,
        _signature_changed,
        _signature_spelled_otherwise,
        _made_up,
        _secret_not_decoded,
        _proof_of_another,
        _to_another_source,
        _to_another_address,
        _time_moved,
        _id_changed,
        _parts_moved,
        _late,
        _encoded,
        _of_another_type,
        _again,
    )
}
OF_STANDARD = {"time_moved", "id_changed", "late"}
"""Spatie's scheme signs neither time nor id: what is there of them is not looked at."""
_FRESH: dict[Request, Request] = {}
"""A genuine request of the standard scheme = another of the same time that never came to the receiver."""


# The attempt ----------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    tried: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    """By kind: answers below 300 that no genuine sender is behind."""
    replays: int = 0
    """Genuine requests once more as they were: answered 200."""
    new_rows: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0


def attempt(ledger: Ledger, count: int, seed: int = 1) -> Report:
    """`count` forgeries, after thirty genuine events that the receiver has."""
    now = [float(NOW)]
    app = receiver(settings(), ledger, clock=lambda: now[0])
    return asyncio.run(_attempt(app, ledger, now, count, random.Random(seed)))


async def _attempt(app: ASGIApp, ledger: Ledger, now: list[float], count: int, rng: random.Random) -> Report:
    report = Report()
    known = [genuine(rng, number) for number in range(30)]
    _FRESH.clear()
    for number, one in enumerate(known):
        assert await _sent(app, one) == 202
        if one.source == "padrao":
            fresh = standard(one.body, f"kept_{number}", int(one.header("webhook-timestamp")))
            _FRESH[one] = replace(one, headers=tuple(fresh.items()))
    before = stored(ledger)
    kinds = list(FORGERIES)
    started = time.perf_counter()
    for number in range(count):
        kind = kinds[number % len(kinds)]
        one, other = rng.sample(list(_FRESH) if kind in OF_STANDARD else known, 2)
        forged = FORGERIES[kind](rng, one, other)
        now[0] = NOW + forged.apart
        status = await _sent(app, forged)
        report.tried[kind] += 1
        report.statuses[status] += 1
        if status == 200 and forged == one:
            report.replays += 1
        elif status < 300:
            report.accepted[kind] += 1
    report.seconds = time.perf_counter() - started
    after = stored(ledger)
    assert set(before) <= set(after)
    report.new_rows = len(after) - len(before)
    return report


async def _sent(app: ASGIApp, request: Request) -> int:
    # A path is UTF-8 on the wire, a header is what latin-1 can say.
    answer = await call(app, "POST", f"/webhooks/{request.source}", list(request.headers), [request.body])
    return answer.status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'ledger.sqlite'}"
        migrate(url)
        ledger = open_ledger(url)
        report = attempt(ledger, given.requests, given.seed)
        ledger.close()
    for kind, tried in sorted(report.tried.items()):
        scheme = " (of the standard scheme: spatie's signs no time and no id)" if kind in OF_STANDARD else ""
        print(f"{kind:<28} {tried:>7} tried, {report.accepted[kind]} accepted{scheme}")
    print(f"answers: {dict(sorted(report.statuses.items()))}")
    print(
        f"{sum(report.tried.values())} requests in {report.seconds:.1f} s: {sum(report.accepted.values())} accepted, "
        f"{report.new_rows} new rows; {report.replays} genuine ones again, confirmed and without effect"
    )


if __name__ == "__main__":
    main()
