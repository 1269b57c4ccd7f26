"""A clip, or pictures, measured frame by frame: figures over time, and the worst frames kept.

Memory does not grow with the clip's length but for the figures themselves, some hundred bytes a
frame. What is measured is what the tool makes: alphas of frame size, as the pipeline finishes
them, or those of a file.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from vidbg import colour as colours
from vidbg import pipeline
from vidbg.errors import InputError
from vidbg.evaluation import metrics
from vidbg.evaluation.mattes import ALPHA, BINARY, MatteFile, kind_of, open_matte, read_picture
from vidbg.job import CHROMA_MODEL, Job, Progress, matte_job
from vidbg.media.decode import FrameReader, damaged_error
from vidbg.media.probe import probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import FrameBatch, VideoInfo
    from vidbg.matting.segmenter import Segmenter

    Picture = NDArray[np.uint8]
    Matte = NDArray[np.float32]
    # A frame's R'G'B', its alpha, and its true alpha where there is one.
    Look = tuple[Picture, Matte, Matte | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that papers print.

    Attributes:
        name: What it is called there.
        meaning: What it says, in a few words.
        decimals: How many are printed.
        is_merit: More is better.
        factor: What the metric's value is multiplied with.
    """

    name: str
    meaning: str
    decimals: int
    is_merit: bool = False
    factor: float = 1.0


J = Figure("J", "overlap of the regions above one half", 3, is_merit=True)
F = Figure("F", "agreement of their outlines", 3, is_merit=True)
MAE = Figure("MAE", "mean absolute error", 4)
MAX_F_BETA = Figure("max F\N{GREEK SMALL LETTER BETA}", "best F-measure of one threshold", 3, True)
S = Figure("S", "likeness of structure", 3, is_merit=True)
MAD = Figure("MAD", "mean absolute difference, in thousandths", 1, factor=1000.0)
MSE = Figure("MSE", "mean squared error, in thousandths", 1, factor=1000.0)
GRAD = Figure("Grad", "error of the edges, a sum in thousands", 2)
CONN = Figure("Conn", "error of what hangs together, a sum in thousands", 2)
DTSSD = Figure("dtSSD", "change over time that the truth does not have, in hundredths", 1)
WARP = Figure("warp", "change of the matte along the motion, in thousandths", 1)

_PER_PICTURE: Final[dict[Figure, Callable[[Any, Any], float]]] = {
    J: metrics.jaccard,
    F: metrics.boundary_f,
    MAE: metrics.mad,
    S: metrics.s_measure,
    MAD: metrics.mad,
    MSE: metrics.mse,
    GRAD: metrics.gradient_error,
    CONN: metrics.connectivity_error,
}
# By kind of truth, as the literature on each prints them; None without a truth.
_FIGURES: Final[dict[str | None, tuple[Figure, ...]]] = {
    BINARY: (J, F, MAE, MAX_F_BETA, S, MSE, DTSSD, WARP),
    ALPHA: (MAD, MSE, GRAD, CONN, DTSSD, WARP, J, F),
    None: (WARP,),
}
# What tells the worst frames.
_RANKED_BY: Final = {BINARY: J, ALPHA: MSE, None: WARP}

# Fields of a job that do not change a matte, or that its segmenter's name tells.
_NOT_SETTINGS: Final = {"source", "output", "background", "model", "weights", "device"}

