"""Kinds of option values, checked before any work starts."""

from __future__ import annotations

import math
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?", re.ASCII)
_RATE = re.compile(r"(\d{1,9}(?:\.\d{0,9})?)(?:/(\d{1,9}))?", re.ASCII)
_BIT_RATE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([kM]?)", re.ASCII)
_SIZE = re.compile(r"(-1|\d{1,5})[xX:](-1|\d{1,5})", re.ASCII)
# As keyframes.MOST_FRAMES has it, which takes a quarter of a second to import.
_MOST_APART = 12
_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d*)?|\.\d+)", re.ASCII)


def parse_time(text: str) -> Fraction:
    """Return seconds from "12.5", "1:02.5" or "hh:mm:ss.ms", exactly.

    Raises:
        ValueError: It is none of these.
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a time: write seconds (12.5) or hh:mm:ss.ms")
    hours, minutes, last = match.groups()
    value = Fraction(last)
    if minutes is not None and (value >= 60 or (hours is not None and int(minutes) >= 60)):
        raise ValueError(f"{text!r} is not a time: minutes and seconds go to 59")
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + value


# ParamType is not subscripted, because it is generic from click 8.4 on only.
class Time(click.ParamType):  # type: ignore[type-arg]
    """A time in seconds or hh:mm:ss.ms."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        """Return the time as exact seconds."""
        if isinstance(value, Fraction):
            return value
        try:
            return parse_time(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_rate(text: str) -> Fraction:
    """Return frames per second from "25", "23.976" or "30000/1001", exactly.

    A decimal that is a broadcast rate rounded, such as 29.97, stands for that rate.

    Raises:
        ValueError: It is none of these, or not between 1/100 and 1000.
    """
    match = _RATE.fullmatch(text.strip())
    rate = Fraction(0)
    if match is not None and not (match[2] and int(match[2]) == 0):
        rate = Fraction(match[1]) / int(match[2] or 1)
    if not Fraction(1, 100) <= rate <= 1000:
        raise ValueError(f"{text!r} is no frame rate: write 25, 29.97 or 30000/1001")
    broadcast = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    is_rounded = "." in text and abs(broadcast - rate) < Fraction(1, 200)
    return broadcast if is_rounded and broadcast.denominator == 1001 else rate


class Rate(click.ParamType):  # type: ignore[type-arg]
    """Frames per second."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        """Return the rate, exactly."""
        if isinstance(value, Fraction):
            return value
        try:
            return parse_rate(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Number(click.FloatRange):
    """A number in a range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; "nan" is none, though no comparison puts it out of the range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class Share(_Number):
    """A number from 0 to 1."""

    def __init__(self) -> None:
        super().__init__(0, 1)


class Length(_Number):
    """Pixels of the frame, 0 to 200."""

    def __init__(self) -> None:
        super().__init__(0, 200)


class Every(click.ParamType):  # type: ignore[type-arg]
    """Every how many frames: a number, or "auto"."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, once it is known to be one of the two."""
        text = str(value)
        if text != "auto" and not (
            text.isdecimal() and text.isascii() and 1 <= int(text) <= _MOST_APART
        ):
            self.fail(f"{value!r} is neither auto nor a number from 1 to {_MOST_APART}", param, ctx)
        return text


class Key(click.ParamType):  # type: ignore[type-arg]
    """A screen colour: "auto" or a colour."""

    name = "colour"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, once it is known to name a colour."""
        from vidbg.colour_names import parse_colour

        if value != "auto":
            try:
                parse_colour(value)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        return str(value)


class Device(click.ParamType):  # type: ignore[type-arg]
    """Where the network runs."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, once it is known to name a kind of device."""
        if not _DEVICE.fullmatch(str(value)):
            self.fail(f"{value!r} is none of auto, cpu, cuda, cuda:N, mps", param, ctx)
        return str(value)


class FolderPath(type(Path())):  # type: ignore[misc]
    """A path that was written with a separator at its end: it means a folder, there or not."""

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        """Return what is in it: a path like any other, which the separator says nothing of."""
        return Path(self) / name


class OutputPath(click.Path):
    """The name of a result, which tells a folder from a file by a separator at its end."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Path; a :class:`FolderPath` where a separator ends the text."""
        separators = tuple(filter(None, (os.sep, os.altsep)))
        if isinstance(value, str) and value.endswith(separators):
            return FolderPath(value)
        return super().convert(value, param, ctx)


class BitRate(click.ParamType):  # type: ignore[type-arg]
    """Bits a second: 8M, 800k or 8000000."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bits a second."""
        match = _BIT_RATE.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a bit rate: write 8M, 800k or 8000000", param, ctx)
        bits = int(Fraction(match[1]) * {"": 1, "k": 1000, "M": 1_000_000}[match[2]])
        if not 1000 <= bits < 2**31:
            self.fail(f"{value!r} is not from 1k to 2147M", param, ctx)
        return bits


class Size(click.ParamType):  # type: ignore[type-arg]
    """Width and height in pixels, 1280x720; one of them -1 for what keeps the shape."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return width and height."""
        match = _SIZE.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a size: write 1280x720, 1280x-1 or -1x720", param, ctx)
        return int(match[1]), int(match[2])
