"""Which frames a network looks at, and mattes for those that it does not.

Neighbouring frames show almost the same, and the network is nearly all of the time. So it looks at
some, the key frames, and the matte is carried to the others along the motion, from the key frames
before and after, as Y.-Y. Chuang et al., "Video matting of complex scenes", SIGGRAPH 2002, carry
trimaps that somebody drew on key frames.

Which frames need a look shows in what a look brings. A block of frames has one at either end. If
what is carried from one end is what was seen at the other, all between is known. If not, the frame
amid them is looked at; where that shows what was carried there, it was enough, otherwise both
halves are gone through in the same way. So a clip that moves fast, and one of which the network
sees another thing in each frame, gets all the looks it needs, and one that stands still an eighth.
Looks at frames between come with what is expected there, and may go where the subject is; those at
the ends of blocks and next to cuts see whole frames, and so what is new.

Blocks begin at frames whose number in the clip is a multiple of the block's length, and nothing
outside of a block has a say in it, but for what tells cuts: a part of a clip comes out as it does
in the whole. Either side of a cut is looked at, and nothing is carried across.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vidbg.frames import MattedBatch, Motion
from vidbg.temporal.flow import full_places, joined, look_up, motion_between
from vidbg.temporal.scenes import AFTER_FRAMES, BEFORE_FRAMES, is_cut, sketch
from vidbg.temporal.trust import grey, half_size, trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from vidbg.frames import FrameBatch

    Matte = NDArray[np.float32]
    Pictured = tuple[FrameBatch, NDArray[np.uint8]]
    # Makes mattes of some frames of a batch, by their places in it and what is expected of each.
    Look = Callable[
        [FrameBatch, NDArray[np.uint8], Sequence[int], Sequence["Expected | None"]], Matte
    ]
    # Has the network look at frames, as far as it did not.
    Ask = Callable[[Iterable["_Frame"]], None]

MOST_FRAMES: Final = 12
"""The longest block: flow over more frames finds little."""

_ADAPTIVE_FRAMES: Final = 8

# What part of the subject may differ between what was carried and what is seen: from one end of a
# block to the other, from both to the middle, and to the middle of a half or a quarter. Chosen on
# twelve clips of DAVIS and composites.
_LIKE_OTHER_END: Final = 0.2
_LIKE_MIDDLE: Final = 0.2
_LIKE_PART: Final = 0.35
# Up to so much that is otherwise from one end of a block to the other, it is one subject that
# moves, to be looked for where it is expected. Beyond, the network may have seen two, and a look at
# the place of one would leave out the other.
_TRACKED: Final = 0.5
# A subject of less than this share of the picture counts as large as it: its edge is all there is.
_LEAST_SUBJECT: Final = 0.01
# What is carried along a way that cannot be trusted counts so little, where there is no better.
_LEAST_WEIGHT: Final = 1e-3
_LEAST_TRUST: Final = 0.02


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Which frames are looked at.

    Attributes:
        block: Of each so many frames the first is, 1 to :data:`MOST_FRAMES`.
        is_adaptive: So are those between, as far as they need it.

    Raises:
        ValueError: ``block`` is out of its range.
    """

    block: int = _ADAPTIVE_FRAMES
    is_adaptive: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.block <= MOST_FRAMES:
            raise ValueError(f"every {self.block}th frame is not in 1..{MOST_FRAMES}")

    @property
    def is_every_frame(self) -> bool:
        """Whether no matte is carried."""
        return self.block == 1

    def turn(self, index: int) -> int:
        """Return the number of the view that a frame is seen through, before its remainder.

        Frames next to each other, and likewise those that are looked at in turn, get different
        ones, whichever are left out.

        Args:
            index: Which frame of the clip.
        """
        if self.is_adaptive:
            return index + index // 4 + index // 8
        return index // self.block

    def reach(self, first: int, stop: int | None) -> tuple[int, int | None]:
        """Return the frames on which the mattes of some frames depend: first, and after the last.

        Args:
            first: Index of the first frame.
            stop: Index after the last frame, or None for the end.
        """
        if self.is_every_frame:
            return first, stop
        # Whole blocks, so many more that cuts are told in them as in the clip.
        earlier = first // self.block - math.ceil(BEFORE_FRAMES / self.block)
        begin = max(0, earlier * self.block)
        if stop is None:
            return begin, None
        return begin, math.ceil((stop - 1) / self.block) * self.block + 1 + AFTER_FRAMES


