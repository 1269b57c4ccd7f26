"""What the soak works on: clips that it makes itself, and what has to come of each kind of job.

The clips spell the number of each frame in blocks, the subject's grey on a green screen. Keyed,
the number stands in the composite's brightness, in the matte and in the alpha alike, and so says
of every frame of a result which one of the clip it was made of, whatever came between.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidbg.media import ffmpeg as ff

SAMPLES = Path(__file__).resolve().parent.parent / "samples"

# Two whole segments of a job with --resume, and a short one.
LONG = 620
MIDDLE = 320
BRIEF = 40
_SIZE = (96, 64)
_PERSON_SIZE = (160, 90)
_ACROSS, _DOWN = 4, 3
# Y, Cb and Cr of the subject and of the screen behind it, BT.601.
_GREY, _GREEN = (200, 128, 128), (150, 60, 40)
_TICKS = 90_000
_X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p")
_CREATED_S = 120.0


@dataclass(frozen=True)
class Wanted:
    """What is known of a result before it is made, from how its clip was made.

    Attributes:
        name: The file, or the folder of numbered pictures, in the folder of results.
        frames: How many.
        rate: Frames a second, exactly; None for pictures.
        sound_s: Seconds of sound, or None for none.
        first: The number that its first frame shows, or None if it shows none.
        source_frames: How many numbers it shows in all, fewer than frames where a clip of uneven
            frames was made even; None for as many as frames.
        is_clear: The numbers are in its alpha, not in its brightness.
        turned: Quarter turns by which it has to be turned back to be read, counter-clockwise.
    """

    name: str
    frames: int
    rate: Fraction | None
    sound_s: Fraction | None = None
    first: int | None = None
    source_frames: int | None = None
    is_clear: bool = False
    turned: int = 0


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    Attributes:
        name: What the table calls it.
        sources: Names of clips: of one, or of those of a folder.
        options: What stands on the command line after the source.
        outputs: Pairs of an option and a name in the folder of results. For a folder of clips
            the name is empty: it is the folder itself.
        results: What is there in the end, and nothing else.
        is_resumable: It goes on after what was finished; others begin anew.
        is_folder: The source is a folder of clips.
        is_watched: The clips arrive one by one, and Ctrl-C ends it.
        is_piped: The clip comes through standard input.
    """

    name: str
    sources: tuple[str, ...]
    options: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    results: tuple[Wanted, ...]
    is_resumable: bool = True
    is_folder: bool = False
    is_watched: bool = False
    is_piped: bool = False


# ---- Clips -------------------------------------------------------------------------------------


