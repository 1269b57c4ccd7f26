"""Mattes that are ready: which picture goes with which frame, and what of it counts."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import (
    Array,
    decode_planes,
    make_clip,
    noise_planes,
    pack_planes,
    stream_facts,
    video_info,
)
from PIL import Image

from vidbg.errors import DecodeError, InputError, OutputError
from vidbg.job import Job
from vidbg.media import background, encode
from vidbg.media.decode import FrameReader
from vidbg.media.mattes import MatteReader, ReadyMattes, open_mattes
from vidbg.media.probe import probe
from vidbg.pipeline import run

SIZE = (64, 48)
VIDBG = str(Path(sys.executable).with_name("vidbg"))


def levels_of(count: int) -> Array:
    """Return flat mattes ``(count, 48, 64)`` of which each has a level of its own."""
    levels = np.linspace(0, 255, count).round().astype(np.uint8)
    return np.broadcast_to(levels[:, None, None], (count, 48, 64))


def write_matte(path: Path, mattes: Array, pix_fmt: str = "gray", **options: object) -> Path:
    return make_clip(
        path,
        size=(mattes.shape[2], mattes.shape[1]),
        raw=pack_planes([mattes]),
        raw_pix_fmt="gray" if mattes.dtype == np.uint8 else "gray16le",
        pix_fmt=pix_fmt,
        codec="ffv1",
        **options,  # type: ignore[arg-type]
    )


def clip_of(folder: Path, frames: int, **options: object) -> Path:
    """Write a clip of noise, losslessly."""
    path = folder / "in.mkv"
    planes = noise_planes("yuv420p", SIZE, frames, seed=1)
    return make_clip(
        path,
        raw=pack_planes(planes),
        pix_fmt=None,
        **options,  # type: ignore[arg-type]
    )


def mattes_of(path: Path, clip: Path, first: int = 0, stop: int | None = None) -> Array:
    """Return the mattes that go with a clip's frames, float32 ``(N, H, W)``."""
    info = probe(clip)
    found = open_mattes(path, info, first, stop)
    reader = FrameReader(info, batch_size=3, first=first, stop=stop)
    joined = MatteReader(reader, found, reader, wants_pictures=False)
    return np.concatenate([batch.matte for batch in joined])


def composite(source: Path, output: Path, matte: Path, **options: object) -> tuple[Array, ...]:
    job = Job(
        source,
        encode.Output(output, "composite", "ffv1", sound="none", overwrite=True),
        background=background.Solid((0, 0, 0)),
        matte_in=matte,
        **options,  # type: ignore[arg-type]
    )
    run(job)
    return decode_planes(output)


@pytest.mark.parametrize(
    ("pix_fmt", "colour_range"),
    [
        ("gray", None),
        ("gray", "pc"),
        ("yuv420p", "tv"),
        ("yuv420p", None),  # which is limited
        ("yuv420p", "pc"),
        ("yuv444p10le", "tv"),
        ("gray16le", None),
        ("gbrp", None),
        ("rgba", None),  # opaque all over
    ],
)
def test_black_is_0_and_white_is_1(tmp_path: Path, pix_fmt: str, colour_range: str | None) -> None:
    mattes = levels_of(7)
    path = tmp_path / "matte.mkv"
    codes = mattes.astype(np.float64) / 255
    if pix_fmt.startswith("gray"):
        top = 255 if pix_fmt == "gray" else 65535
        planes = [np.round(codes * top)]
    elif pix_fmt in ("gbrp", "rgba"):
        planes = [mattes] * (4 if pix_fmt == "rgba" else 3)
        if pix_fmt == "rgba":
            planes[3] = np.full_like(mattes, 255)
    else:
        step = 4 if "10" in pix_fmt else 1
        low, high = (0, 256 * step - 1) if colour_range == "pc" else (16 * step, 235 * step)
        chroma = 24, 32
        if "444" in pix_fmt:
            chroma = 48, 64
        neutral = np.full((7, *chroma), 128 * step)
        planes = [np.round(low + codes * (high - low)), neutral, neutral]
    dtype = np.uint16 if pix_fmt in ("gray16le", "yuv444p10le") else np.uint8
    make_clip(
        path,
        raw=pack_planes([plane.astype(dtype) for plane in planes]),
        raw_pix_fmt="gbrap" if pix_fmt == "rgba" else pix_fmt,
        pix_fmt="bgra" if pix_fmt == "rgba" else None,
        colour_range=colour_range,
    )
    found = mattes_of(path, clip_of(tmp_path, 7))
    assert found.dtype == np.float32
    tolerance = 0.51 / 219 if pix_fmt == "yuv420p" and colour_range != "pc" else 1e-3
    np.testing.assert_allclose(found, codes, atol=tolerance)
    assert (found.min(), found.max()) == (0, 1)