ADAPTIVE: Final = Rhythm()
EVERY_FRAME: Final = Rhythm(1, is_adaptive=False)


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What is known of a matte before a look, where what the network saw around it agrees.

    Attributes:
        matte: Carried to the frame, float32 ``(h, w)``.
        reach: Where the subject is in this, or in what it was carried from: the most of them.
    """

    matte: Matte
    reach: Matte


@dataclass(slots=True, eq=False)
class _Frame:
    """What is known of a frame between decoding and the end of its block.

    Attributes:
        index: Which frame of the clip.
        colours: uint8 R'G'B' at half the size.
        grey: The same, grey, uint8.
        sketch: What cuts are told from.
        shot: Equal for frames of one shot.
        matte: float32 ``(h, w)``, or None before it was looked at or carried to.
        trust: How far the matte is to be trusted, or None where the network looked.
        expected: What it is to find, while it looks.
        motion: To the next frame, once somebody asked for it.
    """

    index: int
    colours: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    sketch: NDArray[np.float32]
    shot: int = 0
    matte: Matte | None = None
    trust: Matte | None = None
    expected: Expected | None = None
    motion: Motion | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """A batch, and what is known of its frames, which know nothing of it."""

    frames: FrameBatch
    thumbnails: NDArray[np.uint8]
    members: tuple[_Frame, ...]

    def matted(self) -> MattedBatch:
        """Return the batch with its mattes, all of which are there."""
        mattes = np.stack([_matte_of(frame) for frame in self.members])
        trusts = np.ones_like(mattes)
        for place, frame in enumerate(self.members):
            if frame.trust is not None:
                trusts[place] = frame.trust
        shots = tuple(frame.shot for frame in self.members)
        motions = tuple(frame.motion for frame in self.members)
        return MattedBatch(self.frames, self.thumbnails, mattes, trusts, shots, motions)


def carried(pictured: Iterable[Pictured], look: Look, rhythm: Rhythm) -> Iterator[MattedBatch]:
    """Yield frames with mattes: seen by the network, or carried from where it looked.

    A batch comes out when the block of its last frame has come in with two frames more, or the
    clip has ended: so many frames are held.

    Args:
        pictured: Consecutive frames in batches, with their thumbnails, all of one size.
        look: Makes mattes float32 ``(n, h, w)`` of frames of a batch. The ends of blocks, and
            frames on either side of a cut, come without expectations.
        rhythm: Which frames are looked at.
    """
    held: deque[_Batch] = deque()
    # From the first frame of the block that is open; and the sketches before it.
    waiting: deque[_Frame] = deque()
    before: deque[NDArray[np.float32]] = deque(maxlen=BEFORE_FRAMES)

    def ask(frames: Iterable[_Frame]) -> None:
        wanted = {frame.index for frame in frames if frame.matte is None}
        for batch in held:
            chosen = [n for n, frame in enumerate(batch.members) if frame.index in wanted]
            if chosen:  # all of a batch at once
                expected = [batch.members[place].expected for place in chosen]
                mattes = look(batch.frames, batch.thumbnails, chosen, expected)
                for place, matte in zip(chosen, mattes, strict=True):
                    batch.members[place].matte = matte

    def settle(length: int) -> None:
        """Settle a block: its frames, and the first of the next one, or the clip's last."""
        frames = list(waiting)
        block = frames[: length + 1]
        _number_shots(block, before, frames[length + 1 :])
        _fill(block, ask, rhythm)
        for _ in range(length):
            before.append(waiting.popleft().sketch)

    for frames, thumbnails in pictured:
        first = frames.first_index
        members = tuple(_frame(first + n, rgb) for n, rgb in enumerate(thumbnails))
        held.append(_Batch(frames, thumbnails, members))
        # Or they stay in memory while the next ones are made.
        del frames, thumbnails
        waiting.extend(members)
        ask(frame for frame in members if frame.index % rhythm.block == 0)
        while True:
            length = rhythm.block - waiting[0].index % rhythm.block
            if len(waiting) <= length + AFTER_FRAMES:
                break
            settle(length)
        # The first that waits may be seen already, but has to tell it to those after it.
        yield from _released(held, waiting[0].index)
    while len(waiting) > 1:
        settle(min(rhythm.block - waiting[0].index % rhythm.block, len(waiting) - 1))
    ask(waiting)
    while held:
        yield held.popleft().matted()


def _released(held: deque[_Batch], stop: int) -> Iterator[MattedBatch]:
    """Yield the batches all of whose frames come before ``stop``, and let go of them."""
    while held and held[0].members[-1].index < stop:
        yield held.popleft().matted()


def _frame(index: int, rgb: NDArray[np.uint8]) -> _Frame:
    """Return what is known of a frame before anybody looked.

    Args:
        index: Which frame of the clip.
        rgb: uint8 R'G'B' ``(h, w, 3)``.
    """
    colours = half_size(rgb)
    return _Frame(index, colours, grey(colours), sketch(rgb))


def _matte_of(frame: _Frame) -> Matte:
    if frame.matte is None:
        raise ValueError(f"frame {frame.index} has no matte yet")
    return frame.matte


def _number_shots(
    block: Sequence[_Frame], before: Iterable[NDArray[np.float32]], after: Iterable[_Frame]
) -> None:
    """Give frames of one shot the number of the block's first, and later shots higher ones."""
    earlier = list(before)
    sketches = [*earlier, *(frame.sketch for frame in (*block, *after))]
    for n in range(1, len(block)):
        place = len(earlier) + n
        is_new = is_cut(
            sketches[max(0, place - BEFORE_FRAMES) : place],
            sketches[place : place + 1 + AFTER_FRAMES],
        )
        block[n].shot = block[n - 1].shot + is_new


