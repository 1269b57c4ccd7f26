"""What the sink writes, read back through PyAV: times, tags, pictures, and what failures leave."""

from __future__ import annotations

import itertools
import re
import signal
import struct
import subprocess
import sys
import textwrap
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from clips import (
    Array,
    counter_frames,
    decode_planes,
    frame_numbers,
    noise_planes,
    stream_facts,
)
from numpy.typing import NDArray
from PIL import Image

from vidbg import machine
from vidbg.errors import EncodeError, FFmpegError, OutputError
from vidbg.frames import Colour, PlaneFormat, VideoInfo
from vidbg.media import audio, encode, formats
from vidbg.media import ffmpeg as ff
from vidbg.media.encode import Output
from vidbg.media.sinks import Sink

PLAIN = (
    *("yuv420p", "yuv420p9le", "yuv420p10le", "yuv420p12le", "yuv420p14le", "yuv420p16le"),
    *("yuv422p", "yuv422p9le", "yuv422p10le", "yuv422p12le", "yuv422p14le", "yuv422p16le"),
    *("yuv444p", "yuv444p9le", "yuv444p10le", "yuv444p12le", "yuv444p14le", "yuv444p16le"),
    *("yuv440p", "yuv440p10le", "yuv440p12le", "yuv411p", "yuv410p"),
    *("gbrp", "gbrp9le", "gbrp10le", "gbrp12le", "gbrp14le", "gbrp16le"),
)
# ISO/IEC 23091-2: what PyAV's numbers mean.
RANGES = {"unknown": 0, "tv": 1, "pc": 2}
MATRICES = {"unknown": 2, "bt709": 1, "smpte170m": 6, "bt470bg": 5, "bt2020nc": 9}
PRIMARIES = {"unknown": 2, "bt709": 1, "smpte170m": 6, "bt470bg": 5, "bt2020": 9}
TRANSFERS = {"unknown": 2, "bt709": 1, "smpte170m": 6, "gamma28": 5, "bt470bg": 5, "smpte2084": 16}
PQ = Colour("tv", "bt2020nc", "bt2020", "smpte2084")


def plane_format(pix_fmt: str, location: str = "left") -> PlaneFormat:
    found, _ = formats.working_format(pix_fmt, chroma_location=location)
    assert found.pix_fmt == pix_fmt
    return found


@pytest.fixture(scope="session")
def source(exact_clip: Path) -> Path:
    """A silent clip for metadata to come from."""
    return exact_clip


def clip_info(path: Path, pix_fmt: str = "yuv420p", **fields: object) -> VideoInfo:
    """Return what probing a ten-frame clip of this format would say."""
    location = str(fields.pop("location", "left"))
    known: dict[str, object] = {
        "path": path,
        "container": "matroska,webm",
        "codec": "ffv1",
        "stream_index": 0,
        "width": 64,
        "height": 48,
        "rotation": 0,
        "sar": Fraction(1),
        "frame_rate": Fraction(25),
        "time_base": Fraction(1, 1000),
        "start": Fraction(0),
        "duration": Fraction(10, 25),
        "source_pix_fmt": pix_fmt,
        "format": plane_format(pix_fmt, location),
        "has_alpha": False,
        "colour": Colour(),
        "is_vfr": False,
        "is_interlaced": False,
        "is_image": False,
        "frame_count": 10,
        "missing_frames": 0,
        "repeated_frames": 0,
        "dropped_frames": 0,
        "audio": (),
        "subtitles": (),
        "has_chapters": False,
    }
    return VideoInfo(**{**known, **fields})  # type: ignore[arg-type]


def write(
    path: Path,
    info: VideoInfo,
    planes: tuple[Array, ...] | None,
    alpha: Array | None = None,
    *,
    kind: str = "composite",
    codec: str | None = None,
    batch_size: int = 3,
    **options: object,
) -> Path:
    """Write frames with the sink, in batches, and return the file."""
    chosen = encode.choose_codec(path, kind, codec)
    frames = next(part for part in (planes and planes[0], alpha) if part is not None)
    window = audio.Window(info.start, len(frames) / info.frame_rate, False)
    output = Output(path, kind, chosen, sound="none", **options)  # type: ignore[arg-type]
    with Sink(output, info, window) as sink:
        for first in range(0, len(frames), batch_size):
            part = slice(first, first + batch_size)
            cut = None if planes is None else tuple(plane[part] for plane in planes)
            sink.write(cut, None if alpha is None else alpha[part])  # type: ignore[arg-type]
    assert sink.frames_written == len(frames)
    return path


def flat(info: VideoInfo, codes: tuple[int, int, int], frames: int = 2) -> tuple[Array, ...]:
    """Return planes of one colour."""
    dtype = np.uint8 if info.format.depth == 8 else np.uint16
    sizes = info.format.plane_sizes(info.width, info.height)
    return tuple(
        np.full((frames, *size), code, dtype) for code, size in zip(codes, sizes, strict=True)
    )


def counter(info: VideoInfo, frames: int) -> tuple[Array, ...]:
    """Return 4:2:0 planes that count."""
    sizes = info.format.plane_sizes(info.width, info.height)
    edges = np.cumsum([h * w for h, w in sizes])
    packed = np.frombuffer(counter_frames(frames, (info.width, info.height)), np.uint8)
    parts = np.split(packed.reshape(frames, -1), edges[:-1], axis=1)
    return tuple(part.reshape(frames, *size) for part, size in zip(parts, sizes, strict=True))


# ---- Times -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["24000/1001", "179/6", "30000/1001", "25", "60"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_frames_and_rate_are_exact(tmp_path: Path, source: Path, suffix: str, rate: str) -> None:
    info = clip_info(source, frame_rate=Fraction(rate))
    frames = counter(info, 11)
    facts = stream_facts(write(tmp_path / f"out{suffix}", info, frames))
    assert facts.frames == 11
    assert facts.rate == Fraction(rate)
    wanted = [n / info.frame_rate for n in range(11)]
    if suffix in (".mkv", ".webm"):
        errors = [abs(stamp - time) for stamp, time in zip(facts.stamps, wanted, strict=True)]
        assert max(errors) <= Fraction(1, 2000)
    else:
        assert list(facts.stamps) == wanted
        assert facts.duration == pytest.approx(float(11 / info.frame_rate), abs=1e-3)
    luma = decode_planes(tmp_path / f"out{suffix}")[0]
    assert frame_numbers(luma) == list(range(11))


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_the_index_comes_before_the_pictures(tmp_path: Path, source: Path, suffix: str) -> None:
    info = clip_info(source)
    path = write(tmp_path / f"out{suffix}", info, counter(info, 3))
    boxes = []
    packed = path.read_bytes()
    offset = 0
    while offset < len(packed):
        size, name = struct.unpack(">I4s", packed[offset : offset + 8])
        boxes.append(name)
        offset += size
    assert boxes.index(b"moov") < boxes.index(b"mdat")