_EXHIBITS: Final = 6
# So many are kept until the end: one that is shown can be too close to two others.
_CANDIDATES: Final = 3 * _EXHIBITS
# Frames at least this far apart are shown, or all would be of one bad moment.
_EXHIBIT_GAP_S: Final = Fraction(1, 2)
_EXHIBIT_WIDTH_PX: Final = 400
_JPEG_QUALITY: Final = 82


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One of the worst frames, as pictures.

    Attributes:
        index: Which frame it is, from 0.
        value: Its figure.
        panels: Captions and JPEG files.
    """

    index: int
    value: float
    panels: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        source: The clip, or the folder of pictures.
        truth: What its mattes were compared with, or None.
        kind: :data:`~vidbg.evaluation.mattes.BINARY`, ALPHA, or None without a truth.
        made_by: What made the mattes, in words.
        names: Names of the pictures; empty for a clip.
        frame_rate: The clip's rate; None for pictures.
        start_s: When the clip's first frame is shown, in seconds.
        frames: How many frames or pictures.
        series: Each figure frame by frame, NaN where it is not defined.
        means: Each figure of the whole; those that are not defined are left out.
        ranked_by: What tells the worst frames.
        worst: The worst first.
    """

    source: Path
    truth: Path | None
    kind: str | None
    made_by: str
    names: tuple[str, ...]
    frame_rate: Fraction | None
    start_s: Fraction
    frames: int
    series: dict[Figure, array[float]]
    means: dict[Figure, float]
    ranked_by: Figure
    worst: tuple[Exhibit, ...]

    def label(self, index: int) -> str:
        """Return what a frame is called: a picture's name, or number and time in a clip."""
        if self.frame_rate is None:
            return self.names[index]
        at_s = round(float(self.start_s + index / self.frame_rate), 2)
        return f"frame {index}, {int(at_s // 60)}:{at_s % 60:05.2f}"

    def worst_of(self, figure: Figure) -> tuple[int, float] | None:
        """Return the frame that a figure is worst at, and its value there."""
        defined = ((n, v) for n, v in enumerate(self.series.get(figure, ())) if not math.isnan(v))
        pick = min if figure.is_merit else max
        return pick(defined, key=lambda frame: frame[1], default=None)


