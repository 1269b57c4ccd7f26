"""Which frames decoding gives and with which samples, against another decoder and known frames."""

from __future__ import annotations

import dataclasses
import random
import struct
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import (
    Array,
    counter_luma,
    decode_planes,
    frame_numbers,
    has_encoder,
    make_clip,
    noise_planes,
    pack_planes,
    run_ffmpeg,
    set_rotation,
    stream_facts,
)
from fields import field_coded_h264
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vidbg.errors import DecodeError
from vidbg.frames import FrameBatch, VideoInfo
from vidbg.media.decode import FrameReader, count_decodable, promised_frames, read_frames
from vidbg.media.probe import probe
from vidbg.prefetch import Prefetch

FEW = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def planes_of(batches: Sequence[FrameBatch]) -> list[Array]:
    """Return all frames of the batches, one array a plane, with alpha as the fourth."""
    columns = [[batch.planes[number] for batch in batches] for number in range(3)]
    if batches[0].source_alpha is not None:
        columns.append([b.source_alpha for b in batches if b.source_alpha is not None])
    return [np.concatenate(column) for column in columns]


def read(info: VideoInfo, **options: Any) -> list[Array]:
    return planes_of(list(FrameReader(info, **{"batch_size": 16, **options})))


def numbers(info: VideoInfo, **options: Any) -> list[int]:
    return frame_numbers(read(info, **options)[0])


# --- healthy files -----------------------------------------------------------------------------

# Name, encoder, output options, other arguments of make_clip.
HEALTHY: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
    ("b-frames.mp4", "libx264", ("-bf", "3", "-g", "12"), {"audio": "aac"}),
    ("open-gop.mp4", "libx264", ("-x264-params", "open-gop=1:keyint=12:bframes=3"), {}),
    ("fragments.mp4", "libx264", ("-movflags", "frag_keyframe+empty_moov", "-g", "12"), {}),
    ("10-bit.mp4", "libx264", (), {"pix_fmt": "yuv420p10le"}),
    ("h264.mov", "libx264", (), {}),
    ("h264.mkv", "libx264", ("-bf", "3"), {}),
    ("h264.ts", "libx264", ("-bf", "3"), {"audio": "mp2"}),
    ("h264.m2ts", "libx264", ("-bf", "3"), {}),
    ("h264.flv", "libx264", (), {}),
    ("h264.avi", "libx264", ("-bf", "2"), {}),
    ("h264.3gp", "libx264", (), {"size": (176, 144)}),
    ("raw.h264", "libx264", ("-f", "h264"), {"rate": "30"}),
    ("hevc.mp4", "libx265", (), {}),
    ("open-gop.mkv", "libx265", ("-x265-params", "open-gop=1:keyint=12:log-level=error"), {}),
    ("hevc.ts", "libx265", (), {}),
    ("vp9.webm", "libvpx-vp9", ("-auto-alt-ref", "1", "-lag-in-frames", "16"), {}),
    ("vp8.webm", "libvpx", ("-auto-alt-ref", "1", "-lag-in-frames", "16"), {"audio": "libopus"}),
    ("vp9.ivf", "libvpx-vp9", (), {}),
    ("av1.mp4", "libsvtav1", (), {"size": (96, 72)}),
    ("mpeg2.ts", "mpeg2video", ("-bf", "2", "-g", "12"), {}),
    ("mpeg2.mpg", "mpeg2video", ("-bf", "2", "-g", "12"), {"audio": "mp2"}),
    ("mpeg2.mkv", "mpeg2video", ("-bf", "2", "-g", "12"), {}),
    ("mpeg2.mxf", "mpeg2video", (), {}),
    ("raw.m2v", "mpeg2video", ("-bf", "2", "-f", "mpeg2video"), {}),
    ("mpeg1.mpg", "mpeg1video", ("-bf", "2", "-g", "12"), {}),
    ("mpeg4.avi", "mpeg4", ("-bf", "2"), {"audio": "libmp3lame"}),
    ("mpeg4.mp4", "mpeg4", ("-bf", "2"), {}),
    ("msmpeg4.avi", "msmpeg4", (), {}),
    ("h263.3gp", "h263", (), {"size": (176, 144)}),
    ("prores.mov", "prores_ks", (), {"pix_fmt": "yuv422p10le"}),
    ("dnxhr.mov", "dnxhd", ("-profile:v", "dnxhr_sq"), {"size": (256, 128), "pix_fmt": "yuv422p"}),
    ("mjpeg.avi", "mjpeg", (), {"pix_fmt": "yuvj422p"}),
    ("ffv1.mkv", "ffv1", (), {}),
    ("ffv1.avi", "ffv1", (), {}),
    ("huffyuv.avi", "huffyuv", (), {"pix_fmt": "yuv422p"}),
    ("raw.avi", "rawvideo", (), {}),
    ("raw.y4m", "wrapped_avframe", ("-f", "yuv4mpegpipe"), {}),
    ("raw.nut", "rawvideo", (), {}),
    ("flv1.flv", "flv", (), {}),
    ("wmv2.wmv", "wmv2", (), {"audio": "wmav2"}),
    ("dv.dv", "dvvideo", ("-f", "dv"), {"size": (720, 576), "frames": 8}),
    ("dv.avi", "dvvideo", (), {"size": (720, 576), "frames": 8}),
    ("theora.ogv", "libtheora", (), {}),
    ("jpeg2000.mov", "jpeg2000", (), {}),
]


