"""The whole data flow of one clip: probe, decode, segment, smooth, finish, composite, encode."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

import numpy as np

from vidbg import colour as colours
from vidbg import composite
from vidbg.colour_names import parse_colour
from vidbg.errors import DecodeError, InputError, OutputError, VidbgError
from vidbg.frames import FrameBatch, MattedBatch, VideoInfo
from vidbg.matting import chroma, refine
from vidbg.matting.foreground import estimate_foreground
from vidbg.matting.spill import colours_around, suppress_spill
from vidbg.media import audio, background, encode, timing
from vidbg.media.decode import FrameReader, count_decodable, damaged_error, promised_frames
from vidbg.media.probe import check_readable, probe
from vidbg.prefetch import Prefetch
from vidbg.temporal.smooth import DEFAULT_STRENGTH, LOOKAHEAD_FRAMES, PREROLL_FRAMES, smooth

if TYPE_CHECKING:
    from vidbg.frames import Plane, Planes
    from vidbg.matting.segmenter import Segmenter

logger = logging.getLogger(__name__)

CHROMA_MODEL = "chroma"
# The default radius of --bg blur, as a share of the frame's height: a clearly blurred room
# in which shapes can still be told apart.
_BLUR_SHARE = 1 / 40
_AHEAD = 1
# Ten seconds at 25 frames a second in which --key auto looks for a screen.
_KEY_SEARCH_FRAMES = 250


@dataclass(frozen=True, slots=True)
class Job:
    """One clip to process. Times are in seconds.

    Attributes:
        source: The clip or picture.
        output: What to write.
        background: What goes behind the subject; None unless the output is a composite.
        bg_fit: How the background fills the frame: "cover", "contain" or "stretch".
        bg_end: What follows a background that is too short: "loop", "hold" or "black".
        bg_start_s: Where in the background video to begin.
        start_s: Begin with the first frame at or after this time on the clip's clock.
        end_s: End before the first frame at or after this time.
        model: A name from the registry, or "chroma"; None for the default.
        weights: A checkpoint to use instead of a registered one.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto", "fp32", "fp16" or "bf16".
        batch_size: Frames per call of the network, 1 or more; None chooses.
        key: Screen colour for the chroma model: "auto" or a colour.
        similarity: Chroma model: how far from the key still counts as screen, 0..1.
        smoothness: Chroma model: how softly the edge falls off, 0..1.
        smooth: Strength of temporal smoothing, 0..1; None for the model's default.
        edges: How the matte's edges are refined: "off", "fast" or "fine"; None for the
            model's default.
        keep: "all" objects in the matte, or the "largest".
        fill_holes: Make holes in the subject opaque.
        grow_px: Pixels by which the matte's edge moves outwards, inwards if negative.
        feather_px: Pixels over which the matte's edge is softened besides.
        despill: Take the old background's tint off the subject; None for the model's default.
        allow_damaged: Keep what decodes of a damaged clip instead of refusing it.
        resume: Encode in segments, and continue where an interrupted run stopped.

    Raises:
        ValueError: A choice is none of those above, a length out of its range, the codec has
            no such quality or preset, or ``batch_size`` is below 1.
    """

    source: Path
    output: encode.Output
    background: background.Blur | background.Solid | Path | None = None
    bg_fit: str = "cover"
    bg_end: str = "loop"
    bg_start_s: Fraction = Fraction(0)
    start_s: Fraction | None = None
    end_s: Fraction | None = None
    model: str | None = None
    weights: str | Path | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    key: str = "auto"
    similarity: float = chroma.DEFAULT_SIMILARITY
    smoothness: float = chroma.DEFAULT_SMOOTHNESS
    smooth: float | None = None
    edges: str | None = None
    keep: str = "all"
    fill_holes: bool = False
    grow_px: float = 0.0
    feather_px: float = 0.0
    despill: bool | None = None
    allow_damaged: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        for value, choices in (
            (self.output.kind, encode.KINDS),
            (self.output.sound, audio.CHOICES),
            (self.bg_fit, background.FITS),
            (self.bg_end, background.ENDS),
        ):
            if value not in choices:
                raise ValueError(f"{value!r} is none of {', '.join(choices)}")
        problem = encode.quality_problem(self.output.codec, self.output.crf, self.output.preset)
        if problem is not None:
            raise ValueError(": ".join(problem))
        if self.edges is not None and self.edges not in refine.EDGES:
            raise ValueError(f"{self.edges!r} is none of {', '.join(refine.EDGES)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batches of {self.batch_size} frames")
        _ = self.controls  # which says what is wrong with them

    @property
    def controls(self) -> refine.Controls:
        """What is wanted otherwise about the matte."""
        return refine.Controls(self.keep, self.fill_holes, self.grow_px, self.feather_px)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        frames: Frames written.
        total_frames: Frames expected, or None when unknown.
        media_s: Seconds of the clip that they cover.
        seconds: Wall-clock seconds since the first frame was asked for; loading the network
            and fetching its weights come before, and say nothing of how long the rest takes.
    """

    frames: int
    total_frames: int | None
    media_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished job made.

    Attributes:
        output: The file.
        frames: Frames in it.
        frame_rate: Its exact rate.
        seconds: Wall-clock seconds that it took.
        lost_frames: Frames of a damaged source that could not be decoded.
    """

    output: Path
    frames: int
    frame_rate: Fraction
    seconds: float
    lost_frames: int


class Matting(TypedDict, total=False):
    """How mattes are made: fields of :class:`Job`, as keyword arguments."""

    model: str | None
    weights: str | Path | None
    device: str
    precision: str
    batch_size: int | None
    key: str
    similarity: float
    smoothness: float
    smooth: float | None
    edges: str | None
    keep: str
    fill_holes: bool
    grow_px: float
    feather_px: float
    despill: bool | None
    allow_damaged: bool


class Options(Matting, total=False):
    """The optional fields of :class:`Job`, as keyword arguments."""

    bg_fit: str
    bg_end: str
    bg_start_s: Fraction
    start_s: Fraction | None
    end_s: Fraction | None


def matte_job(source: str | Path, **options: Unpack[Matting]) -> Job:
    """Return a job whose mattes are only looked at, by :func:`read_mattes`: it writes nothing.

    Args:
        source: The clip or picture.
        **options: See :class:`Job`.
    """
    return Job(Path(source), encode.Output(Path(os.devnull), "matte", "ffv1"), **options)


def run(
    job: Job,
    *,
    segmenter: Segmenter | None = None,
    on_start: Callable[[VideoInfo, int | None], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> Result:
    """Process one clip.

    Args:
        job: What to do.
        segmenter: What makes the mattes, instead of the job's model and weights.
        on_start: Called with what the clip is and the number of frames expected.
        on_progress: Called after each batch.
        on_download: Called with bytes had and bytes in all while weights are fetched.

    Raises:
        VidbgError: The job cannot be done. Nothing is left behind, and what is at the
            output's name is what was there before.
    """
    began = time.monotonic()
    info = _checked(job)
    first, stop, total = _frame_range(job, info)
    behind_info = _background_info(job)
    sound = _sound(job, behind_info)
    if segmenter is None:
        segmenter = load(job, info, first, stop, on_download=on_download)
    batch_size = _batch_size(job, segmenter, info)
    scenery = _scenery(job, info, behind_info, batch_size)
    strength = _strength(job, segmenter)
    # What the mattes within a trim depend on outside of it: they are those of the whole clip.
    lead = min(first, PREROLL_FRAMES) if strength else 0
    tail = LOOKAHEAD_FRAMES if strength else 0
    if on_start is not None:
        on_start(info, total)
    frames_began = time.monotonic()

    with ExitStack() as cleanup:
        reader = FrameReader(
            info,
            batch_size=batch_size,
            first=first - lead,
            stop=None if stop is None else stop + tail,
            allow_damaged=job.allow_damaged,
        )
        steady = cleanup.enter_context(_matted(job, reader, segmenter))
        if lead or (tail and stop is not None):
            steady = _within(steady, first, stop, batch_size)
        behind = None
        if scenery is not None:
            behind = cleanup.enter_context(Prefetch(scenery, _AHEAD, "background"))
        finished = finisher(job, info, segmenter)
        window = _window(info, first, total)
        sink = cleanup.enter_context(encode.Sink(job.output, info, window, sound))
        for batch in steady:
            sink.write(*finished(batch, behind))
            if on_progress is not None:
                on_progress(_progress(sink.frames_written, total, info, frames_began))
            del batch  # or it stays in memory while the next one is made
        if not sink.frames_written:
            raise DecodeError("the clip ends before the requested start", path=info.path)
    return Result(
        output=job.output.path,
        frames=sink.frames_written,
        frame_rate=info.frame_rate,
        seconds=time.monotonic() - began,
        lost_frames=_lost_frames(reader),
    )


def read_mattes(
    job: Job, info: VideoInfo, segmenter: Segmenter, *, first: int = 0, stop: int | None = None
) -> Iterator[MattedBatch]:
    """Yield a clip's frames with their final mattes, as a :func:`finisher` takes them.

    What :func:`run` works on, for those who look at the mattes instead of writing a file. The
    smoother sees the frames before ``first`` that its mattes depend on, and those after ``stop``:
    frames come as they do in the whole clip. Frames outside are not yielded.

    Args:
        job: What to do. Its output, background and times are not looked at.
        info: The clip.
        segmenter: What makes the mattes, such as :func:`load` returns.
        first: Index of the first frame.
        stop: Index after the last frame, or None for the end.

    Raises:
        VidbgError: It cannot be done.
    """
    is_smoothed = _strength(job, segmenter) > 0
    batch_size = _batch_size(job, segmenter, info)
    last = None if stop is None else stop + is_smoothed * LOOKAHEAD_FRAMES
    if last is not None and info.frame_count is not None:
        last = min(last, info.frame_count)
    reader = FrameReader(
        info,
        batch_size=batch_size,
        first=max(0, first - is_smoothed * PREROLL_FRAMES),
        stop=last,
        allow_damaged=job.allow_damaged,
    )
    with _matted(job, reader, segmenter) as steady:
        yield from _within(steady, first, stop, batch_size)


def load(
    job: Job,
    info: VideoInfo,
    first: int = 0,
    stop: int | None = None,
    *,
    on_download: Callable[[int, int], None] | None = None,
) -> Segmenter:
    """Return what makes a job's mattes: the keyer, with its colour found, or the network.

    Args:
        job: What to do.
        info: The clip.
        first: Index of the first frame in which the screen's colour is looked for.
        stop: Index after the last such frame, or None for the end.
        on_download: Called with bytes had and bytes in all while weights are fetched.

    Raises:
        VidbgError: There is no screen in the clip, or the network cannot be had.
    """
    if job.model == CHROMA_MODEL:
        return _keyer(job, info, first, stop)
    return _network(job, on_download)


@contextmanager
def _matted(job: Job, reader: FrameReader, segmenter: Segmenter) -> Iterator[Iterator[MattedBatch]]:
    """Decode and segment ahead, each in a thread of its own; give the steady mattes."""
    with (
        Prefetch(reader, _AHEAD, "decode") as frames,
        Prefetch(segment(frames, segmenter, reader.info), _AHEAD, "segment") as matted,
    ):
        # Upstream first: a stage that waits for frames is let go by the one it waits for.
        try:
            yield smooth(matted, _strength(job, segmenter))
        finally:
            frames.close()


def segment(
    frames: Iterable[FrameBatch], segmenter: Segmenter, info: VideoInfo
) -> Iterator[MattedBatch]:
    """Yield frames with the mattes that a segmenter sees in them, each on its own.

    Args:
        frames: Batches of the clip's frames.
        segmenter: The network or keyer.
        info: The clip.
    """
    size = segmenter.input_size(info.width, info.height, info.sar)
    colour = colours.resolve(info.colour, info.format, info.height)
    for batch in frames:
        thumbnails = colours.planes_to_rgb(batch.planes, batch.format, colour, size)
        yield MattedBatch(batch, thumbnails, segmenter(thumbnails))
        del batch, thumbnails


@dataclass(frozen=True, slots=True)
class Look:
    """How mattes and colours are finished, with all defaults settled.

    Attributes:
        edges: "off", "fast" or "fine".
        controls: What is wanted otherwise about the matte.
        despill: Take the old background's tint off the subject.
        screen: The old background's colour in code values, where it is known.
    """

    edges: str = "fast"
    controls: refine.Controls = refine.AS_IT_IS
    despill: bool = False
    screen: tuple[int, int, int] | None = None


def finisher(
    job: Job, info: VideoInfo, segmenter: Segmenter
) -> Callable[[MattedBatch, Iterator[Planes] | None], tuple[Planes, Plane | None]]:
    """Return :func:`finish` with all of a job's settings: what takes batches and backgrounds.

    Args:
        job: What to do.
        info: The clip.
        segmenter: What made the mattes.
    """
    return partial(finish, job, look=_look(job, segmenter, info))


def finish(
    job: Job, batch: MattedBatch, behind: Iterator[Planes] | None, look: Look
) -> tuple[Planes, Plane | None]:
    """Return what the output shows of a batch: planes, and alpha unless it is a composite.

    Args:
        job: What to do.
        batch: Frames with their final mattes.
        behind: Background planes, batch by batch; None where there are none, or where they
            are made from the clip itself.
        look: How mattes and colours are finished.
    """
    frames = batch.frames
    alpha = refine.finish_matte(batch, look.edges, look.controls)
    if job.output.kind == "matte":
        return frames.planes, alpha
    alphas = composite.alpha_planes(alpha, frames.format)
    subject = _subject(batch, alphas, look)
    if job.output.kind == "alpha":
        return subject, alpha
    if isinstance(job.background, background.Blur):
        radius_px = job.background.radius_px or frames.planes[0].shape[1] * _BLUR_SHARE
        backdrop = composite.blurred_background(frames.planes, alphas, frames.format, radius_px)
    elif behind is None:
        raise ValueError("a composite needs a background")
    else:
        first, second, third = next(behind)
        count = len(frames)  # the clip's last batch may be short
        backdrop = first[:count], second[:count], third[:count]
    return composite.over(subject, backdrop, alphas), None


def _subject(batch: MattedBatch, alphas: Planes, look: Look) -> Planes:
    """Return frames with the subject's own colours.

    Args:
        batch: Frames with their mattes.
        alphas: The finished alpha at each plane's size.
        look: How it was finished.
    """
    frames = batch.frames
    if frames.source_alpha is not None:
        # The source's own alpha is straight: its colours are no mixture, and only the matte is
        # to be looked at.
        alone = replace(batch, frames=replace(frames, source_alpha=None))
        alpha = refine.finish_matte(alone, look.edges, look.controls)
        alphas = composite.alpha_planes(alpha, frames.format)
    subject = estimate_foreground(frames.planes, alphas, frames.format)
    if look.despill:
        screens: Sequence[tuple[float, float, float]]
        if look.screen is None:
            screens = colours_around(frames.planes, alphas)
        else:
            screens = [look.screen] * len(frames)
        subject = suppress_spill(subject, frames.format, screens)
    return subject


def _within(
    batches: Iterable[MattedBatch], first: int, stop: int | None, batch_size: int
) -> Iterator[MattedBatch]:
    """Yield the frames of a trim, without those that were read around it.

    Every batch but the last is full again: the background comes in full batches too.

    Args:
        batches: Consecutive frames, in batches of ``batch_size``.
        first: Index in the clip of the first frame.
        stop: Index after the last frame, or None for the end.
        batch_size: Frames per batch.
    """
    part: MattedBatch | None = None
    for batch in batches:
        index = batch.frames.first_index
        end = len(batch.frames) if stop is None else stop - index
        piece = _part(batch, max(0, first - index), end)
        del batch
        if len(piece.frames) == 0:
            continue
        part = piece if part is None else _joined(part, piece)
        if len(part.frames) >= batch_size:
            yield _part(part, 0, batch_size)
            rest = _part(part, batch_size, len(part.frames))
            part = rest if len(rest.frames) else None
            del rest
        del piece
    if part is not None:
        yield part


def _part(batch: MattedBatch, start: int, stop: int) -> MattedBatch:
    """Return some frames of a batch: views, or the batch itself where that is all of it."""
    frames = batch.frames
    if start == 0 and stop >= len(frames):
        return batch
    chosen = slice(start, max(start, stop))
    first, second, third = frames.planes
    own = frames.source_alpha
    return MattedBatch(
        FrameBatch(
            (first[chosen], second[chosen], third[chosen]),
            frames.format,
            frames.first_index + start,
            None if own is None else own[chosen],
        ),
        batch.thumbnails[chosen],
        batch.matte[chosen],
    )


def _joined(one: MattedBatch, other: MattedBatch) -> MattedBatch:
    """Return consecutive frames as one batch."""

    def both(before: Plane, after: Plane) -> Plane:
        return cast("Plane", np.concatenate([before, after]))

    (y, cb, cr), (y_after, cb_after, cr_after) = one.frames.planes, other.frames.planes
    own, own_after = one.frames.source_alpha, other.frames.source_alpha
    return MattedBatch(
        FrameBatch(
            (both(y, y_after), both(cb, cb_after), both(cr, cr_after)),
            one.frames.format,
            one.frames.first_index,
            None if own is None or own_after is None else both(own, own_after),
        ),
        np.concatenate([one.thumbnails, other.thumbnails]),
        np.concatenate([one.matte, other.matte]),
    )


def _checked(job: Job) -> VideoInfo:
    """Probe the source and refuse what cannot work, before anything is started."""
    output = job.output
    if output.kind == "composite" and job.background is None:
        raise VidbgError("a composite needs a background")
    check_readable(job.source)
    encode.container_of(output.path)
    encode.check_writable(output.path, job.source, output.overwrite)
    info = probe(job.source)
    is_picture = output.path.suffix.lower() in encode.PICTURE_SUFFIXES
    if is_picture != info.is_image:
        what = "a video cannot be written as a picture" if is_picture else "a picture stays one"
        raise OutputError(
            what, path=output.path, hint=f"Use {'.mp4' if is_picture else '.png'} for -o"
        )
    if info.missing_frames and not job.allow_damaged:
        raise damaged_error(info, "the file is cut short")
    if info.is_vfr:
        logger.info(
            "%s: variable frame rate, made even at %s fps: %d frames repeated, %d dropped",
            info.path,
            info.frame_rate,
            info.repeated_frames,
            info.dropped_frames,
        )
    if not encode.keeps_depth(output.codec, info, output.kind):
        logger.info(
            "%s: %d-bit colour is dithered for %s; --codec hevc, prores or ffv1 keeps more",
            info.path,
            info.format.depth,
            output.codec,
        )
    return info


def _frame_range(job: Job, info: VideoInfo) -> tuple[int, int | None, int | None]:
    """Return the first frame, one past the last (or None for the end), and the count."""
    first, stop = timing.trim_range(job.start_s, job.end_s, info.start, info.frame_rate)
    count = info.frame_count
    if stop is not None and stop <= first:
        raise InputError("there is no frame between --start and --end", path=info.path)
    if count is None:
        return first, stop, None if stop is None else stop - first
    if first >= count:
        raise InputError(
            f"the clip ends at {float(info.start + info.duration):.3f} s, before --start",
            path=info.path,
        )
    if stop is not None and stop >= count:
        stop = None
    return first, stop, (count if stop is None else stop) - first


def _window(info: VideoInfo, first: int, total: int | None) -> audio.Window:
    rate = info.frame_rate
    return audio.Window(
        start_s=info.start + first / rate,
        duration_s=info.duration - first / rate if total is None else total / rate,
        is_trimmed=first > 0 or total != info.frame_count,
    )


def _network(job: Job, on_download: Callable[[int, int], None] | None) -> Segmenter:
    from vidbg.matting.segmenter import load_segmenter

    return load_segmenter(
        model=job.model,
        weights=job.weights,
        device=job.device,
        precision=job.precision,
        progress=on_download,
    )


def _batch_size(job: Job, segmenter: Segmenter, info: VideoInfo) -> int:
    if job.batch_size is not None:
        return job.batch_size
    return segmenter.batch_size(*segmenter.input_size(info.width, info.height, info.sar))


def _keyer(job: Job, info: VideoInfo, first: int, stop: int | None) -> Segmenter:
    """Return the keyer; its colour, if none is given, is that of the first screen in the clip."""
    if job.key != "auto":
        return chroma.ChromaKeyer(parse_colour(job.key), job.similarity, job.smoothness)
    # Not only the first frame: clips fade in from black.
    last = first + _KEY_SEARCH_FRAMES if stop is None else min(stop, first + _KEY_SEARCH_FRAMES)
    colour = colours.resolve(info.colour, info.format, info.height)
    refusal: VidbgError | None = None
    for batch in FrameReader(info, first=first, stop=last, allow_damaged=job.allow_damaged):
        try:
            key = chroma.estimate_key(colours.planes_to_rgb(batch.planes, batch.format, colour))
        except VidbgError as error:
            refusal = refusal or error
            continue
        logger.info("%s: key colour #%02x%02x%02x", info.path, *key)
        return chroma.ChromaKeyer(key, job.similarity, job.smoothness)
    refusal = refusal or VidbgError("no frame of it can be decoded")
    raise InputError(refusal.message, path=info.path, hint=refusal.hint) from refusal


def _strength(job: Job, segmenter: Segmenter) -> float:
    if job.smooth is not None:
        return job.smooth
    # A key does not flicker; smoothing it at full size would only cost time.
    return 0.0 if isinstance(segmenter, chroma.ChromaKeyer) else DEFAULT_STRENGTH


def _look(job: Job, segmenter: Segmenter, info: VideoInfo) -> Look:
    """Return how the job's frames are finished."""
    if not isinstance(segmenter, chroma.ChromaKeyer):
        return Look(job.edges or "fast", job.controls, bool(job.despill))
    # A key is made of the frame's colours at its full size: there is nothing to refine.
    colour = colours.resolve(info.colour, info.format, info.height)
    screen = colours.rgb_to_codes(segmenter.key, info.format, colour)
    return Look(job.edges or "off", job.controls, job.despill is not False, screen)


