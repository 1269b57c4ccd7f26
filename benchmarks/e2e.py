"""How fast is the whole command, against other tools? Same clip, weights and cores, in one run.

    python benchmarks/e2e.py CLIP --weights u2netp.pth --onnx u2netp.onnx [--height 1080]

Runs `vidbg CLIP --bg BACKGROUND` with U-2-Net-p and with the network that comes with it, and its
peers, each with U-2-Net-p: backgroundremover (a video over a video, to ProRes 4444, as its own
settings are), rembg (raw frames from FFmpeg in, numbered PNG files out: nothing is composed or
encoded), and the loop of the tutorials (naive.py). Packages are installed first, each in a virtual
environment of its own; one that cannot be has a row that says so. CLIP is scaled, repeated to
--frames and stored as H.264 before anything is measured; the background has the clip's size, rate
and length then, since backgroundremover makes its result as large, as fast and as long as that.

Every round runs every tool once on the whole clip and once on its first --short frames, and every
second round in the opposite order. A tool's figures for a round are:

    fps          frames of the whole clip / seconds, from the start of its process to its end
    CPU ms       CPU milliseconds a frame: user and system time of all its processes (costs.py)
    steady       the same without start-up. Seconds are taken as start + frames * each, so that
                 each = (s(whole) - s(short)) / (frames(whole) - frames(short)), fps = 1 / each;
                 CPU time likewise
    start-up     s(short) - frames(short) * each: all that does not grow with frames, the end too
    peak         MiB, largest sum of the resident sets of all its processes, ten times a second

Ratios are taken within a round, then their median; above 1 vidbg is better. Slow peers may have a
shorter clip, the first --peer-frames of the same: their fps are per frame of what they had, and
since start-up is then spread over fewer frames, compare what is steady. "out" is how many frames
the result has, counted in the file. The JSON file, written after every round, has each run's
figures too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shlex
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import av
import peers
import platformdirs
from costs import Cost, measured
from main_job import stamps_of
from peers import Clip, NotAvailableError, Tool
from quality import commit

from vidbg import machine
from vidbg.errors import VidbgError
from vidbg.media import ffmpeg as ff
from vidbg.media.probe import probe

OURS = ("vidbg (u2netp)", "vidbg (own)")
PEERS = ("backgroundremover", "rembg", "naive")
STARS = Path(__file__).resolve().parent.parent / "samples" / "stars.mp4"
_MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One run of a tool.

    Attributes:
        round: Of which round, from 0.
        frames: How many the clip had.
        frames_out: How many the result has.
        cost: What it took.
    """

    round: int
    frames: int
    frames_out: int
    cost: Cost


@dataclass(frozen=True)
class Figures:
    """What is said of a tool in one round; None where noise is larger than what is measured.

    Attributes:
        fps: Frames a second, with start-up.
        cpu_ms: CPU milliseconds a frame, with start-up.
        steady_fps: Frames a second, without start-up.
        steady_cpu_ms: CPU milliseconds a frame, without start-up.
        startup_s: Seconds that do not grow with frames.
        peak_mib: Peak of memory, in MiB.
    """

    fps: float
    cpu_ms: float
    steady_fps: float | None
    steady_cpu_ms: float | None
    startup_s: float | None
    peak_mib: float


# Heading, decimals, and whether more of it is better (None where that is not compared).
COLUMNS: dict[str, tuple[str, int, bool | None]] = {
    "fps": ("fps", 2, True),
    "steady_fps": ("fps, steady", 2, True),
    "cpu_ms": ("CPU ms", 0, False),
    "steady_cpu_ms": ("CPU ms, steady", 0, False),
    "startup_s": ("start-up s", 1, None),
    "peak_mib": ("peak MiB", 0, False),
}