@pytest.mark.parametrize(("name", "codec", "options", "given"), HEALTHY, ids=lambda v: str(v)[:20])
def test_healthy_files_give_every_frame_once_and_no_complaint(
    name: str,
    codec: str,
    options: tuple[str, ...],
    given: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not has_encoder(codec):
        pytest.skip(f"this FFmpeg has no {codec}")
    given = {"frames": 30, "rate": "25", **given}
    path = make_clip(tmp_path / name, codec=codec, options=options, **given)
    info = probe(path)
    assert info.missing_frames == 0
    assert not info.is_vfr
    assert not info.is_image
    assert info.frame_rate == Fraction(given["rate"])
    assert info.frame_count == given["frames"]
    assert info.duration == given["frames"] / info.frame_rate
    planes = read(info)
    assert frame_numbers(planes[0]) == list(range(given["frames"]))
    assert not caplog.records
    if not info.is_interlaced:
        for ours, theirs in zip(planes, decode_planes(path, info.format.pix_fmt), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    # Part of it, which containers without an index give by decoding from the beginning.
    assert numbers(info, first=5, stop=8) == [5, 6, 7]


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "60000/1001", "179/6", "50", "12"])
@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mkv", "ffv1"), (".webm", "libvpx-vp9"), (".flv", "flv")]
)
def test_millisecond_stamps_are_an_exact_rate(
    rate: str, suffix: str, codec: str, tmp_path: Path
) -> None:
    path = make_clip(tmp_path / f"clip{suffix}", rate=rate, codec=codec, frames=40)
    info = probe(path)
    assert info.time_base == Fraction(1, 1000)
    assert (info.frame_rate, info.is_vfr, info.frame_count) == (Fraction(rate), False, 40)
    assert info.duration == 40 / Fraction(rate)
    assert numbers(info) == list(range(40))


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "60000/1001", "179/6"])
def test_odd_rates_are_exact(rate: str, tmp_path: Path) -> None:
    info = probe(make_clip(tmp_path / "clip.mp4", rate=rate, frames=40))
    assert (info.frame_rate, info.is_vfr, info.frame_count) == (Fraction(rate), False, 40)
    assert numbers(info) == list(range(40))


# --- formats, alpha, range ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pix_fmt", "suffix", "codec"),
    [
        ("yuv410p", ".mkv", "ffv1"),
        ("yuv411p", ".mkv", "ffv1"),
        ("yuv440p", ".mkv", "ffv1"),
        ("yuv444p12le", ".mkv", "ffv1"),
        ("yuv420p16le", ".mkv", "ffv1"),
        ("gbrp10le", ".mkv", "ffv1"),
        ("gray10le", ".mkv", "ffv1"),
        ("yuva420p", ".mkv", "ffv1"),
        ("yuva444p10le", ".mkv", "ffv1"),
        ("gray16le", ".mkv", "ffv1"),
        ("gbrap12le", ".mkv", "ffv1"),
        ("gbrp", ".avi", "utvideo"),
    ],
)
def test_lossless_clips_decode_to_the_samples_they_were_made_from(
    pix_fmt: str, suffix: str, codec: str, tmp_path: Path
) -> None:
    size = (18, 10) if codec == "ffv1" else (32, 16)
    made = list(noise_planes(pix_fmt, size, 3))
    path = make_clip(
        tmp_path / f"clip{suffix}",
        size=size,
        frames=3,
        raw=pack_planes(made),
        raw_pix_fmt=pix_fmt,
        pix_fmt=None,
        codec=codec,
    )
    info = probe(path)
    assert info.source_pix_fmt == pix_fmt
    planes = read(info, batch_size=2)
    if pix_fmt.startswith("gray"):
        assert info.colour.range == "pc"
        assert {int(code) for plane in planes[1:] for code in np.unique(plane)} == {
            1 << (info.format.depth - 1)
        }
        planes = planes[:1]
    for ours, known in zip(planes, made, strict=True):
        np.testing.assert_array_equal(ours, known)


def test_full_range_codes_stay_full_range(tmp_path: Path) -> None:
    luma = np.broadcast_to(np.arange(64, dtype=np.uint8) * 4, (2, 48, 64)).copy()
    luma[:, :, -1] = 255
    chroma = np.full((2, 24, 32), 128, np.uint8)
    path = make_clip(
        tmp_path / "clip.mp4",
        frames=2,
        raw=pack_planes([luma, chroma, chroma]),
        raw_pix_fmt="yuvj420p",
        pix_fmt="yuvj420p",
        options=("-crf", "0"),
    )
    info = probe(path)
    assert info.colour.range == "pc"
    np.testing.assert_array_equal(read(info)[0], luma)


