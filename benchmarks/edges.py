"""What refining edges and foreground colour bring, and what they cost at 1080p.

    python benchmarks/edges.py DATA_EVAL [--weights FILE] [--every N] [--cache FOLDER]

DATA_EVAL holds video/NAME.mp4 beside video/NAME.gt.mkv (grey truth), and for two of them
video/NAME.green.mp4, the true composite over a colour. Every N-th frame is looked at, each by
itself, with no smoothing over time.

The first table compares each --edges setting with the bilinear matte: J and F as in DAVIS, MSE
times 1000, Grad as in C. Rhemann et al., "A perceptually motivated online benchmark for image
matting", CVPR 2009 (sigma 1.4, sum over a frame divided by 1000). The second is the error of a
composite within soft edges, with the true alpha for a matte, in codes of each plane; the third is
CPU milliseconds a frame at 1920x1080, the median of several turns on mattes of the network.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from vidbg import colour as colours
from vidbg import composite
from vidbg.evaluation import metrics
from vidbg.frames import FrameBatch, MattedBatch, PlaneFormat
from vidbg.matting.foreground import estimate_foreground
from vidbg.matting.refine import EDGES, finish_matte
from vidbg.matting.segmenter import load_segmenter
from vidbg.matting.spill import colours_around, suppress_spill
from vidbg.media.decode import read_frames
from vidbg.media.probe import probe
from vidbg.temporal.smooth import smooth

Matte = NDArray[np.float32]

COST_SIZE = (1920, 1080)
COST_TURNS = 7
COST_CLIPS = ("blackswan", "dancers", "dog", "troll")


def grey_frames(path: Path, every: int) -> Iterator[Matte]:
    """Yield every N-th frame of a grey clip as 0 to 1."""
    with av.open(str(path)) as container:
        for frame in islice(container.decode(video=0), 0, None, every):
            yield frame.to_ndarray().astype(np.float32) / np.float32(255)


def batches(path: Path, every: int) -> Iterator[FrameBatch]:
    """Yield every N-th frame of a clip, one at a time."""
    for index, batch in enumerate(read_frames(probe(path), batch_size=1)):
        if index % every == 0:
            yield batch


def matted(
    path: Path, every: int, segmenter: Callable[[Any], Matte], cache: Path | None
) -> Iterator[MattedBatch]:
    """Yield every N-th frame with its matte, from the cache where it is there."""
    info = probe(path)
    colour = colours.resolve(info.colour, info.format, info.height)
    size = segmenter.input_size(info.width, info.height, info.sar)  # type: ignore[attr-defined]
    for number, batch in enumerate(batches(path, every)):
        rgb = colours.planes_to_rgb(batch.planes, batch.format, colour, size)
        kept = None if cache is None else cache / f"{path.stem}.{number * every:05d}.npy"
        if kept is not None and kept.exists():
            matte = np.load(kept)
        else:
            matte = segmenter(rgb)
            if kept is not None:
                np.save(kept, matte)
        yield MattedBatch(batch, rgb, matte)


def quality(folder: Path, names: list[str], arguments: Any, segmenter: Any) -> None:
    """Print how near the mattes of each setting come to the truth."""
    columns = ("J", "F", "MSE", "Grad")
    print(f"{'clip':16s}", *(f"{edges:^31s}" for edges in EDGES))
    print(f"{'':16s}", *(" ".join(f"{c:>7s}" for c in columns) for _ in EDGES))
    means = []
    for name in names:
        scores: dict[str, list[list[float]]] = {edges: [] for edges in EDGES}
        truths = grey_frames(folder / f"{name}.gt.mkv", arguments.every)
        frames = matted(folder / f"{name}.mp4", arguments.every, segmenter, arguments.cache)
        for batch, truth in zip(frames, truths, strict=True):
            for edges in EDGES:
                alpha = finish_matte(batch, edges)[0].astype(np.float32) / np.float32(255)
                scores[edges].append(
                    [
                        metrics.jaccard(alpha, truth),
                        metrics.boundary_f(alpha, truth),
                        1000 * metrics.mse(alpha, truth),
                        metrics.gradient_error(alpha, truth),
                    ]
                )
        means.append([np.mean(scores[edges], axis=0) for edges in EDGES])
        print_scores(name, means[-1])
    print_scores(f"mean of {len(means)}", np.mean(means, axis=0))


def print_scores(name: str, rows: Any) -> None:
    """Print a clip's figures, J and F to three digits."""
    cells = (f"{r[0]:7.3f} {r[1]:7.3f} {r[2]:7.2f} {r[3]:7.2f}" for r in rows)
    print(f"{name:16s}", *cells, flush=True)


