"""Frame rates and time stamps: is a clip evenly spaced, at what exact rate, how many frames."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil, floor
from statistics import median_low

# Frames per second of film, television, computer displays and cheap cameras.
STANDARD_RATES: tuple[Fraction, ...] = (
    *(Fraction(n) for n in (6, 8, 10, 12, 15, 18, 20, 24, 25, 30, 48, 50, 60)),
    *(Fraction(n) for n in (72, 75, 90, 100, 120, 144, 240)),
    *(Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120, 240)),
    *(Fraction(15, 2), Fraction(25, 2)),
)

_HALF = Fraction(1, 2)
# What a rate that nobody states may have below its fraction bar: television's 1001.
_MAX_DENOMINATOR = 1001
_MAX_RATE = 1000
# Fewer stamps than this cannot show that their first or last strays from the others.
_MIN_STAMPS_FOR_STRAYS = 5
# Nor fewer than this that their mean distance is what they are meant to have.
_MIN_STAMPS_FOR_MEAN = 12
# Time stamps of Matroska and WebM are whole milliseconds, those of FLV too; what is typed
# on a command line is rarely finer.
_TYPED_TOLERANCE_S = Fraction(1, 2000)
_TIMECODE = re.compile(r"(\d{2}):(\d{2}):(\d{2})([:;.])(\d{2,3})", re.ASCII)


def snap_rate(rate: Fraction) -> Fraction:
    """Return the standard rate within 0.5 % of ``rate``, else ``rate`` with a small denominator.

    Args:
        rate: Frames per second, above 0.
    """
    nearest = min(STANDARD_RATES, key=lambda standard: abs(standard - rate))
    if abs(nearest - rate) <= rate / 200:
        return nearest
    return max(rate.limit_denominator(_MAX_DENOMINATOR), Fraction(1, _MAX_DENOMINATOR))


class _Grid:
    """How far stamps lie from a regular grid, in integers that make it exact.

    Attributes:
        unit: Parts that a tick is divided into.
        step: Parts from one frame to the next.
        low: The least error of a stamp against ``first stamp + k * step``, in parts.
        high: The greatest. The first and the last stamp do not count for these two.
    """

    def __init__(self, stamps: Sequence[int], time_base: Fraction, rate: Fraction) -> None:
        ticks_per_frame = 1 / (rate * time_base)
        self.step = ticks_per_frame.numerator
        self.unit = ticks_per_frame.denominator
        begin = stamps[0]
        errors = [(stamp - begin) * self.unit - k * self.step for k, stamp in enumerate(stamps)]
        self._count = len(errors)
        self._first, self._last = errors[0], errors[-1]
        inner = errors[1:-1] if len(errors) >= _MIN_STAMPS_FOR_STRAYS else errors
        self.low, self.high = min(inner), max(inner)

    def holds(self, tolerance: int) -> bool:
        """Say whether the errors span at most ``tolerance`` parts.

        The first stamp may be up to a frame early and the last up to a frame late: capture
        devices stamp those off the grid.
        """
        return (
            self.high - self.low <= tolerance
            and self.low - self.step <= self._first <= self.low + tolerance
            and self.high - tolerance <= self._last <= self.high + self.step
        )

    @property
    def is_exact(self) -> bool:
        """Every stamp is the grid's, rounded to a tick."""
        return self.holds(self.unit)

    @property
    def is_within_half_a_frame(self) -> bool:
        """Every stamp lies within half a frame of the grid.

        Two ticks less than that: a clip that lacks one frame fits to just half a frame on
        both sides, and has to be seen as uneven, or its sound would be off from there on.
        """
        return self.holds(self.step - 2 * self.unit)

    @property
    def is_within_a_quarter(self) -> bool:
        """Every stamp lies within a quarter frame of the grid.

        For rates that are the mean of the very stamps: a clip that lacks one frame lies
        within half a frame of a grid that is a little slower, and a few stamps within a
        quarter of some grid or other.
        """
        return self._count >= _MIN_STAMPS_FOR_MEAN and self.holds(self.step // 2)

    def origin_ticks(self) -> Fraction:
        """Return where frame 0 belongs, in ticks after the first stamp.

        That is the first stamp itself where all others are within half a frame of the grid
        that starts there, else the middle of what the others say. The first may come early
        and the last late: no frame can be taken for a neighbour of theirs on that side.
        """
        low, high = min(self.low, self._last), max(self.high, self._first)
        if 2 * high <= self.step and -2 * low <= self.step:
            return Fraction(0)
        return Fraction(high + low, 2 * self.unit)


def regular_rate(
    stamps: Sequence[int], time_base: Fraction, candidates: Iterable[Fraction | None]
) -> Fraction | None:
    """Return the exact rate of an evenly spaced clip, or None when it is not.

    A rate that explains every stamp to the tick is preferred to one that comes within half
    a frame of them; and what the container states to what the stamps themselves say, snapped
    to a standard rate or to the simplest fraction.

    Args:
        stamps: Presentation time stamps in ascending order, in ticks; at least one.
        time_base: Seconds per tick.
        candidates: Rates that the container states: the nominal one, then averages. None is
            skipped.
    """
    stated = [None if rate is None else _as_meant(rate) for rate in candidates]
    if len(stamps) < 2:
        return next((rate for rate in stated if rate is not None), Fraction(25))
    span = stamps[-1] - stamps[0]
    if span <= 0:
        return None
    mean = (len(stamps) - 1) / (span * time_base)
    typical = snap_rate(typical_rate(stamps, time_base))
    simplest = _simplest_rate(len(stamps) - 1, span, time_base)
    rates = dict.fromkeys([*stated, typical, snap_rate(mean), simplest])
    grids = {r: _Grid(stamps, time_base, r) for r in rates if r is not None}
    nominal = {*stated[:1], typical}
    for rate, grid in grids.items():
        if grid.is_exact:
            return rate
    for rate, grid in grids.items():
        if rate in nominal and grid.is_within_half_a_frame:
            return rate
    return next((rate for rate, grid in grids.items() if grid.is_within_a_quarter), None)


def _as_meant(stated: Fraction) -> Fraction | None:
    """Return a container's statement of a rate without rounding errors; None if it is absurd.

    Matroska states the nanoseconds of a frame, others 29.97 for 30000/1001.
    """
    if not 0 < stated <= _MAX_RATE:
        return None
    nearest = min(STANDARD_RATES, key=lambda standard: abs(standard - stated))
    return nearest if abs(nearest - stated) <= stated / 100_000 else stated


def grid_start(stamps: Sequence[int], time_base: Fraction, rate: Fraction) -> Fraction:
    """Return when the first frame of an evenly spaced clip belongs, in seconds.

    Args:
        stamps: Presentation time stamps in ascending order, in ticks; at least one.
        time_base: Seconds per tick.
        rate: What :func:`regular_rate` returned.
    """
    return (stamps[0] + _Grid(stamps, time_base, rate).origin_ticks()) * time_base


def _simplest_rate(frames: int, span: int, time_base: Fraction) -> Fraction:
    """Return the rate of the smallest denominator that makes ``frames`` last ``span`` ticks.

    To within a tick, or the nearest rate whose denominator is not absurd.
    """
    low = frames / ((span + 1) * time_base)
    high = frames / ((span - 1) * time_base) if span > 1 else Fraction(_MAX_RATE)
    for denominator in range(1, _MAX_DENOMINATOR + 1):
        numerator = ceil(low * denominator)
        if 0 < numerator <= high * denominator:
            return Fraction(numerator, denominator)
    return snap_rate(frames / (span * time_base))


def typical_rate(stamps: Sequence[int], time_base: Fraction) -> Fraction:
    """Return one over the usual distance between neighbouring stamps, in frames per second.

    That is the mean of the distances within a tick of their median: the median alone would
    take 29.97 frames a second in milliseconds (33, 33, 34) for 30.3.

    Args:
        stamps: Presentation time stamps in ascending order, in ticks; at least two that differ.
        time_base: Seconds per tick.
    """
    gaps = [b - a for a, b in itertools.pairwise(stamps) if b > a]
    middle = median_low(gaps)
    usual = [gap for gap in gaps if abs(gap - middle) <= 1]
    return len(usual) / (sum(usual) * time_base)


def resampling_rate(
    stamps: Sequence[int], time_base: Fraction, stated: Fraction | None
) -> Fraction:
    """Return the rate at which to resample an unevenly spaced clip.

    Args:
        stamps: Presentation time stamps in ascending order, in ticks; at least two that differ.
        time_base: Seconds per tick.
        stated: The rate that the container states, used if the stamps bear it out.
    """
    typical = typical_rate(stamps, time_base)
    rate = None if stated is None else _as_meant(stated)
    # The mean of a few distances in coarse ticks is off by a good part of a tick.
    if rate is not None and abs(1 / rate - 1 / typical) <= max(time_base / 2, 1 / (200 * typical)):
        return rate
    return min(snap_rate(typical), Fraction(_MAX_RATE))


def join_fields(stamps: Sequence[int], ticks_per_frame: Fraction) -> list[int]:
    """Return one stamp a frame of a clip that may have one for each of a frame's two fields.

    Args:
        stamps: Presentation time stamps in ascending order, in ticks; at least one.
        ticks_per_frame: The usual time between decoded frames.
    """
    joined = [stamps[0]]
    for stamp in stamps[1:]:
        if stamp - joined[-1] >= ticks_per_frame * 3 / 4:
            joined.append(stamp)
    return joined


def resampled_count(duration: Fraction, rate: Fraction) -> int:
    """Return how many frames a clip of ``duration`` seconds has at ``rate``: at least one."""
    return max(1, floor(duration * rate + _HALF))


def repeats_and_drops(
    stamps: Sequence[int], time_base: Fraction, rate: Fraction, count: int
) -> tuple[int, int]:
    """Return how many frames resampling by time shows again, and how many it never shows.

    Each frame goes to the nearest slot of the new grid; of several in a slot the last stays;
    an empty slot repeats the frame before it.

    Args:
        stamps: Presentation time stamps in ascending order, in ticks.
        time_base: Seconds per tick.
        rate: Frames per second of the new grid, whose first slot is the first stamp.
        count: Slots in the new grid.
    """
    slots = {floor((stamp - stamps[0]) * time_base * rate + _HALF) for stamp in stamps}
    shown = sum(1 for slot in slots if slot < count)
    return count - shown, len(stamps) - shown


def is_timecode(text: str) -> bool:
    """Say whether a text is an SMPTE time code."""
    return _TIMECODE.fullmatch(text) is not None


def later_timecode(
    timecode: str, frames: int, rate: Fraction, new_rate: Fraction | None = None
) -> str | None:
    """Return the time code of a later frame (SMPTE ST 12-1).

    Time codes count frames at the next whole rate; with drop frame, the first two numbers of
    each minute but every tenth are left out at 30000/1001 frames a second, four at 60000/1001.

    Args:
        timecode: Of the first frame, "hh:mm:ss:ff", or "hh:mm:ss;ff" for drop frame.
        frames: How many frames later.
        rate: Frames per second that the time code counts.
        new_rate: Frames per second that the result counts, from the same moment; None for
            ``rate``.

    Returns:
        The time code, within a day; None if ``timecode`` has more frames than fit a second.
    """
    match = _TIMECODE.fullmatch(timecode)
    if match is None:
        raise ValueError(f"{timecode!r} is no time code")
    hours, minutes, seconds, number = (int(match[n]) for n in (1, 2, 3, 5))
    nominal = ceil(rate)
    if number >= nominal or minutes > 59 or seconds > 59:
        return None
    dropped = _dropped_a_minute(rate) if match[4] in ";." else 0
    count = ((hours * 60 + minutes) * 60 + seconds) * nominal + number
    total_minutes = hours * 60 + minutes
    count += frames - dropped * (total_minutes - total_minutes // 10)
    if new_rate is not None and new_rate != rate:
        count = floor(count / rate * new_rate + _HALF)
        dropped = _dropped_a_minute(new_rate) if dropped else 0
        nominal = ceil(new_rate)
    if dropped:
        per_ten = nominal * 600 - 9 * dropped
        tens, rest = divmod(count, per_ten)
        first_minute = nominal * 60
        count += 9 * dropped * tens
        if rest >= first_minute:
            count += dropped * (1 + (rest - first_minute) // (first_minute - dropped))
    count %= 24 * 3600 * nominal
    whole_s, number = divmod(count, nominal)
    digits = max(2, len(str(nominal - 1)))
    mark = ";" if dropped else ":"
    clock = f"{whole_s // 3600:02}:{whole_s // 60 % 60:02}:{whole_s % 60:02}"
    return f"{clock}{mark}{number:0{digits}}"


def _dropped_a_minute(rate: Fraction) -> int:
    """Return how many frame numbers a minute are left out with drop frame at a rate."""
    return {Fraction(30000, 1001): 2, Fraction(60000, 1001): 4}.get(rate, 0)


def trim_range(
    start_s: Fraction | None,
    end_s: Fraction | None,
    first_frame_s: Fraction,
    rate: Fraction,
) -> tuple[int, int | None]:
    """Return the first frame and one past the last frame whose time is in [start, end).

    A frame's time is when it appears. Half a millisecond of tolerance lets a time that was
    typed to three decimals mean the frame it was read from.

    Args:
        start_s: Seconds on the file's clock, or None for the beginning.
        end_s: Seconds on the file's clock, or None for the end.
        first_frame_s: When the clip's first frame appears, on the same clock.
        rate: Frames per second.
    """

    def index(time_s: Fraction) -> int:
        return max(0, ceil((time_s - first_frame_s - _TYPED_TOLERANCE_S) * rate))

    return (
        0 if start_s is None else index(start_s),
        None if end_s is None else index(end_s),
    )
