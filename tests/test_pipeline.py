"""The whole data flow of one clip, through the public API, checked by decoding what it wrote."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from clips import (
    decode_planes,
    make_clip,
    noise_planes,
    pack_planes,
    run_ffmpeg,
    stream_facts,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import vidbg
from vidbg import machine, pipeline
from vidbg.errors import DecodeError, InputError, OutputError, WeightsError
from vidbg.frames import FrameBatch, MattedBatch, PlaneFormat
from vidbg.job import Job, matte_job
from vidbg.matting.chroma import ChromaKeyer
from vidbg.media import background, encode
from vidbg.media.probe import probe
from vidbg.pipeline import run
from vidbg.temporal.smooth import LOOKAHEAD_FRAMES, PREROLL_FRAMES

SAMPLES = Path(__file__).parent.parent / "samples"
TALK_FRAMES = 150


@dataclass
class Painter:
    """A segmenter whose mattes are what a function says of the picture's size and number."""

    paint: Callable[[int, int, int], NDArray[np.float32]]
    name: str = "painter"
    seen: int = 0
    sizes: list[tuple[int, ...]] = field(default_factory=list)

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        return 1

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        count, height, width, _ = rgb.shape
        self.sizes.append(rgb.shape)
        mattes = [self.paint(self.seen + n, height, width) for n in range(count)]
        self.seen += count
        return np.stack(mattes).astype(np.float32)


def everything(number: int, height: int, width: int) -> NDArray[np.float32]:
    return np.ones((height, width), np.float32)


def nothing(number: int, height: int, width: int) -> NDArray[np.float32]:
    return np.zeros((height, width), np.float32)


def left_half(number: int, height: int, width: int) -> NDArray[np.float32]:
    matte = np.zeros((height, width), np.float32)
    matte[:, : width // 2] = 1
    return matte


def lossless(
    source: Path, output: Path, paint: Callable[..., NDArray[np.float32]], **options: object
) -> vidbg.Result:
    """Composite over a colour into FFV1, which keeps every sample, with the mattes as they are."""
    job = Job(
        source,
        encode.Output(output, "composite", "ffv1", sound="none"),
        background=background.parse("#204060"),
        smooth=0.0,
        edges="off",
        **options,  # type: ignore[arg-type]
    )
    return run(job, segmenter=Painter(paint))


@pytest.mark.parametrize(
    "pix_fmt",
    [
        "yuv420p",
        "yuv422p",
        "yuv444p",
        "yuv440p",
        "yuv411p",
        "yuv410p",
        "yuv420p10le",
        "yuv422p10le",
        "yuv444p12le",
        "yuv420p16le",
        "gbrp",
        "gbrp10le",
        "gbrp16le",
    ],
)
def test_opaque_pixels_are_the_source_bit_for_bit_in_every_working_format(
    tmp_path: Path, pix_fmt: str
) -> None:
    # FFmpeg 9.0's FFV1 encoder writes a wrong last column of 4:1:1 at odd widths.
    size = (52, 36) if pix_fmt in ("yuv411p", "yuv410p") else (53, 37)
    planes = noise_planes(pix_fmt, size, 3)
    source = make_clip(
        tmp_path / "in.mkv",
        size=size,
        raw=pack_planes(planes),
        raw_pix_fmt=pix_fmt,
        pix_fmt=None,
        codec="ffv1",
    )
    info = probe(source)
    assert info.format.pix_fmt == pix_fmt
    lossless(source, tmp_path / "all.mkv", everything)
    after = decode_planes(tmp_path / "all.mkv", pix_fmt)
    for before, written in zip(planes, after, strict=True):
        np.testing.assert_array_equal(before, written)

    lossless(source, tmp_path / "none.mkv", nothing)
    for plane in decode_planes(tmp_path / "none.mkv", pix_fmt):
        assert len(np.unique(plane)) == 1  # the flat background, nothing of the source


def test_a_grey_source_keeps_its_luma_and_takes_a_coloured_background(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(32, 16), frames=2, pix_fmt="gray", codec="ffv1")
    lossless(source, tmp_path / "out.mkv", left_half)
    (grey,) = decode_planes(source)
    luma, cb, cr = decode_planes(tmp_path / "out.mkv")
    np.testing.assert_array_equal(luma[:, :, :16], grey[:, :, :16])
    for chroma in (cb, cr):
        np.testing.assert_array_equal(chroma[:, :, :7], 128)
        assert (np.abs(chroma[:, :, 9:].astype(int) - 128) > 5).all()


def test_batches_do_not_change_the_result(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=11)

    def diagonal(number: int, height: int, width: int) -> NDArray[np.float32]:
        rows, columns = np.mgrid[:height, :width]
        return np.clip((columns - rows + 3 * number) / width, 0, 1).astype(np.float32)

    lossless(source, tmp_path / "one.mkv", diagonal, batch_size=1)
    lossless(source, tmp_path / "four.mkv", diagonal, batch_size=4)
    one, four = decode_planes(tmp_path / "one.mkv"), decode_planes(tmp_path / "four.mkv")
    assert len(one[0]) == 11
    for a, b in zip(one, four, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("start", "end", "first", "stop"),
    [
        ("0.4", "0.8", 10, 20),
        ("0.399", None, 10, 50),
        (None, "0.041", 0, 2),
        ("1.99", None, 50, 50),
    ],
)
def test_a_trim_gives_exactly_those_frames(
    tmp_path: Path, start: str | None, end: str | None, first: int, stop: int
) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=50, rate="25")
    times = {
        "start_s": None if start is None else Fraction(start),
        "end_s": None if end is None else Fraction(end),
    }
    if first == stop:
        with pytest.raises(InputError, match="before --start"):
            lossless(source, tmp_path / "part.mkv", everything, **times)
        return
    lossless(source, tmp_path / "all.mkv", everything)
    result = lossless(source, tmp_path / "part.mkv", everything, **times)
    whole, part = decode_planes(tmp_path / "all.mkv"), decode_planes(tmp_path / "part.mkv")
    assert result.frames == len(part[0]) == stop - first
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[first:stop], b)