def said_by_x264(path: Path) -> set[str]:
    """Return the settings that x264 writes into its streams."""
    (settings,) = re.findall(rb"x264 - core .* options: ([^\0\x80]*)", path.read_bytes())
    return set(settings.decode().split())


def test_by_default_h264_420_crf_19_veryfast(tmp_path: Path, source: Path) -> None:
    info = clip_info(source, "yuv444p10le")
    path = write(tmp_path / "out.mp4", info, flat(info, (500, 400, 600)))
    facts = stream_facts(path)
    assert (facts.codec, facts.pix_fmt) == ("h264", "yuv420p")
    # x264 writes its settings into the stream; these are those of veryfast, with blocks whole.
    assert said_by_x264(path) >= {
        *("crf=19.0", "ref=1", "subme=2", "rc_lookahead=10"),
        "analyse=0x3:0x3",
    }
    named = write(tmp_path / "named.mp4", info, flat(info, (500, 400, 600)), preset="veryfast")
    assert said_by_x264(named) == said_by_x264(path)
    chosen = write(tmp_path / "chosen.mp4", info, flat(info, (500, 400, 600)), preset="faster")
    assert said_by_x264(chosen) >= {"ref=2", "subme=4", "analyse=0x3:0x113"}


# ---- Tags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "colour",
    [
        Colour("tv", "bt709", "bt709", "bt709"),
        Colour("tv", "smpte170m", "smpte170m", "smpte170m"),
        Colour("pc", "bt470bg", "bt470bg", "bt470bg"),
        Colour("pc", "bt709", "bt709", "bt709"),
        PQ,
    ],
    ids=lambda colour: f"{colour.range}-{colour.matrix}",
)
@pytest.mark.parametrize(
    ("codec", "suffix"), [("h264", ".mp4"), ("hevc", ".mov"), ("ffv1", ".mkv"), ("vp9", ".webm")]
)
def test_colour_tags_are_kept(
    tmp_path: Path, source: Path, colour: Colour, codec: str, suffix: str
) -> None:
    info = clip_info(source, "yuv420p10le", colour=colour)
    if codec == "h264" and colour == PQ:  # 8 bits are too few for it: it becomes SDR
        colour = Colour("tv", "bt709", "bt709", "bt709")
    planes = flat(info, (300, 480, 560))
    facts = stream_facts(write(tmp_path / f"out{suffix}", info, planes, codec=codec))
    assert facts.colour_range == RANGES[colour.range]
    assert facts.matrix == MATRICES[colour.matrix]
    assert facts.primaries == PRIMARIES[colour.primaries]
    assert facts.transfer == TRANSFERS[colour.transfer]


@pytest.mark.parametrize(("codec", "suffix"), [("av1", ".mp4"), ("prores", ".mov")])
def test_other_codecs_keep_tags_too(tmp_path: Path, source: Path, codec: str, suffix: str) -> None:
    info = clip_info(source, "yuv420p10le", colour=PQ, height=64)
    facts = stream_facts(
        write(tmp_path / f"out{suffix}", info, flat(info, (300, 480, 560)), codec=codec)
    )
    assert (facts.colour_range, facts.matrix, facts.primaries, facts.transfer) == (1, 9, 9, 16)


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "suffix"),
    [
        ("yuv420p", "h264", ".mp4"),
        ("yuv422p10le", "h264", ".mp4"),
        ("yuv420p", "ffv1", ".mkv"),
        ("yuv420p", "vp9", ".webm"),
        ("yuv444p", "prores", ".mov"),
    ],
)
def test_what_is_untagged_stays_so(
    tmp_path: Path, source: Path, pix_fmt: str, codec: str, suffix: str
) -> None:
    info = clip_info(source, pix_fmt)
    planes = flat(info, (100, 120, 130))
    facts = stream_facts(write(tmp_path / f"out{suffix}", info, planes, codec=codec))
    assert (facts.matrix, facts.primaries, facts.transfer) == (2, 2, 2)
    # Some bitstreams cannot leave the range open; limited is what unknown means.
    assert facts.colour_range in ((0,) if codec == "h264" else (0, 1))


@pytest.mark.parametrize("sar", ["4/3", "64/45", "4320/4739", "1/2"])
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h264"), (".mov", "prores")])
def test_sample_aspect_ratio_is_kept(
    tmp_path: Path, source: Path, suffix: str, codec: str, sar: str
) -> None:
    info = clip_info(source, sar=Fraction(sar))
    path = write(tmp_path / f"out{suffix}", info, flat(info, (99, 128, 128)), codec=codec)
    assert stream_facts(path).sar == Fraction(sar)


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_matroska_keeps_it_as_a_display_size(tmp_path: Path, source: Path, suffix: str) -> None:
    info = clip_info(source, sar=Fraction(3, 2))
    path = write(tmp_path / f"out{suffix}", info, flat(info, (99, 128, 128)))
    assert stream_facts(path).sar == Fraction(3, 2)


@pytest.mark.parametrize("location", ["left", "center", "topleft"])
def test_the_place_of_chroma_is_told(tmp_path: Path, source: Path, location: str) -> None:
    info = clip_info(source, location=location)
    path = write(tmp_path / "out.mp4", info, flat(info, (99, 128, 128)))
    # Only FFmpeg's newer libraries say what the stream tells, whichever wrote it.
    reader = imageio_ffmpeg.get_ffmpeg_exe()
    shown = subprocess.run(
        [reader, "-i", str(path), "-vf", "showinfo", "-f", "null", "-"],
        capture_output=True,
        check=True,
    ).stderr.decode()
    found = re.findall(r" cl:(\w+)", shown)
    assert found[0] in ((location, "unspecified") if location == "left" else (location,))


# ---- Pictures ----------------------------------------------------------------------------------


