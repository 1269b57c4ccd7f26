"""Mattes brought to frame size and to code values: alphas ready to composite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import cv2
import numpy as np

from vidbg.matting.appearance import corrected
from vidbg.matting.closed_form import closed_form
from vidbg.matting.trimap import trimap
from vidbg.profile import stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import MattedBatch, Planes

    Floats = NDArray[np.float32]
    Samples = TypeVar("Samples", NDArray[np.float32], NDArray[np.uint16])

EDGES: Final = ("off", "fast", "fine")
KEEPS: Final = ("all", "largest")

# What closed-form matting works at: 960x540, or the frame if it is smaller. On the two clips of
# known alpha, 1280x720, their own size cost twice as much and was no better in any figure.
_SOLVED_PIXELS: Final = 960 * 540
# Largest distance that an edge is moved or softened by.
MOST_PX: Final = 200.0


@dataclass(frozen=True, slots=True)
class Controls:
    """What an editor wants otherwise about a matte, in the order in which it is applied.

    Lengths are in pixels of the frame.

    Attributes:
        keep: "all" objects, or the "largest" only.
        fill_holes: Make holes in the subject opaque: background that does not reach the
            frame's edge.
        grow_px: How far the edge moves outwards, inwards if negative, -200 to 200.
        feather_px: Width over which edges are softened besides, 0 to 200.

    Raises:
        ValueError: A length is out of its range, or ``keep`` none of the two.
    """

    keep: str = "all"
    fill_holes: bool = False
    grow_px: float = 0.0
    feather_px: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.feather_px <= MOST_PX:
            raise ValueError(f"a feather of {self.feather_px} pixels is not in 0..{MOST_PX:g}")
        if not -MOST_PX <= self.grow_px <= MOST_PX:
            raise ValueError(f"growing by {self.grow_px} pixels is beyond {MOST_PX:g}")
        if self.keep not in KEEPS:
            raise ValueError(f"{self.keep!r} is none of {', '.join(KEEPS)}")


AS_IT_IS: Final = Controls()


@stage("refine")
def finish_matte(
    matted: MattedBatch,
    edges: str = "off",
    controls: Controls = AS_IT_IS,
    *,
    may_hold_own: bool = False,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the alphas of frames, at luma size.

    Along an axis that grows the matte is interpolated between its pixels' centres, linearly with
    "off" and by cubics otherwise, since a corrected edge is as sharp as the matte's pixels allow;
    along one that shrinks it is averaged over area; at the frame's size it stays as it is. Fully
    transparent and fully opaque stay exactly so. The source's own alpha, where it has one, is
    multiplied in at the end. Everything is rounded to nearest. Each frame is by itself.

    Args:
        matted: Frames with their mattes, at any size.
        edges: "off"; "fast", the matte corrected by the picture's colours
            (:mod:`vidbg.matting.appearance`); or "fine", this and closed-form matting of the
            unsure band (:mod:`vidbg.matting.closed_form`).
        controls: What an editor wants otherwise.
        may_hold_own: The source's own alpha may be in the mattes already. Then the lesser of the
            two counts instead of their product, which would have it twice.

    Returns:
        Straight alpha ``(B, H, W)``: uint8 0..255 for 8-bit formats, uint16 0..65535 for
        deeper ones.

    Raises:
        ValueError: ``edges`` is none of these.
    """
    if edges not in EDGES:
        raise ValueError(f"{edges!r} is none of {', '.join(EDGES)}")
    frames = matted.frames
    count, height, width = frames.planes[0].shape
    is_8_bit = frames.format.depth == 8
    alpha = np.empty((count, height, width), np.uint8 if is_8_bit else np.uint16)
    top = np.float32(255 if is_8_bit else 65535)
    source_top = np.float32((1 << frames.format.depth) - 1)
    for index in range(count):
        matte = matted.matte[index]
        if edges != "off":
            matte = corrected(matted.thumbnails[index], matte)
        if edges == "fine":
            frame = frames.planes[0][index], frames.planes[1][index], frames.planes[2][index]
            matte = _solved(frame, source_top, matte)
        if frames.source_alpha is None and controls == AS_IT_IS:
            _write_codes(matte, alpha[index], is_smooth=edges != "off")
            continue
        matte = _resized(matte, height, width, is_smooth=edges != "off")
        codes = _controlled(matte, controls) * top
        if frames.source_alpha is not None:
            own = frames.source_alpha[index]
            if may_hold_own:
                np.minimum(codes, own * (top / source_top), out=codes)
            else:
                codes *= own
                codes /= source_top
        alpha[index] = np.rint(codes, out=codes)
    return alpha


def _write_codes(
    matte: Floats, alpha: NDArray[np.uint8] | NDArray[np.uint16], *, is_smooth: bool
) -> None:
    """Write a matte to an alpha of the frame's size, by way of 16 bits.

    Half the memory and half the time of float32, and what is out of 0..1 is cut off on the way. A
    code of 8 bits is another than float32 would give where that is within 1/500 of midway.

    Args:
        matte: float32 ``(h, w)`` in 0..1, at any size.
        alpha: uint8 or uint16 ``(H, W)``.
        is_smooth: As in :func:`_resized`.
    """
    codes = np.rint(matte * np.float32(65535)).astype(np.uint16)
    codes = _resized(codes, *alpha.shape, is_smooth=is_smooth)
    if alpha.dtype == np.uint8:
        cv2.convertScaleAbs(codes, dst=cast("Any", alpha), alpha=1 / 257)
    else:
        alpha[...] = codes


