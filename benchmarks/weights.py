"""Is a network better than the public U-2-Net-p, and what does it cost? Side by side, in one run.

    python benchmarks/weights.py DATA_EVAL [--weights NAME_OR_FILE]... [--reference NAME_OR_FILE]

DATA_EVAL holds video/NAME.mp4 beside video/NAME.gt.mkv (grey truth), and ecssd/images beside
ecssd/masks. Every network sees the same frames, made smaller by area to the size that the tool
would use for the clip, and its matte is brought back to the frame's size bilinearly: each frame by
itself, without smoothing or refinement. Figures of a clip are means over its frames. With --square
all pictures are squeezed into squares, as the scripts of U-2-Net do.

The cost is that of one picture of 320x320 on a CPU in fp32, as the tool runs it; the networks take
turns, so that what else the machine does slows all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from vidbg.evaluation import metrics
from vidbg.matting.architectures import load_network
from vidbg.matting.segmenter import Segmenter, load_segmenter
from vidbg.matting.weights import ensure

Picture = NDArray[np.uint8]
Scores = dict[str, float]

# What the literature multiplies a figure with before it prints it, and the decimals it keeps.
SEQUENCE_COLUMNS = {"J": 3, "F": 3, "MAD": 1, "MSE": 1, "dtSSD": 1, "warp": 1}
IMAGE_COLUMNS = {"J": 3, "MAE": 4, "max Fβ": 3}
COST_COLUMNS = {"GMAC": 2, "parameters": 0, "bytes": 0, "wall ms": 1, "CPU ms": 1}
EMPTY_COLUMNS = {"mean alpha": 4}
COST_SIDE_PX = 320


@dataclass(frozen=True)
class Network:
    """One of the networks that are compared."""

    label: str
    path: Path
    segmenter: Segmenter
    is_square: bool

    def matte(self, rgb: Picture) -> NDArray[np.float32]:
        """Return the matte of a picture, at the network's size."""
        height, width = rgb.shape[:2]
        if self.is_square:
            width = height
        rows, columns = self.segmenter.input_size(width, height)
        matte: NDArray[np.float32] = self.segmenter(reduced(rgb, columns, rows)[None])[0]
        return matte


def reduced(rgb: Picture, width: int, height: int) -> Picture:
    """Return a picture at another size, each pixel the mean of the area that it covers."""
    small = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)


def load(choices: Sequence[str], *, threads: int, is_square: bool) -> list[Network]:
    """Return the networks that files or names of the registry stand for, the reference first."""
    stems = [Path(choice).stem for choice in choices]
    networks = []
    for choice, stem in zip(choices, stems, strict=True):
        path = Path(choice) if Path(choice).is_file() else ensure(choice)
        label = choice if stems.count(stem) > 1 else stem
        # Ranges for int8 are not there for all: like is compared with like.
        segmenter = load_segmenter(weights=path, device="cpu", precision="fp32", threads=threads)
        networks.append(Network(label, path, segmenter, is_square))
    return networks


def decoded(path: Path, layout: str, chosen: slice) -> list[Picture]:
    """Return frames of a clip, uint8, in one of FFmpeg's packed layouts."""
    with av.open(str(path)) as container:
        frames = (frame.to_ndarray(format=layout) for frame in container.decode(video=0))
        chosen_frames = islice(frames, chosen.start, chosen.stop, chosen.step)
        return [frame.astype(np.uint8, copy=False) for frame in chosen_frames]


def fractions(truths: Iterable[Picture]) -> Iterator[NDArray[np.float32]]:
    """Yield 8-bit truths as alpha from 0 to 1."""
    for truth in truths:
        yield (truth / np.float32(255)).astype(np.float32, copy=False)


def enlarged(
    mattes: Iterable[NDArray[np.float32]], truths: Iterable[Picture]
) -> Iterator[NDArray[np.float32]]:
    """Yield mattes at the size of their truths."""
    for matte, truth in zip(mattes, truths, strict=True):
        height, width = truth.shape
        alpha = cv2.resize(matte, (width, height), interpolation=cv2.INTER_LINEAR)
        yield alpha.astype(np.float32, copy=False)


def mean_of(
    metric: Callable[[Any, Any], float],
    mattes: Sequence[NDArray[np.float32]],
    truths: Sequence[Picture],
) -> float:
    """Return the mean of a figure over pictures."""
    pairs = zip(enlarged(mattes, truths), fractions(truths), strict=True)
    return statistics.fmean(metric(alpha, truth) for alpha, truth in pairs)