def ramps(info: VideoInfo, frames: int = 2) -> tuple[Array, ...]:
    """Return planes that rise linearly across and down the picture, wherever chroma sits."""
    planes = []
    for number, (height, width) in enumerate(info.format.plane_sizes(info.width, info.height)):
        if number == 0 or info.format.is_rgb:
            x, y = np.arange(width)[None, :], np.arange(height)[:, None]
        else:
            x, y = chroma_positions(info.format, height, width)
        dtype = np.uint8 if info.format.depth == 8 else np.uint16
        codes = np.floor(ramp(number, x, y) * (1 << info.format.depth - 8) + 0.5)
        planes.append(np.repeat(codes.astype(dtype)[None], frames, axis=0))
    return tuple(planes)


def ramp(number: int, x: Array, y: Array) -> NDArray[np.float64]:
    """Return 8-bit codes of a plane at luma positions."""
    across, down = ((1.5, 0.6), (1.1, -0.8), (-0.9, 1.2))[number]
    return np.asarray(120 + across * (x - 31.5) + down * (y - 31.5))


def chroma_positions(found: PlaneFormat, height: int, width: int) -> tuple[Array, Array]:
    """Return the luma positions of chroma samples, by the definition of their siting."""
    step_x, step_y = 1 << found.log2_chroma_w, 1 << found.log2_chroma_h
    x = np.arange(width) * step_x + ((step_x - 1) / 2 if found.chroma_location == "center" else 0)
    y = np.arange(height) * step_y + (0 if found.chroma_location == "topleft" else (step_y - 1) / 2)
    return x[None, :], y[:, None]


def to_bt709(green: Array, blue: Array, red: Array) -> tuple[Array, Array, Array]:
    """Return limited-range 8-bit Y'CbCr codes of full-range 8-bit R'G'B' (ITU-R BT.709)."""
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (
        16 + 219 / 255 * luma,
        128 + 224 / 255 * (blue - luma) / 1.8556,
        128 + 224 / 255 * (red - luma) / 1.5748,
    )


def check_ramps(
    decoded: tuple[Array, ...],
    stored: PlaneFormat,
    tolerance: float,
    info: VideoInfo,
) -> None:
    """Compare decoded Y'CbCr with what the ramps are at its samples' places, away from edges."""
    for number, plane in enumerate(decoded[:3]):
        _, height, width = plane.shape
        if number == 0:
            x, y = np.arange(width)[None, :], np.arange(height)[:, None]
        else:
            x, y = chroma_positions(stored, height, width)
        if info.format.is_rgb:
            wanted = to_bt709(*(ramp(component, x, y) for component in range(3)))[number]
        else:
            wanted = ramp(number, x, y)
        edge_y, edge_x = (16 * size // 64 for size in (height, width))
        inner = (slice(None), slice(edge_y, -edge_y), slice(edge_x, -edge_x))
        errors = np.abs(plane / (1 << stored.depth - 8) - wanted)[inner]
        assert errors.max() <= tolerance, (number, errors.max())


@pytest.mark.parametrize("pix_fmt", PLAIN)
def test_h264_holds_the_picture_of_every_format(tmp_path: Path, source: Path, pix_fmt: str) -> None:
    info = clip_info(source, pix_fmt, height=64, colour=Colour("tv", "bt709"))
    # Without loss in the encoder what is left is the conversion: rounding, and dither.
    path = write(tmp_path / "out.mp4", info, ramps(info), crf=0)
    check_ramps(decode_planes(path), plane_format("yuv420p"), 1.2, info)


@pytest.mark.parametrize("location", ["left", "center", "topleft"])
def test_chroma_is_found_where_the_clip_has_it(tmp_path: Path, source: Path, location: str) -> None:
    info = clip_info(source, height=64, location=location)
    path = write(tmp_path / "out.mov", info, ramps(info), codec="prores")
    check_ramps(decode_planes(path), plane_format("yuv422p10le"), 1.2, info)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p12le", "gbrp", "gbrp16le"])
@pytest.mark.parametrize(
    ("codec", "suffix", "depths", "tolerance"),
    [
        ("hevc", ".mp4", (8, 10, 12), 3.0),
        ("av1", ".mkv", (8, 10), 3.5),
        ("vp9", ".webm", (8, 10), 3.0),
        ("prores", ".mov", (10,), 1.2),
    ],
)
def test_other_codecs_hold_the_picture(
    tmp_path: Path,
    source: Path,
    pix_fmt: str,
    codec: str,
    suffix: str,
    depths: tuple[int, ...],
    tolerance: float,
) -> None:
    info = clip_info(source, pix_fmt, height=64, colour=Colour("tv", "bt709"))
    path = write(tmp_path / f"out{suffix}", info, ramps(info), codec=codec)
    named = stream_facts(path).pix_fmt
    depth = next((depth for depth in depths if depth >= info.format.depth), depths[-1])
    if codec == "prores" and "444" in named:
        depth = 12  # FFmpeg decodes ProRes 4444 as 12-bit, whatever it was made of
    assert formats.working_format(named)[0].depth == depth
    check_ramps(decode_planes(path), plane_format(named), tolerance, info)


@pytest.mark.parametrize("pix_fmt", PLAIN)
def test_ffv1_keeps_every_sample(tmp_path: Path, source: Path, pix_fmt: str) -> None:
    info = clip_info(source, pix_fmt, width=37, height=21)
    planes = noise_planes(pix_fmt, (37, 21), 3)
    path = write(tmp_path / "out.mkv", info, planes, codec="ffv1")
    decoded = decode_planes(path, pix_fmt)
    for found, wanted in zip(decoded, planes, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv440p", "yuv411p", "yuv410p"])
@pytest.mark.parametrize("size", [(16, 16), (19, 17), (22, 38), (35, 33), (403, 303)])
def test_ffv1_keeps_every_sample_of_odd_sizes(
    tmp_path: Path, source: Path, pix_fmt: str, size: tuple[int, int]
) -> None:
    info = clip_info(source, pix_fmt, width=size[0], height=size[1])
    planes = noise_planes(pix_fmt, size, 1)
    path = write(tmp_path / "out.mkv", info, planes, codec="ffv1")
    for found, wanted in zip(decode_planes(path), planes, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("pix_fmt", PLAIN)
def test_ffv1_keeps_every_sample_beside_alpha(tmp_path: Path, source: Path, pix_fmt: str) -> None:
    info = clip_info(source, pix_fmt, width=37, height=21)
    planes = noise_planes(pix_fmt, (37, 21), 2)
    top = 255 if info.format.depth == 8 else 65535
    alpha = np.random.default_rng(1).integers(0, top + 1, (2, 21, 37)).astype(planes[0].dtype)
    alpha[:, :2], alpha[:, 2:4] = 0, top
    path = write(tmp_path / "out.mkv", info, planes, alpha, kind="alpha", codec="ffv1")
    layout, _ = formats.alpha_layout(info.format)
    decoded = decode_planes(path, layout if info.format.is_rgb else None)
    depth = formats.working_format(stream_facts(path).pix_fmt)[0].depth
    deeper = depth - info.format.depth
    wide = decoded[1].shape[2] // planes[1].shape[2] if planes[1].shape[2] else 1
    for found, wanted in zip(decoded[:3], planes, strict=True):
        if found.shape == wanted.shape:
            np.testing.assert_array_equal(found >> deeper, wanted)
        else:  # no layout with alpha has this subsampling: chroma is repeated
            assert wide > 1 or found.shape[1] > wanted.shape[1]
            rows, columns = np.arange(21), np.arange(37)
            chroma = wanted[:, rows >> info.format.log2_chroma_h][
                :, :, columns >> info.format.log2_chroma_w
            ]
            np.testing.assert_array_equal(found >> deeper, chroma)
    stored_top = (1 << depth) - 1
    np.testing.assert_array_less(np.abs(decoded[3] / stored_top - alpha / top), 0.51 / 255)
    assert set(np.unique(decoded[3][:, :4])) == {0, stored_top}
    if info.format.depth in (8, 16):
        np.testing.assert_array_equal(decoded[3], alpha)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le"])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_depth_that_h264_lacks_is_dithered(
    tmp_path: Path, source: Path, pix_fmt: str, quarters: int
) -> None:
    info = clip_info(source, pix_fmt, height=64)
    code = (400 + quarters) << info.format.depth - 10
    middle = 1 << info.format.depth - 1
    path = write(tmp_path / "out.mp4", info, flat(info, (code, middle, middle)), crf=0)
    luma = decode_planes(path)[0]
    assert set(np.unique(luma)) == {100, 101}
    assert luma.mean() == pytest.approx(100 + quarters / 4, abs=0.02)


@pytest.mark.parametrize(("codec", "suffix"), [("hevc", ".mp4"), ("prores", ".mov")])
def test_depth_that_a_codec_has_is_kept(
    tmp_path: Path, source: Path, codec: str, suffix: str
) -> None:
    info = clip_info(source, "yuv420p10le")
    path = write(tmp_path / f"out{suffix}", info, flat(info, (403, 512, 512)), codec=codec)
    luma = decode_planes(path)[0]
    assert luma.dtype == np.uint16
    assert luma.mean() == pytest.approx(403, abs=0.5)


@pytest.mark.parametrize(
    "rgb", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 30, 90)]
)
def test_rgb_becomes_tagged_bt709(tmp_path: Path, source: Path, rgb: tuple[int, int, int]) -> None:
    info = clip_info(source, "gbrp", colour=Colour("pc", "gbr"))
    red, green, blue = rgb
    path = write(tmp_path / "out.mp4", info, flat(info, (green, blue, red)), crf=0)
    facts = stream_facts(path)
    assert (facts.colour_range, facts.matrix, facts.primaries, facts.transfer) == (1, 1, 1, 1)
    wanted = to_bt709(np.array(green), np.array(blue), np.array(red))
    for plane, code in zip(decode_planes(path), wanted, strict=True):
        assert np.abs(plane - code).max() <= 0.75


