"""The access key of an NF-e, as SEFAZ would have authorised it (contracts/protheus-rest.md, 13)."""

from __future__ import annotations

import random

from erp_sync.sandbox.check_digits import check_digit

_STATE = "35"
_MODEL = "55"
_NORMAL_EMISSION = "1"


def nfe_key(cnpj: str, issued: str, series: str, number: str, seed: int) -> str:
    """44 characters: state, year and month of `issued` (YYYYMMDD), CNPJ, model, series, number, emission, code, digit.

    The same invoice has the same key however often it is asked for: its code is drawn from the seed and the rest.
    """
    code = random.Random(f"{seed} {cnpj} {series} {number}").randrange(10**8)
    body = f"{_STATE}{issued[2:6]}{cnpj}{_MODEL}{series.zfill(3)}{number.zfill(9)}{_NORMAL_EMISSION}{code:08}"
    return body + check_digit(body)