def sequence_scores(network: Network, frames: list[Picture], truths: list[Picture]) -> Scores:
    """Return a network's figures on one clip."""
    mattes = [network.matte(frame) for frame in frames]
    return {
        "J": mean_of(metrics.jaccard, mattes, truths),
        "F": mean_of(metrics.boundary_f, mattes, truths),
        "MAD": 1000 * mean_of(metrics.mad, mattes, truths),
        "MSE": 1000 * mean_of(metrics.mse, mattes, truths),
        "dtSSD": metrics.dtssd(enlarged(mattes, truths), fractions(truths)),
        "warp": metrics.warp_error(enlarged(mattes, truths), frames),
    }


def image_scores(network: Network, pictures: list[Picture], truths: list[Picture]) -> Scores:
    """Return a network's figures on the salient-object pictures."""
    mattes = [network.matte(picture) for picture in pictures]
    return {
        "J": mean_of(metrics.jaccard, mattes, truths),
        "MAE": mean_of(metrics.mad, mattes, truths),
        "max Fβ": metrics.max_f_beta(enlarged(mattes, truths), fractions(truths)),
    }


def rgb_picture(path: Path) -> Picture:
    """Return a still picture, uint8 (H, W, 3)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def grey_picture(path: Path) -> Picture:
    """Return a still picture, uint8 (H, W)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))


