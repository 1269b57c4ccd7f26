"""Files that mean harm: sizes, rates and times that cannot be, names, playlists, weights."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from checkpoints import random_network, random_u2netp
from clips import decode_planes, frame_numbers, make_clip, run_ffmpeg, stream_facts
from PIL import Image
from safetensors.torch import save_file

# Scripts, no package: they find each other in their own folder.
sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import mutants
from mutants import Forks, Ran

from vidbg import pipeline
from vidbg.errors import DecodeError, InputError, VidbgError, WeightsError
from vidbg.frames import MAX_PIXELS
from vidbg.job import matte_job
from vidbg.journal import fingerprint
from vidbg.matting import segmenter, weights
from vidbg.media import ffmpeg as ff
from vidbg.media import spool
from vidbg.media.decode import FrameReader
from vidbg.media.probe import probe
from vidbg.media.source import stored_limit

needs_wait4 = pytest.mark.skipif(not hasattr(os, "wait4"), reason="no wait4(2)")

KEYED = ("--model", "chroma", "--key", "#00ff00")
HUGE = (65535, 65535)
# What any run of vidbg takes, and no more: a frame of the sizes below would be 4 GB and more.
LITTLE_BYTES = 200 << 20


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as runner:
        yield runner


def assert_refused(ran: Ran, *words: str) -> None:
    assert ran.status == 1, (ran.stdout, ran.stderr)
    (line,) = ran.stderr.splitlines()
    for word in words:
        assert word in line, line
    assert ran.peak_bytes < LITTLE_BYTES


def frames_of(path: Path) -> list[int]:
    """Return the numbers that the frames of a made clip show."""
    info = probe(path)
    luma = np.concatenate([batch.planes[0].copy() for batch in FrameReader(info)])
    return frame_numbers(luma)


# --- sizes -------------------------------------------------------------------------------------


def with_png_size(content: bytes, size: tuple[int, int], which: int = 0) -> bytes:
    """Return a file with one of the PNG headers in it changed, its checksum put right."""
    at = -1
    for _ in range(which + 1):
        at = content.index(b"IHDR", at + 1)
    header = b"IHDR" + struct.pack(">II", *size) + content[at + 12 : at + 17]
    return content[:at] + header + struct.pack(">I", zlib.crc32(header)) + content[at + 21 :]


def with_jpeg_size(content: bytes, size: tuple[int, int]) -> bytes:
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", size[1], size[0]) + content[at + 4 :]


def with_gif_size(content: bytes, size: tuple[int, int]) -> bytes:
    return content[:6] + struct.pack("<HH", *size) + content[10:]


def png_clip(path: Path, sizes: dict[int, tuple[int, int]]) -> Path:
    """Write ten PNG pictures as a MOV clip of 64x48, of which some say another size."""
    make_clip(path, codec="png", pix_fmt="rgb24")
    content = path.read_bytes()
    for number, size in sizes.items():
        content = with_png_size(content, size, number)
    path.write_bytes(content)
    return path


def hostile_picture(path: Path, size: tuple[int, int]) -> Path:
    change = {".png": with_png_size, ".jpg": with_jpeg_size, ".gif": with_gif_size}[path.suffix]
    kind = path.suffix.removeprefix(".")
    path.write_bytes(change(mutants.originals()[kind], size))
    return path


@needs_wait4
@pytest.mark.parametrize("name", ["bomb.png", "bomb.jpg", "bomb.gif", "bomb.mov"])
@pytest.mark.parametrize("size", [HUGE, (14000, 12000)])
def test_a_file_that_claims_to_be_huge_is_refused_in_little_memory(
    name: str, size: tuple[int, int], forks: Forks, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name == "bomb.mov":
        png_clip(path, dict.fromkeys(range(10), size))
    else:
        hostile_picture(path, size)
    ran = forks.run([name, "--bg", "red", *KEYED, "-o", "out.png"], tmp_path)
    assert_refused(ran, name)
    if name != "bomb.jpg" or size == HUGE:  # else too few bytes for so many blocks, says FFmpeg
        assert f"{size[0]}x{size[1]} have {size[0] * size[1]:,} pixels" in ran.stderr
        assert f"{MAX_PIXELS:,}" in ran.stderr
        assert "--max-pixels" in ran.stderr


@needs_wait4
@pytest.mark.parametrize("role", ["--bg", "--matte-in", "INPUT"])
@pytest.mark.parametrize("kind", ["picture", "clip", "pictures"])
def test_whatever_a_file_is_for(role: str, kind: str, forks: Forks, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4")
    if kind == "picture":
        name = hostile_picture(tmp_path / "bomb.png", (14000, 12000)).name
    elif kind == "clip":
        name = png_clip(tmp_path / "bomb.mov", dict.fromkeys(range(10), HUGE)).name
    else:
        name = "bombs"
        (tmp_path / name).mkdir()
        for number in range(10):
            hostile_picture(tmp_path / name / f"{number}.png", (14000, 12000))
    source = name if role == "INPUT" else "clip.mp4"
    output = "out.png" if source == "bomb.png" else "out.mp4"
    options = ["--bg", "red", *KEYED]
    if role == "--bg":
        options = ["--bg", name, *KEYED]
    elif role == "--matte-in":
        options = ["--bg", "red", "--matte-in", name]
    assert_refused(forks.run([source, *options, "-o", output], tmp_path), name, "pixels")


@needs_wait4
@pytest.mark.parametrize("role", ["INPUT", "--bg", "--matte-in"])
def test_a_frame_that_is_huge_only_later_is_not_made_room_for(
    role: str, forks: Forks, tmp_path: Path
) -> None:
    make_clip(tmp_path / "clip.mp4")
    name = png_clip(tmp_path / "later.mov", {5: (14000, 12000)}).name
    options = {
        "INPUT": [name, "--bg", "red", *KEYED],
        "--bg": ["clip.mp4", "--bg", name, *KEYED],
        "--matte-in": ["clip.mp4", "--bg", "red", "--matte-in", name],
    }[role]
    ran = forks.run([*options, "-o", "out.mp4"], tmp_path)
    assert ran.peak_bytes < LITTLE_BYTES
    if role == "--bg":  # damage of a background is a warning: it shows the frame before it
        assert ran.status == 0
        assert "warning: later.mov: the background is damaged (Picture size 14000x12000" in (
            ran.stderr
        )
        assert stream_facts(tmp_path / "out.mp4").frames == 10
    else:
        assert_refused(ran, name, "14000x12000", "pixels")


def test_a_picture_of_a_sequence_may_not_be_huge_either(tmp_path: Path) -> None:
    for number in range(4):
        shutil.copy(
            hostile_picture(tmp_path / "p.png", (14000, 12000) if number == 2 else (64, 48)),
            tmp_path / f"s{number}.png",
        )
    (tmp_path / "p.png").unlink()
    info = probe(tmp_path)
    with pytest.raises(InputError, match="14000x12000 have 168,000,000 pixels"):
        list(FrameReader(info))


def test_the_limit_is_exact_at_the_first_frame(plain_clip: Path) -> None:
    assert probe(plain_clip, max_pixels=64 * 48).max_pixels == 64 * 48
    with pytest.raises(InputError, match="64x48 have 3,072 pixels, more than the 3,071"):
        probe(plain_clip, max_pixels=64 * 48 - 1)


@pytest.mark.parametrize("size", [(1920, 1080), (4096, 2160), (7680, 4320), (12288, 6480)])
def test_what_codecs_store_around_a_frame_is_within_the_limit(size: tuple[int, int]) -> None:
    width, height = (-(-side // 64) * 64 for side in size)
    assert stored_limit(size[0] * size[1]) >= width * height
    assert size[0] * size[1] <= MAX_PIXELS


def test_what_the_container_claims_is_refused_too(tmp_path: Path) -> None:
    """The header of an H.264 clip says 65,535 x 65,535, its frames are 64x48."""
    path = make_clip(tmp_path / "clip.mp4")
    content = bytearray(path.read_bytes())
    at = content.index(b"avc1", content.index(b"stsd"))
    content[at + 28 : at + 32] = struct.pack(">HH", *HUGE)
    header = content.index(b"tkhd")
    content[header + 80 : header + 88] = struct.pack(">II", 65535 << 16, 65535 << 16)
    path.write_bytes(content)
    with pytest.raises(InputError, match="65535x65535 have 4,294,836,225 pixels"):
        frames_of(path)
    content[at + 28 : at + 32] = struct.pack(">HH", 100, 100)
    path.write_bytes(content)
    assert (probe(path).width, probe(path).height) == (64, 48)
    assert frames_of(path) == list(range(10))


@needs_wait4
def test_the_limit_is_an_option_everywhere(forks: Forks, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    make_clip(folder / "small.mp4", size=(32, 32))
    make_clip(folder / "large.mp4", size=(64, 48))
    batch = ["clips", "--bg", "red", *KEYED, "-o", "out", "--jobs", "1"]
    by_option = forks.run([*batch, "--max-pixels", "2000"], tmp_path)
    assert by_option.status == 1
    assert "large.mp4: frames of 64x48 have 3,072 pixels" in by_option.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.mp4")] == ["small.vidbg.mp4"]
    (folder / "vidbg.toml").write_text("max-pixels = 3072\n")
    by_file = forks.run(batch, tmp_path)
    assert (by_file.status, len(list((tmp_path / "out").glob("*.mp4")))) == (0, 2)
    ran = forks.run(["probe", "clips/large.mp4", "--max-pixels", "3071"], tmp_path)
    assert_refused(ran, "large.mp4", "--max-pixels")
    with pytest.raises(ValueError, match="at most 0 pixels"):
        matte_job("clip.mp4", max_pixels=0)


def test_the_limit_changes_nothing_in_what_is_made(plain_clip: Path) -> None:
    jobs = [matte_job(plain_clip, max_pixels=limit) for limit in (10_000, MAX_PIXELS)]
    assert len(set(map(fingerprint, jobs))) == 1


@needs_wait4
@pytest.mark.parametrize("kind", ["picture", "clip"])
def test_a_background_as_thin_as_a_hair(kind: str, forks: Forks, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4")
    name = "hair.png"
    Image.new("RGB", (60_000, 1), (255, 0, 0)).save(tmp_path / name)
    if kind == "clip":
        run_ffmpeg("-i", str(tmp_path / name), "-c:v", "ffv1", str(tmp_path / "hair.mkv"))
        name = "hair.mkv"
    ran = forks.run(
        ["clip.mp4", "--bg", name, *KEYED, "-o", "o.mp4", "--max-pixels", "4000000"], tmp_path
    )
    assert_refused(ran, name, "2880000x48 pixels", "--bg-fit contain")
    fitted = ["clip.mp4", "--bg", name, "--bg-fit", "contain", *KEYED, "-o", "o.mp4"]
    assert forks.run(fitted, tmp_path).status == 0


# --- rates and times ---------------------------------------------------------------------------


def retimed(path: Path, source: Path, expression: str, *options: str) -> Path:
    """Copy a clip with other time stamps, as FFmpeg's setts has them."""
    run_ffmpeg(
        *("-i", f"file:{source}", "-map", "0", "-c", "copy"),
        *("-bsf:v", f"setts=ts='{expression}'", *options, f"file:{path}"),
    )
    return path


