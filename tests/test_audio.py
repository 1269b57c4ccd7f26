"""Sound in results: copied or encoded, cut, looped, mixed, always in step with the pictures.

The sounds are sweeps that an equation gives for any time, so that correlation with the
equation tells to the sample when a decoded sound plays, whatever codec it went through.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import decode_sound, make_clip, run_ffmpeg, stream_facts, version
from numpy.typing import NDArray

from vidbg.frames import VideoInfo
from vidbg.media import audio, encode
from vidbg.media.encode import Output
from vidbg.media.probe import probe
from vidbg.media.sinks import Sink

Signal = Callable[[NDArray[np.float64]], NDArray[np.float64]]

RATE = Fraction(24000, 1001)
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
# FFmpeg 5 counts Opus' lead-in twice when it writes Matroska: 6.5 ms each time it does so.
OPUS_EARLY_S = 0.0072 if version() < 6 else 0.0
FRAME_SAMPLES = {"aac": 1024, "opus": 960, "vorbis": 2048, "mp3": 1152, "ac3": 1536}


def sweep(base_hz: float, rise: float, level: float = 0.3) -> Signal:
    """Return the sound that :func:`sweep_source` makes, as a function of time."""

    def sound(time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        phase = base_hz * time_s + rise * time_s**2
        return np.asarray(np.where(time_s >= 0, level * np.sin(2 * np.pi * phase), 0.0))

    return sound


def sweep_source(base_hz: float, rise: float, level: float = 0.3, **options: object) -> str:
    """Return the lavfi source of a rising tone."""
    chosen = {"s": 48000, "c": "mono", **options}
    more = ":".join(f"{key}={value}" for key, value in chosen.items())
    return f"aevalsrc='{level}*sin(2*PI*({base_hz}*t+{rise}*t*t))':{more}"


VOICE, MUSIC = (250, 60), (900, 300)
voice, music = sweep(*VOICE), sweep(*MUSIC)


@pytest.fixture(scope="session")
def sounding(clips_dir: Path) -> Callable[..., Path]:
    """Return a function that makes clips with a voice, each of them once."""
    made: dict[str, Path] = {}

    def make(codec: str, suffix: str, **options: Any) -> Path:
        key = f"{codec}{suffix}{sorted(options.items())}"
        if key not in made:
            chosen = {"frames": 60, "rate": RATE, "audio_source": sweep_source(*VOICE), **options}
            video = "libvpx-vp9" if suffix == ".webm" else "libx264"
            path = clips_dir / f"sounding{len(made)}{suffix}"
            made[key] = make_clip(path, codec=video, audio=codec, **chosen)
        return made[key]

    return make


@pytest.fixture(scope="session")
def music_clip(clips_dir: Path) -> Path:
    """A background of 37 frames at 30000/1001 fps with music: 1.2346 s."""
    return make_clip(
        clips_dir / "music.mov",
        frames=37,
        rate="30000/1001",
        audio="pcm_s16le",
        audio_source=sweep_source(*MUSIC),
    )


def write(
    path: Path,
    source: Path | VideoInfo,
    *,
    sound: str = "source",
    frames: tuple[int, int] | None = None,
    background: audio.BackgroundSound | None = None,
) -> Path:
    """Write grey frames with a clip's sound: all of it, or ``frames`` (first and count)."""
    info = source if isinstance(source, VideoInfo) else probe(source)
    assert info.frame_count is not None
    first, count = frames or (0, info.frame_count)
    rate = info.frame_rate
    window = audio.Window(info.start + first / rate, count / rate, frames is not None)
    sizes = info.format.plane_sizes(info.width, info.height)
    planes = tuple(np.full((count, *size), 100, np.uint8) for size in sizes)
    output = Output(
        path, "composite", encode.choose_codec(path, "composite", None), None, None, sound
    )
    with Sink(output, info, window, background) as sink:
        sink.write(planes)  # type: ignore[arg-type]
    facts = stream_facts(path)
    assert facts.frames == count
    assert facts.rate == rate
    return path