def _fill(block: Sequence[_Frame], ask: Ask, rhythm: Rhythm) -> None:
    """Give every frame of a block a matte: look at those that need it, carry it to the others."""
    ask((block[0], block[-1]))
    motions = _Motions(block)
    starts = [n for n, f in enumerate(block) if n == 0 or f.shot != block[n - 1].shot]
    for start, stop in zip(starts, [*starts[1:], len(block)], strict=True):
        shot = block[start:stop]
        ask((shot[0], shot[-1]))
        if rhythm.is_adaptive and len(shot) > 2:
            apart = _apart(shot, motions)
            if apart >= _LIKE_OTHER_END:
                _look_between(shot, ask, motions, _LIKE_MIDDLE, is_tracked=apart < _TRACKED)
        keys = [n for n, frame in enumerate(shot) if frame.matte is not None]
        for left, right in itertools.pairwise(keys):
            for n in range(left + 1, right):
                ends = shot[left], shot[right]
                shot[n].matte, shot[n].trust = _carried_to(shot[n], ends, motions)


def _apart(shot: Sequence[_Frame], motions: _Motions) -> float:
    """Return what part of the subject that is seen at one end is not what is seen at the other."""
    matte, _ = _carried_to(shot[-1], shot[:1], motions)
    return _disagreement(matte, _matte_of(shot[-1]))


def _look_between(
    frames: Sequence[_Frame], ask: Ask, motions: _Motions, most: float, *, is_tracked: bool
) -> None:
    """Look at the frame in the middle, and at those in the halves unless it was as expected."""
    if len(frames) <= 2:
        return
    place = (len(frames) - 1) // 2
    middle, ends = frames[place], (frames[0], frames[-1])
    carried_there, _ = _carried_to(middle, ends, motions)
    if is_tracked:
        reach = np.maximum(carried_there, np.maximum(*map(_matte_of, ends)))
        middle.expected = Expected(carried_there, reach)
    ask((middle,))
    middle.expected = None
    if _disagreement(carried_there, _matte_of(middle)) >= most:
        for half in (frames[: place + 1], frames[place:]):
            _look_between(half, ask, motions, _LIKE_PART, is_tracked=is_tracked)


def _disagreement(one: Matte, other: Matte) -> float:
    """Return what part of the subject is in one matte only."""
    inside, also_inside = one > 0.5, other > 0.5
    apart = np.count_nonzero(inside ^ also_inside)
    return apart / (np.count_nonzero(inside | also_inside) + _LEAST_SUBJECT * one.size)


class _Motions:
    """Where a block's frames find each other's points.

    Searched for between neighbours only. Over more frames it is joined from two shorter spans, the
    first of them a power of two long, so that what several spans have in common is joined once.
    """

    def __init__(self, block: Sequence[_Frame]) -> None:
        self._frames = {frame.index: frame for frame in block}
        self._known: dict[tuple[int, int], Motion] = {}

    def to(self, here: _Frame, there: _Frame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the flow from here to there, and back, as a :class:`Motion` has them."""
        if here.index < there.index:
            motion = self._between(here.index, there.index)
            return motion.onward, motion.home
        motion = self._between(there.index, here.index)
        return motion.home, motion.onward

    def _between(self, first: int, second: int) -> Motion:
        """Return the motion from one frame to a later one, by their indices."""
        span = second - first
        if span == 1:
            frame = self._frames[first]
            if frame.motion is None:
                frame.motion = motion_between(frame.grey, self._frames[second].grey)
            return frame.motion
        if (first, second) not in self._known:
            middle = first + (1 << (span - 1).bit_length() - 1)
            self._known[first, second] = joined(
                self._between(first, middle), self._between(middle, second)
            )
        return self._known[first, second]


def _carried_to(frame: _Frame, keys: Sequence[_Frame], motions: _Motions) -> tuple[Matte, Matte]:
    """Return the matte that a frame gets from others, and how far it is to be trusted.

    Args:
        frame: The frame.
        keys: Frames with mattes, of the same shot.
        motions: Those of the block.
    """
    values = np.zeros_like(_matte_of(keys[0]))
    weights = np.zeros_like(values)
    trusted = np.full_like(values, _LEAST_TRUST)
    size = (values.shape[0], values.shape[1])
    for key in keys:
        there, back = motions.to(frame, key)
        found = trust(frame.colours, key.colours, there, back, size)
        np.maximum(trusted, found, out=trusted)
        found += np.float32(_LEAST_WEIGHT)
        found /= np.float32(abs(key.index - frame.index))
        weights += found
        found *= look_up(_matte_of(key), full_places(there, size))
        values += found
    values /= weights
    return values, trusted