def separated(
    whole: tuple[int, float], short: tuple[int, float]
) -> tuple[float, float] | tuple[None, None]:
    """Return what a run takes at its start and for each frame, of two runs.

    Args:
        whole: How many frames a run had, and what it took.
        short: The same of a run with fewer.

    Returns:
        (start, each), or two None if the longer run took no more.

    Raises:
        ValueError: The second did not have fewer frames.
    """
    if whole[0] <= short[0]:
        raise ValueError(f"{short[0]} frames are not fewer than {whole[0]}")
    each = (whole[1] - short[1]) / (whole[0] - short[0])
    if each <= 0:
        return None, None
    return short[1] - short[0] * each, each


def figures_of(whole: Run, short: Run) -> Figures:
    """Return what is said of a tool, of its two runs in a round."""
    cost = whole.cost
    startup_s, each_s = separated((whole.frames, cost.seconds), (short.frames, short.cost.seconds))
    _, each_cpu_s = separated((whole.frames, cost.cpu_s), (short.frames, short.cost.cpu_s))
    return Figures(
        fps=whole.frames / cost.seconds,
        cpu_ms=1000 * cost.cpu_s / whole.frames,
        steady_fps=None if each_s is None else 1 / each_s,
        steady_cpu_ms=None if each_cpu_s is None else 1000 * each_cpu_s,
        startup_s=startup_s,
        peak_mib=max(cost.peak_bytes, short.cost.peak_bytes) / _MIB,
    )


def ratio(ours: Figures, theirs: Figures, name: str) -> float | None:
    """Return how much better ours are in a figure: above 1 they are."""
    one, other = getattr(ours, name), getattr(theirs, name)
    if one is None or other is None:
        return None
    return float(one / other if COLUMNS[name][2] else other / one)


def ratios(ours: Sequence[Figures], theirs: Sequence[Figures]) -> dict[str, list[float]]:
    """Return the ratio of each round that both have finished, for each figure that is compared."""
    found = {}
    for name, (_, _, is_more_better) in COLUMNS.items():
        if is_more_better is not None:
            pairs = zip(ours, theirs, strict=False)
            values = (ratio(one, other, name) for one, other in pairs)
            found[name] = [value for value in values if value is not None]
    return found


