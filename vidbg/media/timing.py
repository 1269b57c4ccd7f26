"""Frame rates and time stamps: is a clip evenly spaced, at what exact rate, how many frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil, floor
from statistics import median

# Frames per second of film, television, computer displays and cheap cameras.
STANDARD_RATES: tuple[Fraction, ...] = (
    *(Fraction(n) for n in (6, 8, 10, 12, 15, 18, 20, 24, 25, 30, 48, 50, 60)),
    *(Fraction(n) for n in (72, 75, 90, 100, 120, 144, 240)),
    *(Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120, 240)),
    *(Fraction(15, 2), Fraction(25, 2)),
)

_STRAYS_ALLOWED = 2
# Time stamps of Matroska and WebM are whole milliseconds, those of FLV too; what is typed
# on a command line is rarely finer.
_TYPED_TOLERANCE_S = Fraction(1, 2000)


def snap_rate(rate: Fraction) -> Fraction:
    """Return the standard rate within 0.5 % of ``rate``, else ``rate`` with a small denominator.

    Args:
        rate: Frames per second, above 0.
    """
    nearest = min(STANDARD_RATES, key=lambda standard: abs(standard - rate))
    if abs(nearest - rate) <= rate / 200:
        return nearest
    return rate.limit_denominator(1001)


def fits_grid(stamps: Sequence[int], time_base: Fraction, rate: Fraction) -> bool:
    """Say whether the k-th stamp lies within half a frame of ``phase + k / rate``.

    The phase is the one that centres the stamps. At most two of them may stray: capture
    devices often stamp their first or last frame off the grid.

    Args:
        stamps: Presentation time stamps in ascending order, in ticks.
        time_base: Seconds per tick.
        rate: Frames per second, above 0.
    """
    ticks_per_frame = 1 / (rate * time_base)
    # Scaled to integers: exact, and a two-hour clip has half a million stamps.
    step = ticks_per_frame.numerator
    unit = ticks_per_frame.denominator
    errors = sorted(stamp * unit - k * step for k, stamp in enumerate(stamps))
    strays = _STRAYS_ALLOWED if len(errors) > 2 * _STRAYS_ALLOWED else 0
    # Leaving out s strays: the narrowest window over len - s consecutive sorted errors.
    kept = len(errors) - strays
    return any(errors[i + kept - 1] - errors[i] <= step for i in range(strays + 1))


def regular_rate(
    stamps: Sequence[int], time_base: Fraction, candidates: Iterable[Fraction | None]
) -> Fraction | None:
    """Return the exact rate of an evenly spaced clip, or None when it is not.

    The container's own statements come first; then the median and the mean distance of
    the stamps, snapped to a standard rate.

    Args:
        stamps: Presentation time stamps in ascending order, in ticks; at least one.
        time_base: Seconds per tick.
        candidates: Rates that the container states, most trusted first; None is skipped.
    """
    stated = [rate for rate in candidates if rate is not None and 0 < rate <= 1000]
    if len(stamps) < 2:
        return stated[0] if stated else Fraction(25)
    span = (stamps[-1] - stamps[0]) * time_base
    if span <= 0:
        return None
    mean = Fraction(len(stamps) - 1) / span
    measured = [snap_rate(typical_rate(stamps, time_base)), snap_rate(mean)]
    measured.append(mean.limit_denominator(1001))
    for rate in [*stated, *measured]:
        if fits_grid(stamps, time_base, rate):
            return rate
    return None


def typical_rate(stamps: Sequence[int], time_base: Fraction) -> Fraction:
    """Return one over the median distance between neighbouring stamps, in frames per second.

    Args:
        stamps: Presentation time stamps in ascending order, in ticks; at least two that differ.
        time_base: Seconds per tick.
    """
    gaps = [b - a for a, b in itertools.pairwise(stamps) if b > a]
    return 1 / (Fraction(median(gaps)) * time_base)


def resampled_count(duration: Fraction, rate: Fraction) -> int:
    """Return how many frames a clip of ``duration`` seconds has at ``rate``: at least one."""
    return max(1, floor(duration * rate + Fraction(1, 2)))


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
    half = Fraction(1, 2)
    slots = {floor((stamp - stamps[0]) * time_base * rate + half) for stamp in stamps}
    shown = sum(1 for slot in slots if slot < count)
    return count - shown, len(stamps) - shown


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
