"""The result: FFmpeg processes that take raw frames and write finished files."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import ffmpeg
import numpy as np

from vidbg import machine
from vidbg.errors import EncodeError, FFmpegError, OutputError
from vidbg.frames import VideoInfo
from vidbg.media import audio, formats, light, pngs, timing
from vidbg.media import ffmpeg as ff
from vidbg.media.encode import (
    Output,
    container_for,
    device_options,
    encoder_options,
    encoder_threads,
    has_default_preset,
    output_size,
    raw_format,
    shows_sdr,
    stored_in,
    uploaded,
)
from vidbg.media.source import seconds
from vidbg.media.stored import (
    as_sdr,
    as_stored,
    at_rate,
    colours_of,
    deeper,
    ffv1_slices,
    grown,
    mastering_options,
    rescaled,
    subsampling,
    with_palette,
)
from vidbg.prefetch import Prefetch
from vidbg.profile import stage
from vidbg.whole import Part, take_name

if TYPE_CHECKING:
    from vidbg.frames import Plane, Planes

logger = logging.getLogger(__name__)


# FFmpeg keeps subtitles from before the point that it was told to begin at, at times below 0,
# and puts off everything else by that.
_CUT_SUBTITLES = r"noise=drop=lt(pts\,0)"

# Browsers show frames of less than 20 ms for a tenth of a second each.
_FASTEST_GIF = 50
# How often is looked whether what is being written is still there.
_LOOK_EVERY_S = 1.0
# Between 1440p and 4K: from here on an encoder's frames are most of a job's memory.
_LARGE_PIXELS = 6_000_000


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

    @stage("encode")
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
        self._looked_s = time.monotonic()
        self._info = info
        self._codec = output.encoder
        self._container = container_for(output)
        self._is_segment = window is None
        self._threads = threads
        self._raw_pix_fmt, self._raw_depth = raw_format(output, info.format)
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
        self._held: Part | None = None
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

    @stage("encode")
    def write(self, planes: Planes | None, alpha: Plane | None = None) -> None:
        """Write a batch of frames.

        Args:
            planes: Three planes ``(B, H, W)``, ``(B, h, w)`` in the working format; None
                for a matte.
            alpha: Straight alpha ``(B, H, W)``, uint8 0..255 or uint16 0..65535; None for
                a composite.

        Raises:
            EncodeError: FFmpeg ended early: a full disk, a codec's refusal. Or what it writes
                was removed.
        """
        self._look_after_part()
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

    def _look_after_part(self) -> None:
        """Raise :class:`EncodeError` if the part is gone: FFmpeg would write on, for nobody."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        if not self._part.exists():
            what = "what was made of it" if self._part.parent.is_dir() else "its folder"
            raise EncodeError(f"{what} was removed while the job ran", path=self.output.path)

    def _parts(self, planes: Planes | None, alpha: Plane | None) -> list[Plane]:
        """Return what goes down the pipe, one array ``(B, h, w)`` a plane of the raw format."""
        source, kind = self._info.format, self.output.kind
        parts: list[Plane] = []
        if planes is not None and kind != "matte":
            up = self._raw_depth - source.depth
            is_full = self._info.colour.range == "pc"
            parts = [
                deeper(plane, source.depth, up, to_top=source.is_rgb or (is_full and not number))
                for number, plane in enumerate(planes)
            ]
            if kind == "alpha":
                parts[1:] = [self._full_chroma(plane) for plane in parts[1:]]
        if alpha is not None and kind != "composite":
            parts.append(rescaled(alpha, self._raw_depth))
        height, width = self._size
        if (height, width) == (self._info.height, self._info.width):
            return parts
        luma, chroma, _ = source.plane_sizes(width, height)
        if "444" in self._raw_pix_fmt:
            chroma = luma
        sizes = [luma, chroma, chroma, luma]
        return [grown(part, size) for part, size in zip(parts, sizes, strict=False)]

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
            return ["-y", *device_options(self._codec.device), *node.get_args()]
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
                companion = audio.opened(info, part)
                options["t"] = seconds(window.duration_s)
                if subtitles:
                    options["bsf:s"] = _CUT_SUBTITLES
            else:
                clock = audio.source_clock(window, first_frame_s)
                companion = audio.opened(info, clock)
            streams += [companion[str(index)] for index, _ in subtitles]
            for number, (_, subtitle_codec) in enumerate(subtitles):
                options[f"c:s:{number}"] = subtitle_codec
        arguments = ffmpeg.output(*streams, self._url(), **options).get_args()
        stated = [(f"a:{n}", track.metadata_of) for n, track in enumerate(sound)]
        stated += [(f"s:{n}", index) for n, (index, _) in enumerate(subtitles)]
        opened = device_options(self._codec.device)
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
            node = at_rate(node, rate, first_frame_s)
        node = as_stored(node, output, info)
        if rate is not None and rate >= info.frame_rate:
            node = at_rate(node, rate, first_frame_s)
        if output.codec == "gif" and output.kind != "matte":
            node = with_palette(node)
        return uploaded(node, self._codec.device)

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
        path = self.output.path
        try:
            self._held = Part(path.parent, path.stem, path.suffix, _make_empty)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", path=path) from error
        return self._held.path

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
            info = as_sdr(info)
        options: dict[str, object] = {
            "f": container.muxer,
            "fps_mode": "passthrough",
            **encoder_options(output),
            **({} if self._is_segment else dict(container.options)),
        }
        threads = self._threads
        if threads is None and machine.cores() < machine.allowed_cores():
            # Encoders count the cores of the host, and overlook the share that is granted of them:
            # they would take memory for threads that get no time.
            threads = encoder_threads(codec.encoder, machine.cores())
        if threads is not None:
            options["threads:v"] = threads
        stored_name = stored_in(output, info.format)
        stored, _ = formats.working_format(stored_name)
        if codec.tag is not None and container.muxer in ("mp4", "mov"):
            options["tag:v"] = codec.tag
        size = self._size if output.scale is None else output_size(output, info)
        if size[0] * size[1] >= _LARGE_PIXELS and has_default_preset(output):
            options |= dict(codec.large)
        if codec.encoder == "ffv1":
            options["slices"] = ffv1_slices(size, stored)
        if codec.encoder == "prores_ks":
            options["profile:v"] = "4444" if "444" in stored_name else "hq"
            if output.kind == "alpha":
                options["alpha_bits"] = 16
        if output.kind == "alpha" and codec.encoder == "libvpx-vp9":
            options["metadata:s:v:0"] = "alpha_mode=1"
        location = info.format.chroma_location
        is_420 = subsampling(stored) == subsampling(info.format) == (1, 1)
        if is_420 and location != "left" and output.kind != "matte":
            options["chroma_sample_location"] = location
        _, stored_colour = colours_of(codec, info, output.kind, to_rgb=stored.is_rgb)
        if stored_colour.range == "pc" and not info.is_image and codec.is_tagged:
            # FFmpeg 9 converts to limited range for FFV1 unless the encoder is told as well.
            options["color_range"] = "pc"
        if info.is_image:
            options["frames:v"] = 1
        if output.kind != "matte" and light.light_of(info.colour) != "sdr":
            for name, text in mastering_options(codec.encoder, info).items():
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

    @stage("encode")
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
            return
        try:
            self._part.unlink(missing_ok=True)
        except OSError as error:  # and what failed before that is what has to be told
            logger.warning("%s: is left behind (%s)", self._part, error.strerror)
        if self._held is not None:
            self._held.release()

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
        hint = None
        if isinstance(error, FFmpegError):
            cause, hint = error.message, error.hint
        elif self._archive is not None and self._archive.error is not None:
            cause = self._archive.error.strerror or str(self._archive.error)
        else:
            try:
                self._process.wait(10)
            except FFmpegError:
                self._process.kill()
            cause = self._process.cause()
        if re.search(r"No space left|File too large|File size limit", cause):
            hint = "Free some space or choose another place with -o"
        hint = hint or ff.hint_for(cause)
        return EncodeError(
            f"cannot be written ({cause})",
            path=self.output.path,
            hint=hint,
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

    @stage("encode")
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


def _make_empty(path: Path) -> None:
    """Make an empty file, for FFmpeg to fill."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
