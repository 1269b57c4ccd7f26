from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.temporal.scenes import AFTER_FRAMES, BEFORE_FRAMES, change, is_cut, sketch

Frame = NDArray[np.uint8]

SHOT_FRAMES = 12


def cuts(frames: Iterable[Frame]) -> list[int]:
    """Return the frames with which a new shot begins."""
    sketches = [sketch(frame) for frame in frames]
    return [
        n
        for n in range(len(sketches))
        if is_cut(sketches[max(0, n - BEFORE_FRAMES) : n], sketches[n : n + 1 + AFTER_FRAMES])
    ]


def difference(first: Frame, second: Frame) -> float:
    return change(sketch(first), sketch(second))


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


def lit(frame: Frame, gain: float, offset: float = 0.0) -> Frame:
    return np.clip(frame * gain + offset, 0, 255).astype(np.uint8)


def mixed(first: Frame, second: Frame, share: float) -> Frame:
    return np.rint(first * (1 - share) + second * share).astype(np.uint8)


def pan(seed: int, step_px: int, count: int = SHOT_FRAMES) -> list[Frame]:
    """A camera that moves across a scene, by ``step_px`` of 448 a frame."""
    wide = scene(seed, 256, 448 + step_px * count)
    return [wide[:, n * step_px : n * step_px + 448] for n in range(count)]


@pytest.mark.parametrize("seed", range(8))
def test_another_scene_is_a_cut(seed: int) -> None:
    assert cuts([scene(seed)] * 5 + [scene(seed + 100)] * 5) == [5]
    assert cuts(pan(seed, 6) + pan(seed + 100, 6)) == [SHOT_FRAMES]


def test_the_first_frame_is_no_cut_and_the_second_may_be_one() -> None:
    assert cuts([scene(0)]) == []
    assert cuts([scene(0), scene(1)]) == [1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("step_px", [0, 8, 24, 40])
def test_a_pan_is_no_cut(seed: int, step_px: int) -> None:
    assert cuts(pan(seed, step_px)) == []


@pytest.mark.parametrize("seed", range(6))
def test_a_subject_that_crosses_the_frame_in_eight_is_no_cut(seed: int) -> None:
    shot = [scene(seed) for _ in range(8)]
    for n, frame in enumerate(shot):
        cv2.circle(frame, (40 + 56 * n, 128), 50, (250, 240, 20), -1)
    assert cuts(shot) == []


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_no_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noisy = [lit(scene(seed) + rng.normal(0, 20, (256, 448, 3)), 1) for _ in range(6)]
    assert cuts(noisy) == []
    # Nor is it in a black frame, as of a lens with its cap on.
    assert cuts([lit(rng.normal(4, 4, (256, 448, 3)), 1) for _ in range(6)]) == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("gain", "offset"), [(1.5, 0), (0.4, 0), (0.7, 70), (0, 255), (0, 0)])
@pytest.mark.parametrize("count", [1, 2])
def test_a_flash_is_no_cut(seed: int, gain: float, offset: float, count: int) -> None:
    shot = pan(seed, 4)
    shot[5 : 5 + count] = [lit(frame, gain, offset) for frame in shot[5 : 5 + count]]
    assert cuts(shot) == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("gain", "offset"), [(1.3, 0), (0.4, 0), (0.7, 70)])
def test_a_change_of_exposure_that_lasts_is_no_cut(seed: int, gain: float, offset: float) -> None:
    shot = pan(seed, 4)
    assert cuts([*shot[:6], *(lit(frame, gain, offset) for frame in shot[6:])]) == []


def test_a_bird_before_the_lens_is_no_cut() -> None:
    shot = pan(3, 4)
    shot[6] = scene(50)
    assert cuts(shot) == []


@pytest.mark.parametrize("black_frames", [1, 3, 10])
def test_a_fade_through_black_is_one_cut_where_the_next_shot_is_seen(black_frames: int) -> None:
    first, second, gains = pan(1, 3), pan(2, 3), np.linspace(1, 0, 8)
    faded = [lit(f, g) for f, g in zip(first, gains, strict=False)]
    rising = [lit(f, g) for f, g in zip(second, gains[::-1], strict=False)]
    frames = faded + [faded[-1]] * black_frames + rising + second[8:]

    (found,) = cuts(frames)

    begins = len(faded) + black_frames
    assert begins < found <= begins + 2


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_frame_of_both_shots_between_them_makes_one_cut_of_them(share: float) -> None:
    first, second = pan(1, 3), pan(2, 3)
    found = cuts([*first, mixed(first[-1], second[0], share), *second])
    assert len(found) == 1
    assert found[0] in (SHOT_FRAMES, SHOT_FRAMES + 1)


def test_two_cuts_in_a_row_are_two() -> None:
    frames = [scene(0)] * 5 + [scene(1)] * 3 + [scene(2)] * 5
    assert cuts(frames) == [5, 8]


def test_equal_frames_have_not_changed() -> None:
    assert difference(scene(0), scene(0)) < 0.05


def test_change_is_one_less_the_correlation() -> None:
    left = np.zeros((48, 48), np.float32)
    left[:, :24] = 200
    # Nothing is alike at any shift: the middle of each holds the edge, and no edge is turned.
    assert change(left, 200 - left) > 1
    assert change(left, np.full_like(left, 7)) == pytest.approx(1)
    assert change(left, 30 + left / 2) < 0.01


@settings(deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60))
def test_any_size_will_do(height: int, width: int) -> None:
    before, after = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), np.uint8)
    assert -1e-3 <= difference(before, after) <= 2.001
    assert cuts([before] * 4) == []


