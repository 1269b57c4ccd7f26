"""Backgrounds: where they go in the frame, which picture is shown when, and in what colours."""

from __future__ import annotations

import itertools
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import Array, counter_frames, frame_numbers, make_clip, pack_planes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from vidbg.errors import DecodeError, InputError
from vidbg.frames import Colour, PlaneFormat, VideoInfo
from vidbg.media import background, formats
from vidbg.media import ffmpeg as ff
from vidbg.media.background import BackgroundVideo, Blur, Placement, Solid, Target
from vidbg.media.probe import probe

BT709 = Colour("tv", "bt709", "bt709", "bt709")
RGB = Colour("pc", "gbr")
# (Kr, Kb) of ITU-R BT.601, BT.709 and BT.2020, of SMPTE 240M and of the FCC.
WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "smpte170m": (0.299, 0.114),
    "bt470bg": (0.299, 0.114),
    "bt2020nc": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.3, 0.11),
}


def target(
    rate: str | Fraction = "25",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    colour: Colour = BT709,
    sar: str | Fraction = "1",
    location: str = "left",
) -> Target:
    found, _ = formats.working_format(pix_fmt, chroma_location=location)
    assert found.pix_fmt == pix_fmt
    if found.is_rgb:
        colour = RGB
    return Target(*size, Fraction(sar), found, colour, Fraction(rate))


def take(frames: BackgroundVideo, count: int) -> list[Array]:
    """Return the first frames as one array ``(N, h, w)`` a plane."""
    planes: list[list[Array]] = [[], [], []]
    batches = iter(frames)
    while sum(map(len, planes[0])) < count:
        for plane, part in zip(planes, next(batches), strict=True):
            plane.append(part)
    batches.close()  # type: ignore[attr-defined]
    return [np.concatenate(plane)[:count] for plane in planes]


# ---- Where it goes -----------------------------------------------------------------------------

lengths = st.integers(1, 5000)
ratios = st.fractions(min_value=Fraction(1, 4), max_value=4, max_denominator=100)


@given(
    size=st.tuples(lengths, lengths),
    sar=ratios,
    frame=st.tuples(lengths, lengths),
    frame_sar=ratios,
    pix_fmt=st.sampled_from(["yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p"]),
)
def test_pictures_are_placed_by_their_shape(
    size: tuple[int, int],
    sar: Fraction,
    frame: tuple[int, int],
    frame_sar: Fraction,
    pix_fmt: str,
) -> None:
    goal = target(pix_fmt=pix_fmt, size=frame, sar=frame_sar)
    width, height = size
    shape = width * sar / frame_sar / height  # in the frame's pixels
    wide, high = frame
    for fit in ("cover", "contain"):
        found = background.place(width, height, sar, fit, goal)
        assert min(found.width, found.height) >= 1
        assert min(found.crop_x, found.crop_y, found.x, found.y) >= 0
        # One side is the frame's, and the other follows from the shape, rounded.
        is_as_wide = wide / shape >= high if fit == "cover" else wide / shape <= high
        exact_w, exact_h = (wide, wide / shape) if is_as_wide else (high * shape, high)
        assert abs(found.width - exact_w) <= max(Fraction(1, 2), 1 - exact_w)
        assert abs(found.height - exact_h) <= max(Fraction(1, 2), 1 - exact_h)
        step_w, step_h = 1 << goal.format.log2_chroma_w, 1 << goal.format.log2_chroma_h
        assert found.crop_x % step_w == found.x % step_w == 0
        assert found.crop_y % step_h == found.y % step_h == 0
        if fit == "cover":
            assert found.width - found.crop_x >= wide
            assert found.height - found.crop_y >= high
            assert (found.x, found.y) == (0, 0)
            spare = (found.width - wide - 2 * found.crop_x, found.height - high - 2 * found.crop_y)
        else:
            assert found.x + found.width <= wide
            assert found.y + found.height <= high
            assert (found.crop_x, found.crop_y) == (0, 0)
            spare = (wide - found.width - 2 * found.x, high - found.height - 2 * found.y)
        # In the middle, but for whole chroma samples.
        assert 0 <= spare[0] < 2 * step_w
        assert 0 <= spare[1] < 2 * step_h
    assert background.place(width, height, sar, "stretch", goal) == Placement(*frame, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("size", "sar", "frame_sar", "fit", "wanted"),
    [
        ((128, 96), "1", "1", "cover", Placement(64, 48, 0, 0, 0, 0)),
        ((48, 48), "4/3", "1", "contain", Placement(64, 48, 0, 0, 0, 0)),
        ((64, 48), "1", "4/3", "contain", Placement(48, 48, 0, 0, 8, 0)),
        ((64, 48), "4/3", "1", "contain", Placement(64, 36, 0, 0, 0, 6)),
        ((64, 48), "4/3", "1", "cover", Placement(85, 48, 10, 0, 0, 0)),
        ((10, 1000), "1", "1", "contain", Placement(1, 48, 0, 0, 30, 0)),
    ],
)
def test_placement_of_some_shapes(
    size: tuple[int, int], sar: str, frame_sar: str, fit: str, wanted: Placement
) -> None:
    goal = target(sar=frame_sar)
    assert background.place(*size, Fraction(sar), fit, goal) == wanted


