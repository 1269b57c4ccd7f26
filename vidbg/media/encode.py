"""What is to be written: names, containers, codecs and encoders, checked before anything starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ffmpeg

from vidbg.errors import EncodeError, FFmpegError, OutputError
from vidbg.frames import PlaneFormat, VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media import formats, light, pngs, timing
from vidbg.media.sequence import result_name

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)


KINDS = ("composite", "alpha", "matte")

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})

_MAX_SIDE_PX = 16384

# Every hardware encoder takes frames of this size; some take none that are much smaller.
_TRIAL_SIZE = "640x360"

_TRIAL_S = 20.0


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
    stored = stored_in(output, info.format)
    options = tuple((name, str(value)) for name, value in encoder_options(output).items())
    return _trial(output.encoder.encoder, output.encoder.device, stored, options)


@cache
def _trial(
    encoder: str, device: str | None, pix_fmt: str, options: tuple[tuple[str, str], ...]
) -> str | None:
    """Encode a few frames with settings; return FFmpeg's complaint, or None if it worked."""
    node = ffmpeg.input(f"color=black:s={_TRIAL_SIZE}:r=25:d=0.2", format="lavfi")
    node = uploaded(node.filter("format", pix_fmt), device)
    arguments = ffmpeg.output(node, "-", f="null", **dict(options)).get_args()
    try:
        ran = ff.run([*device_options(device), *arguments], timeout_s=_TRIAL_S)
    except FFmpegError as error:
        return error.message
    return ran.cause() if ran.returncode else None


def encoder_options(output: Output) -> dict[str, object]:
    """Return the options that say which encoder is used, and how well it encodes."""
    codec = output.encoder
    options: dict[str, object] = {"c:v": codec.encoder, **dict(codec.options)}
    if has_default_preset(output):
        options |= dict(codec.usual)
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


def has_default_preset(output: Output) -> bool:
    """Return whether an encoder is left to choose how much work it does."""
    return output.preset in (None, output.encoder.preset)


def encoder_threads(encoder: str, processors: int) -> int:
    """Return with how many threads an encoder works on a machine of so many processors.

    Args:
        encoder: FFmpeg's name.
        processors: How many there are, 1 or more.
    """
    if encoder == "libx264":  # what it would choose itself
        return min(16, ceil(processors * 1.5))
    if encoder == "libx265":  # whole frames at once, each in many threads already
        return min(4, ceil(processors / 4))
    return min(16, processors)


def device_options(device: str | None) -> list[str]:
    """Return the global options that open the hardware that frames are uploaded to."""
    if device is None:
        return []
    return ["-init_hw_device", f"{device}=vidbg", "-filter_hw_device", "vidbg"]


def uploaded(node: Any, device: str | None) -> Any:
    """Return frames where an encoder reads them: on its device, where it has one."""
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


def output_sar(output: Output, info: VideoInfo) -> Fraction:
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


def container_for(output: Output) -> formats.Container:
    """Return the file format of an output, with what its codec changes about it."""
    container = container_of(output.path, output.container)
    editors_sound = output.encoder.audio_encoder
    if container.muxer == "mov" and editors_sound is not None:
        container = replace(container, audio_encoder=editors_sound)
    return container


def stored_in(output: Output, plane_format: PlaneFormat) -> str:
    """Return the pix_fmt in which an output is stored."""
    if output.pix_fmt is not None:
        return output.pix_fmt
    return formats.stored_pix_fmt(output.encoder, plane_format, output.kind)


def raw_format(output: Output, plane_format: PlaneFormat) -> tuple[str, int]:
    """Return the pix_fmt that goes down the pipe, and its depth."""
    if output.kind == "composite":
        return plane_format.pix_fmt, plane_format.depth
    depth = depth_of(stored_in(output, plane_format))
    if output.kind == "matte":
        return formats.pix_fmt_name("gray", depth), depth
    # swscale makes alpha deeper by a bare shift, after which opaque is no longer opaque: where
    # the codec's alpha is deeper than the clip, we make it so.
    return formats.alpha_layout(replace(plane_format, depth=max(plane_format.depth, depth)))


def depth_of(pix_fmt: str) -> int:
    """Return the significant bits of a format's samples."""
    return formats.working_format(pix_fmt)[0].depth


def shows_sdr(output: Output, info: VideoInfo) -> bool:
    """Say whether an output shows an HDR clip as SDR: a picture, or a codec of 8 bits."""
    if output.kind == "matte" or light.light_of(info.colour) == "sdr":
        return False
    deep = replace(info.format, depth=max(10, info.format.depth))
    # Hardly any viewer knows what HDR in a picture means.
    return info.is_image or depth_of(stored_in(output, deep)) == 8


def keeps_depth(output: Output, info: VideoInfo) -> bool:
    """Say whether an output has all bits of the clip's samples; a matte has none of them."""
    stored = stored_in(output, info.format)
    return output.kind == "matte" or depth_of(stored) >= info.format.depth


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
