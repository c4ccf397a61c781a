from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erp_sync.tax_id import mask, normalize


def check_digit(text: str, weights: list[int]) -> str:
    """Modulo 11 over ASCII - 48, written from the rule in contracts/protheus-rest.md, 13: not the library's code."""
    rest = sum((ord(char) - 48) * weight for char, weight in zip(reversed(text), weights, strict=True)) % 11
    return "0" if rest < 2 else str(11 - rest)


def with_check_digits(text: str) -> str:
    for _ in range(2):
        weights = list(range(2, 12)) if len(text) in (9, 10) and text.isdigit() else [2, 3, 4, 5, 6, 7, 8, 9] * 2
        text += check_digit(text, weights[: len(text)])
    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("52998224725", "52998224725"),
        ("529.982.247-25", "52998224725"),
        (" 529 982 247 25 ", "52998224725"),
        ("11222333000181", "11222333000181"),
        ("11.222.333/0001-81", "11222333000181"),
        ("12ABC34501DE35", "12ABC34501DE35"),
        ("12.abc.345/01de-35", "12ABC34501DE35"),
    ],
)
def test_takes_masks_and_lower_case(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither"),
        ("5299822472", "neither"),
        ("052998224725", "neither"),
        ("529982247-2５", "neither"),
        ("５２９９８２２４７２５", "neither"),
        ("52998224725\n", "neither"),
        ("5299822472A", "neither"),
        ("12ABC34501DE3A", "neither"),
        # In upper case it would be a CNPJ.
        (with_check_digits("12ABC34501DS").replace("S", "ſ"), "neither"),
        ("529_982_247_25", "neither"),
        ("111.111.111-11", "repeats"),
        ("00000000000000", "repeats"),
        ("52998224726", "check digits"),
        ("11222333000182", "check digits"),
        ("12ABC34501DE36", "check digits"),
        ("ana@example.com", "neither"),
    ],
)
def test_refuses_and_shows_nothing_of_it(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        normalize(text)
    assert not text.strip() or text.strip() not in str(caught.value)


@given(st.text("0123456789", min_size=9, max_size=9).filter(lambda text: len(set(text)) > 1))
def test_takes_every_cpf_with_right_digits(base: str) -> None:
    assert normalize(with_check_digits(base)) == with_check_digits(base)


@given(
    st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=12, max_size=12).filter(lambda text: len(set(text)) > 1),
    st.integers(1, 9),
)
def test_takes_a_cnpj_with_right_digits_only(base: str, off: int) -> None:
    right = with_check_digits(base)
    assert normalize(right.lower()) == right
    with pytest.raises(ValueError, match="check digits"):
        normalize(right[:-1] + str((int(right[-1]) + off) % 10))


@given(st.text())
def test_takes_nothing_but_the_normal_form(text: str) -> None:
    try:
        normal = normalize(text)
    except ValueError:
        return
    assert normalize(normal) == normal
    assert len(normal) in (11, 14)


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), ("25", "**"), ("52998224725", "*********25"), ("12ABC34501DE35", "*" * 12 + "35")]
)
def test_mask_shows_the_last_two(text: str, expected: str) -> None:
    assert mask(text) == expected