def numbered(frames: int) -> bytes:
    """Return raw yuv420p frames that spell their numbers, low bit first, in 4 x 3 blocks."""
    width, height = _SIZE
    bit = (np.arange(height) * _DOWN // height)[:, None] * _ACROSS
    bit = bit + np.arange(width) * _ACROSS // width
    is_set = (np.arange(frames)[:, None, None] >> bit) & 1 == 1
    planes = [
        np.where(is_set[:, ::step, ::step], subject, screen).astype(np.uint8).reshape(frames, -1)
        for step, subject, screen in zip((1, 2, 2), _GREY, _GREEN, strict=True)
    ]
    return np.concatenate(planes, axis=1).tobytes()


def number_in(plane: NDArray[np.float32], turned: int = 0) -> int:
    """Return the number that a picture spells.

    Args:
        plane: Brightness, matte or alpha, ``(H, W)`` float32 in 0..1.
        is_clear: The numbers are in its alpha, not in its brightness.
        turned: Quarter turns to turn it by first, counter-clockwise.
    """
    plane = np.rot90(plane, turned)
    height, width = plane.shape
    rows = (2 * np.arange(_DOWN) + 1) * height // (2 * _DOWN)
    columns = (2 * np.arange(_ACROSS) + 1) * width // (2 * _ACROSS)
    # The middle of a block: its edges ring.
    is_set = plane[np.ix_(rows, columns)].ravel() > 0.5
    return int(is_set @ (1 << np.arange(_DOWN * _ACROSS)))


def _made(arguments: list[str], path: Path, feed: bytes | None = None) -> None:
    done = ff.run(
        ["-nostdin", "-y", *arguments, f"file:{path}"][feed is not None :],
        feed=feed,
        timeout_s=_CREATED_S,
    )
    if done.returncode:
        raise RuntimeError(f"{path.name} cannot be made: {done.cause()}")


def _counted(
    path: Path,
    *,
    frames: int,
    rate: str = "25",
    sound: str | None = "aac",
    options: tuple[str, ...] = _X264,
    seconds: Fraction | None = None,
) -> None:
    """Write a clip of numbered frames, with a tone as long as the picture."""
    width, height = _SIZE
    raw = f"-f rawvideo -pix_fmt yuv420p -s {width}x{height} -framerate {rate} -i pipe:0"
    arguments = raw.split()
    if sound is not None:
        length_s = seconds or frames / Fraction(rate)
        tone = f"sine=frequency=440:sample_rate=48000:duration={float(length_s):.6f}"
        arguments += ["-f", "lavfi", "-i", tone, "-map", "0:v", "-map", "1:a", "-c:a", sound]
    _made([*arguments, "-fps_mode", "passthrough", *options], path, feed=numbered(frames))


# Shown for 1/30 s, then 1/10, then 1/30 again, as a telephone does in the dark.
_UNEVEN = ((310, Fraction(1, 30)), (100, Fraction(1, 10)), (210, Fraction(1, 30)))


def _telephone(path: Path) -> None:
    """Write an upright clip of uneven frames, stored on its side."""
    (first, short), (middle, long), _ = _UNEVEN
    a, b = int(short * _TICKS), int(long * _TICKS)
    pts = (
        f"if(lt(N,{first}),N*{a},if(lt(N,{first + middle}),{first * a}+(N-{first})*{b},"
        f"{first * a + middle * b}+(N-{first + middle})*{a}))"
    )
    _counted(
        path,
        frames=sum(count for count, _ in _UNEVEN),
        rate="30",
        seconds=_telephone_s(),
        options=(
            *("-vf", f"settb=1/{_TICKS},setpts='{pts}'", "-enc_time_base", f"1:{_TICKS}"),
            *("-video_track_timescale", str(_TICKS), *_X264),
        ),
    )
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # of a track header of version 0
    content[matrix : matrix + 16] = struct.pack(">4i", 0, 1 << 16, 0, -1 << 16)
    content[matrix + 16 : matrix + 20] = struct.pack(">i", 0)
    path.write_bytes(content)


def _telephone_s() -> Fraction:
    return sum((count * each for count, each in _UNEVEN), Fraction(0))


def _pictures(folder: Path) -> None:
    folder.mkdir()
    _counted(folder / "%05d.png", frames=MIDDLE, sound=None, options=("-pix_fmt", "rgb24"))


def _cut_out(path: Path) -> None:
    """Write a clip with an alpha of its own: the blocks, keyed by FFmpeg."""
    keyed = ("-vf", "colorkey=0x1CE000:0.25:0,format=argb", "-c:v", "qtrle")
    _counted(path, frames=MIDDLE, sound=None, options=keyed)


def _looped(name: str, options: tuple[str, ...], path: Path) -> None:
    """Write a sample over and over again, small, with a tone if the options map it."""
    width, height = _PERSON_SIZE
    _made(
        [
            *("-stream_loop", "-1", "-i", f"file:{SAMPLES / name}"),
            *("-f", "lavfi", "-t", f"{MIDDLE / 30:.6f}", "-i", "sine=sample_rate=48000"),
            # The sample's sound is longer than its picture, and would leave a gap at each turn.
            *("-vf", f"setpts=N/30/TB,scale={width}:{height}", "-frames:v", str(MIDDLE)),
            *("-map", "0:v", *options),
        ],
        path,
    )


def _night(path: Path) -> None:
    """Write a background that moves, is dark enough for numbers to be read before it, and hums."""
    picture = "gradients=c0=0x101830:c1=0x302050:seed=1:size=80x60:rate=10"
    tone = "sine=frequency=110:sample_rate=44100"
    _made(
        [
            *("-f", "lavfi", "-t", "5", "-i", picture, "-f", "lavfi", "-t", "5", "-i", tone),
            *(*_X264, "-c:a", "aac"),
        ],
        path,
    )


_FILM = ("-c:v", "ffv1", "-pix_fmt", "yuv420p10le")
_WEB = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "2M")