def _solved(frame: Planes, highest: np.float32, matte: Floats) -> Floats:
    """Return a matte solved in its unsure band, at the frame's size or a smaller one.

    Args:
        frame: Planes ``(H, W)``, ``(h, w)``, ``(h, w)`` of one frame. What is linear in R'G'B'
            is linear in them.
        highest: The largest sample.
        matte: float32, at any size.
    """
    height, width = frame[0].shape
    shrink = math.sqrt(min(1.0, _SOLVED_PIXELS / (height * width)))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    guide = np.dstack([_resized(plane.astype(np.float32), *size) for plane in frame])
    guide /= highest
    prior = _resized(matte, *size, is_smooth=True)
    return closed_form(guide, trimap(prior), prior)


def _controlled(matte: Floats, controls: Controls) -> Floats:
    """Return a matte ``(H, W)`` as the controls want it; itself where they want nothing."""
    if controls.keep == "largest":
        matte = _largest(matte)
    if controls.fill_holes:
        matte = _filled(matte)
    if controls.grow_px:
        matte = _grown(matte, controls.grow_px)
    if controls.feather_px:
        # Two standard deviations on either side hold 95 % of the softened step.
        blurred = cv2.GaussianBlur(
            matte, (0, 0), controls.feather_px / 4, borderType=cv2.BORDER_REPLICATE
        )
        matte = np.clip(np.asarray(blurred, np.float32), 0, 1)
    return matte


def _largest(matte: Floats) -> Floats:
    """Return the object of the largest area, with the soft pixels nearer to it than to others."""
    is_object = (matte > 0.5).view(np.uint8)
    count, _ = cv2.connectedComponents(is_object, connectivity=8)
    if count <= 2:
        return matte
    labels = _nearest(is_object)
    largest = np.bincount(labels[is_object > 0]).argmax()
    return np.where(labels == largest, matte, np.float32(0))


def _filled(matte: Floats) -> Floats:
    """Return a matte without holes: background that does not reach the frame's edge."""
    is_background = (matte <= 0.5).view(np.uint8)
    # Pieces of background at the frame's edge are joined by one more pixel all around.
    framed = np.pad(is_background, 1, constant_values=1)
    count, labels = cv2.connectedComponents(framed, connectivity=4)
    if count <= 2:
        return matte
    # The background does not leak through a line that is whole by its corners only.
    is_outside = labels == labels[0, 0]
    to_outside, to_hole = (
        cv2.distanceTransform(1 - piece.view(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        for piece in (is_outside, (framed > 0) & ~is_outside)
    )
    return np.where(to_hole < to_outside, np.float32(1), matte)


def _nearest(is_object: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return for each pixel the number of the object nearest to it, int32 ``(H, W)``."""
    _, labels = cv2.distanceTransformWithLabels(
        1 - is_object, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP
    )
    return np.asarray(labels, np.int32)


def _grown(matte: Floats, by_px: float) -> Floats:
    """Return a matte whose edges lie further out, or in.

    A flat dilation or erosion by a disc; between whole radii the mean of the two.
    """
    apply = cv2.dilate if by_px > 0 else cv2.erode
    below = math.floor(abs(by_px))
    share = np.float32(abs(by_px) - below)

    def moved(radius_px: int) -> Floats:
        if not radius_px:
            return matte
        reach = np.arange(-radius_px, radius_px + 1)
        disc = (np.hypot(reach, reach[:, None]) <= radius_px).astype(np.uint8)
        return np.asarray(apply(matte, disc), np.float32)

    near = moved(below)
    return near + share * (moved(below + 1) - near) if share else near


def _resized(matte: Samples, height: int, width: int, *, is_smooth: bool = False) -> Samples:
    """Return a matte ``(h, w)`` at another size, with half-pixel centres.

    Args:
        matte: float32, the matte or a plane of samples; or uint16, its codes in 0..65535.
        height: Rows wanted.
        width: Columns wanted.
        is_smooth: Interpolate by cubics, and keep to 0..1, or to the codes.
    """
    rows, columns = matte.shape
    # One call does not average one axis and interpolate the other.
    smaller = (min(width, columns), min(height, rows))
    if smaller != (columns, rows):
        matte = cast("Samples", cv2.resize(matte, smaller, interpolation=cv2.INTER_AREA))
    if smaller != (width, height):
        interpolation = cv2.INTER_CUBIC if is_smooth else cv2.INTER_LINEAR
        matte = cast("Samples", cv2.resize(matte, (width, height), interpolation=interpolation))
        if is_smooth and matte.dtype == np.float32:
            np.clip(matte, 0, 1, out=matte)
    return matte
