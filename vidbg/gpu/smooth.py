"""Mattes made steady over time, on a device: sibling of :mod:`vidbg.temporal.smooth`.

The same passes and the same three conditions for a vote; cuts are told by the sibling's own
code from sketches that come down to the host. What differs is the motion
(:mod:`vidbg.gpu.flow`), that values are not rounded to 16 bits between passes, and that a pass goes
through a batch at once: the votes of a pass are all of the mattes before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from vidbg.gpu.flow import agreement, motion_between, warp
from vidbg.gpu.frames import DeviceMatted
from vidbg.gpu.graphs import Graphs
from vidbg.gpu.resize import box_mean, gaussian, grown, resized, shrunk
from vidbg.temporal import scenes
from vidbg.temporal import smooth as sibling
from vidbg.temporal import trust as trusts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from vidbg.gpu.transfer import Downloads, Leaving


@dataclass(frozen=True, slots=True)
class _Bonds:
    """Where pairs of frames find each other's votes, and what these count.

    Attributes:
        onward: The flow from the first to the second, float32 ``(B, 2, h, w)``.
        home: The flow back.
        onward_trust: float32 ``(B, h, w)``: what the second's votes count in the first.
        home_trust: What the first's votes count in the second.
    """

    onward: torch.Tensor
    home: torch.Tensor
    onward_trust: torch.Tensor
    home_trust: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Run:
    """What the passes know of consecutive frames.

    Attributes:
        shots: A number for each frame, equal for frames of one shot.
        luma: What motion is found in, float32 ``(B, h, w)`` in 0..255.
        colours: float32 R'G'B' ``(B, 3, h, w)`` in 0..255 at half the size, rounded up.
        matte: float32 ``(B, h, w)`` in 0..1.
        weight: float32 ``(B, h, w)`` in 0..1, what is behind the matte.
        bonds: Each frame's with the next, if the pass before found them.
    """

    shots: tuple[int, ...]
    luma: torch.Tensor
    colours: torch.Tensor
    matte: torch.Tensor
    weight: torch.Tensor
    bonds: _Bonds | None = None

    def part(self, start: int, stop: int) -> _Run:
        """Return the frames from ``start`` to before ``stop`` as views."""
        chosen = slice(start, stop)
        bonds = self.bonds
        return _Run(
            self.shots[chosen],
            self.luma[chosen],
            self.colours[chosen],
            self.matte[chosen],
            self.weight[chosen],
            None if bonds is None else _parted(bonds, chosen),
        )


def smooth(
    batches: Iterable[DeviceMatted], strength: float, downloads: Downloads
) -> Iterator[DeviceMatted]:
    """Return the batches with mattes that flicker less.

    Count, order, frames and thumbnails stay as they are; so do the sizes of the batches. A batch
    comes out when LOOKAHEAD_FRAMES frames more have come in, or the clip has ended.

    Args:
        batches: Consecutive frames with their mattes, all of one size.
        strength: What the vote of another frame counts against a frame's own. 0 leaves
            everything as it is, the same objects.
        downloads: Brings down what cuts are told from.

    Raises:
        ValueError: ``strength`` is not in 0..1.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength is in 0..1, not {strength!r}")
    return iter(batches) if strength == 0.0 else _steady(batches, strength, downloads)


def _steady(
    batches: Iterable[DeviceMatted], strength: float, downloads: Downloads
) -> Iterator[DeviceMatted]:
    """Yield each batch with the mattes that come out of the passes."""
    held: deque[DeviceMatted] = deque()
    runs = _shots(batches, held, downloads)
    steps = sibling.STEPS
    graphs = Graphs()
    for step, following in zip(steps, (*steps[1:], 0), strict=True):
        runs = _exchanged(runs, step, strength, graphs, is_repeated=step == following)
    mattes: list[torch.Tensor] = []
    for run in runs:
        mattes.append(run.matte)
        del run
        ready = torch.cat(mattes)
        while held and len(ready) >= len(held[0].frames):
            count = len(held[0].frames)
            yield replace(held.popleft(), matte=ready[:count])
            ready = ready[count:]
        mattes = [ready]