# ---- Which picture, when -----------------------------------------------------------------------


def nearest(
    count: int, rate: Fraction, frames: int, own_rate: Fraction, start_s: Fraction, end: str
) -> list[int]:
    """Return which background frame is nearest to each frame's time; -1 is black.

    On a clock that goes round, frame k is nearest from half a frame before its time on. The
    first frame always shows one.
    """
    half_s = 1 / own_rate / 2
    period_s = frames / own_rate - start_s
    wanted = []
    for n in range(count):
        time_s = n / rate + half_s
        if end != "loop" and time_s >= period_s:
            wanted.append(-1 if end == "black" and n > 0 else frames - 1)
        else:
            wanted.append(floor((start_s + time_s % period_s) * own_rate))
    return wanted


class Imagined(BackgroundVideo):
    """A background whose decoder is an equation: plane 0 holds the number of the frame."""

    def _one_turn(self, offset_s: Fraction) -> Iterator[tuple[Array, Array, Array]]:
        own_rate, frames = self.info.frame_rate, self.info.frame_count or 0
        assert offset_s >= 0
        for n in itertools.count():
            number = floor((self._start_s + offset_s + n / self._target.frame_rate) * own_rate)
            yield (np.full((1, 1, 1), min(number, frames - 1)),) * 3
            if number >= frames:  # the last picture goes on for a frame of ours
                return


RATES = [Fraction(24), Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)]
rates = st.sampled_from([*RATES, Fraction(10), Fraction(179, 6), Fraction(1), Fraction(144)])


@given(
    rate=rates,
    own_rate=rates,
    frames=st.integers(2, 40),
    begin=st.fractions(min_value=0, max_value=Fraction(99, 100), max_denominator=1000),
    end=st.sampled_from(background.ENDS),
    batch_size=st.integers(1, 5),
    first=st.sampled_from([0, 1, 7, 60, 1000]),
)
def test_every_frame_shows_the_nearest_of_the_background(
    plain_info: VideoInfo,
    rate: Fraction,
    own_rate: Fraction,
    frames: int,
    begin: Fraction,
    end: str,
    batch_size: int,
    first: int,
) -> None:
    info = replace(plain_info, frame_rate=own_rate, frame_count=frames, duration=frames / own_rate)
    start_s = begin * info.duration
    shown = Imagined(
        info,
        target(rate, size=(1, 1)),
        end=end,
        start_s=start_s,
        batch_size=batch_size,
        first=first,
    )
    found = take(shown, 120)[0].reshape(-1)
    wanted = nearest(first + 120, rate, frames, own_rate, start_s, end)[first:]
    black = background.solid((0, 0, 0), target(rate, size=(1, 1)))[0].item()
    assert found.tolist() == [black if number == -1 else number for number in wanted]


@pytest.fixture(scope="session")
def plain_info(plain_clip: Path) -> VideoInfo:
    return probe(plain_clip)


@pytest.fixture(scope="session")
def counting(clips_dir: Path) -> object:
    """Return a function that makes counting clips, each of them once."""
    made: dict[str, Path] = {}

    def make(suffix: str, frames: int, rate: str, **options: object) -> Path:
        key = f"{suffix}{frames}{rate}{options}"
        if key not in made:
            path = clips_dir / f"counting{len(made)}{suffix}"
            codec = None if suffix in (".gif", ".avi") else "libx264"
            chosen = {"codec": codec, **options}
            made[key] = make_clip(path, frames=frames, rate=rate, **chosen)  # type: ignore[arg-type]
        return made[key]

    return make


@pytest.mark.parametrize("rate", ["24", "30000/1001", "30"])
@pytest.mark.parametrize("own_rate", ["10", "24000/1001", "25", "30", "60"])
def test_backgrounds_of_any_rate_keep_the_clips_time(
    counting: object, rate: str, own_rate: str
) -> None:
    info = probe(counting(".mp4", 17, own_rate))  # type: ignore[operator]
    goal = target(rate)
    for end, count in (("loop", 60), ("hold", 30), ("black", 50)):
        found = frame_numbers(take(BackgroundVideo(info, goal, end=end), count)[0])
        wanted = nearest(count, goal.frame_rate, 17, info.frame_rate, Fraction(0), end)
        assert found == [max(0, number) for number in wanted], end


def test_a_loop_of_many_turns_does_not_drift(counting: object) -> None:
    info = probe(counting(".mp4", 7, "30000/1001"))  # type: ignore[operator]
    goal = target("24")
    found = frame_numbers(take(BackgroundVideo(info, goal), 100)[0])
    assert found == nearest(100, Fraction(24), 7, info.frame_rate, Fraction(0), "loop")


@pytest.mark.parametrize("own_rate", ["30000/1001", "60"])
def test_rounded_time_stamps_do_no_harm(counting: object, own_rate: str) -> None:
    info = probe(counting(".mkv", 40, own_rate))  # type: ignore[operator]
    for rate in ("24", "60", "30000/1001"):
        goal = target(rate)
        found = frame_numbers(take(BackgroundVideo(info, goal), 90)[0])
        for n, number in enumerate(found):
            distance = (n / goal.frame_rate - number / info.frame_rate) % info.duration
            distance = min(distance, info.duration - distance)
            assert distance <= 1 / info.frame_rate / 2 + Fraction(1, 1000)
        if rate == own_rate:
            assert found == [n % 40 for n in range(90)]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
