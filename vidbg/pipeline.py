"""The whole data flow of one clip: probe, decode, segment, smooth, finish, composite, encode."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, cast

import cv2
import numpy as np

from vidbg import colour as colours
from vidbg import composite, machine
from vidbg.colour_names import parse_colour
from vidbg.errors import DecodeError, InputError, OutputError, VidbgError
from vidbg.frames import FrameBatch, MattedBatch, VideoInfo
from vidbg.job import CHROMA_MODEL, Job, Options, Progress, Result
from vidbg.journal import fingerprint
from vidbg.matting import chroma, refine, views
from vidbg.matting.foreground import estimate_foreground, extend_foreground
from vidbg.matting.spill import colours_around, suppress_spill
from vidbg.media import audio, background, encode, nvdec, pngs, segments, sinks, timing
from vidbg.media.decode import FrameReader, count_decodable, damaged_error, promised_frames
from vidbg.media.light import light_of
from vidbg.media.mattes import MatteReader, ReadyMattes, open_mattes
from vidbg.media.probe import check_readable, probe
from vidbg.media.sequence import is_sequence
from vidbg.prefetch import Prefetch
from vidbg.profile import count_frames, stage
from vidbg.temporal.keyframes import ADAPTIVE, EVERY_FRAME, Expected, Rhythm, carried
from vidbg.temporal.smooth import DEFAULT_STRENGTH, LOOKAHEAD_FRAMES, PREROLL_FRAMES, smooth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import Colour, Plane, Planes
    from vidbg.gpu.stages import Stages
    from vidbg.matting.segmenter import Segmenter

    # What an output shows of a batch: planes, and straight alpha unless it is a composite.
    Shown = tuple[Planes, Plane | None]

logger = logging.getLogger(__name__)

# The default radius of --bg blur, as a share of the frame's height: a clearly blurred room
# in which shapes can still be told apart.
_BLUR_SHARE = 1 / 40
_AHEAD = 1
# Frames are looked at in different ways where the smoother takes their mean: weaker smoothing would
# leave more flicker than it takes away.
_STRENGTH_FOR_TURNS = 0.5
# From here on the network is the least of a frame's time, and ten frames that wait for a choice of
# key frames are 130 MB.
_LARGE_PIXELS = 6_000_000
# Ten seconds at 25 frames a second in which --key auto looks for a screen.
_KEY_SEARCH_FRAMES = 250


@stage("other")
def run(
    job: Job,
    *,
    segmenter: Segmenter | ReadyMattes | None = None,
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
        VidbgError: The job cannot be done. Nothing is left behind but the segments of a job
            with ``resume``, and what is at the output's name is what was there before. Several
            outputs of such a job get their names one by one: the first may be there already.
        Interrupted: So was a job with ``resume``, and there is something to go on with.
    """
    began = time.monotonic()
    info = _checked(job)
    behind_info = _background_info(job)
    # Of what was asked for: a hardware encoder that is found, or not, makes it no other job.
    identity = _fingerprint(job) if _is_resumable(job) else None
    main, *others = (encode.settled(output, info) for output in job.outputs)
    job = replace(job, output=main, also=tuple(others))
    first, stop, total = _frame_range(job, info)
    sound = _sound(job, behind_info)
    window = _window(info, first, total)

    with ExitStack() as cleanup:
        cleanup.enter_context(_opencv_within(machine.cores_per_stage()))
        work = None
        if identity is not None:
            work = cleanup.enter_context(segments.Work(job.outputs, identity))
        elif job.resume:
            exempt = [one.path for one in job.outputs if not segments.is_resumable(one)]
            logger.warning(
                "%s: cannot be made in segments, nor resumed: video files at the clip's rate can",
                ", ".join(map(str, exempt)),
            )
        done = 0 if work is None else work.frames
        if work is not None and work.is_complete:  # ended while its segments were joined
            if on_start is not None:
                on_start(info, total)
            with segments.SegmentedSinks(work, info, window, sound):
                pass
            return _result(job, info, began, done, done)
        if segmenter is None:
            if job.matte_in is not None:
                segmenter = open_mattes(job.matte_in, info, first, stop, max_pixels=job.max_pixels)
            else:
                segmenter = load(job, info, first, stop, on_download=on_download)
        if work is not None:  # a keyer, and ready mattes, are the same everywhere
            work.made_by(getattr(segmenter, "way", ""))
        batch_size = _batch_size(job, segmenter, info)
        on_device = _stages_on_device(job, segmenter, info)
        if on_device is not None and job.batch_size is None:
            batch_size = on_device.batch_size(batch_size)
        scenery = _scenery(job, info, behind_info, batch_size, done)
        begin = first + done
        reach = _reach(job, segmenter, info, begin, stop)
        if on_start is not None:
            on_start(info, total)
        frames_began = time.monotonic()
        reader = FrameReader(
            info,
            batch_size=batch_size,
            first=reach[0],
            stop=reach[1],
            allow_damaged=job.allow_damaged,
            gpu=None if on_device is None else _decoder(job, info, on_device),
        )
        behind = None
        if scenery is not None:
            behind = cleanup.enter_context(Prefetch(scenery, _AHEAD, "background"))
        shown: Iterator[Sequence[tuple[Planes | None, Plane | None]]]
        if on_device is not None:
            shown = cleanup.enter_context(on_device.shown(reader, behind, begin, stop))
        else:
            steady = cleanup.enter_context(_matted(job, reader, segmenter))
            if reach != (begin, stop):
                steady = _within(steady, begin, stop, batch_size)
            finished = finisher(job, info, segmenter)
            # map() holds no batch while the next one is made.
            shown = map(finished, steady, itertools.repeat(behind))
        written: sinks.Sinks | segments.SegmentedSinks
        if work is None:
            written = cleanup.enter_context(sinks.Sinks(job.outputs, info, window, sound))
        else:
            written = cleanup.enter_context(segments.SegmentedSinks(work, info, window, sound))
        if done and on_progress is not None:
            on_progress(_progress(done, total, info, frames_began, done))
        made = done
        for batch in shown:
            written.write(batch)
            count_frames(written.frames_written - made)
            made = written.frames_written
            if on_progress is not None:
                on_progress(_progress(written.frames_written, total, info, frames_began, done))
            del batch  # or it stays in memory while the next one is made
        if written.frames_written == done:
            raise DecodeError("the clip ends before the requested start", path=info.path)
    return _result(job, info, began, written.frames_written, done, reader.damage)


