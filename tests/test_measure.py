"""Clips measured through the pipeline: mattes are painted, so that every figure is known."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from clips import make_clip
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.errors import InputError
from vidbg.evaluation import measure
from vidbg.evaluation.measure import (
    CONN,
    DTSSD,
    GRAD,
    MAD,
    MAE,
    MAX_F_BETA,
    MSE,
    WARP,
    Exhibit,
    F,
    J,
    S,
    evaluate_clip,
    evaluate_pictures,
)
from vidbg.job import Progress, matte_job

WIDTH, HEIGHT, FRAMES = 64, 48, 10
Paint = Callable[[int], NDArray[np.float32]]


@dataclass
class Painter:
    """A segmenter whose mattes are what a function says of their number."""

    paint: Paint
    name: str = "painter"
    seen: int = 0

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        return 3

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        first, self.seen = self.seen, self.seen + len(rgb)
        return np.stack([self.paint(first + n) for n in range(len(rgb))]).astype(np.float32)


def left(share: float = 0.5) -> NDArray[np.float32]:
    matte = np.zeros((HEIGHT, WIDTH), np.float32)
    matte[:, : round(WIDTH * share)] = 1
    return matte


def truth_clip(path: Path, paint: Paint, frames: int = FRAMES) -> Path:
    """Write mattes, of values that 8 bits hold, as lossless grey video."""
    raw = b"".join(np.rint(255 * paint(n)).astype(np.uint8).tobytes() for n in range(frames))
    return make_clip(
        path, size=(WIDTH, HEIGHT), raw=raw, raw_pix_fmt="gray", pix_fmt=None, codec="ffv1"
    )


def truth_folder(path: Path, paint: Paint, frames: int = FRAMES) -> Path:
    path.mkdir()
    for number in range(frames):
        cv2.imwrite(str(path / f"{number}.png"), np.rint(255 * paint(number)).astype(np.uint8))
    return path


def measured(
    clip: Path, truth: Path | None, paint: Paint | None = None, **options: Any
) -> measure.Report:
    job = matte_job(clip, smooth=0.0, edges="off")
    segmenter = None if paint is None else Painter(paint)
    return evaluate_clip(job, truth, segmenter=segmenter, **options)


def lost_halfway(number: int) -> NDArray[np.float32]:
    return left() if number < 5 else np.zeros((HEIGHT, WIDTH), np.float32)


@pytest.mark.parametrize(
    "write",
    [lambda p, f: truth_clip(p / "truth.mkv", f), lambda p, f: truth_folder(p / "truth", f)],
)
def test_figures_of_a_binary_truth(
    tmp_path: Path, plain_clip: Path, write: Callable[[Path, Paint], Path]
) -> None:
    report = measured(plain_clip, write(tmp_path, lambda n: left()), lost_halfway)

    assert report.kind == "binary"
    assert report.frames == FRAMES
    assert list(report.means) == [J, F, MAE, MAX_F_BETA, S, MSE, DTSSD, WARP]
    assert list(report.series[J]) == [1] * 5 + [0] * 5
    assert report.means[J] == report.means[F] == 0.5
    assert report.means[MAE] == pytest.approx(0.25)
    assert report.means[MSE] == pytest.approx(250)
    # Precision and recall are 1 in the half of the frames that have a matte, 0 in the others.
    assert report.means[MAX_F_BETA] == pytest.approx(0.5)
    # All right; then all background where the true half is: objects 0.5 * 1, regions flat.
    assert list(report.series[S])[:5] == pytest.approx([1] * 5)
    # Half of the pixels change by 1, once in nine times.
    changes = list(report.series[DTSSD])
    assert math.isnan(changes[0])
    assert changes[1:] == pytest.approx([0] * 4 + [100 * math.sqrt(0.5)] + [0] * 4)
    assert report.means[DTSSD] == pytest.approx(100 * math.sqrt(0.5) / 9)
    assert report.worst_of(J) == (5, 0)
    assert report.worst_of(DTSSD) == (5, pytest.approx(100 * math.sqrt(0.5)))
    assert report.label(5) == "frame 5, 0:00.20"
    assert report.worst[0].index == 5
    assert report.worst[0].value == 0
    assert [caption for caption, _ in report.worst[0].panels] == [
        "source",
        "matte",
        "truth",
        "difference",
    ]


def test_figures_of_a_soft_truth(tmp_path: Path, plain_clip: Path) -> None:
    level = 102 / 255  # held by 8 bits
    truth = truth_clip(tmp_path / "truth.mkv", lambda n: (0.6 * left() + level).astype(np.float32))
    report = measured(plain_clip, truth, lambda n: left())

    assert report.kind == "alpha"
    assert list(report.means) == [MAD, MSE, GRAD, CONN, DTSSD, WARP, J, F]
    assert report.means[MAD] == pytest.approx(1000 * level / 2)
    assert report.means[MSE] == pytest.approx(1000 * level**2 / 2)
    assert report.means[J] == 1
    assert report.means[DTSSD] == pytest.approx(0, abs=1e-4)
    # The step is 1 instead of 0.6: 0.4 / 0.6 of the truth's slope, squared and so on.
    step = left() * 0.4
    assert report.means[GRAD] == pytest.approx(
        measure.metrics.gradient_error(step, np.zeros_like(step)), rel=1e-3
    )
    # The other half hangs together with nothing in the matte: 0.4 above 0 in the truth alone.
    assert report.means[CONN] == pytest.approx(level * HEIGHT * WIDTH / 2 / 1000, rel=1e-5)


def test_a_matte_that_exists_is_measured_as_it_is(tmp_path: Path, plain_clip: Path) -> None:
    truth = truth_clip(tmp_path / "truth.mkv", lambda n: left(0.5))
    matte = truth_folder(tmp_path / "matte", lambda n: left(0.25))
    report = measured(plain_clip, truth, matte=matte)
    assert report.means[J] == 0.5
    assert report.made_by == f"mattes in {matte}"


def test_steadiness_needs_no_truth(tmp_path: Path) -> None:
    frame = (np.arange(HEIGHT * WIDTH * 3 // 2) % 200).astype(np.uint8).tobytes()
    clip = make_clip(tmp_path / "still.mkv", size=(WIDTH, HEIGHT), raw=FRAMES * frame)
    still = measured(clip, None, lambda n: left())
    assert list(still.means) == [WARP]
    assert still.means[WARP] == 0
    assert still.kind is None
    flickers = measured(clip, None, lambda n: np.full((HEIGHT, WIDTH), 0.2 + 0.4 * (n % 2)))
    assert flickers.means[WARP] == pytest.approx(400, abs=4)
    captions = [caption for caption, _ in flickers.worst[0].panels]
    assert captions == ["source", "matte", "matte of the frame before", "difference"]


def test_what_is_measured_is_what_the_pipeline_makes(tmp_path: Path, plain_clip: Path) -> None:
    # A clip's own alpha is multiplied into the matte.
    alpha = np.rint(255 * left(0.25)).astype(np.uint8).tobytes()
    clip = make_clip(
        tmp_path / "clip.mkv",
        size=(WIDTH, HEIGHT),
        raw=4 * (bytes([100]) * WIDTH * HEIGHT * 3 + alpha),
        raw_pix_fmt="gbrap",
        pix_fmt=None,
        codec="ffv1",
    )
    truth = truth_clip(tmp_path / "truth.mkv", lambda n: left(0.25), frames=4)
    assert measured(clip, truth, lambda n: left(0.5)).means[J] == 1


def test_progress_is_told_frame_by_frame(tmp_path: Path, plain_clip: Path) -> None:
    truth = truth_clip(tmp_path / "truth.mkv", lambda n: left())
    told: list[Progress] = []
    begun: list[int | None] = []
    measured(
        plain_clip,
        truth,
        lambda n: left(),
        on_start=lambda info, total: begun.append(total),
        on_progress=told.append,
    )
    assert begun == [FRAMES]
    assert [one.frames for one in told] == list(range(1, FRAMES + 1))


@pytest.mark.parametrize("frames", [FRAMES - 1, FRAMES + 1])
@pytest.mark.parametrize("is_folder", [True, False])
def test_counts_must_agree(tmp_path: Path, plain_clip: Path, frames: int, is_folder: bool) -> None:
    write = truth_folder if is_folder else truth_clip
    truth = write(tmp_path / "truth.mkv", lambda n: left(), frames)
    painter = Painter(lambda n: left())
    with pytest.raises(InputError, match=f"holds {frames} frames, the clip {FRAMES} frames"):
        evaluate_clip(matte_job(plain_clip), truth, segmenter=painter)
    assert painter.seen == 0  # known before the work


@pytest.mark.parametrize(("count", "words"), [(2, "ends after 2 frames"), (4, "goes on after")])
def test_counts_that_show_at_the_end(count: int, words: str) -> None:
    frames, mattes = [object()] * 3, [left()] * count
    with pytest.raises(InputError, match=f"truth: {words}"):
        list(measure._paired(frames, mattes, Path("truth")))


def test_sizes_must_agree(tmp_path: Path, plain_clip: Path) -> None:
    folder = tmp_path / "truth"
    folder.mkdir()
    for number in range(FRAMES):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((HEIGHT, 80), 255, np.uint8))
    with pytest.raises(InputError, match=rf"truth: is 80x48, .*plain\.mp4 is {WIDTH}x{HEIGHT}"):
        measured(plain_clip, folder, lambda n: left())
    with pytest.raises(InputError, match="is 80x48"):
        measured(plain_clip, None, matte=folder)


def test_a_picture_alone_is_refused(tmp_path: Path) -> None:
    picture = tmp_path / "me.png"
    cv2.imwrite(str(picture), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(InputError, match="Give a TRUTH"):
        measured(picture, None, lambda n: left())


def test_pictures_are_measured_each_by_itself(tmp_path: Path) -> None:
    triples = []
    for name, share in (("a", 0.5), ("b", 0.25)):
        picture, mask = tmp_path / f"{name}.jpg", tmp_path / f"{name}.png"
        cv2.imwrite(str(picture), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
        cv2.imwrite(str(mask), np.rint(255 * left(share)).astype(np.uint8))
        triples.append((picture, mask, None))
    done: list[int] = []
    report = evaluate_pictures(
        matte_job(tmp_path),
        tmp_path,
        triples,
        segmenter=Painter(lambda n: left()),
        on_progress=done.append,
    )
    assert list(report.means) == [J, F, MAE, MAX_F_BETA, S, MSE]  # nothing over time
    assert list(report.series[J]) == [1, 0.5]
    assert report.label(1) == "b.jpg"
    assert done == [1, 2]
    assert [exhibit.index for exhibit in report.worst] == [1, 0]
    # Mattes that exist: the truths themselves.
    given = [(picture, mask, mask) for picture, mask, _ in triples]
    perfect = evaluate_pictures(matte_job(tmp_path), tmp_path, given)
    assert perfect.means[J] == 1
    assert perfect.means[MAE] == 0


def test_memory_does_not_grow_with_the_clip() -> None:
    size = (120, 160)
    tally = measure._Tally("binary", gap=5, is_clip=True)
    rng = np.random.default_rng(0)

    def feed(count: int) -> None:
        for _ in range(count):
            rgb = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
            truth = (rng.random(size) > 0.5).astype(np.float32)
            tally.add(rgb, rng.random(size).astype(np.float32), truth)

    tracemalloc.start()
    feed(100)  # by then there are all exhibits with their pictures
    before, _ = tracemalloc.get_traced_memory()
    feed(60)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Sixty pictures would take 60 * 57 600 bytes at least; some may be replaced by larger ones.
    assert after - before < 60_000


@given(
    badness=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    gap=st.integers(1, 8),
)
def test_exhibits_are_bad_and_apart(badness: list[float], gap: int) -> None:
    exhibits = measure._Exhibits(gap)
    for index, value in enumerate(badness):
        exhibits.offer(value, Exhibit(index, value, ()), lambda: ())
    kept = exhibits.worst_first()
    assert [one.value for one in kept] == sorted((one.value for one in kept), reverse=True)
    assert kept[0].value == max(badness)
    assert len(kept) <= 6
    places = sorted(one.index for one in kept)
    assert all(after - before >= gap for before, after in pairwise(places))


def test_frames_that_get_worse_and_worse_are_shown_all_along() -> None:
    exhibits = measure._Exhibits(10)
    for index in range(1000):
        exhibits.offer(index, Exhibit(index, index, ()), lambda: ())
    assert [one.index for one in exhibits.worst_first()] == [999, 989, 979, 969, 959, 949]