def spread(values: Iterable[float | None], decimals: int) -> str:
    """Return a median with the range around it, as text; a dash of nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    shown = f"{statistics.median(known):.{decimals}f}"
    if len(known) > 1:
        shown += f" ({min(known):.{decimals}f}-{max(known):.{decimals}f})"
    return shown


class Comparison:
    """What has been measured so far.

    Args:
        names: Tools in the order of tables.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.whole: dict[str, list[Run]] = {name: [] for name in names}
        self.short: dict[str, list[Run]] = {name: [] for name in names}
        self.notes: dict[str, str] = {}

    def figures(self) -> dict[str, list[Figures]]:
        """Return each tool's figures, one for each round that it has finished."""
        return {
            name: [
                figures_of(whole, short)
                for whole, short in zip(runs, self.short[name], strict=False)
            ]
            for name, runs in self.whole.items()
        }

    def all_ratios(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Return the ratios of each of ours to each peer."""
        known = {name: rows for name, rows in self.figures().items() if rows}
        return {
            ours: {peer: ratios(known[ours], known[peer]) for peer in PEERS if peer in known}
            for ours in OURS
            if ours in known
        }

    def table(self) -> list[str]:
        """Return all tools as a table in Markdown."""
        headings = [heading for heading, _, _ in COLUMNS.values()]
        lines = [
            f"| | frames | out | {' | '.join(headings)} | |",
            f"|---|{'---|' * (len(headings) + 3)}",
        ]
        for name, rows in self.figures().items():
            cells = ["-", "-"]
            if self.whole[name]:
                out = sorted({run.frames_out for run in self.whole[name]})
                cells = [str(self.whole[name][0].frames), ", ".join(map(str, out))]
            for figure, (_, decimals, _) in COLUMNS.items():
                cells.append(spread((getattr(row, figure) for row in rows), decimals))
            lines.append(f"| {name} | {' | '.join(cells)} | {self.note(name)} |")
        return lines

    def note(self, name: str) -> str:
        """Return what there is to say of a tool besides."""
        left = max((run.cost.left for run in self.whole[name] + self.short[name]), default=0)
        notes = [self.notes[name]] if name in self.notes else []
        notes += [f"leaves {left} processes running"] if left else []
        return "; ".join(notes).replace("|", "/")

    def ratio_table(self) -> list[str]:
        """Return how often better ours are than each peer, as a table in Markdown."""
        compared = [name for name, column in COLUMNS.items() if column[2] is not None]
        headings = " | ".join(COLUMNS[name][0] for name in compared)
        lines = [f"| | {headings} |", f"|---|{'---|' * len(compared)}"]
        for ours, by_peer in self.all_ratios().items():
            for peer, found in by_peer.items():
                cells = " | ".join(spread(found[name], 2) for name in compared)
                lines.append(f"| {ours} : {peer} | {cells} |")
        return lines

    def told(self) -> dict[str, Any]:
        """Return everything as it is written to JSON."""
        return {
            "tools": {
                name: {
                    "note": self.note(name),
                    "whole": [dataclasses.asdict(run) for run in self.whole[name]],
                    "short": [dataclasses.asdict(run) for run in self.short[name]],
                    "figures": [dataclasses.asdict(row) for row in rows],
                }
                for name, rows in self.figures().items()
            },
            "ratios": self.all_ratios(),
        }


def draw(figures: Mapping[str, Sequence[Figures]], path: Path) -> bool:
    """Draw bars of medians, with ranges; return whether matplotlib is there to do so."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    shown = {name: rows for name, rows in figures.items() if rows}
    figure = Figure(figsize=(10, 1.5 + 1.5 * len(shown)), layout="constrained")
    panels = ("steady_fps", "steady_cpu_ms", "peak_mib")
    axes = figure.subplots(len(panels), 1)
    names = list(shown)[::-1]
    colours = ["tab:blue" if name in OURS else "tab:grey" for name in names]
    for axis, panel in zip(axes, panels, strict=True):
        known = {
            name: [v for v in (getattr(row, panel) for row in shown[name]) if v is not None]
            for name in names
        }
        middles = [statistics.median(known[name]) if known[name] else 0.0 for name in names]
        below = [m - min(known[n], default=m) for n, m in zip(names, middles, strict=True)]
        above = [max(known[n], default=m) - m for n, m in zip(names, middles, strict=True)]
        bars = axis.barh(names, middles, xerr=(below, above), color=colours)
        texts = (spread(known[name], COLUMNS[panel][1]) for name in names)
        axis.bar_label(bars, list(texts), padding=4)
        axis.set_xlabel(COLUMNS[panel][0])
        axis.margins(x=0.1)
    figure.savefig(path, dpi=100)
    return True


def prepared(source: Path, behind: Path, frames: int, height: int | None, folder: Path) -> Clip:
    """Store so many frames of a clip, repeated if need be, and a background to match."""
    info = probe(source)
    rows = height or info.height
    # Even numbers, which 4:2:0 needs.
    columns = 2 * round(info.width * info.sar * rows / info.height / 2)
    rows = 2 * round(rows / 2)
    rate = info.frame_rate
    path, background = folder / f"clip{frames}.mp4", folder / f"background{frames}.mp4"
    covered = f"scale={columns}:{rows}:force_original_aspect_ratio=increase"
    filters = {
        path: f"scale={columns}:{rows},setsar=1,fps={rate}",
        background: f"{covered},crop={columns}:{rows},setsar=1,fps={rate}",
    }
    sounds = {
        path: ["-map", "0:a:0?", "-c:a", "aac", "-t", f"{float(frames / rate):.6f}"],
        background: ["-an"],
    }
    for written, looped in ((path, source), (background, behind)):
        done = ff.run(
            [
                *("-nostdin", "-y", "-stream_loop", "-1", "-i", f"file:{looped}", "-map", "0:v:0"),
                *("-vf", filters[written], "-frames:v", str(frames), "-pix_fmt", "yuv420p"),
                *("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", *sounds[written]),
                f"file:{written}",
            ],
            timeout_s=3600,
        )
        if done.returncode:
            sys.exit(f"e2e: {looped}: {done.cause()}")
        if (count := stamps_of(written).frames) != frames:
            sys.exit(f"e2e: {looped} became {count} frames in place of {frames}")
    return Clip(path, background, frames, columns, rows, rate)


def frames_in(output: Path) -> int:
    """Return how many frames a result has: pictures of a folder, or what a file holds."""
    if output.is_dir():
        return len(list(output.glob("*.png")))
    try:
        return stamps_of(output).frames
    except (av.FFmpegError, KeyError, IndexError, OSError):
        return 0


def run(tool: Tool, clip: Clip, number: int, options: argparse.Namespace) -> Run:
    """Run a tool on a clip."""
    with tempfile.TemporaryDirectory(prefix="e2e-") as name:
        folder = Path(name)
        if options.keep is not None:
            folder = options.keep / f"{tool.name}-{clip.frames}-{number}"
            folder.mkdir(parents=True)
        results = folder / "results"
        results.mkdir()
        output = results / tool.output if tool.output else results
        environment = {**tool.environment, "TMPDIR": str(folder)}
        commands = tool.commands(clip, output)
        cost = measured(commands, folder=folder, timeout_s=options.timeout, environment=environment)
        return Run(number, clip.frames, frames_in(output), cost)


def chosen_tools(options: argparse.Namespace) -> tuple[dict[str, Tool], dict[str, str]]:
    """Return the tools that can be run, and why others cannot."""
    makers = {
        "backgroundremover": lambda: peers.backgroundremover(
            options.peers_folder, options.weights, shlex.split(options.backgroundremover_args)
        ),
        "rembg": lambda: peers.rembg(options.peers_folder, options.onnx),
        "naive": lambda: peers.naive(options.weights),
    }
    more = shlex.split(options.vidbg_args)
    tools = {
        name: peers.vidbg(name, weights, more)
        for name, weights in zip(OURS, (options.weights, None), strict=True)
    }
    reasons = {}
    for name in options.peers:
        try:
            tools[name] = makers[name]()
        except NotAvailableError as error:
            reasons[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr)
    return tools, reasons


def compare(
    tools: Mapping[str, Tool],
    clips: Mapping[int, Clip],
    found: Comparison,
    number: int,
    options: argparse.Namespace,
) -> None:
    """Run every tool that has not failed, once on its clip and once on the short one."""
    names = [name for name in tools if name not in found.notes]
    for name in names if number % 2 == 0 else names[::-1]:
        frames = options.frames if tools[name].is_vidbg else options.peer_frames
        both = []
        for clip in (clips[frames], clips[options.short]):
            print(f"round {number + 1}: {name}, {clip.frames} frames", file=sys.stderr, flush=True)
            done = run(tools[name], clip, number, options)
            if done.cost.failure or not done.frames_out:
                reason = done.cost.failure or "wrote nothing that can be read"
                found.notes[name] = f"failed in round {number + 1}: {reason}"
                print(f"{name}: {reason}", file=sys.stderr)
                break
            both.append(done)
        else:
            found.whole[name].append(both[0])
            found.short[name].append(both[1])


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint of U-2-Net-p")
    parser.add_argument("--onnx", type=Path, help="the same for rembg")
    parser.add_argument("--background", type=Path, default=STARS, help="a video")
    parser.add_argument("--height", type=int, help="scale the clip to so many rows")
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--peer-frames", type=int, help="default: the same")
    parser.add_argument("--short", type=int, default=24, help="frames of the runs for start-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=PEERS, help="default: all of them"
    )
    parser.add_argument("--vidbg-args", default="", help='more for vidbg: ="--edges off"')
    parser.add_argument(
        "--backgroundremover-args", default="", help='more for it: ="--alpha-codec libx264"'
    )
    parser.add_argument("--cores", type=int, help="run everything on so many cores (Linux)")
    parser.add_argument(
        "--timeout", type=float, default=3600, help="seconds after which a run is given up"
    )
    parser.add_argument(
        "--peers-folder",
        type=Path,
        default=platformdirs.user_cache_path("vidbg", appauthor=False) / "peers",
        help="where peers are installed; default: %(default)s",
    )
    parser.add_argument("--keep", type=Path, help="keep results and messages in this new folder")
    parser.add_argument("--json", type=Path, default=Path("e2e.json"), help="default: %(default)s")
    parser.add_argument("--plot", type=Path, default=Path("e2e.png"), help="default: %(default)s")
    options = parser.parse_args()
    options.peer_frames = options.peer_frames or options.frames
    if not 0 < options.short < min(options.frames, options.peer_frames):
        parser.error("--short has to be less than --frames and --peer-frames")
    # Everything runs in folders of its own.
    for name in ("weights", "onnx", "peers_folder", "keep"):
        path = getattr(options, name)
        setattr(options, name, None if path is None else path.resolve())
    if options.keep is not None and options.keep.exists():
        parser.error(f"{options.keep} is there already: results would be mixed")
    for path in (options.clip, options.background, options.weights, options.onnx):
        if path is not None and not path.is_file():
            parser.error(f"there is no file {path}")
    return options


def pin(cores: int) -> None:
    """Let this process, and all that it starts, run on so many cores only."""
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("e2e: --cores needs Linux")
    allowed = sorted(os.sched_getaffinity(0))
    if cores > len(allowed):
        sys.exit(f"e2e: there are only {len(allowed)} cores")
    os.sched_setaffinity(0, allowed[:cores])


def write_json(found: Comparison, head: str, options: argparse.Namespace) -> None:
    """Write all that has been measured, with the settings."""
    settings = {name: str(value) for name, value in vars(options).items()}
    told = {"measured": head, "options": settings, **found.told()}
    options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


def interrupted(_signal: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does, so that what runs is ended too."""
    raise KeyboardInterrupt


def main() -> None:
    """Measure and print the tables."""
    options = parsed()
    if not hasattr(os, "wait4"):
        sys.exit("e2e: CPU time of processes is not to be had on this system")
    signal.signal(signal.SIGTERM, interrupted)
    if options.cores is not None:
        pin(options.cores)
    load = f"{os.getloadavg()[0]:.2f}"
    tools, reasons = chosen_tools(options)
    found = Comparison([*OURS, *options.peers])
    found.notes.update(reasons)
    with tempfile.TemporaryDirectory(prefix="e2e-") as name:
        clips = {
            frames: prepared(options.clip, options.background, frames, options.height, Path(name))
            for frames in {options.frames, options.peer_frames, options.short}
        }
        clip = clips[options.frames]
        head = (
            f"{commit()}, {platform.machine()}, {machine.cores()} cores, "
            f"Python {platform.python_version()}, load {load} before; "
            f"{options.clip.name} at {clip.width}x{clip.height}, {float(clip.rate):g} fps; "
            f"{', '.join(package.requirement for package in peers.PACKAGES.values())}"
        )
        try:
            for number in range(options.rounds):
                compare(tools, clips, found, number, options)
                write_json(found, head, options)
            is_whole = True
        except KeyboardInterrupt:
            print("interrupted: what there is so far", file=sys.stderr)
            write_json(found, head, options)
            is_whole = False
    print("\n".join([head, "", *found.table(), "", *found.ratio_table()]))
    if not draw(found.figures(), options.plot):
        print("no plot: matplotlib is not installed (vidbg[train])", file=sys.stderr)
    if not is_whole:
        sys.exit(130)


if __name__ == "__main__":
    try:
        main()
    except VidbgError as error:
        sys.exit(f"e2e: {error}")
