"""The ways in which a network looks at frames, in turn.

A network is not sure of all it says: the same frame, mirrored or squeezed, gives another matte,
with other mistakes. The mean of several has fewer (K. He et al., "Deep residual learning for image
recognition", CVPR 2016, section 3.4, does so with crops and scales of photos). In a clip that costs
nothing: frames that follow each other show the same scene, each is seen in one way, the next one in
another, and the smoother (:mod:`vidbg.temporal.smooth`) takes the mean along the motion.

There are four ways: at the clip's aspect ratio, and squeezed into a square, as salient-object
networks are trained; each as it is, and mirrored. A wide clip in its own shape has too few rows for
some subjects, and in a square too thin ones for others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import cv2
import numpy as np

from vidbg.profile import stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

LOOKS: Final = (1, 2, 4)
"""How often a frame can be looked at."""


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


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a frame.

    Attributes:
        size: (height, width) of the picture that the network gets.
        is_mirrored: Left and right change places.
    """

    size: tuple[int, int]
    is_mirrored: bool = False


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
    # All of one size at once: a device is used best by few large calls.
    for shape in dict.fromkeys(view.size for chosen in views for view in chosen):
        looks = [
            (number, view.is_mirrored)
            for number, chosen in enumerate(views)
            for view in chosen
            if view.size == shape
        ]
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
