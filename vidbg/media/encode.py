"""The result: an FFmpeg process that takes raw frames and writes the finished file."""

from __future__ import annotations

import itertools
import logging
import operator
import os
import re
import secrets
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import ceil, floor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import ffmpeg
import numpy as np

from vidbg import colour as colours
from vidbg.errors import EncodeError, FFmpegError, OutputError
from vidbg.frames import Colour, PlaneFormat, VideoInfo
from vidbg.media import audio, formats, light, pngs, timing
from vidbg.media import ffmpeg as ff
from vidbg.media.formats import scale_matrix
from vidbg.media.sequence import result_name
from vidbg.media.source import seconds, source_input
from vidbg.prefetch import Prefetch
from vidbg.whole import take_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import Plane, Planes

logger = logging.getLogger(__name__)

KINDS = ("composite", "alpha", "matte")
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})

# FFmpeg keeps subtitles from before the point that it was told to begin at, at times below 0,
# and puts off everything else by that.
_CUT_SUBTITLES = r"noise=drop=lt(pts\,0)"
_MAX_SIDE_PX = 16384
# Every hardware encoder takes frames of this size; some take none that are much smaller.
_TRIAL_SIZE = "640x360"
_TRIAL_S = 20.0
# Browsers show frames of less than 20 ms for a tenth of a second each.
_FASTEST_GIF = 50


@dataclass(frozen=True, slots=True)
class Output:
    """What to write.

    Attributes:
        path: Its final name.
        kind: "composite" (opaque), "alpha" (foreground with transparency) or "matte" (grey).
        codec: A key of :data:`vidbg.media.formats.CODECS`.
        crf: Constant quality, or None for the codec's default.
        preset: Encoder preset, or None for the codec's default.
        sound: One of :data:`vidbg.media.audio.CHOICES`.
        overwrite: Replace an existing file.
        container: A key of :data:`vidbg.media.formats.CONTAINERS` that is to count instead of
            the name's extension, or None.
        bitrate: Bits a second instead of constant quality, or None.
        pix_fmt: What the codec stores, in FFmpeg's name, or None for its default.
        hwaccel: "none", a key of :data:`vidbg.media.formats.HARDWARE`, or "auto" for the first
            of the codec's that works; see :func:`settled`.
        premultiplied: Colours are multiplied by alpha. Only with kind "alpha".
        scale: Width and height, either of them -1 for what keeps the shape; None for the clip's.
        frame_rate: Frames a second, or None for the clip's. Frames are repeated or dropped by
            time.
    """

    path: Path
    kind: str
    codec: str
    crf: int | None = None
    preset: str | None = None
    sound: str = "source"
    overwrite: bool = False
    container: str | None = None
    bitrate: int | None = None
    pix_fmt: str | None = None
    hwaccel: str = "none"
    premultiplied: bool = False
    scale: tuple[int, int] | None = None
    frame_rate: Fraction | None = None

    @property
    def encoder(self) -> formats.Codec:
        """What encodes it, once :func:`settled`."""
        hardware = formats.HARDWARE.get(self.hwaccel)
        return formats.CODECS[self.codec] if hardware is None else hardware

    @property
    def is_sequence(self) -> bool:
        """It is a clip as numbered pictures in a folder."""
        return self.codec == "png" and self.suffix == ".png" and pngs.is_pattern(self.path)

    @property
    def suffix(self) -> str:
        """The extension of its file format."""
        return self.container or self.path.suffix.lower()


def default_path(
    source: Path, kind: str, codec: str | None = None, container: str | None = None
) -> Path:
    """Return the name of a result that was not given one: ``STEM.vidbg.EXT`` beside the source.

    Args:
        source: The clip or picture, or the directory or pattern of a picture sequence.
        kind: One of :data:`KINDS`.
        codec: The codec asked for, which may need another container than the default.
        container: The file format asked for. PNG of a video is a folder of numbered files.
    """
    sequence_name = result_name(source)
    is_still = sequence_name is None and source.suffix.lower() in formats.IMAGE_SUFFIXES
    named = source.with_name(source.stem) if sequence_name is None else sequence_name
    if container == ".png" and not is_still:
        return pngs.pattern_in(named.with_name(f"{named.name}.vidbg"), named.name)
    suffix = container or {"composite": ".mp4", "alpha": ".mov", "matte": ".mp4"}[kind]
    if container is None and is_still:
        keeps = kind == "composite" and source.suffix.lower() in PICTURE_SUFFIXES
        suffix = source.suffix if keeps else ".png"
    elif container is None and codec not in (None, *_offered(formats.CONTAINERS[suffix], kind)):
        carriers = (s for s, c in formats.CONTAINERS.items() if codec in _offered(c, kind))
        suffix = next(carriers, suffix)
    return named.with_name(f"{named.name}.vidbg{suffix}")


def _offered(container: formats.Container, kind: str) -> tuple[str, ...]:
    """Return the codecs that a container carries an output of this kind in."""
    return container.alpha_codecs if kind == "alpha" else container.codecs


def container_of(path: Path, suffix: str | None = None) -> formats.Container:
    """Return the file format that a name's extension stands for.

    Args:
        path: The output.
        suffix: The extension that is to count instead, or None.

    Raises:
        OutputError: None that vidbg writes.
    """
    container = formats.CONTAINERS.get(suffix or path.suffix.lower())
    if container is None:
        known = " ".join(formats.CONTAINERS)
        what = f"unknown extension {path.suffix!r}" if path.suffix else "has no extension"
        raise OutputError(what, path=path, hint=f"Use one of {known}")
    return container


def choose_codec(path: Path, kind: str, wanted: str | None, suffix: str | None = None) -> str:
    """Return the codec for an output, checked against what its container carries.

    Args:
        path: The output.
        kind: One of :data:`KINDS`.
        wanted: The codec asked for, or None for the container's default.
        suffix: The extension that is to count instead of the path's, or None.

    Raises:
        OutputError: The container cannot carry it, or not with alpha.
    """
    container = container_of(path, suffix)
    suffix = suffix or path.suffix
    offered = _offered(container, kind)
    if kind == "alpha" and wanted in formats.NO_ALPHA:
        raise OutputError(
            formats.NO_ALPHA[wanted],
            path=path,
            hint="Use --codec prores (.mov), vp9 (.webm) or ffv1 (.mkv)",
        )
    if not offered:
        raise OutputError(
            f"{suffix} cannot carry transparency",
            path=path,
            hint="Use .mov (ProRes 4444), .webm (VP9), .mkv (FFV1) or, for a picture, .png",
        )
    if wanted is None:
        return container.matte_codec if kind == "matte" else offered[0]
    if wanted not in offered:
        what = "with transparency " if kind == "alpha" else ""
        raise OutputError(
            f"{suffix} cannot carry {wanted} {what}here",
            path=path,
            hint=f"It carries {', '.join(offered)}",
        )
    return wanted