@pytest.mark.parametrize(
    ("codec", "suffix", "tolerance"),
    [("h264", ".mp4", 0), ("ffv1", ".mkv", 0), ("hevc", ".mov", 2), ("vp9", ".webm", 2)],
)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_full_range_is_not_squeezed(
    tmp_path: Path, source: Path, codec: str, suffix: str, tolerance: int, pix_fmt: str
) -> None:
    info = clip_info(source, pix_fmt, colour=Colour("pc", "bt709"))
    top = (1 << info.format.depth) - 1
    for code in (0, top):
        options = {"crf": 0} if codec == "h264" else {}
        planes = flat(info, (code, top // 4, top // 2 + 1))
        path = write(tmp_path / f"{code}{suffix}", info, planes, codec=codec, **options)
        assert stream_facts(path).colour_range == 2
        luma = decode_planes(path)[0]
        stored_top = (1 << plane_depth(path)) - 1
        assert np.abs(luma / stored_top - code / top).max() <= tolerance / 255


def test_what_an_rgb_clip_says_of_its_light_is_kept(tmp_path: Path, source: Path) -> None:
    info = clip_info(source, "gbrp", colour=Colour("pc", "gbr", "bt709", "iec61966-2-1"))
    facts = stream_facts(write(tmp_path / "out.mp4", info, flat(info, (9, 9, 9))))
    assert (facts.matrix, facts.primaries, facts.transfer) == (1, 1, 13)


def test_prores_has_no_full_range(tmp_path: Path, source: Path) -> None:
    info = clip_info(source, "yuv422p", colour=Colour("pc", "bt709"))
    for code, wanted in ((255, 940), (0, 64), (128, 64 + 876 * 128 / 255)):
        path = write(tmp_path / f"{code}.mov", info, flat(info, (code, 128, 128)), codec="prores")
        assert stream_facts(path).colour_range == 1
        assert decode_planes(path)[0].mean() == pytest.approx(wanted, abs=4)


# ---- Odd sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 5), (6, 3), (37, 21)])
def test_odd_sizes_repeat_one_row_and_column(
    tmp_path: Path, source: Path, size: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    info = clip_info(source, width=size[0], height=size[1])
    planes = noise_planes("yuv420p", size, 2)
    decoded = decode_planes(write(tmp_path / "out.mp4", info, planes, crf=0))
    even = tuple(length + length % 2 for length in size[::-1])
    assert decoded[0].shape[1:] == even
    for found, wanted in zip(decoded, planes, strict=True):
        missing = [(0, a - b) for a, b in zip(found.shape, wanted.shape, strict=True)]
        np.testing.assert_array_equal(found, np.pad(wanted, missing, mode="edge"))
    assert f"{size[0]}x{size[1]} is odd" in caplog.text


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "gbrp"])
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_odd_sizes_of_any_subsampling(
    tmp_path: Path, source: Path, pix_fmt: str, size: tuple[int, int]
) -> None:
    info = clip_info(source, pix_fmt, width=size[0], height=size[1], colour=Colour("tv", "bt709"))
    middle = flat(info, (120, 120, 120))
    decoded = decode_planes(write(tmp_path / "out.mp4", info, middle, crf=0))
    wanted = to_bt709(*map(np.array, (120, 120, 120))) if pix_fmt == "gbrp" else (120, 120, 120)
    for plane, code in zip(decoded, wanted, strict=True):
        assert np.abs(plane - code).max() <= 1


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", ".mkv"), ("prores", ".mov")])
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (37, 21)])
def test_odd_sizes_stay_where_the_codec_has_them(
    tmp_path: Path, source: Path, codec: str, suffix: str, size: tuple[int, int]
) -> None:
    info = clip_info(source, width=size[0], height=size[1])
    planes = flat(info, (90, 128, 128))
    facts = stream_facts(write(tmp_path / f"out{suffix}", info, planes, codec=codec))
    assert (facts.width, facts.height) == size


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv411p", "yuv440p", "gbrp"])
def test_alpha_of_odd_size(tmp_path: Path, source: Path, pix_fmt: str) -> None:
    info = clip_info(source, pix_fmt, width=7, height=5, colour=Colour("tv", "bt709"))
    codes = 120 << info.format.depth - 8
    alpha = np.full((2, 5, 7), np.iinfo(alpha_ramp(info).dtype).max // 3, alpha_ramp(info).dtype)
    path = write(tmp_path / "a.webm", info, flat(info, (codes,) * 3), alpha, kind="alpha")
    wanted = to_bt709(*map(np.array, (120, 120, 120))) if pix_fmt == "gbrp" else (120, 120, 120)
    decoded = decode_planes(path, decoder="libvpx-vp9")
    assert decoded[3].shape == (2, 6, 8)
    for plane, code in zip(decoded, (*wanted, 85), strict=True):
        assert np.abs(plane - code).max() <= 1.5


def test_a_matte_of_odd_size(tmp_path: Path, source: Path) -> None:
    info = clip_info(source, width=7, height=5)
    alpha = np.random.default_rng(0).integers(0, 256, (2, 5, 7)).astype(np.uint8)
    path = write(tmp_path / "out.mp4", info, None, alpha, kind="matte", crf=0)
    wanted = np.pad(alpha, ((0, 0), (0, 1), (0, 1)), mode="edge")
    np.testing.assert_array_equal(decode_planes(path)[0], wanted)


# ---- Alpha and mattes --------------------------------------------------------------------------


def alpha_ramp(info: VideoInfo, frames: int = 2) -> Array:
    """Return alpha that rises over the columns, fully clear and fully opaque at the ends."""
    top = 255 if info.format.depth == 8 else 65535
    row = np.round(np.clip(np.linspace(-0.1, 1.1, info.width), 0, 1) * top)
    dtype = np.uint8 if info.format.depth == 8 else np.uint16
    return np.broadcast_to(row.astype(dtype), (frames, info.height, info.width))


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv411p", "gbrp", "yuv420p10le", "gbrp12le"]
)
def test_prores_alpha_is_faithful(tmp_path: Path, source: Path, pix_fmt: str) -> None:
    info = clip_info(source, pix_fmt, height=64, colour=Colour("tv", "bt709"))
    alpha = alpha_ramp(info)
    path = write(tmp_path / "out.mov", info, ramps(info), alpha, kind="alpha")
    assert stream_facts(path).codec == "prores"
    decoded = decode_planes(path)
    top = 4095  # FFmpeg decodes ProRes 4444 as 12-bit
    wanted = alpha / np.iinfo(alpha.dtype).max
    errors = np.abs(decoded[3] / top - wanted) * 255
    assert errors.max() <= 0.35
    assert errors.mean() <= 0.15
    assert set(np.unique(decoded[3][wanted == 0])) == {0}
    assert set(np.unique(decoded[3][wanted == 1])) == {top}
    # Chroma of 4:1:1 is repeated beside alpha: one sample stands for three more columns.
    tolerance = 4.5 if pix_fmt == "yuv411p" else 1.2
    check_ramps(decoded, plane_format("yuv444p12le"), tolerance, info)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "gbrp", "yuv420p10le"])
