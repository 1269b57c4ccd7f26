from __future__ import annotations

import gc
import itertools
import tracemalloc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.frames import FrameBatch, MattedBatch, Motion, PlaneFormat
from vidbg.temporal import smooth as smoothing
from vidbg.temporal.flow import motion_between
from vidbg.temporal.smooth import DEFAULT_STRENGTH, LOOKAHEAD_FRAMES, PREROLL_FRAMES, smooth
from vidbg.temporal.trust import grey, half_size

FORMAT = PlaneFormat("yuv420p", 8, 1, 1, is_rgb=False)

STEPS = (8, 4, 2, 1, 1)

Thumbnails = NDArray[np.uint8]
Mattes = NDArray[np.float32]


def batches(
    thumbnails: Thumbnails, mattes: Mattes, sizes: list[int] | None = None
) -> list[MattedBatch]:
    made, first = [], 0
    for size in sizes or [1] * len(mattes):
        luma, chroma = np.zeros((size, 4, 4), np.uint8), np.zeros((size, 2, 2), np.uint8)
        frames = FrameBatch((luma, chroma, chroma), FORMAT, first)
        stop = first + size
        made.append(MattedBatch(frames, thumbnails[first:stop], mattes[first:stop]))
        first = stop
    return made


def smoothed(thumbnails: Thumbnails, mattes: Mattes, strength: float = DEFAULT_STRENGTH) -> Mattes:
    return np.concatenate([b.matte for b in smooth(batches(thumbnails, mattes), strength)])


def texture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A colour picture with structure at several scales."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for sigma in (1.5, 4, 10):
        layer = cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), sigma)
        total += layer / layer.std()
    return np.clip(rng.integers(80, 180, 3) + 25 * total, 0, 255).astype(np.uint8)


def clip(
    frames: int, seed: int, height: int = 48, width: int = 64, cut: int | None = None
) -> tuple[Thumbnails, Mattes]:
    """A pan over a picture, with a matte that flickers, and a cut, in the middle by default."""
    cut = frames // 2 if cut is None else cut
    rng = np.random.default_rng(seed)
    scenes = [texture(height + frames, width + 2 * frames, seed * 2 + i) for i in range(2)]
    thumbnails = np.stack(
        [scenes[n >= cut][n : n + height, 2 * n : 2 * n + width] for n in range(frames)]
    )
    mattes = [
        cv2.GaussianBlur(rng.random((height, width), np.float32), (0, 0), 3) for _ in thumbnails
    ]
    return thumbnails, np.stack(mattes)


def test_no_strength_leaves_the_very_same_objects() -> None:
    given_batches = batches(*clip(5, 0), sizes=[2, 2, 1])

    result = list(smooth(given_batches, 0.0))

    assert len(result) == 3
    assert all(before is after for before, after in zip(given_batches, result, strict=True))


def test_frames_and_thumbnails_pass_through() -> None:
    given_batches = batches(*clip(7, 1), sizes=[3, 3, 1])
    mattes = [batch.matte.copy() for batch in given_batches]

    result = list(smooth(given_batches, 0.8))

    assert len(result) == 3
    for before, matte, after in zip(given_batches, mattes, result, strict=True):
        assert after.frames is before.frames
        assert after.thumbnails is before.thumbnails
        assert after.matte.dtype == np.float32
        assert after.matte.shape == matte.shape
        assert (before.matte == matte).all()