def packets(path: Path, track: int = 0) -> list[bytes]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[track]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def heard(path: Path, track: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a track's samples, mixed to one channel, and their times after the first frame."""
    samples, rate, start_s = decode_sound(path, track)
    times_s = float(start_s - stream_facts(path).start) + np.arange(samples.shape[1]) / rate
    return samples.mean(axis=0).astype(np.float64), times_s


def lateness(
    path: Path, signal: Signal, begin_s: float, end_s: float, track: int = 0
) -> tuple[float, float]:
    """Return by how many seconds a sound comes late, and how loud it is beside the signal."""
    samples, times_s = heard(path, track)
    part = (times_s >= begin_s) & (times_s < end_s)
    assert part.sum() > 0.9 * (end_s - begin_s) / np.diff(times_s[:2])[0]
    samples, times_s = samples[part], times_s[part]
    step_s = float(np.diff(times_s[:2])[0])
    reach = round(0.03 / step_s)
    wide = times_s[0] + np.arange(-reach, len(samples) + reach) * step_s
    size = 1 << (len(wide) + len(samples)).bit_length()
    spectrum = np.fft.rfft(signal(wide), size) * np.conj(np.fft.rfft(samples, size))
    products = np.fft.irfft(spectrum, size)[: 2 * reach + 1]
    best = int(np.argmax(products))
    reference = signal(times_s - (reach - best) * step_s)
    assert products[best] > 0
    return (reach - best) * step_s, float(products[best] / (reference**2).sum())


def tolerance_s(path: Path, source: Path | None = None) -> float:
    """Return what may separate sound and picture: a millisecond, and its rounding in Matroska."""
    allowed_s = 0.00101
    for file in (path, source):
        if file is not None and file.suffix in (".mkv", ".webm"):
            allowed_s += 0.0006
            allowed_s += OPUS_EARLY_S * (stream_facts(file).audio[0].codec == "opus")
    return allowed_s


def frame_s(path: Path) -> float:
    """Return how long a frame of the first track's codec lasts."""
    track = stream_facts(path).audio[0]
    return FRAME_SAMPLES.get(track.codec, 0) / track.sample_rate


# ---- The clip's own sound ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "suffix", "kept"),
    [
        ("aac", ".mp4", {".mp4", ".mov", ".mkv"}),
        ("libmp3lame", ".mp4", {".mp4", ".mov", ".mkv"}),
        ("ac3", ".mkv", {".mp4", ".mov", ".mkv"}),
        ("flac", ".mkv", {".mp4", ".mkv"}),
        ("libopus", ".mkv", {".mp4", ".mkv", ".webm"}),
        ("libvorbis", ".mkv", {".mkv", ".webm"}),
        ("pcm_s16le", ".mov", {".mov", ".mkv"}),
        ("pcm_mulaw", ".mov", set()),
    ],
)
def test_whole_tracks_are_copied_where_the_container_has_them(
    tmp_path: Path, sounding: Callable[..., Path], encoder: str, suffix: str, kept: set[str]
) -> None:
    options = {"audio_source": sweep_source(*VOICE, s=8000)} if encoder == "pcm_mulaw" else {}
    source = sounding(encoder, suffix, **options)
    original = stream_facts(source)
    for target in SUFFIXES:
        path = write(tmp_path / f"out{target}", source)
        facts = stream_facts(path)
        codec = facts.audio[0].codec
        if target in kept:
            assert packets(path) == packets(source)
        else:
            assert codec == ("opus" if target == ".webm" else "aac")
        late_s, level = lateness(path, voice, 0.1, 2.4)
        assert abs(late_s) <= tolerance_s(path, source), target
        assert level == pytest.approx(1, abs=0.08)
        gap_s = (facts.audio[0].end - facts.start) - (original.audio[0].end - original.start)
        assert abs(gap_s) <= frame_s(path) + 2 * OPUS_EARLY_S + 0.002


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("video_s", "audio_s"), [("0", "0.5"), ("0.5", "0"), ("0.51", "0.03")])
def test_late_sound_and_late_pictures_stay_in_step(
    tmp_path: Path, sounding: Callable[..., Path], suffix: str, video_s: str, audio_s: str
) -> None:
    source = sounding("aac", ".mp4", video_delay_s=video_s, audio_delay_s=audio_s, audio_s="2.5")
    lead_s = float(video_s) - float(audio_s)
    path = write(tmp_path / f"out{suffix}", source)
    late_s, _ = lateness(path, lambda t: voice(t + lead_s), 0.6, 1.9)
    assert abs(late_s) <= tolerance_s(path)
    end_s = float(stream_facts(path).audio[0].end - stream_facts(path).start)
    assert end_s == pytest.approx(2.5 - lead_s, abs=0.025 + OPUS_EARLY_S)
    # What is heard before the pictures is not cut off.
    assert heard(path)[1][0] <= heard(source)[1][0] + 0.002


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize(
    ("encoder", "container"),
    [
        ("aac", ".mp4"),
        ("libmp3lame", ".mkv"),
        ("libvorbis", ".mkv"),
        ("pcm_s16le", ".mov"),
        ("aac", ".ts"),
    ],
)
# 10.4 s into the file is beyond the run-up of a seek, and 8.3 s is amid a group of pictures.
@pytest.mark.parametrize("first", [24, 200, 250])
def test_cut_tracks_begin_with_their_frame(
    tmp_path: Path,
    sounding: Callable[..., Path],
    encoder: str,
    container: str,
    suffix: str,
    first: int,
) -> None:
    options = {"options": ("-g", "100"), "frames": 300}
    source = sounding(encoder, container, **options)
    info = probe(source)
    begin_s = float(first / info.frame_rate)
    path = write(tmp_path / f"out{suffix}", info, frames=(first, 40))
    late_s, level = lateness(path, lambda t: voice(t + begin_s), 0.05, 1.6)
    assert abs(late_s) <= tolerance_s(path)
    assert level == pytest.approx(1, abs=0.08)
    end_s = float(stream_facts(path).audio[0].end - stream_facts(path).start)
    assert end_s == pytest.approx(40 / info.frame_rate, abs=frame_s(path) + OPUS_EARLY_S)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_window_without_sound_is_silent(
    tmp_path: Path, sounding: Callable[..., Path], suffix: str
) -> None:
    source = sounding("aac", ".mp4", audio_s="1")
    samples, times_s = heard(write(tmp_path / f"a{suffix}", source, frames=(40, 15)))
    assert np.abs(samples).max() < 1e-3
    samples, times_s = heard(write(tmp_path / f"b{suffix}", source, frames=(12, 40)))
    assert np.abs(samples[(times_s > 0.1) & (times_s < 0.4)]).max() > 0.25
    assert np.abs(samples[times_s > 0.6]).max() < 0.01