@contextmanager
def _opencv_within(cores: int) -> Iterator[None]:
    """Keep OpenCV to so many threads: it would take all cores of the host for each stage."""
    threads = cv2.getNumThreads()
    if threads <= cores:
        yield
        return
    cv2.setNumThreads(cores)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


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
    batch_size = _batch_size(job, segmenter, info)
    begin, end = _reach(job, segmenter, info, first, stop)
    reader = FrameReader(
        info,
        batch_size=batch_size,
        first=begin,
        stop=end,
        allow_damaged=job.allow_damaged,
    )
    with _matted(job, reader, segmenter) as steady:
        yield from _within(steady, first, stop, batch_size)


@stage("start-up")
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
def _matted(
    job: Job, reader: FrameReader, segmenter: Segmenter | ReadyMattes
) -> Iterator[Iterator[MattedBatch]]:
    """Decode, segment and smooth ahead, each in a thread of its own; give the steady mattes."""

    def with_mattes(frames: Iterable[FrameBatch]) -> Iterable[MattedBatch]:
        if not isinstance(segmenter, ReadyMattes):
            info = reader.info
            rhythm = _rhythm(job, segmenter, info)
            return segment(frames, segmenter, info, _turns(job, segmenter, info), rhythm)
        wants_pictures = bool(job.smooth) or (job.edges or "off") != "off"
        return MatteReader(frames, segmenter, reader, wants_pictures=wants_pictures)

    strength = _strength(job, segmenter)
    with ExitStack() as stages:
        frames = stages.enter_context(Prefetch(reader, _AHEAD, "decode"))
        matted = stages.enter_context(Prefetch(with_mattes(frames), _AHEAD, "segment"))
        steady = smooth(matted, strength)
        if strength:
            steady = stages.enter_context(Prefetch(steady, _AHEAD, "smooth"))
        # Upstream first: a stage that waits for frames is let go by the one it waits for.
        try:
            yield steady
        finally:
            frames.close()


