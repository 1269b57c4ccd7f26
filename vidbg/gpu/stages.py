"""All stages between decoder and encoders in a device's memory: frames go up once, results down.

What is done is what :mod:`vidbg.pipeline` does, by the siblings in this package. Threads keep the
device busy: one sends frames up, one starts the network, one the rest and the way down, while the
decoder's and the encoders' are at work on other frames.

Stages are marked for :mod:`vidbg.profile` as their siblings are, but starting a kernel is not
waiting for it: "network" and "smooth", which look at results, take what the device does until then,
the others what it takes to start them, and "download" all that is still to be done.

Some jobs are of no use here, or not possible (:func:`obstacle`): they are made as on the CPU, their
network alone on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import torch

from vidbg import colour as colours
from vidbg.gpu import refine
from vidbg.gpu.composite import alpha_planes, over
from vidbg.gpu.foreground import estimate_foreground, extend_foreground
from vidbg.gpu.frames import DeviceFrames, DeviceMatted, chosen, joined, part
from vidbg.gpu.memory import Portions
from vidbg.gpu.resize import grown
from vidbg.gpu.smooth import smooth
from vidbg.gpu.thumbnail import planes_to_rgb
from vidbg.gpu.transfer import Downloads, Uploads
from vidbg.matting.refine import AS_IT_IS, Controls
from vidbg.matting.views import by_size
from vidbg.prefetch import Prefetch
from vidbg.profile import stage

if TYPE_CHECKING:
    from fractions import Fraction

    from vidbg.frames import FrameBatch, Plane, PlaneFormat, Planes, VideoInfo
    from vidbg.gpu.frames import Tensors
    from vidbg.gpu.transfer import Arriving, Leaving
    from vidbg.matting.views import Turns, View

    # What an output shows of a batch, by kind and whether its colours are premultiplied.
    Kind = tuple[str, bool]
    Shown = tuple[Planes | None, Plane | None]
    _OnDevice = tuple[Tensors | None, torch.Tensor | None]

_AHEAD: Final = 1
# How many batches are on the device at once: those that wait between threads, are worked on, or
# are held until the smoother has seen what follows.
_BATCHES_HELD: Final = 10
# What is computed on the way of a frame being finished, in bytes for each of its pixels: some
# thirty planes of float32, most of them of luma's size.
_FINISHING_BYTES: Final = 120
# Other programs, and the network, need some memory too.
_MEMORY_SHARE: Final = 0.5


@runtime_checkable
class OnDevice(Protocol):
    """A segmenter that takes and gives tensors in its device's memory."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def input_size(self, width: int, height: int, sar: Fraction) -> tuple[int, int]:
        """Return the (height, width) that pictures of a clip must have."""
        ...

    def on_device(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return mattes float32 (B, h, w) of pictures uint8 (B, h, w, 3)."""
        ...


def is_worth_it(device: torch.device) -> bool:
    """Say whether a device is faster at everything than the CPU, and known to do it right.

    On MPS none of this has been tried.
    """
    return device.type == "cuda"


def obstacle(
    info: VideoInfo,
    edges: str,
    controls: Controls,
    *,
    despill: bool,
    blurs: bool,
    carries: bool,
) -> str | None:
    """Return what of a job there is no form of on a device, or None.

    Args:
        info: The clip.
        edges: How edges are refined.
        controls: What is wanted otherwise about the mattes.
        despill: The old background's tint is taken off the subject.
        blurs: The background is the clip's own, blurred.
        carries: Mattes are carried to frames that the network does not look at.
    """
    if edges not in refine.EDGES:
        return f"--edges {edges}"
    if controls != AS_IT_IS:
        return "changes to the matte"
    if despill:
        return "--despill"
    if blurs:
        return "--bg blur"
    if carries:
        return "--every"
    if colours.is_hdr(info.colour):
        return "HDR"
    return None


def frames_that_fit(info: VideoInfo, free_bytes: int) -> int:
    """Return how many frames a batch may have for all stages to fit a device, 1 or more.

    Args:
        info: The clip.
        free_bytes: What of the device's memory is free.
    """
    sizes = info.format.plane_sizes(info.width, info.height)
    samples = sum(height * width for height, width in sizes)
    held = _BATCHES_HELD * samples * info.format.bytes_per_sample
    worked_on = _FINISHING_BYTES * info.width * info.height
    return max(1, int(_MEMORY_SHARE * free_bytes) // (held + worked_on))


class Stages:
    """The stages of one job on its network's device.

    Args:
        segmenter: The network.
        info: The clip.
        turns: The views that frames are seen through in turn; None for the network's own size.
        strength: Of the smoother, 0..1.
        edges: "off" or "fast".
        wanted: What each output shows: its kind, and whether its colours are premultiplied.
        black: Black in code values, which premultiplied colours fall to.
    """

    def __init__(
        self,
        segmenter: OnDevice,
        info: VideoInfo,
        turns: Turns | None,
        *,
        strength: float,
        edges: str,
        wanted: Sequence[Kind],
        black: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self._segmenter = segmenter
        self._device = segmenter.device
        self._info = info
        self._size = segmenter.input_size(info.width, info.height, info.sar)
        self._turns = turns
        self._strength = strength
        self._edges = edges
        self._wanted = tuple(wanted)
        self._black = black
        self._colour = colours.resolve(info.colour, info.format, info.height)
        self._uploads, self._downloads = Uploads(self._device), Downloads(self._device)

    @property
    def cuda_index(self) -> int | None:
        """The number of the CUDA device, or None on others."""
        return (self._device.index or 0) if self._device.type == "cuda" else None

    def batch_size(self, wanted: int) -> int:
        """Return how many frames to take at once: what is wanted, or fewer if memory is short."""
        if self._device.type != "cuda":
            return wanted
        free, _ = torch.cuda.mem_get_info(self._device)
        return min(wanted, frames_that_fit(self._info, free))

    @contextmanager
    def shown(
        self,
        reader: Iterable[FrameBatch],
        behind: Prefetch[Planes] | None,
        first: int = 0,
        stop: int | None = None,
    ) -> Iterator[Iterator[tuple[Shown, ...]]]:
        """Give what each output shows of a clip, batch by batch, made ahead in threads.

        Args:
            reader: The clip's frames, from far enough before ``first`` on.
            behind: Background planes, batch by batch; None where there are none.
            first: Index of the first frame that is shown.
            stop: Index after the last one, or None for the end.
        """
        with (
            Prefetch(reader, _AHEAD, "decode") as frames,
            Prefetch(self._sent(frames), _AHEAD, "upload") as sent,
            Prefetch(self._matted(sent), _AHEAD, "segment") as matted,
            Prefetch(self._leaving(matted, behind, first, stop), _AHEAD, "composite") as leaving,
        ):
            # Upstream first: a stage that waits for frames is let go by the one it waits for.
            try:
                yield (results() for results in leaving)
            finally:
                frames.close()
                if behind is not None:
                    behind.close()

    def _sent(self, frames: Iterable[FrameBatch]) -> Iterator[Callable[[], DeviceFrames]]:
        """Begin to send frames; yield what waits for them."""
        for batch in frames:
            own = () if batch.source_alpha is None else (batch.source_alpha,)
            arriving = self._uploads.send([*batch.planes, *own])
            yield _Sent(arriving, batch.format, batch.first_index)
            del batch, own, arriving

    def _matted(self, sent: Iterable[Callable[[], DeviceFrames]]) -> Iterator[DeviceMatted]:
        """Yield frames with the mattes that the network sees in them, each on its own."""
        for arrived in sent:
            yield self.segment(arrived())
            del arrived

    @stage("network")
    @torch.no_grad()
    def segment(self, frames: DeviceFrames) -> DeviceMatted:
        """Return frames with the mattes that the network sees in them.

        Sibling of :func:`vidbg.pipeline.segment` and :func:`vidbg.matting.views.seen`.
        """
        thumbnails = planes_to_rgb(frames.planes, frames.format, self._colour, self._size)
        if self._turns is None:
            return DeviceMatted(frames, thumbnails, self._segmenter.on_device(thumbnails))
        indices = range(frames.first_index, frames.first_index + len(frames))
        views = [self._turns[index % len(self._turns)] for index in indices]
        return DeviceMatted(frames, thumbnails, self._seen(frames, thumbnails, views))

    def _seen(
        self, frames: DeviceFrames, thumbnails: torch.Tensor, views: Sequence[Sequence[View]]
    ) -> torch.Tensor:
        """Return the mattes of frames, each the mean of what is seen through its views."""
        mattes: list[torch.Tensor | None] = [None] * len(views)
        for shape, looks in by_size(views):
            numbers = [number for number, _ in looks]
            if shape == self._size:
                pictures = chosen(thumbnails, numbers)
            else:
                first, second, third = (chosen(plane, numbers) for plane in frames.planes)
                planes = first, second, third
                pictures = planes_to_rgb(planes, frames.format, self._colour, shape)
            are_mirrored = [is_mirrored for _, is_mirrored in looks]
            found = self._segmenter.on_device(_turned(pictures, are_mirrored))
            found = grown(_turned(found, are_mirrored), *self._size)
            for number, matte in zip(numbers, found.unbind(), strict=True):
                share = matte / len(views[number])
                before = mattes[number]
                mattes[number] = share if before is None else before + share
        return torch.stack([matte for matte in mattes if matte is not None])

    def _leaving(
        self,
        matted: Iterable[DeviceMatted],
        behind: Iterator[Planes] | None,
        first: int,
        stop: int | None,
    ) -> Iterator[Callable[[], tuple[Shown, ...]]]:
        """Smooth and finish; yield what waits for the results on their way down."""
        backdrop = None if behind is None else Backdrop(behind, self._uploads)
        portions = Portions(1 << 30, "the finishing")
        for batch in stage("smooth").each(smooth(matted, self._strength, self._downloads)):
            index, count = batch.frames.first_index, len(batch.frames)
            end = count if stop is None else min(count, stop - index)
            start = max(0, first - index)
            if start >= end:
                continue
            inner = batch.part(start, end)
            scenery = None if backdrop is None else backdrop.take(len(inner.frames))
            del batch

            def finished(
                start: int,
                stop: int,
                inner: DeviceMatted = inner,
                scenery: Tensors | None = scenery,
            ) -> _Leaving:
                some = scenery
                if scenery is not None and len(scenery[0]) > 1:
                    some = part(scenery, start, stop)
                return self._fetched(self.finish(inner.part(start, stop), some))

            yield from portions.work_off(len(inner.frames), finished)
            del inner, scenery, finished
            if stop is not None and index + count >= stop:
                return  # what is left was read for the sake of the last frame

    @torch.no_grad()
    def finish(self, batch: DeviceMatted, behind: Tensors | None) -> tuple[_OnDevice, ...]:
        """Return what each output shows of a batch: planes, and alpha unless it is a composite.

        Sibling of :func:`vidbg.pipeline.finish`. A matte's planes, which nobody looks at, are None.

        Args:
            batch: Frames with their final mattes.
            behind: The background of as many frames, or ``(1, ...)`` for a still.

        Raises:
            ValueError: A composite is wanted, and there is no background.
        """
        frames = batch.frames
        alpha = refine.finish_matte(batch, self._edges)
        shown: dict[Kind, _OnDevice] = {("matte", False): (None, alpha)}
        if set(self._wanted) != set(shown):
            alphas = alpha_planes(alpha, frames.format)
            subject = self._subject(batch, alphas)
            if ("alpha", False) in self._wanted:
                extended = extend_foreground(subject, alphas, frames.format)
                shown["alpha", False] = extended, alpha
            if ("alpha", True) in self._wanted:
                shown["alpha", True] = over(subject, self._flat(frames.planes), alphas), alpha
            if ("composite", False) in self._wanted:
                if behind is None:
                    raise ValueError("a composite needs a background")
                shown["composite", False] = over(subject, behind, alphas), None
        return tuple(shown[what] for what in self._wanted)

    def _subject(self, batch: DeviceMatted, alphas: Tensors) -> Tensors:
        """Return frames with the subject's own colours."""
        frames = batch.frames
        if frames.source_alpha is not None:
            # The source's own alpha is straight: its colours are no mixture, and only the matte is
            # to be looked at.
            alone = replace(batch, frames=replace(frames, source_alpha=None))
            alphas = alpha_planes(refine.finish_matte(alone, self._edges), frames.format)
        return estimate_foreground(frames.planes, alphas, frames.format)

    def _flat(self, planes: Tensors) -> Tensors:
        """Return one frame of black, float32 ``(1, 1, 1)`` a plane."""
        first, second, third = (
            torch.full((1, 1, 1), float(code), device=plane.device)
            for code, plane in zip(self._black, planes, strict=True)
        )
        return first, second, third

    def _fetched(self, shown: Sequence[_OnDevice]) -> _Leaving:
        """Begin to bring results down, each tensor once."""
        tensors: dict[int, torch.Tensor] = {}
        for planes, alpha in shown:
            everything = [*(planes or ()), *(() if alpha is None else (alpha,))]
            tensors |= {id(one): one for one in everything}
        numbers = {key: number for number, key in enumerate(tensors)}
        places = [
            (
                [numbers[id(plane)] for plane in planes or ()],
                None if alpha is None else numbers[id(alpha)],
            )
            for planes, alpha in shown
        ]
        return _Leaving(self._downloads.fetch(list(tensors.values())), places)


def _turned(pictures: torch.Tensor, are_mirrored: Sequence[bool]) -> torch.Tensor:
    """Return pictures ``(B, h, w, ...)``, some of them mirrored."""
    if not any(are_mirrored):
        return pictures
    turned = [
        picture.flip(1) if is_mirrored else picture
        for picture, is_mirrored in zip(pictures.unbind(), are_mirrored, strict=True)
    ]
    return torch.stack(turned)


class _Sent:
    """Frames on their way to the device; called, it has the device wait for them."""

    def __init__(self, arriving: Arriving, format: PlaneFormat, first_index: int) -> None:
        self._arriving, self._format, self._first_index = arriving, format, first_index

    @stage("upload")
    def __call__(self) -> DeviceFrames:
        first, second, third, *own = self._arriving.arrived()
        return DeviceFrames(
            (first, second, third), self._format, self._first_index, own[0] if own else None
        )


class _Leaving:
    """Results on their way down; called, it waits for them.

    Args:
        leaving: All tensors of a batch's results.
        places: For each output, which of them are its planes and its alpha.
    """

    def __init__(
        self, leaving: Leaving, places: Sequence[tuple[Sequence[int], int | None]]
    ) -> None:
        self._leaving, self._places = leaving, places

    @stage("download")
    def __call__(self) -> tuple[Shown, ...]:
        arrays = self._leaving.arrays()
        shown: list[Shown] = []
        for planes, alpha in self._places:
            three = None
            if planes:
                first, second, third = (arrays[number] for number in planes)
                three = first, second, third
            shown.append((three, None if alpha is None else arrays[alpha]))
        return tuple(shown)


class Backdrop:
    """A background in a device's memory, as many frames at a time as are asked for.

    A still, which comes as the same arrays again and again, goes up once.

    Args:
        behind: Background planes, batch by batch: ``(B, ...)``, or ``(1, ...)`` for a still.
        uploads: What sends them.
    """

    def __init__(self, behind: Iterator[Planes], uploads: Uploads) -> None:
        self._behind, self._uploads = behind, uploads
        self._given: Planes | None = None
        self._there: Tensors | None = None
        self._taken = 0

    @stage("background")
    def take(self, count: int) -> Tensors:
        """Return the background of the next frames, or ``(1, ...)`` if it is a still.

        What comes as one frame where several are asked for is a still, as in
        :func:`vidbg.composite.over`.

        Args:
            count: How many frames, 1 or more.
        """
        parts: list[Tensors] = []
        while count:
            there = self._there
            if there is None or self._taken == len(there[0]):
                there = self._next()
            if len(there[0]) == 1 < count:
                return there
            stop = min(self._taken + count, len(there[0]))
            parts.append(part(there, self._taken, stop))
            count -= stop - self._taken
            self._taken = stop
        return joined(parts)

    def _next(self) -> Tensors:
        planes = next(self._behind)
        if planes is not self._given or self._there is None:
            first, second, third = self._uploads.send(planes).arrived()
            self._given, self._there = planes, (first, second, third)
        self._taken = 0
        return self._there
