"""A user's file as FFmpeg input: opened safely, from a time on, upright and progressive."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import partial
from math import floor, isqrt
from pathlib import Path
from typing import Any

import ffmpeg

from vidbg import machine
from vidbg.errors import InputError
from vidbg.frames import VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media import light
from vidbg.media.formats import alpha_layout, is_grey

# How far before a wanted time to start decoding, so that a demuxer that lands late or a
# decoder that needs a run-up still gives the wanted frame.
_PREROLL_S = 5
# Containers whose index makes seeking exact; all others are decoded from the beginning.
_INDEXED = frozenset({"mov", "matroska"})
DECODED_TRANSFERS = {"exr": "iec61966-2-1"}
"""The transfer that a codec's frames have once they are decoded, where it is not the file's own.

OpenEXR holds linear light, of which working formats would keep too little of the dark. What is
brighter than white is cut off.
"""
STREAMED = frozenset({"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v"})
"""Transmission formats: a recording of them may begin between two key frames."""
_INT_MAX = 2**31 - 1
_REFUSED_SIZE = re.compile(
    r"Picture size (\d+)x(\d+) (?:is invalid|exceeds specified max pixel count)"
)
# The smallest plane that FFmpeg's deinterlacer takes.
_BWDIF_MIN_WIDTH, _BWDIF_MIN_HEIGHT = 3, 4
# EXIF 2.32, tag 0x0112: what makes a picture upright, as arguments of FFmpeg's filters.
_UPRIGHT: dict[int, tuple[tuple[str, ...], ...]] = {
    2: (("hflip",),),
    3: (("hflip",), ("vflip",)),
    4: (("vflip",),),
    5: (("transpose", "cclock_flip"),),
    6: (("transpose", "clock"),),
    7: (("transpose", "clock_flip"),),
    8: (("transpose", "cclock"),),
}
# The part of it that is a rotation, in clockwise degrees; 2, 4, 5 and 7 are mirrored besides.
_ROTATIONS = {3: 180, 4: 180, 5: 270, 6: 90, 7: 90, 8: 270}


def source_input(
    path: Path,
    *,
    container: str,
    max_pixels: int,
    picture: str | None = None,
    decoder: str | None = None,
    options: Mapping[str, str | None] | None = None,
) -> Any:
    """Return an ffmpeg-python input node for a file of the user's.

    Args:
        path: The file; never taken for a protocol, an option or a name pattern.
        container: The demuxer that probing found, as :class:`VideoInfo` has it: no other may read
            the file, whatever it has turned into since.
        max_pixels: The most pixels that a frame of it may have. FFmpeg also looks at the frames of
            a file whose sound alone is wanted.
        picture: For a still in a picture format, the demuxer that knows it. FFmpeg does not
            rotate it then: its versions differ in whether they honour EXIF.
        decoder: A decoder to force.
        options: More input options.
    """
    chosen = {**_limits(max_pixels, container), **(options or {})}
    if picture is not None:
        chosen |= {"f": picture, "noautorotate": None}
        if picture == "image2":
            chosen["pattern_type"] = "none"
    if decoder is not None:
        chosen["c:v"] = decoder
    return ffmpeg.input(ff.file_url(path), **chosen)


def stored_limit(max_pixels: int) -> int:
    """Return how many pixels a decoder may store for frames of at most ``max_pixels``.

    Codecs store whole blocks, of up to 64 x 64 pixels, of which the frame shows a part.
    """
    return min(max_pixels + 256 * isqrt(max_pixels) + 64 * 64, _INT_MAX)


def size_error(path: Path, lines: Iterable[str], max_pixels: int) -> InputError | None:
    """Return the error for a file whose frames are too large, or None if it is not that.

    Args:
        path: The file.
        lines: What FFmpeg said of it.
        max_pixels: The most pixels that a frame of it may have.
    """
    for line in lines:
        claimed = _REFUSED_SIZE.search(line)
        if claimed is not None:
            width, height = int(claimed[1]), int(claimed[2])
            if width * height > max_pixels:
                return too_large(path, width, height, max_pixels)
    return None


def too_large(path: Path, width: int, height: int, max_pixels: int) -> InputError:
    """Return the error for frames of more than so many pixels."""
    return InputError(
        f"frames of {width}x{height} have {width * height:,} pixels, more than the "
        f"{max_pixels:,} that are allowed",
        path=path,
        hint="If that is what it is meant to be, raise --max-pixels",
    )


def _limits(max_pixels: int, container: str) -> dict[str, str | None]:
    """Return the input options that keep a file to itself, to its format, to frames of a size."""
    return {
        "protocol_whitelist": "file,pipe",
        "format_whitelist": container,
        "max_pixels": str(stored_limit(max_pixels)),
    }


def _sequence_input(info: VideoInfo, options: Mapping[str, str | None]) -> Any:
    """Return an ffmpeg-python input node of a picture sequence, the one kind of pattern we use."""
    sequence = info.sequence
    if sequence is None:
        raise ValueError(f"{info.path} is no picture sequence")
    chosen: dict[str, str | None] = {
        "f": "image2",
        "pattern_type": "sequence",
        "start_number": str(sequence.first),
        "start_number_range": "1",
        "framerate": str(info.frame_rate),
        "noautorotate": None,
        **_limits(info.max_pixels, "image2"),
        **options,
    }
    return ffmpeg.input(ff.file_url(Path(sequence.pattern)), **chosen)


def is_picture_format(container: str) -> bool:
    """Say whether a demuxer is one of FFmpeg's for picture files: PNG, JPEG, TIFF and so on."""
    return container == "image2" or container.endswith("_pipe")