def test_a_cut_needs_a_frame() -> None:
    with pytest.raises(ValueError, match="frame"):
        is_cut([sketch(scene(0))], [])


@lru_cache
def thumbnails(path: Path) -> list[Frame]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        is_there, frame = capture.read()
        if not is_there:
            return frames
        small = cv2.resize(frame, (112, 64), interpolation=cv2.INTER_AREA)
        frames.append(np.ascontiguousarray(small[..., ::-1]))


@dataclass
class Suite:
    """Frames, and where in them shots begin: each cut may be found anywhere in a range."""

    frames: list[Frame]
    cuts: list[range]

    def add(self, shot: Sequence[Frame], *, seen_from: int = 0, within: int = 1) -> None:
        """Append a shot, whose first frame that may count as one is ``seen_from``."""
        if self.frames:
            begin = len(self.frames) + seen_from
            self.cuts.append(range(begin, begin + within))
        self.frames += shot

    def f1(self) -> float:
        """Harmonic mean of the shares of cuts found and of findings that are cuts."""
        found = cuts(self.frames)
        right = sum(any(n in place for n in found) for place in self.cuts)
        return 2 * right / (len(found) + len(self.cuts))


def still(frames: Sequence[Frame]) -> list[Frame]:
    rng = np.random.default_rng(0)
    return [lit(frames[0] + rng.normal(0, 4, frames[0].shape), 1) for _ in frames]


def flashing(frames: Sequence[Frame]) -> list[Frame]:
    bright = {4: 255.0, 7: 60.0, 8: 60.0}
    return [lit(frame, 1.0, bright.get(n, 0.0)) for n, frame in enumerate(frames)]


def exposed(frames: Sequence[Frame]) -> list[Frame]:
    return [lit(frame, 0.5 if n > 5 else 1.0) for n, frame in enumerate(frames)]


def closer(frames: Sequence[Frame]) -> list[Frame]:
    """The same, from nearer and to one side: a cut within a scene."""
    return [
        cv2.resize(frame[2:36, 4:62], (112, 64), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        for frame in frames
    ]


def shots_of(folder: Path) -> list[list[Frame]]:
    """Two shots a clip, at once and at double speed."""
    shots = []
    for path in sorted(folder.glob("*.mp4")):
        if ".green" not in path.name:
            frames = thumbnails(path)
            shots += [frames[:SHOT_FRAMES], frames[SHOT_FRAMES : 3 * SHOT_FRAMES : 2]]
    return shots


@pytest.mark.shared
def test_cuts_fades_and_flashes_of_real_clips(shared_dir: Path) -> None:
    shots = shots_of(shared_dir / "data/eval/video")
    assert len(shots) == 24
    rng = np.random.default_rng(0)
    changes: list[Callable[[Sequence[Frame]], list[Frame]]] = [list, list, still, flashing, exposed]
    suite = Suite([], [])
    for turn in range(3):
        order = rng.permutation(len(shots))
        for place, number in enumerate(order):
            shot = changes[(place + turn) % len(changes)](shots[number])
            if place % 4 == 3:  # through black: it may be said to begin from black to half light
                gains = np.linspace(0, 1, 6)
                down = [lit(f, g) for f, g in zip(suite.frames[-1:] * 6, gains[::-1], strict=True)]
                up = [lit(f, g) for f, g in zip(shot, gains, strict=False)]
                suite.frames += down + [down[-1]] * (turn % 3)
                suite.add(up + shot[len(up) :], within=4)
            elif place % 4 == 1:  # with a frame of both, as where rates were converted
                suite.frames.append(mixed(suite.frames[-1], shot[0], 0.5))
                suite.cuts.append(range(len(suite.frames) - 1, len(suite.frames) + 1))
                suite.frames += shot
            else:
                suite.add(shot)

    assert len(suite.cuts) == 3 * 24 - 1
    assert suite.f1() >= 0.95


@pytest.mark.shared
def test_a_cut_to_a_closer_view_of_the_same_scene(shared_dir: Path) -> None:
    suite = Suite([], [])
    for shot in shots_of(shared_dir / "data/eval/video"):
        suite.add(shot[:6])
        suite.add(closer(shot[6:]))
    # Where the camera goes in on the subject itself, the picture stays much as it was.
    assert suite.f1() > 0.85


@pytest.mark.shared
@pytest.mark.parametrize("speed", [1, 2])
def test_no_cut_is_seen_within_a_shot(shared_dir: Path, speed: int) -> None:
    paths = [*(shared_dir / "data/clips").glob("*.mp4")]
    paths += (shared_dir / "data/eval/video").glob("*.mp4")
    found = frames = 0
    for path in paths:
        if path.name != "car_540p_cuts.mp4" and ".green" not in path.name:
            shot = thumbnails(path)[::speed]
            found += len(cuts(shot))
            frames += len(shot)
    assert frames > 1000 / speed
    assert found <= (0 if speed == 1 else 1)


@pytest.mark.shared
def test_drone_film_is_cut_once_behind_a_cloud_of_snow(shared_dir: Path) -> None:
    found = cuts(thumbnails(shared_dir / "data/clips/car_540p_cuts.mp4"))
    # Frame 270 shows a red car, 271 is white all over, and a blue car comes out of it.
    assert len(found) == 1
    assert 271 <= found[0] <= 273


@pytest.mark.shared
def test_frames_of_different_clips_are_cuts(shared_dir: Path) -> None:
    shots = shots_of(shared_dir / "data/eval/video")
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        first, second = rng.choice(len(shots) // 2, 2, replace=False)
        found += cuts(shots[2 * first][-5:] + shots[2 * second][:5]) == [5]
    assert found >= 98