def evaluate_clip(
    job: Job,
    truth: Path | None = None,
    *,
    matte: Path | None = None,
    segmenter: Segmenter | None = None,
    on_start: Callable[[VideoInfo, int | None], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure the mattes that a job makes of a clip.

    Args:
        job: Which clip, and how its mattes are made. Its output and background are not looked at.
        truth: A video, picture, or folder of numbered pictures, as many as the clip has frames;
            None to measure only how steady the mattes are.
        matte: Mattes that exist already, likewise, instead of those that the job would make.
        segmenter: What makes the mattes, instead of the job's model and weights.
        on_start: Called with what the clip is and the number of frames expected.
        on_progress: Called after each frame.
        on_download: Called with bytes had and bytes in all while weights are fetched.

    Raises:
        VidbgError: Something cannot be read or made, or sizes or counts differ.
    """
    info = probe(job.source, job.in_fps, max_pixels=job.max_pixels)
    if info.missing_frames and not job.allow_damaged:
        raise damaged_error(info, "the file is cut short")
    if truth is None and info.is_image:
        raise InputError(
            "a picture alone has nothing to be compared with", path=job.source, hint="Give a TRUTH"
        )
    truths = None if truth is None else _opened(truth, info)
    kind = None if truths is None else kind_of(truths, truths.path)
    if matte is not None:
        given = _opened(matte, info)
        alphas = _read(job, info, given)
        made_by = f"mattes in {matte}"
    else:
        segmenter = segmenter or pipeline.load(job, info, on_download=on_download)
        alphas = _made(job, info, segmenter)
        made_by = _made_by(job, segmenter)
    if on_start is not None:
        on_start(info, info.frame_count)
    began = time.monotonic()
    gap = max(1, round(info.frame_rate * _EXHIBIT_GAP_S))
    tally = _Tally(kind, gap, is_clip=not info.is_image)
    for look in _with_truth(alphas, truths, info):
        tally.add(*look)
        if on_progress is not None:
            media_s = float(tally.frames / info.frame_rate)
            seconds = time.monotonic() - began
            on_progress(Progress(tally.frames, info.frame_count, media_s, seconds))
    return tally.report(
        job.source,
        truth,
        made_by=made_by,
        frame_rate=None if info.is_image else info.frame_rate,
        start_s=info.start,
        names=(job.source.name,) if info.is_image else (),
    )


def evaluate_pictures(
    job: Job,
    truth: Path,
    triples: Iterable[tuple[Path, Path, Path | None]],
    *,
    segmenter: Segmenter | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure the mattes that a job makes of pictures, each by itself.

    Args:
        job: How mattes are made; its source is what the report names as such.
        truth: What the report names as truth.
        triples: A picture, its truth, and its matte where that exists already.
        segmenter: What makes the mattes, instead of the job's model and weights.
        on_progress: Called after each picture with the number so far.
        on_download: Called with bytes had and bytes in all while weights are fetched.

    Raises:
        VidbgError: Something cannot be read or made, or sizes differ.
    """
    chosen = list(triples)
    kind = kind_of((read_picture(one) for _, one, _ in chosen), truth)
    tally = _Tally(kind, 1, is_clip=False)
    made_by = ""
    for picture, true, matte in chosen:
        info = probe(picture, max_pixels=job.max_pixels)
        if matte is None:
            # A screen has another colour in each picture, a network is the same for all.
            maker = segmenter or pipeline.load(job, info, on_download=on_download)
            segmenter = None if job.model == CHROMA_MODEL else maker
            alphas = _made(job, info, maker)
            made_by = _made_by(job, maker)
        else:
            alphas = _read(job, info, open_matte(matte))
            made_by = f"mattes in {matte.parent}"
        for look in _with_truth(alphas, open_matte(true), info):
            tally.add(*look)
        if on_progress is not None:
            on_progress(tally.frames)
    return tally.report(
        job.source,
        truth,
        made_by=made_by,
        frame_rate=None,
        start_s=Fraction(0),
        names=tuple(picture.name for picture, _, _ in chosen),
    )


class _Tally:
    """Takes frames one after another and keeps their figures, and pictures of the worst.

    Args:
        kind: The kind of truth, or None without one.
        gap: How many frames lie between two that are shown, at least.
        is_clip: The frames follow each other.
    """

    def __init__(self, kind: str | None, gap: int, *, is_clip: bool) -> None:
        self.frames = 0
        self._kind = kind
        self._figures = _FIGURES[kind]
        self._series: dict[Figure, array[float]] = {
            figure: array("d") for figure in self._figures if figure is not MAX_F_BETA
        }
        self._f_beta: metrics.FBeta | None = None
        self._change, self._warp = metrics.Change(), metrics.WarpError()
        self._exhibits = _Exhibits(gap)
        self._before: Matte | None = None
        self._is_clip = is_clip

    def add(self, rgb: Picture, alpha: Matte, truth: Matte | None) -> None:
        """Take in a frame.

        Args:
            rgb: uint8 ``(H, W, 3)``, R'G'B' full range.
            alpha: float32 ``(H, W)``, 0 to 1.
            truth: float32 ``(H, W)``, 0 to 1; None unless there is a kind of truth.
        """
        found: dict[Figure, float | None] = {}
        if truth is not None:
            for figure in self._figures:
                if figure in _PER_PICTURE:
                    found[figure] = figure.factor * _PER_PICTURE[figure](alpha, truth)
            if MAX_F_BETA in self._figures and truth.max() > 0.5:
                self._f_beta = self._f_beta or metrics.FBeta()
                self._f_beta.add(alpha, truth)
        if self._is_clip:
            found[WARP] = self._warp.add(alpha, rgb)
            if truth is not None:
                found[DTSSD] = self._change.add(alpha, truth)
        for figure, values in self._series.items():
            value = found.get(figure)
            values.append(math.nan if value is None else value)
        ranked_by = _RANKED_BY[self._kind]
        value = found.get(ranked_by)
        if value is not None:
            badness = -value if ranked_by.is_merit else value
            before = self._before
            self._exhibits.offer(
                badness, Exhibit(self.frames, value, ()), lambda: _panels(rgb, alpha, truth, before)
            )
        self._before = alpha if truth is None else None
        self.frames += 1

    def report(
        self,
        source: Path,
        truth: Path | None,
        *,
        made_by: str,
        frame_rate: Fraction | None,
        start_s: Fraction,
        names: tuple[str, ...],
    ) -> Report:
        """Return all that was measured; see :class:`Report`."""
        series = {
            figure: values
            for figure, values in self._series.items()
            if not all(math.isnan(value) for value in values)
        }
        means: dict[Figure, float] = {}
        for figure in self._figures:
            if figure in series:
                defined = [value for value in series[figure] if not math.isnan(value)]
                means[figure] = math.fsum(defined) / len(defined)
            elif figure is MAX_F_BETA and self._f_beta is not None:
                means[figure] = self._f_beta.best()
        if not means:
            raise InputError("no two frames of it can be compared", path=source)
        return Report(
            source=source,
            truth=truth,
            kind=self._kind,
            made_by=made_by,
            names=names,
            frame_rate=frame_rate,
            start_s=start_s,
            frames=self.frames,
            series=series,
            means=means,
            ranked_by=_RANKED_BY[self._kind],
            worst=self._exhibits.worst_first(),
        )


@dataclass(slots=True)
class _Exhibits:
    """The worst frames so far, a few, no two of them close together."""

    gap: int
    # The worst frame of each stretch of so many frames, for the worst stretches.
    _kept: dict[int, tuple[float, Exhibit]] = field(default_factory=dict)

    def offer(
        self, badness: float, exhibit: Exhibit, draw: Callable[[], tuple[tuple[str, bytes], ...]]
    ) -> None:
        """Keep a frame if it is bad enough; only then are its pictures drawn."""
        stretch = rival = exhibit.index // self.gap
        if stretch not in self._kept and len(self._kept) == _CANDIDATES:
            rival = min(self._kept, key=lambda number: self._kept[number][0])
        if rival in self._kept:
            if badness <= self._kept[rival][0]:
                return
            del self._kept[rival]
        self._kept[stretch] = (badness, Exhibit(exhibit.index, exhibit.value, draw()))

    def worst_first(self) -> tuple[Exhibit, ...]:
        """Return those to show."""
        chosen: list[Exhibit] = []
        for _, exhibit in sorted(self._kept.values(), key=lambda kept: kept[0], reverse=True):
            if all(abs(exhibit.index - other.index) >= self.gap for other in chosen):
                chosen.append(exhibit)
        return tuple(chosen[:_EXHIBITS])


def _opened(path: Path, info: VideoInfo) -> MatteFile:
    """Open mattes for a clip, and refuse them if their number is known to be wrong."""
    found = open_matte(path)
    if None not in (found.count, info.frame_count) and found.count != info.frame_count:
        raise InputError(
            f"holds {_counted(found.count)}, the clip {_counted(info.frame_count)}", path=path
        )
    return found


def _counted(count: int | None) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _made(job: Job, info: VideoInfo, segmenter: Segmenter) -> Iterator[tuple[Picture, Matte]]:
    """Yield R'G'B' and alpha of each frame as the pipeline finishes it."""
    finish = pipeline.finisher(job, info, segmenter)
    for batch in pipeline.read_mattes(job, info, segmenter):
        ((_, alpha),) = finish(batch, None)
        if alpha is None:
            raise ValueError("a job that is measured gives alpha")
        top = np.float32(np.iinfo(alpha.dtype).max)
        for rgb, codes in zip(_rgb(batch.frames, info), alpha, strict=True):
            yield rgb, np.asarray(codes / top, np.float32)
        del batch, alpha, rgb, codes


def _read(job: Job, info: VideoInfo, mattes: MatteFile) -> Iterator[tuple[Picture, Matte]]:
    """Yield R'G'B' of each frame and its alpha as a file has it."""
    reader = FrameReader(info, allow_damaged=job.allow_damaged)
    frames = (rgb for batch in reader for rgb in _rgb(batch, info))
    for rgb, alpha in _paired(frames, mattes, mattes.path):
        _check_size(alpha, info, mattes.path)
        yield rgb, alpha


def _with_truth(
    looks: Iterator[tuple[Picture, Matte]], truths: MatteFile | None, info: VideoInfo
) -> Iterator[Look]:
    """Yield frames and alphas with the truths beside them."""
    if truths is None:
        for rgb, alpha in looks:
            yield rgb, alpha, None
        return
    for (rgb, alpha), truth in _paired(looks, truths, truths.path):
        _check_size(truth, info, truths.path)
        yield rgb, alpha, truth


def _paired(frames: Iterable[Any], mattes: Iterable[Matte], path: Path) -> Iterator[Any]:
    """Yield pairs; as many mattes as frames are wanted."""
    count = 0
    frame_iterator, matte_iterator = iter(frames), iter(mattes)
    for frame in frame_iterator:
        matte = next(matte_iterator, None)
        if matte is None:
            raise InputError(f"ends after {_counted(count)}, the clip goes on", path=path)
        count += 1
        yield frame, matte
    if next(matte_iterator, None) is not None:
        raise InputError(f"goes on after the clip's {_counted(count)}", path=path)


def _check_size(matte: Matte, info: VideoInfo, path: Path) -> None:
    if matte.shape != (info.height, info.width):
        height, width = matte.shape
        raise InputError(
            f"is {width}x{height}, {info.path} is {info.width}x{info.height}", path=path
        )


def _rgb(batch: FrameBatch, info: VideoInfo) -> Picture:
    """Return frames as R'G'B', uint8 ``(B, H, W, 3)``, full range."""
    colour = colours.resolve(info.colour, batch.format, info.height)
    return colours.planes_to_rgb(batch.planes, batch.format, colour)


def _made_by(job: Job, segmenter: Segmenter) -> str:
    """Return what made the mattes: network or keyer, and what was chosen otherwise."""
    default = matte_job(job.source)
    chosen = [
        f"{setting.name} {getattr(job, setting.name)}"
        for setting in fields(job)
        if setting.name not in _NOT_SETTINGS
        and getattr(job, setting.name) != getattr(default, setting.name)
    ]
    return ", ".join([segmenter.name, *chosen])


def _panels(
    rgb: Picture, alpha: Matte, truth: Matte | None, before: Matte | None
) -> tuple[tuple[str, bytes], ...]:
    """Return pictures of a frame: source, matte, truth (or the matte before), difference."""
    shown = [("source", rgb), ("matte", _grey(alpha))]
    other = before if truth is None else truth
    if other is not None:
        name = "truth" if truth is not None else "matte of the frame before"
        shown += [(name, _grey(other)), ("difference", _difference(alpha, other))]
    return tuple((caption, _jpeg(picture)) for caption, picture in shown)


def _grey(matte: Matte) -> Picture:
    return np.dstack([np.rint(matte * 255).astype(np.uint8)] * 3)


def _difference(alpha: Matte, other: Matte) -> Picture:
    """Return where a matte has more (orange) and less (blue) than another, on black."""
    more, less = np.maximum(alpha - other, 0), np.maximum(other - alpha, 0)
    orange, blue = np.array([255, 140, 0], np.float32), np.array([60, 150, 255], np.float32)
    painted = more[..., None] * orange + less[..., None] * blue
    return np.asarray(np.rint(painted), np.uint8)


def _jpeg(picture: Picture) -> bytes:
    """Return a picture as a small JPEG file."""
    height, width = picture.shape[:2]
    if width > _EXHIBIT_WIDTH_PX:
        size = (_EXHIBIT_WIDTH_PX, max(1, round(height * _EXHIBIT_WIDTH_PX / width)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError("OpenCV cannot write a JPEG file")
    return coded.tobytes()
