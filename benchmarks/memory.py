"""Is memory flat over the length of a clip? Peak of the whole process tree, short against long.

    python benchmarks/memory.py CLIP --weights u2netp.pth

CLIP is scaled to 1920x1080 and looped to the lengths that are compared. "stub" runs the whole
pipeline with a segmenter that costs nothing; "network" the real one on the CPU. The peak is the
largest sum of the resident sets of vidbg and its FFmpeg processes, sampled every 20 ms; pages
that they share are counted once for each, so the true figure is lower.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from vidbg.media import ffmpeg as ff

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
        return 256, 448
    def batch_size(self, height, width):
        return 1
    def __call__(self, rgb):
        return rgb[..., 1].astype(np.float32) / 255

source, behind, output = map(Path, sys.argv[1:4])
run(
    Job(source, encode.Output(output, "composite", "h264"), background=behind),
    segmenter=Stub(),
)
"""


def looped(clip: Path, frames: int, folder: Path) -> Path:
    """Write ``frames`` frames of ``clip``, looped, at 1920x1080."""
    path = folder / f"{frames}.mp4"
    done = ff.run(
        [
            *("-nostdin", "-y", "-stream_loop", "-1", "-i", str(clip), "-an"),
            *("-vf", "scale=1920:1080,setsar=1,fps=30", "-frames:v", str(frames)),
            *("-c:v", "libx264", "-preset", "ultrafast", "-crf", "23", f"file:{path}"),
        ],
        timeout_s=3600,
    )
    if done.returncode:
        sys.exit(done.cause())
    return path


def resident_bytes(members: Iterable[psutil.Process]) -> int:
    """Return the sum of the resident sets of processes, those left out that have ended.

    A child between fork and exec shows its parent's pages as its own: it is known by its
    parent's command line, and left out.
    """
    found: dict[int, tuple[int, list[str], int]] = {}
    for member in members:
        try:
            with member.oneshot():
                facts = member.ppid(), member.cmdline(), member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        found[member.pid] = facts
    return sum(
        resident
        for parent, words, resident in found.values()
        if parent not in found or found[parent][1] != words
    )


def peak_of(argv: list[str]) -> tuple[float, float]:
    """Run a command; return the peak of its tree in MiB and the seconds it took."""
    began = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    root = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        try:
            tree = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        peak = max(peak, resident_bytes(tree))
        time.sleep(0.02)
    _, said = process.communicate()
    if process.returncode:
        sys.exit(said.decode("utf-8", "replace"))
    return peak / 2**20, time.monotonic() - began


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--weights", type=Path, help="checkpoint; without it, only the stub runs")
    parser.add_argument("--stub-frames", type=int, nargs=2, default=(600, 6000))
    parser.add_argument("--network-frames", type=int, nargs=2, default=(100, 400))
    options = parser.parse_args()
    behind = Path(__file__).parent.parent / "samples" / "stars.mp4"
    print(f"{platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'segmenter':<10}{'frames':>8}{'peak MiB':>10}{'fps':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [("stub", options.stub_frames)]
        if options.weights is not None:
            runs.append(("network", options.network_frames))
        for segmenter, lengths in runs:
            peaks = []
            for frames in lengths:
                source, output = looped(options.clip, frames, folder), folder / "out.mp4"
                if segmenter == "stub":
                    argv = [sys.executable, "-c", _STUB_JOB, *map(str, (source, behind, output))]
                else:
                    argv = [sys.executable, "-m", "vidbg", str(source), "--bg", str(behind)]
                    argv += ["--weights", str(options.weights), "-q", "-o", str(output)]
                peak, seconds = peak_of(argv)
                peaks.append(peak)
                print(f"{segmenter:<10}{frames:>8}{peak:>10.0f}{frames / seconds:>8.1f}")
                source.unlink()
                output.unlink()
            print(f"{segmenter:<10}long / short: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