def test_motion_that_is_known_already_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    thumbnails, mattes = clip(20, 3, cut=20)
    greys = [grey(half_size(picture)) for picture in thumbnails]
    known = [motion_between(one, other) for one, other in itertools.pairwise(greys)]
    given_batches = batches(thumbnails, mattes, sizes=[7, 13])
    informed = [
        replace(batch, motions=tuple([*known, None][first : first + len(batch.matte)]))
        for batch, first in zip(given_batches, (0, 7), strict=True)
    ]
    searches = []

    def counted(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> Motion:
        searches.append(None)
        return motion_between(one, other)

    monkeypatch.setattr(smoothing, "motion_between", counted)
    results, counts = [], []
    for some in (given_batches, informed):
        results.append(np.concatenate([batch.matte for batch in smooth(some, 0.8)]))
        counts.append(len(searches))

    assert (results[0] == results[1]).all()
    assert counts == [12 + 16 + 18 + 19, 2 * (12 + 16 + 18) + 19]


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused_at_once(strength: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        smooth([], strength)


def test_nothing_in_nothing_out() -> None:
    assert list(smooth([], 0.8)) == []


def mean_of_votes(
    levels: NDArray[np.float64], strength: float, confidences: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What becomes of one point that is seen in every frame: sums over frames, as matrices."""
    count = len(levels)
    passes = np.eye(count)
    for step in STEPS:
        passes = (np.eye(count) + strength * (np.eye(count, k=step) + np.eye(count, k=-step))) @ (
            passes
        )
    return (passes @ (confidences * levels)) / (passes @ confidences)


@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
def test_a_still_picture_gives_the_weighted_mean_of_the_window(strength: float) -> None:
    levels = np.random.default_rng(0).random(19)
    thumbnails = np.repeat(texture(48, 64, 0)[None], 19, axis=0)
    mattes = np.broadcast_to(levels[:, None, None], (19, 48, 64)).astype(np.float32)

    result = smoothed(thumbnails, mattes, strength)

    expected = mean_of_votes(levels, strength, 0.02 + 0.98 * (2 * levels - 1) ** 4)
    assert np.abs(result - expected[:, None, None]).max() < 1e-3


def test_the_window_reaches_as_far_as_the_steps_together() -> None:
    thumbnails = np.repeat(texture(48, 64, 0)[None], 37, axis=0)
    mattes = np.ones((37, 48, 64), np.float32)
    mattes[18] = 0

    result = smoothed(thumbnails, mattes, 1.0)

    touched = [n for n in range(37) if (result[n] < 1).any()]
    assert touched == list(range(18 - sum(STEPS), 18 + sum(STEPS) + 1))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_matte_that_is_all_one_value_stays_exact(value: float) -> None:
    thumbnails, _ = clip(8, 2)
    assert (smoothed(thumbnails, np.full((8, 48, 64), value, np.float32)) == value).all()


@settings(deadline=None, max_examples=10)
@given(data=st.data(), seed=st.integers(0, 5))
def test_batches_of_any_size_give_what_batches_of_one_give(data: st.DataObject, seed: int) -> None:
    thumbnails, mattes = clip(14, seed)
    sizes: list[int] = []
    while sum(sizes) < 14:
        sizes.append(data.draw(st.integers(1, 14 - sum(sizes))))

    together = list(smooth(batches(thumbnails, mattes, sizes), 0.8))

    assert [len(batch.matte) for batch in together] == sizes
    assert (np.concatenate([b.matte for b in together]) == smoothed(thumbnails, mattes, 0.8)).all()


@pytest.mark.parametrize("event", ["cut", "white", "flash"])
@pytest.mark.parametrize("after", [-18, -12, -8, -6, -3, 0, 3, 6, 7, 9, 16])
def test_a_segment_with_what_is_around_it_gives_the_same(event: str, after: int) -> None:
    """What happens so many frames after frame 22, and how its matte is then made."""
    n = 22
    thumbnails, mattes = clip(44, 4, cut=n + after if event == "cut" else 44)
    if event == "white":
        thumbnails[n + after : n + after + 3] = 255
    elif event == "flash":
        thumbnails[n + after : n + after + 2] = texture(48, 64, 77)
    part = slice(n - PREROLL_FRAMES, n + LOOKAHEAD_FRAMES + 1)

    segment = smoothed(thumbnails[part], mattes[part])

    assert (segment[PREROLL_FRAMES] == smoothed(thumbnails, mattes)[n]).all()


@pytest.mark.parametrize("cut", [3, 8, 12])
def test_nothing_crosses_a_cut(cut: int) -> None:
    thumbnails, mattes = clip(16, 4, cut=cut)

    whole = smoothed(thumbnails, mattes, 1.0)

    apart = [
        smoothed(thumbnails[shot], mattes[shot], 1.0) for shot in (slice(cut), slice(cut, None))
    ]
    assert (whole == np.concatenate(apart)).all()
    assert (whole[cut - 1] != mattes[cut - 1]).any()
    assert (whole[cut] != mattes[cut]).any()


def test_a_flash_does_not_end_the_window() -> None:
    thumbnails = np.repeat(texture(48, 64, 0)[None], 9, axis=0)
    thumbnails[4] = 255
    mattes = np.ones((9, 48, 64), np.float32)
    mattes[:4] = 0.1

    result = smoothed(thumbnails, mattes, 1.0)

    assert (result[3] > 0.2).all()
    assert (result[5] < 0.9).all()


GROUND_PX, SUBJECT_PX, STILL_PX = 160, 80, 40


def moving_square(frames: int, step_px: int = 4) -> tuple[Thumbnails, Mattes]:
    """A textured square that crosses a textured ground, and its true matte.

    A smaller square, above its way, stays where it is and does not belong to the matte.
    """
    width = 40 + SUBJECT_PX + step_px * frames
    ground = texture(GROUND_PX, width, 10)
    subject, still = texture(SUBJECT_PX, SUBJECT_PX, 11) // 2, texture(STILL_PX, STILL_PX, 12) // 2
    ground[8 : 8 + STILL_PX, 60 : 60 + STILL_PX] = still
    thumbnails = np.repeat(ground[None], frames, axis=0)
    mattes = np.zeros(thumbnails.shape[:3], np.float32)
    for n in range(frames):
        square = subject_at(n, step_px)
        thumbnails[n][square] = subject
        mattes[n][square] = 1
    return thumbnails, mattes


def subject_at(n: int, step_px: int = 4, margin_px: int = 0) -> tuple[slice, slice]:
    """Where the square is in frame n, rows and columns, less a margin."""
    y, x = GROUND_PX - SUBJECT_PX - 16, 20 + step_px * n
    side = slice(margin_px, SUBJECT_PX - margin_px)
    return slice(y + side.start, y + side.stop), slice(x + side.start, x + side.stop)


def overlap(matte: NDArray[Any], truth: NDArray[Any]) -> float:
    """Intersection over union at one half."""
    found, true = matte > 0.5, truth > 0.5
    return float((found & true).sum() / max(1, (found | true).sum()))


@pytest.mark.parametrize("step_px", [4, 12, 24])
def test_a_moving_subject_leaves_no_ghost_and_does_not_lag(step_px: int) -> None:
    thumbnails, truth = moving_square(17, step_px)

    result = smoothed(thumbnails, truth, 1.0)

    # The plain average over the same window is what motion has to be known for.
    n, reach = 8, sum(STEPS)
    plain = truth[n - reach : n + reach + 1].mean(axis=0)
    left, error = np.abs(plain - truth[n]).sum(), np.abs(result[n] - truth[n]).sum()
    assert error < 0.1 * left
    assert overlap(result[n], truth[n]) > 0.95
    rows, columns = subject_at(n, step_px, margin_px=-3)
    behind, ahead = result[n][rows, : columns.start], result[n][rows, columns.stop :]
    assert max(behind.mean(), ahead.mean()) < 0.01


def test_a_subject_of_the_colour_of_its_ground_leaves_no_ghost() -> None:
    """Colours are alike everywhere: only the flow tells what was hidden behind the subject."""
    thumbnails, truth = moving_square(17, 8)
    faint = np.rint(122 + (thumbnails.mean(axis=-1, keepdims=True) - 122) / 12)
    for n in range(17):
        square = subject_at(n, 8)
        faint[n][square] += 122 - np.rint(faint[n][square].mean())

    result = smoothed(np.repeat(faint, 3, axis=-1).astype(np.uint8), truth, 1.0)

    for n in range(17):
        rows, columns = subject_at(n, 8, margin_px=-3)
        assert result[n][rows, : columns.start].mean() < 0.1
        assert overlap(result[n], truth[n]) > 0.9


def test_flicker_on_a_moving_subject_is_damped() -> None:
    thumbnails, truth = moving_square(24)
    noise = np.random.default_rng(0).normal(0, 0.25, 24).astype(np.float32)
    mattes = np.clip(truth * (0.7 + noise[:, None, None]), 0, 1)

    result = smoothed(thumbnails, mattes)

    def inside(values: Mattes) -> NDArray[Any]:
        return np.array([values[n][subject_at(n, margin_px=8)].mean() for n in range(24)])

    before, after = (np.abs(np.diff(inside(values))).mean() for values in (mattes, result))
    # A mean of 15 frames would change by a fifteenth; but a few sure ones have most of the say.
    assert after < 0.35 * before


def test_a_still_background_does_not_shimmer() -> None:
    rng = np.random.default_rng(0)
    ground = texture(48, 64, 3)
    grain = rng.normal(0, 3, (20, 48, 64, 3))
    thumbnails = np.clip(ground + grain, 0, 255).astype(np.uint8)
    mattes = np.stack(
        [cv2.GaussianBlur(rng.random((48, 64), np.float32), (0, 0), 2) ** 2 for _ in range(20)]
    )

    result = smoothed(thumbnails, mattes)

    before, after = (np.abs(np.diff(values[6:14], axis=0)).mean() for values in (mattes, result))
    assert after < 0.15 * before


@pytest.mark.parametrize("lost", [0, 1, 8, 16])
def test_a_detection_that_fails_in_one_frame_is_made_up_for(lost: int) -> None:
    thumbnails, truth = moving_square(17)
    mattes = truth.copy()
    mattes[lost] = 0

    result = smoothed(thumbnails, mattes)

    # The outline of what moves is where flow is least to be trusted: there it stays lost.
    assert overlap(result[lost], truth[lost]) > 0.8
    assert min(overlap(result[n], truth[n]) for n in range(17) if n != lost) > 0.98


def test_the_wrong_object_in_some_frames_is_voted_down() -> None:
    """The network takes turns, two frames of five, with another thing that stands there."""
    thumbnails, truth = moving_square(25)
    still = slice(8, 8 + STILL_PX), slice(60, 60 + STILL_PX)
    mattes = truth.copy()
    fails = [n for n in range(25) if n % 5 in (1, 3)]
    mattes[fails] = 0
    mattes[(fails, *still)] = 1

    result = smoothed(thumbnails, mattes)

    for n in range(25):
        assert overlap(result[n], truth[n]) > (0.7 if n in fails else 0.95)
    # In the last frames the window is short, and no more than half of it right.
    assert (result[(slice(21), *still)] < 0.5).all()
    inside = [result[n][subject_at(n, margin_px=8)].mean() for n in range(25)]
    for levels in (inside, result[(slice(None), *still)].mean(axis=(1, 2))):
        assert np.abs(np.diff(levels)).max() < 0.1


def test_a_subject_that_leaves_and_comes_back() -> None:
    """It crosses the frame, is away for six frames, and crosses back."""
    ground, subject = texture(96, 120, 10), texture(32, 32, 11) // 2
    places = [40 + 16 * n for n in range(6)] + [None] * 6 + [120 - 16 * n for n in range(6)]
    thumbnails = np.repeat(ground[None], len(places), axis=0)
    truth = np.zeros((len(places), 96, 120), np.float32)
    for n, x in enumerate(places):
        if x is not None:
            seen = min(32, max(0, 120 - x))
            thumbnails[n, 32:64, x : x + 32] = subject[:, :seen]
            truth[n, 32:64, x : x + 32] = 1

    result = smoothed(thumbnails, truth)

    for n, x in enumerate(places):
        error = np.abs(result[n] - truth[n])
        assert error.mean() < 0.01
        if x is None:
            assert result[n].max() < 0.3
        elif x < 120:
            assert overlap(result[n], truth[n]) > 0.9


def test_what_the_network_is_unsure_of_follows_what_it_is_sure_of() -> None:
    thumbnails = np.repeat(texture(48, 64, 0)[None], 9, axis=0)
    mattes = np.full((9, 48, 64), 0.5, np.float32)
    mattes[3] = 1
    result = smoothed(thumbnails, mattes)
    # Half of the frames, counted alike, would leave it at 0.56.
    assert (result[4] > 0.8).all()


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_sizes_from_one_pixel_on(height: int, width: int) -> None:
    rng = np.random.default_rng(height * 41 + width)
    thumbnails = np.repeat(rng.integers(0, 256, (1, height, width, 3), np.uint8), 4, axis=0)
    mattes = rng.random((4, height, width), np.float32)

    result = smoothed(thumbnails, mattes, 1.0)

    assert result.shape == mattes.shape
    # A mean, and nothing moves; how much frames count depends on how sure they are.
    assert (result <= mattes.max(axis=0) + 1e-3).all()
    assert (result >= mattes.min(axis=0) - 1e-3).all()
    assert np.ptp(result, axis=0).mean() < 0.4 * np.ptp(mattes, axis=0).mean()


def source_of(
    alive: list[weakref.ref[NDArray[np.uint8]]], frames: int, seed: int
) -> Iterator[MattedBatch]:
    """Yield batches of one frame, and keep track of which are still in memory."""
    thumbnails, mattes = clip(frames, seed)
    for n in range(frames):
        luma, chroma = np.zeros((1, 64, 64), np.uint8), np.zeros((1, 32, 32), np.uint8)
        alive.append(weakref.ref(luma))
        planes = luma, chroma, chroma
        del luma
        yield MattedBatch(
            FrameBatch(planes, FORMAT, n), thumbnails[n : n + 1].copy(), mattes[n : n + 1].copy()
        )
        del planes


def test_frames_come_out_as_soon_as_the_last_that_they_depend_on_is_in() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    frames = 30
    steady = smooth(source_of(alive, frames, 5), 0.8)
    for n in range(frames):
        batch = next(steady)
        assert len(alive) == min(frames, n + 1 + LOOKAHEAD_FRAMES)
        assert batch.frames.first_index == n
        del batch
    assert next(steady, None) is None


def test_no_more_frames_are_held_than_the_current_one_and_those_ahead() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    gc.freeze()  # what all other tests have left is not looked through each time
    try:
        for batch in smooth(source_of(alive, 30, 6), 0.8):
            del batch
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= LOOKAHEAD_FRAMES + 1
        gc.collect()
    finally:
        gc.unfreeze()
    assert len(alive) == 30
    assert not any(reference() is not None for reference in alive)


def test_memory_for_each_pixel_of_a_matte() -> None:
    """A smoothed key has mattes of the frame's size: 390 bytes a pixel are 0.8 GB at 1080p."""
    height, width = 180, 320
    thumbnails, mattes = clip(40, 7, height, width, cut=40)

    def batches_made_on_the_way() -> Iterator[MattedBatch]:
        plane = np.zeros((1, 1, 1), np.uint8)
        for n in range(40):
            frames = FrameBatch((plane, plane, plane), FORMAT, n)
            yield MattedBatch(frames, thumbnails[n : n + 1].copy(), mattes[n : n + 1].copy())

    tracemalloc.start()
    for batch in smooth(batches_made_on_the_way(), 0.8):
        del batch
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 420 * height * width


# ---- What is known of mattes that were carried -------------------------------------------------


def known(mattes: Mattes, thumbnails: Thumbnails, **what: Any) -> Mattes:
    given = [
        replace(batch, **{name: values[n : n + 1] for name, values in what.items()})
        for n, batch in enumerate(batches(thumbnails, mattes))
    ]
    return np.concatenate([batch.matte for batch in smooth(given, 0.8)])


def test_a_matte_that_nobody_saw_has_no_say() -> None:
    thumbnails = np.repeat(texture(48, 64, 3)[None], 13, axis=0)
    mattes = np.ones((13, 48, 64), np.float32)
    mattes[1::2] = 0
    trust = np.ones_like(mattes)
    trust[1::2] = 0.001

    assert (known(mattes, thumbnails, trust=trust) > 0.98).all()
    assert known(mattes, thumbnails, trust=np.ones_like(mattes)).min() < 0.6


def test_shots_that_are_told_are_not_looked_for() -> None:
    thumbnails = np.repeat(texture(48, 64, 3)[None], 12, axis=0)
    mattes = np.zeros((12, 48, 64), np.float32)
    mattes[6:] = 1

    told = known(mattes, thumbnails, shots=(0,) * 6 + (1,) * 6)

    np.testing.assert_allclose(told, mattes, atol=1e-4)
    assert np.abs(known(mattes, thumbnails) - mattes).max() > 0.2
