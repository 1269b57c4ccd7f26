"""Contact sheets: what a job makes of a few frames of a clip, side by side, in seconds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidbg import colour as colours
from vidbg import pipeline
from vidbg.errors import InputError
from vidbg.job import CHROMA_MODEL, Job
from vidbg.matting.views import Versatile
from vidbg.media import timing
from vidbg.media.decode import damaged_error
from vidbg.media.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vidbg.frames import PlaneFormat, Planes, VideoInfo
    from vidbg.matting.segmenter import Segmenter

    Picture = NDArray[np.uint8]

DEFAULT_FRAMES: Final = 4

_CELL_WIDTH_PX: Final = 480
_GAP_PX: Final = 6
_TEXT_PX: Final = 16
_STRIP_PX: Final = 26
_PAPER: Final = (32, 34, 37)
_INK: Final = (225, 228, 232)
# Squares of a frame's width, as editors show transparency.
_SQUARES_ACROSS: Final = 32
_SQUARE_LEVELS: Final = (102, 153)


def draw_sheet(
    jobs: Mapping[str, Job],
    times_s: Sequence[Fraction] = (),
    *,
    segmenter: Segmenter | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> Picture:
    """Return a sheet of frames: a row each; source, matte, cut-out, composite for each job.

    Frames are decoded near the wanted times only, with those before and after that smoothing
    needs: each cell is what the whole job would make of that frame.

    Args:
        jobs: By caption, jobs of one clip. A job with a background shows the composite too.
        times_s: Seconds on the clip's clock; none for four frames, evenly spread.
        segmenter: What makes the mattes, instead of the jobs' models and weights.
        on_download: Called with bytes had and bytes in all while weights are fetched.

    Returns:
        uint8 ``(H, W, 3)``, R'G'B' full range.

    Raises:
        VidbgError: Something cannot be read or made, or the clip has no frame at a time.
        ValueError: There are no jobs.
    """
    if not jobs:
        raise ValueError("no jobs")
    first_job = next(iter(jobs.values()))
    info = probe(first_job.source, first_job.in_fps, max_pixels=first_job.max_pixels)
    if info.missing_frames and not first_job.allow_damaged:
        raise damaged_error(info, "the file is cut short")
    frames = _frames_at(info, times_s) if times_s else _spread(info)
    makers = _makers(jobs, info, segmenter, on_download)
    rows = []
    for frame in frames:
        shown = {
            caption: _cells(job, info, frame, makers[caption]) for caption, job in jobs.items()
        }
        cells = [("source", shown[next(iter(jobs))]["source"])]
        for name in ("matte", "cut out", "composite"):  # what is to be compared, side by side
            for caption, pictures in shown.items():
                if name in pictures:
                    heading = f"{name}, {caption}" if caption else name
                    cells.append((heading, pictures[name]))
        rows.append((_label(info, frame), cells))
    return _laid_out(rows, info)


def as_file(sheet: Picture, suffix: str) -> bytes:
    """Return a picture as a PNG file, or a JPEG file if the suffix asks for one.

    Args:
        sheet: uint8 ``(H, W, 3)``, R'G'B' full range.
        suffix: ".png", ".jpg" or ".jpeg".
    """
    stream = BytesIO()
    if suffix.lower() == ".png":
        Image.fromarray(sheet).save(stream, "PNG")
    else:
        Image.fromarray(sheet).save(stream, "JPEG", quality=92, subsampling=0)
    return stream.getvalue()


class _Remembering:
    """A segmenter that is asked about each picture once: settings are compared on the same.

    Args:
        segmenter: The segmenter.
        network: The same, as what can look in different ways: frames are looked at in all the ways
            in which the whole job looks at them, and only those that it looks at.
    """

    def __init__(self, segmenter: Segmenter, network: Versatile) -> None:
        self.name = segmenter.name
        self.square_size = network.square_size
        self.is_slow = network.is_slow
        self.prepare = network.prepare
        self._segmenter = segmenter
        self._known: dict[tuple[tuple[int, ...], bytes], NDArray[np.float32]] = {}

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        """Return the segmenter's own (height, width)."""
        return self._segmenter.input_size(width, height, sar)

    def batch_size(self, height: int, width: int) -> int:
        """Return 1: a few frames are no batch."""
        return 1

    def __call__(self, rgb: Picture) -> NDArray[np.float32]:
        """Return mattes (B, h, w), as the segmenter does."""
        mattes = []
        for picture in rgb:
            key = picture.shape, hashlib.sha256(picture.tobytes()).digest()
            if key not in self._known:
                self._known[key] = self._segmenter(picture[None])[0]
            mattes.append(self._known[key])
        return np.stack(mattes)


def _makers(
    jobs: Mapping[str, Job],
    info: VideoInfo,
    segmenter: Segmenter | None,
    on_download: Callable[[int, int], None] | None,
) -> dict[str, Segmenter]:
    """Return what makes each job's mattes; jobs that ask for the same share it."""
    if segmenter is not None:
        return dict.fromkeys(jobs, segmenter)
    loaded: dict[object, Segmenter] = {}
    makers = {}
    for caption, job in jobs.items():
        key = (
            (job.key, job.similarity, job.smoothness)
            if job.model == CHROMA_MODEL
            else (job.model, job.weights, job.device, job.precision)
        )
        if key not in loaded:
            made = pipeline.load(job, info, on_download=on_download)
            # The smoother has other plans with a keyer, which it knows by its class.
            loaded[key] = _Remembering(made, made) if isinstance(made, Versatile) else made
        makers[caption] = loaded[key]
    return makers