# Up to 6 s there is no seeking; 12 s is amid a group of pictures.
@pytest.mark.parametrize("start_s", ["1/3", "3", "6.1", "12", "19.9"])
def test_backgrounds_begin_where_they_are_told(counting: object, suffix: str, start_s: str) -> None:
    path = counting(suffix, 500, "25", options=("-g", "250"))  # type: ignore[operator]
    begin_s = Fraction(start_s)
    for end in ("loop", "hold"):
        shown = BackgroundVideo(probe(path), target("24"), end=end, start_s=begin_s)
        found = frame_numbers(take(shown, 30)[0])
        assert found == nearest(30, Fraction(24), 500, Fraction(25), begin_s, end)


@pytest.mark.parametrize("end", background.ENDS)
@pytest.mark.parametrize("first", [1, 250, 479, 480, 481, 700])
def test_a_background_seen_from_amid_the_clip(counting: object, end: str, first: int) -> None:
    path = counting(".mp4", 500, "25", options=("-g", "250"))  # type: ignore[operator]
    found = frame_numbers(
        take(BackgroundVideo(probe(path), target("24"), end=end, first=first), 3)[0]
    )
    wanted = nearest(first + 3, Fraction(24), 500, Fraction(25), Fraction(0), end)[first:]
    assert found == [max(0, number) for number in wanted]


def test_a_background_that_ends_before_its_start(plain_clip: Path) -> None:
    for start_s in ("0.4", "2"):
        with pytest.raises(InputError, match="before --bg-start"):
            BackgroundVideo(probe(plain_clip), target(), start_s=Fraction(start_s))