def test_motion_jpeg_is_full_range_with_chroma_in_the_middle(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.avi", codec="mjpeg", pix_fmt="yuvj420p")
    info = probe(path)
    assert (info.colour.range, info.format.chroma_location) == ("pc", "center")
    planes = read(info)
    for ours, theirs in zip(planes, decode_planes(path), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "decoder"),
    [
        ("clip.webm", "libvpx-vp9", "yuva420p", "libvpx-vp9"),
        ("clip.mkv", "libvpx", "yuva420p", "libvpx"),
        ("clip.mov", "prores_ks", "yuva444p10le", None),
        ("clip.mov", "png", "rgba", None),
        ("clip.mov", "qtrle", "argb", None),
    ],
)
def test_alpha_of_the_clips_own_is_carried(
    name: str, codec: str, pix_fmt: str, decoder: str | None, tmp_path: Path
) -> None:
    opacity = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8), (4, 48, 64))
    colour = np.full((4, 48, 64), 90, np.uint8)
    path = make_clip(
        tmp_path / name,
        frames=4,
        raw=pack_planes([colour, colour, colour, opacity]),
        raw_pix_fmt="yuva444p",
        pix_fmt=pix_fmt,
        codec=codec,
        options=("-alpha_bits", "16") if codec == "prores_ks" else (),
    )
    info = probe(path)
    assert info.has_alpha
    planes = read(info, batch_size=3)
    ours = planes[3].astype(float) / ((1 << info.format.depth) - 1)
    assert np.abs(ours - opacity / 255).max() < 0.04
    if decoder is not None:
        theirs = decode_planes(path, "yuva420p", decoder=decoder)
        if len(theirs) == 4 and len(theirs[3]) == 4:
            np.testing.assert_array_equal(planes[3], theirs[3])