def _background_info(job: Job) -> VideoInfo | None:
    """Probe the background, where it is a file, and refuse one that the job would overwrite."""
    path = job.background
    if not isinstance(path, Path):
        return None
    if not path.exists():
        raise InputError(
            "no such file, nor a colour",
            path=path,
            hint="Colours are #rrggbb, red,green,blue or a CSS name",
        )
    if job.output.path.exists() and job.output.path.samefile(path):
        raise OutputError(
            "is the background itself", path=job.output.path, hint="Choose another -o"
        )
    return probe(path)


def read_background(job: Job, info: VideoInfo, first: int) -> Iterable[Planes] | None:
    """Return the background of single frames, as :func:`finish` takes it, or None without one.

    Args:
        job: What to do.
        info: The clip.
        first: Index of the clip's frame to begin with.

    Raises:
        VidbgError: The background cannot be read.
    """
    return _scenery(job, info, _background_info(job), batch_size=1, first=first)


def _scenery(
    job: Job,
    info: VideoInfo,
    behind_info: VideoInfo | None,
    batch_size: int,
    first: int = 0,
) -> Iterable[Planes] | None:
    """Return an endless iterable of background planes, or None where none come from outside."""
    chosen = job.background
    if chosen is None or isinstance(chosen, background.Blur):
        return None
    target = background.Target(
        info.width,
        info.height,
        info.sar,
        info.format,
        colours.resolve(info.colour, info.format, info.height),
        info.frame_rate,
    )
    if isinstance(chosen, background.Solid):
        return itertools.repeat(background.solid(chosen.rgb, target))
    if behind_info is None or behind_info.is_image:
        return itertools.repeat(background.still(chosen, job.bg_fit, target))
    return background.BackgroundVideo(
        behind_info,
        target,
        fit=job.bg_fit,
        end=job.bg_end,
        start_s=job.bg_start_s,
        batch_size=batch_size,
        first=first,
    )


