"""Which frames are looked at, and what the others get."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import decode_planes, make_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg import pipeline
from vidbg.frames import FrameBatch, MattedBatch, PlaneFormat
from vidbg.job import Job, matte_job
from vidbg.media.encode import Output
from vidbg.media.probe import probe
from vidbg.temporal.flow import motion_between
from vidbg.temporal.keyframes import ADAPTIVE, MOST_FRAMES, Expected, Rhythm, carried
from vidbg.temporal.trust import grey, half_size

HEIGHT, WIDTH = 64, 96
FORMAT = PlaneFormat("yuv444p", 8, 0, 0, is_rgb=False)


def ground(seed: int = 0) -> NDArray[np.uint8]:
    """Return a picture with enough structure for a flow to hold on to, uint8 R'G'B'."""
    small = np.random.default_rng(seed).uniform(40, 215, (HEIGHT // 8 + 1, WIDTH // 8 + 1, 3))
    grown = np.kron(small, np.ones((8, 8, 1)))[:HEIGHT, :WIDTH]
    return grown.astype(np.uint8)


def square_at(column: int) -> tuple[slice, slice]:
    return slice(20, 44), slice(column, column + 24)


def moving(count: int, speed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return frames of a square on a still ground, and its mattes."""
    pictures, mattes = [], []
    for n in range(count):
        picture, matte = ground(), np.zeros((HEIGHT, WIDTH), np.float32)
        place = square_at(8 + speed * n)
        picture[place] = ground(1)[place[0], 8:32]
        matte[place] = 1
        pictures.append(picture)
        mattes.append(matte)
    return np.stack(pictures), np.stack(mattes)


@dataclass
class Eye:
    """A network that knows the true mattes, and keeps which frames it was asked for.

    What is expected of a frame sways it by so much.
    """

    mattes: NDArray[np.float32]
    sway: float = 0.0
    calls: list[list[int]] = field(default_factory=list)
    expected: dict[int, Expected] = field(default_factory=dict)

    def __call__(
        self,
        frames: FrameBatch,
        thumbnails: NDArray[np.uint8],
        places: Sequence[int],
        expected: Sequence[Expected | None],
    ) -> NDArray[np.float32]:
        assert len(thumbnails) == len(frames)
        self.calls.append([frames.first_index + place for place in places])
        mattes = self.mattes[self.calls[-1]]
        for index, matte, what in zip(self.calls[-1], mattes, expected, strict=True):
            if what is not None:
                self.expected[index] = what
                matte += np.float32(self.sway) * (what.matte + what.reach - 2 * matte)
        return mattes

    @property
    def seen(self) -> list[int]:
        return sorted(index for call in self.calls for index in call)


def batches(
    pictures: NDArray[np.uint8], sizes: Sequence[int] = (), first: int = 0
) -> Iterator[tuple[FrameBatch, NDArray[np.uint8]]]:
    """Yield frames in batches of these sizes, and one by one when these are used up."""
    remaining, left = first, list(sizes)
    while remaining < len(pictures):
        chosen = pictures[remaining : remaining + (left.pop(0) if left else 1)]
        plane = np.zeros((len(chosen), 2, 2), np.uint8)
        yield FrameBatch((plane, plane, plane), FORMAT, remaining), chosen
        remaining += len(chosen)


def run(
    pictures: NDArray[np.uint8], eye: Eye, rhythm: Rhythm, sizes: Sequence[int] = (), first: int = 0
) -> list[MattedBatch]:
    return list(carried(batches(pictures, sizes, first), eye, rhythm))


def test_what_stands_still_is_looked_at_every_eighth_frame() -> None:
    pictures, mattes = moving(25, 0)
    eye = Eye(mattes)
    found = run(pictures, eye, ADAPTIVE)
    assert eye.seen == [0, 8, 16, 24]
    for batch in found:
        np.testing.assert_allclose(batch.matte, mattes[:1], atol=1e-6)


def test_a_moving_matte_is_carried_along() -> None:
    pictures, mattes = moving(17, 2)
    eye = Eye(mattes)
    found = np.concatenate([batch.matte for batch in run(pictures, eye, Rhythm(4, False))])
    assert eye.seen == [0, 4, 8, 12, 16]
    wrong = np.abs(found - mattes) > 0.5
    assert wrong.mean() < 0.01  # the square is a tenth of the picture
    # Held still instead of carried, a band of 2 to 4 pixels on either side would be wrong.
    held = mattes[np.arange(17) // 4 * 4]
    assert wrong.sum() < 0.4 * (np.abs(held - mattes) > 0.5).sum()


@pytest.mark.parametrize("sizes", [(), (3, 5, 1, 9, 7)])
def test_motion_to_the_next_frame_is_handed_on(sizes: Sequence[int]) -> None:
    """It has been found on the way: the same as anybody would find between the two."""
    pictures, mattes = moving(25, 2)
    pictures[13:] = 255 - pictures[13:]  # a cut
    greys = [grey(half_size(picture)) for picture in pictures]

    found = [
        motion for batch in run(pictures, Eye(mattes), ADAPTIVE, sizes) for motion in batch.motions
    ]

    assert [n for n, motion in enumerate(found) if motion is None] == [12, 24]
    for n, motion in enumerate(found):
        if motion is not None:
            expected = motion_between(greys[n], greys[n + 1])
            np.testing.assert_array_equal(motion.onward, expected.onward)
            np.testing.assert_array_equal(motion.home, expected.home)


def test_a_network_of_two_minds_is_asked_about_every_frame() -> None:
    pictures, mattes = moving(25, 0)
    # Each of these is another than what its neighbours in the halving would make it.
    mattes[[2, 8, 14, 18, 24]] = 0
    eye = Eye(mattes)
    run(pictures, eye, ADAPTIVE)
    assert eye.seen == list(range(25))


def test_where_it_looked_its_word_stands() -> None:
    pictures, mattes = moving(9, 1)
    found = run(pictures, Eye(mattes), Rhythm(4, False))
    for batch in found:
        assert batch.trust is not None
        index = batch.frames.first_index
        if index % 4 == 0:
            np.testing.assert_array_equal(batch.matte[0], mattes[index])
            assert (batch.trust == 1).all()
        else:
            assert 0 < batch.trust.min() <= batch.trust.max() <= 1


@pytest.mark.parametrize("rhythm", [ADAPTIVE, Rhythm(5, False), Rhythm(MOST_FRAMES, False)])
@pytest.mark.parametrize("cut", [1, 7, 8, 9, 13])
def test_nothing_is_carried_across_a_cut(rhythm: Rhythm, cut: int) -> None:
    pictures, mattes = moving(24, 0)
    pictures[cut:] = ground(7)[::-1]
    mattes[cut:] = 0
    mattes[cut:, :10] = 1
    eye = Eye(mattes)
    found = np.concatenate([batch.matte for batch in run(pictures, eye, rhythm)])
    assert {cut - 1, cut} <= set(eye.seen)
    np.testing.assert_allclose(found, mattes, atol=1e-6)


@pytest.mark.parametrize("count", range(1, 20))
def test_a_clip_of_any_length_comes_out_whole(count: int) -> None:
    pictures, mattes = moving(count, 1)
    eye = Eye(mattes)
    found = run(pictures, eye, ADAPTIVE)
    assert [batch.frames.first_index for batch in found] == list(range(count))
    assert {0, count - 1} <= set(eye.seen)
    assert len(eye.seen) == len(set(eye.seen))


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=8),
    block=st.integers(2, MOST_FRAMES),
    is_adaptive=st.booleans(),
)
def test_sizes_of_batches_change_nothing(sizes: list[int], block: int, is_adaptive: bool) -> None:
    pictures, mattes = moving(22, 2)
    rhythm = Rhythm(block, is_adaptive)
    one_by_one, together = Eye(mattes), Eye(mattes)
    expected = np.concatenate([b.matte for b in run(pictures, one_by_one, rhythm)])
    found = run(pictures, together, rhythm, sizes)
    np.testing.assert_array_equal(np.concatenate([b.matte for b in found]), expected)
    assert together.seen == one_by_one.seen


def test_frames_of_a_batch_that_are_due_are_looked_at_together() -> None:
    pictures, mattes = moving(16, 0)
    eye = Eye(mattes)
    run(pictures, eye, Rhythm(3, False), [16])
    assert eye.calls == [[0, 3, 6, 9, 12, 15]]


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(0, 40),
    count=st.integers(1, 12),
    block=st.integers(1, MOST_FRAMES),
    is_adaptive=st.booleans(),
)
def test_a_part_is_as_in_the_whole(first: int, count: int, block: int, is_adaptive: bool) -> None:
    frames = 60
    pictures, mattes = moving(frames, 1)
    pictures[23:] = pictures[23:, ::-1]  # a cut
    mattes[23:] = mattes[23:, ::-1]
    mattes[::3] *= np.float32(0.2)  # and a network of two minds
    rhythm = Rhythm(block, is_adaptive)
    stop = min(frames, first + count)
    begin, end = rhythm.reach(first, stop)
    assert end is not None
    assert begin <= first
    assert end >= stop
    whole = np.concatenate([b.matte for b in run(pictures, Eye(mattes, 0.1), rhythm)])
    part = np.concatenate(
        [b.matte for b in run(pictures[: min(end, frames)], Eye(mattes, 0.1), rhythm, first=begin)]
    )
    np.testing.assert_array_equal(part[first - begin : stop - begin], whole[first:stop])


@pytest.mark.parametrize("rhythm", [ADAPTIVE, *(Rhythm(n, False) for n in range(1, 9))])
def test_looks_next_to_each_other_differ(rhythm: Rhythm) -> None:
    for step in {1, 2, 4, 8} if rhythm.is_adaptive else {rhythm.block}:
        turns = [rhythm.turn(n) % 4 for n in range(0, 64, step)]
        same = sum(a == b for a, b in itertools.pairwise(turns))
        assert same <= len(turns) // 4
        assert set(turns) == {0, 1, 2, 3}


def growing(to: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return 17 frames of a still ground, of which the network sees more from the ninth on."""
    pictures, mattes = moving(17, 0)
    mattes[8:] = 0
    mattes[8:, 20:44, 8 : 8 + to] = 1
    return pictures, mattes


def test_what_is_expected_is_told_where_the_network_is_of_one_mind() -> None:
    pictures, mattes = growing(33)  # 24 of 33 columns are in both
    eye = Eye(mattes)
    run(pictures, eye, ADAPTIVE)

    # Between the ends of the block in which they differ, never at an end.
    assert {3, 4} & set(eye.expected)
    assert set(eye.expected) == set(eye.seen) - {0, 8, 16}
    for index, what in eye.expected.items():
        assert 0 < index < 8
        # In both, the square; in neither, what no end shows.
        np.testing.assert_allclose(what.matte[20:44, 9:31], 1, atol=1e-3)
        assert what.matte[:, 45:].max() < 1e-3
        np.testing.assert_allclose(what.reach, mattes[8], atol=1e-3)


def test_nothing_is_expected_where_the_network_is_of_two_minds() -> None:
    pictures, mattes = growing(72)
    eye = Eye(mattes)
    run(pictures, eye, ADAPTIVE)

    assert set(eye.seen) > {0, 8, 16}
    assert not eye.expected


def test_nothing_is_expected_next_to_a_cut() -> None:
    pictures, mattes = growing(33)
    pictures[4:] = ground(7)[::-1]
    eye = Eye(mattes)
    run(pictures, eye, ADAPTIVE)

    assert {3, 4} <= set(eye.seen)
    assert not {0, 3, 4, 8, 16} & set(eye.expected)


@pytest.mark.parametrize("block", [0, -1, MOST_FRAMES + 1])
def test_other_blocks_are_refused(block: int) -> None:
    with pytest.raises(ValueError, match=f"every {block}th"):
        Rhythm(block, False)
    with pytest.raises(ValueError, match=f"every {block}th"):
        matte_job("clip.mp4", every=block)


def test_few_frames_are_held() -> None:
    alive: list[weakref.ref[Any]] = []
    pictures, mattes = moving(64, 0)

    def watched() -> Iterator[tuple[FrameBatch, NDArray[np.uint8]]]:
        for frames, thumbnails in batches(pictures):
            alive.append(weakref.ref(frames.planes[0]))
            yield frames, thumbnails
            del frames, thumbnails

    for batch in carried(watched(), Eye(mattes), ADAPTIVE):
        del batch
        assert sum(reference() is not None for reference in alive) <= 8 + 3


# ---- In the pipeline ---------------------------------------------------------------------------


@dataclass
class Counting:
    """A slow network whose subject is what is bright."""

    name: str = "counting"
    square_size: tuple[int, int] = (48, 48)
    is_slow: bool = True
    frames: int = 0

    def prepare(self, sizes: Iterable[tuple[int, int]]) -> None:
        pass

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        return 1

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.frames += len(rgb)
        return (rgb[..., 1] > 127).astype(np.float32)


def looks_at(source: Path, **options: Any) -> int:
    network = Counting(is_slow=options.pop("is_slow", True))
    count = 0
    for batch in pipeline.read_mattes(matte_job(source, **options), probe(source), network):
        count += len(batch.frames)
    assert count == 33
    return network.frames


def test_every_frame_where_that_is_wanted_or_costs_nothing(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=33)
    assert looks_at(source, every=1) == 33
    assert looks_at(source, is_slow=False) == 33
    assert looks_at(source, smooth=0.0) == 33
    assert looks_at(source, looks=2) == 66
    # Every fourth, and what is next to a cut.
    assert 9 <= looks_at(source, every=4) == looks_at(source, every=4, smooth=0.0) < 20
    assert looks_at(source) < 33


@pytest.mark.parametrize("options", [{}, {"every": 3}, {"every": 5, "smooth": 0.0}])
def test_a_trim_has_the_mattes_of_the_whole_clip(tmp_path: Path, options: dict[str, Any]) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=60)
    planes = {}
    for name, times in (
        ("all", {}),
        ("part", {"start_s": Fraction(27, 25), "end_s": Fraction(38, 25)}),
    ):
        output = Output(tmp_path / f"{name}.mkv", "matte", "ffv1")
        pipeline.run(Job(source, output, **times, **options), segmenter=Counting())
        planes[name] = decode_planes(tmp_path / f"{name}.mkv")[0]
    np.testing.assert_array_equal(planes["part"], planes["all"][27:38])


def flickering(path: Path, width: int) -> Path:
    """Write 40 frames of a green square that moves, with a band that is bright half of the time.

    So what :class:`Counting` sees at one end of a block is not all that it sees at the other. The
    square is told from the ground by its chroma.
    """
    luma = np.tile(ground()[..., 1] // 2, (4, 4))[:192, :width]
    frames = []
    for n in range(40):
        left = 60 + n // 2 * 2
        picture, chroma = luma.copy(), np.full((2, 96, -(-width // 2)), 128, np.uint8)
        picture[70:94, left : left + 24] = 110
        chroma[:, 35:47, left // 2 : left // 2 + 12] = 64
        picture[94:102, left : left + 24] = 150 if n // 8 % 2 else 110
        frames.append(picture.tobytes() + chroma.tobytes())
    return make_clip(path, size=(width, 192), frames=40, raw=b"".join(frames))


@dataclass
class Sized(Counting):
    """Keeps which sizes it saw."""

    sizes: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes += [rgb.shape[1:3]] * len(rgb)
        return super().__call__(rgb)


@pytest.mark.parametrize("width", [288, 287])  # chroma ends amid a pixel
def test_a_small_subject_is_looked_at_closer(tmp_path: Path, width: int) -> None:
    source = flickering(tmp_path / "in.mkv", width)
    network = Sized(square_size=(192, 192))
    found = list(pipeline.read_mattes(matte_job(source, smooth=0.8), probe(source), network))
    mattes = np.concatenate([batch.matte for batch in found])

    closer = [size for size in network.sizes if size in {(128, 192), (128, 128)}]
    assert len(closer) >= 4
    assert len(network.sizes) < 40
    for n, matte in enumerate(mattes):
        square = np.zeros_like(matte, bool)
        left = 60 + n // 2 * 2
        square[70:94, left : left + 24] = True
        assert matte[square].mean() > 0.9
        # Around the square and its band nothing.
        square[66:106, left - 4 : left + 28] = True
        assert matte[~square].max() < 0.1


def test_a_trim_with_closer_looks_has_the_mattes_of_the_whole_clip(tmp_path: Path) -> None:
    source = flickering(tmp_path / "in.mkv", 288)
    info = probe(source)
    found = []
    for first, stop in ((0, 40), (19, 30)):
        network = Sized(square_size=(192, 192))
        job = matte_job(source)
        read = pipeline.read_mattes(job, info, network, first=first, stop=stop)
        found.append(np.concatenate([batch.matte for batch in read]))
        assert {(128, 192), (128, 128)} & set(network.sizes)
    np.testing.assert_array_equal(found[1], found[0][19:30])


@pytest.mark.parametrize("believed", [28, 33, 40, None])
def test_a_part_is_as_in_the_whole_whatever_the_clip_says_of_its_length(
    tmp_path: Path, believed: int | None
) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=33)
    info = replace(probe(source), frame_count=believed)
    job = matte_job(source, every=5)

    def mattes(first: int, stop: int | None) -> NDArray[np.float32]:
        found = pipeline.read_mattes(job, info, Counting(), first=first, stop=stop)
        return np.concatenate([batch.matte for batch in found])

    whole = mattes(0, None)
    assert len(whole) == 33
    np.testing.assert_array_equal(mattes(22, 31), whole[22:31])
