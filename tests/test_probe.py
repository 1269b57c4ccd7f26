"""What probing says of a file, and how it refuses what is no clip."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import has_encoder, make_clip, noise_planes, pack_planes, run_ffmpeg, stream_facts
from PIL import Image

from vidbg.errors import DecodeError, InputError, VidbgError
from vidbg.frames import Colour
from vidbg.media.decode import FrameReader
from vidbg.media.probe import check_readable, probe


def picture(size: tuple[int, int] = (15, 10), mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4)).astype(np.uint8)
    return Image.fromarray(noise).convert(mode)


def assert_one_line(error: VidbgError, path: Path) -> None:
    """The message is one line that begins with the file's name."""
    assert error.path == path
    assert "\n" not in error.message
    assert str(error).startswith(f"{path}: ")


# --- what a clip is ----------------------------------------------------------------------------


def test_a_plain_clip(talking_clip: Path) -> None:
    info = probe(talking_clip)
    assert info.path == talking_clip
    assert (info.width, info.height, info.sar, info.rotation) == (64, 48, 1, 0)
    assert (info.frame_rate, info.frame_count, info.duration) == (25, 50, 2)
    assert (info.codec, info.source_pix_fmt, info.format.pix_fmt) == ("h264", "yuv420p", "yuv420p")
    assert "mov" in info.container.split(",")
    assert {info.is_vfr, info.is_interlaced, info.is_image, info.has_alpha} == {False}
    assert {info.missing_frames, info.repeated_frames, info.dropped_frames} == {0}
    assert info.start == 0
    (track,) = info.audio
    assert (track.codec, track.sample_rate, track.channels) == ("aac", 48000, 1)
    assert abs(track.start) < Fraction(1, 20)
    assert track.duration is not None
    assert abs(track.duration - 2) < Fraction(1, 20)
    assert not info.subtitles
    assert not info.has_chapters


