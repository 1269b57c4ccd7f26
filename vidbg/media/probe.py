"""What a clip is: headers and packet time stamps by PyAV, the first frame by FFmpeg."""

from __future__ import annotations

import logging
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidbg.errors import DecodeError, InputError
from vidbg.frames import AudioStream, Colour, SubtitleStream, VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media import formats, timing
from vidbg.media.source import source_input

if TYPE_CHECKING:
    from av.container import InputContainer

logger = logging.getLogger(__name__)

# Demuxers that open other files, named inside the one that was given.
_PLAYLISTS = frozenset(
    {
        "hls",
        "concat",
        "dash",
        "imf",
        "webm_dash_manifest",
        "sdp",
        "rtsp",
        "lavfi",
    }
)
_TEXT_SUBTITLES = frozenset(
    {
        "subrip",
        "srt",
        "ass",
        "ssa",
        "webvtt",
        "mov_text",
        "text",
    }
)
# ISO/IEC 23091-2 (H.273) code points, in FFmpeg's names.
_MATRICES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    14: "ictcp",
}
_PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "jedec-p22",
}
_TRANSFERS = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
_RANGES = {1: "tv", 2: "pc"}
_MICROSECOND = Fraction(1, 1_000_000)


def probe(path: Path) -> VideoInfo:
    """Return what a clip is.

    Reads headers and all packet headers, and decodes the first frame.

    Args:
        path: A video or image file.

    Raises:
        InputError: The file is missing, unreadable, empty, a playlist, or holds no video.
        DecodeError: Its first frame cannot be decoded.
    """
    check_readable(path)
    with _opened(path) as container:
        return _probe_container(path, container)


def check_readable(path: Path) -> None:
    """Raise :class:`InputError` unless ``path`` is a file that can be read and is not empty."""
    try:
        if not path.exists():
            raise InputError("no such file", path=path)
        if path.is_dir():
            raise InputError("is a directory, not a video", path=path)
        with path.open("rb") as stream:
            if not stream.read(1):
                raise InputError("the file is empty", path=path)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", path=path) from error


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    import av

    # A whitelist of protocols, and no pattern matching in names: "a%03d.png" is one file.
    options = {"protocol_whitelist": "file", "pattern_type": "none"}
    try:
        container = av.open(ff.file_url(path), options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"not a video that FFmpeg can read ({cause.lower()})",
            path=path,
            hint="If it was copied or downloaded, it may be cut short",
        ) from error
    with container:
        if set(container.format.name.split(",")) & _PLAYLISTS:
            raise InputError("a playlist that points at other files, not a video", path=path)
        yield container


@dataclass(slots=True)
class _Packets:
    """What the packet headers of one pass over the file say. Times in ticks."""

    stamps: array[int] = field(default_factory=lambda: array("q"))
    last_duration: int = 0
    last_stamp: int | None = None
    last_end_s: Fraction = Fraction(0)
    discarded: int = 0