def test_alpha_counts_where_it_is_anywhere_clear(tmp_path: Path) -> None:
    """The frame that is opaque all over has alpha for its matte as well, not its colours."""
    opacity = np.array([255, 255, 100, 0], np.uint8)[:, None, None] + np.zeros(
        (1, 48, 64), np.uint8
    )
    grey = np.full((4, 48, 64), 60, np.uint8)
    path = make_clip(
        tmp_path / "cut.mkv",
        raw=pack_planes([grey, grey, grey, opacity]),
        raw_pix_fmt="gbrap",
        pix_fmt="bgra",
    )
    found = mattes_of(path, clip_of(tmp_path, 4))
    np.testing.assert_allclose(found, opacity / 255, atol=1e-6)


def test_each_frame_has_its_own(tmp_path: Path) -> None:
    """In pieces of any size, and from any frame on."""
    count = 40
    matte = write_matte(tmp_path / "matte.mkv", levels_of(count), rate="10")  # rates do not matter
    clip = clip_of(tmp_path, count)
    wanted = levels_of(count) / np.float32(255)
    np.testing.assert_allclose(mattes_of(matte, clip), wanted, atol=1e-6)
    for first, stop in [(0, 5), (7, 8), (20, 40), (39, None)]:
        found = mattes_of(matte, clip, first, stop)
        np.testing.assert_allclose(found, wanted[first:stop], atol=1e-6)


def test_a_matte_of_the_trim_only(tmp_path: Path) -> None:
    matte = write_matte(tmp_path / "matte.mkv", levels_of(10))
    found = mattes_of(matte, clip_of(tmp_path, 40), 20, 30)
    np.testing.assert_allclose(found, levels_of(10) / 255, atol=1e-6)


def test_counts_have_to_fit(tmp_path: Path) -> None:
    matte = write_matte(tmp_path / "matte.mkv", levels_of(10))
    info = probe(clip_of(tmp_path, 12))
    with pytest.raises(InputError, match=r"has 10 frames where in\.mkv has 12\b"):
        open_mattes(matte, info)
    with pytest.raises(InputError, match=r"has 10 frames where in\.mkv has 12, or 5 trimmed"):
        open_mattes(matte, info, 2, 7)
    assert open_mattes(matte, info, 2, None).within(0, 12) == (2, 12)
    assert open_mattes(matte, info, 2, None).within(3, 99) == (3, 12)


def test_what_ends_too_early_is_said(tmp_path: Path) -> None:
    """Where the count that a file states was too high."""
    matte = write_matte(tmp_path / "matte.mkv", levels_of(10))
    info = probe(clip_of(tmp_path, 12))
    found = open_mattes(matte, replace(info, frame_count=None))
    reader = FrameReader(info, batch_size=5)
    with pytest.raises(DecodeError, match=r"matte\.mkv: its frames end before .*, at frame 10"):
        list(MatteReader(reader, found, reader, wants_pictures=False))


def test_a_picture_serves_all_frames(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64).round().astype(np.uint8), (48, 64))
    Image.fromarray(ramp).save(tmp_path / "matte.png")
    found = mattes_of(tmp_path / "matte.png", clip_of(tmp_path, 7), 2)
    np.testing.assert_allclose(found, np.broadcast_to(ramp / 255, (5, 48, 64)), atol=1e-6)


def test_numbered_pictures_with_alpha(tmp_path: Path) -> None:
    folder = tmp_path / "mattes"
    folder.mkdir()
    for number, level in enumerate((0, 90, 255)):
        Image.new("RGBA", SIZE, (9, 9, 9, level)).save(folder / f"{number:04d}.png")
    found = mattes_of(folder, clip_of(tmp_path, 3))
    np.testing.assert_allclose(found[:, 5, 5], np.array([0, 90, 255]) / 255, atol=1e-6)
    np.testing.assert_array_equal(found, mattes_of(folder / "%04d.png", tmp_path / "in.mkv"))


def test_the_network_sees_the_picture_at_the_mattes_size(tmp_path: Path) -> None:
    matte = write_matte(tmp_path / "matte.mkv", np.zeros((2, 24, 32), np.uint8))
    info = probe(clip_of(tmp_path, 2))
    reader = FrameReader(info)
    (one, _) = MatteReader(reader, open_mattes(matte, info), reader, wants_pictures=True)
    assert (one.thumbnails.shape, one.matte.shape) == ((1, 24, 32, 3), (1, 24, 32))


# ---- The whole job -----------------------------------------------------------------------------


def test_a_ready_matte_composites_as_the_equation_says(tmp_path: Path) -> None:
    """C = F·a + B·(1 - a) with the background at black, frame by frame."""
    mattes = np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)
    mattes = np.broadcast_to(mattes, (6, 48, 64)).copy()
    mattes[3:] = mattes[3:, :, ::-1]
    matte = write_matte(tmp_path / "matte.mkv", mattes)
    source = clip_of(tmp_path, 6)
    luma, *_ = composite(source, tmp_path / "out.mkv", matte)
    wanted = np.where(mattes > 0, decode_planes(source)[0], 16)
    np.testing.assert_array_equal(luma, wanted)
    trim = {"start_s": Fraction(2, 25), "end_s": Fraction(5, 25)}
    part, *_ = composite(source, tmp_path / "part.mkv", matte, **trim)
    np.testing.assert_array_equal(part, wanted[2:5])