def segment(
    frames: Iterable[FrameBatch],
    segmenter: Segmenter,
    info: VideoInfo,
    turns: views.Turns | None = None,
    rhythm: Rhythm = EVERY_FRAME,
) -> Iterator[MattedBatch]:
    """Yield frames with the mattes that a segmenter sees in them, or in their neighbours.

    Args:
        frames: Batches of the clip's frames.
        segmenter: The network or keyer.
        info: The clip.
        turns: The views that frames are seen through in turn; None for the segmenter's own size.
        rhythm: Which frames it looks at.
    """
    size = segmenter.input_size(info.width, info.height, info.sar)
    if turns is None:
        turns = ((views.View(size),),)
    if isinstance(segmenter, views.Versatile):
        segmenter.prepare(view.size for ways in turns for view in ways)
    colour = colours.resolve(info.colour, info.format, info.height)

    def look(
        batch: FrameBatch,
        thumbnails: NDArray[np.uint8],
        places: Sequence[int],
        expected: Sequence[Expected | None],
    ) -> NDArray[np.float32]:
        chosen = [turns[rhythm.turn(batch.first_index + n) % len(turns)] for n in places]
        closer = [
            None if what is None else _seen_closer(segmenter, batch, n, colour, ways, what)
            for n, ways, what in zip(places, chosen, expected, strict=True)
        ]
        left = [number for number, matte in enumerate(closer) if matte is None]
        picture = partial(_shown, batch, thumbnails, colour, [places[n] for n in left])
        whole = iter(views.seen(segmenter, picture, [chosen[n] for n in left], size))
        return np.stack([next(whole) if matte is None else matte for matte in closer])

    pictured = (
        (batch, colours.planes_to_rgb(batch.planes, batch.format, colour, size)) for batch in frames
    )
    if not rhythm.is_every_frame:
        yield from stage("carry").each(carried(pictured, look, rhythm))
        return
    for batch, thumbnails in pictured:
        places = range(len(batch))
        mattes = look(batch, thumbnails, places, [None] * len(places))
        yield MattedBatch(batch, thumbnails, mattes)
        del batch, thumbnails


def _shown(
    batch: FrameBatch,
    thumbnails: NDArray[np.uint8],
    colour: Colour,
    places: Sequence[int],
    size: tuple[int, int],
    numbers: Sequence[int],
) -> NDArray[np.uint8]:
    """Return some of the frames at places of a batch at a size: thumbnails, or made for it."""
    chosen = [places[number] for number in numbers]
    if thumbnails.shape[1:3] == size:
        return thumbnails[chosen]
    planes = first, second, third = batch.planes
    if chosen != list(range(len(batch))):
        planes = first[chosen], second[chosen], third[chosen]
    return colours.planes_to_rgb(planes, batch.format, colour, size)


def _seen_closer(
    segmenter: Segmenter,
    batch: FrameBatch,
    place: int,
    colour: Colour,
    ways: Sequence[views.View],
    expected: Expected,
) -> NDArray[np.float32] | None:
    """Return a frame's matte from a look where its subject is, or None if that will not do."""
    height, width = batch.planes[0].shape[1:]
    down, across = batch.format.log2_chroma_h, batch.format.log2_chroma_w
    box = views.box_around(expected.reach, (height, width), (1 << down, 1 << across))
    if box is None or len(ways) != 1:
        return None
    first, second, third = (
        plane[
            place : place + 1,
            box.top >> y : -(-box.bottom >> y),
            box.left >> x : -(-box.right >> x),
        ]
        for plane, y, x in zip(batch.planes, (0, down, down), (0, across, across), strict=True)
    )
    size = views.closer_size(ways[0].size)
    picture = colours.planes_to_rgb((first, second, third), batch.format, colour, size)[0]
    return views.seen_closer(
        segmenter,
        picture,
        box,
        (height, width),
        expected.matte,
        is_mirrored=ways[0].is_mirrored,
    )