def _sound(job: Job, behind_info: VideoInfo | None) -> audio.BackgroundSound | None:
    """Return the background's sound if it is wanted."""
    if job.output.sound not in ("bg", "mix"):
        return None
    if behind_info is not None and not behind_info.is_image and behind_info.audio:
        return audio.BackgroundSound(behind_info, job.bg_start_s, job.bg_end == "loop")
    raise InputError(
        "the background has no sound",
        path=job.background if isinstance(job.background, Path) else None,
        hint="Use --audio source or none",
    )


def _progress(frames: int, total: int | None, info: VideoInfo, began: float) -> Progress:
    return Progress(frames, total, float(frames / info.frame_rate), time.monotonic() - began)


def _lost_frames(reader: FrameReader) -> int:
    """Return how many frames of a damaged clip are missing from the result, and say so."""
    info = reader.info
    if not (reader.damage or info.missing_frames):
        return 0
    promised = promised_frames(info)
    lost = max(info.missing_frames, promised - count_decodable(info))
    logger.warning(
        "%s: damaged (%s): %d of %d frames are lost",
        info.path,
        reader.damage or "the file is cut short",
        lost,
        promised,
    )
    return lost


def replace_background(
    source: str | Path,
    bg: str | Path,
    output: str | Path | None = None,
    *,
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
    sound: str = "source",
    overwrite: bool = False,
    **options: Unpack[Options],
) -> Result:
    """Put another background behind a clip's subject.

    Args:
        source: The clip or picture.
        bg: A video, a picture, a colour ("#00b140", "green", "0,177,64"), "blur" or
            "blur:RADIUS". A Path is always a file.
        output: The result; None for ``STEM.vidbg.mp4`` beside the source.
        codec: "h264", "hevc", "av1", "vp9", "prores" or "ffv1"; None for the
            container's default.
        crf: Constant quality, lower is better; None for the codec's default.
        preset: Encoder preset; None for the codec's default.
        sound: "source", "bg", "mix" or "none".
        overwrite: Replace an existing output.
        **options: See :class:`Job`.

    Raises:
        VidbgError: It cannot be done; nothing is left behind.
        ValueError: ``bg`` is a blur whose radius is not a number, or an option is none of
            its choices.
    """
    path = _output_path(source, output, "composite", codec)
    chosen = encode.choose_codec(path, "composite", codec)
    written = encode.Output(path, "composite", chosen, crf, preset, sound, overwrite)
    behind = bg if isinstance(bg, Path) else background.parse(bg)
    return run(Job(Path(source), written, background=behind, **options))


