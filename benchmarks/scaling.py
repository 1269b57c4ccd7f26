"""How do time and memory of the main job grow with the clip, its size, the batch, the threads?

    python benchmarks/scaling.py CLIP [--weights FILE | --model NAME] [--only length cores]

Four series, each with everything else as it is by default:

* length: thousands of frames of a small clip, with a stub in place of the network, so that they
  go through quickly. Memory must not grow with them.
* height: a few frames of one clip at several sizes.
* batch: frames per call of the network.
* cores: the whole process tree held to so many of them, from which vidbg and all libraries choose
  their threads.

CPU time is the kernel's sum over vidbg and its FFmpeg processes; the peak of memory that of
benchmarks/memory.py. Both hold the start of Python and of the network; fps does, too. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from memory import looped, peak_of
from stages import circumstances, headline, job_on

_STUB_JOB = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from vidbg.media import background, encode
from vidbg.job import Job
from vidbg.pipeline import run

class Stub:
    name = "stub"
    def input_size(self, width, height, sar=Fraction(1)):
        return 96, 160
    def batch_size(self, height, width):
        return 1
    def __call__(self, rgb):
        return rgb[..., 1].astype(np.float32) / 255

source, behind, output = map(Path, sys.argv[1:4])
run(
    Job(source, encode.Output(output, "composite", "h264", overwrite=True), background=behind),
    segmenter=Stub(),
)
"""
# Starts a command on the first of the cores that we may use.
_HELD = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
os.execv(sys.argv[2], sys.argv[2:])
"""
_STUB_HEIGHT = 144
_SERIES = ("length", "height", "batch", "cores")
_BEHIND = Path(__file__).parent.parent / "samples" / "stars.mp4"


@dataclass(frozen=True)
class Run:
    """One job.

    Attributes:
        series: What was changed.
        value: What it was changed to.
        frames: Frames of the clip.
        fps: Frames a second, start-up included.
        cpu_ms: CPU milliseconds per frame, start-up included.
        peak_mib: Largest memory of the process tree.
    """

    series: str
    value: int
    frames: int
    fps: float
    cpu_ms: float
    peak_mib: float


def measured(series: str, value: int, frames: int, command: list[str]) -> Run:
    """Run a command once and say what it took."""
    before_s = _of_children()
    peak_mib, seconds = peak_of(command)
    cpu_ms = 1000 * (_of_children() - before_s) / frames
    return Run(series, value, frames, frames / seconds, cpu_ms, peak_mib)


def _of_children() -> float:
    """Return CPU seconds of all children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def runs(options: argparse.Namespace, network: Sequence[str], folder: Path) -> Iterator[Run]:
    """Yield what each job of the chosen series took."""
    output, frames = folder / "out.mp4", options.frames
    if "length" in options.only:
        for length in options.lengths:
            clip = looped(options.clip, length, folder, _STUB_HEIGHT)
            command = [sys.executable, "-c", _STUB_JOB, *map(str, (clip, _BEHIND, output))]
            yield measured("length", length, length, command)
            clip.unlink()
    if "height" in options.only:
        for height in options.heights:
            clip = looped(options.clip, frames, folder, height)
            yield measured("height", height, frames, job_on(clip, output, network))
    if "batch" in options.only:
        clip = looped(options.clip, frames, folder, 720)
        for size in options.batches:
            chosen = [*network, "--batch-size", str(size)]
            yield measured("batch", size, frames, job_on(clip, output, chosen))
    if "cores" in options.only:
        clip = looped(options.clip, frames, folder, 720)
        for count in options.cores:
            held = [sys.executable, "-c", _HELD, str(count), *job_on(clip, output, network)]
            yield measured("cores", count, frames, held)


def markdown(found: Sequence[Run]) -> list[str]:
    """Return a table, a line a job."""
    lines = ["| | | frames | fps | CPU ms/frame | peak MiB |", "|---|---:|---:|---:|---:|---:|"]
    for run in found:
        lines.append(
            f"| {run.series} | {run.value} | {run.frames} | {run.fps:.1f} | {run.cpu_ms:.1f} "
            f"| {run.peak_mib:.0f} |"
        )
    return lines


def growth(found: Sequence[Run]) -> str:
    """Say how much more memory the longest clip took than the shortest."""
    lengths = [run for run in found if run.series == "length"]
    first, last = lengths[0], lengths[-1]
    return (
        f"{last.frames / first.frames:.0f} times the frames, "
        f"{last.peak_mib / first.peak_mib:.3f} times the memory"
    )


def plot(found: Sequence[Run], path: Path) -> None:
    """Draw all series, time above memory."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run.series for run in found))
    figure = Figure(figsize=(3.2 * len(names), 5), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for column, name in enumerate(names):
        series = [run for run in found if run.series == name]
        values = [run.value for run in series]
        for row, figures in enumerate(
            ([run.cpu_ms for run in series], [run.peak_mib for run in series])
        ):
            axes[row, column].plot(values, figures, marker="o")
            axes[row, column].set_ylim(0, 1.15 * max(figures))
        axes[1, column].set_xlabel(name)
    axes[0, 0].set_ylabel("CPU ms per frame")
    axes[1, 0].set_ylabel("peak MiB")
    figure.savefig(path)


def main() -> None:
    """Measure, print the table, write and draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--weights", type=Path)
    network.add_argument("--model")
    parser.add_argument("--only", nargs="+", choices=_SERIES, default=_SERIES)
    parser.add_argument("--lengths", type=int, nargs="+", default=[300, 3000, 12000])
    parser.add_argument("--heights", type=int, nargs="+", default=[360, 720, 1080, 2160])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    allowed = len(os.sched_getaffinity(0))
    powers = [1 << n for n in range(allowed.bit_length()) if 1 << n <= allowed]
    parser.add_argument("--cores", type=int, nargs="+", default=powers)
    parser.add_argument("--frames", type=int, default=48, help="of all series but the lengths")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw them here; needs matplotlib")
    options = parser.parse_args()
    chosen: list[str] = []
    for name in ("weights", "model"):
        if getattr(options, name) is not None:
            chosen += [f"--{name}", str(getattr(options, name))]
    found: list[Run] = []
    with tempfile.TemporaryDirectory() as name:
        for run in runs(options, chosen, Path(name)):
            print(f"{run.series} {run.value}: {run.fps:.1f} fps", file=sys.stderr)
            found.append(run)
    facts = circumstances()
    print(f"{headline(facts)}\n")
    print("\n".join(markdown(found)))
    if "length" in options.only:
        print(f"\n{growth(found)}")
    if options.json is not None:
        told = {"circumstances": facts, "runs": [asdict(run) for run in found]}
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
