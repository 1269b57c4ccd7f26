"""What a clip is: headers and packet time stamps by PyAV, the first frame by FFmpeg."""

from __future__ import annotations

import logging
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from vidbg.errors import DecodeError, InputError
from vidbg.frames import (
    MAX_PIXELS,
    AudioStream,
    Colour,
    Mastering,
    PictureSequence,
    SubtitleStream,
    VideoInfo,
)
from vidbg.media import ffmpeg as ff
from vidbg.media import formats, timing
from vidbg.media.inputs import PLAYLIST_HEAD
from vidbg.media.sequence import DEFAULT_RATE, find_sequence
from vidbg.media.source import (
    DECODED_TRANSFERS,
    STREAMED,
    alpha_decoder,
    exif_orientation,
    exif_rotation,
    is_picture_format,
    size_error,
    source_input,
    stored_limit,
    too_large,
)

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
# Known before FFmpeg is let near it, for it would open the files.
_PLAYLIST_HEADS = (PLAYLIST_HEAD, b"ffconcat version")
# DASH (ISO/IEC 23009-1) and IMF (SMPTE ST 2067-3) are playlists in XML. No video is a text like it.
_XML_PLAYLIST = re.compile(rb"<(?:\w+:)?(?:MPD|CompositionPlaylist|AssetMap)\b")
_HEAD_BYTES = 4096
# Demuxers that paint the characters of a text file on a screen of their own.
_TEXT_ART = frozenset({"tty", "bin", "xbin", "adf", "idf"})
# HEIF pictures (ISO/IEC 23008-12) come in the same boxes as MP4.
_HEIF_BRANDS = frozenset({"heic", "heix", "heim", "heis", "mif1", "avif"})
# Where time stamps may jump because recordings were joined; FFmpeg closes the gap then.
_JOINED = frozenset({"mpegts", "mpeg"})
_FRAMES_LOOKED_AT = 4
# As many frames as any codec stores ahead of one that is shown before them.
_REORDERED = 17
_JUMP_AHEAD_S, _JUMP_BACK_S = 10, Fraction(1, 10)
# A screen may stand still for most of a lesson. Beyond, it is the time stamps that are broken, and
# a few bytes would be made into months of video.
_LONGEST_FRAME_S = 3600
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


def probe(
    path: str | Path, rate: Fraction | None = None, *, max_pixels: int = MAX_PIXELS
) -> VideoInfo:
    """Return what a clip is.

    Reads headers and all packet headers, and decodes the first frame.

    Args:
        path: A video or image file; or a directory or printf pattern of numbered pictures.
        rate: Frames per second of numbered pictures; None for 25. Of no effect on files.
        max_pixels: The most pixels that a frame of it may have.

    Raises:
        InputError: The file is missing, unreadable, empty, a playlist, or holds no video; its
            frames have too many pixels; or pictures are not one sequence. One that lacks
            pictures is no error here.
        DecodeError: Its first frame cannot be decoded.
    """
    path = Path(path)
    sequence = find_sequence(path)
    if sequence is not None:
        return _probe_sequence(path, sequence, rate or DEFAULT_RATE, max_pixels)
    check_readable(path)
    with _opened(path, max_pixels) as container:
        return _probe_container(path, container, max_pixels)


def _probe_sequence(
    path: Path, sequence: PictureSequence, rate: Fraction, max_pixels: int
) -> VideoInfo:
    """Return what a picture sequence is: what its first picture is, many times."""
    first = sequence.path_of(sequence.first)
    check_readable(first)
    with _opened(first, max_pixels) as container:
        picture = _probe_container(first, container, max_pixels)
    if not picture.is_image:
        raise InputError("not a picture", path=first)
    count = sequence.last - sequence.first + 1
    return replace(
        picture,
        path=path,
        container="image2",
        frame_rate=rate,
        time_base=1 / rate,
        start=Fraction(0),
        duration=count / rate,
        is_image=False,
        frame_count=count,
        missing_frames=sequence.missing,
        repeated_frames=sequence.missing,
        dropped_frames=0,
        sequence=sequence,
    )


