"""Does the main job keep what it promises on real clips? One row a clip.

    python benchmarks/main_job.py FOLDER --weights u2netp.pth [--keep OUTPUT_FOLDER]

For every video in FOLDER: frames in and out, the exact rate, the difference in duration, how far
the sound's start against the picture's has moved, the difference of the sound's end, the peak
memory of the process tree, and frames a second with start-up.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import psutil
from memory import peak_of


@dataclass(frozen=True)
class Stamps:
    """What the packets of a file say. Times in seconds."""

    frames: int
    rate: Fraction | None
    video: tuple[Fraction, Fraction]
    audio: tuple[Fraction, Fraction] | None


def stamps_of(path: Path) -> Stamps:
    """Read when a file's first video and audio stream begin and end, and count its frames."""
    spans: dict[str, tuple[Fraction, Fraction]] = {}
    frames = 0
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        for packet in container.demux():
            kind = packet.stream.type
            first = packet.stream.index == getattr(container.streams, kind)[0].index
            if kind not in ("video", "audio") or not first or packet.pts is None:
                continue
            frames += kind == "video"
            begin = packet.pts * packet.time_base
            end = begin + (packet.duration or 0) * packet.time_base
            low, high = spans.get(kind, (begin, end))
            spans[kind] = min(low, begin), max(high, end)
    return Stamps(frames, rate, spans["video"], spans.get("audio"))


def milliseconds(value: Fraction) -> str:
    """Return a difference in milliseconds."""
    return f"{float(value) * 1000:+.1f}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="keep the results here")
    options = parser.parse_args()
    behind = Path(__file__).parent.parent / "samples" / "stars.mp4"
    print(f"{platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}")
    head = "clip in out rate duration_ms sound_start_ms sound_end_ms peak_MiB fps"
    print("{:<28}{:>5}{:>5}{:>12}{:>12}{:>15}{:>13}{:>9}{:>6}".format(*head.split()))
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        for clip in sorted(options.folder.glob("*.mp4")):
            output = folder / f"{clip.stem}.vidbg.mp4"
            argv = [sys.executable, "-m", "vidbg", str(clip), "--bg", str(behind), "-q", "-y"]
            peak, seconds = peak_of([*argv, "--weights", str(options.weights), "-o", str(output)])
            before, after = stamps_of(clip), stamps_of(output)
            longer = (after.video[1] - after.video[0]) - (before.video[1] - before.video[0])
            start = end = "-"
            if before.audio and after.audio:
                lead = before.audio[0] - before.video[0], after.audio[0] - after.video[0]
                start = milliseconds(lead[1] - lead[0])
                end = milliseconds(
                    (after.audio[1] - after.video[0]) - (before.audio[1] - before.video[0])
                )
            print(
                f"{clip.name:<28}{before.frames:>5}{after.frames:>5}{after.rate!s:>12}"
                f"{milliseconds(longer):>12}{start:>15}{end:>13}{peak:>9.0f}"
                f"{after.frames / seconds:>6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