def _turns(job: Job, segmenter: Segmenter, info: VideoInfo) -> views.Turns | None:
    """Return the ways in which frames are looked at, or None where the segmenter knows but one."""
    if not isinstance(segmenter, views.Versatile):
        return None
    own = segmenter.input_size(info.width, info.height, info.sar)
    looks = views.LOOKS[-1] if info.is_image else job.looks
    in_turn = _strength(job, segmenter) >= _STRENGTH_FOR_TURNS
    return views.turns(own, segmenter.square_size, looks, in_turn=in_turn)


def _stages_on_device(
    job: Job, segmenter: Segmenter | ReadyMattes, info: VideoInfo
) -> Stages | None:
    """Return all of a job's stages on its network's device, or None to make them on the CPU."""
    if isinstance(segmenter, ReadyMattes):
        return None
    if not isinstance(segmenter, views.Versatile) or segmenter.is_slow:
        return None  # before PyTorch is loaded in vain
    from vidbg.gpu import stages

    if not (isinstance(segmenter, stages.OnDevice) and stages.is_worth_it(segmenter.device)):
        return None
    look = _look(job, segmenter, info)
    obstacle = stages.obstacle(
        info,
        look.edges,
        look.controls,
        despill=look.despill,
        blurs=isinstance(job.background, background.Blur),
        carries=not _rhythm(job, segmenter, info).is_every_frame,
    )
    if obstacle is not None:
        logger.info("%s: only the network runs on %s (%s)", info.path, segmenter.device, obstacle)
        return None
    return stages.Stages(
        segmenter,
        info,
        _turns(job, segmenter, info),
        strength=_strength(job, segmenter),
        edges=look.edges,
        wanted=[(output.kind, output.premultiplied) for output in job.outputs],
        black=look.black,
    )


def _decoder(job: Job, info: VideoInfo, on_device: Stages) -> int | None:
    """Return the number of the GPU that decodes a clip, if one does: that of the other stages."""
    gpu = on_device.cuda_index
    # What is damaged is decoded otherwise by hardware.
    return gpu if gpu is not None and not job.allow_damaged and nvdec.decodes(info, gpu) else None


def _rhythm(job: Job, segmenter: Segmenter | ReadyMattes, info: VideoInfo) -> Rhythm:
    """Return which frames the network looks at."""
    if info.is_image or not isinstance(segmenter, views.Versatile):
        return EVERY_FRAME
    if job.every is not None:
        return Rhythm(job.every, is_adaptive=False)
    # Without a smoother every frame is as the network sees it; who asks for more looks has time.
    is_smoothed = _strength(job, segmenter) >= _STRENGTH_FOR_TURNS
    if not (segmenter.is_slow and is_smoothed and job.looks == 1):
        return EVERY_FRAME
    is_large = info.width * info.height >= _LARGE_PIXELS
    return EVERY_FRAME if is_large else ADAPTIVE


def _reach(
    job: Job, segmenter: Segmenter | ReadyMattes, info: VideoInfo, first: int, stop: int | None
) -> tuple[int, int | None]:
    """Return the frames to read, so that some have the mattes that they have in the whole clip."""
    if _strength(job, segmenter):
        first = max(0, first - PREROLL_FRAMES)
        stop = None if stop is None else stop + LOOKAHEAD_FRAMES
    first, stop = _rhythm(job, segmenter, info).reach(first, stop)
    if isinstance(segmenter, ReadyMattes):
        return segmenter.within(first, stop)
    return first, stop


