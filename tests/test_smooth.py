from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.frames import FrameBatch, MattedBatch, PlaneFormat
from vidbg.temporal.smooth import DEFAULT_STRENGTH, LOOKAHEAD_FRAMES, PREROLL_FRAMES, smooth

FORMAT = PlaneFormat("yuv420p", 8, 1, 1, is_rgb=False)

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


def clip(frames: int, seed: int, height: int = 48, width: int = 64) -> tuple[Thumbnails, Mattes]:
    """A pan over a picture, with a matte that flickers, and a cut in the middle."""
    rng = np.random.default_rng(seed)
    scenes = [texture(height + frames, width + 2 * frames, seed * 2 + i) for i in range(2)]
    thumbnails = np.stack(
        [scenes[n > frames // 2][n : n + height, 2 * n : 2 * n + width] for n in range(frames)]
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


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused_at_once(strength: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        smooth([], strength)


def test_nothing_in_nothing_out() -> None:
    assert list(smooth([], 0.8)) == []


@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
def test_a_still_picture_gives_the_weighted_mean_of_the_window(strength: float) -> None:
    levels = np.random.default_rng(0).random(9, np.float32)
    thumbnails = np.repeat(texture(48, 64, 0)[None], 9, axis=0)
    mattes = np.broadcast_to(levels[:, None, None], (9, 48, 64)).copy()

    result = smoothed(thumbnails, mattes, strength)

    for n in range(9):
        ages = np.arange(min(n, PREROLL_FRAMES) + 1)
        weights = strength**ages
        expected = (weights * levels[n - ages]).sum() / weights.sum()
        assert np.abs(result[n] - expected).max() < 2e-4


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_matte_that_is_all_one_value_stays_exact(value: float) -> None:
    thumbnails, _ = clip(8, 2)
    assert (smoothed(thumbnails, np.full((8, 48, 64), value, np.float32)) == value).all()


@settings(deadline=None, max_examples=15)
@given(data=st.data(), seed=st.integers(0, 5))
def test_batches_of_any_size_give_what_batches_of_one_give(data: st.DataObject, seed: int) -> None:
    thumbnails, mattes = clip(8, seed)
    sizes: list[int] = []
    while sum(sizes) < 8:
        sizes.append(data.draw(st.integers(1, 8 - sum(sizes))))

    together = list(smooth(batches(thumbnails, mattes, sizes), 0.8))

    assert [len(batch.matte) for batch in together] == sizes
    assert (np.concatenate([b.matte for b in together]) == smoothed(thumbnails, mattes, 0.8)).all()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 5), n=st.integers(PREROLL_FRAMES, 11), strength=st.floats(0.1, 1.0))
def test_a_segment_that_starts_early_enough_gives_the_same(
    seed: int, n: int, strength: float
) -> None:
    thumbnails, mattes = clip(12, seed)
    start, stop = n - PREROLL_FRAMES, n + LOOKAHEAD_FRAMES + 1

    segment = smoothed(thumbnails[start:stop], mattes[start:stop], strength)

    assert (segment[PREROLL_FRAMES] == smoothed(thumbnails, mattes, strength)[n]).all()


def test_the_whole_window_counts() -> None:
    # The counterpart of the test above: with one frame less the result is another.
    thumbnails, mattes = clip(6, 3)
    thumbnails[:] = thumbnails[:1]
    whole, short = (smoothed(thumbnails[k:], mattes[k:], 0.8)[-1] for k in (0, 6 - PREROLL_FRAMES))
    assert (whole != short).any()


def test_nothing_crosses_a_cut() -> None:
    thumbnails, mattes = clip(8, 4)

    result = smoothed(thumbnails, mattes, 1.0)

    assert (result[5] == mattes[5]).all()
    assert (result[4] != mattes[4]).any()
    assert (result[6] != mattes[6]).any()


def moving_square(frames: int) -> tuple[Thumbnails, Mattes]:
    """A textured square that crosses a textured ground at 4 pixels a frame, and its true matte."""
    ground, subject = texture(96, 160, 10), texture(32, 32, 11) // 2
    thumbnails = np.repeat(ground[None], frames, axis=0)
    mattes = np.zeros((frames, 96, 160), np.float32)
    for n in range(frames):
        x = 10 + 4 * n
        thumbnails[n, 32:64, x : x + 32] = subject
        mattes[n, 32:64, x : x + 32] = 1
    return thumbnails, mattes


def test_a_moving_subject_leaves_no_ghost_and_does_not_lag() -> None:
    thumbnails, truth = moving_square(10)

    result = smoothed(thumbnails, truth, 1.0)

    # The plain average over the same window is what motion has to be known for.
    plain = truth[-1 - PREROLL_FRAMES :].mean(axis=0)
    left, error = np.abs(plain - truth[-1]).sum(), np.abs(result[-1] - truth[-1]).sum()
    assert error < 0.2 * left
    behind = result[-1][32:64, 10 : 10 + 4 * 9 - 3]
    assert behind.mean() < 0.02


def test_flicker_on_a_moving_subject_is_damped() -> None:
    thumbnails, truth = moving_square(16)
    noise = np.random.default_rng(0).normal(0, 0.25, 16).astype(np.float32)
    mattes = np.clip(truth * (0.6 + noise[:, None, None]), 0, 1)

    result = smoothed(thumbnails, mattes, 1.0)

    def inside(values: Mattes) -> NDArray[Any]:
        return np.array([values[n, 40:56, 18 + 4 * n : 34 + 4 * n].mean() for n in range(4, 16)])

    # Independent noise averaged over four frames has half the deviation.
    assert inside(result).std() < 0.65 * inside(mattes).std()


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_sizes_from_one_pixel_on(height: int, width: int) -> None:
    rng = np.random.default_rng(height * 41 + width)
    thumbnails = np.repeat(rng.integers(0, 256, (1, height, width, 3), np.uint8), 4, axis=0)
    mattes = rng.random((4, height, width), np.float32)

    result = smoothed(thumbnails, mattes, 1.0)

    assert result.shape == mattes.shape
    assert np.isfinite(result).all()
    # A mean of the window, and nothing moves.
    assert (result[3] <= mattes.max(axis=0) + 1e-3).all()
    assert (result[3] >= mattes.min(axis=0) - 1e-3).all()
    assert np.abs(result[3] - mattes.mean(axis=0)).max() < 1e-3


def test_old_frames_are_let_go_and_none_is_read_ahead() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    thumbnails, mattes = clip(12, 5)

    def source() -> Iterator[MattedBatch]:
        for n in range(12):
            luma, chroma = np.zeros((1, 64, 64), np.uint8), np.zeros((1, 32, 32), np.uint8)
            alive.append(weakref.ref(luma))
            frames = FrameBatch((luma, chroma, chroma), FORMAT, n)
            yield MattedBatch(frames, thumbnails[n : n + 1].copy(), mattes[n : n + 1].copy())

    steady = smooth(source(), 0.8)
    for n in range(12):
        batch = next(steady)
        assert len(alive) == n + 1 + LOOKAHEAD_FRAMES
        assert batch.frames.first_index == n
        del batch
    assert next(steady, None) is None
    gc.collect()
    assert sum(reference() is not None for reference in alive) == 0


def test_no_more_than_the_current_frame_is_held() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    thumbnails, mattes = clip(6, 6)

    def source() -> Iterator[MattedBatch]:
        for n in range(6):
            gc.collect()
            assert not any(reference() is not None for reference in alive)
            luma = np.zeros((1, 64, 64), np.uint8)
            alive.append(weakref.ref(luma))
            frames = FrameBatch((luma, luma[:, :32], luma[:, 32:]), FORMAT, n)
            del luma
            yield MattedBatch(frames, thumbnails[n : n + 1], mattes[n : n + 1])
            del frames

    for batch in smooth(source(), 0.8):
        del batch
    assert len(alive) == 6