def _probe_container(path: Path, container: InputContainer) -> VideoInfo:
    stream: Any = _video_stream(path, container)
    packets = _read_packets(container, stream)
    if not packets.stamps:
        raise InputError("the video stream has no frames", path=path)
    names = set(container.format.name.split(","))
    is_image = container.format.name == "image2" or any(name.endswith("_pipe") for name in names)
    is_image = is_image or path.suffix.lower() in formats.IMAGE_SUFFIXES
    stamps = packets.stamps.tolist()
    stamps.sort()
    shown = _first_frame(path, stream.index, is_image, _vpx_alpha(stream))
    rotation = _exif_rotation(path) if is_image else shown.rotation
    turned = rotation % 180 != 0
    plane_format, has_alpha = formats.working_format(
        shown.pix_fmt, turned=turned, chroma_location=shown.chroma_location
    )
    width, height, sar = shown.width, shown.height, shown.sar
    if is_image and turned:
        width, height, sar = height, width, 1 / sar

    time_base = Fraction(stream.time_base or _MICROSECOND)
    stated = [_fraction(stream.base_rate), _fraction(stream.average_rate)]
    rate = timing.regular_rate(stamps, time_base, stated)
    is_vfr = rate is None
    frame_s = packets.last_duration * time_base
    duration = Fraction(0)
    count: int | None = len(stamps)
    repeated = dropped = 0
    if rate is None:
        rate = timing.snap_rate(timing.typical_rate(stamps, time_base)) if _spread(stamps) else None
        if rate is None:
            raise InputError("all frames carry the same time stamp", path=path)
        span = (stamps[-1] - stamps[0]) * time_base
        duration = span + (frame_s or 1 / rate)
        count = timing.resampled_count(duration, rate)
        repeated, dropped = timing.repeats_and_drops(stamps, time_base, rate, count)
    else:
        duration = len(stamps) / rate
    start = max(Fraction(0), stamps[0] * time_base - (container.start_time or 0) * _MICROSECOND)
    return VideoInfo(
        path=path,
        container=container.format.name,
        codec=stream.codec_context.name,
        stream_index=stream.index,
        width=width,
        height=height,
        rotation=rotation,
        sar=sar,
        frame_rate=rate,
        time_base=time_base,
        start=start,
        duration=duration,
        source_pix_fmt=shown.pix_fmt,
        format=plane_format,
        has_alpha=has_alpha,
        colour=_colour(stream, shown, plane_format.is_rgb),
        is_vfr=is_vfr,
        is_interlaced=shown.is_interlaced or _field_order_is_interlaced(stream),
        is_image=is_image,
        frame_count=count,
        missing_frames=_missing_frames(container, stream, packets, rate),
        repeated_frames=repeated,
        dropped_frames=dropped,
        audio=tuple(
            AudioStream(
                index=track.index,
                codec=track.codec_context.name,
                sample_rate=track.codec_context.sample_rate,
                channels=track.codec_context.channels,
                start=_start_s(track, container),
                duration=None
                if track.duration is None
                else track.duration * Fraction(track.time_base or 0),
            )
            for track in container.streams.audio
            if track.codec_context is not None and track.codec_context.sample_rate
        ),
        subtitles=tuple(
            SubtitleStream(track.index, name, name in _TEXT_SUBTITLES)
            for track in container.streams.subtitles
            if (name := track.codec_context.name if track.codec_context else "")
        ),
        has_chapters=bool(container.chapters()),
    )


def _video_stream(path: Path, container: InputContainer) -> Any:
    import av

    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    usable = [s for s in streams if s.codec_context is not None]
    if not usable:
        if streams:
            raise InputError("its video codec is unknown to FFmpeg", path=path)
        what = "sound but no video" if container.streams.audio else "no video stream"
        raise InputError(f"the file has {what}", path=path)
    best = container.streams.best("video")
    return best if best in usable else usable[0]


def _read_packets(container: InputContainer, stream: Any) -> _Packets:
    """Collect the video stream's time stamps and the end of the longest stream."""
    import av

    found = _Packets()
    unstamped = 0
    try:
        for packet in container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and packet.time_base is not None:
                end_s = (stamp + (packet.duration or 0)) * Fraction(packet.time_base)
                found.last_end_s = max(found.last_end_s, end_s)
            if packet.stream_index != stream.index or not packet.size:
                continue
            if packet.is_discard:  # cut by an edit list: decoded, never shown
                found.discarded += 1
                continue
            if stamp is None:
                unstamped += 1
                continue
            found.stamps.append(stamp)
            if found.last_stamp is None or stamp >= found.last_stamp:
                found.last_stamp = stamp
                found.last_duration = packet.duration or 0
    except (av.FFmpegError, OSError) as error:
        # What can be read so far is what there is; missing_frames tells how much is not.
        logger.debug("%s: demuxing stopped: %s", stream, error)
    if not found.stamps and unstamped:  # raw streams carry no times: one frame after another
        found.stamps.extend(range(unstamped))
    return found


def _missing_frames(
    container: InputContainer, stream: Any, packets: _Packets, rate: Fraction
) -> int:
    """Return how many frames the headers promise beyond the packets that are there."""
    present = len(packets.stamps)
    if "mov" in container.format.name.split(","):
        # The index, not the header's frame count: edit lists cut frames from it rightly.
        return max(0, len(stream.index_entries) - present - packets.discarded)
    if {"matroska", "avi"} & set(container.format.name.split(",")) and container.duration:
        end_s = (container.duration + (container.start_time or 0)) * _MICROSECOND
        lost_s = end_s - packets.last_end_s
        if lost_s > max(Fraction(1, 2), 3 / rate):
            return max(1, int(lost_s * rate))
    return 0