CLIPS: dict[str, Callable[[Path], None]] = {
    "talking.mp4": partial(_counted, frames=LONG),
    "film.mkv": partial(_counted, frames=LONG, rate="24000/1001", sound="flac", options=_FILM),
    "telephone.mp4": _telephone,
    "web.webm": partial(_counted, frames=LONG, rate="30", sound="libopus", options=_WEB),
    "old.avi": partial(
        _counted, frames=MIDDLE, rate="15", sound=None, options=("-c:v", "mpeg4", "-q:v", "2")
    ),
    "pictures": _pictures,
    "cut-out.mov": _cut_out,
    "night.mp4": _night,
    "person.mp4": partial(_looped, "talk.mp4", (*_X264, "-map", "1:a", "-c:a", "aac")),
    "person.matte.mkv": partial(_looped, "talk.alpha.mkv", ("-c:v", "ffv1")),
    "brief.mp4": partial(_counted, frames=BRIEF),
    "photo.png": lambda path: _counted(
        path, frames=1, sound=None, options=("-update", "1", "-f", "image2")
    ),
}


def make_clip(name: str, folder: Path) -> Path:
    """Return a clip of that name in a folder, made if it is not there.

    Raises:
        RuntimeError: FFmpeg cannot make it.
    """
    path = folder / name
    if not path.exists():
        CLIPS[name](path)
    return path


# ---- Kinds -------------------------------------------------------------------------------------

_KEYED = ("--model", "chroma")
_RED = ("--bg", "red", *_KEYED)
_NIGHT = ("--bg", "night.mp4", *_KEYED)
_CINEMA = Fraction(24000, 1001)


def _counted_result(name: str, frames: int, rate: Fraction | int, **others: object) -> Wanted:
    rate = Fraction(rate)
    fields: dict[str, object] = {"sound_s": frames / rate, "first": 0, **others}
    return Wanted(name, frames, rate, **fields)  # type: ignore[arg-type]


def _single(
    name: str, source: str, options: tuple[str, ...], *results: Wanted, **others: bool
) -> Kind:
    """Return a job of one clip; further results are those of --alpha-out and --matte-out."""
    named = {"alpha": "--alpha-out", "matte": "--matte-out"}
    outputs = [("-o", results[0].name)]
    outputs += [(named[result.name.partition(".")[0]], result.name) for result in results[1:]]
    return Kind(name, (source,), options, tuple(outputs), results, **others)


_TELEPHONE = _counted_result(
    "out.mp4",
    int(_telephone_s() * 30),
    30,
    source_frames=sum(count for count, _ in _UNEVEN),
    turned=1,
)
_PERSON = Wanted("out.mp4", MIDDLE, Fraction(30), Fraction(MIDDLE, 30))
_RESULTS_OF_FOLDER = (
    _counted_result("talking.vidbg.mp4", LONG, 25),
    _counted_result("web.vidbg.mp4", LONG, 30),
    _counted_result("old.vidbg.mp4", MIDDLE, 15, sound_s=None),
    _counted_result("brief.vidbg.mp4", BRIEF, 25),
)
_CLIPS_OF_FOLDER = ("talking.mp4", "web.webm", "old.avi", "brief.mp4")

