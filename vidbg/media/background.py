"""What goes behind the subject, in the clip's working format: a colour, a picture, a video."""

from __future__ import annotations

import io
import itertools
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ffmpeg
import numpy as np

from vidbg import colour as colours
from vidbg.colour_names import parse_colour
from vidbg.errors import DecodeError, FFmpegError, InputError
from vidbg.frames import MAX_PIXELS, Colour, PlaneFormat, VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media.decode import outside_error
from vidbg.media.formats import alpha_layout, chroma_position, scale_matrix, working_format
from vidbg.media.light import light_of, relit
from vidbg.media.probe import check_readable
from vidbg.media.rawvideo import read_batches
from vidbg.media.sequence import gap_error
from vidbg.media.source import exact_format, opened_at, seek_point, size_error, too_large

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from vidbg.frames import Planes

logger = logging.getLogger(__name__)

FITS = ("cover", "contain", "stretch")
ENDS = ("loop", "hold", "black")

_FINE_TICKS = "1/1000000"


@dataclass(frozen=True, slots=True)
class Target:
    """What a background has to become.

    Attributes:
        width: Columns in pixels.
        height: Rows in pixels.
        sar: Sample aspect ratio of the clip.
        format: The clip's working format.
        colour: The clip's colour, resolved: no "unknown" range or matrix.
        frame_rate: The clip's rate.
    """

    width: int
    height: int
    sar: Fraction
    format: PlaneFormat
    colour: Colour
    frame_rate: Fraction


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a background picture goes in the frame, in the frame's pixels.

    The picture is scaled to ``width`` x ``height``; what of it lies in the frame is cut out
    at ``crop_x``, ``crop_y`` and put at ``x``, ``y``. Offsets are whole chroma samples.
    """

    width: int
    height: int
    crop_x: int
    crop_y: int
    x: int
    y: int


def place(width: int, height: int, sar: Fraction, fit: str, target: Target) -> Placement:
    """Return where a picture goes.

    Args:
        width: The picture's columns, above 0.
        height: The picture's rows, above 0.
        sar: The picture's sample aspect ratio.
        fit: "cover" fills the frame and cuts what sticks out, "contain" shows all of the
            picture before black, "stretch" ignores its shape.
        target: The frame.
    """
    if fit == "stretch":
        return Placement(target.width, target.height, 0, 0, 0, 0)
    # Ratios of frame pixels to picture pixels; sample aspect ratios differ, so one a direction.
    across = Fraction(target.width) / (width * sar / target.sar)
    down = Fraction(target.height, height)
    scale = max(across, down) if fit == "cover" else min(across, down)
    wanted_w = round(width * sar / target.sar * scale)
    wanted_h = round(height * scale)
    grid_w, grid_h = 1 << target.format.log2_chroma_w, 1 << target.format.log2_chroma_h
    if fit == "cover":
        scaled_w, scaled_h = max(target.width, wanted_w), max(target.height, wanted_h)
        crop_x = (scaled_w - target.width) // 2 // grid_w * grid_w
        crop_y = (scaled_h - target.height) // 2 // grid_h * grid_h
        return Placement(scaled_w, scaled_h, crop_x, crop_y, 0, 0)
    scaled_w = min(target.width, max(1, wanted_w))
    scaled_h = min(target.height, max(1, wanted_h))
    x = (target.width - scaled_w) // 2 // grid_w * grid_w
    y = (target.height - scaled_h) // 2 // grid_h * grid_h
    return Placement(scaled_w, scaled_h, 0, 0, x, y)


@dataclass(frozen=True, slots=True)
class Blur:
    """The clip's own background, blurred; ``radius_px`` None for a radius that fits its size."""

    radius_px: float | None = None


@dataclass(frozen=True, slots=True)
class Solid:
    """A flat colour, 8-bit R'G'B'."""

    rgb: tuple[int, int, int]