@dataclass(frozen=True, slots=True)
class Look:
    """How mattes and colours are finished, with all defaults settled.

    Attributes:
        edges: "off", "fast" or "fine".
        controls: What is wanted otherwise about the matte.
        despill: Take the old background's tint off the subject.
        screen: The old background's colour in code values, where it is known.
        black: Black in code values, which premultiplied colours fall to.
        is_ready: The mattes come from a file.
    """

    edges: str = "fast"
    controls: refine.Controls = refine.AS_IT_IS
    despill: bool = False
    screen: tuple[int, int, int] | None = None
    black: tuple[int, int, int] = (0, 0, 0)
    is_ready: bool = False


def finisher(
    job: Job, info: VideoInfo, segmenter: Segmenter | ReadyMattes
) -> Callable[[MattedBatch, Iterator[Planes] | None], tuple[Shown, ...]]:
    """Return :func:`finish` with all of a job's settings: what takes batches and backgrounds.

    Args:
        job: What to do.
        info: The clip.
        segmenter: What made the mattes.
    """
    return partial(finish, job, look=_look(job, segmenter, info))


def finish(
    job: Job, batch: MattedBatch, behind: Iterator[Planes] | None, look: Look
) -> tuple[Shown, ...]:
    """Return what each output shows of a batch: planes, and alpha unless it is a composite.

    What outputs have in common is made once: the alpha, and the subject's own colours.

    Args:
        job: What to do.
        batch: Frames with their final mattes.
        behind: Background planes, batch by batch; None where there are none, or where they
            are made from the clip itself.
        look: How mattes and colours are finished.

    Returns:
        One of each of the job's outputs, in their order.
    """
    frames = batch.frames
    alpha = refine.finish_matte(batch, look.edges, look.controls, may_hold_own=look.is_ready)
    wanted = [(output.kind, output.premultiplied) for output in job.outputs]
    shown: dict[tuple[str, bool], Shown] = {("matte", False): (frames.planes, alpha)}
    if set(wanted) != set(shown):
        alphas = composite.alpha_planes(alpha, frames.format)
        subject = _subject(batch, alphas, look)
        if ("alpha", False) in wanted:
            extended = extend_foreground(subject, alphas, frames.format)
            shown["alpha", False] = extended, alpha
        if ("alpha", True) in wanted:
            black = _flat(look.black, frames.planes)
            shown["alpha", True] = composite.over(subject, black, alphas), alpha
        if ("composite", False) in wanted:
            backdrop = _backdrop(job, frames, alphas, behind)
            shown["composite", False] = composite.over(subject, backdrop, alphas), None
    return tuple(shown[what] for what in wanted)


def _flat(codes: tuple[int, int, int], planes: Planes) -> Planes:
    """Return one frame of one colour, ``(1, H, W)`` a plane."""
    first, second, third = (
        np.full((1, *plane.shape[1:]), code, plane.dtype)
        for code, plane in zip(codes, planes, strict=True)
    )
    return first, second, third


@stage("background")
def _backdrop(
    job: Job, frames: FrameBatch, alphas: Planes, behind: Iterator[Planes] | None
) -> Planes:
    """Return the background of a batch of frames."""
    if isinstance(job.background, background.Blur):
        radius_px = job.background.radius_px or frames.planes[0].shape[1] * _BLUR_SHARE
        return composite.blurred_background(frames.planes, alphas, frames.format, radius_px)
    if behind is None:
        raise ValueError("a composite needs a background")
    first, second, third = next(behind)
    count = len(frames)  # the clip's last batch may be short
    return first[:count], second[:count], third[:count]