def colour_errors(folder: Path, names: list[str], every: int) -> None:
    """Print the error of composites over the true one's background, in soft edges."""
    print(f"{'clip':16s} {'as it is':>20s} {'foreground':>20s} {'of it':>8s}  (mean |error|)")
    for name in names:
        sums, pixels = np.zeros((2, 3)), np.zeros(3)
        truths = grey_frames(folder / f"{name}.gt.mkv", every)
        for batch, green, truth in zip(
            batches(folder / f"{name}.mp4", every),
            batches(folder / f"{name}.green.mp4", every),
            truths,
            strict=True,
        ):
            alpha = np.rint(truth * 255).astype(np.uint8)[None]
            alphas = composite.alpha_planes(alpha, batch.format)
            # The corner of the true composite is nothing but its background.
            flat = [int(np.median(plane[0, :20, :20])) for plane in green.planes]
            behind = tuple(
                np.full_like(plane, code) for plane, code in zip(batch.planes, flat, strict=True)
            )
            estimate = estimate_foreground(batch.planes, alphas, batch.format)
            for row, planes in enumerate((batch.planes, estimate)):
                made = composite.over(planes, behind, alphas)  # type: ignore[arg-type]
                for number in range(3):
                    is_soft = (alphas[number] > 0) & (alphas[number] < 255)
                    off = made[number].astype(np.float64) - green.planes[number]
                    sums[row, number] += np.abs(off)[is_soft].sum()
            pixels += [((a > 0) & (a < 255)).sum() for a in alphas]
        errors = sums / pixels
        cells = (" ".join(f"{e:6.2f}" for e in row) for row in errors)
        print(f"{name:16s}", *cells, f"{errors[1].sum() / errors[0].sum():8.2f}", flush=True)


def enlarged(batch: MattedBatch) -> MattedBatch:
    """Return a frame at 1080p in 4:2:0, with the same matte."""
    width, height = COST_SIZE
    format = PlaneFormat("yuv420p", 8, 1, 1, is_rgb=False)
    planes = tuple(
        cv2.resize(plane[0], (columns, rows), interpolation=cv2.INTER_CUBIC)[None]
        for plane, (rows, columns) in zip(
            batch.frames.planes, format.plane_sizes(width, height), strict=True
        )
    )
    frames = FrameBatch(planes, format, batch.frames.first_index)  # type: ignore[arg-type]
    return MattedBatch(frames, batch.thumbnails, batch.matte)


def cpu_ms(step: Callable[[], object], turns: int) -> float:
    """Return the median CPU time of a step, user and system, in milliseconds."""
    step()
    taken = []
    for _ in range(turns):
        began = time.process_time()
        step()
        taken.append(1000 * (time.process_time() - began))
    return statistics.median(taken)


def cost_row(clip: list[MattedBatch]) -> list[float]:
    """Return CPU milliseconds a frame of each step at 1080p, on the middle frame of a clip."""
    batch = enlarged(clip[len(clip) // 2])
    planes, format = batch.frames.planes, batch.frames.format
    alpha = finish_matte(batch, "fast")
    alphas = composite.alpha_planes(alpha, format)

    def over() -> None:
        composite.over(planes, planes, composite.alpha_planes(alpha, format))

    def despill() -> None:
        suppress_spill(planes, format, colours_around(planes, alphas))

    row = [cpu_ms(lambda: list(smooth(iter(clip), 0.8)), 3) / len(clip)]
    row += [cpu_ms(partial(finish_matte, batch, edges), COST_TURNS) for edges in EDGES]
    row.append(cpu_ms(lambda: estimate_foreground(planes, alphas, format), COST_TURNS))
    row.append(cpu_ms(over, COST_TURNS))
    row.append(cpu_ms(despill, COST_TURNS))
    return [*row, row[0] + row[2] + row[4] + row[5]]


def costs(folder: Path, names: list[str], arguments: Any, segmenter: Any) -> None:
    """Print CPU milliseconds a frame of each step at 1080p."""
    names = [name for name in COST_CLIPS if name in names] or names
    steps = ("smooth", *EDGES, "foreground", "composite", "despill", "sum")
    print(f"{'clip':16s}", *(f"{step:>10s}" for step in steps), "(smooth, fast, colour, over)")
    for name in names:
        path = folder / f"{name}.mp4"
        clip = list(islice(matted(path, arguments.every, segmenter, arguments.cache), 8))
        print(f"{name:16s}", *(f"{value:10.1f}" for value in cost_row(clip)), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_EVAL")
    parser.add_argument("--weights", help="a checkpoint; the default network without it")
    parser.add_argument("--every", type=int, default=4, metavar="N")
    parser.add_argument("--cache", type=Path, help="keep the network's mattes here")
    parser.add_argument("--only", choices=("quality", "colour", "cost"))
    arguments = parser.parse_args()
    folder = arguments.data / "video"
    names = sorted(path.name.removesuffix(".gt.mkv") for path in folder.glob("*.gt.mkv"))
    if not names:
        sys.exit(f"no NAME.gt.mkv in {folder}")
    if arguments.cache is not None:
        arguments.cache.mkdir(parents=True, exist_ok=True)
    segmenter = load_segmenter(weights=arguments.weights, device="cpu", threads=1)
    cv2.setNumThreads(1)
    if arguments.only in (None, "quality"):
        quality(folder, names, arguments, segmenter)
    if arguments.only in (None, "colour"):
        with_truth = [name for name in names if (folder / f"{name}.green.mp4").exists()]
        colour_errors(folder, with_truth, arguments.every)
    if arguments.only in (None, "cost"):
        costs(folder, names, arguments, segmenter)


if __name__ == "__main__":
    main()
