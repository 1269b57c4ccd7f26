"""Clips made for tests, and another decoder to look at clips with.

:func:`make_clip` feeds frames that are known sample for sample to FFmpeg. Its default
picture carries the frame's number in blocks large enough to survive lossy codecs, so that
:func:`frame_numbers` can say which frame a decoder gave. :func:`decode_planes` and
:func:`stream_facts` read files through PyAV, which has FFmpeg libraries of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vidbg.frames import Colour, VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media.formats import working_format

Array = NDArray[Any]

# Ticks a second of clips with uneven frames: divisible by 24, 25, 30, 50, 60, 1000.
TICKS = 90_000
DARK, BRIGHT = 48, 200
_BLOCKS_ACROSS, _BLOCKS_DOWN = 4, 3

_CODEC_OF_SUFFIX = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".m4v": "libx264",
    ".3gp": "libx264",
    ".mkv": "ffv1",
    ".nut": "rawvideo",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".ts": "mpeg2video",
    ".m2ts": "libx264",
    ".mpg": "mpeg2video",
    ".flv": "flv",
    ".wmv": "wmv2",
    ".gif": "gif",
    ".png": "png",
    ".jpg": "mjpeg",
}
_ENCODER_OPTIONS = {
    "libx264": ("-preset", "veryfast", "-crf", "18"),
    "libx265": ("-preset", "ultrafast", "-crf", "18", "-x265-params", "log-level=error"),
    "libvpx": ("-deadline", "realtime", "-b:v", "2M", "-auto-alt-ref", "0"),
    "libvpx-vp9": ("-deadline", "realtime", "-cpu-used", "8", "-b:v", "2M", "-auto-alt-ref", "0"),
    "libsvtav1": ("-preset", "12", "-crf", "30"),
    "mpeg4": ("-qscale:v", "2"),
    "mpeg2video": ("-qscale:v", "2"),
    "mpeg1video": ("-qscale:v", "2"),
    "mjpeg": ("-qscale:v", "2"),
    "flv": ("-qscale:v", "2"),
    "wmv2": ("-qscale:v", "2"),
}


def run_ffmpeg(*arguments: str, feed: bytes = b"") -> bytes:
    """Run the FFmpeg under test and return its standard output; its failure is the test's."""
    command = [ff.executable(), "-hide_banner", "-nostats", "-v", "error", "-y", *arguments]
    done = subprocess.run(command, input=feed, capture_output=True, check=False)
    if done.returncode:
        raise AssertionError(f"{command}\n{done.stderr.decode('utf-8', 'replace')}")
    return done.stdout


@contextmanager
def cores_of_children(count: int | None) -> Iterator[None]:
    """Let processes that are started within have so many of our cores; None for all of them."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:count])  # of this thread, which hands it down
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def has_encoder(name: str) -> bool:
    """Say whether the FFmpeg under test has an encoder."""
    listed = run_ffmpeg("-encoders").decode()
    return any(line.split()[1:2] == [name] for line in listed.splitlines())


def version() -> int:
    """Return the major version of the FFmpeg under test."""
    found = ff._version(ff.executable())
    return 99 if found is None else found[0]


def counter_luma(numbers: Sequence[int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return luma ``(N, height, width)`` that spells each number in 4 x 3 blocks, low bit first.

    Args:
        numbers: Below 4096 each.
        size: Width and height, at least 4 x 3.
    """
    width, height = size
    across = np.arange(width) * _BLOCKS_ACROSS // width
    down = np.arange(height) * _BLOCKS_DOWN // height
    bit = down[:, None] * _BLOCKS_ACROSS + across
    is_set = (np.asarray(numbers)[:, None, None] >> bit) & 1
    return np.where(is_set == 1, BRIGHT, DARK).astype(np.uint8)


