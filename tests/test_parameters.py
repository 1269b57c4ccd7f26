"""Times, colours and devices as people type them."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidbg.cli.parameters import (
    BitRate,
    Device,
    FolderPath,
    Key,
    OutputPath,
    Rate,
    Share,
    Size,
    parse_time,
)
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


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (BitRate(), "8M", 8_000_000),
        (BitRate(), "2.5M", 2_500_000),
        (BitRate(), "800k", 800_000),
        (BitRate(), "64000", 64_000),
        (Rate(), "25", Fraction(25)),
        (Rate(), "30000/1001", Fraction(30000, 1001)),
        (Rate(), "29.97", Fraction(30000, 1001)),
        (Rate(), "23.976", Fraction(24000, 1001)),
        (Rate(), "23.98", Fraction(24000, 1001)),
        (Rate(), "59.94", Fraction(60000, 1001)),
        (Rate(), "12.5", Fraction(25, 2)),
        (Rate(), "24.00", Fraction(24)),
        (Size(), "1280x720", (1280, 720)),
        (Size(), "-1x720", (-1, 720)),
        (Size(), "1280X-1", (1280, -1)),
        (Size(), "640:360", (640, 360)),
    ],
)
def test_rates_and_sizes(kind: click.ParamType, text: str, value: object) -> None:
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((BitRate(), text) for text in ("", "fast", "8G", "-8M", "0", "999", "9999M", "8 M")),
        *((Rate(), text) for text in ("", "0", "0/1", "25/0", "-25", "1001", "nan", "ntsc")),
        *((Size(), text) for text in ("", "720", "1280x", "-2x720", "1280x720x2", "axb")),
    ],
)
def test_what_is_neither_rate_nor_size(kind: click.ParamType, text: str) -> None:
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


def test_a_separator_at_the_end_names_a_folder() -> None:
    folder = OutputPath().convert(f"out{os.sep}", None, None)
    assert isinstance(folder, FolderPath)
    assert folder == Path("out")
    inside = folder / "talk.mp4"
    assert inside == Path("out/talk.mp4")
    assert not isinstance(inside, FolderPath)
    assert not isinstance(OutputPath().convert("out", None, None), FolderPath)