@pytest.mark.parametrize(("suffix", "own_rate"), [(".gif", "10"), (".mp4", "50")])
def test_one_frame_is_decoded_once(
    counting: object, suffix: str, own_rate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = probe(counting(suffix, 1, own_rate, first_number=5))  # type: ignore[operator]
    started = []
    process = ff.Process
    monkeypatch.setattr(
        ff,
        "Process",
        lambda *a, **k: started.append(a) or process(*a, **k),  # type: ignore[func-returns-value]
    )
    found = take(BackgroundVideo(info, target("24")), 40)[0]
    assert frame_numbers(found) == [5] * 40
    assert len(started) == 1


def test_a_period_shorter_than_a_frame(counting: object) -> None:
    info = probe(counting(".mp4", 2, "60"))  # type: ignore[operator]
    found = frame_numbers(take(BackgroundVideo(info, target("24")), 12)[0])
    assert found == nearest(12, Fraction(24), 2, Fraction(60), Fraction(0), "loop")


def test_an_animated_gif(counting: object) -> None:
    info = probe(counting(".gif", 12, "10"))  # type: ignore[operator]
    found = frame_numbers(take(BackgroundVideo(info, target("24")), 60)[0])
    assert found == nearest(60, Fraction(24), 12, Fraction(10), Fraction(0), "loop")


def test_a_background_of_uneven_frames(uneven_clip: Path) -> None:
    info = probe(uneven_clip)
    assert info.is_vfr
    edges = [Fraction(n, 30) for n in range(20)]
    edges += [Fraction(20, 30) + Fraction(n, 10) for n in range(20)]
    found = frame_numbers(take(BackgroundVideo(info, target("25")), 100)[0])
    for n, number in enumerate(found):
        time_s = (n / Fraction(25) + 1 / info.frame_rate / 2) % info.duration
        assert edges[number] <= time_s + Fraction(1, 1000)
        assert number == 39 or time_s <= edges[number + 1]


def test_pictures_that_begin_after_their_sound(counting: object) -> None:
    path = counting(  # type: ignore[operator]
        ".mp4", 40, "25", video_delay_s="0.5", audio="aac", audio_s="2"
    )
    info = probe(path)
    assert info.start == Fraction(1, 2)
    for start_s in (Fraction(0), Fraction(1, 2)):
        found = frame_numbers(take(BackgroundVideo(info, target(), start_s=start_s), 60)[0])
        assert found == nearest(60, Fraction(25), 40, Fraction(25), start_s, "loop")


def test_batches_are_the_same_frames(counting: object) -> None:
    info = probe(counting(".mp4", 17, "25"))  # type: ignore[operator]
    ones = take(BackgroundVideo(info, target("30")), 30)
    batches = iter(BackgroundVideo(info, target("30"), batch_size=4))
    assert [len(next(batches)[0]) for _ in range(6)] == [4] * 6
    batches.close()  # type: ignore[attr-defined]
    fours = take(BackgroundVideo(info, target("30"), batch_size=4), 30)
    for one, four in zip(ones, fours, strict=True):
        np.testing.assert_array_equal(one, four)


# ---- How it looks ------------------------------------------------------------------------------


def codes_of(rgb: tuple[int, int, int], depth: int, colour: Colour) -> list[float]:
    """Return code values of 8-bit full-range R'G'B', unrounded (ITU-T H.273, 8.3)."""
    red, green, blue = (value / 255 for value in rgb)
    top = (1 << depth) - 1
    if colour.matrix == "gbr":
        return [top * value for value in (green, blue, red)]
    of_red, of_blue = WEIGHTS[colour.matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    both = ((blue - luma) / 2 / (1 - of_blue), (red - luma) / 2 / (1 - of_red))
    step = 1 << depth - 8
    if colour.range == "tv":
        return [(16 + 219 * luma) * step, *((128 + 224 * chroma) * step for chroma in both)]
    return [top * luma, *(top * chroma + 128 * step for chroma in both)]


PALETTE = [
    *((255, 255, 255), (0, 0, 0), (128, 128, 128)),
    *((200, 30, 90), (20, 180, 60), (40, 60, 220)),
]


@pytest.fixture(scope="session")
def flat_clip(clips_dir: Path) -> object:
    """Return a function that makes clips of one colour a frame, without loss."""

    def make(pix_fmt: str, colour: Colour) -> Path:
        path = clips_dir / f"flat-{pix_fmt}-{colour.range}-{colour.matrix}.mkv"
        if path.exists():
            return path
        found, _ = formats.working_format(pix_fmt)
        known = colour if colour.matrix != "unknown" else Colour("tv", "smpte170m")
        dtype = np.uint8 if found.depth == 8 else np.uint16
        frames = []
        for rgb in PALETTE:
            codes = codes_of(rgb, found.depth, known)
            top = (1 << found.depth) - 1
            frames.append([round(min(max(code, 0), top)) for code in codes])
        planes = [
            np.array([np.full(size, codes[number]) for codes in frames], dtype)
            for number, size in enumerate(found.plane_sizes(64, 48))
        ]
        tags = {"matrix": colour.matrix, "colour_range": colour.range}
        return make_clip(
            path,
            raw=pack_planes(planes),
            raw_pix_fmt=pix_fmt,
            pix_fmt=None,
            frames=len(PALETTE),
            primaries=None if colour.primaries == "unknown" else colour.primaries,
            transfer=None if colour.transfer == "unknown" else colour.transfer,
            **{key: tag for key, tag in tags.items() if tag not in ("unknown", "gbr")},
        )

    return make


@pytest.mark.parametrize(
    ("pix_fmt", "colour"),
    [
        ("yuv420p", Colour("tv", "smpte170m")),
        ("yuv420p", Colour("tv", "bt709")),
        ("yuv420p", Colour("tv", "fcc")),
        ("yuv420p", Colour()),
        ("yuv422p10le", Colour("tv", "bt709")),
        ("yuv444p12le", Colour("tv", "bt2020nc")),
        ("gbrp10le", RGB),
    ],
    ids=str,
)
def test_colours_are_the_equations(flat_clip: object, pix_fmt: str, colour: Colour) -> None:
    info = probe(flat_clip(pix_fmt, colour))  # type: ignore[operator]
    for wanted_pix_fmt, wanted_colour in (
        ("yuv420p", Colour("tv", "bt709")),
        ("yuv420p", Colour("pc", "smpte170m")),
        ("yuv420p10le", Colour("tv", "bt709")),
        ("yuv422p", Colour("tv", "bt470bg")),
        ("yuv444p12le", Colour("tv", "bt2020nc")),
        ("yuv411p", Colour("tv", "smpte170m")),
        ("gbrp", RGB),
    ):
        goal = target(pix_fmt=wanted_pix_fmt, size=(48, 36), colour=wanted_colour)
        found = take(BackgroundVideo(info, goal), len(PALETTE))
        for n, rgb in enumerate(PALETTE):
            codes = codes_of(rgb, goal.format.depth, wanted_colour)
            scale = 1 << goal.format.depth - 8
            for plane, code in zip(found, codes, strict=True):
                # One code of the source's eight bits is up to two in R'G'B'.
                error = np.abs(plane[n] - code).max() / scale
                assert error <= (2.1 if goal.format.is_rgb else 1.8), (rgb, wanted_pix_fmt)


def test_full_range_pictures(clips_dir: Path) -> None:
    # JPEG is full range by definition, whichever FFmpeg wrote it.
    frames = np.array([np.full((48, 64), code) for code in (0, 128, 255)], np.uint8)
    neutral = np.full((3, 24, 32), 128, np.uint8)
    path = make_clip(
        clips_dir / "full.mov",
        raw=pack_planes([frames, neutral, neutral]),
        raw_pix_fmt="yuvj420p",
        pix_fmt="yuvj420p",
        frames=3,
        codec="mjpeg",
        options=("-qscale:v", "1"),
    )
    info = probe(path)
    assert info.colour.range == "pc"
    luma = take(BackgroundVideo(info, target()), 3)[0]
    assert luma[:, 20, 20].tolist() == pytest.approx([16, 126, 235], abs=1)


def position(found: PlaneFormat, number: int, height: int, width: int) -> tuple[Array, Array]:
    """Return the places of a plane's samples in luma samples, by the definition of siting."""
    step_x, step_y = 1, 1
    if number:
        step_x, step_y = 1 << found.log2_chroma_w, 1 << found.log2_chroma_h
    x = np.arange(width) * step_x + ((step_x - 1) / 2 if found.chroma_location == "center" else 0)
    y = np.arange(height) * step_y + (0 if found.chroma_location == "topleft" else (step_y - 1) / 2)
    return x[None, :], y[:, None]


@pytest.mark.parametrize(
    ("pix_fmt", "location", "scale"),
    [
        ("yuv420p", "left", 1),
        ("yuv420p", "left", 2),
        ("yuv420p", "center", 2),
        ("yuv420p", "topleft", 2),
        ("yuv444p", "left", 1),
        ("yuv444p", "left", 2),
        ("yuv411p", "left", 1),
        ("yuv422p10le", "left", 1),
        ("yuv422p10le", "left", 2),
    ],
)
def test_chroma_stays_with_its_luma(
    clips_dir: Path, pix_fmt: str, location: str, scale: int
) -> None:
    size = (64, 48)
    source, _ = formats.working_format("yuv420p")
    planes = []
    for number, (height, width) in enumerate(source.plane_sizes(*size)):
        x, y = position(source, number, height, width)
        planes.append(np.floor(20 + 1.6 * x + 2 * y + 0.5)[None].astype(np.uint8))
    path = make_clip(
        clips_dir / "slopes.mkv", raw=pack_planes(planes), pix_fmt=None, frames=1, size=size
    )
    goal = target(pix_fmt=pix_fmt, size=(64 * scale, 48 * scale), location=location)
    info = replace(probe(path), colour=BT709)
    for number, plane in enumerate(take(BackgroundVideo(info, goal), 1)):
        _, height, width = plane.shape
        x, y = position(goal.format, number, height, width)
        # A sample's middle is where scaling keeps it.
        x, y = (x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5
        wanted = 20 + 1.6 * x + 2 * y
        inner = (slice(height // 5, -height // 5), slice(width // 5, -width // 5))
        errors = (plane[0] / (1 << goal.format.depth - 8) - wanted)[inner]
        assert np.abs(errors).max() <= 1.1, number
        assert abs(errors.mean()) <= 0.25, number


@pytest.mark.parametrize("pix_fmt", ["yuva420p", "yuva444p10le", "gbrap", "gbrap12le"])
def test_transparent_parts_are_over_black(clips_dir: Path, pix_fmt: str) -> None:
    plain, has_alpha = formats.working_format(pix_fmt)
    assert has_alpha
    rgb, top = (200, 100, 50), (1 << plain.depth) - 1
    colour = RGB if plain.is_rgb else Colour("tv", "bt709")
    dtype = np.uint8 if plain.depth == 8 else np.uint16
    planes = [
        np.full((1, *size), round(code), dtype)
        for size, code in zip(
            plain.plane_sizes(64, 48), codes_of(rgb, plain.depth, colour), strict=True
        )
    ]
    opacity = np.linspace(0, 1, 64)
    planes.append(np.broadcast_to(np.round(opacity * top).astype(dtype), (1, 48, 64)))
    path = make_clip(
        clips_dir / f"over-black-{pix_fmt}.mkv",
        raw=pack_planes(planes),
        raw_pix_fmt=pix_fmt,
        pix_fmt=None,
        frames=1,
        matrix=None if plain.is_rgb else "bt709",
    )
    info = probe(path)
    assert info.has_alpha
    green, blue, red = take(BackgroundVideo(info, target(pix_fmt="gbrp")), 1)
    for plane, value in zip((red, green, blue), rgb, strict=True):
        assert np.abs(plane[0] - value * opacity).max() <= 2


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_backgrounds_stand_upright(counting: object, rotation: int) -> None:
    info = probe(counting(".mp4", 3, "25", rotation=rotation))  # type: ignore[operator]
    size = (48, 64) if rotation % 180 else (64, 48)
    assert (info.width, info.height) == size
    luma = take(BackgroundVideo(info, target(size=size)), 3)[0]
    # What turns the shown picture back by as much is the stored one.
    assert frame_numbers(np.rot90(luma, rotation // 90, axes=(1, 2))) == [0, 1, 2]


def test_fields_are_joined(counting: object) -> None:
    path = counting(".mkv", 10, "25", interlaced=True, codec="mpeg2video")  # type: ignore[operator]
    info = probe(path)
    assert info.is_interlaced
    shown = BackgroundVideo(info, target(), end="hold")
    assert frame_numbers(take(shown, 12)[0]) == [*range(10), 9, 9]


def test_anamorphic_backgrounds_keep_their_shape(counting: object) -> None:
    path = counting(".mp4", 2, "25", sar="4/3", first_number=4095)  # type: ignore[operator]
    luma, *chroma = take(BackgroundVideo(probe(path), target(), fit="contain"), 1)
    rows = np.flatnonzero(luma[0, :, 30] > 100)
    assert (rows[0], rows[-1]) == (6, 41)  # 36 of 48 rows: 64 x 48 shown as 85 x 48
    assert luma[0, 2, 30] == 16
    assert all(plane[0, 1, 15] == 128 for plane in chroma)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 7), (65, 47)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv411p", "yuv410p", "yuv422p10le", "gbrp"])
def test_frames_of_any_size(
    counting: object, tmp_path: Path, size: tuple[int, int], pix_fmt: str
) -> None:
    goal = target(pix_fmt=pix_fmt, size=size)
    info = probe(counting(".mp4", 2, "25"))  # type: ignore[operator]
    Image.new("RGB", (5, 3), (10, 200, 30)).save(tmp_path / "small.png")
    for fit in background.FITS:
        shown = take(BackgroundVideo(info, goal, fit=fit), 1)
        picture = background.still(tmp_path / "small.png", fit, goal)
        for planes in (shown, picture):
            assert [plane.shape[1:] for plane in planes] == list(goal.format.plane_sizes(*size))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 1)])
def test_backgrounds_of_any_size(clips_dir: Path, size: tuple[int, int]) -> None:
    chroma_samples = -(-size[0] // 2) * -(-size[1] // 2)
    raw = bytes([180]) * (size[0] * size[1]) + bytes([128]) * (2 * chroma_samples)
    path = make_clip(
        clips_dir / f"tiny{size[0]}x{size[1]}.mkv", size=size, raw=raw, codec="rawvideo", frames=1
    )
    for fit in background.FITS:
        luma = take(BackgroundVideo(probe(path), target(), fit=fit), 2)[0]
        assert abs(int(luma[1, 24, 32]) - 180) <= 1


# ---- HDR ---------------------------------------------------------------------------------------


def pq_signal(nits: float) -> float:
    """Return the signal of a luminance in cd/m² (SMPTE ST 2084, 5.3)."""
    power = (nits / 10_000) ** (2610 / 16384)
    return float(((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32))


def hlg_signal(nits: float) -> float:
    """Return the signal of grey on a display of 1000 cd/m² (ITU-R BT.2100, table 5)."""
    scene = (nits / 1000) ** (1 / 1.2)
    if scene <= 1 / 12:
        return float(np.sqrt(3 * scene))
    return float(0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073)


@pytest.mark.parametrize(
    ("transfer", "signal"), [("smpte2084", pq_signal), ("arib-std-b67", hlg_signal)]
)
def test_a_page_behind_an_hdr_clip_is_as_bright_as_paper(
    tmp_path: Path, transfer: str, signal: object
) -> None:
    goal = target(pix_fmt="yuv420p10le", colour=Colour("tv", "bt2020nc", "bt2020", transfer))
    for grey in (255, 128, 20):
        Image.new("RGB", (32, 24), (grey,) * 3).save(tmp_path / "page.png")
        luma, blue, red = background.still(tmp_path / "page.png", "cover", goal)
        # White is 203 cd/m² (ITU-R BT.2408); the page is made for a gamma of 2.4 (BT.1886).
        nits = 203 * (grey / 255) ** 2.4
        assert int(luma[0, 5, 5]) == pytest.approx(64 + 876 * signal(nits), abs=2)  # type: ignore[operator]
        assert abs(int(blue[0, 5, 5]) - 512) <= 1
        assert abs(int(red[0, 5, 5]) - 512) <= 1


def test_an_sdr_video_behind_an_hdr_clip(flat_clip: object) -> None:
    info = probe(flat_clip("yuv422p10le", Colour("tv", "bt709")))  # type: ignore[operator]
    goal = target(pix_fmt="yuv420p10le", colour=Colour("tv", "bt2020nc", "bt2020", "smpte2084"))
    luma, *_ = take(BackgroundVideo(info, goal), 1)
    assert int(luma[0, 5, 5]) == pytest.approx(64 + 876 * pq_signal(203), abs=2)


def test_an_hdr_video_behind_an_sdr_clip(clips_dir: Path) -> None:
    levels = (0.0, 203 * 0.5**2.4, 203.0, 1000.0)
    codes = np.array([round(64 + 876 * pq_signal(nits)) for nits in levels], np.uint16)
    luma = np.broadcast_to(codes[:, None, None], (4, 48, 64))
    neutral = np.full((4, 24, 32), 512, np.uint16)
    path = make_clip(
        clips_dir / "pq.mkv",
        raw=pack_planes([luma, neutral, neutral]),
        raw_pix_fmt="yuv420p10le",
        pix_fmt=None,
        frames=4,
        matrix="bt2020nc",
        primaries="bt2020",
        transfer="smpte2084",
        colour_range="tv",
    )
    found = take(BackgroundVideo(probe(path), target(pix_fmt="gbrp")), 4)
    for plane in found:
        black, grey, white, bright = plane[:, 20, 20].astype(int).tolist()
        assert black == 0
        assert grey == pytest.approx(128, abs=3)  # as it would be on an SDR display
        assert 215 <= white < bright <= 255  # what is brighter than white keeps some room


# ---- Stills and colours ------------------------------------------------------------------------

QUADRANTS = np.zeros((48, 64, 3), np.uint8)
QUADRANTS[:24, :32], QUADRANTS[:24, 32:] = (255, 0, 0), (0, 255, 0)
QUADRANTS[24:, :32], QUADRANTS[24:, 32:] = (0, 0, 255), (255, 255, 255)
# EXIF 2.32, tag 0x0112: where the stored row 0 and column 0 are in the upright picture.
STORED = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),
    8: lambda shown: np.rot90(shown, -1),
}
RAMP = np.broadcast_to(np.linspace(0, 255, 64).round().astype(np.uint8), (48, 64))


def shown_rgb(path: Path, fit: str = "stretch") -> NDArray[np.uint8]:
    """Return a still as it would be behind an RGB clip of 64 x 48, R'G'B' ``(48, 64, 3)``."""
    green, blue, red = background.still(path, fit, target(pix_fmt="gbrp"))
    return np.stack([red[0], green[0], blue[0]], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_photographs_stand_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](QUADRANTS)))
    options = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    stored.save(path, exif=exif, **options)
    corners = np.ix_([5, 40], [5, 60])
    errors = shown_rgb(path)[corners].astype(int) - QUADRANTS[corners]
    assert np.abs(errors).max() <= 4


def test_transparent_pictures_are_over_black(tmp_path: Path) -> None:
    flat = np.broadcast_to(np.array([200, 100, 50], np.uint8), (48, 64, 3))
    Image.fromarray(np.dstack([flat, RAMP])).save(tmp_path / "rgba.png")
    wanted = flat * (RAMP[..., None] / 255)
    assert np.abs(shown_rgb(tmp_path / "rgba.png") - wanted).max() <= 1
    Image.fromarray(np.dstack([RAMP, RAMP[:, ::-1]])).save(tmp_path / "la.png")
    wanted = RAMP * (RAMP[:, ::-1] / 255)
    assert np.abs(shown_rgb(tmp_path / "la.png")[..., 0] - wanted).max() <= 1
    palette = Image.fromarray(QUADRANTS).quantize(4)
    clear = palette.getpixel((5, 5))
    palette.save(tmp_path / "palette.png", transparency=clear)
    shown = shown_rgb(tmp_path / "palette.png")
    assert shown[5, 5].tolist() == [0, 0, 0]
    assert shown[40, 60].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "suffix"), [("P", ".png"), ("CMYK", ".jpg"), ("YCbCr", ".jpg"), ("RGB", ".webp")]
)
def test_pictures_of_other_colour_models(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {"quality": 95}
    Image.fromarray(QUADRANTS).convert(mode).save(path, **options)
    corners = np.ix_([5, 40], [5, 60])
    assert np.abs(shown_rgb(path)[corners].astype(int) - QUADRANTS[corners]).max() <= 3


def test_grey_pictures_of_any_depth(tmp_path: Path) -> None:
    deep = np.broadcast_to(np.linspace(0, 65535, 64).round(), (48, 64))
    Image.fromarray(RAMP).save(tmp_path / "l.png")
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "i16.png")
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "i.tif")
    cv2.imwrite(str(tmp_path / "rgb16.png"), np.dstack([deep.astype(np.uint16)] * 3))
    for name in ("l.png", "i16.png", "i.tif", "rgb16.png"):
        shown = shown_rgb(tmp_path / name).astype(int)
        assert np.abs(shown - RAMP[..., None]).max() <= 1, name
    Image.fromarray(RAMP > 127).save(tmp_path / "1.png")
    assert set(np.unique(shown_rgb(tmp_path / "1.png"))) == {0, 255}