def test_an_animated_gif_keeps_its_holes_and_its_clock(tmp_path: Path) -> None:
    shown = [Image.new("RGBA", (30, 20), (200, 30, 40, 255)) for _ in range(3)]
    for number, picture in enumerate(shown):
        picture.paste((0, 0, 0, 0), (number * 10, 0, number * 10 + 10, 20))
    path = tmp_path / "clip.gif"
    shown[0].save(
        path, save_all=True, append_images=shown[1:], duration=[100, 300, 100], disposal=2, loop=0
    )
    info = probe(path)
    assert (info.is_vfr, info.frame_rate, info.frame_count) == (True, Fraction(10), 5)
    planes = read(info)
    holes = [int(np.flatnonzero(alpha[10] == 0)[0]) // 10 for alpha in planes[3]]
    assert holes == [0, 1, 1, 1, 2]
    np.testing.assert_array_equal(planes[2][0][planes[3][0] > 0], 200)


# --- sizes, rotation, fields -------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (5, 3), (853, 479)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv410p", "yuv422p10le", "gbrap"])
def test_any_size_decodes(size: tuple[int, int], pix_fmt: str, tmp_path: Path) -> None:
    made = noise_planes(pix_fmt, size, 2)
    path = make_clip(
        tmp_path / "clip.nut",
        size=size,
        frames=2,
        raw=pack_planes(made),
        raw_pix_fmt=pix_fmt,
        pix_fmt=None,
    )
    info = probe(path)
    assert (info.width, info.height) == size
    for ours, known in zip(read(info), made, strict=True):
        np.testing.assert_array_equal(ours, known)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p"])
def test_turned_clips_come_upright(rotation: int, pix_fmt: str, tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "clip.mp4",
        size=(64, 48),
        frames=3,
        pix_fmt=pix_fmt,
        rotation=rotation,
        sar="4/3",
    )
    info = probe(path)
    is_turned = rotation in (90, 270)
    assert info.rotation == rotation
    assert (info.width, info.height) == ((48, 64) if is_turned else (64, 48))
    assert info.sar == (Fraction(3, 4) if is_turned else Fraction(4, 3))
    luma, *chroma = read(info)
    stored = decode_planes(path)
    np.testing.assert_array_equal(luma, np.rot90(stored[0], -rotation // 90, axes=(1, 2)))
    if pix_fmt != "yuv422p" or not is_turned:
        for ours, theirs in zip(chroma, stored[1:], strict=True):
            np.testing.assert_array_equal(ours, np.rot90(theirs, -rotation // 90, axes=(1, 2)))
    else:  # 4:2:2 on its side has no name: it becomes 4:4:4
        assert info.format.pix_fmt == "yuv444p"
        for ours, theirs in zip(chroma, stored[1:], strict=True):
            turned = np.rot90(theirs.repeat(2, axis=2), -rotation // 90, axes=(1, 2))
            assert np.abs(ours.astype(int) - turned).mean() < 2


def test_a_mirrored_clip_comes_as_its_matrix_says(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=2)
    stored = decode_planes(path)[0]
    set_rotation(path, 0, matrix=(-1, 0, 0, 1))
    np.testing.assert_array_equal(read(probe(path))[0], stored[:, :, ::-1])


def test_another_streams_rotation_is_not_ours(tmp_path: Path) -> None:
    upright = make_clip(tmp_path / "a.mp4", frames=2)
    turned = make_clip(tmp_path / "b.mp4", frames=2, size=(32, 32), rotation=90)
    path = tmp_path / "both.mp4"
    inputs = ("-i", str(upright), "-i", str(turned))
    run_ffmpeg(*inputs, "-map", "0", "-map", "1", "-c", "copy", str(path))
    info = probe(path)
    assert (info.width, info.height, info.rotation) == (64, 48, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_pictures_stand_as_exif_says(orientation: int, suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 15, 3)).astype(np.uint8)
    picture = Image.fromarray(noise.repeat(2, 0).repeat(2, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture{suffix}"
    how = {".jpg": {"quality": 100, "subsampling": 1}, ".webp": {"lossless": True}}
    picture.save(path, exif=exif, **how.get(suffix, {}))
    info = probe(path)
    assert info.is_image
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert (info.height, info.width) == upright.shape[:2]
    planes = [plane[0] for plane in read(info)]
    if suffix == ".jpg":  # 4:2:2, which a quarter turn makes 4:4:4; luma by JFIF's equation
        luma = upright @ np.array([0.299, 0.587, 0.114])
        assert np.abs(planes[0] - luma).max() < 12
    else:
        np.testing.assert_array_equal(np.stack([planes[2], planes[0], planes[1]], -1), upright)


@pytest.mark.parametrize("frames", [1, 2, 9])
@pytest.mark.parametrize(
    ("name", "codec"), [("clip.mkv", "mpeg2video"), ("clip.mp4", "libx264"), ("c.mkv", "ffv1")]
)
def test_fields_are_joined_frame_for_frame(
    frames: int, name: str, codec: str, tmp_path: Path
) -> None:
    path = make_clip(tmp_path / name, codec=codec, frames=frames, interlaced=True)
    info = probe(path)
    assert info.is_interlaced
    assert info.frame_count == frames
    assert numbers(info) == list(range(frames))


def test_combed_frames_are_deinterlaced_and_progressive_ones_left_alone(tmp_path: Path) -> None:
    """An edge that moves four pixels a field, so that its rows do not line up."""
    time = 2 * np.arange(6)[:, None, None] + np.arange(48)[None, :, None] % 2
    combed = np.where(np.arange(64) < 8 + 4 * time, 60, 180).astype(np.uint8)
    chroma = np.full((6, 24, 32), 128, np.uint8)
    raw = pack_planes([combed, chroma, chroma])
    for interlaced in (True, False):
        path = make_clip(tmp_path / "c.mkv", frames=6, raw=raw, codec="ffv1", interlaced=interlaced)
        info = probe(path)
        luma = read(info)[0].astype(int)
        assert len(luma) == 6
        comb = np.abs(np.diff(luma[3, 8:40], axis=0)).mean()
        if interlaced:
            assert comb < 2
        else:
            assert comb == 120 * 4 / 64
            np.testing.assert_array_equal(luma, combed)


@pytest.mark.parametrize("size", [(4, 6), (4, 8), (16, 2)])
def test_fields_too_small_to_join_are_left(size: tuple[int, int], tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "clip.mkv",
        size=size,
        frames=2,
        raw=pack_planes(noise_planes("yuv420p", size, 2)),
        interlaced=True,
    )
    info = probe(path)
    assert info.is_interlaced
    for ours, theirs in zip(read(info), decode_planes(path), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_fields_of_a_turned_clip_are_joined_before_it_is_turned(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=5, interlaced=True)
    upright = read(probe(path))
    set_rotation(path, 90)
    info = probe(path)
    assert (info.width, info.height, info.rotation) == (48, 64, 90)
    for ours, plane in zip(read(info), upright, strict=True):
        np.testing.assert_array_equal(ours, np.rot90(plane, -1, axes=(1, 2)))


@pytest.mark.parametrize("suffix", [".ts", ".mp4", ".mkv"])
def test_fields_in_packets_of_their_own_are_counted_as_frames(suffix: str, tmp_path: Path) -> None:
    luma = counter_luma(range(26), (64, 64))
    raw = tmp_path / "raw.h264"
    raw.write_bytes(field_coded_h264(luma))
    path = tmp_path / f"clip{suffix}"
    run_ffmpeg("-framerate", "50", "-i", str(raw), "-c", "copy", str(path))
    info = probe(path)
    facts = stream_facts(path)
    assert facts.frames == 2 * info.frame_count == 52
    assert not info.is_vfr
    assert info.frame_rate * 2 == 1 / (facts.stamps[1] - facts.stamps[0])
    assert numbers(info) == list(range(26))


# --- uneven clips ------------------------------------------------------------------------------


def shown_by_time(durations: Sequence[Fraction], rate: Fraction) -> list[int]:
    """Return which frame each slot of an even clip shows, frames going to their nearest slot."""
    edges = [sum(durations[:k], Fraction(0)) for k in range(len(durations) + 1)]
    count = max(1, int(edges[-1] * rate + Fraction(1, 2)))
    until = [(slot + Fraction(1, 2)) / rate for slot in range(count)]
    return [max(k for k, e in enumerate(edges[:-1]) if e < u) for u in until]


UNEVEN = {
    "slower": ["1/30"] * 20 + ["1/10"] * 20,
    "a long last frame": ["1/25", "1/25", "3/25", "1/25", "1/25", "2"],
    "one missing": ["1/25"] * 9 + ["2/25"] + ["1/25"] * 10,
    "a long first frame": ["1/2"] + ["1/25"] * 20,
    "ties": ["1/25"] * 6 + ["1/50"] + ["1/25"] * 6 + ["1/5"] + ["1/25"] * 6,
    "too many": ["1/25"] * 12 + ["1/100"] * 10 + ["1/25"] * 10,
    "slide show": ["3", "1", "2", "1", "1"],
}


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_clips_show_the_right_frame_at_every_moment(name: str, tmp_path: Path) -> None:
    durations = [Fraction(text) for text in UNEVEN[name]]
    path = make_clip(tmp_path / "clip.mp4", frames=len(durations), durations=durations)
    info = probe(path)
    expected = shown_by_time(durations, info.frame_rate)
    assert info.is_vfr
    assert info.duration == sum(durations)
    assert info.frame_count == len(expected)
    assert info.repeated_frames == len(expected) - len(set(expected))
    assert info.dropped_frames == len(durations) - len(set(expected))
    assert promised_frames(info) == len(durations)
    assert numbers(info, batch_size=7) == expected
    for first in {1, len(expected) // 2, len(expected) - 1}:
        assert numbers(info, first=first) == expected[first:]
        assert numbers(info, first=first, stop=first + 1) == expected[first : first + 1]


@FEW
@given(st.lists(st.sampled_from([20, 33, 40, 50, 80, 210]), min_size=3, max_size=20))
def test_uneven_clips_in_milliseconds(tmp_path_factory: Any, gaps_ms: list[int]) -> None:
    durations = [Fraction(gap, 1000) for gap in gaps_ms]
    folder = tmp_path_factory.mktemp("uneven")
    path = make_clip(
        folder / "clip.mkv", frames=len(gaps_ms), durations=durations, codec="libx264", rate="50"
    )
    info = probe(path)
    if not info.is_vfr:
        assert numbers(info) == list(range(len(gaps_ms)))
        return
    # Not every FFmpeg tells Matroska how long the last frame lasts.
    total_s = sum(durations[:-1], Fraction(0))
    durations[-1] = info.duration - total_s
    ours = numbers(info)
    assert len(ours) == info.frame_count
    assert ours == shown_by_time(durations, info.frame_rate)


# --- part of a clip ----------------------------------------------------------------------------

LONG = 500  # frames: 20 seconds, so that reading from the middle begins with a seek
LONG_CLIPS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {"options": ("-bf", "3", "-g", "75")},
    "one key frame.mp4": {"options": ("-g", "1000", "-keyint_min", "1000")},
    "open gop.mkv": {
        "codec": "libx264",
        "options": ("-x264-params", "open-gop=1:keyint=30:bframes=5:b-pyramid=normal"),
    },
    "hevc.mkv": {
        "codec": "libx265",
        "options": ("-x265-params", "open-gop=1:keyint=50:log-level=error"),
        "rate": "30000/1001",
    },
    "fragments.mp4": {"options": ("-g", "50", "-movflags", "frag_keyframe+empty_moov")},
    "late.mp4": {"video_delay_s": "3/2", "audio": "aac", "audio_s": "3"},
    "open gop.ts": {"codec": "mpeg2video", "options": ("-bf", "2", "-g", "15")},
    "uneven.mp4": {"durations": ["1/25"] * 100 + ["1/50"] * 100 + ["1/10"] * 50 + ["1/25"] * 250},
    "uneven.mkv": {"durations": ["1/30", "1/20"] * 250, "codec": "libx264"},
}


@cache
def whole(clips_dir: Path, name: str) -> tuple[VideoInfo, list[int]]:
    """Return a long clip and the frame numbers of all of it."""
    folder = clips_dir / "long"
    folder.mkdir(exist_ok=True)
    info = probe(make_clip(folder / name, frames=LONG, **LONG_CLIPS[name]))
    return info, numbers(info, batch_size=100)


@pytest.mark.parametrize("name", LONG_CLIPS)
@FEW
@given(data=st.data())
def test_part_of_a_clip_is_what_decoding_all_of_it_gives(
    clips_dir: Path, name: str, data: st.DataObject
) -> None:
    info, everything = whole(clips_dir, name)
    if not info.is_vfr:
        assert everything == list(range(LONG))
    first = data.draw(st.integers(1, len(everything) - 1))
    length = data.draw(st.integers(1, 40))
    assert numbers(info, first=first, stop=first + length) == everything[first : first + length]


def test_reading_from_the_middle_seeks(clips_dir: Path) -> None:
    info, _ = whole(clips_dir, "b-frames.mp4")
    arguments = FrameReader(info, first=400)._arguments(info)
    assert arguments[arguments.index("-ss") + 1] == "11.000000"
    ts, _ = whole(clips_dir, "open gop.ts")
    assert "-ss" not in FrameReader(ts, first=400)._arguments(ts)


def test_an_edit_list_cuts_before_and_after(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", frames=50, options=("-g", "25", "-bf", "0"))
    path = tmp_path / "cut.mp4"
    run_ffmpeg("-ss", "0.4", "-i", str(whole), "-t", "1", "-c", "copy", str(path))
    info = probe(path)
    assert (info.frame_count, info.missing_frames, info.start) == (25, 0, 0)
    assert numbers(info) == list(range(10, 35))
    assert numbers(info, first=5, stop=7) == [15, 16]


def test_the_end_may_lie_beyond_the_clip(plain_clip: Path) -> None:
    info = probe(plain_clip)
    assert numbers(info, first=8, stop=100) == [8, 9]
    with pytest.raises(DecodeError, match="ends before the requested start"):
        numbers(info, first=10)


def test_the_end_of_an_uneven_clip_may_lie_beyond_it(uneven_clip: Path) -> None:
    info = probe(uneven_clip)
    assert numbers(info, first=78, stop=100) == [39, 39]
    with pytest.raises(DecodeError, match="ends before the requested start"):
        numbers(info, first=80)


# --- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_batches_are_the_same_frames_however_large(plain_clip: Path, batch_size: int) -> None:
    info = probe(plain_clip)
    batches = list(read_frames(info, batch_size=batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert sum(len(batch) for batch in batches) == 10
    firsts = [batch.first_index for batch in batches]
    assert firsts == list(range(0, 10, batch_size))
    for ours, theirs in zip(planes_of(batches), decode_planes(plain_clip), strict=True):
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, theirs)


def test_earlier_batches_stay_as_they_are(plain_clip: Path) -> None:
    reader = iter(FrameReader(probe(plain_clip), batch_size=2))
    opening = next(reader)
    before = [plane.copy() for plane in opening.planes]
    list(reader)
    for plane, kept in zip(opening.planes, before, strict=True):
        np.testing.assert_array_equal(plane, kept)


def test_leaving_a_clip_early_ends_the_decoder(long_clip: Path) -> None:
    for number, _ in enumerate(FrameReader(probe(long_clip))):
        if number == 3:
            break


def test_a_reader_is_cancelled_from_another_thread(plain_clip: Path) -> None:
    # Endless input: the last of these frames never comes.
    info = dataclasses.replace(probe(plain_clip), is_vfr=True, frame_count=10**9)
    reader = FrameReader(info)
    seen = threading.Event()
    done: list[int] = []

    def consume() -> None:
        for batch in reader:
            done.append(len(batch))
            seen.set()

    thread = threading.Thread(target=consume)
    thread.start()
    assert seen.wait(20)
    reader.cancel()
    thread.join(20)
    assert not thread.is_alive()


def test_a_reader_cancelled_before_it_begins_gives_nothing(plain_clip: Path) -> None:
    reader = FrameReader(probe(plain_clip))
    reader.cancel()
    assert list(reader) == []


def test_closing_a_prefetched_reader_ends_its_process(long_clip: Path) -> None:
    with Prefetch(FrameReader(probe(long_clip)), 2, "decode") as ahead:
        assert next(ahead).first_index == 0


# --- damage ------------------------------------------------------------------------------------


def cut_short(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def flip_bits(path: Path, begin: float, end: float, count: int = 30) -> None:
    content = bytearray(path.read_bytes())
    places = random.Random(1)
    for _ in range(count):
        place = places.randrange(int(len(content) * begin), int(len(content) * end))
        content[place] ^= 1 << places.randrange(8)
    path.write_bytes(content)


def noisy_clip(path: Path, codec: str, *options: str) -> Path:
    """Write 50 frames at 25 fps whose packets are about equally large."""
    return make_clip(
        path,
        frames=50,
        raw=pack_planes(noise_planes("yuv420p", (64, 48), 50)),
        codec=codec,
        options=options,
    )


# Three of four frames, though noise gains nothing by them.
B_FRAMES = ("-bf", "3", "-b_strategy", "0", "-sc_threshold", "0")


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("faststart.mp4", "libx264", ("-movflags", "+faststart", "-bf", "0")),
        ("b-frames.mp4", "libx264", ("-movflags", "+faststart", *B_FRAMES)),
        ("b-frames.mkv", "libx264", B_FRAMES),
        ("clip.webm", "libvpx-vp9", ()),
        ("intra.mkv", "ffv1", ("-slicecrc", "1")),
        ("clip.avi", "mjpeg", ("-pix_fmt", "yuvj420p")),
        ("clip.mov", "prores_ks", ("-movflags", "+faststart", "-pix_fmt", "yuv422p10le")),
    ],
)
def test_a_file_cut_short_lacks_the_frames_that_are_not_in_it(
    name: str, codec: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    whole = noisy_clip(tmp_path / name, codec, *options)
    assert probe(whole).missing_frames == 0
    info = probe(cut_short(whole, 0.6))
    assert promised_frames(info) == 50
    # The packets are about equally large.
    present = promised_frames(info) - info.missing_frames
    assert 25 <= present <= 33
    with pytest.raises(DecodeError) as caught:
        read(info)
    message = str(caught.value)
    assert f"damaged: {info.missing_frames} of 50 frames would be lost" in message
    assert "--allow-damaged" in message
    assert "\n" not in message
    kept = FrameReader(info, batch_size=16, allow_damaged=True)
    assert sum(len(batch) for batch in kept) == info.frame_count
    assert kept.damage


@pytest.mark.parametrize("is_from_zero", [True, False])
def test_the_length_of_a_late_clip_is_read_as_it_is_meant(
    is_from_zero: bool, tmp_path: Path
) -> None:
    """Matroska's length is where the clip ends on its clock, or how long it is: programs differ."""
    begin_s = 20
    raw = pack_planes(noise_planes("yuv420p", (64, 48), 50))
    path = make_clip(tmp_path / "late.mkv", frames=50, raw=raw, video_delay_s=begin_s)
    content = path.read_bytes()
    place = content.index(b"\x44\x89\x88") + 3  # a 64-bit float, in milliseconds
    (length_ms,) = struct.unpack_from(">d", content, place)
    assert length_ms == pytest.approx(1000 * begin_s + 2000, abs=1)
    if not is_from_zero:
        length = struct.pack(">d", length_ms - 1000 * begin_s)
        path.write_bytes(content[:place] + length + content[place + 8 :])
    assert probe(path).missing_frames == 0
    missing = probe(cut_short(path, 0.6)).missing_frames
    assert 17 <= missing <= 25


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_missing_frames_are_those_stored_later_too(name: str, tmp_path: Path) -> None:
    """B-frames follow the frame that is shown after them: a cut leaves holes before its end."""
    whole = noisy_clip(tmp_path / name, "libx264", *B_FRAMES, "-movflags", "+faststart")
    content = whole.read_bytes()
    for share in (0.5, 0.55, 0.58, 0.62, 0.65, 0.7):
        whole.write_bytes(content[: int(len(content) * share)])
        assert promised_frames(probe(whole)) == 50


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", ()),
        ("clip.mkv", "ffv1", ("-slicecrc", "1", "-level", "3")),
        ("clip.avi", "mpeg4", ()),
        ("clip.ts", "mpeg2video", ()),
    ],
)
def test_flipped_bits_are_noticed(
    name: str, codec: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    path = noisy_clip(tmp_path / name, codec, *options)
    flip_bits(path, 0.3, 0.9)
    info = probe(path)
    with pytest.raises(DecodeError, match="damaged") as caught:
        read(info)
    assert caught.value.path == path
    assert caught.value.stderr_tail
    kept = FrameReader(info, batch_size=16, allow_damaged=True)
    assert sum(len(batch) for batch in kept) == info.frame_count
    assert kept.damage


def test_damage_is_known_to_those_who_do_not_wait_for_the_end(tmp_path: Path) -> None:
    """A part of a clip is over when its last frame is there."""
    path = noisy_clip(tmp_path / "clip.mkv", "ffv1", "-slicecrc", "1", "-level", "3")
    flip_bits(path, 0.1, 0.3)
    reader = FrameReader(probe(path), batch_size=1, allow_damaged=True)
    batches = iter(reader)
    for batch in batches:
        process = reader._process
        assert process is not None
        if batch.first_index >= 20:  # of 50; what was said of those before may take its time
            deadline = time.monotonic() + 10
            while not process.damage_count and time.monotonic() < deadline:
                time.sleep(0.01)
            next(batches)
            break
    batches.close()
    assert reader.damage


def test_a_lost_frame_is_bridged_and_the_clock_kept(tmp_path: Path) -> None:
    """One picture of a Motion JPEG clip made illegible: the one before it stands in."""
    path = make_clip(tmp_path / "clip.avi", codec="mjpeg", pix_fmt="yuvj420p", frames=12)
    content = bytearray(path.read_bytes())
    begin = content.index(b"movi")
    starts = [n for n in range(begin, len(content)) if content[n : n + 4] == b"00dc"]
    size = struct.unpack("<I", content[starts[5] + 4 : starts[5] + 8])[0]
    content[starts[5] + 8 : starts[5] + 8 + size] = b"\0" * size
    path.write_bytes(content)
    info = probe(path)
    assert count_decodable(info) == 11
    with pytest.raises(DecodeError, match="damaged: 1 of 12 frames would be lost"):
        read(info)
    kept = FrameReader(info, allow_damaged=True)
    bridged = frame_numbers(planes_of(list(kept))[0])
    assert bridged == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11]
    assert kept.damage
    assert numbers(info, allow_damaged=True, first=4, stop=8) == [4, 4, 6, 7]


def test_an_early_first_frame_does_not_shift_the_clock_of_a_damaged_clip(tmp_path: Path) -> None:
    durations = ["68/1000", *["1/25"] * 19]
    info = probe(make_clip(tmp_path / "clip.mp4", frames=20, durations=durations))
    assert numbers(info, allow_damaged=True) == list(range(20))


def without_packets(path: Path, begin: float, count: int) -> Path:
    content = path.read_bytes()
    place = int(len(content) // 188 * begin) * 188
    path.write_bytes(content[:place] + content[place + count * 188 :])
    return path


def test_a_hole_in_a_transport_stream_is_damage(tmp_path: Path) -> None:
    path = without_packets(noisy_clip(tmp_path / "clip.ts", "libx264", "-g", "10"), 0.5, 200)
    info = probe(path)
    assert info.is_vfr
    assert promised_frames(info) == 50
    assert 2 < info.missing_frames < 25
    ours = read(info, allow_damaged=True)
    assert len(ours[0]) == 50


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
def test_a_recording_may_begin_between_key_frames(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_clip(
        tmp_path / f"clip{suffix}",
        codec="mpeg2video",
        frames=100,
        options=("-g", "12", "-bf", "2"),
        audio="mp2",
        raw=pack_planes(noise_planes("yuv420p", (64, 48), 100)),
    )
    content = path.read_bytes()
    packet = 188 if suffix == ".ts" else 2048
    path.write_bytes(content[len(content) // 3 // packet * packet :])
    info = probe(path)
    decoded = decode_planes(path)
    assert info.frame_count is not None
    assert 40 < info.frame_count < 100
    planes = read(info)
    assert len(planes[0]) == info.frame_count == len(decoded[0])
    np.testing.assert_array_equal(planes[0], decoded[0])
    assert info.start > 0  # what comes before the first key frame is not shown
    assert not caplog.records


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "libx264"), (".mpg", "mpeg2video")])
def test_joined_recordings_are_one_clip(suffix: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"joined{suffix}"
    content = b""
    for number in (0, 20):
        part = make_clip(
            tmp_path / f"part{suffix}", codec=codec, frames=20, first_number=number, audio="mp2"
        )
        content += part.read_bytes()
    path.write_bytes(content)
    info = probe(path)
    assert (info.frame_count, info.is_vfr, info.missing_frames) == (40, False, 0)
    assert numbers(info) == list(range(40))


def test_a_stall_is_a_decode_error(plain_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidbg.media.ffmpeg.STALL_TIMEOUT_S", 0.3)
    info = probe(plain_clip)
    # No frame of it ever comes out: the whole clip is skipped, then repeated for ever.
    info = dataclasses.replace(info, is_vfr=True, frame_count=10**9)
    reader = FrameReader(info, first=10**8)
    with pytest.raises(DecodeError, match="no progress"):
        list(reader)


# --- real clips --------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("car_540p_cuts.mp4", None),
        ("elk_360p_23.976.mp4", "24000/1001"),
        ("faces_1088p_24.mp4", "24"),
        ("skater_360p_odd_rate.mp4", "179/6"),
        ("walk_720p_30.mp4", "30"),
    ],
)
def test_real_clips_decode_frame_for_frame(name: str, rate: str | None, shared_dir: Path) -> None:
    path = shared_dir / "data" / "clips" / name
    info = probe(path)
    assert not info.is_vfr
    assert info.missing_frames == 0
    if rate is not None:
        assert info.frame_rate == Fraction(rate)
    assert info.frame_count == stream_facts(path).frames
    opening = read(info, stop=8)
    for ours, theirs in zip(opening, decode_planes(path, count=8), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("first", [150, 319, 343, 399])
def test_a_clip_of_one_tick_a_frame_can_begin_anywhere(clips_dir: Path, first: int) -> None:
    path = clips_dir / "ticks.mov"
    if not path.exists():
        options = ("-video_track_timescale", "24")
        make_clip(path, size=(16, 12), rate="24", frames=400, options=options)
    info = probe(path)
    assert info.time_base == Fraction(1, 24)
    batches = list(FrameReader(info, first=first, stop=first + 2))
    numbers = frame_numbers(np.concatenate([batch.planes[0] for batch in batches]))
    assert numbers == [*range(first, min(first + 2, 400))]