@pytest.fixture(scope="module")
def plain_mkv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("plain") / "plain.mkv", frames=12)


@pytest.mark.parametrize("rate", ["1000000", "1/3000"])
def test_absurd_rates_are_kept(rate: str, tmp_path: Path) -> None:
    scale = str(max(1, Fraction(rate).numerator))
    path = make_clip(
        tmp_path / "clip.mp4", rate=rate, frames=6, options=("-video_track_timescale", scale)
    )
    out = tmp_path / "out.mp4"
    made = pipeline.replace_background(path, "red", out, model="chroma", key="#00ff00")
    assert (made.frames, made.frame_rate) == (6, Fraction(rate))
    facts = stream_facts(out)
    assert facts.frames == 6
    assert facts.end - facts.start == 6 / Fraction(rate)


def test_frames_come_faster_than_their_clock_ticks(tmp_path: Path) -> None:
    """A high-speed camera's clip in Matroska, which counts milliseconds: no moment is left out."""
    path = make_clip(tmp_path / "clip.mkv", rate="4000", frames=100)
    reader = FrameReader(probe(path))
    assert sum(len(batch.planes[0]) for batch in reader) == 100


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("TS+gt(N,5)*3700000", "two frames after each other are 1.03 hours apart"),
        ("TS+gt(N,5)*pow(2,40)", "hours apart"),
        ("N*4000000", "hours apart"),
        ("min(N,1)*1000", "12 frames come at 2 moments"),
        ("1000", "same time stamp"),
    ],
)
def test_times_that_cannot_be(
    expression: str, message: str, plain_mkv: Path, tmp_path: Path
) -> None:
    path = retimed(tmp_path / "odd.mkv", plain_mkv, expression)
    with pytest.raises(InputError, match=message) as caught:
        probe(path)
    assert caught.value.path == path