def test_a_colour_profile_is_honoured(tmp_path: Path) -> None:
    # A profile whose red and blue primaries are swapped shows red pixels as blue.
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for n in range(struct.unpack(">I", profile[128:132])[0]):
        name, offset, _ = struct.unpack(">4sII", profile[132 + 12 * n : 144 + 12 * n])
        tags[name] = offset
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[red : red + 20], profile[blue : blue + 20] = (
        profile[blue : blue + 20],
        profile[red : red + 20],
    )
    for mode in ("RGB", "RGBA"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(QUADRANTS).convert(mode).save(path, icc_profile=bytes(profile))
        shown = shown_rgb(path).astype(int)
        assert np.abs(shown[5, 5] - [0, 0, 255]).max() <= 2
        assert np.abs(shown[40, 5] - [255, 0, 0]).max() <= 2
        assert np.abs(shown[40, 60] - 255).max() <= 2


def test_a_broken_colour_profile_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(QUADRANTS).save(tmp_path / "a.png", icc_profile=b"no profile" * 30)
    np.testing.assert_array_equal(shown_rgb(tmp_path / "a.png"), QUADRANTS)
    assert "colour profile is left out" in caplog.text


def test_a_still_is_contained_before_black(tmp_path: Path) -> None:
    Image.new("RGB", (64, 24), (10, 200, 30)).save(tmp_path / "wide.png")
    shown = shown_rgb(tmp_path / "wide.png", "contain")
    assert shown[:12].max() == 0
    assert shown[36:].max() == 0
    assert (shown[13:35] == (10, 200, 30)).all()
    assert (shown_rgb(tmp_path / "wide.png", "cover") == (10, 200, 30)).all()


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that says it is of this size, and holds next to nothing."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + payload))
        return struct.pack(">I", len(payload)) + kind + payload + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (12_000, 12_000)])