def parse(text: str) -> Blur | Solid | Path:
    """Return what a --bg means: blur, a colour, or else a file.

    Args:
        text: "blur", "blur:RADIUS", "#rrggbb", a colour's name, "r,g,b", or a path
            ("./green" for a file of that name).

    Raises:
        ValueError: The radius is not a positive number.
    """
    if text == "blur":
        return Blur()
    if text.startswith("blur:"):
        try:
            radius_px = float(text[5:])
        except ValueError:
            radius_px = 0.0
        if not 0 < radius_px < 10_000:
            raise ValueError(f"{text[5:]!r} is not a radius in pixels")
        return Blur(radius_px)
    try:
        return Solid(parse_colour(text))
    except ValueError:
        return Path(text)


def solid(rgb: tuple[int, int, int], target: Target) -> Planes:
    """Return planes ``(1, h, w)`` of one 8-bit R'G'B' colour."""
    codes = colours.rgb_to_codes(rgb, target.format, target.colour)
    return _flat(codes, target)


def _flat(codes: tuple[int, int, int], target: Target, count: int = 1) -> Planes:
    dtype = np.uint8 if target.format.depth == 8 else np.uint16
    sizes = target.format.plane_sizes(target.width, target.height)
    planes = [np.full((count, *size), code, dtype) for code, size in zip(codes, sizes, strict=True)]
    return planes[0], planes[1], planes[2]


def still(path: Path, fit: str, target: Target, max_pixels: int = MAX_PIXELS) -> Planes:
    """Return planes ``(1, h, w)`` of a picture, turned as its EXIF says, over black.

    Args:
        path: A picture that Pillow can read.
        fit: One of :data:`FITS`.
        target: The frame it has to fill.
        max_pixels: The most pixels that it may have, as it is and once it is scaled.

    Raises:
        InputError: It cannot be read, or is too large.
    """
    picture = _read_picture(path, max_pixels)
    height, width = picture.shape[:2]
    placement = place(width, height, Fraction(1), fit, target)
    _check_scaled(path, placement, max_pixels)
    node = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}")
    node = _converted(node, placement, target, working_format("rgb24")[0], Colour("pc", "gbr"))
    pipe = node.output(
        "pipe:1", format="rawvideo", pix_fmt=target.format.pix_fmt, **{"frames:v": 1}
    )
    ran = ff.run(pipe.get_args(), feed=picture.tobytes())
    size = _shown_size(placement, target)
    shapes = target.format.plane_sizes(*size)
    dtype = np.dtype(np.uint8 if target.format.depth == 8 else "<u2")
    expected = sum(h * w for h, w in shapes) * dtype.itemsize
    if ran.returncode or len(ran.stdout) != expected:
        raise InputError(f"cannot be converted ({ran.cause()})", path=path)
    samples = np.frombuffer(ran.stdout, dtype)
    edges = np.cumsum([h * w for h, w in shapes])[:-1]
    parts = [
        part.reshape(1, *shape)
        for part, shape in zip(np.split(samples, edges), shapes, strict=True)
    ]
    return _framed((parts[0], parts[1], parts[2]), placement, target)


def _check_scaled(path: Path, placement: Placement, max_pixels: int) -> None:
    """Raise :class:`InputError` for a picture so narrow that filling a frame makes it huge."""
    width, height = placement.width, placement.height
    if width * height > max_pixels:
        raise InputError(
            f"is so narrow that filling the frame takes {width}x{height} pixels, more than the "
            f"{max_pixels:,} that are allowed",
            path=path,
            hint="Show all of it with --bg-fit contain",
        )