def frame_numbers(luma: Array) -> list[int]:
    """Read back what :func:`counter_luma` wrote, from luma ``(N, H, W)`` of 8 bits or scaled to.

    Args:
        luma: 8-bit codes; deeper ones are taken by their upper eight bits of ten.
    """
    if luma.dtype != np.uint8:
        luma = luma >> 2
    _, height, width = luma.shape
    numbers = np.zeros(len(luma), int)
    for bit in range(_BLOCKS_ACROSS * _BLOCKS_DOWN):
        row, column = divmod(bit, _BLOCKS_ACROSS)
        # The middle of a block: its edges ring.
        y = (2 * row + 1) * height // (2 * _BLOCKS_DOWN)
        x = (2 * column + 1) * width // (2 * _BLOCKS_ACROSS)
        numbers |= (luma[:, y, x] > (DARK + BRIGHT) // 2).astype(int) << bit
    return [int(number) for number in numbers]


def counter_frames(frames: int, size: tuple[int, int], first: int = 0) -> bytes:
    """Return raw yuv420p frames that count up from ``first``, with lively chroma."""
    width, height = size
    luma = counter_luma(range(first, first + frames), size)
    chroma_size = (-(-height // 2), -(-width // 2))
    ramp = np.linspace(80, 176, chroma_size[1]).astype(np.uint8)
    chroma = np.broadcast_to(ramp, chroma_size).tobytes()
    chroma += np.broadcast_to(ramp[::-1], chroma_size).tobytes()
    return b"".join(frame.tobytes() + chroma for frame in luma)


def noise_planes(
    pix_fmt: str, size: tuple[int, int], frames: int, seed: int = 0
) -> tuple[Array, ...]:
    """Return random codes of a *planar* pix_fmt, uint8 or uint16, one ``(N, h, w)`` a plane."""
    described = av.VideoFormat(pix_fmt, *size)
    generator = np.random.default_rng(seed)
    planes = []
    for part in described.components:
        high = 1 << part.bits
        dtype = np.uint8 if part.bits == 8 else np.uint16
        planes.append(generator.integers(0, high, (frames, part.height, part.width)).astype(dtype))
    return tuple(planes)


def pack_planes(planes: Sequence[Array], *, big_endian: bool = False) -> bytes:
    """Return planes ``(N, h, w)`` as FFmpeg's raw planar frames."""
    order = ">u2" if big_endian else "<u2"
    parts = [plane if plane.dtype == np.uint8 else plane.astype(order) for plane in planes]
    return b"".join(part[n].tobytes() for n in range(len(planes[0])) for part in parts)


def make_clip(
    path: Path,
    *,
    size: tuple[int, int] = (64, 48),
    rate: str | Fraction = "25",
    frames: int = 10,
    first_number: int = 0,
    raw: bytes | None = None,
    raw_pix_fmt: str = "yuv420p",
    pix_fmt: str | None = "yuv420p",
    codec: str | None = None,
    options: Sequence[str] = (),
    filters: Sequence[str] = (),
    durations: Sequence[Fraction | float | str] | None = None,
    video_delay_s: str | Fraction = "0",
    audio: str | None = None,
    audio_source: str = "sine=frequency=440:sample_rate=48000",
    audio_s: str | Fraction | None = None,
    audio_delay_s: str | Fraction = "0",
    rotation: int = 0,
    sar: str | Fraction | None = None,
    interlaced: bool = False,
    colour_range: str | None = None,
    matrix: str | None = None,
    primaries: str | None = None,
    transfer: str | None = None,
) -> Path:
    """Write a clip and return its path.

    Args:
        path: The file; its suffix chooses the muxer and the default codec.
        size: Width and height of the stored picture.
        rate: Frames per second.
        frames: How many.
        first_number: What the first frame's counter shows.
        raw: Raw frames to encode instead of the counter.
        raw_pix_fmt: Their pix_fmt.
        pix_fmt: What the encoder stores, or None for what it is given.
        codec: FFmpeg's encoder.
        options: More output options.
        filters: More video filters.
        durations: Seconds that each frame is shown for; makes a clip of uneven frames.
        video_delay_s: Seconds by which the picture starts after time 0.
        audio: FFmpeg's audio encoder, or None for a silent clip.
        audio_source: The lavfi source of the sound.
        audio_s: Seconds of sound; None for as long as the picture.
        audio_delay_s: Seconds by which the sound starts after time 0.
        rotation: Clockwise degrees, 0, 90, 180 or 270, that players have to turn the
            picture by; MP4 and MOV only.
        sar: Sample aspect ratio, e.g. "4/3".
        interlaced: Store as fields, top first.
        colour_range: "tv" or "pc".
        matrix: E.g. "bt709".
        primaries: E.g. "bt709".
        transfer: E.g. "bt709".
    """
    codec = codec or _CODEC_OF_SUFFIX[path.suffix]
    rate = Fraction(rate)
    if raw is None:
        raw = counter_frames(frames, size, first_number)
        raw_pix_fmt = "yuv420p"
    inputs = ["-f", "rawvideo", "-pix_fmt", raw_pix_fmt, "-s", f"{size[0]}x{size[1]}"]
    inputs += ["-framerate", str(rate), "-i", "pipe:0"]
    video_s = frames / rate if durations is None else sum(map(Fraction, durations), Fraction(0))
    chain = [*filters]
    has_fine_ticks = durations is not None or Fraction(video_delay_s) != 0
    if has_fine_ticks:
        chain.append(f"settb=1/{TICKS}")
    if durations is not None:
        chain.append(f"setpts='{_uneven_pts(durations)}'")
    if Fraction(video_delay_s):
        chain.append(f"setpts=PTS+{round(Fraction(video_delay_s) * TICKS)}")
    if pix_fmt is not None:
        chain.append(f"format={pix_fmt}")
    if interlaced:
        chain.append("setfield=tff")
    tags = {
        "range": {"tv": "limited", "pc": "full", None: None}[colour_range],
        "colorspace": matrix,
        "color_primaries": primaries,
        "color_trc": transfer,
    }
    stated = ":".join(f"{key}={value}" for key, value in tags.items() if value is not None)
    if stated:
        chain.append(f"setparams={stated}")
    if sar is not None:
        chain.append(f"setsar={Fraction(sar)}")
    outputs = ["-map", "0:v", "-c:v", codec, *_ENCODER_OPTIONS.get(codec, ())]
    if chain:
        outputs += ["-vf", ",".join(chain)]
    outputs += ["-fps_mode", "passthrough"]
    if has_fine_ticks:
        outputs += ["-enc_time_base", f"1:{TICKS}", "-video_track_timescale", str(TICKS)]
    if durations is not None:
        # Raw video has no durations, so that the last frame's would be anybody's guess.
        last = f"if(eq(PTS,{_edges(durations)[-2]}),{_gaps(durations)[-1]},DURATION)"
        outputs += ["-bsf:v", f"setts=pts=PTS:dts=DTS:duration='{last}'"]
    if interlaced:
        outputs += ["-flags", "+ildct+ilme"]
    if audio is not None:
        length_s = video_s if audio_s is None else Fraction(audio_s)
        inputs += ["-itsoffset", f"{float(Fraction(audio_delay_s)):.6f}"]
        inputs += ["-f", "lavfi", "-t", f"{float(length_s):.6f}", "-i", audio_source]
        outputs += ["-map", "1:a", "-c:a", audio]
    if path.suffix in (".png", ".jpg"):
        outputs += ["-update", "1", "-f", "image2"]
    run_ffmpeg(*inputs, *outputs, *options, f"file:{path}", feed=raw)
    if rotation:
        set_rotation(path, rotation)
    return path


def _uneven_pts(durations: Sequence[Fraction | float | str]) -> str:
    """Return a setpts expression in ticks of which frame n starts at the sum before it.

    Written as the first distance and the changes of distance, it stays short for clips
    whose distances rarely change.
    """
    gaps = _gaps(durations)
    terms = [f"N*{gaps[0]}"]
    for number, (before, after) in enumerate(itertools.pairwise(gaps), 1):
        if before != after:
            terms.append(f"max(0,N-{number})*{after - before}")
    # Sums are nested by hand: FFmpeg's parser recurses once a term, and its depth is bounded.
    while len(terms) > 1:
        terms = [f"({'+'.join(terms[i : i + 20])})" for i in range(0, len(terms), 20)]
    return terms[0]


def _edges(durations: Sequence[Fraction | float | str]) -> list[int]:
    """Return when each frame begins, and when the last one ends, in ticks."""
    edges = itertools.accumulate(map(Fraction, durations), initial=Fraction(0))
    return [round(edge * TICKS) for edge in edges]


def _gaps(durations: Sequence[Fraction | float | str]) -> list[int]:
    return [b - a for a, b in itertools.pairwise(_edges(durations))]


_MATRICES = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


def set_rotation(path: Path, rotation: int, *, matrix: Sequence[int] | None = None) -> None:
    """Write a display matrix into the video track header of an MP4 or MOV file.

    Args:
        path: The file; its first track has to be the video.
        rotation: Clockwise degrees: 0, 90, 180 or 270.
        matrix: Other values for a, b, c, d (ISO/IEC 14496-12, 8.3.2).
    """
    a, b, c, d = _MATRICES[rotation] if matrix is None else matrix
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    place = header + 4 + (40 if content[header + 4] == 0 else 52)
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", *values)
    path.write_bytes(content)


def video_info(pix_fmt: str = "yuv420p", **changes: Any) -> VideoInfo:
    """Return what a clip of 64x48, 10 frames at 25 fps would be, without there being a file.

    Args:
        pix_fmt: What its decoder yields.
        **changes: Other fields of the record.
    """
    plane_format, has_alpha = working_format(pix_fmt)
    info = VideoInfo(
        path=Path("clip.mkv"),
        container="matroska,webm",
        codec="ffv1",
        stream_index=0,
        width=64,
        height=48,
        rotation=0,
        sar=Fraction(1),
        frame_rate=Fraction(25),
        time_base=Fraction(1, 1000),
        start=Fraction(0),
        duration=Fraction(10, 25),
        source_pix_fmt=pix_fmt,
        format=plane_format,
        has_alpha=has_alpha,
        colour=Colour(),
        is_vfr=False,
        is_interlaced=False,
        is_image=False,
        frame_count=10,
        missing_frames=0,
        repeated_frames=0,
        dropped_frames=0,
        audio=(),
        subtitles=(),
        has_chapters=False,
    )
    return dataclasses.replace(info, **changes)


@dataclass(frozen=True)
class AudioFacts:
    """An audio track as PyAV sees it: codec, layout, first and last moment in seconds."""

    codec: str
    channels: int
    sample_rate: int
    start: Fraction
    end: Fraction
    packets: int


@dataclass(frozen=True)
class StreamFacts:
    """A file as PyAV sees it. Times in seconds on the file's own clock."""

    container: str
    codec: str
    width: int
    height: int
    pix_fmt: str
    frames: int
    rate: Fraction | None
    stamps: tuple[Fraction, ...]
    start: Fraction
    end: Fraction
    duration: Fraction
    sar: Fraction
    colour_range: int
    matrix: int
    primaries: int
    transfer: int
    field_order: int
    rotation: int
    audio: tuple[AudioFacts, ...]
    subtitles: tuple[str, ...]
    chapters: int
    metadata: dict[str, str]


def stream_facts(path: Path) -> StreamFacts:
    """Return what PyAV says of a file's first video stream and of its other streams.

    ``frames``, ``stamps``, starts and ends come from the packets that are to be shown.
    Colour tags are H.273 code points; ``colour_range`` is 0 unknown, 1 tv, 2 pc.
    """
    ends: dict[int, list[tuple[Fraction, Fraction]]] = {}
    with av.open(f"file:{path}") as container:
        for packet in container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None or packet.time_base is None or packet.is_discard or not packet.size:
                continue
            begin = stamp * packet.time_base
            length = (packet.duration or 0) * packet.time_base
            ends.setdefault(packet.stream_index, []).append((begin, begin + length))
    with av.open(f"file:{path}") as container:
        video = container.streams.video[0]
        context = video.codec_context
        shown = sorted(ends.get(video.index, []))
        sar = video.sample_aspect_ratio
        rotation = next((-int(f.rotation) % 360 for f in container.decode(video)), 0)
        tracks = []
        for track in container.streams.audio:
            times = ends.get(track.index, [])
            tracks.append(
                AudioFacts(
                    track.codec_context.name,
                    track.codec_context.channels,
                    track.codec_context.sample_rate,
                    min((begin for begin, _ in times), default=Fraction(0)),
                    max((end for _, end in times), default=Fraction(0)),
                    len(times),
                )
            )
        return StreamFacts(
            container=container.format.name,
            codec=context.name,
            width=context.width,
            height=context.height,
            pix_fmt=str(context.pix_fmt),
            frames=len(shown),
            rate=video.average_rate,
            stamps=tuple(begin for begin, _ in shown),
            start=shown[0][0] if shown else Fraction(0),
            end=max((end for _, end in shown), default=Fraction(0)),
            duration=Fraction(container.duration or 0, av.time_base),
            sar=Fraction(sar) if sar else Fraction(1),
            colour_range=int(context.color_range or 0),
            matrix=int(context.colorspace),
            primaries=int(context.color_primaries or 0),
            transfer=int(context.color_trc or 0),
            field_order=int(getattr(context, "field_order", 0)),
            rotation=rotation,
            audio=tuple(tracks),
            subtitles=tuple(s.codec_context.name for s in container.streams.subtitles),
            chapters=len(container.chapters()),
            metadata=dict(container.metadata),
        )


def decode_planes(
    path: Path,
    pix_fmt: str | None = None,
    *,
    decoder: str | None = None,
    count: int | None = None,
) -> tuple[Array, ...]:
    """Decode a clip through PyAV: one array ``(N, h, w)`` a plane, uint8 or uint16.

    Frames come as stored: not rotated, not deinterlaced, not resampled.

    Args:
        path: The clip.
        pix_fmt: A planar pix_fmt to convert to, or None for the stream's own, if planar.
        decoder: A decoder to use instead of the default, e.g. "libvpx-vp9" for alpha.
        count: How many frames; None for all.
    """
    found: list[list[Array]] = []
    with av.open(f"file:{path}") as container:
        stream = container.streams.video[0]
        if decoder is None:
            frames = container.decode(stream)
        else:
            context = av.CodecContext.create(decoder, "r")
            context.extradata = stream.codec_context.extradata
            frames = (f for packet in container.demux(stream) for f in context.decode(packet))
        for frame in itertools.islice(frames, count):
            shown = frame if pix_fmt is None else frame.reformat(format=pix_fmt)
            found.append([_plane_array(shown, n) for n in range(len(shown.planes))])
    return tuple(np.stack(plane) for plane in zip(*found, strict=True))


def _plane_array(frame: av.VideoFrame, number: int) -> Array:
    plane = frame.planes[number]
    deep = max(part.bits for part in frame.format.components) > 8
    dtype = np.dtype("<u2" if deep else np.uint8)
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
    return rows.copy().view(dtype)[:, : plane.width]


def decode_sound(path: Path, track: int = 0) -> tuple[NDArray[np.float32], int, Fraction]:
    """Decode an audio track through PyAV.

    Returns:
        Samples, float32 ``(channels, samples)``; the sample rate; the first sample's time in
        seconds on the file's clock. Gaps in the time stamps are not filled.
    """
    parts = []
    start: Fraction | None = None
    with av.open(f"file:{path}") as container:
        stream = container.streams.audio[track]
        rate = stream.codec_context.sample_rate
        resampler = av.AudioResampler(format="fltp", rate=rate)
        for frame in container.decode(stream):
            if start is None and frame.pts is not None and frame.time_base is not None:
                start = frame.pts * frame.time_base
            parts += [piece.to_ndarray() for piece in resampler.resample(frame)]
    return np.concatenate(parts, axis=1).astype(np.float32), rate, start or Fraction(0)