def _shots(
    batches: Iterable[DeviceMatted], held: deque[DeviceMatted], downloads: Downloads
) -> Iterator[_Run]:
    """Yield frames as the passes need them, and keep the batches that they come from."""
    shot = 0
    sketches: deque[NDArray[np.float32]] = deque(
        maxlen=scenes.BEFORE_FRAMES + 1 + scenes.AFTER_FRAMES
    )
    waiting: _Run | None = None

    def numbered(count: int) -> int:
        """Return the shot of the first of so many frames, with whose sketches the others end."""
        nonlocal shot
        first = len(sketches) - count
        known = list(sketches)
        shot += scenes.is_cut(known[max(0, first - scenes.BEFORE_FRAMES) : first], known[first:])
        return shot

    for batch in batches:
        held.append(batch)
        run = _run(batch)
        drawn = _sketches(batch.thumbnails, downloads)
        del batch
        left = 0 if waiting is None else len(waiting.shots)
        waiting = run if waiting is None else _joined(waiting, run)
        del run
        numbers = []
        for sketch in drawn.arrays()[0]:
            sketches.append(sketch)
            left += 1
            if left > scenes.AFTER_FRAMES:
                numbers.append(numbered(left))
                left -= 1
        if numbers:
            ready = replace(waiting.part(0, len(numbers)), shots=tuple(numbers))
            waiting = waiting.part(len(numbers), len(waiting.shots))
            yield ready
            del ready
    if waiting is not None and waiting.shots:
        count = len(waiting.shots)
        yield replace(waiting, shots=tuple(numbered(left) for left in range(count, 0, -1)))


def _sketches(thumbnails: torch.Tensor, downloads: Downloads) -> Leaving:
    """Begin to bring down what :func:`vidbg.temporal.scenes.sketch` returns of each frame."""
    side = scenes.SKETCH_SIDE_PX
    small = resized(_luma(thumbnails), side, side).round()
    return downloads.fetch([gaussian(small.unsqueeze(1), scenes.SKETCH_BLUR_PX).squeeze(1)])


def _luma(rgb: torch.Tensor) -> torch.Tensor:
    """Return the luma of BT.601, rounded, float32 ``(B, h, w)``, of uint8 ``(B, h, w, 3)``."""
    red, green, blue = rgb.float().unbind(dim=-1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).round_()