@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_vp9_alpha(tmp_path: Path, source: Path, suffix: str, pix_fmt: str) -> None:
    info = clip_info(source, pix_fmt, height=64, colour=Colour("tv", "bt709"))
    alpha = alpha_ramp(info)
    path = tmp_path / f"out{suffix}"
    write(path, info, ramps(info), alpha, kind="alpha", codec="vp9")
    with av.open(str(path)) as container:
        tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
    assert tags["alpha_mode"] == "1"
    decoded = decode_planes(path, decoder="libvpx-vp9")
    wanted = alpha / (np.iinfo(alpha.dtype).max / 255)
    errors = np.abs(decoded[3] - wanted)
    assert errors.max() <= 4
    assert errors.mean() <= 0.7
    check_ramps(decoded, plane_format("yuv420p"), 4.5, info)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "gbrp", "yuv422p16le"])
@pytest.mark.parametrize(
    ("codec", "suffix", "tolerance"),
    [("h264", ".mp4", 0.0), ("hevc", ".mov", 3.0), ("vp9", ".webm", 3.0), ("av1", ".mkv", 3.0)],
)
def test_mattes_are_full_range(
    tmp_path: Path, source: Path, codec: str, suffix: str, pix_fmt: str, tolerance: float
) -> None:
    info = clip_info(source, pix_fmt, height=64)
    alpha = alpha_ramp(info)
    options = {"crf": 0} if codec == "h264" else {}
    path = write(tmp_path / f"out{suffix}", info, None, alpha, kind="matte", codec=codec, **options)
    assert stream_facts(path).colour_range == 2
    luma, *chroma = decode_planes(path)
    top = 255 if luma.dtype == np.uint8 else (1 << plane_depth(path)) - 1
    errors = np.abs(luma / top - alpha / np.iinfo(alpha.dtype).max) * 255
    assert errors.max() <= tolerance + 0.51
    assert all(np.abs(plane / (top + 1) - 0.5).max() < 0.01 for plane in chroma)


