"""The ways in which a network looks at frames, in turn.

A network is not sure of all it says: the same frame, mirrored or squeezed, gives another matte,
with other mistakes. The mean of several has fewer (K. He et al., "Deep residual learning for image
recognition", CVPR 2016, section 3.4, does so with crops and scales of photos). In a clip that costs
nothing: frames that follow each other show the same scene, each is seen in one way, the next one in
another, and the smoother (:mod:`vidbg.temporal.smooth`) takes the mean along the motion.

There are four ways: at the clip's aspect ratio, and squeezed into a square, as salient-object
networks are trained; each as it is, and mirrored. A wide clip in its own shape has too few rows for
some subjects, and in a square too thin ones for others.

Where it is known about where the subject is, and that is a small part of the frame, half the pixels
show more of it: :func:`seen_closer` looks at that part alone, made from the frame's own pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import cv2
import numpy as np

from vidbg.profile import stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

LOOKS: Final = (1, 2, 4)
"""How often a frame can be looked at."""

# Networks halve their pictures five times.
_SIZE_STEP_PX: Final = 32
# How much of either side of a frame a closer look may be of. Up to one half, 33 of 35 closer looks
# at small subjects in composites overlapped more with the truth than looks at the whole frame, by
# 9 points on average; above, on clips of DAVIS, half of them overlapped less. A smaller part would
# be little but the network's own blur, and leave no scene to tell the subject from.
_LARGEST_SHARE: Final = 0.5
_LEAST_SHARE: Final = 0.3
# Of the subject's own extent, on every side, for its way since it was seen and for some scene.
_MARGIN: Final = 0.2
_LEAST_MARGIN: Final = 0.02
# Specks of less than this part of the largest region are not what a look is about.
_LEAST_REGION: Final = 0.05
# So wide a rim of a closer look, in the network's pixels, is to be free of the subject, but for so
# many of them.
_RIM_PX: Final = 3
_MOST_AT_RIM_PX: Final = 2


@runtime_checkable
class Versatile(Protocol):
    """A segmenter that knows what it sees in other shapes and mirrored too: it was trained so."""

    @property
    def is_slow(self) -> bool:
        """Whether a call takes longer than all else that is done for a frame."""
        ...

    @property
    def square_size(self) -> tuple[int, int]:
        """The (height, width) of pictures that are squeezed into a square."""
        ...

    def prepare(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Make ready what pictures of some (height, width) will need, where that takes long."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a frame.

    Attributes:
        size: (height, width) of the picture that the network gets.
        is_mirrored: Left and right change places.
    """

    size: tuple[int, int]
    is_mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a frame, in its pixels: rows top to bottom, columns left to right, ends excluded.

    Attributes:
        top: First row.
        bottom: Row after the last.
        left: First column.
        right: Column after the last.
    """

    top: int
    bottom: int
    left: int
    right: int


Turns = tuple[tuple[View, ...], ...]
"""What frames are seen through: frame n through all views of ``turns[n % len(turns)]``."""


def turns(
    own: tuple[int, int], square: tuple[int, int], looks: int = 1, *, in_turn: bool = True
) -> Turns:
    """Return the views of a clip's frames.

    Args:
        own: The network's (height, width) for the clip's aspect ratio.
        square: Its (height, width) for a square.
        looks: How often each frame is looked at, 1, 2 or 4.
        in_turn: Neighbours are looked at in different ways. Without it all are alike: nobody takes
            their mean, and a difference would flicker.

    Raises:
        ValueError: ``looks`` is none of the three.
    """
    if looks not in LOOKS:
        raise ValueError(f"{looks} looks are none of {', '.join(map(str, LOOKS))}")
    # Neighbours, and pairs, differ in both.
    ways = View(own), View(square, True), View(own, True), View(square)
    rounds = tuple(ways[n : n + looks] for n in range(0, len(ways), looks))
    return rounds if in_turn else rounds[:1]


def by_size(
    views: Sequence[Sequence[View]],
) -> Iterator[tuple[tuple[int, int], list[tuple[int, bool]]]]:
    """Yield each size of views with its looks: numbers of frames, and whether they are mirrored.

    All of one size belong together: a device is used best by few large calls.

    Args:
        views: Those of each frame.
    """
    for size in dict.fromkeys(view.size for chosen in views for view in chosen):
        yield (
            size,
            [
                (number, view.is_mirrored)
                for number, chosen in enumerate(views)
                for view in chosen
                if view.size == size
            ],
        )


@stage("network")
def seen(
    segmenter: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    picture: Callable[[tuple[int, int], Sequence[int]], NDArray[np.uint8]],
    views: Sequence[Sequence[View]],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Return the mattes of frames, each the mean of what is seen through its views.

    Args:
        segmenter: Makes mattes float32 ``(n, h, w)`` of pictures uint8 ``(n, h, w, 3)``.
        picture: Gives frames by their numbers at a (height, width), uint8 ``(n, h, w, 3)``.
        views: Those of each frame, one or more.
        size: (height, width) of the mattes.

    Returns:
        float32 ``(B, height, width)``.
    """
    mattes = np.zeros((len(views), *size), np.float32)
    for shape, looks in by_size(views):
        pictures = picture(shape, [number for number, _ in looks])
        for place, (_, is_mirrored) in enumerate(looks):
            if is_mirrored:
                pictures[place] = pictures[place, :, ::-1].copy()
        for (number, is_mirrored), matte in zip(looks, segmenter(pictures), strict=True):
            turned = np.ascontiguousarray(matte[:, ::-1]) if is_mirrored else matte
            if turned.shape != size:
                height, width = size
                turned = cv2.resize(turned, (width, height), interpolation=cv2.INTER_LINEAR)
            mattes[number] += turned / np.float32(len(views[number]))
    return mattes