def quality_problem(codec_name: str, crf: int | None, preset: str | None) -> tuple[str, str] | None:
    """Return which of the two a codec does not take, "crf" or "preset", and what it takes.

    Args:
        codec_name: A key of :data:`vidbg.media.formats.CODECS` or of its ``HARDWARE``.
        crf: Constant quality, or None.
        preset: Encoder preset, or None.
    """
    codec = (formats.CODECS | formats.HARDWARE)[codec_name]
    if crf is not None:
        if codec.crf is None:
            return "crf", f"{codec_name} has no such setting"
        low, high = codec.crf_range
        if not low <= crf <= high:
            return "crf", f"{codec_name} takes {low} to {high}, not {crf}"
    if preset is not None and preset not in codec.presets:
        offered = f"one of {', '.join(codec.presets)}" if codec.presets else "none at all"
        return "preset", f"{codec_name} takes {offered}"
    return None


def problem(output: Output) -> tuple[str, str] | None:
    """Return which of an output's settings does not go with the others, and why.

    Returns:
        The name of a field, and one line about it; None if there is nothing wrong.
    """
    hardware = formats.HARDWARE.get(output.hwaccel)
    name = output.codec if hardware is None else output.hwaccel
    codec = output.encoder
    found = quality_problem(name, output.crf, output.preset)
    if found is not None:
        return found
    if output.hwaccel not in ("none", "auto"):
        if hardware is None:
            return "hwaccel", f"{output.hwaccel} is none of {', '.join(formats.HARDWARE)}"
        if output.hwaccel not in formats.hardware_for(output.codec):
            return "hwaccel", f"{output.hwaccel} does not make {output.codec}"
    if output.bitrate is not None:
        if output.crf is not None:
            return "bitrate", "choose one: a bit rate or constant quality"
        if not (codec.crf or codec.constant):
            return "bitrate", f"{output.codec} has no such setting"
    if output.premultiplied:
        if output.kind != "alpha":
            return "premultiplied", "only transparency can be premultiplied"
        if codec.straight_only:
            return "premultiplied", f"not with {output.codec}: {codec.straight_only}"
    return _pix_fmt_problem(output) or _scale_problem(output)


def _pix_fmt_problem(output: Output) -> tuple[str, str] | None:
    wanted, codec = output.pix_fmt, output.encoder
    offered = formats.pix_fmts_for(codec, output.kind)
    if wanted is None or wanted in offered:
        return None
    name = output.codec
    is_grey = formats.is_grey(wanted)
    if output.kind == "alpha" and wanted in formats.pix_fmts_for(codec, "composite"):
        why = f"{wanted} has no transparency"
    elif output.kind != "alpha" and wanted in formats.pix_fmts_for(codec, "alpha"):
        why = f"{wanted} has transparency, which is for --alpha"
    elif output.kind == "composite" and is_grey and wanted in formats.pix_fmts_for(codec, "matte"):
        why = f"{wanted} has no colour"
    else:
        why = f"{name} cannot store {wanted}"
    return "pix_fmt", f"{why}; {name} takes {', '.join(offered)} here"


def _scale_problem(output: Output) -> tuple[str, str] | None:
    if output.scale is None:
        return None
    given = [length for length in output.scale if length != -1]
    if not given:
        return "scale", "one of the two sides has to be given"
    if any(not 0 < length <= _MAX_SIDE_PX for length in given):
        return "scale", f"sides are 1 to {_MAX_SIDE_PX} pixels, or -1"
    if output.encoder.even_sizes and any(length % 2 for length in given):
        return "scale", f"{output.codec} stores even sizes only"
    return None


def settled(output: Output, info: VideoInfo) -> Output:
    """Return an output with "auto" hardware chosen: the first encoder that works, or none.

    Whether one works is found by encoding a few frames with it.

    Args:
        output: What to write.
        info: The clip.

    Raises:
        EncodeError: The encoder that is named does not work here.
    """
    if output.hwaccel == "none":
        return output
    if output.hwaccel != "auto":
        cause = _hardware_failure(output, info)
        if cause is not None:
            raise EncodeError(
                f"{output.hwaccel} does not work here ({cause})",
                path=output.path,
                hint="Use --hwaccel auto or none",
            )
        return output
    candidates = formats.hardware_for(output.codec)
    causes = []
    for name in candidates:
        tried = replace(output, hwaccel=name)
        if output.preset is not None and output.preset not in tried.encoder.presets:
            tried = replace(tried, preset=None)
        found = problem(tried)
        cause = found[1] if found is not None else _hardware_failure(tried, info)
        if cause is None:
            if tried.preset != output.preset:
                logger.warning("%s has no preset %s and uses its own", name, output.preset)
            logger.info("%s: encoded by %s", output.path, name)
            return tried
        causes.append(f"{name}: {cause}")
    if not causes:
        causes = [f"there is none for {output.codec}"]
    logger.warning(
        "%s: encoded in software, no hardware encoder works (%s)", output.path, "; ".join(causes)
    )
    return replace(output, hwaccel="none")


def _hardware_failure(output: Output, info: VideoInfo) -> str | None:
    """Return why a hardware encoder does not work, or None if it does."""
    stored = _stored_name(output, info.format)
    options = tuple((name, str(value)) for name, value in _encoder_options(output).items())
    return _trial(output.encoder.encoder, output.encoder.device, stored, options)


@cache
def _trial(
    encoder: str, device: str | None, pix_fmt: str, options: tuple[tuple[str, str], ...]
) -> str | None:
    """Encode a few frames with settings; return FFmpeg's complaint, or None if it worked."""
    node = ffmpeg.input(f"color=black:s={_TRIAL_SIZE}:r=25:d=0.2", format="lavfi")
    node = _uploaded(node.filter("format", pix_fmt), device)
    arguments = ffmpeg.output(node, "-", f="null", **dict(options)).get_args()
    try:
        ran = ff.run([*_device_options(device), *arguments], timeout_s=_TRIAL_S)
    except FFmpegError as error:
        return error.message
    return ran.cause() if ran.returncode else None


