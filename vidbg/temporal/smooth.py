"""Mattes made steady over time: an average along the motion, over the frames before and after.

A network that sees each frame by itself changes its mind from frame to frame, and the edge
flickers. But what is foreground stays foreground along its way through the clip. So each pixel
takes a vote among its own matte and those of the places where the same point of the scene is seen
in the frames around: filters along motion are as old as E. Dubois and S. Sabri, "Noise reduction
in image sequences using motion-compensated temporal filtering", IEEE Transactions on
Communications 32(7), 1984. A vote counts as much as three things say that it should:

* the flow there and the flow back agree, so that the point is in sight in both frames
  (:func:`vidbg.temporal.flow.agreement`);
* both places have the same colour, as in W. Lai et al., "Learning blind video temporal
  consistency", ECCV 2018;
* the network was sure: a matte near one half says little.

Where no other frame can vote, behind a fast hand or on what is in sight for one frame, the frame's
own matte stays. Votes come from one shot only.

The window of 33 frames is not gone through frame by frame. Five passes exchange votes between
frames 8, 4, 2, 1 and 1 apart, one after the other, each vote with the sum of the weights behind it
(normalised averaging: H. Knutsson and C.-F. Westin, "Normalized and differential convolution",
CVPR 1993; growing steps: the wavelets "à trous"), which is 4 pairs of flows for a frame, or 3 where
carried mattes bring one along, where 16 would be needed. Long steps come first: what they bring
that is not quite in place is smoothed by the short ones. The last is there for mattes that take
turns (:mod:`vidbg.matting.views`), which frames further apart know nothing of.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from vidbg.frames import MattedBatch, Motion
from vidbg.temporal.flow import full_places, look_up, motion_between
from vidbg.temporal.scenes import AFTER_FRAMES, BEFORE_FRAMES, is_cut, sketch
from vidbg.temporal.trust import grey, half_size, trust

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from vidbg.frames import FrameBatch

    # What of a batch passes through, until its mattes are there.
    _Pictures = tuple[FrameBatch, NDArray[np.uint8]]

# Order and reach were chosen together: (1, 2, 4) left an eighth more change along the motion and
# 2 % more error, (6, 3, 1) took 2 points of overlap with the truth from a clip with fast motion,
# (3, 1) left a fifth more change.
# With networks that look at each frame in another way than at the one before, a second pass between
# neighbours took 8 points of 43 from the change along the motion, for a tenth of the time.
# The longest is there since the network looks at some frames only (vidbg.temporal.keyframes): with
# fewer votes around, those from further away are worth half a point of overlap.
STEPS: Final = (8, 4, 2, 1, 1)

PREROLL_FRAMES: Final = sum(STEPS) - 1 + BEFORE_FRAMES
"""The matte of frame n depends on no frame before n - PREROLL_FRAMES."""

LOOKAHEAD_FRAMES: Final = sum(STEPS) + AFTER_FRAMES
"""The matte of frame n depends on no frame after n + LOOKAHEAD_FRAMES."""

DEFAULT_STRENGTH: Final = 0.8
"""With mattes of U-2-Net-p that take turns, on twelve clips of DAVIS and composites: against the
same network frame by frame the change of alpha along the motion fell from 23.0 to 8.0 thousandths,
dtSSD from 12.4 to 10.1, the mean squared error by a quarter, and overlap with the truth (J) rose
from 0.691 to 0.732. Less leaves more flicker; full strength takes overlap from fast subjects."""

# What the vote of a matte of one half counts against one of 0 or 1. Votes grow with the fourth
# power of the distance from one half: with its square, a crowd that the network half takes for
# the subject outvoted the frames where it is sure that it is not.
LEAST_CONFIDENCE: Final = 0.02

# Values and weights are kept in 16 bits, which OpenCV warps in a fraction of float32's time.
_CODES: Final = 65535


@dataclass(frozen=True, slots=True)
class _Bond:
    """Where two frames find each other's votes, and what these count: kept for the next pass.

    Attributes:
        onward: Where the first's pixels are in the second, float32 ``(h, w, 2)``.
        home: Where the second's are in the first.
        onward_trust: float32 ``(h, w)``: what the second's votes count in the first.
        home_trust: What the first's votes count in the second.
    """

    onward: NDArray[np.float32]
    home: NDArray[np.float32]
    onward_trust: NDArray[np.float32]
    home_trust: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the passes know of a frame.

    Attributes:
        shot: Equal for frames of one shot.
        colours: uint8 R'G'B' at half the size, rounded up.
        grey: The same, grey, uint8.
        matte: uint16 ``(h, w)``, 0..65535.
        weight: uint16 ``(h, w)``: that behind it.
        motion: To the next frame, if it is known.
        bond: With the frame that it votes with next, if the pass before found it.
    """

    shot: int
    colours: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    matte: NDArray[np.uint16]
    weight: NDArray[np.uint16]
    motion: Motion | None = None
    bond: _Bond | None = None