def plane_depth(path: Path) -> int:
    return formats.working_format(stream_facts(path).pix_fmt)[0].depth


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "gbrp16le"])
def test_ffv1_mattes_are_exact(tmp_path: Path, source: Path, pix_fmt: str) -> None:
    info = clip_info(source, pix_fmt)
    alpha = alpha_ramp(info)
    path = write(tmp_path / "out.mkv", info, None, alpha, kind="matte")
    facts = stream_facts(path)
    assert (facts.codec, facts.colour_range) == ("ffv1", 2)
    (decoded,) = decode_planes(path)
    np.testing.assert_array_equal(decoded, alpha)


def test_prores_mattes_are_limited_as_its_readers_take_them(tmp_path: Path, source: Path) -> None:
    info = clip_info(source)
    alpha = alpha_ramp(info)
    path = write(tmp_path / "out.mov", info, None, alpha, kind="matte", codec="prores")
    assert stream_facts(path).colour_range == 1
    wanted = 64 + 876 * (alpha / 255)
    assert np.abs(decode_planes(path)[0] - wanted).max() <= 4


# ---- Pictures as files -------------------------------------------------------------------------


def full_rgb(pix_fmt: str, colour: Colour, codes: tuple[int, int, int]) -> list[float]:
    """Return 8-bit R'G'B' of Y'CbCr codes, by the equations of BT.601 and BT.709."""
    red_weight, blue_weight = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114)}[
        colour.matrix
    ]
    scale = 1 << plane_format(pix_fmt).depth - 8
    luma, blue, red = (code / scale for code in codes)
    if colour.range == "tv":
        luma, blue, red = (luma - 16) * 255 / 219, (blue - 128) * 255 / 224, (red - 128) * 255 / 224
    else:
        blue, red = blue - 128, red - 128
    r = luma + 2 * (1 - red_weight) * red
    b = luma + 2 * (1 - blue_weight) * blue
    g = (luma - red_weight * r - blue_weight * b) / (1 - red_weight - blue_weight)
    return [r, g, b]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(
    ("pix_fmt", "colour"),
    [
        ("yuv420p", Colour("tv", "bt709")),
        ("yuv420p", Colour("pc", "smpte170m")),
        # What a JPEG stores has the same name, but not the same range and matrix.
        ("yuv444p", Colour("tv", "bt709")),
        ("yuv444p", Colour("pc", "bt709")),
        ("yuv422p10le", Colour()),
        ("yuv411p", Colour("tv", "smpte170m")),
    ],
    ids=str,
)
def test_pictures_have_the_right_colours(
    tmp_path: Path, source: Path, suffix: str, pix_fmt: str, colour: Colour
) -> None:
    info = clip_info(source, pix_fmt, colour=colour, is_image=True, width=21, height=17)
    scale = 1 << info.format.depth - 8
    codes = (110 * scale, 100 * scale, 160 * scale)
    path = write(tmp_path / f"out{suffix}", info, flat(info, codes, 1))
    # Untagged and below 720 lines is smpte170m.
    known = colour if colour.matrix != "unknown" else Colour("tv", "smpte170m")
    wanted = full_rgb(pix_fmt, known, codes)
    with Image.open(path) as opened:
        assert opened.size == (21, 17)
        found = np.asarray(opened.convert("RGB")).astype(float)
    assert np.abs(found - wanted).max() <= (1.6 if suffix == ".png" else 4)


def test_a_png_keeps_every_code_of_an_rgb_picture(tmp_path: Path, source: Path) -> None:
    info = clip_info(source, "gbrp", is_image=True)
    green, blue, red = noise_planes("gbrp", (64, 48), 1)
    alpha = np.random.default_rng(3).integers(0, 256, (1, 48, 64)).astype(np.uint8)
    opaque = write(tmp_path / "opaque.png", info, (green, blue, red))
    clear = write(tmp_path / "clear.png", info, (green, blue, red), alpha, kind="alpha")
    matte = write(tmp_path / "matte.png", info, None, alpha, kind="matte")
    wanted = np.stack([red[0], green[0], blue[0]], axis=-1)
    np.testing.assert_array_equal(np.asarray(Image.open(opaque)), wanted)
    np.testing.assert_array_equal(np.asarray(Image.open(clear)), np.dstack([wanted, alpha[0]]))
    np.testing.assert_array_equal(np.asarray(Image.open(matte)), alpha[0])


def test_a_deep_png_has_sixteen_bits(tmp_path: Path, source: Path) -> None:
    info = clip_info(source, "gbrp16le", is_image=True)
    planes = noise_planes("gbrp16le", (64, 48), 1)
    path = write(tmp_path / "out.png", info, planes)
    for found, wanted in zip(decode_planes(path, "gbrp16le"), planes, strict=True):
        np.testing.assert_array_equal(found, wanted)
    alpha = alpha_ramp(info, 1)
    path = write(tmp_path / "matte.png", info, None, alpha, kind="matte")
    np.testing.assert_array_equal(decode_planes(path, "gray16le")[0], alpha)


def test_a_picture_name_is_no_pattern(tmp_path: Path, source: Path) -> None:
    info = clip_info(source, "gbrp", is_image=True)
    path = tmp_path / "a%03d.png"
    write(path, info, flat(info, (1, 2, 3), 1))
    assert [found.name for found in tmp_path.iterdir()] == ["a%03d.png"]


# ---- Failures ----------------------------------------------------------------------------------


def one_line(error: BaseException, path: Path) -> str:
    """Return an error's text after seeing that it is one line and names the file."""
    text = str(error)
    assert "\n" not in text
    assert path.name in text
    return text


def sink_for(path: Path, info: VideoInfo, **options: object) -> Sink:
    codec = encode.choose_codec(path, "composite", None)
    output = Output(path, "composite", codec, sound="none", **options)  # type: ignore[arg-type]
    return Sink(output, info, audio.Window(info.start, info.duration, False))


@pytest.mark.parametrize(("granted", "threads"), [(2, ["3"]), (64, [])])
def test_encoders_keep_to_the_cores_that_a_quota_grants(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    granted: int,
    threads: list[str],
) -> None:
    """x264 itself takes one and a half threads for each core of the host."""
    monkeypatch.setattr(machine, "allowed_cores", lambda: 64)
    monkeypatch.setattr(machine, "quota", lambda *_: granted)
    sink = sink_for(tmp_path / "out.mp4", clip_info(source))
    try:
        argv = psutil.Process(sink._process._popen.pid).cmdline()
    finally:
        sink.discard()
    assert [after for name, after in itertools.pairwise(argv) if name == "-threads:v"] == threads