def check_readable(path: Path) -> None:
    """Raise :class:`InputError` unless ``path`` is a file that can be read and is not empty."""
    try:
        if not path.exists():
            raise InputError("no such file", path=path)
        if path.is_dir():
            raise InputError("is a directory, not a video", path=path)
        if not path.is_file():  # it is read more than once, and waiting for a pipe may never end
            raise InputError("not a regular file", path=path, hint="Save it to a file first")
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", path=path) from error
    if not head:
        raise InputError("the file is empty", path=path)
    if head.startswith(_PLAYLIST_HEADS) or (_is_markup(head) and _XML_PLAYLIST.search(head)):
        raise _playlist_error(path, head)
    if _is_markup(head):
        raise InputError("a text in angle brackets (XML, HTML, SVG), not a video", path=path)


def _is_markup(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def _playlist_error(path: Path, head: bytes = b"") -> InputError:
    return InputError(
        "a playlist that points at other files, not a video",
        path=path,
        hint="--allow-playlists joins the files of one INPUT, or of SRC"
        if head.startswith(PLAYLIST_HEAD)
        else None,
    )


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[InputContainer]:
    import av

    # A whitelist of protocols, and no pattern matching in names: "a%03d.png" is one file.
    # FFmpeg looks at a frame where headers leave something open, in this very process.
    options = {
        "protocol_whitelist": "file",
        "pattern_type": "none",
        "max_pixels": str(stored_limit(max_pixels)),
    }
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"not a video that FFmpeg can read ({cause.lower()})",
            path=path,
            hint="If it was copied or downloaded, it may be cut short",
        ) from error
    with container:
        if set(container.format.name.split(",")) & _PLAYLISTS:
            raise _playlist_error(path)
        if container.format.name in _TEXT_ART:
            raise InputError("a text file, not a video", path=path)
        yield container


@dataclass(slots=True)
class _Packets:
    """What the packet headers of one pass over the file say. Times in ticks.

    Attributes:
        stamps: When each frame is shown, in ascending order once all are read.
        are_shown_times: The stamps say so themselves, and are not times of decoding.
        last_duration: How long the last frame is shown; 0 where that is not stated.
        end_s: Where the last frame ends, in seconds.
        last_end_s: Where the longest stream of the file ends, in seconds.
        discarded: Frames that an edit list cuts off: decoded, never shown.
        has_jumps: Packets of a transport stream are lost, or come from another recording.
    """

    stamps: array[int] = field(default_factory=lambda: array("q"))
    are_shown_times: bool = True
    last_duration: int = 0
    end_s: Fraction = Fraction(0)
    last_end_s: Fraction = Fraction(0)
    discarded: int = 0
    has_jumps: bool = False


@dataclass(frozen=True, slots=True)
class _Timing:
    """When frames appear: fields of :class:`VideoInfo`, ``start`` on the packets' clock."""

    frame_rate: Fraction
    start: Fraction
    duration: Fraction
    is_vfr: bool
    frame_count: int
    repeated_frames: int = 0
    dropped_frames: int = 0