def _frames_at(info: VideoInfo, times_s: Sequence[Fraction]) -> list[int]:
    """Return the frames that begin at times or next after them."""
    frames = []
    for time_s in times_s:
        frame, _ = timing.trim_range(time_s, None, info.start, info.frame_rate)
        if info.frame_count is not None and frame >= info.frame_count:
            raise InputError(
                f"the clip ends at {float(info.start + info.duration):.3f} s, "
                f"there is no frame at {float(time_s):g} s",
                path=info.path,
            )
        frames.append(frame)
    return frames


def _spread(info: VideoInfo) -> list[int]:
    """Return the frames amid equal parts of the clip."""
    count = info.frame_count or max(1, math.floor(info.duration * info.frame_rate))
    parts = min(DEFAULT_FRAMES, count)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def _cells(job: Job, info: VideoInfo, frame: int, segmenter: Segmenter) -> dict[str, Picture]:
    """Return what is shown of a frame, by name, each uint8 ``(H, W, 3)`` at cell size."""
    mattes = pipeline.read_mattes(job, info, segmenter, first=frame, stop=frame + 1)
    batch = next(mattes, None)
    if batch is None:
        raise InputError(f"has no frame {frame}", path=info.path)
    bare = replace(job, output=replace(job.output, kind="alpha"))
    ((foreground, alpha),) = pipeline.finisher(bare, info, segmenter)(batch, None)
    if alpha is None:
        raise ValueError("a job without a background gives alpha")
    source = _rgb(batch.frames.planes, batch.frames.format, info)
    opacity = (alpha[0] / np.float32(np.iinfo(alpha.dtype).max)).astype(np.float32)
    shown = {
        "source": source,
        "matte": np.dstack([np.rint(opacity * 255).astype(np.uint8)] * 3),
        "cut out": _over_squares(_rgb(foreground, batch.frames.format, info), opacity),
    }
    if job.output.kind == "composite":
        behind = pipeline.read_background(job, info, frame)
        finish = pipeline.finisher(job, info, segmenter)
        ((composite, _),) = finish(batch, None if behind is None else iter(behind))
        shown["composite"] = _rgb(composite, batch.frames.format, info)
    mattes.close()  # type: ignore[attr-defined]
    return {name: _at_cell_size(picture, info) for name, picture in shown.items()}


def _rgb(planes: Planes, plane_format: PlaneFormat, info: VideoInfo) -> Picture:
    colour = colours.resolve(info.colour, plane_format, info.height)
    picture: Picture = colours.planes_to_rgb(planes, plane_format, colour)[0]
    return picture


def _over_squares(foreground: Picture, opacity: NDArray[np.float32]) -> Picture:
    """Return a cut-out over a grey checkerboard."""
    height, width = opacity.shape
    side_px = max(1, width // _SQUARES_ACROSS)
    rows, columns = np.arange(height) // side_px, np.arange(width) // side_px
    is_light = (rows[:, None] + columns) % 2
    squares = np.where(is_light, _SQUARE_LEVELS[1], _SQUARE_LEVELS[0]).astype(np.float32)
    blended = foreground * opacity[..., None] + (squares * (1 - opacity))[..., None]
    return np.rint(blended).astype(np.uint8)


def _at_cell_size(picture: Picture, info: VideoInfo) -> Picture:
    """Return a picture with square pixels, no wider than a cell."""
    height, width = picture.shape[:2]
    shown_width = max(1, round(min(width * info.sar, _CELL_WIDTH_PX)))
    shown_height = max(1, round(shown_width / (width * info.sar) * height))
    size = (shown_width, shown_height)
    if size == (width, height):
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _label(info: VideoInfo, frame: int) -> str:
    at_s = round(float(info.start + frame / info.frame_rate), 2)
    return f"{int(at_s // 60)}:{at_s % 60:05.2f}   frame {frame}"


def _laid_out(
    rows: Sequence[tuple[str, Sequence[tuple[str, Picture]]]], info: VideoInfo
) -> Picture:
    """Return cells in rows and columns with their captions."""
    height, width = rows[0][1][0][1].shape[:2]
    columns = len(rows[0][1])
    row_height = _STRIP_PX + height + _GAP_PX
    sheet = Image.new(
        "RGB",
        (_GAP_PX + columns * (width + _GAP_PX), 2 * _STRIP_PX + len(rows) * row_height),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT_PX)
    draw.text((_GAP_PX, 4), ascii(info.path.name)[1:-1], _INK, font)
    for column, (caption, _) in enumerate(rows[0][1]):
        draw.text((_GAP_PX + column * (width + _GAP_PX), _STRIP_PX + 4), caption, _INK, font)
    for number, (label, cells) in enumerate(rows):
        top = 2 * _STRIP_PX + number * row_height
        draw.text((_GAP_PX, top + 4), label, _INK, font)
        for column, (_, picture) in enumerate(cells):
            place = (_GAP_PX + column * (width + _GAP_PX), top + _STRIP_PX)
            sheet.paste(Image.fromarray(picture), place)
    return np.asarray(sheet, np.uint8)