@dataclass
class Edges:
    """A segmenter whose mattes flicker, but depend on nothing except the picture."""

    name: str = "edges"
    square_size: tuple[int, int] = (40, 40)
    is_slow: bool = False

    def prepare(self, sizes: Iterable[tuple[int, int]]) -> None:
        pass

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        return 1

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        flicker = rgb.sum(axis=(1, 2, 3), keepdims=True)[..., 0] % 97 / 97
        return np.abs(rgb[..., 1] / 255 - flicker).astype(np.float32)


@dataclass
class Asked(Edges):
    """Keeps the shapes of what it is asked."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.shapes.append(rgb.shape[:3])
        return super().__call__(rgb)


def asked(source: Path, **options: Any) -> list[tuple[int, ...]]:
    segmenter = Asked()
    job = matte_job(source, batch_size=1, **options)
    for _ in pipeline.read_mattes(job, probe(source), segmenter):
        pass
    return segmenter.shapes


def test_frames_are_looked_at_in_turn(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=5)
    own, square = (1, 48, 64), (1, 40, 40)

    assert asked(source) == [own, square, own, square, own]
    assert asked(source, smooth=0.0) == [own] * 5
    assert asked(source, smooth=0.2) == [own] * 5
    assert asked(source, looks=2) == [own, square] * 5
    assert asked(source, looks=4) == [(2, 48, 64), (2, 40, 40)] * 5


def test_a_picture_is_looked_at_in_all_ways(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "in.png")

    assert asked(tmp_path / "in.png") == [(2, 48, 64), (2, 40, 40)]


# Frames 20 to 29 lie within reach of neither end; 3 to 44 of both.
@pytest.mark.parametrize(("first", "stop"), [(20, 30), (3, 45), (13, 14), (0, 7), (31, 50)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_trimmed_clip_is_a_part_of_the_whole_bit_for_bit_when_smoothed(
    tmp_path: Path, first: int, stop: int, batch_size: int
) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=50, rate="25")
    behind = make_clip(
        tmp_path / "bg.mkv",
        size=(64, 48),
        rate="25",
        raw=pack_planes(noise_planes("yuv420p", (64, 48), 50)),
        codec="ffv1",
    )

    def composite(name: str, **options: object) -> tuple[NDArray[np.uint8], ...]:
        output = encode.Output(tmp_path / name, "composite", "ffv1", sound="none")
        job = Job(source, output, background=behind, smooth=0.8, **options)  # type: ignore[arg-type]
        run(job, segmenter=Edges())
        return decode_planes(tmp_path / name)

    # The background begins with the trim: it is begun later in the whole clip's stead.
    at = Fraction(first, 25)
    whole = composite("all.mkv", batch_size=4)
    part = composite(
        "part.mkv", start_s=at, end_s=Fraction(stop, 25), bg_start_s=at, batch_size=batch_size
    )
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[first:stop], b)


@given(data=st.data(), frames=st.integers(1, 30), batch_size=st.integers(1, 5))
def test_a_part_of_a_clip_ends_with_its_last_frame(
    data: st.DataObject, frames: int, batch_size: int
) -> None:
    first = data.draw(st.integers(0, frames - 1))
    stop = data.draw(st.none() | st.integers(first + 1, frames))
    plane_format = PlaneFormat("yuv444p", 8, 0, 0, is_rgb=False)
    asked = []

    def batches() -> Iterator[MattedBatch]:
        for start in range(0, frames, batch_size):
            asked.append(start)
            numbers = np.arange(start, min(frames, start + batch_size), dtype=np.uint8)
            plane = numbers.reshape(-1, 1, 1)
            batch = FrameBatch((plane, plane, plane), plane_format, start)
            yield MattedBatch(batch, np.stack([plane] * 3, axis=-1), plane.astype(np.float32))

    found = list(pipeline._within(batches(), first, stop, batch_size))

    wanted = range(first, frames if stop is None else stop)
    assert [int(n) for part in found for n in part.frames.planes[0].ravel()] == list(wanted)
    assert [int(n) for part in found for n in part.matte.ravel()] == list(wanted)
    assert all(len(part.frames) == batch_size for part in found[:-1])
    # No batch is asked for after the one that the last frame is in.
    assert asked == list(range(0, wanted[-1] + 1, batch_size))


def test_smoothing_reads_no_more_than_it_says(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=50, rate="25")
    output = encode.Output(tmp_path / "m.mkv", "matte", "ffv1", sound="none")
    times = {"start_s": Fraction(20, 25), "end_s": Fraction(25, 25)}
    for strength, expected in ((0.8, PREROLL_FRAMES + 5 + LOOKAHEAD_FRAMES), (0.0, 5)):
        painter = Painter(left_half)
        result = run(Job(source, output, smooth=strength, **times), segmenter=painter)  # type: ignore[arg-type]
        assert painter.seen == expected
        assert result.frames == 5
        output.path.unlink()


def test_stages_run_side_by_side_within_the_cores_that_are_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_clip(tmp_path / "in.mkv", frames=20)
    threads = cv2.getNumThreads()
    seen: set[str] = set()
    allowed: set[int] = set()

    def look(number: int, height: int, width: int) -> NDArray[np.float32]:
        seen.update(t.name for t in threading.enumerate() if t.name.startswith("vidbg-"))
        allowed.add(cv2.getNumThreads())
        return everything(number, height, width)

    monkeypatch.setattr(machine, "cores", lambda: 1)
    cv2.setNumThreads(3)
    try:
        job = Job(source, encode.Output(tmp_path / "out.mkv", "matte", "ffv1"))
        run(job, segmenter=Painter(look))
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(threads)
    assert {"vidbg-decode", "vidbg-segment", "vidbg-smooth"} <= seen
    assert allowed == {1}


def test_blur_shows_the_background_and_nothing_of_the_subject(tmp_path: Path) -> None:
    """A bright square on a dark ground: the blurred ground stays as dark beside it."""
    picture = np.full((64, 96), 60, np.uint8)
    picture[16:48, 24:72] = 220
    neutral = np.full((2, 32, 48), 128, np.uint8)
    source = make_clip(
        tmp_path / "in.mkv",
        size=(96, 64),
        raw=picture.tobytes() + neutral.tobytes(),
        codec="ffv1",
    )

    def middle(number: int, height: int, width: int) -> NDArray[np.float32]:
        matte = np.zeros((height, width), np.float32)
        matte[16:48, 24:72] = 1
        return matte

    job = Job(
        source,
        encode.Output(tmp_path / "out.mkv", "composite", "ffv1", sound="none"),
        background=background.parse("blur:6"),
        smooth=0.0,
        edges="off",
    )
    run(job, segmenter=Painter(middle))
    after = decode_planes(tmp_path / "out.mkv")[0][0].astype(int)
    np.testing.assert_array_equal(after[16:48, 24:72], 220)
    after[16:48, 24:72] = 60
    assert np.abs(after - 60).max() <= 1


@pytest.mark.parametrize("failing_frame", [0, 5])
def test_a_failing_stage_ends_the_job_with_its_own_error(
    tmp_path: Path, failing_frame: int
) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=40)

    def fail(number: int, height: int, width: int) -> NDArray[np.float32]:
        if number == failing_frame:
            raise RuntimeError("the network broke")
        return everything(number, height, width)

    with pytest.raises(RuntimeError, match="the network broke"):
        lossless(source, tmp_path / "out.mkv", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
    assert not [t for t in threading.enumerate() if t.name.startswith("vidbg")]


def test_progress_and_start_tell_the_truth(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=7, rate="30000/1001")
    started: list[int | None] = []
    steps: list[vidbg.Progress] = []
    job = Job(
        source, encode.Output(tmp_path / "m.mkv", "matte", "ffv1", sound="none"), batch_size=3
    )
    run(
        job,
        segmenter=Painter(left_half),
        on_start=lambda info, total: started.append(total),
        on_progress=steps.append,
    )
    assert started == [7]
    assert [step.frames for step in steps] == [3, 6, 7]
    assert steps[-1].media_s == pytest.approx(7 * 1001 / 30000)
    assert all(step.total_frames == 7 for step in steps)


def test_loading_the_network_does_not_count_as_slow_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> Painter:
        time.sleep(0.5)
        return Painter(everything)

    monkeypatch.setattr(pipeline, "_network", load)
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=3)
    job = Job(source, encode.Output(tmp_path / "m.mkv", "matte", "ffv1", sound="none"))
    steps: list[vidbg.Progress] = []
    result = run(job, on_progress=steps.append)
    assert result.seconds > steps[-1].seconds + 0.5


def test_the_matte_is_written_as_it_is(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=2)

    def ramp(number: int, height: int, width: int) -> NDArray[np.float32]:
        return np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))

    written_as = encode.Output(tmp_path / "m.mkv", "matte", "ffv1", sound="none")
    run(Job(source, written_as, smooth=0.0, edges="off"), segmenter=Painter(ramp))
    (written,) = decode_planes(tmp_path / "m.mkv")
    expected = np.rint(np.linspace(0, 255, 64)).astype(np.uint8)
    np.testing.assert_array_equal(written, np.broadcast_to(expected, (2, 48, 64)))


def test_a_picture_gives_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(4).integers(0, 256, (30, 41, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in %03d.png")
    job = Job(
        tmp_path / "in %03d.png",
        encode.Output(tmp_path / "out.png", "composite", "png"),
        background=background.parse("0,177,64"),
        edges="off",
    )
    run(job, segmenter=Painter(left_half))
    after = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))
    np.testing.assert_array_equal(after[:, :20], pixels[:, :20])
    np.testing.assert_array_equal(after[:, 20:], np.broadcast_to((0, 177, 64), (30, 21, 3)))

    cut_out = encode.Output(tmp_path / "cut.png", "alpha", "png")
    run(Job(tmp_path / "in %03d.png", cut_out, edges="off"), segmenter=Painter(left_half))
    rgba = np.asarray(Image.open(tmp_path / "cut.png"))
    np.testing.assert_array_equal(rgba[:, :20, :3], pixels[:, :20])
    np.testing.assert_array_equal(rgba[:, :20, 3], 255)
    np.testing.assert_array_equal(rgba[:, 20:, 3], 0)


def test_pictures_and_videos_are_not_mixed_up(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=2)
    job = Job(
        source,
        encode.Output(tmp_path / "out.png", "composite", "png"),
        background=background.parse("blue"),
    )
    with pytest.raises(OutputError, match="video cannot be written as a picture"):
        run(job, segmenter=Painter(everything))
    assert not (tmp_path / "out.png").exists()


def test_alpha_of_the_source_is_multiplied_in(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.full((16, 16, 4), 200, np.uint8)
    pixels[:8, :, 3] = 128
    pixels[8:, :, 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "in.png")
    job = Job(tmp_path / "in.png", encode.Output(tmp_path / "out.png", "alpha", "png"))
    run(job, segmenter=Painter(everything))
    alpha = np.asarray(Image.open(tmp_path / "out.png"))[..., 3]
    # FFmpeg 5 is off by one where it makes planes of packed RGBA.
    np.testing.assert_allclose(alpha[:8].astype(int), 128, atol=1)
    np.testing.assert_array_equal(alpha[8:], 255)


def test_colours_under_the_sources_own_alpha_stay(tmp_path: Path) -> None:
    """Straight colours are no mixture with a background, however soft the alpha."""
    from PIL import Image

    pixels = np.random.default_rng(8).integers(0, 256, (64, 64, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "in.png")
    job = Job(tmp_path / "in.png", encode.Output(tmp_path / "out.png", "alpha", "png"))
    run(job, segmenter=Painter(everything))
    after = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_allclose(after[..., 3].astype(int), pixels[..., 3], atol=1)
    # Nothing is seen of what lies under alpha 0, which is chosen to compress well.
    shown = pixels[..., 3] > 0
    # FFmpeg 5 is off by one where it makes planes of packed RGBA.
    np.testing.assert_allclose(after[shown].astype(int), pixels[shown], atol=1)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "gbrp"])
def test_away_from_the_edge_nothing_changes_by_default(tmp_path: Path, pix_fmt: str) -> None:
    size = (96, 64)
    planes = noise_planes(pix_fmt, size, 2)
    source = make_clip(
        tmp_path / "in.mkv",
        size=size,
        raw=pack_planes(planes),
        raw_pix_fmt=pix_fmt,
        pix_fmt=None,
        codec="ffv1",
    )
    for edges in (None, "fine"):
        out = tmp_path / f"{edges}.mkv"
        job = Job(
            source,
            encode.Output(out, "composite", "ffv1", sound="none"),
            background=background.parse("#204060"),
            edges=edges,
        )
        run(job, segmenter=Painter(left_half))
        for before, written in zip(planes, decode_planes(out, pix_fmt), strict=True):
            middle = written.shape[2] // 2
            np.testing.assert_array_equal(written[..., : middle - 6], before[..., : middle - 6])
            assert len(np.unique(written[..., middle + 6 :])) == 1


def soft_scene(tmp_path: Path) -> tuple[Path, NDArray[np.float32], list[NDArray[np.float64]]]:
    """A flat subject mixed into a flat background by a ramp: clip, matte and true colours."""
    ramp = np.clip((np.arange(128) + 0.5 - 40) / 32, 0, 1).astype(np.float32)
    matte = np.tile(np.rint(ramp * 255) / np.float32(255), (64, 1))
    subject, old = (180, 90, 160), (60, 140, 50)
    planes = [
        np.rint(f * matte + b * (1 - matte)).astype(np.uint8)[None]
        for f, b in zip(subject, old, strict=True)
    ]
    source = make_clip(
        tmp_path / "in.mkv",
        size=(128, 64),
        raw=pack_planes(planes),
        raw_pix_fmt="yuv444p",
        pix_fmt=None,
        codec="ffv1",
    )
    return source, matte, [np.full((64, 128), float(code)) for code in subject]


@pytest.mark.parametrize("kind", ["composite", "alpha"])
def test_the_old_background_is_out_of_soft_edges(tmp_path: Path, kind: str) -> None:
    source, matte, subject = soft_scene(tmp_path)
    out = tmp_path / "out.mkv"
    job = Job(
        source,
        encode.Output(out, kind, "ffv1", sound="none"),
        background=background.parse("#204060") if kind == "composite" else None,
        edges="off",
    )
    run(job, segmenter=Painter(lambda *_: matte))
    written = decode_planes(out, "yuv444p")
    before = decode_planes(source)
    is_soft = (matte > 0) & (matte < 1)
    for plane, was, true in zip(written, before, subject, strict=True):
        # What the old background adds to a composite is (1 - a)·a·(B - F) unless it is taken out.
        expected = true * matte + float(plane[0, 0, 0]) * (1 - matte)
        got = plane[0] if kind == "composite" else plane[0] * matte + plane[0, 0, 0] * (1 - matte)
        without = was[0] * matte + float(plane[0, 0, 0]) * (1 - matte)
        error, left = np.abs(got - expected)[is_soft], np.abs(without - expected)[is_soft]
        assert error.mean() < 0.3 * left.mean()


class ToldKeyer(ChromaKeyer):
    """A keyer of a green screen that is told where the subject is."""

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.stack([left_half(0, *frame.shape[:2]) for frame in rgb])


def test_a_key_takes_its_own_tint_off_the_subject(tmp_path: Path) -> None:
    # #00b140 in the matrix that so small a clip is taken to have.
    green, tinted = (111, 105, 58), (150, 120, 104)
    planes = [np.full((1, 64, 96), code, np.uint8) for code in green]
    for plane, code in zip(planes, tinted, strict=True):
        plane[..., :48] = code
    source = make_clip(
        tmp_path / "in.mkv",
        size=(96, 64),
        raw=pack_planes(planes),
        raw_pix_fmt="yuv444p",
        pix_fmt=None,
        codec="ffv1",
    )

    def subject(despill: bool | None, keyer: Any) -> list[int]:
        out = tmp_path / "out.mkv"
        job = Job(
            source,
            encode.Output(out, "composite", "ffv1", sound="none", overwrite=True),
            background=background.parse("black"),
            despill=despill,
        )
        run(job, segmenter=keyer)
        return [int(plane[0, 32, 20]) for plane in decode_planes(out, "yuv444p")]

    keyer, network = ToldKeyer((0, 177, 64)), Painter(left_half)
    assert subject(False, keyer) == list(tinted)
    assert subject(None, network) == list(tinted)
    for luma, cb, cr in (subject(None, keyer), subject(True, keyer), subject(True, network)):
        assert luma == tinted[0]
        assert abs(cb - 128) <= 2
        assert abs(cr - 128) <= 2


def test_a_background_without_sound_cannot_give_sound(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=2)
    job = Job(
        source,
        encode.Output(tmp_path / "out.mp4", "composite", "h264", sound="bg"),
        background=background.parse("red"),
    )
    with pytest.raises(InputError, match="no sound"):
        run(job, segmenter=Painter(everything))


def test_the_background_is_not_overwritten(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=2)
    behind = make_clip(tmp_path / "bg.mkv", size=(64, 48), frames=2)
    (tmp_path / "link.mkv").symlink_to(behind)
    before = behind.read_bytes()
    for output in (behind, tmp_path / "link.mkv"):
        with pytest.raises(OutputError, match="is the background itself"):
            vidbg.replace_background(source, behind, output, model="chroma", overwrite=True)
    assert behind.read_bytes() == before


def test_a_path_is_a_file_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="green: no such file"):
        vidbg.replace_background(source, Path("green"), tmp_path / "out.mp4")


def test_a_background_that_is_not_there_is_missed_before_the_network_is_loaded(
    tmp_path: Path,
) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=2)
    with pytest.raises(InputError, match="greeen: no such file, nor a colour"):
        vidbg.replace_background(source, "greeen", weights=tmp_path / "no.pth")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bg_fit": "covr"}, "covr"),
        ({"bg_end": "lop"}, "lop"),
        ({"sound": "loud"}, "loud"),
        ({"batch_size": 0}, "0 frames"),
        ({"edges": "best"}, "best"),
        ({"keep": "some"}, "some"),
        ({"grow_px": -300.0}, "-300"),
        ({"feather_px": 300.0}, "300"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        vidbg.replace_background("in.mp4", "red", "out.mp4", **options)  # type: ignore[arg-type]


def test_weights_may_be_named_as_text(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", size=(64, 48), frames=2)
    with pytest.raises(WeightsError, match=r"no\.pth: there is no such file"):
        vidbg.extract_matte(source, tmp_path / "m.mkv", weights=str(tmp_path / "no.pth"))


def test_a_clip_that_is_cut_short_is_refused_or_kept_on_request(tmp_path: Path) -> None:
    whole = SAMPLES / "talk.mp4"
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    with pytest.raises(DecodeError, match=r"damaged: \d+ of 150 frames would be lost") as caught:
        lossless(cut, tmp_path / "out.mkv", everything)
    assert "--allow-damaged" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.mp4"]
    result = lossless(cut, tmp_path / "out.mkv", everything, allow_damaged=True)
    decodable = TALK_FRAMES - result.lost_frames
    # The cut runs through a group of frames in coding order: gaps in the last of them are
    # filled, so that the others keep their times.
    assert 60 < decodable <= result.frames < decodable + 8
    assert stream_facts(tmp_path / "out.mkv").frames == result.frames


def test_the_green_sample_end_to_end(tmp_path: Path) -> None:
    """The keyed sample against the alpha and the background that it is known to have."""
    result = vidbg.replace_background(
        SAMPLES / "talk.green.mp4",
        SAMPLES / "stars.mp4",
        tmp_path / "out.mp4",
        model="chroma",
    )
    assert result.frames == TALK_FRAMES
    facts = stream_facts(tmp_path / "out.mp4")
    assert facts.frames == TALK_FRAMES
    assert facts.rate == 30
    got = decode_planes(tmp_path / "out.mp4")[0]
    source = decode_planes(SAMPLES / "talk.green.mp4")[0]
    (truth,) = decode_planes(SAMPLES / "talk.alpha.mkv")
    for number in (0, 60, 149):
        luma, before = got[number].astype(int), source[number].astype(int)
        alpha = truth[number]
        # Encoded at crf 19 once more: the mean error stays within a few codes.
        assert np.abs(luma - before)[alpha == 255].mean() < 4
        assert np.abs(luma - before)[alpha == 0].mean() > 20


@pytest.mark.shared
def test_a_real_clip_with_the_reference_weights(shared_dir: Path, tmp_path: Path) -> None:
    clip = shared_dir / "data/eval/video/car-roundabout.mp4"
    vidbg.extract_matte(
        clip,
        tmp_path / "matte.mkv",
        weights=shared_dir / "data/weights/u2netp_fp16.pth",
        end_s=Fraction(12, 25),
    )
    (mattes,) = decode_planes(tmp_path / "matte.mkv")
    truth = decode_planes(clip.with_name("car-roundabout.gt.mkv"), "gray")[0][: len(mattes)]
    assert len(mattes) >= 11
    overlap = [
        ((m > 127) & (t > 127)).sum() / ((m > 127) | (t > 127)).sum()
        for m, t in zip(mattes, truth, strict=True)
    ]
    assert np.mean(overlap) > 0.9  # the per-frame network alone has 0.95


@pytest.mark.parametrize(("first", "stop"), [(0, None), (0, 3), (5, None), (4, 7), (9, 10)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_mattes_of_a_part_are_those_of_the_whole(
    plain_clip: Path, first: int, stop: int | None, batch_size: int
) -> None:
    class Brightness(Painter):
        """Stateless, as segmenters are: the matte is the picture."""

        def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
            return (rgb[..., 1] / np.float32(255)).astype(np.float32)

    def mattes(first: int, stop: int | None) -> dict[int, NDArray[np.float32]]:
        job = matte_job(plain_clip, smooth=0.7, batch_size=batch_size)
        batches = pipeline.read_mattes(job, info, Brightness(everything), first=first, stop=stop)
        found: dict[int, NDArray[np.float32]] = {}
        for batch in batches:
            assert len(batch.matte) == len(batch.thumbnails) == len(batch.frames)
            for number, matte in enumerate(batch.matte):
                found[batch.frames.first_index + number] = matte
        return found

    info = probe(plain_clip)
    whole, part = mattes(0, None), mattes(first, stop)
    assert list(part) == list(range(first, 10 if stop is None else stop))
    for number, matte in part.items():
        np.testing.assert_array_equal(matte, whole[number])


# ---- Sources with alpha of their own -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "tolerance"),
    [
        ("%d.png", "png", "rgba", 0),
        ("%d.png", "png", "rgba64be", 1),
        ("%d.tif", "tiff", "rgba", 0),
        ("in.mkv", "ffv1", "yuva444p10le", 0),
        ("in.mov", "prores_ks", "yuva444p10le", 12),
        ("in.webm", "libvpx-vp9", "yuva420p", 4),
    ],
)
def test_alpha_of_every_kind_of_source_is_multiplied_in(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, tolerance: int
) -> None:
    """Opaque on the left, half, quarter and not at all on the right: C = F·a + B·(1 - a)."""
    opacity = np.repeat(np.array([255, 128, 64, 0], np.uint8), 16)
    alpha = np.broadcast_to(opacity, (2, 48, 64))
    grey = np.full((2, 48, 64), 180, np.uint8)
    source = tmp_path / name
    stored = make_clip(
        tmp_path / "stored.mkv" if "%" in name else source,
        frames=2,
        raw=pack_planes([grey, grey, grey, alpha]),
        raw_pix_fmt="gbrap",
        pix_fmt=pix_fmt,
        codec=codec,
        options=("-alpha_bits", "16") if codec == "prores_ks" else (),
    )
    if stored != source:
        run_ffmpeg("-i", f"file:{stored}", "-c", "copy", "-f", "image2", f"file:{source}")
    info = probe(source)
    assert info.has_alpha
    lossless(source, tmp_path / "out.mkv", everything)
    shown = decode_planes(tmp_path / "out.mkv", "gbrp" if info.format.depth == 8 else "gbrp16le")
    top = 255 if info.format.depth == 8 else 65535
    middles = np.arange(8, 64, 16)
    share = opacity[middles] / 255
    for plane, behind in zip(shown, (0x40, 0x60, 0x20), strict=True):
        wanted = 180 * share + behind * (1 - share)
        found = plane[:, 24, middles] / top * 255
        assert np.abs(found - wanted).max() <= 1.1 + tolerance
