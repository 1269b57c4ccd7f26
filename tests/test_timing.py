"""Rates and frame numbers from time stamps, against what the stamps were made from."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vidbg.media.timing import (
    STANDARD_RATES,
    grid_start,
    regular_rate,
    repeats_and_drops,
    resampled_count,
    resampling_rate,
    snap_rate,
    trim_range,
    typical_rate,
)

MILLISECOND = Fraction(1, 1000)
# What containers count in: MP4 by x264, MPEG-TS, QuickTime, Matroska, AVI of NTSC film.
TIME_BASES = [Fraction(1, n) for n in (12800, 90000, 600, 1000)] + [Fraction(1001, 24000)]
HALF = Fraction(1, 2)

rates = st.one_of(
    st.sampled_from(STANDARD_RATES),
    st.builds(Fraction, st.integers(1, 240), st.integers(1, 12)),
    st.builds(Fraction, st.integers(2000, 120_000), st.just(1001)),
)
common_rates = st.sampled_from([rate for rate in STANDARD_RATES if rate >= 10])


def stamps_at(
    rate: Fraction, count: int, time_base: Fraction = MILLISECOND, start_s: Fraction = Fraction(0)
) -> list[int]:
    """Return the time stamps of an even clip, rounded to ticks as a muxer rounds them."""
    return [round((start_s + k / rate) / time_base) for k in range(count)]


@given(rates, st.integers(1, 400), st.sampled_from(TIME_BASES), st.integers(0, 5000))
def test_a_stated_rate_that_explains_the_stamps_is_returned(
    rate: Fraction, count: int, time_base: Fraction, start_ms: int
) -> None:
    assume(1 / rate > time_base)
    # What is this near to a standard rate is taken for it.
    assume(all(abs(s - rate) > rate / 50_000 or s == rate for s in STANDARD_RATES))
    stamps = stamps_at(rate, count, time_base, start_ms * MILLISECOND)
    assert regular_rate(stamps, time_base, [None, rate, Fraction(25)]) == rate


@given(common_rates, st.integers(300, 600), st.sampled_from(TIME_BASES[:4]))
def test_a_standard_rate_is_read_off_the_stamps_alone(
    rate: Fraction, count: int, time_base: Fraction
) -> None:
    assert regular_rate(stamps_at(rate, count, time_base), time_base, []) == rate


@given(common_rates, st.integers(200, 500), st.sampled_from([Fraction(12345, 677), Fraction(1000)]))
def test_a_wrong_statement_does_not_beat_the_stamps(
    rate: Fraction, count: int, stated: Fraction
) -> None:
    assert regular_rate(stamps_at(rate, count), MILLISECOND, [stated, None]) == rate


@given(st.builds(Fraction, st.integers(5, 200), st.integers(1, 20)), st.integers(100, 500))
def test_any_rate_is_found_to_within_a_tick_over_the_clip(rate: Fraction, count: int) -> None:
    stamps = stamps_at(rate, count)
    found = regular_rate(stamps, MILLISECOND, [])
    assert found is not None
    assert found.denominator <= 1001
    assert abs(count / found - count / rate) <= 2 * MILLISECOND


def test_the_simplest_of_the_rates_that_fit_is_found() -> None:
    assert regular_rate(stamps_at(Fraction(179, 6), 400), MILLISECOND, []) == Fraction(179, 6)


def test_a_rate_near_the_mean_is_not_made_up_for_a_gap() -> None:
    stamps = [0, *range(80, 4000, 40)]
    assert regular_rate([40 + s for s in [-40, *stamps]], MILLISECOND, []) is None


@given(
    common_rates.filter(lambda rate: rate <= 60),
    st.integers(20, 300),
    st.integers(0, 2**32),
    st.floats(0, 0.45),
)
@example(Fraction(12), 20, 2145054, 0.296875)  # the last is late, the first early
def test_jitter_of_less_than_half_a_frame_is_no_variable_rate(
    rate: Fraction, count: int, seed: int, share: float
) -> None:
    time_base = Fraction(1, 90_000)
    noise = random.Random(seed)
    reach = int(share / rate / time_base)
    stamps = [s + noise.randint(-reach, reach) for s in stamps_at(rate, count, time_base)]
    found = regular_rate(stamps, time_base, [rate])
    assert found == rate
    # Half a frame before its slot no frame has come yet that comes before it, and it has
    # not come itself: trimming relies on that.
    start = grid_start(stamps, time_base, rate)
    errors = [(s * time_base - start) * rate - k for k, s in enumerate(stamps)]
    assert min(errors[1:]) >= -HALF
    assert max(errors[:-1]) <= HALF


@given(
    common_rates.filter(lambda rate: rate <= 120),
    st.integers(12, 200),
    st.data(),
    st.sampled_from([MILLISECOND, Fraction(1, 90_000), Fraction(1, 600)]),
)
def test_a_frame_missing_inside_is_a_variable_rate(
    rate: Fraction, count: int, data: st.DataObject, time_base: Fraction
) -> None:
    stamps = stamps_at(rate, count, time_base)
    del stamps[data.draw(st.integers(2, count - 3))]
    assert regular_rate(stamps, time_base, [rate]) is None
    # Resampled at its own rate it gets exactly that frame back.
    assert resampling_rate(stamps, time_base, rate) == rate
    total = resampled_count(count / rate, rate)
    assert (total, *repeats_and_drops(stamps, time_base, rate, total)) == (count, 1, 0)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(("place", "sign"), [(0, -1), (-1, 1)])
def test_a_first_or_last_stamp_off_the_grid_is_no_variable_rate(
    share: float, place: int, sign: int
) -> None:
    stamps = [1000 + s for s in stamps_at(Fraction(25), 50)]
    stamps[place] += sign * int(40 * share)
    assert regular_rate(stamps, MILLISECOND, [Fraction(25)]) == 25
    start = grid_start(stamps, MILLISECOND, Fraction(25))
    inner = [s * MILLISECOND - start - k / Fraction(25) for k, s in enumerate(stamps)][1:-1]
    assert all(abs(error) <= HALF / 25 for error in inner)


def test_a_first_frame_that_stands_for_long_is_time_and_has_to_stay() -> None:
    stamps = [0, *(500 + s for s in stamps_at(Fraction(25), 50))]
    assert regular_rate(stamps, MILLISECOND, [Fraction(25)]) is None
    assert repeats_and_drops(stamps, MILLISECOND, Fraction(25), 63) == (12, 0)


def test_telecined_film_is_even_at_the_rate_of_film() -> None:
    """Two and three fields in turn: no stamp is further than a quarter frame off."""
    fields = accumulate([0] + [3, 2] * 100)
    stamps = [round(n * 90_000 / Fraction(60_000, 1001)) for n in fields]
    ntsc, film = Fraction(30_000, 1001), Fraction(24_000, 1001)
    assert regular_rate(stamps, Fraction(1, 90_000), [ntsc]) == film


@pytest.mark.parametrize("stated", [[], [None], [Fraction(90_000)], [Fraction(0)]])
def test_a_single_frame_without_a_sane_rate_lasts_a_25th(stated: list[Fraction | None]) -> None:
    assert regular_rate([7], MILLISECOND, stated) == 25


def test_a_single_frame_has_the_stated_rate() -> None:
    assert regular_rate([7], MILLISECOND, [None, Fraction(30)]) == 30


@pytest.mark.parametrize("stamps", [[0, 3_600_000], [0, 3_600_000, 9_000_000, 9_000_040]])
def test_frames_hours_apart_have_a_rate(stamps: list[int]) -> None:
    rate = regular_rate(stamps, MILLISECOND, [None])
    if rate is None:
        rate = resampling_rate(stamps, MILLISECOND, None)
    assert rate >= Fraction(1, 1001)
    count = resampled_count(stamps[-1] * MILLISECOND, rate)
    assert count >= len(stamps)


def test_frames_at_one_time_have_no_rate() -> None:
    assert regular_rate([5, 5, 5], MILLISECOND, [Fraction(25)]) is None


@given(
    common_rates.filter(lambda rate: rate <= 60),
    st.integers(2, 300),
    st.lists(st.integers(2, 299), max_size=5),
)
def test_the_typical_rate_outlives_rounding_and_gaps(
    rate: Fraction, count: int, missing: list[int]
) -> None:
    stamps = [s for k, s in enumerate(stamps_at(rate, count + 300)) if k not in missing]
    assert snap_rate(typical_rate(stamps, MILLISECOND)) == rate


def test_the_stated_rate_is_kept_for_resampling_only_if_it_is_near() -> None:
    stamps = stamps_at(Fraction(179, 6), 300)
    assert resampling_rate(stamps, MILLISECOND, Fraction(179, 6)) == Fraction(179, 6)
    assert resampling_rate(stamps, MILLISECOND, Fraction(600)) == Fraction(30_000, 1001)
    assert resampling_rate([0, 20, 60, 80, 180], MILLISECOND, None) == 50


@pytest.mark.parametrize("rate", STANDARD_RATES)
def test_standard_rates_snap_to_themselves(rate: Fraction) -> None:
    assert snap_rate(rate) == rate
    assert snap_rate(rate * Fraction(10_003, 10_000)) == rate


def test_other_rates_stay() -> None:
    assert snap_rate(Fraction(179, 5)) == Fraction(179, 5)
    assert snap_rate(Fraction(1, 2)) == HALF


@given(st.fractions(0, 100), rates)
def test_the_count_is_the_nearest_and_at_least_one(duration: Fraction, rate: Fraction) -> None:
    count = resampled_count(duration, rate)
    assert count >= 1
    assert abs(count - duration * rate) <= HALF or (count == 1 and duration * rate < HALF)


def slots_by_hand(stamps: list[int], rate: Fraction, count: int) -> list[int]:
    """Return which frame each slot shows: the last whose nearest slot is not after it."""
    shown = []
    for slot in range(count):
        # Nearest slot <= this one: the frame's time is before the middle to the next slot.
        until = (slot + HALF) / rate
        shown.append(max(k for k, s in enumerate(stamps) if (s - stamps[0]) * MILLISECOND < until))
    return shown


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=30),
    st.sampled_from([Fraction(25), Fraction(30_000, 1001), Fraction(10), Fraction(50)]),
    st.integers(0, 400),
)
def test_repeats_and_drops_are_those_of_a_slot_by_slot_search(
    gaps: list[int], rate: Fraction, last_ms: int
) -> None:
    stamps = list(accumulate(gaps, initial=3))
    count = resampled_count((stamps[-1] - stamps[0] + last_ms) * MILLISECOND, rate)
    shown = slots_by_hand(stamps, rate, count)
    unique = len(set(shown))
    expected = (count - unique, len(stamps) - unique)
    assert repeats_and_drops(stamps, MILLISECOND, rate, count) == expected


@given(
    rates,
    st.fractions(0, 20),
    st.one_of(st.none(), st.fractions(0, 30)),
    st.one_of(st.none(), st.fractions(0, 30)),
)
def test_a_trim_keeps_the_frames_that_appear_between_its_ends(
    rate: Fraction, first_s: Fraction, start_s: Fraction | None, end_s: Fraction | None
) -> None:
    begin, stop = trim_range(start_s, end_s, first_s, rate)
    tolerance = Fraction(1, 2000)
    assert begin >= 0

    def appears(index: int) -> Fraction:
        return first_s + index / rate

    if start_s is None:
        assert begin == 0
    else:
        assert appears(begin) >= start_s - tolerance
        assert begin == 0 or appears(begin - 1) < start_s - tolerance
    if end_s is None:
        assert stop is None
    else:
        assert stop is not None
        assert appears(stop) >= end_s - tolerance
        assert stop == 0 or appears(stop - 1) < end_s - tolerance


@given(rates.filter(lambda rate: rate <= 240), st.integers(0, 2000))
def test_a_time_typed_to_three_decimals_means_the_frame_it_was_read_from(
    rate: Fraction, index: int
) -> None:
    typed = Fraction(f"{float(index / rate):.3f}")
    assert trim_range(typed, None, Fraction(0), rate)[0] == index