def test_a_track_of_no_samples_is_no_obstacle(tmp_path: Path) -> None:
    source = tmp_path / "empty.mkv"
    inputs = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=0.4", "-f", "lavfi", "-i", "sine=d=1")
    filters = ("-af", "atrim=start=5", "-map", "0", "-map", "1")
    encoders = ("-c:v", "libx264", "-c:a", "libvorbis")
    try:
        run_ffmpeg(*inputs, *filters, *encoders, str(source))
    except AssertionError:
        pytest.skip("this FFmpeg writes no track without samples")
    info = probe(source)
    assert len(info.audio) == 1
    for suffix in SUFFIXES:
        write(tmp_path / f"out{suffix}", info)


@pytest.mark.parametrize("layout", ["5.1(side)", "5.1", "7.1", "mono"])
@pytest.mark.parametrize(("suffix", "codec"), [(".webm", "opus"), (".mp4", "aac")])
def test_surround_sound_keeps_its_channels(
    tmp_path: Path, sounding: Callable[..., Path], suffix: str, codec: str, layout: str
) -> None:
    source = sounding("pcm_s16le", ".mkv", audio_source=sweep_source(*VOICE, c=layout))
    path = write(tmp_path / f"out{suffix}", source)
    with av.open(str(path)) as container:
        context = container.streams.audio[0].codec_context
        assert context.name == codec
        # The side layout is that of AC-3 and DTS; both codecs have 5.1 with back channels.
        assert context.layout.name == layout.removesuffix("(side)")


# ---- Tracks, titles, subtitles, chapters -------------------------------------------------------

CHAPTERS = """;FFMETADATA1
title=My clip
[CHAPTER]
TIMEBASE=1/1000
START=0
END=900
title=One
[CHAPTER]
TIMEBASE=1/1000
START=900
END=2000
title=Two
[CHAPTER]
TIMEBASE=1/1000
START=2000
END=4000
title=Three
"""
SUBTITLES = """1
00:00:00,500 --> 00:00:00,800
First words

2
00:00:02,000 --> 00:00:02,500
Second words
"""


