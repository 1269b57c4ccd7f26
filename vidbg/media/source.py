"""A user's file as FFmpeg input: opened safely, from a time on."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from vidbg.frames import VideoInfo
from vidbg.media import ffmpeg as ff

# How far before a wanted time to start decoding, so that a demuxer that lands late or a
# decoder that needs a run-up still gives the wanted frame.
_PREROLL_S = Fraction(5)
# Containers whose index makes seeking exact; all others are decoded from the beginning.
_INDEXED = frozenset({"mov", "matroska"})


def source_input(
    path: Path,
    *,
    is_image: bool = False,
    decoder: str | None = None,
    options: Mapping[str, str | None] | None = None,
) -> Any:
    """Return an ffmpeg-python input node for a file of the user's.

    Args:
        path: The file; never taken for a protocol, an option or a name pattern.
        is_image: It is a still: no pattern matching, no rotation by FFmpeg (its versions
            differ in whether they honour EXIF, so that decode does it).
        decoder: A decoder to force.
        options: More input options.
    """
    chosen: dict[str, str | None] = {"protocol_whitelist": "file,pipe", **(options or {})}
    if is_image:
        chosen["noautorotate"] = None
        if path.suffix.lower() not in (".avif", ".heic"):
            chosen |= {"f": "image2", "pattern_type": "none"}
    if decoder is not None:
        chosen["c:v"] = decoder
    return ffmpeg.input(ff.file_url(path), **chosen)


def forced_decoder(info: VideoInfo) -> str | None:
    """Return the decoder that a clip needs for its alpha, or None for FFmpeg's choice."""
    is_vpx = info.codec in ("vp8", "vp9", "libvpx", "libvpx-vp9")
    if not (is_vpx and info.has_alpha):
        return None
    return "libvpx" if info.codec in ("vp8", "libvpx") else "libvpx-vp9"


def seek_point(info: VideoInfo, time_s: Fraction) -> Fraction:
    """Return from where to read a file so that ``time_s`` is surely decoded, in seconds.

    Args:
        info: The clip.
        time_s: Seconds on the file's clock.
    """
    if not _INDEXED & set(info.container.split(",")):
        return Fraction(0)
    return max(Fraction(0), time_s - _PREROLL_S)


def seconds(value: Fraction) -> str:
    """Return a time as FFmpeg reads it, to the microsecond."""
    return f"{float(value):.6f}"


def opened_at(info: VideoInfo, seek_s: Fraction) -> Any:
    """Return an ffmpeg-python node of a clip's video, read from ``seek_s`` on.

    Times in it count from ``seek_s`` on the file's clock; earlier frames come with
    negative times.
    """
    options: dict[str, str | None] = {}
    if seek_s > 0:
        options = {"ss": seconds(seek_s), "noaccurate_seek": None}
    source = source_input(
        info.path, is_image=info.is_image, decoder=forced_decoder(info), options=options
    )
    return source[str(info.stream_index)]
