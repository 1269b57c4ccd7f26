"""What goes behind the subject, in the clip's working format: a colour, a picture, a video."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ffmpeg
import numpy as np

from vidbg import colour as colours
from vidbg.colour_names import parse_colour
from vidbg.errors import DecodeError, FFmpegError, InputError
from vidbg.frames import Colour, PlaneFormat, VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media.formats import scale_matrix
from vidbg.media.probe import check_readable
from vidbg.media.rawvideo import read_batches
from vidbg.media.source import opened_at, seek_point

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import Planes

logger = logging.getLogger(__name__)

FITS = ("cover", "contain", "stretch")
ENDS = ("loop", "hold", "black")


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
    at ``crop_x``, ``crop_y`` and put at ``x``, ``y``. Offsets are even, so that chroma of
    any subsampling stays aligned.
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
    if fit == "cover":
        scaled_w, scaled_h = max(target.width, wanted_w), max(target.height, wanted_h)
        grid = 4  # the coarsest chroma there is
        crop_x = (scaled_w - target.width) // 2 // grid * grid
        crop_y = (scaled_h - target.height) // 2 // grid * grid
        return Placement(scaled_w, scaled_h, crop_x, crop_y, 0, 0)
    scaled_w = min(target.width, max(1, wanted_w))
    scaled_h = min(target.height, max(1, wanted_h))
    x = (target.width - scaled_w) // 2 // 4 * 4
    y = (target.height - scaled_h) // 2 // 4 * 4
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


def still(path: Path, fit: str, target: Target) -> Planes:
    """Return planes ``(1, h, w)`` of a picture, turned as its EXIF says, over black.

    Args:
        path: A picture that Pillow can read.
        fit: One of :data:`FITS`.
        target: The frame it has to fill.

    Raises:
        InputError: It cannot be read.
    """
    picture = _read_picture(path)
    height, width = picture.shape[:2]
    placement = place(width, height, Fraction(1), fit, target)
    node = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}")
    node = _converted(node, placement, target, is_rgb=True, colour=Colour("pc", "gbr"))
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


def _read_picture(path: Path) -> NDArray[np.uint8]:
    """Return a picture as R'G'B' ``(H, W, 3)``, transparent parts over black."""
    from PIL import Image, ImageOps

    check_readable(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                turned = ImageOps.exif_transpose(opened)
                rgba = np.asarray(turned.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        reason = "too many pixels" if "bomb" in type(error).__name__.lower() else str(error)
        raise InputError(f"not a picture that can be read ({reason})", path=path) from error
    alpha = rgba[..., 3:].astype(np.uint32)
    over_black: NDArray[np.uint8] = ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return over_black


def _converted(
    node: Any, placement: Placement, target: Target, *, is_rgb: bool, colour: Colour
) -> Any:
    """Scale, convert and cut an ffmpeg-python node to the frame's working format."""
    options: dict[str, object] = {
        "w": placement.width,
        "h": placement.height,
        "flags": f"bicubic+{ff.EXACT_FLAGS}",
        "out_range": target.colour.range,
    }
    if not is_rgb:
        options |= {"in_range": colour.range, "in_color_matrix": scale_matrix(colour.matrix)}
    if not target.format.is_rgb:
        options["out_color_matrix"] = scale_matrix(target.colour.matrix)
    node = node.filter("scale", **options).filter("format", target.format.pix_fmt)
    width, height = _shown_size(placement, target)
    if (placement.width, placement.height) != (width, height):
        node = node.filter(
            "crop", w=width, h=height, x=placement.crop_x, y=placement.crop_y, exact=1
        )
    return node


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

    Raises:
        InputError: It ends before ``start_s``.
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
    ) -> None:
        self.info = info
        self.period_s = self.info.duration - start_s
        if self.period_s <= 0:
            raise InputError(
                f"ends after {float(info.duration):.2f} s, before --bg-start", path=info.path
            )
        self._target = target
        self._fit = fit
        self._end = end
        self._start_s = start_s
        self._batch_size = batch_size
        self._process: ff.Process | None = None
        self._cancelled = False

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
        frames = self._frames()
        while True:
            batch = list(itertools.islice(frames, self._batch_size))
            if not batch:
                return
            if len(batch) == 1:
                yield batch[0]
            else:
                stacked = [np.concatenate(plane) for plane in zip(*batch, strict=True)]
                yield stacked[0], stacked[1], stacked[2]

    def _frames(self) -> Iterator[Planes]:
        rate = self._target.frame_rate
        first = 0
        for turn in itertools.count():
            # This turn shows the frames at times in [turn, turn + 1) x period.
            stop = ceil((turn + 1) * self.period_s * rate)
            if stop == first:  # a period shorter than a frame
                continue
            last: Planes | None = None
            shown = 0
            for planes in self._one_turn(first / rate - turn * self.period_s):
                last = planes
                yield planes
                shown += 1
                if first + shown == stop and self._end == "loop":
                    break
            if self._cancelled:
                return
            if last is None:
                raise DecodeError("no frame of the background can be decoded", path=self.info.path)
            if self._end == "loop":
                yield from itertools.repeat(last, stop - first - shown)
                first = stop
                continue
            after = last if self._end == "hold" else _black(self._target)
            if shown < stop - first:
                yield from itertools.repeat(last, stop - first - shown)
            yield from itertools.repeat(after)

    def _one_turn(self, offset_s: Fraction) -> Iterator[Planes]:
        """Yield one pass over the background, from ``offset_s`` after its start, at our rate."""
        info, target = self.info, self._target
        begin_s = self._start_s + offset_s
        seek_s = seek_point(info, info.start + begin_s)
        node = opened_at(info, seek_s)
        if info.is_interlaced and info.height >= 4 and info.width >= 3:
            node = node.filter("bwdif", mode="send_frame", parity="auto", deint="interlaced")
        origin_s = info.start + begin_s - seek_s
        if not seek_s:
            # Without seeking the first frame's own stamp is the exact origin.
            node = node.filter("setpts", f"PTS-STARTPTS-({begin_s})/TB")
        else:
            node = node.filter("setpts", f"PTS-({origin_s})/TB")
        node = node.filter("fps", fps=str(target.frame_rate), start_time=0, round="near")
        is_rgb = info.format.is_rgb
        if info.has_alpha:
            node = node.filter("format", "gbrap").filter("premultiply", inplace=1)
            is_rgb = True
        placement = place(info.width, info.height, info.sar, self._fit, target)
        source_colour = colours.resolve(info.colour, info.format, info.height)
        node = _converted(node, placement, target, is_rgb=is_rgb, colour=source_colour)
        arguments = node.output(
            "pipe:1", format="rawvideo", pix_fmt=target.format.pix_fmt, fps_mode="passthrough"
        ).get_args()
        size = _shown_size(placement, target)
        with ff.Process(["-nostdin", *arguments], reads=True) as process:
            self._process = process
            if self._cancelled:
                return
            try:
                for batch in read_batches(process, target.format, size, batch_size=1):
                    yield _framed(batch.planes, placement, target)
            except FFmpegError as error:
                raise DecodeError(error.message, path=info.path) from error
            if process.damage_count and not process.was_killed:
                logger.warning(
                    "%s: the background is damaged (%s)", info.path, process.first_damage
                )
