"""The result: an FFmpeg process that takes raw frames and writes the finished file."""

from __future__ import annotations

import logging
import os
import secrets
from dataclasses import dataclass
from fractions import Fraction
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
from vidbg.media.rawvideo import shifted
from vidbg.media.source import seconds, source_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import Plane, Planes

logger = logging.getLogger(__name__)

KINDS = ("composite", "alpha", "matte")
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


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


def default_path(source: Path, kind: str) -> Path:
    """Return the name of a result that was not given one: ``STEM.vidbg.EXT`` beside the source."""
    suffix = {"composite": ".mp4", "alpha": ".mov", "matte": ".mp4"}[kind]
    if source.suffix.lower() in formats.IMAGE_SUFFIXES:
        keeps = kind == "composite" and source.suffix.lower() in PICTURE_SUFFIXES
        suffix = source.suffix if keeps else ".png"
    return source.with_name(f"{source.stem}.vidbg{suffix}")


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
    offered = container.alpha_codecs if kind == "alpha" else container.codecs
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


def check_writable(path: Path, source: Path, overwrite: bool) -> None:
    """Raise :class:`OutputError` unless ``path`` can become a result of ``source``."""
    if path.exists():
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
        window: The part of the clip that is used.
        background: The background's sound, if it has any.

    Raises:
        OutputError: The part file cannot be made.
        EncodeError: FFmpeg cannot be started.
    """

    def __init__(
        self,
        output: Output,
        info: VideoInfo,
        window: audio.Window,
        background: audio.BackgroundSound | None = None,
    ) -> None:
        self.output = output
        self.frames_written = 0
        self._info = info
        self._codec = formats.CODECS[output.codec]
        self._container = container_of(output.path)
        self._raw_pix_fmt, self._raw_depth = _raw_format(output.kind, info.format)
        sound = audio.tracks(info, self._container, output.sound, window, background)
        self._pad = (
            (info.height % 2, info.width % 2)
            if self._codec.even_sizes and not info.is_image
            else (0, 0)
        )
        if any(self._pad):
            logger.warning(
                "%s: %dx%d is odd, which %s cannot store: one row or column is repeated",
                info.path,
                info.width,
                info.height,
                output.codec,
            )
        self._part = _part_file(output.path)
        try:
            arguments = self._arguments(sound, window)
            self._process = ff.Process(arguments, writes=True)
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
        depth = self._info.format.depth
        kind = self.output.kind
        parts: list[Plane] = []
        if planes is not None and kind != "matte":
            # 9- to 16-bit formats without an alpha variant of their own go one deeper.
            up = self._raw_depth - depth
            parts = [shifted(plane, up) for plane in planes]
            if kind == "alpha":
                parts[1:] = [self._full_chroma(plane) for plane in parts[1:]]
        if alpha is not None and kind != "composite":
            fits = depth == 8 or kind == "matte" or self._raw_depth == 16
            parts.append(alpha if fits else _rescaled(alpha, self._raw_depth))
        down, across = self._pad
        if not (down or across):
            return parts
        size = (self._info.height, self._info.width)
        return [_grown(part, down, across) if part.shape[1:] == size else part for part in parts]

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

    def _arguments(self, sound: list[audio.Track], window: audio.Window) -> list[str]:
        info, output, codec = self._info, self.output, self._codec
        down, across = self._pad
        raw_options: dict[str, object] = {
            "format": "rawvideo",
            "pix_fmt": self._raw_pix_fmt,
            "s": f"{info.width + across}x{info.height + down}",
            "framerate": str(info.frame_rate),
        }
        lead_s = Fraction(0) if window.is_trimmed or not sound else window.start_s
        if lead_s:
            raw_options["itsoffset"] = seconds(lead_s)
        video = _stored(ffmpeg.input("pipe:0", **raw_options), output, codec, info)
        streams = [video, *(track.node for track in sound)]
        options = self._video_options() | audio.encoder_options(sound)
        companion: Any = None
        if not info.is_image and self._container.audio_encoder is not None:
            part: dict[str, str | None] = {}
            if window.is_trimmed:
                part = {"ss": seconds(window.start_s), "t": seconds(window.duration_s)}
                options["t"] = seconds(window.duration_s + Fraction(1, 2) / info.frame_rate)
            companion = source_input(info.path, options=part)
            subtitles = _subtitles(info, self._container)
            streams += [companion[str(index)] for index, _ in subtitles]
            for number, (_, subtitle_codec) in enumerate(subtitles):
                options[f"c:s:{number}"] = subtitle_codec
        arguments = ffmpeg.output(*streams, ff.file_url(self._part), **options).get_args()
        return ["-y", *self._with_metadata(arguments, companion, sound)]

    def _with_metadata(
        self, arguments: list[str], companion: Any, sound: list[audio.Track]
    ) -> list[str]:
        """Insert the options that name the source by its number among the inputs."""
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
        for ordinal, track in enumerate(sound):
            if track.metadata_of is not None:
                chosen += [f"-map_metadata:s:a:{ordinal}", f"{number}:s:a:{track.metadata_of}"]
        head, tail = arguments[: starts[-1]], arguments[starts[-1] :]
        return [*head, *inputs, *tail[:-1], *chosen, tail[-1]]

    def _video_options(self) -> dict[str, object]:
        output, codec, container, info = self.output, self._codec, self._container, self._info
        options: dict[str, object] = {
            "c:v": codec.encoder,
            "f": container.muxer,
            "fps_mode": "passthrough",
            **dict(codec.options),
            **dict(container.options),
        }
        if codec.crf is not None:
            options["crf"] = output.crf if output.crf is not None else codec.crf
        if codec.preset_option is not None:
            options[codec.preset_option] = output.preset or codec.preset
        if codec.tag is not None and container.muxer in ("mp4", "mov"):
            options["tag:v"] = codec.tag
        if codec.encoder == "prores_ks":
            is_444 = "444" in formats.stored_pix_fmt(codec, info.format, output.kind)
            options["profile:v"] = "4444" if is_444 else "hq"
            if output.kind == "alpha":
                options["alpha_bits"] = 16
        if output.kind == "alpha" and codec.encoder == "libvpx-vp9":
            options["metadata:s:v:0"] = "alpha_mode=1"
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
            with self._process:
                if exc_type is None:
                    self._finish()
        finally:
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        try:
            self._process.close_stdin()
            status = self._process.wait()
        except (BrokenPipeError, FFmpegError) as error:
            raise self._failure(error) from error
        if status:
            raise self._failure(None)
        _publish(self._part, self.output)

    def _failure(self, error: Exception | None) -> EncodeError:
        if isinstance(error, FFmpegError):
            cause = error.message
        else:
            try:
                self._process.wait(10)
            except FFmpegError:
                self._process.kill()
            cause = self._process.cause()
        full = "No space left" in cause or "File too large" in cause
        return EncodeError(
            f"cannot be written ({cause})",
            path=self.output.path,
            hint="Free some space or choose another place with -o" if full else None,
            returncode=self._process.returncode,
            stderr_tail=tuple(self._process.tail),
        )


def _raw_format(kind: str, plane_format: PlaneFormat) -> tuple[str, int]:
    """Return the pix_fmt that goes down the pipe, and its depth."""
    if kind == "composite":
        return plane_format.pix_fmt, plane_format.depth
    if kind == "alpha":
        return formats.alpha_layout(plane_format)
    return ("gray", 8) if plane_format.depth == 8 else ("gray16le", 16)


def _grown(plane: Plane, down: int, across: int) -> Plane:
    """Repeat a plane's last row ``down`` times and its last column ``across`` times."""
    return cast("Plane", np.pad(plane, ((0, 0), (0, down), (0, across)), mode="edge"))