def test_a_picture_of_absurd_size_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*size))
    with pytest.raises(InputError, match=r"bomb\.png: .* pixels"):
        background.still(path, "cover", target())


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(whole)
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "short.png").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name in ("short.png", "text.png", "empty.png", "missing.png", "float.tif", "."):
        with pytest.raises(InputError) as caught:
            background.still(tmp_path / name, "cover", target())
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)


@given(st.data())
def test_damaged_pictures_raise_nothing_else(data: st.DataObject) -> None:
    # Whatever Pillow stumbles over, the error is ours. A small corpus, broken by hand.
    packed = bytearray(PICTURES[data.draw(st.sampled_from(sorted(PICTURES)))])
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    path = PICTURE_FOLDER / "damaged.bin"
    path.write_bytes(packed[: data.draw(st.integers(1, len(packed)))])
    assert "\n" not in complaint_about(path)


def complaint_about(path: Path) -> str:
    try:
        background._read_picture(path, 1_000_000)
    except InputError as error:
        return str(error)
    return ""


PICTURES: dict[str, bytes] = {}
PICTURE_FOLDER = Path()


@pytest.fixture(scope="module", autouse=True)
def _pictures(tmp_path_factory: pytest.TempPathFactory) -> None:
    global PICTURE_FOLDER
    PICTURE_FOLDER = tmp_path_factory.mktemp("pictures")
    for suffix in ("png", "jpg", "gif", "tif", "bmp", "webp"):
        path = PICTURE_FOLDER / f"a.{suffix}"
        Image.fromarray(QUADRANTS).resize((16, 12)).save(path)
        PICTURES[suffix] = path.read_bytes()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("blur", Blur()),
        ("blur:12.5", Blur(12.5)),
        ("#204060", Solid((32, 64, 96))),
        ("0,177,64", Solid((0, 177, 64))),
        ("beach.jpg", Path("beach.jpg")),
        ("./green", Path("./green")),
    ],
)
def test_what_a_background_can_be(text: str, wanted: object) -> None:
    assert background.parse(text) == wanted