@pytest.mark.parametrize("whole", [True, False])
def test_smoothing_looks_at_no_frame_that_has_no_matte(tmp_path: Path, whole: bool) -> None:
    source = clip_of(tmp_path, 60)
    matte = write_matte(tmp_path / "matte.mkv", levels_of(60 if whole else 10))
    times = {"start_s": Fraction(30, 25), "end_s": Fraction(40, 25)}
    luma, *_ = composite(source, tmp_path / "out.mkv", matte, smooth=0.5, edges="fast", **times)
    assert len(luma) == 10


def test_the_matte_that_vidbg_writes_gives_the_composite_that_it_makes(tmp_path: Path) -> None:
    """Two ways to one picture: keyed at once, and keyed to a matte that is then read."""
    source = Path(__file__).parent.parent / "samples" / "talk.green.mp4"
    keyed = {"model": "chroma", "key": "#00b140", "end_s": Fraction(1, 5), "despill": False}
    kept = {"sound": "none"}
    behind = background.Solid((40, 60, 200))
    at_once = encode.Output(tmp_path / "at once.mkv", "composite", "ffv1", **kept)
    matte = encode.Output(tmp_path / "matte.mkv", "matte", "ffv1", **kept)
    later = encode.Output(tmp_path / "later.mkv", "composite", "ffv1", **kept)
    run(Job(source, at_once, background=behind, **keyed))  # type: ignore[arg-type]
    run(Job(source, matte, **keyed))  # type: ignore[arg-type]
    part = {"end_s": Fraction(1, 5), "matte_in": matte.path}
    run(Job(source, later, background=behind, **part))  # type: ignore[arg-type]
    pairs = zip(decode_planes(at_once.path), decode_planes(later.path), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_own_alpha_is_not_counted_twice(tmp_path: Path) -> None:
    """The matte of a clip with transparency has that in it already; any other gets it."""
    own = np.broadcast_to(np.linspace(0, 255, 64).round().astype(np.uint8), (4, 48, 64))
    source = tmp_path / "in.mkv"
    planes = [np.full((4, 48, 64), 90, np.uint8)] * 3
    make_clip(source, raw=pack_planes([*planes, own]), raw_pix_fmt="gbrap", pix_fmt="bgra")
    halves = np.repeat(np.array([255, 128], np.uint8), 24)[None, :, None]
    first = write_matte(tmp_path / "first.mkv", np.broadcast_to(halves, own.shape))

    def matte_of(given: Path, name: str) -> Array:
        output = encode.Output(tmp_path / name, "matte", "ffv1", sound="none")
        run(Job(source, output, matte_in=given))
        return decode_planes(output.path, "gray")[0]

    once = matte_of(first, "once.mkv")
    np.testing.assert_array_equal(once, np.minimum(own, halves))
    np.testing.assert_array_equal(matte_of(tmp_path / "once.mkv", "twice.mkv"), once)


def test_the_matte_is_not_overwritten(tmp_path: Path) -> None:
    matte = write_matte(tmp_path / "matte.mkv", levels_of(4))
    with pytest.raises(OutputError, match="is the matte itself"):
        composite(clip_of(tmp_path, 4), matte, matte)


def test_no_network_is_loaded(tmp_path: Path) -> None:
    source = clip_of(tmp_path, 4)
    matte = write_matte(tmp_path / "matte.mkv", levels_of(4))
    out = tmp_path / "out.mkv"
    arguments = [str(source), "--alpha", "--matte-in", str(matte), "-o", str(out)]
    code = (
        "import sys\nfrom vidbg.cli.main import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert stream_facts(out).frames == 4
    (*_, alpha) = decode_planes(out, "yuva420p")
    np.testing.assert_array_equal(alpha, levels_of(4))


@pytest.mark.parametrize(("option", "value"), [("--model", "chroma"), ("--every", "3")])
def test_what_is_for_networks_is_refused_beside_a_matte(option: str, value: str) -> None:
    done = subprocess.run(
        [VIDBG, "in.mkv", "--alpha", "--matte-in", "m.mkv", option, value],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert f"{option} has no effect on --matte-in" in done.stderr


def test_ranges_of_any_kind() -> None:
    """Mattes of frames 10 to 19 of a clip of 30, in whatever part of it."""
    info = video_info(frame_count=10)
    mattes = ReadyMattes(info, 10, 20, False)
    for first, stop in itertools.product(range(0, 30, 3), range(1, 31, 3)):
        low, high = mattes.within(first, stop)
        wanted = set(range(first, stop)) & set(range(10, 20))
        assert set(range(low, high or 0)) == wanted
    still = ReadyMattes(replace(info, is_image=True), 0, None, False)
    assert still.within(3, 7) == (3, 7)


def test_a_damaged_matte_is_an_error(tmp_path: Path) -> None:
    matte = write_matte(tmp_path / "matte.mkv", levels_of(30))
    content = bytearray(matte.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    matte.write_bytes(content)
    with pytest.raises((DecodeError, InputError)):
        composite(clip_of(tmp_path, 30), tmp_path / "out.mkv", matte)