@stage("foreground")
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
        index, count = batch.frames.first_index, len(batch.frames)
        # What follows was read for the sake of the last frame: nobody waits for it.
        is_last = stop is not None and index + count >= stop
        piece = _part(batch, max(0, first - index), count if stop is None else stop - index)
        del batch
        if len(piece.frames):
            part = piece if part is None else _joined(part, piece)
        del piece
        if part is not None and len(part.frames) >= batch_size:
            yield _part(part, 0, batch_size)
            rest = _part(part, batch_size, len(part.frames))
            part = rest if len(rest.frames) else None
            del rest
        if is_last:
            break
    if part is not None:
        yield part


def _part(batch: MattedBatch, start: int, stop: int) -> MattedBatch:
    """Return some frames of a batch: views, or the batch itself where that is all of it.

    Its mattes are final: what smoothing looks at is left behind.
    """
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
    if job.background is None and any(output.kind == "composite" for output in job.outputs):
        raise VidbgError("a composite needs a background")
    if not is_sequence(job.source):
        check_readable(job.source)
    for number, output in enumerate(job.outputs):
        encode.container_of(output.path, output.container)
        if not output.is_sequence and not _is_made(job, number):
            encode.check_writable(output.path, job.source, output.overwrite)
    encode.check_distinct(job.outputs)
    for output in job.outputs:
        if job.matte_in is not None and _is_same_file(job.matte_in, output.path):
            raise OutputError("is the matte itself", path=output.path, hint="Choose another name")
    info = _probed(job.source, job)
    for output in job.outputs:
        is_numbered = output.is_sequence and not info.is_image
        is_picture = output.suffix in encode.PICTURE_SUFFIXES and not is_numbered
        if is_picture != info.is_image:
            what, use = "a picture stays one", ".png"
            if is_picture:
                what, use = "a video cannot be written as a picture", ".mp4, or name_%06d.png"
            raise OutputError(what, path=output.path, hint=f"Use {use} for it")
        if is_numbered:
            for path in (job.source, job.matte_in, job.background):
                if isinstance(path, Path):
                    pngs.check_writable(output.path, path, output.overwrite)
        elif output.is_sequence:
            encode.check_writable(output.path, job.source, output.overwrite)
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
    for output in job.outputs:
        if encode.shows_sdr(output, info):
            keeps = "--codec hevc (.mp4 .mov .mkv), prores (.mov) or ffv1 (.mkv) keeps HDR"
            reason = "" if info.is_image else f", since {output.codec} has 8 bits here; {keeps}"
            logger.warning("%s: its HDR is tone-mapped to SDR%s", info.path, reason)
        elif not encode.keeps_depth(output, info):
            logger.info(
                "%s: %d-bit colour is dithered for %s; --codec hevc, prores or ffv1 keeps more",
                info.path,
                info.format.depth,
                output.codec,
            )
    return info


@stage("probe")
def _probed(path: Path, job: Job) -> VideoInfo:
    """Probe a clip, and say which rate pictures are given where nobody said it."""
    info = probe(path, job.in_fps, max_pixels=job.max_pixels)
    if info.sequence is not None and job.in_fps is None:
        logger.info(
            "%s: %d pictures, taken as %s a second; --in-fps says otherwise",
            path,
            info.frame_count,
            info.frame_rate,
        )
    return info


def _is_same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _is_resumable(job: Job) -> bool:
    """Say whether the job is to be made in segments, and can be."""
    return job.resume and all(segments.is_resumable(output) for output in job.outputs)


def _fingerprint(job: Job) -> str:
    try:
        return fingerprint(job)
    except OSError as error:
        raise InputError(error.strerror or str(error), path=error.filename) from error


def _is_made(job: Job, number: int) -> bool:
    """Say whether an output is there, and an earlier run of this job was ended before it knew."""
    if not _is_resumable(job) or not job.outputs[number].path.exists():
        return False
    return segments.is_published(job.outputs, number, _fingerprint(job))


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


@stage("start-up")
def _batch_size(job: Job, segmenter: Segmenter | ReadyMattes, info: VideoInfo) -> int:
    if job.batch_size is not None:
        return job.batch_size
    if isinstance(segmenter, ReadyMattes):
        return 1
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