def _encoder_options(output: Output) -> dict[str, object]:
    """Return the options that say which encoder is used, and how well it encodes."""
    codec = output.encoder
    options: dict[str, object] = {"c:v": codec.encoder, **dict(codec.options)}
    if output.bitrate is not None:
        options["b:v"] = output.bitrate
    else:
        options |= dict(codec.constant)
        if codec.crf is not None:
            crf = codec.crf if output.crf is None else output.crf
            options |= dict.fromkeys(codec.quality, crf)
    if codec.preset_option is not None:
        options[codec.preset_option] = output.preset or codec.preset
    return options


def _device_options(device: str | None) -> list[str]:
    """Return the global options that open the hardware that frames are uploaded to."""
    if device is None:
        return []
    return ["-init_hw_device", f"{device}=vidbg", "-filter_hw_device", "vidbg"]


def _uploaded(node: Any, device: str | None) -> Any:
    return node if device is None else node.filter("hwupload")


def output_size(output: Output, info: VideoInfo) -> tuple[int, int]:
    """Return the height and width of an output's frames, in pixels.

    Without ``scale`` that is the clip's, made even by one more row or column where the codec
    needs it. A side that is to keep the shape is rounded to the nearest pixel, or to the nearest
    even one.
    """
    step = 2 if output.encoder.even_sizes else 1
    if output.scale is None:
        return info.height + info.height % step, info.width + info.width % step
    width, height = output.scale
    if width == -1:
        width = _rounded(Fraction(info.width * height, info.height), step)
    elif height == -1:
        height = _rounded(Fraction(info.height * width, info.width), step)
    return height, width


def _rounded(length: Fraction, step: int) -> int:
    return max(step, floor(length / step + Fraction(1, 2)) * step)


def _output_sar(output: Output, info: VideoInfo) -> Fraction:
    """Return an output's sample aspect ratio: the clip's, unless it is scaled out of its shape."""
    if output.scale is None or -1 in output.scale:
        return info.sar
    height, width = output_size(output, info)
    stretched = Fraction(info.width * height, info.height * width)
    # What is rounding to whole pixels is no other shape.
    if abs(stretched - 1) <= Fraction(1, min(width, height)):
        return info.sar
    return info.sar * stretched


def frames_in(output: Output, info: VideoInfo, frames: int) -> int:
    """Return how many frames an output has that was made of some of the clip's."""
    if output.frame_rate is None or info.is_image:
        return frames
    return timing.resampled_count(frames / info.frame_rate, output.frame_rate)


def check_writable(path: Path, source: Path, overwrite: bool) -> None:
    """Raise :class:`OutputError` unless ``path`` can become a result of ``source``."""
    if os.path.lexists(path):
        try:
            same = path.samefile(source)
        except OSError:
            same = False
        if same:
            raise OutputError("is the input itself", path=path, hint="Choose another -o")
        if path.is_dir():
            raise OutputError("is a directory", path=path, hint="Give a file name with -o")
        if not overwrite:
            raise OutputError("exists already", path=path, hint="Use -y to overwrite it")
    folder = path.parent
    if not folder.is_dir():
        raise OutputError("its folder does not exist", path=path)
    if not os.access(folder, os.W_OK):
        raise OutputError("its folder cannot be written to", path=path)


def check_distinct(outputs: Sequence[Output]) -> None:
    """Raise :class:`OutputError` where two outputs of one run have the same name."""
    taken: set[str] = set()
    for output in outputs:
        name = os.path.normcase(os.path.realpath(output.path))
        if name in taken:
            raise OutputError("is to be written twice", path=output.path, hint="Name another")
        taken.add(name)


