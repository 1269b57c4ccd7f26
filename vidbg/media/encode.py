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
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import ffmpeg
import numpy as np

from vidbg import colour as colours
from vidbg.errors import EncodeError, FFmpegError, OutputError
from vidbg.frames import Colour, PlaneFormat, VideoInfo
from vidbg.media import audio, formats
from vidbg.media import ffmpeg as ff
from vidbg.media.formats import scale_matrix
from vidbg.media.source import seconds, source_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import Plane, Planes

logger = logging.getLogger(__name__)

KINDS = ("composite", "alpha", "matte")
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})

# FFmpeg keeps subtitles from before the point that it was told to begin at, at times below 0,
# and puts off everything else by that.
_CUT_SUBTITLES = r"noise=drop=lt(pts\,0)"


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
    """

    path: Path
    kind: str
    codec: str
    crf: int | None = None
    preset: str | None = None
    sound: str = "source"
    overwrite: bool = False


def default_path(source: Path, kind: str, codec: str | None = None) -> Path:
    """Return the name of a result that was not given one: ``STEM.vidbg.EXT`` beside the source.

    Args:
        source: The clip or picture.
        kind: One of :data:`KINDS`.
        codec: The codec asked for, which may need another container than the default.
    """
    suffix = {"composite": ".mp4", "alpha": ".mov", "matte": ".mp4"}[kind]
    if source.suffix.lower() in formats.IMAGE_SUFFIXES:
        keeps = kind == "composite" and source.suffix.lower() in PICTURE_SUFFIXES
        suffix = source.suffix if keeps else ".png"
    elif codec is not None and codec not in _offered(formats.CONTAINERS[suffix], kind):
        carriers = (s for s, c in formats.CONTAINERS.items() if codec in _offered(c, kind))
        suffix = next(carriers, suffix)
    return source.with_name(f"{source.stem}.vidbg{suffix}")


def _offered(container: formats.Container, kind: str) -> tuple[str, ...]:
    """Return the codecs that a container carries an output of this kind in."""
    return container.alpha_codecs if kind == "alpha" else container.codecs


def container_of(path: Path) -> formats.Container:
    """Return the file format that a name's extension stands for.

    Raises:
        OutputError: None that vidbg writes.
    """
    container = formats.CONTAINERS.get(path.suffix.lower())
    if container is None:
        known = " ".join(formats.CONTAINERS)
        what = f"unknown extension {path.suffix!r}" if path.suffix else "has no extension"
        raise OutputError(what, path=path, hint=f"Use one of {known}")
    return container


def choose_codec(path: Path, kind: str, wanted: str | None) -> str:
    """Return the codec for an output, checked against what its container carries.

    Args:
        path: The output.
        kind: One of :data:`KINDS`.
        wanted: The codec asked for, or None for the container's default.

    Raises:
        OutputError: The container cannot carry it, or not with alpha.
    """
    container = container_of(path)
    offered = _offered(container, kind)
    if not offered:
        raise OutputError(
            f"{path.suffix} cannot carry transparency",
            path=path,
            hint="Use .mov (ProRes 4444), .webm (VP9), .mkv (FFV1) or, for a picture, .png",
        )
    if wanted is None:
        return container.matte_codec if kind == "matte" else offered[0]
    if wanted not in offered:
        what = "with transparency " if kind == "alpha" else ""
        raise OutputError(
            f"{path.suffix} cannot carry {wanted} {what}here",
            path=path,
            hint=f"It carries {', '.join(offered)}",
        )
    return wanted


def quality_problem(codec_name: str, crf: int | None, preset: str | None) -> tuple[str, str] | None:
    """Return which of the two a codec does not take, "crf" or "preset", and what it takes."""
    codec = formats.CODECS[codec_name]
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
        self._codec = formats.CODECS[output.codec]
        self._container = container_of(output.path)
        self._is_segment = window is None
        self._threads = threads
        self._raw_pix_fmt, self._raw_depth = _raw_format(output.kind, info.format, self._codec)
        self._size = info.height, info.width
        if self._codec.even_sizes:
            self._size = info.height + info.height % 2, info.width + info.width % 2
        if self._size != (info.height, info.width) and not self._is_segment:
            logger.warning(
                "%s: %dx%d is odd, which %s cannot store: one row or column is repeated",
                info.path,
                info.width,
                info.height,
                output.codec,
            )
        self._part = self._new_part()
        try:
            arguments = self._arguments(window, background)
            self._process = ff.Process(arguments, writes=True, folder=self._folder())
        except BaseException as error:
            self._part.unlink(missing_ok=True)
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
            streams = [self._pictures(Fraction(0))]
            return ["-y", *ffmpeg.output(*streams, ff.file_url(self._part), **options).get_args()]
        has_clock = not info.is_image and self._container.audio_encoder is not None
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
            first_frame = ceil(window.start_s * info.frame_rate)
        first_frame_s = first_frame / info.frame_rate
        sound = audio.tracks(info, self._container, output.sound, window, background, first_frame_s)
        streams = [self._pictures(first_frame_s), *(track.node for track in sound)]
        options = self._video_options() | audio.encoder_options(sound)
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
        arguments = ffmpeg.output(*streams, ff.file_url(self._part), **options).get_args()
        stated = [(f"a:{n}", track.metadata_of) for n, track in enumerate(sound)]
        stated += [(f"s:{n}", index) for n, (index, _) in enumerate(subtitles)]
        return ["-y", *self._with_metadata(arguments, companion, stated)]

    def _pictures(self, first_frame_s: Fraction) -> Any:
        """Return the node of the video stream, of which the first frame comes at a given time."""
        height, width = self._size
        options: dict[str, object] = {
            "format": "rawvideo",
            "pix_fmt": self._raw_pix_fmt,
            "s": f"{width}x{height}",
            "framerate": str(self._info.frame_rate),
        }
        if first_frame_s:
            options["itsoffset"] = seconds(first_frame_s)
        return _stored(ffmpeg.input("pipe:0", **options), self.output, self._codec, self._info)

    def _new_part(self) -> Path:
        """Return the name that the file has until it is finished."""
        return _part_file(self.output.path)

    def _folder(self) -> Path | None:
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
        options: dict[str, object] = {
            "c:v": codec.encoder,
            "f": container.muxer,
            "fps_mode": "passthrough",
            **dict(codec.options),
            **({} if self._is_segment else dict(container.options)),
        }
        if self._threads is not None:
            options["threads:v"] = self._threads
        if codec.crf is not None:
            options["crf"] = output.crf if output.crf is not None else codec.crf
        if codec.preset_option is not None:
            options[codec.preset_option] = output.preset or codec.preset
        if codec.tag is not None and container.muxer in ("mp4", "mov"):
            options["tag:v"] = codec.tag
        if codec.encoder == "ffv1":
            options["slices"] = _ffv1_slices(self._size, info.format)
        if codec.encoder == "prores_ks":
            is_444 = "444" in formats.stored_pix_fmt(codec, info.format, output.kind)
            options["profile:v"] = "4444" if is_444 else "hq"
            if output.kind == "alpha":
                options["alpha_bits"] = 16
        if output.kind == "alpha" and codec.encoder == "libvpx-vp9":
            options["metadata:s:v:0"] = "alpha_mode=1"
        location = info.format.chroma_location
        stored, _ = formats.working_format(formats.stored_pix_fmt(codec, info.format, output.kind))
        is_420 = _subsampling(stored) == _subsampling(info.format) == (1, 1)
        if is_420 and location != "left" and output.kind != "matte":
            options["chroma_sample_location"] = location
        _, stored_colour = _colours(codec, info, output.kind, to_rgb=stored.is_rgb)
        if stored_colour.range == "pc" and not info.is_image:
            # FFmpeg 9 converts to limited range for FFV1 unless the encoder is told as well.
            options["color_range"] = "pc"
        if info.is_image:
            options["frames:v"] = 1
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
            status = self._wait()
        except (BrokenPipeError, FFmpegError) as error:
            raise self._failure(error) from error
        if status:
            raise self._failure(None)

    def publish(self) -> None:
        """Give what :meth:`finish` completed its final name.

        Raises:
            OutputError: The name was taken meanwhile, or cannot be given.
        """
        if self._is_segment:
            sync(self._part)
        _publish(self._part, self.output)

    def discard(self) -> None:
        """End FFmpeg if it still runs, and remove the part file if it is still there."""
        try:
            with self._process:
                pass
        finally:
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

    def _folder(self) -> Path:
        return self._segments[0][0].parent

    def _pictures(self, first_frame_s: Fraction) -> Any:
        options: dict[str, object] = {"format": "concat", "safe": 0, "auto_convert": 0}
        options["protocol_whitelist"] = "file,pipe"
        if first_frame_s:
            options["itsoffset"] = seconds(first_frame_s)
        return ffmpeg.input("pipe:0", **options)["v:0"]

    def _video_options(self) -> dict[str, object]:
        kept = {"f", "fps_mode", "tag:v", "strict", "metadata:s:v:0"}
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


def _raw_format(kind: str, plane_format: PlaneFormat, codec: formats.Codec) -> tuple[str, int]:
    """Return the pix_fmt that goes down the pipe, and its depth."""
    if kind == "composite":
        return plane_format.pix_fmt, plane_format.depth
    depth = _stored_depth(codec, plane_format, kind)
    if kind == "matte":
        return formats.pix_fmt_name("gray", depth), depth
    # swscale makes alpha deeper by a bare shift, after which opaque is no longer opaque: where
    # the codec's alpha is deeper than the clip, we make it so.
    return formats.alpha_layout(replace(plane_format, depth=max(plane_format.depth, depth)))


def _stored_depth(codec: formats.Codec, plane_format: PlaneFormat, kind: str) -> int:
    stored = formats.stored_pix_fmt(codec, plane_format, kind)
    return formats.working_format(stored)[0].depth


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


def _stored(node: Any, output: Output, codec: formats.Codec, info: VideoInfo) -> Any:
    """Convert raw frames to what the codec stores, and tag them."""
    kind = output.kind
    raw_name, _ = _raw_format(kind, info.format, codec)
    stored_name = formats.stored_pix_fmt(codec, info.format, kind)
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
    if _depth_falls(info, codec, kind):
        convert["sws_dither"] = "bayer"
    if raw_name != stored_name or (before.range, before.matrix) != (after.range, after.matrix):
        node = node.filter("scale", flags=flags, **convert).filter("format", stored_name)
    if not info.is_image:
        spread = info.colour.range if after.range == before.range else after.range
        tags = after if raw.is_rgb or kind == "matte" else replace(info.colour, range=spread)
        node = node.filter(
            "setparams",
            range={"tv": "limited", "pc": "full"}.get(tags.range, "unknown"),
            colorspace=tags.matrix,
            color_primaries=tags.primaries,
            color_trc=tags.transfer,
        )
    sar = info.sar
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


def _depth_falls(info: VideoInfo, codec: formats.Codec, kind: str) -> bool:
    return kind != "matte" and _stored_depth(codec, info.format, kind) < info.format.depth


def keeps_depth(codec_name: str, info: VideoInfo, kind: str) -> bool:
    """Say whether a codec stores all bits of the clip's samples."""
    return not _depth_falls(info, formats.CODECS[codec_name], kind)


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


def _publish(part: Path, output: Output) -> None:
    """Give a finished file its final name; an existing one is replaced only if asked."""
    try:
        if output.overwrite:
            part.replace(output.path)
            return
        try:
            os.link(part, output.path)  # fails where the name is taken: no gap to lose a race in
        except FileExistsError:
            raise OutputError(
                "appeared while the job ran", path=output.path, hint="Use -y to overwrite it"
            ) from None
        except OSError:  # a file system without hard links
            if output.path.exists():
                raise OutputError("appeared while the job ran", path=output.path) from None
            part.rename(output.path)
    except OSError as error:
        raise OutputError(f"cannot be named ({error.strerror})", path=output.path) from error