@dataclass(frozen=True, slots=True)
class _Shown:
    """The first frame as FFmpeg decodes it, rotated."""

    width: int
    height: int
    sar: Fraction
    pix_fmt: str
    is_interlaced: bool
    chroma_location: str | None
    range: str
    matrix: str
    rotation: int


def _first_frame(path: Path, stream_index: int, is_image: bool, decoder: str | None) -> _Shown:
    """Decode one frame with FFmpeg and read its properties from the showinfo filter."""
    source = source_input(path, is_image=is_image, decoder=decoder)
    node = source[str(stream_index)].filter("showinfo", checksum=0)
    arguments = node.output("pipe:", format="null", **{"frames:v": 1}).get_args()
    ran = ff.run(["-nostdin", *_info_level(arguments)])
    text = "\n".join(line for line in ran.lines if "showinfo" in line)
    frame = re.search(r"fmt:(\w+)(?: cl:(\w+))? sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(\w)", text)
    if frame is None:
        raise DecodeError(
            f"its first frame cannot be decoded ({ran.cause()})",
            path=path,
            returncode=ran.returncode,
            stderr_tail=ran.lines[-20:],
        )
    colour = re.search(r"color_range:(\w+) color_space:([\w-]+)", text)
    matrix = re.search(r"displaymatrix: rotation of (-?[\d.]+) degrees", "\n".join(ran.lines))
    numerator, denominator = int(frame[3]), int(frame[4])
    location = frame[2]
    return _Shown(
        width=int(frame[5]),
        height=int(frame[6]),
        sar=Fraction(numerator, denominator) if numerator and denominator else Fraction(1),
        pix_fmt=frame[1],
        is_interlaced=frame[7] in "TB",
        chroma_location=location if location in ("left", "center", "topleft") else None,
        range=colour[1] if colour else "unknown",
        matrix=colour[2] if colour else "unknown",
        # The matrix says counter-clockwise; what has to be done to the picture is clockwise.
        rotation=0 if matrix is None else round(-float(matrix[1]) / 90) * 90 % 360,
    )


def _info_level(arguments: list[str]) -> list[str]:
    """Add the log level at which FFmpeg describes streams and showinfo speaks."""
    return ["-v", "level+info", *arguments]


def _vpx_alpha(stream: Any) -> str | None:
    """FFmpeg's own VP8 and VP9 decoders drop alpha; libvpx's keep it."""
    if stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) != "1":
        return None
    return {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)


def _exif_rotation(path: Path) -> int:
    """Return the clockwise degrees that a photograph's EXIF orientation asks for.

    Mirrored orientations (2, 4, 5, 7) come from no camera and are taken as they are stored.
    """
    from PIL import Image

    try:
        with Image.open(path) as photograph:
            orientation = photograph.getexif().get(0x0112, 1)
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError):
        return 0
    return {3: 180, 6: 90, 8: 270}.get(orientation, 0)


def _colour(stream: Any, shown: _Shown, is_rgb: bool) -> Colour:
    context = stream.codec_context
    full = shown.pix_fmt.startswith("yuvj")
    stated_range = _RANGES.get(int(context.color_range or 0), shown.range)
    matrix = _MATRICES.get(int(context.colorspace), shown.matrix)
    if is_rgb:
        matrix, full = "gbr", True
    elif matrix == "gbr":
        matrix = "unknown"
    return Colour(
        range="pc" if full else stated_range if stated_range in ("tv", "pc") else "unknown",
        matrix=matrix if matrix != "unspecified" else "unknown",
        primaries=_PRIMARIES.get(int(context.color_primaries or 0), "unknown"),
        transfer=_TRANSFERS.get(int(context.color_trc or 0), "unknown"),
    )


def _field_order_is_interlaced(stream: Any) -> bool:
    order = getattr(stream.codec_context, "field_order", 0)
    return int(order) > 1  # AV_FIELD_UNKNOWN 0, PROGRESSIVE 1, then TT, BB, TB, BT


def _start_s(track: Any, container: InputContainer) -> Fraction:
    """Return when a track starts, in seconds after the file's own beginning."""
    if track.start_time is None or track.time_base is None:
        return Fraction(0)
    return Fraction(track.start_time * track.time_base) - (
        (container.start_time or 0) * _MICROSECOND
    )


def _fraction(rate: Any) -> Fraction | None:
    return None if not rate else Fraction(rate)


def _spread(stamps: list[int]) -> bool:
    return stamps[-1] > stamps[0]