@pytest.fixture(scope="session")
def rich_clip(clips_dir: Path) -> Callable[[str], Path]:
    """Return a function that makes 4 s with two tracks, subtitles, chapters and titles."""
    made: dict[str, Path] = {}
    subtitle_codecs = {".mp4": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}

    def make(suffix: str) -> Path:
        if suffix in made:
            return made[suffix]
        (clips_dir / "chapters.txt").write_text(CHAPTERS)
        (clips_dir / "words.srt").write_text(SUBTITLES)
        path = clips_dir / f"rich{suffix}"
        video = ("libvpx-vp9", "-cpu-used", "8") if suffix == ".webm" else ("libx264",)
        sound = "libopus" if suffix == ".webm" else "aac"
        lavfi = ("-f", "lavfi", "-i")
        run_ffmpeg(
            *(*lavfi, "testsrc=s=64x48:r=25:d=4", *lavfi, f"{sweep_source(*VOICE)}:d=4"),
            *(*lavfi, f"{sweep_source(*MUSIC)}:d=4", "-i", str(clips_dir / "words.srt")),
            *("-i", str(clips_dir / "chapters.txt"), "-map", "0", "-map", "1", "-map", "2"),
            *("-map", "3", "-map_metadata", "4", "-map_chapters", "4", "-c:v", *video),
            *("-c:a", sound, "-c:s", subtitle_codecs[suffix]),
            *("-metadata:s:a:0", "language=eng", "-metadata:s:a:0", "title=Main"),
            *("-metadata:s:a:1", "language=fra", "-metadata:s:a:1", "title=Director"),
            *("-metadata:s:s:0", "language=ita", str(path)),
        )
        made[suffix] = path
        return path

    return make


def subtitles(path: Path) -> list[tuple[float, float, bytes]]:
    """Return (time after the first frame, duration, text) of what subtitles say."""
    start_s = stream_facts(path).start
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        return [
            (
                float(packet.pts * packet.time_base - start_s),
                float(packet.duration * packet.time_base),
                bytes(packet).removeprefix(struct.pack(">H", packet.size - 2)),
            )
            for packet in container.demux(stream)
            if packet.size > 2 and packet.pts is not None
        ]