def _probe_container(path: Path, container: InputContainer, max_pixels: int) -> VideoInfo:
    stream: Any = _video_stream(path, container)
    packets = _read_packets(container, stream)
    if not packets.stamps:
        raise InputError("the video stream has no frames", path=path)
    is_picture = is_picture_format(container.format.name)
    has_alpha_beside = stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) == "1"
    codec = stream.codec_context.codec.canonical_name
    shown = _first_frame(
        path,
        stream.index,
        # The two fields of an H.264 frame may come in a packet each; only decoding tells.
        count=_FRAMES_LOOKED_AT if codec == "h264" else 1,
        container=container.format.name,
        is_picture=is_picture,
        decoder=alpha_decoder(codec) if has_alpha_beside else None,
        max_pixels=max_pixels,
    )
    rotation = exif_rotation(exif_orientation(path)) if is_picture else shown.rotation
    turned = rotation % 180 != 0
    try:
        plane_format, has_alpha = formats.working_format(
            shown.pix_fmt, rotation=rotation, chroma_location=shown.chroma_location
        )
    except ValueError as error:
        raise InputError(f"its pixel format {shown.pix_fmt} is not supported", path=path) from error
    if codec in DECODED_TRANSFERS and not plane_format.is_rgb:
        what = "linear light of one component, which FFmpeg does not convert rightly"
        raise InputError(what, path=path, hint="Convert it to 16-bit PNG or TIFF")
    width, height, sar = shown.width, shown.height, shown.sar
    if is_picture and turned:
        width, height, sar = height, width, 1 / sar
    time_base = Fraction(stream.time_base or _MICROSECOND)
    times = _timing(path, container, stream, packets, shown)
    # FFmpeg subtracts the file's start in whole ticks.
    start = times.start - round(shown.file_start_s / time_base) * time_base
    return VideoInfo(
        path=path,
        container=container.format.name,
        codec=codec,
        stream_index=stream.index,
        width=width,
        height=height,
        rotation=rotation,
        sar=sar,
        frame_rate=times.frame_rate,
        time_base=time_base,
        start=max(Fraction(0), start),
        duration=times.duration,
        source_pix_fmt=shown.pix_fmt,
        format=plane_format,
        has_alpha=has_alpha,
        colour=_colour(stream, shown, plane_format.is_rgb),
        is_vfr=times.is_vfr,
        is_interlaced=shown.is_interlaced or _field_order_is_interlaced(stream),
        is_image=is_picture or (_is_heif(container) and times.frame_count == 1),
        frame_count=times.frame_count,
        missing_frames=_missing_frames(container, stream, packets, times),
        repeated_frames=times.repeated_frames,
        dropped_frames=times.dropped_frames,
        audio=tuple(
            AudioStream(
                index=track.index,
                codec=track.codec_context.codec.canonical_name,
                sample_rate=track.codec_context.sample_rate,
                channels=track.codec_context.channels,
                start=_start_s(track, shown.file_start_s),
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
            if (name := track.codec_context.codec.canonical_name if track.codec_context else "")
        ),
        has_chapters=bool(container.chapters()),
        mastering=shown.mastering,
        timecode=_timecode(container),
        max_pixels=max_pixels,
    )


def _timecode(container: InputContainer) -> str:
    """Return the first time code that the file states, or "" for none."""
    stated = [container.metadata, *(stream.metadata for stream in container.streams)]
    for tags in stated:
        for name, value in tags.items():
            if name.lower() == "timecode" and timing.is_timecode(value):
                return value
    return ""


def _timing(
    path: Path, container: InputContainer, stream: Any, packets: _Packets, shown: _Shown
) -> _Timing:
    """Return the clip's rate, beginning and length."""
    time_base = Fraction(stream.time_base or _MICROSECOND)
    stamps = packets.stamps.tolist()
    first_s = stamps[0] * time_base
    if packets.are_shown_times and "avi" not in container.format.name.split(","):
        # A recording may begin with frames that lack those they refer to.
        decodable = [stamp for stamp in stamps if stamp * time_base >= shown.time_s]
        lost = len(stamps) - len(decodable) if decodable else 0
        if lost and not STREAMED & set(container.format.name.split(",")):
            logger.warning(
                "%s: begins with %s that cannot be decoded, and is taken to begin after that",
                path,
                "a frame" if lost == 1 else f"{lost} frames",
            )
        stamps = decodable or stamps
        first_s = stamps[0] * time_base
    else:
        first_s = shown.time_s
    _check_stamps(path, stamps, time_base)
    if shown.is_interlaced and shown.gap_s is not None:
        stamps = timing.join_fields(stamps, shown.gap_s / time_base)
    stated = [_fraction(stream.base_rate), _fraction(stream.average_rate)]
    rate = timing.regular_rate(stamps, time_base, stated)
    if rate is not None:
        shift_s = timing.grid_start(stamps, time_base, rate) - stamps[0] * time_base
        return _Timing(rate, first_s + shift_s, len(stamps) / rate, False, len(stamps))
    if stamps[0] == stamps[-1]:
        raise InputError("all frames carry the same time stamp", path=path)
    rate = timing.resampling_rate(stamps, time_base, stated[0])
    last_s = packets.last_duration * time_base or 1 / rate
    duration = (stamps[-1] - stamps[0]) * time_base + last_s
    count = timing.resampled_count(duration, rate)
    repeated, dropped = timing.repeats_and_drops(stamps, time_base, rate, count)
    return _Timing(rate, first_s, duration, True, count, repeated, dropped)


def _check_stamps(path: Path, stamps: Sequence[int], time_base: Fraction) -> None:
    """Refuse time stamps that no clip can have.

    Args:
        path: The clip.
        stamps: When its frames appear, in ascending order, in ticks.
        time_base: Seconds per tick.

    Raises:
        InputError: They are broken.
    """
    gaps = [after - before for before, after in pairwise(stamps)]
    longest_s = max(gaps, default=0) * time_base
    if longest_s > _LONGEST_FRAME_S:
        raise InputError(
            f"its time stamps are broken: two frames after each other are "
            f"{float(longest_s / 3600):.3g} hours apart",
            path=path,
        )
    # Two packets of one moment can be the fields of a frame; more cannot, unless they come faster
    # than the clock ticks: 4,000 frames a second in Matroska, which counts milliseconds.
    moments = len(stamps) - gaps.count(0)
    if 1 < moments < len(stamps) / 2 and sum(gaps) >= moments:
        raise InputError(
            f"its time stamps are broken: {len(stamps)} frames come at {moments} moments",
            path=path,
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
    if _is_heif(container) and len(usable) > 1:
        raise InputError(
            "a picture made of tiles, of which FFmpeg would show one",
            path=path,
            hint="Convert it to PNG or JPEG",
        )
    best = container.streams.best("video")
    return best if best in usable else usable[0]


def _is_heif(container: InputContainer) -> bool:
    return container.metadata.get("major_brand") in _HEIF_BRANDS


def _read_packets(container: InputContainer, stream: Any) -> _Packets:
    """Collect the video stream's time stamps and the end of the longest stream."""
    import av

    names = set(container.format.name.split(","))
    found = _Packets()
    unstamped: list[int] = []
    last_stamp: int | None = None
    offset = 0
    next_dts: int | None = None
    try:
        for packet in container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and packet.time_base is not None:
                end_s = (stamp + (packet.duration or 0)) * Fraction(packet.time_base)
                found.last_end_s = max(found.last_end_s, end_s)
            if packet.stream_index != stream.index or not packet.size:
                continue
            if packet.is_discard:
                found.discarded += 1
                continue
            if packet.is_corrupt:
                found.has_jumps = True
                if not names & _JOINED:  # the file ends in the middle of it
                    continue
            if stamp is None:
                unstamped.append(packet.duration or 1)
                continue
            if packet.dts is not None and packet.time_base is not None and names & _JOINED:
                if next_dts is not None:
                    offset += _join(packet.dts + offset - next_dts, Fraction(packet.time_base))
                next_dts = packet.dts + offset + (packet.duration or 0)
            found.are_shown_times &= packet.pts is not None
            found.stamps.append(stamp + offset)
            if last_stamp is None or stamp + offset >= last_stamp:
                last_stamp = stamp + offset
                found.last_duration = packet.duration or 0
                found.end_s = (last_stamp + found.last_duration) * Fraction(packet.time_base or 0)
    except (av.FFmpegError, OSError) as error:
        # What can be read so far is what there is; missing_frames tells how much is not.
        logger.debug("%s: demuxing stopped: %s", stream, error)
    if unstamped and not found.stamps:  # raw streams carry no times: one frame after another
        found.are_shown_times = False
        found.stamps.extend(accumulate(unstamped[:-1], initial=0))
    found.stamps = array("q", sorted(found.stamps))
    return found


def _join(jump: int, time_base: Fraction) -> int:
    """Return what to add to time stamps after a jump of the clock by so many ticks: often 0."""
    jump_s = jump * time_base
    return 0 if -_JUMP_BACK_S <= jump_s <= _JUMP_AHEAD_S else -jump


def _missing_frames(
    container: InputContainer, stream: Any, packets: _Packets, times: _Timing
) -> int:
    """Return how many frames the file promises beyond the packets that are there."""
    names = set(container.format.name.split(","))
    if "mov" in names:
        # The index, not the header's frame count: edit lists cut frames from it rightly.
        return max(0, len(stream.index_entries) - len(packets.stamps) - packets.discarded)
    if "mpegts" in names:
        # Packets carry a count: where it jumps at a hole in time, the frames there are lost.
        return times.repeated_frames if packets.has_jumps else 0
    lost_s = Fraction(0)
    if "matroska" in names and container.duration:
        # Some programs count the length from time 0, FFmpeg among them, and others from the first
        # frame on. Where it may be either it is the former, which asks for less.
        end_s = container.duration * _MICROSECOND
        start_s = (container.start_time or 0) * _MICROSECOND
        lost_s = end_s + (start_s if end_s <= start_s else 0) - packets.last_end_s
    elif "avi" in names:  # which counts time in frames
        lost_s = stream.frames * Fraction(stream.time_base) - packets.end_s
    rate = times.frame_rate
    if lost_s <= max(Fraction(1, 2), 3 / rate):
        return 0
    # The last frames that are there may lack some between them, which were stored later.
    last = packets.stamps[-_REORDERED:]
    span_s = packets.end_s - last[0] * Fraction(stream.time_base)
    return max(1, round(lost_s * rate) + max(0, round(span_s * rate) - len(last)))


@dataclass(frozen=True, slots=True)
class _Shown:
    """The first frame as FFmpeg decodes it, rotated.

    ``time_s`` is when it appears and ``file_start_s`` when the file's earliest stream begins,
    both on the packets' clock, in seconds. ``gap_s`` is the usual time to the next frame, where
    several were decoded.
    """

    width: int
    height: int
    sar: Fraction
    pix_fmt: str
    is_interlaced: bool
    chroma_location: str | None
    range: str
    matrix: str
    rotation: int
    time_s: Fraction
    gap_s: Fraction | None
    file_start_s: Fraction
    mastering: Mastering | None


def _first_frame(
    path: Path,
    stream_index: int,
    *,
    count: int,
    container: str,
    is_picture: bool,
    decoder: str | None,
    max_pixels: int,
) -> _Shown:
    """Decode ``count`` frames with FFmpeg and read properties from the showinfo filter."""
    source = source_input(
        path,
        container=container,
        picture=container if is_picture else None,
        decoder=decoder,
        max_pixels=max_pixels,
    )
    node = source[str(stream_index)].filter("showinfo", checksum=0)
    arguments = node.output("pipe:", format="null", **{"frames:v": count}).get_args()
    # At level info FFmpeg describes streams, and showinfo speaks.
    ran = ff.run(["-nostdin", "-v", "level+info", "-copyts", *arguments])
    text = "\n".join(line for line in ran.lines if "showinfo" in line)
    ticks = re.search(r"config in time_base: (\d+)/(\d+)", text)
    frame = re.search(
        r" pts:.*? fmt:(\w+)(?: cl:(\w+))? sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(\w)",
        text,
    )
    times = [int(pts) for pts in re.findall(r" pts: *(-?\d+) ", text)]
    if frame is None or ticks is None:
        error = size_error(path, ran.lines, max_pixels)
        if error is not None:
            raise error
        raise DecodeError(
            f"its first frame cannot be decoded ({ran.cause()})",
            path=path,
            returncode=ran.returncode,
            stderr_tail=ran.lines[-20:],
        )
    colour = re.search(r"color_range:(\w+) color_space:([\w-]+)", text)
    described = "\n".join(ran.lines)
    start = re.search(r"Duration: .*?, start: (-?[\d.]+)", described)
    # What FFmpeg says of this stream, up to what it says of the next.
    ours = re.search(rf"Stream #0:{stream_index}\b.*?(?=Stream #|\Z)", described, re.DOTALL)
    matrix = re.search(r"(?i)display ?matrix: rotation of (-?[\d.]+)", ours[0] if ours else "")
    pix_fmt, location, sar_num, sar_den, width, height, fields = frame.groups()
    if int(width) * int(height) > max_pixels:
        raise too_large(path, int(width), int(height), max_pixels)
    tick_s = Fraction(int(ticks[1]), int(ticks[2]))
    gaps = [b - a for a, b in pairwise(times) if b > a]
    sar = Fraction(int(sar_num), int(sar_den)) if int(sar_num) and int(sar_den) else Fraction(1)
    return _Shown(
        width=int(width),
        height=int(height),
        sar=sar,
        pix_fmt=pix_fmt,
        is_interlaced=fields in "TB",
        chroma_location=location if location in ("left", "center", "topleft") else None,
        range=colour[1] if colour else "unknown",
        matrix=colour[2] if colour else "unknown",
        # The matrix says counter-clockwise; what has to be done to the picture is clockwise.
        rotation=0 if matrix is None else round(-float(matrix[1]) / 90) * 90 % 360,
        time_s=times[0] * tick_s if times else Fraction(0),
        gap_s=median_low(gaps) * tick_s if gaps else None,
        file_start_s=Fraction(start[1]) if start else Fraction(0),
        mastering=_mastering(text),
    )


def _mastering(text: str) -> Mastering | None:
    """Return what showinfo says of the display that a clip was graded on; None if it is not all.

    Args:
        text: Its lines, of any of FFmpeg's versions.
    """
    shown = re.search(
        r"(?i)mastering display.*has_primaries:1 has_luminance:1 "
        + "".join(rf"{name}\((\d\.\d+),? ?(\d\.\d+)\) " for name in ("r", "g", "b", "wp"))
        + r"min_luminance=(\d+\.\d+), max_luminance=(\d+\.\d+)",
        text,
    )
    if shown is None:
        return None
    levels = re.search(r"MaxCLL=(\d+), MaxFALL=(\d+)", text)
    x_r, y_r, x_g, y_g, x_b, y_b, x_w, y_w, darkest, brightest = map(float, shown.groups())
    return Mastering(
        red=(x_r, y_r),
        green=(x_g, y_g),
        blue=(x_b, y_b),
        white=(x_w, y_w),
        darkest=darkest,
        brightest=brightest,
        content=None if levels is None else (int(levels[1]), int(levels[2])),
    )


def _colour(stream: Any, shown: _Shown, is_rgb: bool) -> Colour:
    context = stream.codec_context
    full = shown.pix_fmt.startswith("yuvj")
    stated_range = _RANGES.get(int(context.color_range or 0), shown.range)
    matrix = _MATRICES.get(int(context.colorspace), shown.matrix)
    if is_rgb:
        matrix, full = "gbr", True
    elif formats.is_grey(shown.pix_fmt) and not context.color_range:
        full = True  # by FFmpeg's convention, of which its versions report more or less
    elif matrix == "gbr":
        matrix = "unknown"
    transfer = _TRANSFERS.get(int(context.color_trc or 0), "unknown")
    return Colour(
        range="pc" if full else stated_range if stated_range in ("tv", "pc") else "unknown",
        matrix=matrix if matrix != "unspecified" else "unknown",
        primaries=_PRIMARIES.get(int(context.color_primaries or 0), "unknown"),
        transfer=DECODED_TRANSFERS.get(context.codec.canonical_name, transfer),
    )


def _field_order_is_interlaced(stream: Any) -> bool:
    order = getattr(stream.codec_context, "field_order", 0)
    return int(order) > 1  # AV_FIELD_UNKNOWN 0, PROGRESSIVE 1, then TT, BB, TB, BT


def _start_s(track: Any, file_start_s: Fraction) -> Fraction:
    """Return when a track starts, in seconds after the file's own beginning."""
    if track.start_time is None or track.time_base is None:
        return Fraction(0)
    return Fraction(track.start_time * track.time_base) - file_start_s


def _fraction(rate: Any) -> Fraction | None:
    return None if not rate else Fraction(rate)
