"""Does a process grow that makes clip after clip through the library?

A child of the soak for as long as it lasts: it does one job for each line on its standard input,
and answers with a line of JSON that says what it holds then. The jobs come in turn, failures and
interruptions among them, since what is lost on the way out is lost there most of all.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from soak_checks import parts_in
from soak_kinds import BRIEF, make_clip

_ANSWER_S = 300.0
# Rounds of all jobs until lazily made pools and caches are there.
_WARM_ROUNDS = 2
# The allocator keeps pages that were free for a while; more than this is growth.
_SLACK_BYTES = 24 << 20


@dataclass(frozen=True)
class Held:
    """What the process holds after a job.

    Attributes:
        job: Which of the jobs.
        resident: Bytes of its resident set.
        files: Open file descriptors.
        threads: Threads, those of libraries too.
        left: Names of part files and of threads of ours that are still there.
    """

    job: str
    resident: int
    files: int
    threads: int
    left: tuple[str, ...] = ()


def jobs_in(folder: Path) -> dict[str, Callable[[], None]]:
    """Return the jobs, by name; each ends as it has to, or raises.

    Args:
        folder: Where the clips are, and where the results go and are replaced.
    """
    import vidbg
    from vidbg.media.encode import Output

    brief = make_clip("brief.mp4", folder)
    torn = folder / "torn.mp4"
    torn.write_bytes(brief.read_bytes()[: brief.stat().st_size // 2])
    out = folder / "out.mp4"

    def keyed() -> None:
        made = vidbg.replace_background(brief, "red", out, model="chroma", overwrite=True)
        if made.frames != BRIEF:
            raise RuntimeError(f"{made.frames} frames, not {BRIEF}")

    def looked_at() -> None:
        vidbg.extract_matte(brief, folder / "out.mkv", every=8, overwrite=True)

    def refused() -> None:
        try:
            vidbg.replace_background(torn, "red", out, model="chroma", overwrite=True)
        except vidbg.VidbgError:
            return
        raise RuntimeError("a torn clip was taken")

    def interrupted() -> None:
        def stop(progress: vidbg.Progress) -> None:
            raise KeyboardInterrupt

        output = Output(folder / "out.mov", "alpha", "prores", overwrite=True)
        try:
            vidbg.run(vidbg.Job(brief, output, model="chroma", resume=True), on_progress=stop)
        except KeyboardInterrupt:
            return
        raise RuntimeError("it was not interrupted")

    return {
        "composite": keyed,
        "matte by the network": looked_at,
        "torn clip": refused,
        "interrupted": interrupted,
    }


def held(job: str, folder: Path) -> Held:
    """Return what this process holds now."""
    gc.collect()
    me = psutil.Process()
    threads = [thread.name for thread in threading.enumerate()]
    ours = [f"thread {name}" for name in threads if name.startswith("vidbg-")]
    return Held(
        job,
        me.memory_info().rss,
        me.num_fds() if hasattr(me, "num_fds") else 0,
        me.num_threads(),
        (*ours, *parts_in(folder)),
    )


def main() -> None:
    """Do jobs in the folder that the first argument names, one a line, until there are no more."""
    folder = Path(sys.argv[1])
    jobs = jobs_in(folder)
    for number, _ in enumerate(sys.stdin):
        name = list(jobs)[number % len(jobs)]
        jobs[name]()
        sys.stdout.write(json.dumps(vars(held(name, folder))) + "\n")
        sys.stdout.flush()


class Steady:
    """That process, as the soak sees it. A context manager, which ends it.

    Attributes:
        held: What it held after each job.
        failure: Why there are no more of them, or None.

    Args:
        folder: An empty folder for it.
    """

    def __init__(self, folder: Path) -> None:
        self.held: list[Held] = []
        self.failure: str | None = None
        folder.mkdir()
        self._said = folder.with_name(f"{folder.name}.said.txt")
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def once_more(self) -> None:
        """Have it do its next job, and note what it holds then. A failure is noted too."""
        if self.failure is not None or not (self._process.stdin and self._process.stdout):
            return
        too_late = threading.Timer(_ANSWER_S, self._process.kill)
        too_late.start()
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            fields = json.loads(answer)
            self.held.append(Held(**{**fields, "left": tuple(fields["left"])}))
        except (OSError, ValueError):
            words = self._said.read_text(errors="replace").splitlines()
            self.failure = words[-1] if words else "it ended without a word"
        finally:
            too_late.cancel()

    def __enter__(self) -> Steady:
        return self

    def __exit__(self, *ended_by: object) -> None:
        self._process.kill()
        self._process.communicate()


def growth(runs: list[Held]) -> list[str]:
    """Return what a process has more of after many jobs than after a few.

    Args:
        runs: After each job, in their order. What comes before everything is warm does not count;
            if no more than that is there, nothing can be said.
    """
    left = [f"after job {n} ({run.job}): {', '.join(run.left)}" for n, run in enumerate(runs)
            if run.left]  # fmt: skip
    warm = runs[_WARM_ROUNDS * len({run.job for run in runs}) :]
    third = len(warm) // 3
    if not third:
        return left
    early, late = warm[:third], warm[-third:]
    for name in ("files", "threads"):
        before, after = (max(getattr(run, name) for run in part) for part in (early, late))
        if after > before:
            left.append(f"{after} {name}, {before} at first")
    before, after = (median(run.resident for run in part) for part in (early, late))
    if after > before + _SLACK_BYTES:
        left.append(f"{after / 2**20:.0f} MiB, {before / 2**20:.0f} MiB at first")
    return left


if __name__ == "__main__":
    main()