def extract_foreground(
    source: str | Path,
    output: str | Path | None = None,
    *,
    codec: str | None = None,
    sound: str = "source",
    overwrite: bool = False,
    **options: Unpack[Options],
) -> Result:
    """Write a clip's subject with transparency: ProRes 4444 in .mov, VP9 in .webm.

    Arguments and errors are those of :func:`replace_background`; the default output is
    ``STEM.vidbg.mov`` beside the source.
    """
    path = _output_path(source, output, "alpha", codec)
    chosen = encode.choose_codec(path, "alpha", codec)
    written = encode.Output(path, "alpha", chosen, sound=sound, overwrite=overwrite)
    return run(Job(Path(source), written, **options))


def extract_matte(
    source: str | Path,
    output: str | Path | None = None,
    *,
    codec: str | None = None,
    sound: str = "source",
    overwrite: bool = False,
    **options: Unpack[Options],
) -> Result:
    """Write a clip's alpha matte as full-range grey video: white is the subject.

    Arguments and errors are those of :func:`replace_background`; the default output is
    ``STEM.vidbg.mp4`` beside the source.
    """
    path = _output_path(source, output, "matte", codec)
    chosen = encode.choose_codec(path, "matte", codec)
    written = encode.Output(path, "matte", chosen, sound=sound, overwrite=overwrite)
    return run(Job(Path(source), written, **options))


def _output_path(
    source: str | Path, output: str | Path | None, kind: str, codec: str | None
) -> Path:
    return encode.default_path(Path(source), kind, codec) if output is None else Path(output)