def test_a_frame_may_stand_for_an_hour(plain_mkv: Path, tmp_path: Path) -> None:
    path = retimed(tmp_path / "still.mkv", plain_mkv, "TS+gt(N,5)*3599000")
    info = probe(path)
    assert info.is_vfr
    assert info.frame_count == pytest.approx(3599 * 25, abs=20)


@pytest.mark.parametrize(
    "options",
    [
        ("-avoid_negative_ts", "disabled", "-output_ts_offset", "-0.2"),
        ("-avoid_negative_ts", "disabled", "-output_ts_offset", "-10"),
    ],
)
def test_negative_times_lose_nothing(
    options: tuple[str, ...], plain_mkv: Path, tmp_path: Path
) -> None:
    path = tmp_path / "early.mkv"
    run_ffmpeg("-i", f"file:{plain_mkv}", "-c", "copy", *options, f"file:{path}")
    assert frames_of(path) == list(range(12))


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_a_clock_that_wraps_loses_nothing(codec: str, tmp_path: Path) -> None:
    """A transport stream counts 33 bits of 1/90000 s, 26.5 hours, and begins again."""
    path = tmp_path / "wrap.ts"
    make_clip(
        path,
        codec=codec,
        frames=25,
        audio="mp2",
        options=("-muxdelay", "0", "-output_ts_offset", str(2**33 / 90_000 - 0.5)),
    )
    numbers = frames_of(path)
    assert numbers == list(range(25))
    out = tmp_path / "out.mp4"
    made = pipeline.replace_background(path, "red", out, model="chroma", key="#00ff00")
    assert (made.frames, made.lost_frames) == (25, 0)
    facts = stream_facts(out)
    assert facts.end - facts.start == 1
    (sound,) = facts.audio
    assert abs(sound.start - facts.start) < Fraction(1, 10)
    assert abs(sound.end - facts.end) < Fraction(1, 10)