def box_around(
    subject: NDArray[np.float32], frame: tuple[int, int], steps: tuple[int, int] = (1, 1)
) -> Box | None:
    """Return the part of a frame that a subject is in, with a margin, if that is small.

    It has the frame's aspect ratio, to ``steps``.

    Args:
        subject: Where it may be, as a matte float32 ``(h, w)`` of any size, 0 to 1.
        frame: (height, width) in pixels.
        steps: Rows and columns of which top and left are multiples, and bottom and right, unless
            they are the frame's.
    """
    count, regions, stats, _ = cv2.connectedComponentsWithStats((subject > 0.5).astype(np.uint8))
    if count == 1:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    is_part = np.concatenate([[False], areas >= _LEAST_REGION * areas.max()])[regions]
    extents = [
        (float(found[0]) / size, float(found[-1] + 1) / size)
        for size, found in (
            (len(along), np.flatnonzero(along)) for along in (is_part.any(1), is_part.any(0))
        )
    ]
    wanted = max((stop - start) * (1 + 2 * _MARGIN) for start, stop in extents) + 2 * _LEAST_MARGIN
    share = max(wanted, _LEAST_SHARE)
    if share > _LARGEST_SHARE:
        return None
    ends = []
    for (start, stop), size, step in zip(extents, frame, steps, strict=True):
        begin = min(max((start + stop - share) / 2, 0.0), 1 - share)
        ends.append(math.floor(begin * size / step) * step)
        ends.append(min(math.ceil((begin + share) * size / step) * step, size))
    return Box(*ends)


def closer_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of closer looks for that of others: half as many pixels."""
    height, width = (
        max(_SIZE_STEP_PX, round(side * math.sqrt(0.5) / _SIZE_STEP_PX) * _SIZE_STEP_PX)
        for side in size
    )
    return height, width


@stage("network")
def seen_closer(
    segmenter: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    picture: NDArray[np.uint8],
    box: Box,
    frame: tuple[int, int],
    expected: NDArray[np.float32],
    *,
    is_mirrored: bool = False,
) -> NDArray[np.float32] | None:
    """Return a frame's matte from a look at a part of it, or None if the subject may go beyond.

    Args:
        segmenter: Makes mattes float32 ``(1, h, w)`` of pictures uint8 ``(1, h, w, 3)``.
        picture: The part, uint8 ``(h, w, 3)``.
        box: Which part.
        frame: The frame's (height, width) in pixels.
        expected: What the matte is outside of the part, float32 of the size of the result.
        is_mirrored: Look at the part with left and right in each other's place.
    """
    turned = np.ascontiguousarray(picture[:, ::-1]) if is_mirrored else picture
    matte = segmenter(turned[np.newaxis])[0]
    if is_mirrored:
        matte = np.ascontiguousarray(matte[:, ::-1])
    inside = matte > 0.5
    rims = (
        (box.top > 0, inside[:_RIM_PX].any(0)),
        (box.bottom < frame[0], inside[-_RIM_PX:].any(0)),
        (box.left > 0, inside[:, :_RIM_PX].any(1)),
        (box.right < frame[1], inside[:, -_RIM_PX:].any(1)),
    )
    if any(is_within and rim.sum() > _MOST_AT_RIM_PX for is_within, rim in rims):
        return None
    return _put(matte, box, frame, expected)


def _put(
    matte: NDArray[np.float32],
    box: Box,
    frame: tuple[int, int],
    around: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return a matte of a part of a frame in its place, amid what is around it.

    Args:
        matte: float32, of any size.
        box: Which part.
        frame: The frame's (height, width) in pixels.
        around: The whole frame's matte, float32 ``(h, w)``, which the result is of the size of.
    """
    height, width = around.shape
    down, across = height / frame[0], width / frame[1]
    top, bottom = box.top * down, box.bottom * down
    left, right = box.left * across, box.right * across
    # To its scale by area, where every pixel counts, then to its place.
    size = max(1, round(right - left)), max(1, round(bottom - top))
    is_smaller = size[0] * size[1] < matte.size
    scaled = cv2.resize(
        matte, size, interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    )
    # Samples are in the middle of their pixels.
    wider, taller = (right - left) / size[0], (bottom - top) / size[1]
    move = np.array([[wider, 0, left + wider / 2 - 0.5], [0, taller, top + taller / 2 - 0.5]])
    placed = cv2.warpAffine(
        scaled, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    is_there = ((rows >= top) & (rows <= bottom))[:, np.newaxis] & (
        (columns >= left) & (columns <= right)
    )
    return np.where(is_there, placed, around).astype(np.float32, copy=False)