def _strength(job: Job, segmenter: Segmenter | ReadyMattes) -> float:
    if job.smooth is not None:
        return job.smooth
    # A key does not flicker; smoothing it at full size would only cost time. What is ready is
    # as it was wanted.
    is_steady = isinstance(segmenter, chroma.ChromaKeyer | ReadyMattes)
    return 0.0 if is_steady else DEFAULT_STRENGTH


def _look(job: Job, segmenter: Segmenter | ReadyMattes, info: VideoInfo) -> Look:
    """Return how the job's frames are finished."""
    colour = colours.resolve(info.colour, info.format, info.height)
    black = colours.rgb_to_codes((0, 0, 0), info.format, colour)
    if isinstance(segmenter, ReadyMattes):
        edges = job.edges or "off"
        return Look(edges, job.controls, bool(job.despill), None, black, is_ready=True)
    if not isinstance(segmenter, chroma.ChromaKeyer):
        return Look(job.edges or "fast", job.controls, bool(job.despill), None, black)
    # A key is made of the frame's colours at its full size: there is nothing to refine.
    screen = colours.rgb_to_codes(segmenter.key, info.format, colour)
    return Look(job.edges or "off", job.controls, job.despill is not False, screen, black)


def _background_info(job: Job) -> VideoInfo | None:
    """Probe the background, where it is a file, and refuse one that the job would overwrite."""
    path = job.background
    if not isinstance(path, Path):
        return None
    if not (path.exists() or is_sequence(path)):
        raise InputError(
            "no such file, nor a colour",
            path=path,
            hint="Colours are #rrggbb, red,green,blue or a CSS name",
        )
    for output in job.outputs:
        if _is_same_file(path, output.path):
            raise OutputError(
                "is the background itself", path=output.path, hint="Choose another name"
            )
    return _probed(path, job)


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


@stage("background")
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
    # Only FFmpeg knows what the light of an HDR picture means.
    if behind_info is None or (behind_info.is_image and light_of(behind_info.colour) == "sdr"):
        picture = background.still(chosen, job.bg_fit, target, job.max_pixels)
        return itertools.repeat(picture)
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
    if not {"bg", "mix"} & {output.sound for output in job.outputs}:
        return None
    if behind_info is not None and not behind_info.is_image and behind_info.audio:
        return audio.BackgroundSound(behind_info, job.bg_start_s, job.bg_end == "loop")
    raise InputError(
        "the background has no sound",
        path=job.background if isinstance(job.background, Path) else None,
        hint="Use --audio source or none",
    )


def _progress(
    frames: int, total: int | None, info: VideoInfo, began: float, earlier: int
) -> Progress:
    seconds = time.monotonic() - began
    return Progress(frames, total, float(frames / info.frame_rate), seconds, earlier)


def _result(
    job: Job, info: VideoInfo, began: float, frames: int, earlier: int, damage: str | None = None
) -> Result:
    """Return what was made; say what is missing from it."""
    seconds = time.monotonic() - began
    # What an earlier run saw of the damage is not known any more.
    unseen = earlier > 0 and job.allow_damaged
    lost = _lost_frames(info, damage) if damage or info.missing_frames or unseen else 0
    return Result(
        output=job.output.path,
        also=tuple(output.path for output in job.also),
        frames=encode.frames_in(job.output, info, frames),
        frame_rate=job.output.frame_rate or info.frame_rate,
        seconds=seconds,
        lost_frames=lost,
        earlier_frames=earlier,
    )


def _lost_frames(info: VideoInfo, damage: str | None) -> int:
    """Return how many frames of a damaged clip are missing from the result, and say so."""
    promised = promised_frames(info)
    lost = max(info.missing_frames, promised - count_decodable(info))
    if lost or damage:
        logger.warning(
            "%s: damaged (%s): %d of %d frames are lost",
            info.path,
            damage or ("the file is cut short" if info.missing_frames else "seen earlier"),
            lost,
            promised,
        )
    return max(0, lost)


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