@pytest.mark.parametrize(
    ("size", "preset", "is_lean"),
    [
        ((3840, 2160), None, True),
        ((2160, 3840), "veryfast", True),
        ((3840, 2160), "slow", False),
        ((2560, 1440), None, False),
    ],
)
def test_large_frames_are_encoded_in_little_memory(
    tmp_path: Path, source: Path, size: tuple[int, int], preset: str | None, is_lean: bool
) -> None:
    """Unless a preset was chosen, which says how well to look ahead."""
    info = replace(clip_info(source), width=size[0], height=size[1])
    sink = sink_for(tmp_path / "out.mp4", info, preset=preset)
    try:
        argv = psutil.Process(sink._process._popen.pid).cmdline()
    finally:
        sink.discard()
    (chosen,) = (after for name, after in itertools.pairwise(argv) if name == "-x264-params")
    lean = ("sliced-threads=1", "rc-lookahead=4", "bframes=1")
    assert {part in chosen for part in lean} == {is_lean}
    assert "sync-lookahead=0" in chosen


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path, source: Path) -> None:
    def fail() -> None:
        info = clip_info(source)
        with sink_for(tmp_path / "a.mp4", info) as sink:
            sink.write(counter(info, 3))  # type: ignore[arg-type]
            raise RuntimeError("elsewhere")

    with pytest.raises(RuntimeError, match="elsewhere"):
        fail()
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("batches_after", [0, 10_000])
def test_a_killed_encoder_is_an_error(tmp_path: Path, source: Path, batches_after: int) -> None:
    path = tmp_path / "a.mp4"

    def be_killed() -> None:
        info = clip_info(source)
        with sink_for(path, info) as sink:
            sink.write(counter(info, 3))  # type: ignore[arg-type]
            for child in psutil.Process().children():
                if "ffmpeg" in child.name():
                    child.kill()
            for _ in range(batches_after):
                sink.write(counter(info, 3))  # type: ignore[arg-type]

    with pytest.raises(EncodeError) as caught:
        be_killed()
    assert "Killed" in one_line(caught.value, path)
    assert caught.value.returncode == -signal.SIGKILL
    assert left_in(tmp_path) == []


