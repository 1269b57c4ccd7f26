"""Times, colours and devices as people type them."""

from __future__ import annotations

from fractions import Fraction

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidbg.cli.parameters import Device, Key, Share, parse_time
from vidbg.cli.reporting import clock


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", "0"),
        ("12.5", "12.5"),
        (".25", "0.25"),
        ("90", "90"),
        ("1:02.5", "62.5"),
        ("01:02:03.004", "3723.004"),
        ("100:00:00", "360000"),
        (" 7 ", "7"),
    ],
)
def test_times(text: str, seconds: str) -> None:
    assert parse_time(text) == Fraction(seconds)


@pytest.mark.parametrize(
    "text", ["", "-1", "1:60", "1:60:00", "1:2:3:4", "12s", "1:-2", "nan", "inf", "1e3", "٣"]
)
def test_what_is_not_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="not a time"):
        parse_time(text)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_clock_time_is_the_sum_of_its_parts(h: int, m: int, s: int, ms: int) -> None:
    expected = 3600 * h + 60 * m + s + Fraction(ms, 1000)
    assert parse_time(f"{h:02}:{m:02}:{s:02}.{ms:03}") == expected


@given(st.integers(0, 500_000))
def test_a_shown_time_reads_back(seconds: int) -> None:
    assert parse_time(clock(seconds)) == seconds


def test_shares() -> None:
    assert Share().convert("0.25", None, None) == 0.25
    for text in ("nan", "-0.1", "1.1", "inf", "half"):
        with pytest.raises(click.BadParameter):
            Share().convert(text, None, None)


def test_devices_and_keys() -> None:
    assert Device().convert("cuda:1", None, None) == "cuda:1"
    assert Key().convert("#00b140", None, None) == "#00b140"
    assert Key().convert("auto", None, None) == "auto"
    for kind, text in ((Device(), "cuda:"), (Device(), "gpu"), (Key(), "greenish")):
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)