@pytest.mark.parametrize(("suffix", "sound"), [(".ts", "aac"), (".mkv", "aac")])
def test_pictures_that_appear_late(suffix: str, sound: str, tmp_path: Path) -> None:
    path = tmp_path / f"late{suffix}"
    make_clip(
        path,
        codec="libx264",
        frames=25,
        video_delay_s="12",
        audio=sound,
        audio_s="13",
        options=("-max_interleave_delta", "0"),
    )
    out = tmp_path / "out.mp4"
    made = pipeline.replace_background(path, "red", out, model="chroma", key="#00ff00")
    assert made.frames == 25
    facts = stream_facts(out)
    assert facts.frames == 25
    (track,) = facts.audio
    assert abs((facts.start - track.start) - 12) < Fraction(1, 10)


def test_a_size_that_changes_midway_keeps_every_frame(tmp_path: Path) -> None:
    """Later frames are scaled to the size of the first."""
    options = ("-bf", "0")
    parts = [
        make_clip(tmp_path / "a.ts", codec="libx264", size=(64, 48), options=options),
        make_clip(
            tmp_path / "b.ts", codec="libx264", size=(128, 96), first_number=10, options=options
        ),
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert frames_of(joined) == list(range(20))
    out = tmp_path / "out.mkv"
    made = pipeline.replace_background(joined, "red", out, model="chroma", key="#00ff00")
    facts = stream_facts(out)
    assert (made.frames, facts.frames, facts.width, facts.height) == (20, 20, 64, 48)


def test_a_clip_without_its_first_key_frame_begins_with_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_clip(tmp_path / "whole.mkv", codec="libx264", options=("-g", "5"))
    path = tmp_path / "clip.mkv"
    run_ffmpeg(
        *("-copyts", "-i", f"file:{whole}", "-c", "copy", "-copyinkf"),
        *("-bsf:v", "noise=amount=0:drop='lt(n,1)'", f"file:{path}"),
    )
    assert stream_facts(path).frames == 9
    decodable = frame_numbers(decode_planes(path)[0])
    assert decodable[-5:] == [5, 6, 7, 8, 9]
    out = tmp_path / "out.mkv"
    made = pipeline.replace_background(path, "red", out, model="chroma", key="#00ff00")
    assert made.frames == stream_facts(out).frames == 5
    assert frames_of(path) == [5, 6, 7, 8, 9]
    assert f"{path}: begins with 4 frames that cannot be decoded" in caplog.text


@needs_wait4
@pytest.mark.parametrize("channels", [0, 255, 65535])
def test_absurd_numbers_of_channels(channels: int, forks: Forks, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mov", audio="pcm_s16le")
    content = path.read_bytes()
    entry = next(part for part in mutants.boxes(content) if part.name == "sowt")
    at = entry.body + 16  # ISO/IEC 14496-12, 12.2.3
    assert content[at : at + 2] == b"\0\1"
    path.write_bytes(content[:at] + channels.to_bytes(2, "big") + content[at + 2 :])
    ran = forks.run([path.name, "--bg", "red", *KEYED, "-o", "out.mp4", "-q"], tmp_path)
    assert ran.peak_bytes < LITTLE_BYTES
    if ran.status:
        assert_refused(ran, "out.mp4" if "out.mp4" in ran.stderr else path.name)
    else:
        assert stream_facts(tmp_path / "out.mp4").frames == 10


# --- names -------------------------------------------------------------------------------------

NAMES = [
    *("-dash", "--bg", "it's \"q uote\t", "new\nline\x1b[31mred", "%d", "100% %05d", "file:x"),
    *("concat:a|b", "http:x", "pipe:0", "ünïcødé 日本", "a" * 200, "[x]*?", "#1", "@x"),
    "=a,b;c=d $HOME;`ls`\\back\\slash",
]


@needs_wait4
@pytest.mark.parametrize("stem", NAMES, ids=ascii)
def test_any_name_for_every_file(stem: str, forks: Forks, tmp_path: Path) -> None:
    """Clip, background, mattes and result, all called so, in a folder called so."""
    folder = tmp_path / stem
    folder.mkdir()
    shutil.copy(made_once("clip.mp4"), folder / f"{stem}.mp4")
    shutil.copy(made_once("matte.mkv"), folder / f"{stem}.mkv")
    shutil.copy(made_once("back.png"), folder / f"{stem}.png")
    ran = forks.run(
        [
            *("-q", "--bg", f"./{stem}.png", "--matte-in", f"{stem}.mkv"),
            *("-o", f"{stem}.mov", "--codec", "h264", "--", f"{stem}.mp4"),
        ],
        folder,
    )
    assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
    kept = {f"{stem}{suffix}" for suffix in (".mp4", ".mkv", ".png", ".mov")}
    assert {path.name for path in folder.iterdir()} == kept | {"stdout.txt", "stderr.txt"}
    assert stream_facts(folder / f"{stem}.mov").frames == 5
    (folder / f"{stem}.mp4").write_bytes(b"")
    failed = forks.run(["--bg", "red", *KEYED, "-o", "o.mp4", "--", f"{stem}.mp4"], folder)
    assert_refused(failed, "the file is empty")


_made: dict[str, Path] = {}


def made_once(name: str) -> Path:
    return _made[name]


@pytest.fixture(autouse=True, scope="module")
def _small_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("small")
    _made["clip.mp4"] = make_clip(folder / "clip.mp4", frames=5)
    _made["matte.mkv"] = make_clip(folder / "matte.mkv", frames=5)
    Image.new("RGB", (64, 48), (200, 0, 0)).save(folder / "back.png")
    _made["back.png"] = folder / "back.png"


def test_every_file_reaches_ffmpeg_as_a_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    real = ff.command

    def recorded(arguments: Sequence[str]) -> list[str]:
        commands.append(list(arguments))
        return real(arguments)

    monkeypatch.setattr(ff, "command", recorded)
    clip = make_clip(tmp_path / "clip.mkv", audio="pcm_s16le")
    shutil.copy(made_once("clip.mp4"), tmp_path / "back.mp4")
    options = {"model": "chroma", "key": "#00ff00"}
    for out in ("out.mp4", "out.mkv"):
        pipeline.replace_background(clip, tmp_path / "back.mp4", tmp_path / out, **options)
    picture = tmp_path / "still.png"
    shutil.copy(made_once("back.png"), picture)
    pipeline.replace_background(picture, "red", tmp_path / "out.png", **options)
    opened = 0
    for arguments in commands:
        given = 0
        for at, argument in enumerate(arguments):
            if argument != "-i":
                continue
            own, given = arguments[given:at], at + 2
            target = arguments[at + 1]
            if target.startswith("pipe:"):
                continue
            opened += 1
            assert target.startswith(f"file:{tmp_path}")
            assert own[own.index("-protocol_whitelist") + 1] == "file,pipe"
            assert "-format_whitelist" in own
            assert "-max_pixels" in own
            if "image2" in own:
                assert own[own.index("-pattern_type") + 1] == "none"
    assert opened > 6


def test_through_symbolic_links(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    clip = Path(shutil.copy(made_once("clip.mp4"), real / "clip.mp4"))
    (tmp_path / "folder").symlink_to(real)
    (tmp_path / "link.mp4").symlink_to(clip)
    options = {"model": "chroma", "key": "#00ff00", "overwrite": True}
    before = clip.read_bytes()
    for source, out in [
        (tmp_path / "folder" / "clip.mp4", tmp_path / "folder" / "out.mp4"),
        (tmp_path / "link.mp4", tmp_path / "out.mp4"),
    ]:
        assert pipeline.replace_background(source, "red", out, **options).frames == 5  # type: ignore[arg-type]
    with pytest.raises(VidbgError, match=r"input itself|source"):
        pipeline.replace_background(clip, "red", tmp_path / "link.mp4", **options)  # type: ignore[arg-type]
    assert clip.read_bytes() == before
    circle = tmp_path / "circle.mp4"
    circle.symlink_to(circle)
    with pytest.raises(InputError):
        probe(circle)


# --- files that point at others ----------------------------------------------------------------

MPD = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-live:2011"><Period><AdaptationSet><Representation '
    'id="1"><BaseURL>clip.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
CPL = '<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"/>'
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48">'
    '<image href="back.png" width="64" height="48"/></svg>'
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"


@pytest.mark.parametrize("name", ["list", "list.mp4", "list.mkv", "list.png"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#EXTM3U\n#EXTINF:5,\nclip.mp4\n", "playlist"),
        ("ffconcat version 1.0\nfile clip.mp4\n", "playlist"),
        (MPD, "playlist"),
        ("\ufeff  \n" + MPD, "playlist"),
        (CPL, "playlist"),
        (SVG, "SVG"),
    ],
    ids=["hls", "concat", "dash", "dash after blanks", "imf", "svg"],
)
def test_playlists_are_refused_before_ffmpeg_sees_them(
    name: str, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(made_once("clip.mp4"), tmp_path / "clip.mp4")
    (tmp_path / name).write_text(text, encoding="utf-8")

    def opened(*_: object, **__: object) -> None:
        pytest.fail("FFmpeg was asked")

    monkeypatch.setattr(av, "open", opened)
    with pytest.raises(InputError, match=message) as caught:
        probe(tmp_path / name)
    assert caught.value.path == tmp_path / name


@pytest.mark.parametrize("name", ["x.sdp", "x.mp4"])
def test_a_description_of_a_session_opens_no_network(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(SDP)
    with pytest.raises(InputError, match=r"not a video|playlist"):
        probe(tmp_path / name)


def test_a_clip_that_turns_into_a_playlist_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copy(made_once("clip.mp4"), path)
    make_clip(tmp_path / "secret.mp4", frames=5, first_number=100)
    info = probe(path)
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(DecodeError):
        list(FrameReader(info))


def _alias(name: str) -> bytes:
    """Return a QuickTime alias to a file, as a box (Inside Macintosh: Files, the Alias Manager)."""
    path = name.encode()
    record = bytes(10 + 1 + 27 + 12 + 1 + 63 + 16) + struct.pack(">HH", 1, 1) + bytes(16)
    record += struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2)
    box = b"alis" + bytes(4) + record + struct.pack(">HH", 0xFFFF, 0)
    return struct.pack(">I", 4 + len(box)) + box


@pytest.mark.parametrize("how", ["beside", "absolute"])
def test_a_clip_whose_frames_lie_in_another_file(how: str, tmp_path: Path) -> None:
    """A QuickTime movie can say that its samples are those at the same places elsewhere."""
    path = tmp_path / "clip.mov"
    shutil.copy(make_clip(path), tmp_path / "secret.mov")
    content = path.read_bytes()
    parts = list(mutants.boxes(content))
    url = next(part for part in parts if part.name == "url ")
    alias = _alias("secret.mov" if how == "beside" else f"{tmp_path}/secret.mov")
    grown = len(alias) - (url.stop - url.start)
    changed = bytearray(content)
    for part in parts:
        if part.start < url.start and url.stop <= part.stop:
            size = part.stop - part.start + grown
            changed[part.start : part.start + 4] = struct.pack(">I", size)
    changed[url.start : url.stop] = alias
    data = next(part for part in parts if part.name == "mdat")
    changed[data.body : data.stop] = bytes(data.stop - data.body)
    path.write_bytes(changed)
    allowed = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(path), options=allowed) as container:  # the reference is a live one
        assert sum(1 for _ in container.decode(video=0)) == 10
    with pytest.raises(VidbgError) as caught:
        pipeline.replace_background(
            path, "red", tmp_path / "out.mp4", model="chroma", key="#00ff00"
        )
    assert caught.value.path == path


@pytest.fixture
def playlist(tmp_path: Path) -> Path:
    """A recording in segments, in a folder of its own."""
    folder = tmp_path / "hls"
    folder.mkdir()
    clip = make_clip(
        tmp_path / "whole.mkv", frames=50, codec="libx264", options=("-g", "10", "-bf", "0")
    )
    path = folder / "list.m3u8"
    run_ffmpeg(
        *("-i", str(clip), "-c", "copy", "-f", "hls", "-hls_time", "0.4", "-hls_list_size", "0"),
        str(path),
    )
    assert len(list(folder.glob("*.ts"))) == 5
    return path


def test_a_playlist_that_is_allowed_is_joined(playlist: Path, tmp_path: Path, forks: Forks) -> None:
    command = ["hls/list.m3u8", "--bg", "red", *KEYED, "-o", "out.mp4"]
    assert_refused(forks.run(command, tmp_path), "playlist", "--allow-playlists")
    ran = forks.run([*command, "--allow-playlists"], tmp_path)
    assert ran.status == 0, ran.stderr
    assert stream_facts(tmp_path / "out.mp4").frames == 50
    with spool.from_playlist(playlist, tmp_path) as joined:
        assert frames_of(joined) == list(range(50))
    assert not joined.exists()
    behind = ["whole.mkv", "--bg", "hls/list.m3u8", *KEYED, "-o", "b.mp4", "--allow-playlists"]
    assert forks.run(behind, tmp_path).status == 0
    assert not list(tmp_path.rglob("*.part.*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../secret.ts", "no file in its folder"),
        ("{root}/secret.ts", "no file in its folder"),
        ("file:{root}/secret.ts", "no file in its folder"),
        ("/etc/passwd", "no file in its folder"),
        ("link.ts", "no file in its folder"),
        ("sub/../../secret.ts", "no file in its folder"),
        ("%2e%2e/secret.ts", "no file in its folder"),
        ("http://localhost/secret.ts", "no file in its folder"),
        ("concat:secret.ts", "no file in its folder"),
        ("loop.ts", "no file in its folder"),
        ("\x00", "no file in its folder"),
        ("pipe", "no file in its folder"),
        ('#EXT-X-MAP:URI="../secret.ts"', "no file in its folder"),
        ("#EXT-X-STREAM-INF:BANDWIDTH=1\nlist0.ts", "other playlists"),
        ('#EXT-X-KEY:METHOD=AES-128,URI="k"', "encrypted"),
        ("#EXT-X-BYTERANGE:10@0", "parts of files"),
        ('#EXT-X-MAP:URI="list0.ts",BYTERANGE="10@0"', "parts of files"),
    ],
)
def test_a_playlist_reaches_nothing_outside_its_folder(
    line: str, message: str, playlist: Path, tmp_path: Path
) -> None:
    shutil.copy(playlist.parent / "list0.ts", tmp_path / "secret.ts")
    (playlist.parent / "sub").mkdir()
    (playlist.parent / "link.ts").symlink_to(tmp_path / "secret.ts")
    (playlist.parent / "loop.ts").symlink_to("loop.ts")
    if hasattr(os, "mkfifo"):
        os.mkfifo(playlist.parent / "pipe")
    playlist.write_text(playlist.read_text() + line.format(root=tmp_path) + "\n")
    with (
        pytest.raises(InputError, match=message) as caught,
        spool.from_playlist(playlist, tmp_path),
    ):
        pass
    assert caught.value.path == playlist
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.part.*"))


def test_a_playlist_that_does_not_fit_is_refused_before_it_is_joined(
    playlist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names a file of little so often that no disk holds it."""
    with (playlist.parent / "list0.ts").open("r+b") as large:
        large.truncate(1 << 34)
    playlist.write_text("#EXTM3U\n" + "list0.ts\n" * 1_000_000)

    def add(*_: object) -> None:
        pytest.fail("it is being joined")

    monkeypatch.setattr(spool._Stored, "add", add)
    with pytest.raises(InputError, match="no room"), spool.from_playlist(playlist, tmp_path):
        pass
    assert not list(tmp_path.glob("*.part.*"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_playlist(tmp_path: Path, forks: Forks) -> None:
    """Waiting for what nobody writes would never end."""
    os.mkfifo(tmp_path / "pipe")
    command = ["pipe", "--bg", "red", *KEYED, "-o", "out.mp4", "--allow-playlists"]
    assert_refused(forks.run(command, tmp_path), "not a regular file")


def test_names_in_a_playlist_may_be_escaped_or_not(playlist: Path, tmp_path: Path) -> None:
    folder = playlist.parent
    (folder / "list0.ts").rename(folder / "100%25 a b.ts")
    (folder / "list1.ts").rename(folder / "c d.ts")
    text = playlist.read_text()
    playlist.write_text(text.replace("list0.ts", "100%25 a b.ts").replace("list1.ts", "c%20d.ts"))
    with spool.from_playlist(playlist, tmp_path) as joined:
        assert frames_of(joined) == list(range(50))


# --- weights -----------------------------------------------------------------------------------


class Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def _pickled_code(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Code(path.with_name("ran"))}))


def _changed(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tensors = dict(random_network().state_dict())
        change(tensors)
        save_file(tensors, path)

    return write


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["stage3.rebnconv1.conv_s1.bias"][2] = torch.nan


def _reshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["stage3.rebnconv1.conv_s1.bias"] = torch.zeros(1)


def _removed(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["stage3.rebnconv1.conv_s1.bias"]


def _claims_terabytes(path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # of which nothing is on the disk


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("film.safetensors", _huge, "1,099,511,627,776 bytes are no weights"),
        ("film.pth", _huge, "1,099,511,627,776 bytes are no weights"),
        ("code.pth", _pickled_code, "not a checkpoint of plain tensors"),
        ("nan.safetensors", _changed(_nan), r"stage3\.rebnconv1\.conv_s1\.bias holds a NaN"),
        ("shape.safetensors", _changed(_reshaped), r"conv_s1\.bias is \(1,\) in place of \(16,\)"),
        ("less.safetensors", _changed(_removed), r"conv_s1\.bias is missing"),
        ("huge.safetensors", _claims_terabytes, "not a safetensors file"),
    ],
)
def test_weights_that_are_refused_by_name(
    name: str, write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    """By whatever engine would run them."""
    path = tmp_path / name
    write(path)
    with pytest.raises(WeightsError, match=message) as caught:
        segmenter.load_segmenter(weights=path, device="cpu")
    assert caught.value.path == path
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_change_meanwhile_are_those_that_were_checked(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = random_u2netp(tmp_path / f"w{suffix}", seed=1)
    other = random_u2netp(tmp_path / f"other{suffix}", seed=2)
    picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    expected = segmenter.load_segmenter(weights=path, device="cpu", precision="fp32")(picture)
    assert other.read_bytes() != path.read_bytes()
    real = weights.read_once

    def read_and_replaced(given: Path, spec: weights.ModelSpec | None) -> bytes:
        content = real(given, spec)
        os.replace(other, given)
        return content

    monkeypatch.setattr(segmenter, "read_once", read_and_replaced)
    found = segmenter.load_segmenter(weights=path, device="cpu", precision="fp32")(picture)
    np.testing.assert_array_equal(found, expected)


def test_published_weights_that_change_after_they_were_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = random_u2netp(tmp_path / "u2netp.pth")
    monkeypatch.setattr(segmenter, "ensure", lambda name, progress: path)
    with pytest.raises(WeightsError, match="this is not the published u2netp") as caught:
        segmenter.load_segmenter("u2netp", device="cpu")
    assert caught.value.path == path
