from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.temporal.scenes import change, is_cut

Frame = NDArray[np.uint8]


def scene(seed: int, height: int = 256, width: int = 448) -> Frame:
    """A picture of soft coloured shapes; each seed has colours and shapes of its own."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), rng.integers(0, 256, 3), np.float32)
    for _ in range(25):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(10, width // 4)), int(rng.integers(10, height // 3)))
        colour = rng.integers(0, 256, 3).tolist()
        cv2.ellipse(picture, centre, axes, float(rng.integers(0, 180)), 0, 360, colour, -1)
    return cv2.GaussianBlur(picture, (0, 0), 2).astype(np.uint8)


@pytest.mark.parametrize("seed", range(12))
def test_another_scene_is_a_cut(seed: int) -> None:
    assert is_cut(scene(seed), scene(seed + 100))


@pytest.mark.parametrize("seed", range(6))
def test_a_pan_is_no_cut(seed: int) -> None:
    wide = scene(seed, 300, 600)
    for dx, dy in ((20, 0), (60, 0), (0, 30), (45, 25)):
        assert not is_cut(wide[:256, :448], wide[dy : dy + 256, dx : dx + 448])


@pytest.mark.parametrize("seed", range(6))
def test_a_subject_that_crosses_a_third_of_the_frame_is_no_cut(seed: int) -> None:
    before, after = scene(seed), scene(seed)
    cv2.circle(before, (100, 128), 50, (250, 240, 20), -1)
    cv2.circle(after, (250, 128), 50, (250, 240, 20), -1)
    assert not is_cut(before, after)


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_no_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noisy = [
        np.clip(scene(seed) + rng.normal(0, 20, (256, 448, 3)), 0, 255).astype(np.uint8)
        for _ in range(2)
    ]
    assert not is_cut(noisy[0], noisy[1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("gain", "offset"), [(1.5, 0), (0.5, 0), (0.8, 50)])
def test_a_flash_or_a_change_of_exposure_is_no_cut(seed: int, gain: float, offset: int) -> None:
    frame = scene(seed)
    lit = np.clip(frame * gain + offset, 0, 255).astype(np.uint8)
    assert not is_cut(frame, lit)
    assert not is_cut(lit, frame)


def test_equal_frames_have_not_changed() -> None:
    assert change(scene(0), scene(0)) < 1e-3


def test_opposite_flat_colours_share_neither_colour_nor_arrangement() -> None:
    black = np.zeros((32, 64, 3), np.uint8)
    # The colours have a Hellinger distance of 1; flat pictures have a correlation of 0.
    assert change(black, black + 255) == pytest.approx(1.0)


def test_a_negative_has_the_opposite_arrangement() -> None:
    half = np.zeros((48, 48, 3), np.uint8)
    half[:, :24] = 255
    # The same two colours, so that the histograms say nothing.
    assert change(half, 255 - half) < 0.2
    blue = half.copy()
    blue[:, 24:] = (0, 0, 255)
    orange = 255 - blue
    assert change(blue, orange) > 1.2


@settings(deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60))
def test_any_size_will_do(height: int, width: int) -> None:
    before, after = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), np.uint8)
    assert 0.0 <= change(before, after) <= 2.0
    assert not is_cut(before, before)


def thumbnails(path: Path) -> list[Frame]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        is_there, frame = capture.read()
        if not is_there:
            return frames
        frames.append(cv2.resize(frame, (448, 256), interpolation=cv2.INTER_AREA)[..., ::-1])


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        "clips/skater_360p_odd_rate.mp4",
        "clips/walk_720p_30.mp4",
        "eval/video/breakdance.mp4",
        "eval/video/libby.mp4",
        "eval/video/scooter-black.mp4",
    ],
)
def test_no_cut_is_seen_within_a_shot(shared_dir: Path, name: str) -> None:
    frames = [np.ascontiguousarray(frame) for frame in thumbnails(shared_dir / "data" / name)]
    assert len(frames) > 30
    assert max(map(change, frames, frames[1:])) < 0.1


@pytest.mark.shared
def test_drone_film_is_one_shot_but_for_a_passage_through_snow(shared_dir: Path) -> None:
    frames = [
        np.ascontiguousarray(frame)
        for frame in thumbnails(shared_dir / "data/clips/car_540p_cuts.mp4")
    ]
    cuts = {n for n in range(1, len(frames)) if is_cut(frames[n - 1], frames[n])}
    # Frame 271 is white all over; the next shot comes out of the snow in 272 to 274.
    assert 271 in cuts
    assert cuts <= {270, 271, 272, 273, 274}


@pytest.mark.shared
def test_frames_of_different_clips_are_cuts(shared_dir: Path) -> None:
    folder = shared_dir / "data/eval/video"
    shots = [
        [np.ascontiguousarray(frame) for frame in thumbnails(path)[::13]]
        for path in sorted(folder.glob("*.mp4"))
        if ".green" not in path.name
    ]
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        first, second = rng.choice(len(shots), 2, replace=False)
        before = shots[first][rng.integers(len(shots[first]))]
        after = shots[second][rng.integers(len(shots[second]))]
        found += is_cut(before, after)
    assert found >= 190