@dataclass(slots=True)
class _Tally:
    """A frame and the votes that have come in.

    Attributes:
        frame: The frame.
        weights: float32 ``(h, w)``: the sum of the votes' weights.
        values: float32 ``(h, w)``: the sum of the votes times their weights.
    """

    frame: _Frame
    weights: NDArray[np.float32] = field(init=False)
    values: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = self.frame.weight.astype(np.float32)
        self.values = self.weights * self.frame.matte

    def add(self, other: _Frame, places: NDArray[np.float32], trust: NDArray[np.float32]) -> None:
        """Count the votes of another frame, found at ``places``, times ``trust``."""
        weights = trust * look_up(other.weight, places)
        self.weights += weights
        weights *= look_up(other.matte, places)
        self.values += weights

    def settled(self, strength: float) -> _Frame:
        """Return the frame with the votes as its evidence, weights in 0..65535 again."""
        self.values /= self.weights
        self.weights *= np.float32(1.0 / (1.0 + 2.0 * strength))
        matte, weight = (
            np.rint(array, out=array).astype(np.uint16) for array in (self.values, self.weights)
        )
        return replace(self.frame, matte=matte, weight=weight, bond=None)


def smooth(batches: Iterable[MattedBatch], strength: float) -> Iterator[MattedBatch]:
    """Return the batches with mattes that flicker less.

    Count, order, frames and thumbnails stay as they are; so do the sizes of the batches, which
    have no effect on the mattes. A batch comes out when LOOKAHEAD_FRAMES frames more have come
    in, or the clip has ended: so many frames are held, 56 MB at 1920x1080 in 8-bit 4:2:0, and
    about 390 bytes for each pixel of a matte, 45 MB at 448x256, 460 where motion comes with them.

    Args:
        batches: Consecutive frames with their mattes, all of one size.
        strength: What the vote of another frame counts against a frame's own. 0 leaves
            everything as it is, the same objects; at 1 a frame has about as much say in its
            own matte as each of the four before it and after it.

    Raises:
        ValueError: ``strength`` is not in 0..1.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength is in 0..1, not {strength!r}")
    return iter(batches) if strength == 0.0 else _steady(batches, strength)


def _steady(batches: Iterable[MattedBatch], strength: float) -> Iterator[MattedBatch]:
    """Yield each batch with the mattes that come out of the passes."""
    held: deque[_Pictures] = deque()
    frames = _shots(batches, held)
    for step, following in zip(STEPS, (*STEPS[1:], 0), strict=True):
        frames = _exchanged(frames, step, strength, is_repeated=step == following)
    mattes: list[NDArray[np.float32]] = []
    for frame in frames:
        mattes.append(frame.matte * np.float32(1.0 / _CODES))
        if len(mattes) == len(held[0][1]):
            yield MattedBatch(*held.popleft(), np.stack(mattes))
            mattes.clear()


def _shots(batches: Iterable[MattedBatch], held: deque[_Pictures]) -> Iterator[_Frame]:
    """Yield frames as the passes need them, and keep the pictures that they come from.

    Args:
        batches: Consecutive frames with their mattes.
        held: Takes each batch, without its mattes, before its first frame comes out.
    """
    shot = 0
    sketches: deque[NDArray[np.float32]] = deque(maxlen=BEFORE_FRAMES + 1 + AFTER_FRAMES)
    waiting: deque[_Frame] = deque()

    def numbered() -> _Frame:
        nonlocal shot
        # The sketches end with those of the frames that wait.
        first = len(sketches) - len(waiting)
        known = list(sketches)
        shot += is_cut(known[max(0, first - BEFORE_FRAMES) : first], known[first:])
        return replace(waiting.popleft(), shot=shot)

    for batch in batches:
        held.append((batch.frames, batch.thumbnails))
        thumbnails, mattes, shots = batch.thumbnails, batch.matte, batch.shots
        unknown = [None] * len(mattes)
        trusts = unknown if batch.trust is None else batch.trust
        motions = unknown if batch.motions is None else batch.motions
        del batch
        for n, (rgb, matte, trusted) in enumerate(zip(thumbnails, mattes, trusts, strict=True)):
            frame = replace(_frame(rgb, matte, trusted), motion=motions[n])
            if shots is not None:
                yield replace(frame, shot=shots[n])
                continue
            sketches.append(sketch(rgb))
            waiting.append(frame)
            if len(waiting) > AFTER_FRAMES:
                yield numbered()
        del thumbnails, mattes, trusts, motions, rgb, matte, trusted, frame
    while waiting:
        yield numbered()


def _frame(
    rgb: NDArray[np.uint8], matte: NDArray[np.float32], trusted: NDArray[np.float32] | None
) -> _Frame:
    """Return what the passes know of a frame by itself.

    Args:
        rgb: uint8 ``(h, w, 3)``.
        matte: float32 ``(h, w)`` in 0..1.
        trusted: float32 ``(h, w)`` in 0..1: how far the matte is known; None for wholly.
    """
    colours = half_size(rgb)
    sure = np.square(np.square(np.float32(2.0) * matte - np.float32(1.0)))
    weight = LEAST_CONFIDENCE + (1.0 - LEAST_CONFIDENCE) * sure
    if trusted is not None:
        weight *= trusted
    codes = (np.rint(array * np.float32(_CODES)).astype(np.uint16) for array in (matte, weight))
    return _Frame(0, colours, grey(colours), *codes)


def _exchanged(
    frames: Iterable[_Frame], step: int, strength: float, *, is_repeated: bool
) -> Iterator[_Frame]:
    """Yield each frame after votes between it and the frames ``step`` before and after it.

    Args:
        frames: Consecutive frames.
        step: How far apart those are that vote for each other.
        strength: What a vote counts at most.
        is_repeated: The next pass has the same step, and takes over what is found here.
    """
    tallies: deque[_Tally] = deque()
    for frame in frames:
        tallies.append(_Tally(frame))
        if len(tallies) > step:
            bond = _exchange(tallies[0], tallies[-1], step, strength)
            frame = tallies.popleft().settled(strength)
            if is_repeated:
                frame = replace(frame, bond=bond)
            # Or it stays in memory while the next passes work.
            del bond
            yield frame
    while tallies:
        yield tallies.popleft().settled(strength)


def _exchange(one: _Tally, other: _Tally, step: int, strength: float) -> _Bond | None:
    """Count the votes of two frames for each other, if they are of one shot; return their bond."""
    first, second = one.frame, other.frame
    if first.shot != second.shot:
        return None
    bond = first.bond or _bonded(first, second, step, strength)
    one.add(second, bond.onward, bond.onward_trust)
    other.add(first, bond.home, bond.home_trust)
    return bond


def _bonded(first: _Frame, second: _Frame, step: int, strength: float) -> _Bond:
    """Return where two frames find each other's votes, and what these count."""
    # Joined from the motion between neighbours, as where mattes are carried, that of longer steps
    # would take half the time, and lose 0.1 points of overlap with the truth over two frames, 0.4
    # over eight.
    motion = first.motion if step == 1 else None
    if motion is None:
        motion = motion_between(first.grey, second.grey)
    one, other, size = first.colours, second.colours, first.matte.shape
    return _Bond(
        full_places(motion.onward, size),
        full_places(motion.home, size),
        trust(one, other, motion.onward, motion.home, size, strength),
        trust(other, one, motion.home, motion.onward, size, strength),
    )