def may_begin_anywhere(info: VideoInfo) -> bool:
    """Say whether a healthy file of this kind may begin with frames that cannot be decoded."""
    return bool(STREAMED & set(info.container.split(",")))


def forced_decoder(info: VideoInfo) -> str | None:
    """Return the decoder that a clip needs for its alpha, or None for FFmpeg's choice."""
    return alpha_decoder(info.codec) if info.has_alpha else None


def alpha_decoder(codec: str) -> str | None:
    """Return the decoder that keeps a codec's alpha where FFmpeg's own drops it, or None."""
    return {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(codec)


def exif_orientation(path: Path) -> int:
    """Return the EXIF orientation of a picture, 1 to 8; 1 (upright) where it has none."""
    from PIL import Image

    try:
        # Pillow warns of pictures that are too large to its taste; only their header is read.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as photograph:
            orientation = int(photograph.getexif().get(0x0112, 1))
    except (OSError, ValueError, TypeError, Image.DecompressionBombError, SyntaxError):
        return 1
    return orientation if orientation in _UPRIGHT else 1


def exif_rotation(orientation: int) -> int:
    """Return the clockwise degrees that an EXIF orientation asks for: 0, 90, 180 or 270."""
    return _ROTATIONS.get(orientation, 0)


def seek_point(info: VideoInfo, time_s: Fraction) -> Fraction:
    """Return from where to read a file so that ``time_s`` is surely decoded, in whole seconds.

    Whole, because FFmpeg rounds what it subtracts from time stamps to ticks, and there is a
    whole number of them in a second.

    Args:
        info: The clip.
        time_s: Seconds on the file's clock.
    """
    if info.sequence is None and not _INDEXED & set(info.container.split(",")):
        return Fraction(0)
    return Fraction(max(0, floor(time_s) - _PREROLL_S))


def seconds(value: Fraction) -> str:
    """Return a time as FFmpeg reads it, to the microsecond."""
    return f"{float(value):.6f}"


def opened_at(
    info: VideoInfo, seek_s: Fraction, *, threads: int | None = None, gpu: int | None = None
) -> Any:
    """Return an ffmpeg-python node of a clip's video, read from ``seek_s`` on.

    Times in it count from ``seek_s`` on the file's clock; earlier frames come with
    negative times. Frames stored as fields are deinterlaced, one frame for each; pictures
    stand as their display matrix or EXIF says.

    Args:
        info: The clip.
        seek_s: What :func:`seek_point` returned, or 0.
        threads: How many decode, or None for as many as leave room for other work.
        gpu: The number of the CUDA device that decodes, or None for the CPU.
    """
    options: dict[str, str | None] = {"threads": str(threads or _decoder_threads())}
    if gpu is not None:
        options |= {"hwaccel": "cuda", "hwaccel_device": str(gpu)}
    if seek_s > 0:
        options |= {"ss": seconds(seek_s), "noaccurate_seek": None}
    picture = info.container if is_picture_format(info.container) else None
    deinterlaced = _can_deinterlace(info)
    # Fields are rows: they have to be joined before the picture is turned.
    turned_here = picture is None and deinterlaced and info.rotation != 0
    if turned_here:
        options["noautorotate"] = None
    pictured = info.path
    if info.sequence is None:
        decoder = forced_decoder(info)
        source = source_input(
            info.path,
            container=info.container,
            picture=picture,
            decoder=decoder,
            options=options,
            max_pixels=info.max_pixels,
        )
    else:
        pictured = info.sequence.path_of(info.sequence.first)
        source = _sequence_input(info, options)
    node = source[str(info.stream_index)]
    if info.codec in DECODED_TRANSFERS:
        convert = partial(light.from_linear, transfer=DECODED_TRANSFERS[info.codec])
        if info.has_alpha:  # colours come multiplied by it
            straight = node.filter("unpremultiply", inplace=1).filter("format", "gbrapf32le")
            node = light.beside_alpha(straight, "gbrpf32le", convert)
        else:
            node = convert(node)
    if deinterlaced:
        node = node.filter("bwdif", mode="send_frame", parity="auto", deint="interlaced")
    turns: tuple[tuple[str, ...], ...] = ()
    if picture is not None:
        turns = _UPRIGHT.get(exif_orientation(pictured), ())
    elif turned_here:
        turns = (("transpose", "clock"),) * (info.rotation // 90)
    if turns:
        size = (info.width, info.height)
        node = exact_format(node, info, size if info.rotation % 180 == 0 else size[::-1])
        for name, *arguments in turns:
            node = node.filter(name, *arguments)
    return node


def _decoder_threads() -> int:
    """Return half of a job's cores: network and encoder run at the same time.

    Each thread of a decoder holds frames of its own; on two cores one thread decodes 1080p
    H.264 at 160 frames a second in 70 MiB, where FFmpeg's three take 103.
    """
    return max(1, min(16, machine.cores_per_job() // 2))


def _can_deinterlace(info: VideoInfo) -> bool:
    stored = (info.width, info.height) if info.rotation % 180 == 0 else (info.height, info.width)
    chroma_height, chroma_width = info.format.plane_sizes(*stored)[1]
    return (
        info.is_interlaced
        and chroma_width >= _BWDIF_MIN_WIDTH
        and chroma_height >= _BWDIF_MIN_HEIGHT
    )


def exact_format(node: Any, info: VideoInfo, size: tuple[int, int]) -> Any:
    """Bring decoded frames to the working format and to one size, sample values unchanged.

    Args:
        node: An ffmpeg-python node of the clip's frames.
        info: The clip.
        size: Width and height of the frames, for clips that change theirs midway.
    """
    if info.source_pix_fmt in ("pal8", "rgb8", "bgr8", "rgb4_byte", "bgr4_byte"):
        # FFmpeg 5 goes from a palette to planes by way of Y'CbCr, which loses a code or two.
        node = node.filter("format", "bgra")
    # The same range in and out is no conversion. Grey is always full range to FFmpeg.
    is_full = info.colour.range == "pc" or is_grey(info.source_pix_fmt)
    spread = "pc" if is_full else "tv"
    node = node.filter(
        "scale",
        w=size[0],
        h=size[1],
        flags=f"bicubic+{ff.EXACT_FLAGS}",
        in_range=spread,
        out_range=spread,
    )
    return node.filter("format", raw_pix_fmt(info))


def raw_pix_fmt(info: VideoInfo) -> str:
    """Return the pix_fmt of a clip's decoded planes, with the clip's own alpha if it has any."""
    return alpha_layout(info.format)[0] if info.has_alpha else info.format.pix_fmt