@pytest.mark.parametrize("text", ["blur:", "blur:0", "blur:-3", "blur:nan", "blur:x", "blur:inf"])
def test_a_blur_needs_a_radius(text: str) -> None:
    with pytest.raises(ValueError, match="not a radius"):
        background.parse(text)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "gbrp", "yuv411p"])
def test_a_flat_colour(pix_fmt: str) -> None:
    goal = target(pix_fmt=pix_fmt, size=(7, 5))
    planes = background.solid((200, 30, 90), goal)
    codes = codes_of((200, 30, 90), goal.format.depth, goal.colour)
    for plane, size, code in zip(planes, goal.format.plane_sizes(7, 5), codes, strict=True):
        assert plane.shape == (1, *size)
        assert set(np.unique(plane)) == {floor(code + 0.5)}


# ---- Failures ----------------------------------------------------------------------------------


def test_a_background_that_is_gone(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "gone.mp4", frames=3)
    info = probe(path)
    path.unlink()
    with pytest.raises(DecodeError) as caught:
        take(BackgroundVideo(info, target()), 1)
    assert "gone.mp4: no frame of it can be shown as background (" in str(caught.value)
    assert "No such file" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", background.ENDS)
def test_a_damaged_background_goes_on_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    path = make_clip(
        tmp_path / "damaged.mkv", frames=30, codec="libx264", options=("-g", "10", "-bf", "0")
    )
    info = probe(path)
    packed = bytearray(path.read_bytes())
    middle = len(packed) // 2
    packed[middle : middle + 200] = bytes(200)
    path.write_bytes(packed)
    assert len(take(BackgroundVideo(info, target(), end=end), 100)[0]) == 100
    assert caplog.text.count("the background is damaged") == 1


