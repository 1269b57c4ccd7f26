"""What does each stage of the main job cost, at which size of frame?

    python benchmarks/stages.py CLIP [--weights FILE | --model NAME] [--sizes 720 1080 2160]

CLIP is scaled to each size and put before samples/stars.mp4 by the command as users run it, with
--profile: H.264 in, H.264 out. The figures are CPU milliseconds per frame, of vidbg's own threads
and of FFmpeg's processes together, in the median of several runs. Libraries get one thread each,
so that all their work is done, and counted, in the stage that asked for it; with more (--threads)
a part of it is in the row "libraries", and the frame rates are those of a run as it usually is.
"probe" and "start-up" come once in a job, and are in milliseconds per job.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from memory import looped

from vidbg.profile import STAGES

_PER_JOB = ("probe", "start-up")
# 4K takes half a second a frame.
_FRAMES = {720: 96, 1080: 60, 2160: 24}
_ROOT = Path(__file__).parent.parent

Measured = dict[str, Any]


def circumstances() -> dict[str, str]:
    """Return what a measurement depends on besides what is measured."""
    processor = platform.processor() or platform.machine()
    told = Path("/proc/cpuinfo")
    if told.exists():
        names = [line for line in told.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        check=False,
    )
    return {
        "processor": processor,
        "cores": str(len(psutil.Process().cpu_affinity()) if psutil.LINUX else psutil.cpu_count()),
        "system": platform.system(),
        "python": platform.python_version(),
        "commit": shown.stdout.strip() or "unknown",
        "date": time.strftime("%Y-%m-%d"),
    }


def headline(facts: dict[str, str]) -> str:
    """Return the circumstances as a line."""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['system']}, "
        f"Python {facts['python']}, commit {facts['commit']}, {facts['date']}"
    )


def environment_with(threads: int | None) -> dict[str, str]:
    """Return an environment in which each library has so many threads; None for its choice."""
    if threads is None:
        return dict(os.environ)
    names = ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "MKL_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads))


def job_on(clip: Path, output: Path, network: Sequence[str]) -> list[str]:
    """Return the command that is measured."""
    behind = _ROOT / "samples" / "stars.mp4"
    named = ["--bg", str(behind), *network, "-o", str(output), "-y"]
    return [sys.executable, "-m", "vidbg", str(clip), *named]


def profile_of(command: list[str], environment: dict[str, str]) -> Measured:
    """Run a command and return the profile that it tells of itself."""
    done = subprocess.run(
        [*command, "--profile", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    told: Measured = json.loads(done.stdout.splitlines()[-1])["profile"]
    return told


def medians(profiles: Sequence[Measured]) -> dict[str, float]:
    """Return CPU milliseconds by stage in the median of runs, and "fps".

    Args:
        profiles: Of runs of the same job.
    """
    frames = profiles[0]["frames"]
    runs = []
    for profile in profiles:
        run = {
            spent["stage"]: (spent["cpu_ms"] + (spent["ffmpeg_cpu_ms"] or 0))
            * (frames if spent["stage"] in _PER_JOB else 1)
            for spent in profile["stages"]
        }
        once = {spent["stage"]: spent for spent in profile["stages"]}
        before_s = sum(once[name]["ms"] for name in _PER_JOB if name in once) * frames / 1000
        run["libraries"] = profile["library_cpu_ms"]
        run["all"] = sum(ms for name, ms in run.items() if name not in _PER_JOB)
        run["fps"] = frames / (profile["seconds"] - before_s)
        runs.append(run)
    return {name: statistics.median(run.get(name, 0.0) for run in runs) for name in runs[0]}


def markdown(columns: dict[str, dict[str, float]]) -> list[str]:
    """Return a table, a line a stage.

    Args:
        columns: Figures by the size's name.
    """
    rows = [*STAGES, "libraries", "all", "fps"]
    units = dict.fromkeys(_PER_JOB, ", per job")
    lines = [
        f"| CPU ms per frame | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for row in rows:
        if any(row in column for column in columns.values()):
            figures = " | ".join(f"{column.get(row, 0.0):.2f}" for column in columns.values())
            lines.append(f"| {row}{units.get(row, '')} | {figures} |")
    return lines


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--weights", type=Path)
    network.add_argument("--model")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(_FRAMES), metavar="HEIGHT")
    parser.add_argument("--frames", type=int, help="default: fewer of larger frames")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of libraries; 0 for their choice")
    parser.add_argument("--option", action="append", default=[], help="for vidbg: --option=--alpha")
    parser.add_argument("--json", type=Path, help="write all profiles here")
    options = parser.parse_args()
    chosen = list(options.option)
    for name in ("weights", "model"):
        if getattr(options, name) is not None:
            chosen += [f"--{name}", str(getattr(options, name))]
    facts = circumstances()
    environment = environment_with(options.threads or None)
    profiles: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for height in options.sizes:
            frames = options.frames or _FRAMES.get(height, 48)
            command = job_on(looped(options.clip, frames, folder, height), folder / "o.mp4", chosen)
            profiles[f"{height}p"] = [
                profile_of(command, environment) for _ in range(options.repeats)
            ]
    columns = {size: medians(runs) for size, runs in profiles.items()}
    print(f"{headline(facts)}; {options.repeats} runs, {options.threads or 'any'} threads\n")
    print("\n".join(markdown(columns)))
    if options.json is not None:
        told = {"circumstances": facts, "medians": columns, "profiles": profiles}
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