def multiplications(network: nn.Module, side_px: int) -> int:
    """Return the multiply-accumulates of all convolutions for one square picture."""
    total = 0

    def count(layer: nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        # A weight (out, in / groups, kh, kw) is used whole for each pixel of the output.
        total += math.prod((*layer.weight.shape, *output.shape[2:]))

    hooks = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.inference_mode():
        network(torch.zeros(1, 3, side_px, side_px))
    for hook in hooks:
        hook.remove()
    return total


def costs(networks: Sequence[Network], picture: Picture, rounds: int) -> dict[str, Scores]:
    """Return what each network takes for one picture, the times being medians over rounds."""
    found: dict[str, Scores] = {}
    for network in networks:
        module = load_network(network.path).network.eval()
        found[network.label] = {
            "GMAC": multiplications(module, COST_SIDE_PX) / 1e9,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "bytes": network.path.stat().st_size,
        }
    batch = reduced(picture, COST_SIDE_PX, COST_SIDE_PX)[None]
    spent: dict[str, list[tuple[float, float]]] = {network.label: [] for network in networks}
    for number in range(rounds + 1):
        for network in networks:
            wall, cpu = time.perf_counter(), time.process_time()
            network.segmenter(batch)
            taken = time.perf_counter() - wall, time.process_time() - cpu
            if number:  # the first allocates memory and chooses kernels
                spent[network.label].append(taken)
    for label, times in spent.items():
        walls, cpus = zip(*times, strict=True)
        found[label]["wall ms"] = 1000 * statistics.median(walls)
        found[label]["CPU ms"] = 1000 * statistics.median(cpus)
    return found


def empty_scores(network: Network, paths: Iterable[Path]) -> Scores:
    """Return the mean of the matte on each picture without a subject, by stem."""
    return {path.stem: float(network.matte(rgb_picture(path)).mean()) for path in paths}


def listed(path: Path) -> list[str]:
    """Return the lines of a file, without comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def means(rows: Iterable[Scores]) -> Scores:
    """Return the mean of each column."""
    collected = list(rows)
    return {name: statistics.fmean(row[name] for row in collected) for name in collected[0]}


def print_table(title: str, columns: Mapping[str, int], rows: Mapping[str, Scores]) -> None:
    """Print rows as a table in Markdown."""
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for label, row in rows.items():
        cells = (f"{row[name]:.{decimals}f}" for name, decimals in columns.items())
        print(f"| {label} | {' | '.join(cells)} |")


def print_compared(title: str, columns: Mapping[str, int], rows: Mapping[str, Scores]) -> None:
    """Print one row a network, and below a table of the others in per cent of the first."""
    print_table(title, columns, rows)
    reference, *others = rows
    base = rows[reference]
    ratios = {
        label: {name: 100 * rows[label][name] / (base[name] or math.nan) for name in columns}
        for label in others
    }
    if ratios:
        print_table(f"In per cent of {reference}:", dict.fromkeys(columns, 1), ratios)


def clips_in(folder: Path) -> dict[str, Path]:
    """Return the clips that have a truth, by name."""
    names = [path.name.removesuffix(".gt.mkv") for path in sorted(folder.glob("*.gt.mkv"))]
    return {name: folder / f"{name}.mp4" for name in names}


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DATA_EVAL")
    parser.add_argument("--weights", action="append", default=[], metavar="NAME_OR_FILE")
    parser.add_argument(
        "--reference", metavar="NAME_OR_FILE", help="default: ../weights/u2netp_fp16.pth"
    )
    parser.add_argument("--clip", action="append", default=[], help="only this one; repeatable")
    parser.add_argument(
        "--limit-frames", type=int, help="the first so many, 2 or more, of a clip or folder"
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="only every so many-th frame or image; dtSSD and warp are then between those",
    )
    parser.add_argument("--square", action="store_true", help="squeeze pictures into squares")
    parser.add_argument("--empty", type=Path, help="folder of pictures without a subject")
    parser.add_argument("--empty-list", type=Path, help="the stems to take of them, one a line")
    parser.add_argument("--rounds", type=int, default=15, help="for the median of times")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here too")
    options = parser.parse_args()
    if options.reference is None:
        options.reference = str(options.folder.parent / "weights" / "u2netp_fp16.pth")
    if len({options.reference, *options.weights}) <= len(options.weights):
        parser.error("a network is named twice")
    if unknown := set(options.clip) - clips_in(options.folder / "video").keys():
        parser.error(f"no such clip with a truth: {', '.join(sorted(unknown))}")
    if (options.empty is None) != (options.empty_list is None):
        parser.error("--empty and --empty-list go together")
    return options


def main() -> None:
    """Measure and print the tables."""
    options = parsed()
    cv2.setNumThreads(options.threads)
    networks = load(
        [options.reference, *options.weights], threads=options.threads, is_square=options.square
    )
    chosen = slice(0, options.limit_frames, options.every)
    clips = clips_in(options.folder / "video")
    clips = {name: clips[name] for name in options.clip or clips}
    told: dict[str, Any] = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": options.threads,
        "square": options.square,
        "networks": {network.label: str(network.path) for network in networks},
    }
    print(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}")

    sequences: dict[str, dict[str, Scores]] = {network.label: {} for network in networks}
    for name, clip in clips.items():
        frames = decoded(clip, "rgb24", chosen)
        truths = decoded(clip.with_suffix(".gt.mkv"), "gray", chosen)
        for network in networks:
            print(f"{name}: {network.label}", file=sys.stderr)
            sequences[network.label][name] = sequence_scores(network, frames, truths)
    for label, rows in sequences.items():
        print_table(f"{label}, by sequence:", SEQUENCE_COLUMNS, rows)
    told["sequences"] = sequences
    told["sequence means"] = {label: means(rows.values()) for label, rows in sequences.items()}
    print_compared(f"Mean of {len(clips)} sequences:", SEQUENCE_COLUMNS, told["sequence means"])

    masks = sorted((options.folder / "ecssd" / "masks").glob("*.png"))[chosen]
    truths = [grey_picture(path) for path in masks]
    images = options.folder / "ecssd" / "images"
    pictures = [rgb_picture(images / f"{path.stem}.jpg") for path in masks]
    told["images"] = {}
    for network in networks:
        print(f"images: {network.label}", file=sys.stderr)
        told["images"][network.label] = image_scores(network, pictures, truths)
    print_compared(f"ECSSD, {len(pictures)} images:", IMAGE_COLUMNS, told["images"])

    told["costs"] = costs(networks, pictures[0], options.rounds)
    print_compared(f"One picture of {COST_SIDE_PX}x{COST_SIDE_PX}:", COST_COLUMNS, told["costs"])

    if options.empty:
        paths = [options.empty / f"{stem}.webp" for stem in listed(options.empty_list)]
        told["empty scenes"] = {network.label: empty_scores(network, paths) for network in networks}
        empty = {
            label: {"mean alpha": statistics.fmean(row.values())}
            for label, row in told["empty scenes"].items()
        }
        print_compared(f"{len(paths)} scenes without a subject:", EMPTY_COLUMNS, empty)
        for label, row in told["empty scenes"].items():
            worst = sorted(row.items(), key=lambda item: item[1], reverse=True)[:3]
            print(f"\n{label}, worst: " + ", ".join(f"{stem} {mean:.3f}" for stem, mean in worst))

    if options.json:
        options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