def _run(batch: DeviceMatted) -> _Run:
    """Return what the passes know of frames by themselves, shots aside."""
    matte = batch.matte
    height, width = matte.shape[1:]
    pictures = batch.thumbnails.permute(0, 3, 1, 2).float()
    colours = shrunk(pictures, (height + 1) // 2, (width + 1) // 2).round_()
    least = sibling.LEAST_CONFIDENCE
    weight = least + (1 - least) * (2 * matte - 1) ** 4
    return _Run((0,) * len(batch.frames), _luma(batch.thumbnails), colours, matte, weight)


def _exchanged(
    runs: Iterable[_Run], step: int, strength: float, graphs: Graphs, *, is_repeated: bool
) -> Iterator[_Run]:
    """Yield frames after votes between each and those ``step`` before and after it.

    Args:
        runs: Consecutive frames.
        step: How far apart those are that vote for each other.
        strength: What a vote counts at most.
        graphs: Of the search for motion.
        is_repeated: The next pass has the same step, and takes over what is found here.
    """
    # The frames whose later votes are still to come, and the sums of those that came: of the
    # weights, and of mattes times weights.
    open_run: _Run | None = None
    sums: torch.Tensor | None = None
    for run in runs:
        own = torch.stack([run.weight, run.weight * run.matte], dim=1)
        open_run = run if open_run is None else _joined(open_run, run)
        sums = own if sums is None else torch.cat([sums, own])
        del run, own
        pairs = len(open_run.shots) - step
        if pairs <= 0:
            continue
        first, second = open_run.part(0, pairs), open_run.part(step, pairs + step)
        bonds = first.bonds
        if bonds is None:
            bonds = _bonded(first, second, strength, graphs)
        sums[:pairs] += _votes(second, bonds.onward, bonds.onward_trust)
        sums[step:] += _votes(first, bonds.home, bonds.home_trust)
        yield _settled(first, sums[:pairs], strength, bonds if is_repeated else None)
        open_run, sums = open_run.part(pairs, pairs + step), sums[pairs:]
        del first, second, bonds
    if open_run is not None and sums is not None:
        # The last frame is tied to none that follows it.
        yield _settled(open_run, sums, strength, _no_bonds(open_run) if is_repeated else None)


def _votes(voters: _Run, motion: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
    """Return the weights of frames' votes and what they vote, times these, ``(B, 2, h, w)``."""
    evidence = warp(torch.stack([voters.weight, voters.matte], dim=1), motion)
    weight = trust * evidence[:, 0]
    return torch.stack([weight, weight * evidence[:, 1]], dim=1)


def _settled(run: _Run, sums: torch.Tensor, strength: float, bonds: _Bonds | None) -> _Run:
    """Return frames with the votes as their mattes, weights in 0..1 again."""
    weight, value = sums.unbind(dim=1)
    return replace(run, matte=value / weight, weight=weight / (1 + 2 * strength), bonds=bonds)


def _bonded(first: _Run, second: _Run, strength: float, graphs: Graphs) -> _Bonds:
    """Return where frames find each other's votes, and what these count."""
    count = len(first.shots)
    found = graphs.run(motion_between, torch.stack([first.luma, second.luma]))
    motion, returns = found.flatten(0, 1), found.flip(0).flatten(0, 1)
    here = torch.cat([first.colours, second.colours])
    there = torch.cat([second.colours, first.colours])

    trust = agreement(motion, returns, trusts.SLACK_PX)
    apart = (warp(there, motion) - here).abs_().amax(dim=1, keepdim=True)
    difference = box_mean(apart, 3).squeeze(1) / trusts.COLOUR_LEVELS
    trust = strength * trust * torch.exp(-difference * difference)
    trust = grown(trust, *first.matte.shape[1:])
    whole = _doubled(motion, first.matte.shape[1], first.matte.shape[2])
    is_one_shot = [a == b for a, b in zip(first.shots, second.shots, strict=True)]
    if not all(is_one_shot):
        trust = trust * _flags(torch.tensor(is_one_shot * 2), trust.device)
    return _Bonds(whole[:count], whole[count:], trust[:count], trust[count:])


def _doubled(motion: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return motion ``(B, 2, h, w)`` at the mattes' size, in their pixels."""
    return 2 * grown(motion, height, width)


def _no_bonds(run: _Run) -> _Bonds:
    """Return the bonds of frames with nothing after them."""
    still = run.matte.new_zeros(()).expand(len(run.shots), 2, *run.matte.shape[1:])
    return _Bonds(still, still, still[:, 0], still[:, 0])


def _joined(one: _Run, other: _Run) -> _Run:
    """Return consecutive frames as one run."""
    bonds = None
    if one.bonds is not None and other.bonds is not None:
        bonds = _Bonds(
            torch.cat([one.bonds.onward, other.bonds.onward]),
            torch.cat([one.bonds.home, other.bonds.home]),
            torch.cat([one.bonds.onward_trust, other.bonds.onward_trust]),
            torch.cat([one.bonds.home_trust, other.bonds.home_trust]),
        )
    return _Run(
        one.shots + other.shots,
        torch.cat([one.luma, other.luma]),
        torch.cat([one.colours, other.colours]),
        torch.cat([one.matte, other.matte]),
        torch.cat([one.weight, other.weight]),
        bonds,
    )


def _parted(bonds: _Bonds, chosen: slice) -> _Bonds:
    return _Bonds(
        bonds.onward[chosen],
        bonds.home[chosen],
        bonds.onward_trust[chosen],
        bonds.home_trust[chosen],
    )


def _flags(flags: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a flag for each frame as float32 ``(B, 1, 1)`` on a device, without waiting for it."""
    values = flags.float().view(-1, 1, 1)
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