class Sink:
    """Takes finished frames and writes the output file.

    A context manager. A clean exit waits for FFmpeg, checks its status and gives the file
    its final name; any exception ends FFmpeg and removes what it wrote.

    Args:
        output: What to write.
        info: The clip that the frames, the sound and the tags come from.
        window: The part of the clip that is used; None for pictures alone, to be joined with
            others by :class:`Join`. Those are on the disk for good before they get their name.
        background: The background's sound, if it has any.
        threads: How many threads encode, where the pictures depend on it; None for FFmpeg's
            choice.

    Raises:
        OutputError: The part file cannot be made.
        EncodeError: FFmpeg cannot be started.
    """

    def __init__(
        self,
        output: Output,
        info: VideoInfo,
        window: audio.Window | None,
        background: audio.BackgroundSound | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        self.output = output
        self.frames_written = 0
        self._info = info
        self._codec = output.encoder
        self._container = _container(output)
        self._is_segment = window is None
        self._threads = threads
        self._raw_pix_fmt, self._raw_depth = _raw_format(output, info.format)
        # What is scaled anyway need not be made even before.
        self._size = info.height, info.width
        if output.scale is None:
            self._size = output_size(output, info)
        if self._size != (info.height, info.width) and not self._is_segment:
            logger.warning(
                "%s: %dx%d is odd, which %s cannot store: one row or column is repeated",
                info.path,
                info.width,
                info.height,
                output.codec,
            )
        if output.codec == "gif" and (output.frame_rate or info.frame_rate) > _FASTEST_GIF:
            logger.warning(
                "%s: browsers play a GIF of more than %d frames a second slowly; --fps 25 helps",
                output.path,
                _FASTEST_GIF,
            )
        self._folder: pngs.Folder | None = None
        if output.is_sequence and not info.is_image:
            self._container = formats.SEQUENCE
            self._folder = pngs.Folder(output.path)
        self._part = self._folder.path if self._folder else self._new_part()
        is_archive = output.suffix == ".zip"
        self._archive: pngs.Archive | None = None
        try:
            arguments = self._arguments(window, background)
            self._process = ff.Process(
                arguments, writes=True, reads=is_archive, folder=self._runs_in()
            )
            if is_archive:
                self._archive = pngs.Archive(self._process, self._part, output.path.stem)
                self._archived = Prefetch(self._archive, 1, "archive")
        except BaseException as error:
            self._remove_part()
            if isinstance(error, FFmpegError):
                raise EncodeError(error.message, path=output.path, hint=error.hint) from error
            raise

    def write(self, planes: Planes | None, alpha: Plane | None = None) -> None:
        """Write a batch of frames.

        Args:
            planes: Three planes ``(B, H, W)``, ``(B, h, w)`` in the working format; None
                for a matte.
            alpha: Straight alpha ``(B, H, W)``, uint8 0..255 or uint16 0..65535; None for
                a composite.

        Raises:
            EncodeError: FFmpeg ended early: a full disk, a codec's refusal.
        """
        parts = self._parts(planes, alpha)
        try:
            for number in range(len(parts[0])):
                for part in parts:
                    frame = part[number]
                    if not frame.flags.c_contiguous:
                        frame = np.ascontiguousarray(frame)
                    self._process.write(frame.reshape(-1).view(np.uint8).data)
                self.frames_written += 1
        except (BrokenPipeError, FFmpegError) as error:
            raise self._failure(error) from error

    def _parts(self, planes: Planes | None, alpha: Plane | None) -> list[Plane]:
        """Return what goes down the pipe, one array ``(B, h, w)`` a plane of the raw format."""
        source, kind = self._info.format, self.output.kind
        parts: list[Plane] = []
        if planes is not None and kind != "matte":
            up = self._raw_depth - source.depth
            is_full = self._info.colour.range == "pc"
            parts = [
                _deeper(plane, source.depth, up, to_top=source.is_rgb or (is_full and not number))
                for number, plane in enumerate(planes)
            ]
            if kind == "alpha":
                parts[1:] = [self._full_chroma(plane) for plane in parts[1:]]
        if alpha is not None and kind != "composite":
            parts.append(_rescaled(alpha, self._raw_depth))
        height, width = self._size
        if (height, width) == (self._info.height, self._info.width):
            return parts
        luma, chroma, _ = source.plane_sizes(width, height)
        if "444" in self._raw_pix_fmt:
            chroma = luma
        sizes = [luma, chroma, chroma, luma]
        return [_grown(part, size) for part, size in zip(parts, sizes, strict=False)]

    def _full_chroma(self, plane: Plane) -> Plane:
        """Repeat chroma of 4:4:0, 4:1:1 and 4:1:0, which have no layout with alpha."""
        source = self._info.format
        if self._raw_pix_fmt.startswith(("yuva420", "yuva422", "gbrap")):
            return plane
        if (source.log2_chroma_w, source.log2_chroma_h) == (0, 0):
            return plane
        wide = plane.repeat(1 << source.log2_chroma_h, axis=1)
        wide = wide.repeat(1 << source.log2_chroma_w, axis=2)
        return wide[:, : self._info.height, : self._info.width]

    def _arguments(
        self, window: audio.Window | None, background: audio.BackgroundSound | None
    ) -> list[str]:
        info, output = self._info, self.output
        if window is None:
            options = self._video_options()
            node = ffmpeg.output(self._pictures(Fraction(0)), ff.file_url(self._part), **options)
            return ["-y", *_device_options(self._codec.device), *node.get_args()]
        is_file = not info.is_image and info.sequence is None
        has_clock = is_file and self._container.audio_encoder is not None
        subtitles = _subtitles(info, self._container) if has_clock else []
        # Raw video has no time stamps but the frames' numbers. Where something else of the clip
        # begins before its pictures, these start on the next whole frame, and all the rest is
        # put off by what that is too late.
        first_frame = 0
        if not window.is_trimmed and (
            audio.follows_source(info, self._container, output.sound)
            or subtitles
            or (has_clock and info.has_chapters)
        ):
            first_frame = ceil(window.start_s * (output.frame_rate or info.frame_rate))
        first_frame_s = first_frame / (output.frame_rate or info.frame_rate)
        sound = audio.tracks(info, self._container, output.sound, window, background, first_frame_s)
        streams = [self._pictures(first_frame_s), *(track.node for track in sound)]
        options = self._video_options() | self._timecode(window) | audio.encoder_options(sound)
        companion: Any = None
        if has_clock:
            if window.is_trimmed:
                part = {"ss": seconds(window.start_s), "t": seconds(window.duration_s)}
                companion = source_input(info.path, options=part)
                options["t"] = seconds(window.duration_s)
                if subtitles:
                    options["bsf:s"] = _CUT_SUBTITLES
            else:
                clock = audio.source_clock(window, first_frame_s)
                companion = source_input(info.path, options=clock)
            streams += [companion[str(index)] for index, _ in subtitles]
            for number, (_, subtitle_codec) in enumerate(subtitles):
                options[f"c:s:{number}"] = subtitle_codec
        arguments = ffmpeg.output(*streams, self._url(), **options).get_args()
        stated = [(f"a:{n}", track.metadata_of) for n, track in enumerate(sound)]
        stated += [(f"s:{n}", index) for n, (index, _) in enumerate(subtitles)]
        opened = _device_options(self._codec.device)
        return ["-y", *opened, *self._with_metadata(arguments, companion, stated)]

    def _url(self) -> str:
        """Return what FFmpeg writes to."""
        if self.output.suffix == ".zip":
            return "pipe:1"
        return self._folder.url if self._folder else ff.file_url(self._part)

    def _pictures(self, first_frame_s: Fraction) -> Any:
        """Return the node of the video stream, of which the first frame comes at a given time."""
        info, output = self._info, self.output
        height, width = self._size
        options: dict[str, object] = {
            "format": "rawvideo",
            "pix_fmt": self._raw_pix_fmt,
            "s": f"{width}x{height}",
            "framerate": str(info.frame_rate),
        }
        rate = output.frame_rate
        if first_frame_s and rate is None:
            options["itsoffset"] = seconds(first_frame_s)
        node = ffmpeg.input("pipe:0", **options)
        # Frames that are left out need no conversion, and those that are repeated only one.
        if rate is not None and rate < info.frame_rate:
            node = _at_rate(node, rate, first_frame_s)
        node = _stored(node, output, info)
        if rate is not None and rate >= info.frame_rate:
            node = _at_rate(node, rate, first_frame_s)
        if output.codec == "gif" and output.kind != "matte":
            node = _with_palette(node)
        return _uploaded(node, self._codec.device)

    def _timecode(self, window: audio.Window) -> dict[str, object]:
        """Return the option that keeps the clip's time code, which editors read from MOV."""
        info = self._info
        if self._container.muxer != "mov" or not info.timecode:
            return {}
        first = round((window.start_s - info.start) * info.frame_rate)
        rate = self.output.frame_rate or info.frame_rate
        later = timing.later_timecode(info.timecode, first, info.frame_rate, rate)
        return {} if later is None else {"metadata:s:v:0": f"timecode={later}"}

    def _new_part(self) -> Path:
        """Return the name that the file has until it is finished."""
        return _part_file(self.output.path)

    def _runs_in(self) -> Path | None:
        """Return where FFmpeg runs, or None for where we do."""
        return None

    def _with_metadata(
        self, arguments: list[str], companion: Any, stated: list[tuple[str, int | None]]
    ) -> list[str]:
        """Insert the options that name the source by its number among the inputs.

        Args:
            arguments: What ffmpeg-python compiled.
            companion: The source's node, or None to take nothing from it.
            stated: Output streams, and the source's stream whose language, title and the like
                each takes.
        """
        if companion is None:
            return arguments
        wanted = ffmpeg.output(companion, "x").get_args()
        wanted = wanted[: wanted.index("-i") + 2]
        starts = [0]
        number = None
        for position, argument in enumerate(arguments):
            if argument == "-i":
                if arguments[starts[-1] : position + 2] == wanted:
                    number = len(starts) - 1
                starts.append(position + 2)
        inputs: list[str] = []
        if number is None:  # nothing of it is mapped: it comes in for its metadata alone
            inputs = wanted
            number = len(starts) - 1
        chosen = ["-map_metadata", str(number)]
        if self._container.has_chapters:
            chosen += ["-map_chapters", str(number)]
        for stream, index in stated:
            if index is not None:
                chosen += [f"-map_metadata:s:{stream}", f"{number}:s:{index}"]
        head, tail = arguments[: starts[-1]], arguments[starts[-1] :]
        return [*head, *inputs, *tail[:-1], *chosen, tail[-1]]

    def _video_options(self) -> dict[str, object]:
        output, codec, container, info = self.output, self._codec, self._container, self._info
        if shows_sdr(output, info):
            info = _as_sdr(info)
        options: dict[str, object] = {
            "f": container.muxer,
            "fps_mode": "passthrough",
            **_encoder_options(output),
            **({} if self._is_segment else dict(container.options)),
        }
        if self._threads is not None:
            options["threads:v"] = self._threads
        stored_name = _stored_name(output, info.format)
        stored, _ = formats.working_format(stored_name)
        if codec.tag is not None and container.muxer in ("mp4", "mov"):
            options["tag:v"] = codec.tag
        if codec.encoder == "ffv1":
            size = self._size if output.scale is None else output_size(output, info)
            options["slices"] = _ffv1_slices(size, stored)
        if codec.encoder == "prores_ks":
            options["profile:v"] = "4444" if "444" in stored_name else "hq"
            if output.kind == "alpha":
                options["alpha_bits"] = 16
        if output.kind == "alpha" and codec.encoder == "libvpx-vp9":
            options["metadata:s:v:0"] = "alpha_mode=1"
        location = info.format.chroma_location
        is_420 = _subsampling(stored) == _subsampling(info.format) == (1, 1)
        if is_420 and location != "left" and output.kind != "matte":
            options["chroma_sample_location"] = location
        _, stored_colour = _colours(codec, info, output.kind, to_rgb=stored.is_rgb)
        if stored_colour.range == "pc" and not info.is_image and codec.is_tagged:
            # FFmpeg 9 converts to limited range for FFV1 unless the encoder is told as well.
            options["color_range"] = "pc"
        if info.is_image:
            options["frames:v"] = 1
        if output.kind != "matte" and light.light_of(info.colour) != "sdr":
            for name, text in _mastering_options(codec.encoder, info).items():
                options[name] = f"{options[name]}:{text}" if name in options else text
        if container.muxer == "mp4":
            options["strict"] = "-2"  # FLAC and Opus in MP4 are standards that FFmpeg 5 held back
        return options

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc_type is None:
                self.finish()
                self.publish()
        finally:
            self.discard()

    def finish(self) -> None:
        """Wait until the part file is whole.

        Raises:
            EncodeError: No frame was written, or FFmpeg failed.
        """
        if not self.frames_written:
            raise EncodeError("no frame was written", path=self.output.path)
        try:
            self._process.close_stdin()
            if self._archive is not None:
                next(self._archived)
            status = self._wait()
        except (OSError, FFmpegError) as error:
            raise self._failure(error) from error
        if status:
            raise self._failure(None)

    def publish(self) -> None:
        """Give what :meth:`finish` completed its final name.

        Raises:
            OutputError: The name was taken meanwhile, or cannot be given.
        """
        if self._folder is not None:
            self._folder.publish(self.output.overwrite)
        else:
            if self._is_segment:
                sync(self._part)
            take_name(self._part, self.output.path, self.output.overwrite)

    def retract(self) -> None:
        """Take the name away again that :meth:`publish` gave, unless it replaced an older file."""
        if self.output.overwrite:
            return
        if self._folder is not None:
            self._folder.retract()
        else:
            self.output.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """End FFmpeg if it still runs, and remove what is still under a part's name."""
        try:
            with self._process:
                self._process.kill()
                if self._archive is not None:
                    self._archived.close()
        finally:
            self._remove_part()

    def _remove_part(self) -> None:
        if self._folder is not None:
            self._folder.discard()
        else:
            self._part.unlink(missing_ok=True)

    def _wait(self) -> int:
        """Wait for FFmpeg's end and return its status, for as long as it goes on writing.

        Moving the index of a very large file to its front takes long, and is no stall.
        """
        last_written_ns = None
        while True:
            try:
                return self._process.wait()
            except FFmpegError:
                written_ns = self._part.stat().st_mtime_ns
                if written_ns == last_written_ns:
                    raise
                last_written_ns = written_ns

    def _failure(self, error: Exception | None) -> EncodeError:
        if isinstance(error, FFmpegError):
            cause = error.message
        elif self._archive is not None and self._archive.error is not None:
            cause = self._archive.error.strerror or str(self._archive.error)
        else:
            try:
                self._process.wait(10)
            except FFmpegError:
                self._process.kill()
            cause = self._process.cause()
            status = self._process.returncode
            if status is not None and status < 0:
                cause = f"FFmpeg was ended: {signal.strsignal(-status)}"
        full = re.search(r"No space left|File too large|File size limit", cause)
        return EncodeError(
            f"cannot be written ({cause})",
            path=self.output.path,
            hint="Free some space or choose another place with -o" if full else None,
            returncode=self._process.returncode,
            stderr_tail=tuple(self._process.tail),
        )


class Sinks:
    """Several outputs of the same frames, of which all are made or none.

    A context manager, as :class:`Sink` is. No file gets its name before all are whole. Should
    one then not get it, those that did lose theirs again; only what replaced an older file
    stays, since that one is gone.

    Args:
        outputs: What to write.
        info: The clip that the frames, the sound and the tags come from.
        window: The part of the clip that is used.
        background: The background's sound, if it has any.

    Raises:
        OutputError: A part file cannot be made.
        EncodeError: FFmpeg cannot be started.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        info: VideoInfo,
        window: audio.Window,
        background: audio.BackgroundSound | None = None,
    ) -> None:
        self._sinks: list[Sink] = []
        try:
            for output in outputs:
                self._sinks.append(Sink(output, info, window, background))
        except BaseException:
            self._discard()
            raise

    @property
    def frames_written(self) -> int:
        """Frames that all outputs have got."""
        return min(sink.frames_written for sink in self._sinks)

    def write(self, shown: Sequence[tuple[Planes | None, Plane | None]]) -> None:
        """Write a batch of frames.

        Args:
            shown: Of each output, what :meth:`Sink.write` takes.

        Raises:
            EncodeError: An FFmpeg ended early.
        """
        for sink, (planes, alpha) in zip(self._sinks, shown, strict=True):
            sink.write(planes, alpha)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc_type is None:
                for sink in self._sinks:
                    sink.finish()
                self._publish()
        finally:
            self._discard()

    def _publish(self) -> None:
        named: list[Sink] = []
        try:
            for sink in self._sinks:
                sink.publish()
                named.append(sink)
        except BaseException:
            for sink in named:
                sink.retract()
            raise

    def _discard(self) -> None:
        with ExitStack() as cleanup:
            for sink in self._sinks:
                cleanup.callback(sink.discard)


def _mastering_options(encoder: str, info: VideoInfo) -> dict[str, str]:
    """Return the options with which an encoder states what an HDR clip was graded on.

    Only x265 and SVT-AV1 take it as options; others would need it on the frames, and no pipe of
    raw frames carries that.
    """
    mastering = info.mastering
    if mastering is None or encoder not in ("libx265", "libsvtav1"):
        return {}
    is_x265 = encoder == "libx265"
    # x265 counts in the units of the bitstream (H.265, D.3.28), SVT-AV1 in whole ones.
    place, level = (50_000, 10_000) if is_x265 else (1, 1)

    def pair(values: tuple[float, float], unit: int) -> str:
        shown = [f"{value * unit:.0f}" if is_x265 else f"{value:.6g}" for value in values]
        return f"({','.join(shown)})"

    display = "".join(
        name + pair(point, place)
        for name, point in (
            ("G", mastering.green),
            ("B", mastering.blue),
            ("R", mastering.red),
            ("WP", mastering.white),
        )
    )
    display += "L" + pair((mastering.brightest, mastering.darkest), level)
    stated = [f"{'master-display' if is_x265 else 'mastering-display'}={display}"]
    if mastering.content is not None:
        brightest, average = mastering.content
        stated.append(f"{'max-cll' if is_x265 else 'content-light'}={brightest},{average}")
    return {"x265-params" if is_x265 else "svtav1-params": ":".join(stated)}


class Join(Sink):
    """Writes the output file of finished segments: their pictures are copied, not encoded again.

    All else is a :class:`Sink`'s: sound, subtitles, chapters and metadata are put in here, once.
    Nothing is to be written to it: make it, :meth:`finish`, :meth:`publish`, :meth:`discard`.

    Args:
        output: What to write.
        info: The clip that the frames, the sound and the tags come from.
        window: The part of the clip that is used.
        background: The background's sound, if it has any.
        segments: Files of one folder, in order, and how many frames are in each. Their names
            have nothing in them but letters, digits, dots and hyphens. Each was written by a
            :class:`Sink` without a window.
        part: The name that the file has until it is finished, on the output's file system. One
            that can be known again: an earlier run may have left it.

    Raises:
        EncodeError: FFmpeg cannot be started, or a segment cannot be read.
    """

    def __init__(
        self,
        output: Output,
        info: VideoInfo,
        window: audio.Window,
        background: audio.BackgroundSound | None,
        segments: Sequence[tuple[Path, int]],
        part: Path,
    ) -> None:
        self._segments = segments
        self._named_part = part.absolute()
        # FFmpeg runs in the segments' folder: the list of them then needs no path, which may
        # have a line break in it.
        info = replace(info, path=info.path.absolute())
        if background is not None:
            behind = replace(background.info, path=background.info.path.absolute())
            background = replace(background, info=behind)
        output = replace(output, path=output.path.absolute())
        super().__init__(output, info, window, background)

    def _new_part(self) -> Path:
        return self._named_part

    def _runs_in(self) -> Path:
        return self._segments[0][0].parent

    def _pictures(self, first_frame_s: Fraction) -> Any:
        options: dict[str, object] = {"format": "concat", "safe": 0, "auto_convert": 0}
        options["protocol_whitelist"] = "file,pipe"
        if first_frame_s:
            options["itsoffset"] = seconds(first_frame_s)
        return ffmpeg.input("pipe:0", **options)["v:0"]

    def _video_options(self) -> dict[str, object]:
        kept = {"f", "fps_mode", "tag:v", "strict", "metadata:s:v:0"}
        kept.add("chroma_sample_location")  # of VP9 in MP4 nothing is read of that
        kept |= {name for name, _ in self._container.options}
        options = {name: v for name, v in super()._video_options().items() if name in kept}
        options["c:v"] = "copy"
        first = self._segments[0][0]
        is_ours = (first.suffix == ".mkv") == (self._container.muxer in ("matroska", "webm"))
        if is_ours:
            # Where the segments' ticks are the output's, stamps are put on the exact grid again:
            # Matroska's are rounded to milliseconds in each. And a last segment of very few
            # frames has other decoding times than the encoder gives where there are more. (From
            # MP4 to Matroska they are exact as they come, and FFmpeg 5 would not know the unit.)
            tick = f"({1 / (self._info.frame_rate * _time_base(first))})"
            options["bsf:v"] = (
                f"setts=pts=round(round(PTS/{tick})*{tick})"
                f":dts=round((round(STARTDTS/{tick})+N)*{tick}):duration=round({tick})"
            )
        return options

    def finish(self) -> None:
        """Feed FFmpeg the list of segments, and wait until the part file is whole.

        Raises:
            EncodeError: FFmpeg failed.
            OutputError: The part file cannot be brought to the disk.
        """
        rate = self._info.frame_rate
        lines = ["ffconcat version 1.0"]
        before_us = 0
        for path, frames in self._segments:
            self.frames_written += frames
            end_us = round(self.frames_written / rate * 1_000_000)  # no sum of rounded lengths
            lines += [f"file file:{path.name}", f"duration {end_us - before_us}us"]
            before_us = end_us
        try:
            self._process.write(memoryview("\n".join([*lines, ""]).encode()))
        except (BrokenPipeError, FFmpegError) as error:
            raise self._failure(error) from error
        super().finish()
        sync(self._part)  # the segments go when it has its name


def _time_base(path: Path) -> Fraction:
    """Return the unit of a segment's time stamps, in seconds."""
    import av

    try:
        with av.open(f"file:{path}") as container:
            time_base = container.streams.video[0].time_base
    except (OSError, av.FFmpegError, IndexError) as error:
        raise EncodeError(f"a segment of it cannot be read ({error})", path=path) from error
    if time_base is None:
        raise EncodeError("a segment of it has no time stamps", path=path)
    return time_base


def sync(path: Path) -> None:
    """Wait until a file is on the disk for good.

    Raises:
        OutputError: The disk failed, or is full after all.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", path=path) from error


def _ffv1_slices(size: tuple[int, int], plane_format: PlaneFormat) -> int:
    """Return the number of slices from four up with which FFmpeg's FFV1 keeps every sample.

    It lets the chroma of a slice begin at the slice's first luma sample, rounded down, and be as
    long as the slice's luma asks for, rounded up. Where that is one sample early, the frame's
    last row or column of chroma is lost: with four slices, that of 4:2:0 of 4k + 3 columns.

    Args:
        size: Height and width in pixels.
        plane_format: The working format.
    """
    height, width = size
    for down in range(2, 8):
        for across in range(down, 2 * down):  # the grids that FFmpeg tries, in its order
            if _is_covered(height, down, plane_format.log2_chroma_h) and _is_covered(
                width, across, plane_format.log2_chroma_w
            ):
                return down * across
    return 1


def _is_covered(length: int, parts: int, shift: int) -> bool:
    """Say whether slices cover all chroma along one side, and none is a sliver."""
    edges = [n * length // parts for n in range(parts + 1)]
    ends = [(a >> shift) + -(-(b - a) >> shift) for a, b in itertools.pairwise(edges)]
    wanted = [*(edge >> shift for edge in edges[1:-1]), -(-length >> shift)]
    return length >= 8 * parts and all(map(operator.ge, ends, wanted))


def _container(output: Output) -> formats.Container:
    """Return the file format of an output, with what its codec changes about it."""
    container = container_of(output.path, output.container)
    editors_sound = output.encoder.audio_encoder
    if container.muxer == "mov" and editors_sound is not None:
        container = replace(container, audio_encoder=editors_sound)
    return container


def _stored_name(output: Output, plane_format: PlaneFormat) -> str:
    """Return the pix_fmt in which an output is stored."""
    if output.pix_fmt is not None:
        return output.pix_fmt
    return formats.stored_pix_fmt(output.encoder, plane_format, output.kind)


def _raw_format(output: Output, plane_format: PlaneFormat) -> tuple[str, int]:
    """Return the pix_fmt that goes down the pipe, and its depth."""
    if output.kind == "composite":
        return plane_format.pix_fmt, plane_format.depth
    depth = _depth_of(_stored_name(output, plane_format))
    if output.kind == "matte":
        return formats.pix_fmt_name("gray", depth), depth
    # swscale makes alpha deeper by a bare shift, after which opaque is no longer opaque: where
    # the codec's alpha is deeper than the clip, we make it so.
    return formats.alpha_layout(replace(plane_format, depth=max(plane_format.depth, depth)))


def _depth_of(pix_fmt: str) -> int:
    return formats.working_format(pix_fmt)[0].depth


def _grown(plane: Plane, size: tuple[int, int]) -> Plane:
    """Repeat a plane's last row and column until it has ``size``, (height, width)."""
    down, across = size[0] - plane.shape[1], size[1] - plane.shape[2]
    return cast("Plane", np.pad(plane, ((0, 0), (0, down), (0, across)), mode="edge"))


def _deeper(plane: Plane, depth: int, up: int, *, to_top: bool) -> Plane:
    """Return samples of ``depth`` bits with ``up`` bits more, and the top of the scale at the top.

    Args:
        plane: The samples.
        depth: Their bits.
        up: 0 to ``depth``.
        to_top: The scale ends with the largest code, as in full range; else it is shifted.
    """
    if not up:
        return plane
    shifted: NDArray[np.uint16] = np.left_shift(plane, up, dtype=np.uint16)
    if to_top:
        np.bitwise_or(shifted, plane >> (depth - up), out=shifted)
    return shifted


def _rescaled(alpha: Plane, depth: int) -> Plane:
    """Return an alpha at another depth, rounded."""
    top, new_top = int(np.iinfo(alpha.dtype).max), (1 << depth) - 1
    if top == new_top:
        return alpha
    scaled: NDArray[np.uint32] = (alpha.astype(np.uint32) * new_top + top // 2) // top
    return scaled.astype(np.uint8) if depth == 8 else scaled.astype(np.uint16)


def _at_rate(node: Any, rate: Fraction, first_frame_s: Fraction) -> Any:
    """Repeat and drop frames by time, and let the first come at a given time.

    Args:
        node: The frames, from time 0 on.
        rate: Frames a second.
        first_frame_s: A whole number of frames at that rate, in seconds.
    """
    node = node.filter("fps", str(rate), round="near", eof_action="round")
    later = first_frame_s * rate
    return node.filter("setpts", f"PTS+{later}") if later else node


def _with_palette(node: Any) -> Any:
    """Bring frames to 256 colours each, one of them clear.

    A palette for each frame needs no more than that frame; one for all would need them all.
    """
    both = node.split()
    palette = both[0].filter("palettegen", stats_mode="single", reserve_transparent=1)
    return ffmpeg.filter(
        [both[1], palette], "paletteuse", new=1, alpha_threshold=128, dither="bayer", bayer_scale=4
    )


def _stored(node: Any, output: Output, info: VideoInfo) -> Any:
    """Convert raw frames to what the codec stores, and tag them."""
    kind, codec = output.kind, output.encoder
    raw_name, _ = _raw_format(output, info.format)
    if shows_sdr(output, info):
        node, info = _tone_mapped(node, raw_name, info)
        raw_name, _ = _raw_format(output, info.format)
    stored_name = _stored_name(output, info.format)
    raw, stored = (formats.working_format(name)[0] for name in (raw_name, stored_name))
    before, after = _colours(codec, info, kind, to_rgb=stored.is_rgb)
    flags = f"bicubic+{ff.EXACT_FLAGS}"
    convert: dict[str, object] = {"in_range": before.range, "out_range": after.range}
    if kind != "matte":
        if not raw.is_rgb:
            convert["in_color_matrix"] = scale_matrix(before.matrix)
        if not stored.is_rgb:
            convert["out_color_matrix"] = scale_matrix(after.matrix)
        location = info.format.chroma_location
        keeps_chroma = _subsampling(raw) == _subsampling(stored)
        h, v = formats.chroma_position(raw, location)
        convert |= {"in_h_chr_pos": h, "in_v_chr_pos": v}
        h, v = formats.chroma_position(stored, location if keeps_chroma else "left")
        convert |= {"out_h_chr_pos": h, "out_v_chr_pos": v}
    if kind != "matte" and _depth_of(stored_name) < info.format.depth:
        convert["sws_dither"] = "bayer"
    is_scaled = False
    if output.scale is not None:
        height, width = output_size(output, info)
        is_scaled = (height, width) != (info.height, info.width)
        convert |= {"w": width, "h": height}
    if (
        is_scaled
        or raw_name != stored_name
        or (before.range, before.matrix) != (after.range, after.matrix)
    ):
        node = node.filter("scale", flags=flags, **convert).filter("format", stored_name)
    if not info.is_image and codec.is_tagged:
        spread = info.colour.range if after.range == before.range else after.range
        tags = after if raw.is_rgb or kind == "matte" else replace(info.colour, range=spread)
        if stored.is_rgb:
            tags = replace(tags, matrix="gbr", range="pc")
        elif is_scaled and tags.matrix == "unknown" and kind != "matte":
            # Left untagged, another size might be taken for another matrix.
            tags = replace(tags, matrix=after.matrix)
        node = node.filter(
            "setparams",
            range={"tv": "limited", "pc": "full"}.get(tags.range, "unknown"),
            colorspace=tags.matrix,
            color_primaries=tags.primaries,
            color_trc=tags.transfer,
        )
    sar = _output_sar(output, info)
    largest = max(sar.numerator, sar.denominator)
    return node.filter("setsar", f"{sar.numerator}/{sar.denominator}", max=largest)


def _colours(
    codec: formats.Codec, info: VideoInfo, kind: str, *, to_rgb: bool
) -> tuple[Colour, Colour]:
    """Return the colour of the raw frames and of what is stored, as conversions take them."""
    if kind == "matte":
        # Black and white of a matte are 0 and the maximum, wherever a file can say so.
        return Colour("pc"), Colour("pc" if codec.has_full_range else "tv")
    before = colours.resolve(info.colour, info.format, info.height)
    if to_rgb:
        return before, replace(before, range="pc", matrix="gbr")
    if codec.encoder == "mjpeg":  # JFIF is defined with full range and BT.601's matrix
        return before, Colour("pc", "smpte170m")
    if not info.format.is_rgb:
        return before, before if codec.has_full_range else replace(before, range="tv")
    primaries, transfer = (
        "bt709" if tag == "unknown" else tag for tag in (before.primaries, before.transfer)
    )
    return before, Colour("tv", "bt709", primaries, transfer)


def _subsampling(plane_format: PlaneFormat) -> tuple[int, int]:
    return plane_format.log2_chroma_w, plane_format.log2_chroma_h


def shows_sdr(output: Output, info: VideoInfo) -> bool:
    """Say whether an output shows an HDR clip as SDR: a picture, or a codec of 8 bits."""
    if output.kind == "matte" or light.light_of(info.colour) == "sdr":
        return False
    deep = replace(info.format, depth=max(10, info.format.depth))
    # Hardly any viewer knows what HDR in a picture means.
    return info.is_image or _depth_of(_stored_name(output, deep)) == 8


def _tone_mapped(node: Any, pix_fmt: str, info: VideoInfo) -> tuple[Any, VideoInfo]:
    """Bring frames of an HDR clip to SDR.

    Args:
        node: The frames, perhaps with alpha.
        pix_fmt: Their format.
        info: The clip.

    Returns:
        The node, in 16-bit R'G'B' with the alpha, and what the clip would be then.
    """
    colour = colours.resolve(info.colour, info.format, info.height)

    def convert(frames: Any) -> Any:
        options: dict[str, object] = {"in_range": colour.range, "out_range": "pc"}
        if not info.format.is_rgb:
            options["in_color_matrix"] = scale_matrix(colour.matrix)
            h, v = formats.chroma_position(info.format, info.format.chroma_location)
            options |= {"in_h_chr_pos": h, "in_v_chr_pos": v}
        frames = frames.filter("scale", flags=f"bicubic+{ff.EXACT_FLAGS}", **options)
        return light.relit(frames.filter("format", "gbrp16le"), colour, light.SDR)

    plain, has_alpha = formats.working_format(pix_fmt)
    node = light.beside_alpha(node, plain.pix_fmt, convert) if has_alpha else convert(node)
    return node, _as_sdr(info)


def _as_sdr(info: VideoInfo) -> VideoInfo:
    """Return what an HDR clip is once it is tone-mapped."""
    return replace(info, format=formats.working_format("gbrp16le")[0], colour=light.SDR)


def keeps_depth(output: Output, info: VideoInfo) -> bool:
    """Say whether an output has all bits of the clip's samples; a matte has none of them."""
    stored = _stored_name(output, info.format)
    return output.kind == "matte" or _depth_of(stored) >= info.format.depth


def _subtitles(info: VideoInfo, container: formats.Container) -> list[tuple[int, str]]:
    """Return (stream index, codec) of the subtitles that the container can take."""
    taken = []
    for track in info.subtitles:
        if container.subtitles_copied is None or track.codec in container.subtitles_copied:
            taken.append((track.index, "copy"))
        elif track.is_text and container.text_subtitles is not None:
            taken.append((track.index, container.text_subtitles))
        else:
            logger.warning(
                "%s: subtitle track %d (%s) cannot be carried and is left out",
                info.path,
                track.index,
                track.codec,
            )
    return taken


def _part_file(path: Path) -> Path:
    """Create and return an empty file of a new name beside ``path``, for FFmpeg to fill."""
    # A long name is cut, or the part's would be too long where the result's own is not.
    part = path.with_name(f"{path.stem[:40]}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", path=path) from error
    return part