@pytest.mark.parametrize("frames_before", [0, 3, 20])
@pytest.mark.parametrize("end", background.ENDS)
def test_cancelling_ends_at_once(plain_clip: Path, end: str, frames_before: int) -> None:
    shown = BackgroundVideo(probe(plain_clip), target(size=(320, 240)), end=end)
    seen: list[int] = []
    ended = threading.Event()

    def show() -> None:
        for _ in shown:
            seen.append(1)
        ended.set()

    thread = threading.Thread(target=show)
    thread.start()
    deadline = time.monotonic() + 20
    while len(seen) < frames_before and time.monotonic() < deadline:
        time.sleep(0.001)
    shown.cancel()
    assert ended.wait(5)
    thread.join()


def test_cancelling_before_the_first_frame_is_no_error(
    plain_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = BackgroundVideo(probe(plain_clip), target())

    def cancelled(*arguments: object, **options: object) -> Iterator[None]:
        shown.cancel()
        return iter(())

    monkeypatch.setattr(background, "read_batches", cancelled)
    assert list(shown) == []


def test_closing_early_ends_the_decoder(tmp_path: Path) -> None:
    raw = counter_frames(100, (64, 48))
    path = make_clip(tmp_path / "a.mkv", raw=raw, frames=100, codec="rawvideo")
    frames = iter(BackgroundVideo(probe(path), target()))
    next(frames)
    frames.close()  # type: ignore[attr-defined]
