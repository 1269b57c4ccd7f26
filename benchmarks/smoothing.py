"""How much steadier and better are mattes after smoothing, and what does it cost?

    python benchmarks/smoothing.py DATA_EVAL [--weights NAME_OR_FILE] [--strength S]

DATA_EVAL holds video/NAME.mp4 beside video/NAME.gt.mkv (grey truth). The network sees each frame
at the size that the tool would use; mattes are brought to the frame's size bilinearly, without
refinement, so that smoothing is the only difference. Figures of a clip are means over its frames.
CPU-ms are those of smoothing alone, per frame, in one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidbg.evaluation import metrics
from vidbg.frames import FrameBatch, MattedBatch, PlaneFormat
from vidbg.matting.segmenter import load_segmenter
from vidbg.matting.weights import ensure
from vidbg.temporal.smooth import DEFAULT_STRENGTH, smooth
from weights import (
    SEQUENCE_COLUMNS,
    Picture,
    Scores,
    clips_in,
    decoded,
    enlarged,
    fractions,
    mean_of,
    means,
    print_table,
    reduced,
)

COLUMNS = {**SEQUENCE_COLUMNS, "CPU ms": 1}
# Smoothing looks at thumbnails and mattes alone.
_FORMAT = PlaneFormat("gbrp", 8, 0, 0, is_rgb=True)
_NO_PLANE = np.zeros((1, 1, 1), np.uint8)
# The clips on which the settings were chosen.
CHOSEN_ON = ("blackswan", "camel", "dance-twirl", "dog", "libby", "troll")


def scores(
    mattes: list[NDArray[np.float32]], frames: list[Picture], truths: list[Picture]
) -> Scores:
    """Return the figures of one clip."""
    return {
        "J": mean_of(metrics.jaccard, mattes, truths),
        "F": mean_of(metrics.boundary_f, mattes, truths),
        "MAD": 1000 * mean_of(metrics.mad, mattes, truths),
        "MSE": 1000 * mean_of(metrics.mse, mattes, truths),
        "dtSSD": metrics.dtssd(enlarged(mattes, truths), fractions(truths)),
        "warp": metrics.warp_error(enlarged(mattes, truths), frames),
    }


def smoothed(
    thumbnails: list[Picture], mattes: list[NDArray[np.float32]], strength: float
) -> tuple[list[NDArray[np.float32]], float]:
    """Return the mattes after smoothing, and the CPU-ms for each."""

    def batches() -> Iterator[MattedBatch]:
        for n, (rgb, matte) in enumerate(zip(thumbnails, mattes, strict=True)):
            frames = FrameBatch((_NO_PLANE,) * 3, _FORMAT, n)
            yield MattedBatch(frames, rgb[None], matte[None])

    began = time.process_time()
    steady = [batch.matte[0] for batch in smooth(batches(), strength)]
    return steady, 1000 * (time.process_time() - began) / len(steady)


def print_verdict(rows: dict[str, tuple[Scores, Scores]]) -> None:
    """Print what is to be shown of a group of clips: ratios of means, and J clip by clip."""
    before, after = (means(pair[n] for pair in rows.values()) for n in range(2))
    ratios = (
        f"{name} {100 * after[name] / before[name]:.1f} %" for name in ("warp", "dtSSD", "MSE")
    )
    gains = [100 * (pair[1]["J"] - pair[0]["J"]) for pair in rows.values()]
    print(
        f"{len(rows)} clips, of the baseline: {', '.join(ratios)}; "
        f"J {statistics.fmean(gains):+.2f} points, F {100 * (after['F'] - before['F']):+.2f}; "
        f"J better on {sum(gain > 0 for gain in gains)}, worst {min(gains):+.2f}"
    )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DATA_EVAL")
    parser.add_argument("--weights", metavar="NAME_OR_FILE")
    parser.add_argument("--strength", type=float, default=DEFAULT_STRENGTH)
    parser.add_argument("--clip", action="append", default=[], help="only this one; repeatable")
    parser.add_argument("--threads", type=int, default=2, help="for the network")
    parser.add_argument("--json", type=Path, help="write all figures here too")
    options = parser.parse_args()
    chosen = options.weights or str(options.folder.parent / "weights" / "u2netp_fp16.pth")
    path = Path(chosen) if Path(chosen).is_file() else ensure(chosen)
    segmenter = load_segmenter(weights=path, device="cpu", threads=options.threads)
    cv2.setNumThreads(1)

    clips = clips_in(options.folder / "video")
    if unknown := set(options.clip) - clips.keys():
        parser.error(f"no such clip with a truth: {', '.join(sorted(unknown))}")
    rows: dict[str, tuple[Scores, Scores]] = {}
    for name in options.clip or clips:
        print(name, file=sys.stderr)
        frames = decoded(clips[name], "rgb24", slice(None))
        truths = decoded(clips[name].with_suffix(".gt.mkv"), "gray", slice(None))
        height, width = segmenter.input_size(frames[0].shape[1], frames[0].shape[0])
        thumbnails = [reduced(frame, width, height) for frame in frames]
        mattes = [segmenter(rgb[None])[0] for rgb in thumbnails]
        steady, cpu_ms = smoothed(thumbnails, mattes, options.strength)
        rows[name] = (
            {**scores(mattes, frames, truths), "CPU ms": 0.0},
            {**scores(steady, frames, truths), "CPU ms": cpu_ms},
        )
    table: dict[str, Scores] = {}
    for name, pair in rows.items():
        table |= {name: pair[0], f"{name}, smoothed": pair[1]}
    for n, label in enumerate(("mean", "mean, smoothed")):
        table[label] = means(pair[n] for pair in rows.values())
    print_table(f"{path.stem}, strength {options.strength}:", COLUMNS, table)
    print()
    print_verdict(rows)
    groups = [{k: v for k, v in rows.items() if (k in CHOSEN_ON) is told} for told in (True, False)]
    for label, group in zip(("settings chosen on these", "the others"), groups, strict=True):
        if group:
            print(f"{label}: ", end="")
            print_verdict(group)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