@pytest.mark.parametrize(
    ("colour_range", "matrix", "primaries", "transfer"),
    [
        ("tv", "bt709", "bt709", "bt709"),
        ("tv", "smpte170m", "smpte170m", "smpte170m"),
        ("tv", "bt2020nc", "bt2020", "smpte2084"),
        ("tv", "bt2020nc", "bt2020", "arib-std-b67"),
        ("pc", "bt470bg", "bt470bg", "iec61966-2-1"),
        (None, None, None, None),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_colour_tags_are_read_as_the_file_states_them(
    colour_range: str | None,
    matrix: str | None,
    primaries: str | None,
    transfer: str | None,
    suffix: str,
    tmp_path: Path,
) -> None:
    path = make_clip(
        tmp_path / f"clip{suffix}",
        frames=1,
        codec="libx264",
        colour_range=colour_range,
        matrix=matrix,
        primaries=primaries,
        transfer=transfer,
    )
    colour = probe(path).colour
    if colour_range is None:  # newer muxers state what everybody assumes
        assert colour in (Colour(), Colour(range="tv"))
    else:
        assert colour == Colour(colour_range, str(matrix), str(primaries), str(transfer))


def test_rgb_has_the_matrix_of_rgb(tmp_path: Path) -> None:
    colour = probe(make_clip(tmp_path / "clip.mkv", frames=1, pix_fmt="gbrp")).colour
    assert (colour.range, colour.matrix) == ("pc", "gbr")


@pytest.mark.parametrize("sar", ["4/3", "16/15", "1/2"])
def test_sample_aspect_ratio(sar: str, tmp_path: Path) -> None:
    assert probe(make_clip(tmp_path / "clip.mp4", frames=1, sar=sar)).sar == Fraction(sar)


@pytest.mark.parametrize(
    ("codec", "location"), [("mpeg1video", "center"), ("mpeg2video", "left"), ("libx264", "left")]
)
def test_chroma_location_is_the_codecs(codec: str, location: str, tmp_path: Path) -> None:
    info = probe(make_clip(tmp_path / "clip.mkv", frames=1, codec=codec))
    # FFmpeg says so since version 6; MPEG-1's is not to be known before.
    assert info.format.chroma_location in (location, "left")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_picture_that_starts_late(suffix: str, tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / f"clip{suffix}", codec="libx264", frames=25, video_delay_s="1/2", audio="aac"
    )
    info = probe(path)
    # AAC begins up to a frame of 1/47 s before the sound that was encoded.
    assert abs(info.start - Fraction(1, 2)) < Fraction(1, 40)
    assert abs(info.start - info.audio[0].start - Fraction(1, 2)) < Fraction(1, 40)
    assert info.frame_count == stream_facts(path).frames == 25


def test_sound_that_starts_late(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", frames=25, audio="pcm_s16le", audio_delay_s="1/2")
    info = probe(path)
    assert info.start == 0
    assert info.audio[0].start == Fraction(1, 2)


def test_the_middle_of_jitter_is_where_the_first_frame_belongs(tmp_path: Path) -> None:
    """The first frame is shown 0.7 of a frame early: sound follows the others."""
    durations = ["68/1000", *["1/25"] * 19]
    info = probe(make_clip(tmp_path / "clip.mp4", frames=20, durations=durations))
    assert (info.is_vfr, info.frame_count, info.start) == (False, 20, Fraction(28, 1000))


def test_attached_pictures_are_not_the_video(tmp_path: Path, plain_clip: Path) -> None:
    cover = tmp_path / "cover.png"
    picture().save(cover)
    path = tmp_path / "clip.mp4"
    inputs = ("-i", str(cover), "-i", str(plain_clip))
    maps = ("-map", "0", "-map", "1", "-c:v:0", "png", "-c:v:1", "copy")
    run_ffmpeg(*inputs, *maps, "-disposition:v:0", "attached_pic", str(path))
    info = probe(path)
    assert (info.codec, info.width, info.frame_count) == ("h264", 64, 10)


def test_subtitles_and_chapters_are_noticed(tmp_path: Path, plain_clip: Path) -> None:
    words, chapters = tmp_path / "words.srt", tmp_path / "chapters.txt"
    words.write_text("1\n00:00:00,000 --> 00:00:00,300\nHello\n")
    chapters.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=200\ntitle=A\n")
    path = tmp_path / "clip.mkv"
    inputs = ("-i", str(plain_clip), "-i", str(words), "-i", str(chapters))
    run_ffmpeg(*inputs, "-map", "0", "-map", "1", "-map_metadata", "2", "-c", "copy", str(path))
    info = probe(path)
    (track,) = info.subtitles
    assert track.is_text
    assert track.codec in ("subrip", "srt")
    assert info.has_chapters


def test_a_single_frame_is_a_clip_of_one(tmp_path: Path) -> None:
    info = probe(make_clip(tmp_path / "clip.mp4", frames=1, rate="30"))
    assert (info.frame_rate, info.frame_count, info.is_image) == (30, 1, False)
    assert info.duration == Fraction(1, 30)


def test_av1_goes_by_its_own_name(tmp_path: Path) -> None:
    if not has_encoder("libsvtav1"):
        pytest.skip("this FFmpeg has no libsvtav1")
    path = make_clip(tmp_path / "clip.mp4", size=(96, 72), frames=2, codec="libsvtav1")
    assert probe(path).codec == "av1"


# --- pictures ----------------------------------------------------------------------------------

AWKWARD_NAMES = [
    *("a%03d.png", "%d.png", "a*.png", "a[0-9]?.png", "with space.png", "it's.png", 'q"q.png'),
    *("new\nline.png", "tab\there.png", "-dash.png", "ünïcødé 日本.png", "http:.png", "x:y.png"),
    *("$HOME.png", "a,b;c=d.png", "back\\slash.png", "#1.png", "no suffix", "wrong.jpg"),
    *("pipe:0.png", "concat:a|b.png", "UPPER.PNG"),
]


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_names_are_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for other in ("a000.png", "a001.png", "0.png", "1.png", "ab.png", "a1b.png"):
        picture(mode="L").save(tmp_path / other)  # what the name would mean as a pattern
    made = picture()
    made.save(tmp_path / name, "PNG")
    for path in (tmp_path / name, Path(name)):
        info = probe(path)
        assert (info.is_image, info.frame_count) == (True, 1)
        (batch,) = FrameReader(info)
        green, blue, red = (plane[0] for plane in batch.planes)
        np.testing.assert_array_equal(np.stack([red, green, blue], -1), np.asarray(made))


@pytest.mark.parametrize("name", ["-dash.mp4", "a%03d.mp4", "new\nline.mkv", 'it\'s [1]: "x".mp4'])
def test_names_of_clips_are_names(
    name: str, tmp_path: Path, plain_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(plain_clip, tmp_path / name)
    info = probe(Path(name))
    assert sum(len(batch) for batch in FrameReader(info, batch_size=4)) == 10


@pytest.mark.parametrize(
    ("suffix", "mode", "pix_fmt", "has_alpha"),
    [
        (".png", "RGB", "gbrp", False),
        (".png", "RGBA", "gbrp", True),
        (".png", "L", "yuv420p", False),
        (".png", "LA", "yuv420p", True),
        (".png", "P", "gbrp", True),
        (".png", "1", "yuv420p", False),
        (".bmp", "RGB", "gbrp", False),
        (".tif", "RGB", "gbrp", False),
        (".tga", "RGB", "gbrp", False),
        (".jpg", "RGB", "yuv420p", False),
        (".jpg", "L", "yuv420p", False),
    ],
)
def test_pictures_are_pictures(
    suffix: str, mode: str, pix_fmt: str, has_alpha: bool, tmp_path: Path
) -> None:
    path = tmp_path / f"picture{suffix}"
    picture(mode=mode).save(path)
    info = probe(path)
    assert (info.is_image, info.frame_count) == (True, 1)
    assert (info.width, info.height) == (15, 10)
    assert (info.format.pix_fmt, info.has_alpha) == (pix_fmt, has_alpha)
    assert info.colour.range == "pc"


def test_moving_pictures_are_clips_whatever_their_name(tmp_path: Path, plain_clip: Path) -> None:
    """Content decides: APNG is a clip under PNG's name, and so is an MP4."""
    moving = tmp_path / "moving.png"
    others = [picture().rotate(180)]
    picture().save(moving, save_all=True, append_images=others, duration=100)
    info = probe(moving)
    assert (info.is_image, info.frame_count, info.frame_rate) == (False, 2, 10)
    named = shutil.copy(plain_clip, tmp_path / "clip.png")
    assert not probe(Path(named)).is_image


def test_a_heif_picture_of_tiles_is_refused(tmp_path: Path, plain_clip: Path) -> None:
    path = tmp_path / "tiles.heic"
    inputs = ("-i", str(plain_clip), "-i", str(plain_clip))
    run_ffmpeg(*inputs, "-map", "0", "-map", "1", "-c", "copy", "-f", "mp4", str(path))
    path.write_bytes(path.read_bytes().replace(b"ftypisom", b"ftypheic", 1))
    with pytest.raises(InputError, match="tiles") as caught:
        probe(path)
    assert caught.value.hint == "Convert it to PNG or JPEG"


# --- what is no clip ---------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        probe(tmp_path / "none.mp4")
    assert_one_line(caught.value, tmp_path / "none.mp4")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        probe(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="not a regular file"):
        probe(tmp_path / "pipe.mp4")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_file_that_may_not_be_read(tmp_path: Path, plain_clip: Path) -> None:
    path = Path(shutil.copy(plain_clip, tmp_path / "clip.mp4"))
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        check_readable(path)


def test_a_name_that_is_not_unicode(tmp_path: Path, plain_clip: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    try:
        shutil.copy(plain_clip, path)
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    assert probe(path).frame_count == 10


TEXT = b"Not a video, but a good deal of text.\n" * 40
JUNK = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8).tobytes()
M3U8 = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nplain.mp4\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "the file is empty"),
        ("text.mp4", TEXT, "not a video"),
        ("text.txt", TEXT, "not a video"),
        ("read.nfo", TEXT, "a text file, not a video"),
        ("page.html", b"<html></html>" * 20, "not a video"),
        ("words.srt", b"1\n00:00:00,000 --> 00:00:01,000\nhi\n", "no video stream"),
        ("junk.mp4", JUNK, "not a video"),
        ("junk.bin", JUNK, "not a video"),
        ("list.m3u8", M3U8, "a playlist"),
        ("list.mp4", M3U8, "a playlist"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile 'plain.mp4'\n", "a playlist"),
        ("list.txt", b"ffconcat version 1.0\nfile plain.mp4\n", "a playlist"),
    ],
)
def test_files_that_are_no_video(
    name: str, content: bytes, message: str, tmp_path: Path, plain_clip: Path
) -> None:
    shutil.copy(plain_clip, tmp_path / "plain.mp4")  # what playlists would open
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        probe(path)
    assert_one_line(caught.value, path)


@pytest.mark.parametrize("name", ["sound.m4a", "sound.mp3", "sound.wav", "sound.mp4"])
def test_sound_alone(name: str, tmp_path: Path) -> None:
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", str(tmp_path / name))
    with pytest.raises(InputError, match="sound but no video"):
        probe(tmp_path / name)


def test_sound_with_a_cover(tmp_path: Path) -> None:
    cover, path = tmp_path / "cover.png", tmp_path / "sound.mp3"
    picture().save(cover)
    inputs = ("-f", "lavfi", "-i", "sine=duration=1", "-i", str(cover))
    run_ffmpeg(*inputs, "-map", "0", "-map", "1", "-disposition:v", "attached_pic", str(path))
    with pytest.raises(InputError, match="sound but no video"):
        probe(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_mp4_without_its_index(share: float, tmp_path: Path) -> None:
    """FFmpeg writes the index at the end: what is cut short has none."""
    path = make_clip(tmp_path / "clip.mp4")
    content = path.read_bytes()
    path.write_bytes(content[: int(content.index(b"moov") * share)])
    with pytest.raises(InputError, match="not a video that FFmpeg can read") as caught:
        probe(path)
    assert "cut short" in (caught.value.hint or "")
    assert_one_line(caught.value, path)


def test_an_mp4_with_an_index_and_nothing_else(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", options=("-movflags", "+faststart"))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4])
    with pytest.raises(VidbgError) as caught:
        probe(path)
    assert_one_line(caught.value, path)


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg"])
def test_a_picture_cut_short(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    picture((60, 40)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(VidbgError) as caught:
        probe(path)
    assert_one_line(caught.value, path)


def test_text_under_a_pictures_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(TEXT)
    with pytest.raises(DecodeError, match="first frame cannot be decoded") as caught:
        probe(path)
    assert_one_line(caught.value, path)


def test_frames_of_one_moment(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", frames=3, filters=("setpts=0",))
    with pytest.raises(InputError, match="same time stamp"):
        probe(path)


def test_a_clip_without_sound_that_lost_its_end(tmp_path: Path) -> None:
    """Sound that goes on says how long the picture should have."""
    path = make_clip(
        tmp_path / "clip.mkv",
        frames=50,
        raw=pack_planes(noise_planes("yuv420p", (64, 48), 50)),
        audio="pcm_s16le",
    )
    assert probe(path).missing_frames == 0
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert 15 < probe(path).missing_frames < 35