KINDS: tuple[Kind, ...] = (
    _single("composite", "talking.mp4", _RED, _counted_result("out.mp4", LONG, 25)),
    _single(
        "10 bits, both sounds",
        "film.mkv",
        (*_NIGHT, "--audio", "mix", "--codec", "hevc", "--preset", "ultrafast"),
        _counted_result("out.mkv", LONG, _CINEMA),
    ),
    _single("VFR, turned", "telephone.mp4", _RED, _TELEPHONE),
    _single("matte", "talking.mp4", ("--matte", *_KEYED), _counted_result("out.mkv", LONG, 25)),
    _single("ProRes alpha", "web.webm", ("--alpha", *_KEYED),
        _counted_result("out.mov", LONG, 30, is_clear=True)),
    _single(
        # The number is in the alpha, which is a second stream that only libvpx decodes.
        "WebM alpha",
        "talking.mp4",
        ("--alpha", *_KEYED),
        _counted_result("out.webm", LONG, 25, first=None),
    ),
    _single(
        "three outputs",
        "talking.mp4",
        _NIGHT,
        _counted_result("out.mp4", LONG, 25),
        _counted_result("alpha.mov", LONG, 25, is_clear=True),
        _counted_result("matte.mkv", LONG, 25),
    ),
    _single(
        "trim, smoothed",
        "talking.mp4",
        (*_RED, "--start", "2", "--end", "22", "--smooth", "0.6", "--edges", "fast"),
        _counted_result("out.mp4", 500, 25, first=None),
    ),
    _single(
        "pictures",
        "pictures",
        ("--bg", "#204060", *_KEYED, "--in-fps", "24"),
        _counted_result("out.mp4", MIDDLE, 24, sound_s=None),
    ),
    _single("own alpha", "cut-out.mov", ("--alpha", *_KEYED),
        _counted_result("out.mkv", MIDDLE, 25, sound_s=None, is_clear=True)),
    _single("silent, WebM", "old.avi", _RED,
        _counted_result("out.webm", MIDDLE, 15, sound_s=None)),
    _single("AV1", "talking.mp4", (*_RED, "--codec", "av1", "--preset", "12", "--crf", "20"),
        _counted_result("out.mp4", LONG, 25)),
    _single("network", "person.mp4", ("--bg", "#204060", "--every", "8"), _PERSON),
    _single(
        "ready mattes",
        "person.mp4",
        ("--bg", str(SAMPLES / "stars.mp4"), "--matte-in", "person.matte.mkv"),
        _PERSON,
    ),
    _single("numbered PNG", "brief.mp4", ("--alpha", *_KEYED),
        Wanted("frames", BRIEF, None, first=0, is_clear=True), is_resumable=False),
    _single("ZIP", "brief.mp4", ("--matte", *_KEYED),
        Wanted("out.zip", BRIEF, None), is_resumable=False),
    _single("GIF", "brief.mp4", _RED,
        Wanted("out.gif", BRIEF, Fraction(25), first=0), is_resumable=False),
    _single("half the rate", "brief.mp4", (*_RED, "--fps", "12.5", "--scale", "48x-1"),
        Wanted("out.mp4", BRIEF // 2, Fraction(25, 2), Fraction(BRIEF, 25)), is_resumable=False),
    _single("photograph", "photo.png", _RED, Wanted("out.png", 1, None, first=0),
        is_resumable=False),
    _single("pipe", "brief.mp4", _RED, _counted_result("out.mp4", BRIEF, 25),
        is_resumable=False, is_piped=True),
    Kind("folder", _CLIPS_OF_FOLDER, (*_RED, "--jobs", "2"), (("-o", ""),), _RESULTS_OF_FOLDER,
        is_folder=True),
    Kind("watched folder", _CLIPS_OF_FOLDER, (*_RED, "--watch"), (("-o", ""),),
        _RESULTS_OF_FOLDER, is_folder=True, is_watched=True),
)  # fmt: skip