def test_an_ffmpeg_that_does_not_start_is_an_error(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise FFmpegError("FFmpeg cannot be started")

    info = clip_info(source)
    monkeypatch.setattr(ff, "Process", refuse)
    with pytest.raises(EncodeError, match=r"a\.mp4: FFmpeg cannot be started"):
        sink_for(tmp_path / "a.mp4", info)
    assert left_in(tmp_path) == []


def test_a_result_without_frames_is_an_error(tmp_path: Path, source: Path) -> None:
    with (
        pytest.raises(EncodeError, match="no frame"),
        sink_for(tmp_path / "a.mp4", clip_info(source)),
    ):
        pass
    assert left_in(tmp_path) == []


def test_a_missing_encoder_is_an_error(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(formats.CODECS["h264"], encoder="libnothing")
    monkeypatch.setitem(formats.CODECS, "h264", broken)
    info = clip_info(source)
    path = tmp_path / "a.mp4"
    with pytest.raises(EncodeError) as caught:
        write(path, info, counter(info, 3))
    assert "Unknown encoder 'libnothing'" in one_line(caught.value, path)
    assert left_in(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_no_room_is_an_error(tmp_path: Path, source: Path) -> None:
    # A limit on the size of files stands in for a full disk: the system refuses to write on.
    script = """
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        from test_encode import clip_info, noise_planes, sink_for
        from vidbg.errors import EncodeError
        info = clip_info(Path(sys.argv[2]))
        try:
            with sink_for(Path(sys.argv[3]), info) as sink:
                for seed in range(200):
                    sink.write(noise_planes("yuv420p", (64, 48), 10, seed))
        except EncodeError as error:
            print(error)
    """
    path = tmp_path / "a.mp4"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(Path(__file__).parent), source, path],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    (line,) = done.stdout.splitlines()
    assert re.search(r"a\.mp4: cannot be written \(.*File (too large|size limit).*Free some", line)
    assert left_in(tmp_path) == []


def test_an_existing_file_is_not_overwritten(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already") as caught:
        encode.check_writable(path, source, overwrite=False)
    one_line(caught.value, path)
    encode.check_writable(path, source, overwrite=True)


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "a.mp4"

    def be_overtaken() -> None:
        info = clip_info(source)
        with sink_for(path, info) as sink:
            sink.write(counter(info, 3))  # type: ignore[arg-type]
            path.write_bytes(b"mine")

    with pytest.raises(OutputError, match="appeared while the job ran") as caught:
        be_overtaken()
    one_line(caught.value, path)
    assert path.read_bytes() == b"mine"
    assert left_in(tmp_path) == ["a.mp4"]


def test_a_file_may_be_replaced_when_asked(tmp_path: Path, source: Path) -> None:
    info = clip_info(source)
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with sink_for(path, info, overwrite=True) as sink:
        sink.write(counter(info, 3))  # type: ignore[arg-type]
        assert path.read_bytes() == b"old"  # until the new one is whole
    assert stream_facts(path).frames == 3
    assert left_in(tmp_path) == ["a.mp4"]


def test_a_failed_job_leaves_the_old_file(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), sink_for(path, clip_info(source), overwrite=True):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert left_in(tmp_path) == ["a.mp4"]


def test_an_output_that_cannot_be_made(tmp_path: Path, source: Path) -> None:
    info = clip_info(source)
    missing = tmp_path / "none" / "a.mp4"
    for attempt in (
        lambda: encode.check_writable(missing, source, False),
        lambda: sink_for(missing, info),
        lambda: encode.check_writable(source, source, True),
        lambda: encode.check_writable(tmp_path, source, True),
    ):
        with pytest.raises(OutputError) as caught:
            attempt()
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody may write")
def test_a_folder_that_cannot_be_written(source: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        sink_for(Path("/proc/a.mp4"), clip_info(source))


def test_a_name_as_long_as_the_system_allows(tmp_path: Path, source: Path) -> None:
    info = clip_info(source)
    path = tmp_path / ("ä" * 125 + ".mp4")  # 254 bytes
    with sink_for(path, info) as sink:
        sink.write(counter(info, 3))  # type: ignore[arg-type]
    assert left_in(tmp_path) == [path.name]


def test_part_files_have_names_of_their_own(tmp_path: Path, source: Path) -> None:
    info = clip_info(source)
    with sink_for(tmp_path / "a.mp4", info) as one, sink_for(tmp_path / "a.mp4", info) as two:
        assert len(left_in(tmp_path)) == 2
        one.write(counter(info, 1))  # type: ignore[arg-type]
        two.write(counter(info, 1))  # type: ignore[arg-type]
        (tmp_path / "a.mp4").unlink(missing_ok=True)
        one.output = replace(one.output, overwrite=True)
    assert left_in(tmp_path) == ["a.mp4"]


# ---- Tables ------------------------------------------------------------------------------------


def test_every_entry_of_the_tables_fits_the_others() -> None:
    for suffix, container in formats.CONTAINERS.items():
        path = Path(f"a{suffix}")
        for codec in container.codecs:
            assert encode.choose_codec(path, "composite", codec) == codec
        for codec in container.alpha_codecs:
            assert codec in container.codecs
            assert formats.CODECS[codec].alpha_family is not None
        assert container.matte_codec in container.codecs
        assert encode.choose_codec(path, "composite", None) == container.codecs[0]
    for codec in formats.CODECS.values():
        if codec.preset_option is not None:
            assert codec.preset in codec.presets
        if codec.crf is not None:
            assert codec.crf_range[0] <= codec.crf <= codec.crf_range[1]
    assert set(formats.VIDEO_CODECS) <= set(formats.CODECS)


def test_formats_are_refused_before_the_work() -> None:
    with pytest.raises(OutputError, match="unknown extension"):
        encode.container_of(Path("a.wmv"))
    with pytest.raises(OutputError, match="no extension"):
        encode.container_of(Path("a"))
    with pytest.raises(OutputError, match="transparency"):
        encode.choose_codec(Path("a.mp4"), "alpha", None)
    with pytest.raises(OutputError, match="prores"):
        encode.choose_codec(Path("a.webm"), "composite", "prores")
    with pytest.raises(OutputError, match="with transparency"):
        encode.choose_codec(Path("a.mov"), "alpha", "ffv1")
    for codec in ("h264", "hevc", "av1"):
        with pytest.raises(OutputError, match="transparency"):
            encode.choose_codec(Path("a.mkv"), "alpha", codec)


def test_a_codec_chooses_its_container() -> None:
    for codec, kind, wanted in (
        ("prores", "composite", ".mov"),
        ("ffv1", "composite", ".mkv"),
        ("h264", "composite", ".mp4"),
        ("vp9", "alpha", ".mkv"),
        ("ffv1", "matte", ".mkv"),
    ):
        path = encode.default_path(Path("clip.mp4"), kind, codec)
        assert path == Path(f"clip.vidbg{wanted}")
        assert encode.choose_codec(path, kind, codec) == codec


@pytest.mark.parametrize(
    ("codec", "crf", "preset", "wanted"),
    [
        ("h264", 0, "slow", None),
        ("h264", 52, None, "crf"),
        ("av1", 63, "13", None),
        ("prores", 10, None, "crf"),
        ("ffv1", None, "slow", "preset"),
        ("vp9", None, "veryfast", "preset"),
        ("prores", None, None, None),
    ],
)
def test_settings_that_a_codec_does_not_have(
    codec: str, crf: int | None, preset: str | None, wanted: str | None
) -> None:
    problem = encode.quality_problem(codec, crf, preset)
    assert (None if problem is None else problem[0]) == wanted


def test_results_without_a_name() -> None:
    for kind, wanted in (("composite", ".mp4"), ("alpha", ".mov"), ("matte", ".mp4")):
        path = encode.default_path(Path("x/clip.avi"), kind)
        assert path == Path(f"x/clip.vidbg{wanted}")
        assert encode.choose_codec(path, kind, None)
    assert encode.default_path(Path("a.JPG"), "composite") == Path("a.vidbg.JPG")
    assert encode.default_path(Path("a.jpg"), "alpha") == Path("a.vidbg.png")
    assert encode.default_path(Path("a.webp"), "composite") == Path("a.vidbg.png")


@pytest.mark.parametrize(
    ("codec", "kind", "pix_fmt", "kept"),
    [
        ("h264", "composite", "yuv420p", True),
        ("h264", "composite", "yuv420p10le", False),
        ("hevc", "composite", "yuv422p12le", True),
        ("hevc", "composite", "gbrp14le", False),
        ("vp9", "composite", "yuv420p10le", True),
        ("vp9", "alpha", "yuv420p10le", False),
        ("prores", "alpha", "yuv420p10le", True),
        ("prores", "composite", "yuv420p12le", False),
        ("ffv1", "alpha", "gbrp16le", True),
        ("h264", "matte", "yuv420p10le", True),
    ],
)
def test_which_codecs_keep_the_depth(
    source: Path, codec: str, kind: str, pix_fmt: str, kept: bool
) -> None:
    output = Output(Path("out"), kind, codec)
    assert encode.keeps_depth(output, clip_info(source, pix_fmt)) is kept


def test_every_combination_has_a_format_that_ffmpeg_knows() -> None:
    kinds = {"composite": "codecs", "alpha": "alpha_codecs", "matte": "codecs"}
    for (kind, field), container in itertools.product(kinds.items(), formats.CONTAINERS.values()):
        for codec, pix_fmt in itertools.product(getattr(container, field), PLAIN):
            stored = formats.stored_pix_fmt(formats.CODECS[codec], plane_format(pix_fmt), kind)
            found = av.VideoFormat(stored)
            has_alpha = any(part.is_alpha for part in found.components)
            assert has_alpha is (kind == "alpha"), (codec, pix_fmt, kind)


def test_presets_are_passed_on(tmp_path: Path, source: Path) -> None:
    info = clip_info(source)
    path = write(tmp_path / "a.mp4", info, counter(info, 3), preset="ultrafast", crf=30)
    settings = path.read_bytes()
    assert b"crf=30.0" in settings
    assert b"cabac=0" in settings  # ultrafast alone goes without