def subtitle_codecs(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [track.codec_context.codec.canonical_name for track in container.streams.subtitles]


def languages(path: Path, kind: str) -> list[str | None]:
    with av.open(str(path)) as container:
        return [track.metadata.get("language") for track in getattr(container.streams, kind)]


def chapters(path: Path) -> list[tuple[str, float, float]]:
    """Return (title, start, end) of chapters that last, in seconds after the first frame."""
    start_s = float(stream_facts(path).start)
    with av.open(str(path)) as container:
        times = [
            (
                chapter["metadata"]["title"],
                float(chapter["start"] * chapter["time_base"]) - start_s,
                float(chapter["end"] * chapter["time_base"]) - start_s,
            )
            for chapter in container.chapters()
        ]
    return [chapter for chapter in times if chapter[2] - chapter[1] > 0.05]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("container", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("frames", [None, (25, 60)])
def test_everything_beside_the_pictures_is_kept(
    tmp_path: Path,
    rich_clip: Callable[[str], Path],
    container: str,
    suffix: str,
    frames: tuple[int, int] | None,
) -> None:
    source = rich_clip(container)
    path = write(tmp_path / f"out{suffix}", source, frames=frames)
    assert languages(path, "audio") == ["eng", "fra"]
    assert languages(path, "subtitles") == ["ita"]
    if container != ".mp4" and suffix in (".mkv", ".webm"):
        with av.open(str(path)) as opened:
            titles = [track.metadata["title"] for track in opened.streams.audio]
        assert titles == ["Main", "Director"]
    assert stream_facts(path).metadata["title"] == "My clip"
    begin_s = 0.0 if frames is None else 1.0
    for track, signal in ((0, voice), (1, music)):
        late_s, _ = lateness(path, lambda t, f=signal: f(t + begin_s), 0.1, 2.2, track)
        assert abs(late_s) <= tolerance_s(path, source)
    wanted = {".mp4": "mov_text", ".mov": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}[suffix]
    if (container, suffix) == (".webm", ".mkv"):
        wanted = "webvtt"  # Matroska carries it as it is
    assert subtitle_codecs(path) == [wanted]
    # Half a millisecond of Matroska's on either side, for each of the two files. Where sound has
    # a lead-in, FFmpeg 5 puts off all streams by that when it writes Matroska, but no chapters.
    near_s = 0.0021 + (0.022 if version() < 6 else 0)
    words = [
        (start_s - begin_s, length_s, text)
        for start_s, length_s, text in subtitles(source)
        if start_s > begin_s
    ]
    found = subtitles(path)
    assert [text for *_, text in found] == [b"First words", b"Second words"][frames is not None :]
    for (start_s, length_s, text), (wanted_s, wanted_length_s, wanted_text) in zip(
        found, words, strict=True
    ):
        assert text == wanted_text
        assert start_s == pytest.approx(wanted_s, abs=near_s)
        assert length_s == pytest.approx(wanted_length_s, abs=near_s)
    marks = [
        (title, start_s - begin_s, stop_s - begin_s)
        for title, start_s, stop_s in chapters(source)
        if stop_s > begin_s
    ]
    assert [title for title, *_ in marks] == ["One", "Two", "Three"][frames is not None :]
    for (title, start_s, stop_s), (wanted_title, wanted_s, wanted_stop_s) in zip(
        chapters(path), marks, strict=True
    ):
        assert title == wanted_title
        if title != marks[0][0]:  # the first begins with the file, whatever comes before it
            assert start_s == pytest.approx(wanted_s, abs=near_s)
        if frames is not None:
            wanted_stop_s = min(2.4, wanted_stop_s)
        assert stop_s == pytest.approx(wanted_stop_s, abs=near_s)


def pgs_subtitle() -> bytes:
    """Return a Blu-ray subtitle of 8 x 2 pixels, shown from 0.1 s to 0.3 s."""

    def segment(time_s: float, kind: int, payload: bytes) -> bytes:
        ticks = round(time_s * 90_000)
        return b"PG" + struct.pack(">IIBH", ticks, ticks, kind, len(payload)) + payload

    row = bytes([0, 0x88, 1, 0, 0])  # eight pixels of colour 1, end of line
    bitmap = struct.pack(">HH", 8, 2) + row * 2
    shown = struct.pack(">HHBHBBBB", 64, 48, 0x10, 0, 0x80, 0, 0, 1) + struct.pack(
        ">HBBHH", 0, 0, 0, 4, 4
    )
    cleared = struct.pack(">HHBHBBBB", 64, 48, 0x10, 1, 0, 0, 0, 0)
    window = struct.pack(">BBHHHH", 1, 0, 4, 4, 8, 2)
    palette = bytes([0, 0, 1, 235, 128, 128, 255])
    drawn = struct.pack(">HBB", 0, 0, 0xC0) + len(bitmap).to_bytes(3, "big") + bitmap
    parts = [(0x16, shown), (0x17, window), (0x14, palette), (0x15, drawn), (0x80, b"")]
    end = [(0x16, cleared), (0x17, window), (0x80, b"")]
    return b"".join(segment(0.1, kind, part) for kind, part in parts) + b"".join(
        segment(0.3, kind, part) for kind, part in end
    )


def test_subtitles_that_are_pictures_are_kept_or_left_out_with_a_word(
    tmp_path: Path, plain_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bitmaps = tmp_path / "subtitle.sup"
    bitmaps.write_bytes(pgs_subtitle())
    source = tmp_path / "source.mkv"
    run_ffmpeg(
        *("-i", str(plain_clip), "-i", str(bitmaps), "-map", "0:v", "-map", "1:s"),
        *("-c", "copy", str(source)),
    )
    kept = write(tmp_path / "kept.mkv", source)
    assert languages(kept, "subtitles") == [None]
    assert subtitle_codecs(kept) == ["hdmv_pgs_subtitle"]
    assert not caplog.records
    for suffix in (".mp4", ".webm"):
        with caplog.at_level(logging.WARNING):
            path = write(tmp_path / f"out{suffix}", source)
        assert subtitle_codecs(path) == []
        assert "subtitle track 1 (hdmv_pgs_subtitle) cannot be carried" in caplog.text
        caplog.clear()


def test_none_means_none(tmp_path: Path, rich_clip: Callable[[str], Path]) -> None:
    path = write(tmp_path / "out.mp4", rich_clip(".mp4"), sound="none")
    assert stream_facts(path).audio == ()
    assert len(chapters(path)) == 3


# ---- The background's sound --------------------------------------------------------------------


def turns(signal: Signal, period_s: float, start_s: float = 0.0) -> Signal:
    """Return a sound that begins again at ``start_s`` after each period."""
    return lambda t: np.where(t >= 0, signal(t % period_s + start_s), 0.0)


PERIOD_S = float(37 * Fraction(1001, 30000))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_background_sound_loops_with_its_pictures(
    tmp_path: Path, plain_long: Path, music_clip: Path, suffix: str
) -> None:
    behind = audio.BackgroundSound(probe(music_clip), Fraction(0), True)
    path = write(tmp_path / f"out{suffix}", plain_long, sound="bg", background=behind)
    looped = turns(music, PERIOD_S)
    for turn in range(4):
        begin_s = turn * PERIOD_S
        late_s, level = lateness(path, looped, begin_s + 0.04, begin_s + PERIOD_S - 0.04)
        assert abs(late_s) <= tolerance_s(path), turn
        assert level == pytest.approx(1, abs=0.08)
    track = stream_facts(path).audio[0]
    assert track.sample_rate == 48000
    assert float(track.end - stream_facts(path).start) == pytest.approx(5.005, abs=0.022)


@pytest.fixture(scope="session")
def plain_long(clips_dir: Path) -> Path:
    """5.005 s without sound."""
    return make_clip(clips_dir / "plain-long.mp4", frames=120, rate=RATE)


@pytest.fixture(scope="session")
def speaking(sounding: Callable[..., Path]) -> Path:
    """5.005 s with a voice."""
    return sounding("aac", ".mp4", frames=120)


def test_a_loop_of_any_length_does_not_drift(tmp_path: Path, clips_dir: Path) -> None:
    # 7 frames at 179/6 fps are 11262.57 samples: rounded, they would be off by 4 ms in a minute.
    backdrop = make_clip(
        clips_dir / "odd-period.mov",
        frames=7,
        rate="179/6",
        audio="pcm_s16le",
        audio_source=sweep_source(*MUSIC),
    )
    minute = make_clip(clips_dir / "minute.mp4", frames=120, rate="2")
    behind = audio.BackgroundSound(probe(backdrop), Fraction(0), True)
    path = write(tmp_path / "out.mkv", minute, sound="bg", background=behind)
    looped = turns(music, 42 / 179)
    for begin_s in (0.0, 30.0, 58.0):
        late_s, _ = lateness(path, looped, begin_s + 0.01, begin_s + 1.5)
        assert abs(late_s) <= 0.0011


def test_background_sound_begins_where_its_pictures_do(
    tmp_path: Path, plain_long: Path, music_clip: Path
) -> None:
    info = probe(music_clip)
    behind = audio.BackgroundSound(info, Fraction(1, 2), True)
    path = write(tmp_path / "loop.mp4", plain_long, sound="bg", background=behind)
    looped = turns(music, PERIOD_S - 0.5, 0.5)
    assert abs(lateness(path, looped, 0.02, 0.7)[0]) <= 0.001
    assert abs(lateness(path, looped, 4.0, 4.9)[0]) <= 0.001
    once = audio.BackgroundSound(info, Fraction(1, 2), False)
    path = write(tmp_path / "once.mp4", plain_long, sound="bg", background=once)
    assert abs(lateness(path, lambda t: music(t + 0.5), 0.02, 0.7)[0]) <= 0.001
    samples, times_s = heard(path)
    assert np.abs(samples[times_s > PERIOD_S - 0.5 + 0.05]).max(initial=0) < 1e-3


def test_background_sound_that_begins_late(tmp_path: Path, plain_long: Path) -> None:
    backdrop = make_clip(
        tmp_path / "late.mp4",
        frames=30,
        audio="aac",
        audio_source=sweep_source(*MUSIC),
        audio_delay_s="0.3",
        audio_s="0.8",
    )
    behind = audio.BackgroundSound(probe(backdrop), Fraction(0), True)
    path = write(tmp_path / "out.mp4", plain_long, sound="bg", background=behind)
    for turn in range(4):
        late_s, _ = lateness(
            path, turns(lambda t: music(t - 0.3), 1.2), turn * 1.2 + 0.35, turn * 1.2 + 1.0
        )
        assert abs(late_s) <= 0.0011
        samples, times_s = heard(path)
        quiet = (times_s > turn * 1.2 + 0.05) & (times_s < turn * 1.2 + 0.25)
        assert np.abs(samples[quiet]).max() < 0.02


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("frames", [None, (24, 60)])
def test_a_mix_is_the_sum_of_both(
    tmp_path: Path,
    speaking: Path,
    music_clip: Path,
    suffix: str,
    frames: tuple[int, int] | None,
) -> None:
    behind = audio.BackgroundSound(probe(music_clip), Fraction(0), True)
    path = write(tmp_path / f"out{suffix}", speaking, sound="mix", background=behind, frames=frames)
    begin_s = 0.0 if frames is None else 24 * 1.001 / 24
    end_s = 4.9 if frames is None else 2.4
    samples, times_s = heard(path)
    part = (times_s > 0.1) & (times_s < end_s)
    # Written by FFmpeg 5, Opus in WebM plays early by the same for both.
    early_s = lateness(path, turns(music, PERIOD_S), 0.1, end_s)[0]
    assert abs(early_s) <= tolerance_s(path)
    for signal in (lambda t: voice(t + begin_s), turns(music, PERIOD_S)):
        late_s, level = lateness(path, signal, 0.1, end_s)
        assert abs(late_s) <= tolerance_s(path)
        assert level == pytest.approx(1, abs=0.06)
    both = voice(times_s - early_s + begin_s) + turns(music, PERIOD_S)(times_s - early_s)
    noise = (samples - both)[part].std() / both[part].std()
    assert noise < 0.25


def test_a_mix_without_sound_of_the_clip_is_the_background(
    tmp_path: Path, plain_long: Path, music_clip: Path
) -> None:
    behind = audio.BackgroundSound(probe(music_clip), Fraction(0), True)
    path = write(tmp_path / "out.mp4", plain_long, sound="mix", background=behind)
    late_s, level = lateness(path, turns(music, PERIOD_S), 0.1, 4.9)
    assert abs(late_s) <= 0.001
    assert level == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(("video_s", "audio_s"), [("0.5", "0"), ("0", "0.5")])
def test_a_mix_with_one_that_begins_late(
    tmp_path: Path,
    sounding: Callable[..., Path],
    music_clip: Path,
    video_s: str,
    audio_s: str,
) -> None:
    source = sounding("aac", ".mp4", frames=120, video_delay_s=video_s, audio_delay_s=audio_s)
    behind = audio.BackgroundSound(probe(music_clip), Fraction(0), True)
    path = write(tmp_path / "out.mp4", source, sound="mix", background=behind)
    lead_s = float(video_s) - float(audio_s)
    assert abs(lateness(path, lambda t: voice(t + lead_s), 0.6, 4.4)[0]) <= 0.0011
    assert abs(lateness(path, turns(music, PERIOD_S), 0.1, 4.9)[0]) <= 0.0011


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6)])
def test_a_mix_has_the_wider_layout_of_both(
    tmp_path: Path,
    sounding: Callable[..., Path],
    music_clip: Path,
    layout: str,
    channels: int,
) -> None:
    source = sounding(
        "aac", ".mp4", audio_source=sweep_source(*VOICE, s=44100, c=layout), frames=60
    )
    behind = audio.BackgroundSound(probe(music_clip), Fraction(0), True)
    path = write(tmp_path / "out.mp4", source, sound="mix", background=behind)
    assert stream_facts(path).audio[0].channels == channels
    samples, rate, _ = decode_sound(path)
    times_s = np.arange(samples.shape[1]) / rate
    part = (times_s > 0.2) & (times_s < 2.2)
    # lavfi gives the sweep to the first channel alone.
    share = (samples[0] * voice(times_s))[part].sum() / (voice(times_s)[part] ** 2).sum()
    assert share == pytest.approx(1, abs=0.1)


def test_a_mix_has_the_layout_of_a_wider_background(
    tmp_path: Path, speaking: Path, clips_dir: Path
) -> None:
    backdrop = make_clip(
        clips_dir / "wide.mov",
        frames=10,
        audio="pcm_s16le",
        audio_source=sweep_source(*MUSIC, c="stereo"),
    )
    behind = audio.BackgroundSound(probe(backdrop), Fraction(0), True)
    path = write(tmp_path / "out.mp4", speaking, sound="mix", background=behind)
    assert stream_facts(path).audio[0].channels == 2


def test_a_mix_keeps_the_other_tracks(
    tmp_path: Path, rich_clip: Callable[[str], Path], music_clip: Path
) -> None:
    behind = audio.BackgroundSound(probe(music_clip), Fraction(0), True)
    source = rich_clip(".mp4")
    path = write(tmp_path / "out.mkv", source, sound="mix", background=behind)
    assert languages(path, "audio") == ["eng", "fra"]
    assert packets(path, 1) == packets(source, 1)
    assert abs(lateness(path, voice, 0.1, 3.9)[0]) <= 0.0016