def _rescaled(alpha: Plane, depth: int) -> Plane:
    """Return a 16-bit alpha at another depth, rounded."""
    top = (1 << depth) - 1
    scaled: NDArray[np.uint16] = ((alpha.astype(np.uint32) * top + 32767) // 65535).astype(
        np.uint16
    )
    return scaled


def _stored(node: Any, output: Output, codec: formats.Codec, info: VideoInfo) -> Any:
    """Convert raw frames to what the codec stores, and tag them."""
    stored = formats.stored_pix_fmt(codec, info.format, output.kind)
    raw, _ = _raw_format(output.kind, info.format)
    colour, resolved = info.colour, colours.resolve(info.colour, info.format, info.height)
    stores_rgb = stored.startswith(("rgb", "gbr"))
    stores_grey = stored.startswith("gray")
    is_matte = output.kind == "matte"
    tags: Colour | None = None
    convert: dict[str, object] = {"flags": f"bicubic+{ff.EXACT_FLAGS}"}
    if is_matte:
        # Full range on both sides: black and white of a matte are 0 and the maximum.
        convert |= {"in_range": "pc", "out_range": "pc"}
        tags = Colour("pc", "unknown", "unknown", "unknown")
    elif info.format.is_rgb and not stores_rgb:
        full = codec.encoder == "mjpeg"
        matrix = "smpte170m" if full else "bt709"  # JFIF is defined with BT.601's matrix
        tags = Colour("pc" if full else "tv", matrix, "bt709", "bt709")
        convert |= {"out_range": tags.range, "out_color_matrix": scale_matrix(matrix)}
    elif stores_rgb and not info.format.is_rgb:
        convert |= {"in_range": resolved.range, "in_color_matrix": scale_matrix(resolved.matrix)}
        convert |= {"out_range": "pc"}
    elif codec.encoder == "mjpeg":
        convert |= {"in_range": resolved.range, "in_color_matrix": scale_matrix(resolved.matrix)}
        convert |= {"out_range": "pc", "out_color_matrix": "smpte170m"}
        tags = Colour("pc", "smpte170m", "unknown", "unknown")
    elif not stores_rgb:
        convert |= {"in_range": resolved.range, "out_range": resolved.range}
        tags = colour
    if raw != stored:
        if _depth_falls(info, codec, output.kind):
            convert["sws_dither"] = "bayer"
        node = node.filter("scale", **convert).filter("format", stored)
    if tags is not None and not stores_grey:
        node = node.filter(
            "setparams",
            range={"tv": "limited", "pc": "full"}.get(tags.range, "auto"),
            colorspace=_unless_unknown(tags.matrix),
            color_primaries=_unless_unknown(tags.primaries),
            color_trc=_unless_unknown(tags.transfer),
        )
    return node.filter("setsar", f"{info.sar.numerator}/{info.sar.denominator}")


def _unless_unknown(tag: str) -> str:
    return "auto" if tag == "unknown" else tag


def _depth_falls(info: VideoInfo, codec: formats.Codec, kind: str) -> bool:
    return kind != "matte" and bool(codec.depths) and info.format.depth > codec.depths[-1]


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
    part = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
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