def _read_picture(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """Return a picture as R'G'B' ``(H, W, 3)``, transparent parts over black."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    check_readable(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which is no reason not to show a picture.
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                if opened.width * opened.height > max_pixels:
                    raise too_large(path, opened.width, opened.height, max_pixels)
                picture = _in_srgb(ImageOps.exif_transpose(opened), path)
                if picture.has_transparency_data:
                    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
                    picture = Image.alpha_composite(black, picture.convert("RGBA"))
                return np.asarray(picture.convert("RGB"))
    except Image.DecompressionBombError as error:  # above what Pillow ever reads
        raise InputError(
            "a picture of too many pixels", path=path, hint="Make it smaller first"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError("not a picture that can be read", path=path) from error
    except InputError:
        raise
    except Exception as error:
        # Pillow's readers raise whatever a damaged file makes them stumble over.
        raise InputError(f"not a picture that can be read ({error})", path=path) from error


def _in_srgb(picture: Image.Image, path: Path) -> Image.Image:
    """Return a picture with 8 bits a sample, in sRGB where a colour profile says how."""
    from PIL import Image, ImageCms

    if picture.mode.startswith("I"):
        # Pillow's own conversion cuts off what does not fit in 8 bits.
        samples = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return Image.fromarray(((samples + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise InputError("a picture of floating-point samples, which have no white", path=path)
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture
    mode = "RGBA" if picture.mode == "RGBA" else "RGB"
    try:
        shown = ImageCms.profileToProfile(
            picture,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode=mode,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        logger.warning("%s: its colour profile is left out (%s)", path, error)
        return picture
    return picture if shown is None else shown


def _converted(
    node: Any, placement: Placement, target: Target, given: PlaneFormat, colour: Colour
) -> Any:
    """Scale, convert and cut an ffmpeg-python node to the frame's working format.

    Args:
        node: Frames in the format ``given``.
        placement: Where they go.
        target: The frame.
        given: Their format.
        colour: Their colour, resolved.
    """
    w, h = placement.width, placement.height
    if light_of(colour) != light_of(target.colour):
        deep_rgb = working_format("gbrp16le")[0]
        node = _scaled(node, (w, h), given, colour, deep_rgb, Colour("pc", "gbr"))
        node = relit(node, colour, target.colour)
        given, colour = deep_rgb, Colour("pc", "gbr")
    node = _scaled(node, (w, h), given, colour, target.format, target.colour)
    width, height = _shown_size(placement, target)
    if (w, h) != (width, height):
        node = node.filter(
            "crop", w=width, h=height, x=placement.crop_x, y=placement.crop_y, exact=1
        )
    return node


def _scaled(
    node: Any,
    size: tuple[int, int],
    given: PlaneFormat,
    colour: Colour,
    wanted: PlaneFormat,
    wanted_colour: Colour,
) -> Any:
    """Bring frames to another size, format, matrix and range, chroma kept where it belongs."""
    in_h, in_v = chroma_position(given, given.chroma_location)
    out_h, out_v = chroma_position(wanted, wanted.chroma_location)
    options: dict[str, object] = {
        "w": size[0],
        "h": size[1],
        "flags": f"bicubic+{ff.EXACT_FLAGS}",
        "in_range": colour.range,
        "out_range": wanted_colour.range,
        "in_h_chr_pos": in_h,
        "in_v_chr_pos": in_v,
        "out_h_chr_pos": out_h,
        "out_v_chr_pos": out_v,
    }
    if not given.is_rgb:
        options["in_color_matrix"] = scale_matrix(colour.matrix)
    if not wanted.is_rgb:
        options["out_color_matrix"] = scale_matrix(wanted_colour.matrix)
    return node.filter("scale", **options).filter("format", wanted.pix_fmt)


def _shown_size(placement: Placement, target: Target) -> tuple[int, int]:
    """Return the width and height of the part of the picture that lies in the frame."""
    return (
        min(placement.width - placement.crop_x, target.width - placement.x),
        min(placement.height - placement.crop_y, target.height - placement.y),
    )


def _framed(planes: Planes, placement: Placement, target: Target) -> Planes:
    """Put pictures ``(B, h, w)`` into black frames, unless they fill them."""
    if planes[0].shape[1:] == (target.height, target.width):
        return planes
    frames = _black(target, len(planes[0]))
    shifts = (0, 0), (target.format.log2_chroma_h, target.format.log2_chroma_w)
    for frame, plane, (down, across) in zip(
        frames, planes, (shifts[0], shifts[1], shifts[1]), strict=True
    ):
        y, x = placement.y >> down, placement.x >> across
        frame[:, y : y + plane.shape[1], x : x + plane.shape[2]] = plane
    return frames


def _black(target: Target, count: int = 1) -> Planes:
    return _flat(colours.rgb_to_codes((0, 0, 0), target.format, target.colour), target, count)


class BackgroundVideo:
    """An endless iterable of batches of background frames, in step with the clip's clock.

    Frame n of the clip shows the background's frame nearest to time n / rate, whatever the
    background's own rate. A background that ends starts again where it began ("loop", on
    its own exact period), stays on its last frame ("hold"), or gives way to black.

    Args:
        info: What probing the video said.
        target: The frame to fill.
        fit: One of :data:`FITS`.
        end: One of :data:`ENDS`.
        start_s: Seconds into the background to begin (and to begin again) at.
        batch_size: Frames per batch.
        first: Index of the clip's frame to begin with.

    Raises:
        InputError: It ends before ``start_s``, or its frames are too large to be scaled.
        DecodeError: It is a picture sequence that lacks a picture.
    """

    def __init__(
        self,
        info: VideoInfo,
        target: Target,
        *,
        fit: str = "cover",
        end: str = "loop",
        start_s: Fraction = Fraction(0),
        batch_size: int = 1,
        first: int = 0,
    ) -> None:
        if info.sequence is not None and info.missing_frames:
            raise gap_error(info)
        self.info = info
        self._first = first
        # What is on screen half a background frame after a moment is what is nearest to it.
        self._ahead_s = Fraction(1, 2) / info.frame_rate
        self.period_s = info.duration - start_s
        if self.period_s <= 0:
            raise InputError(
                f"ends after {float(info.duration):.2f} s, before --bg-start", path=info.path
            )
        placement = place(info.width, info.height, info.sar, fit, target)
        _check_scaled(info.path, placement, info.max_pixels)
        self._target = target
        self._fit = fit
        self._end = end
        self._start_s = start_s
        self._batch_size = batch_size
        self._process: ff.Process | None = None
        self._cancelled = False
        self._is_damaged = False

    def cancel(self) -> None:
        """End the decoder, from any thread; iteration then stops."""
        self._cancelled = True
        if self._process is not None:
            self._process.kill()

    def __iter__(self) -> Iterator[Planes]:
        """Yield batches of planes ``(B, h, w)`` without end.

        Raises:
            DecodeError: The background cannot be decoded.
        """
        begin = self._first
        if self._end != "loop":
            # What comes after the end is told by the frame before it.
            ended = ceil((self.period_s - self._ahead_s) * self._target.frame_rate)
            begin = max(0, min(begin, ended - 1))
        frames = itertools.islice(self._frames_from(begin), self._first - begin, None)
        while True:
            batch = list(itertools.islice(frames, self._batch_size))
            if not batch:
                return
            if len(batch) == 1:
                yield batch[0]
            else:
                stacked = [np.concatenate(plane) for plane in zip(*batch, strict=True)]
                yield stacked[0], stacked[1], stacked[2]

    def _frames_from(self, begin: int) -> Iterator[Planes]:
        """Yield what the clip's frames from ``begin`` on show; it is not after the end."""
        rate = self._target.frame_rate
        ahead_s = self._ahead_s
        first = begin
        for turn in itertools.count():
            # This turn shows the frames whose time, that much ahead, is in [turn, turn + 1)
            # periods. It may be none, where a period is shorter than a frame.
            stop = ceil(((turn + 1) * self.period_s - ahead_s) * rate)
            if stop <= first:
                continue
            last: Planes | None = None
            shown = 0
            for planes in self._one_turn(first / rate + ahead_s - turn * self.period_s):
                last = planes
                yield planes
                shown += 1
                if first + shown == stop and self._end != "hold":
                    break
            if self._cancelled or last is None:
                return
            if self._end == "hold" or self.info.frame_count == 1:
                yield from self._forever(last)
                return
            yield from itertools.repeat(last, stop - first - shown)
            if self._end == "black":
                yield from self._forever(_black(self._target))
                return
            first = stop

    def _forever(self, planes: Planes) -> Iterator[Planes]:
        while not self._cancelled:
            yield planes

    def _one_turn(self, offset_s: Fraction) -> Iterator[Planes]:
        """Yield what is on screen at our rate, from ``offset_s`` after the background's start."""
        info, target = self.info, self._target
        begin_s = self._start_s + offset_s
        seek_s = seek_point(info, info.start + begin_s)
        # The last picture once more, for as long as a frame of ours, so that it is sure to be
        # shown: to hold it, and because FFmpeg 5 does not always know how long it lasts.
        longer = ceil(info.frame_rate / target.frame_rate)
        node = opened_at(info, seek_s).filter("tpad", stop_mode="clone", stop=longer)
        node = node.filter("settb", _FINE_TICKS)
        # Stamps are rounded, to milliseconds at worst; one that is late by that is in time.
        begin_s += min(info.time_base / 2, Fraction(1, 2000)) + 2 * Fraction(_FINE_TICKS)
        if seek_s:
            node = node.filter("setpts", f"PTS-({info.start + begin_s - seek_s})/TB")
        else:
            # Without seeking the first frame's own stamp is the exact origin.
            node = node.filter("setpts", f"PTS-STARTPTS-({begin_s})/TB")
        node = node.filter("fps", fps=str(target.frame_rate), start_time=0, round="up")
        node = exact_format(node, info, (info.width, info.height))
        given = info.format
        colour = colours.resolve(info.colour, given, info.height)
        if info.has_alpha:
            node, given, colour = _over_black(node, info, colour)
        placement = place(info.width, info.height, info.sar, self._fit, target)
        node = _converted(node, placement, target, given, colour)
        arguments = node.output(
            "pipe:1",
            format="rawvideo",
            pix_fmt=target.format.pix_fmt,
            fps_mode="passthrough",
            **ff.few_waiting(),
        ).get_args()
        size = _shown_size(placement, target)
        with ff.Process(["-nostdin", *arguments], reads=True) as process:
            self._process = process
            if self._cancelled:
                return
            batch = None
            try:
                for batch in read_batches(process, target.format, size, batch_size=1):
                    yield _framed(batch.planes, placement, target)
                process.wait()
            except FFmpegError as error:
                raise DecodeError(error.message, path=info.path, hint=error.hint) from error
            finally:  # also where a turn is left before the decoder's end
                if batch is not None:
                    self._report_damage(process)
            ended = outside_error(info, process)
            if ended is not None:  # more of it would have come
                raise ended
            if batch is None and not self._cancelled:
                is_too_large = size_error(info.path, process.tail, info.max_pixels)
                if is_too_large is not None:
                    raise is_too_large
                raise DecodeError(
                    f"no frame of it can be shown as background ({process.cause()})",
                    path=info.path,
                    returncode=process.returncode,
                    stderr_tail=tuple(process.tail),
                )

    def _report_damage(self, process: ff.Process) -> None:
        """Say once that the background is damaged, if it is."""
        if process.first_damage is not None and not self._is_damaged:
            self._is_damaged = True
            logger.warning(
                "%s: the background is damaged (%s)", self.info.path, process.first_damage
            )


def _over_black(node: Any, info: VideoInfo, colour: Colour) -> tuple[Any, PlaneFormat, Colour]:
    """Multiply frames by their alpha: return R'G'B' over black, its format and its colour."""
    name, _ = alpha_layout(replace(info.format, pix_fmt="gbrp"))
    rgb, _ = working_format(name)
    rgb_colour = replace(colour, range="pc", matrix="gbr")
    if not info.format.is_rgb:
        with_alpha = replace(rgb, pix_fmt=name)
        size = (info.width, info.height)
        node = _scaled(node, size, info.format, colour, with_alpha, rgb_colour)
    return node.filter("premultiply", inplace=1), rgb, rgb_colour
