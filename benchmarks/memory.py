"""What a command takes of memory, with all the processes that it starts.

The peak is the largest sum of the resident sets of vidbg and its FFmpeg processes, sampled every
20 ms; pages that they share are counted once for each, so the true figure is lower.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from vidbg.media import ffmpeg as ff


def looped(clip: Path, frames: int, folder: Path, height: int = 1080) -> Path:
    """Write ``frames`` frames of ``clip``, looped, 16:9 at a height, 30 a second."""
    path = folder / f"{height}p-{frames}.mp4"
    width = 2 * round(height * 8 / 9)
    done = ff.run(
        [
            *("-nostdin", "-y", "-stream_loop", "-1", "-i", str(clip), "-an"),
            *("-vf", f"scale={width}:{height},setsar=1,fps=30", "-frames:v", str(frames)),
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
