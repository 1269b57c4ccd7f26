"""Does vidbg come through anything that happens to it, for as long as you like?

    python benchmarks/soak.py --minutes 30 [--seed N] [--folder F] [--json out.json] [--mutants 500]

Mixed jobs, chosen by chance, of clips that it makes itself and of the samples: single clips,
folders with --jobs, a folder that is watched, one and several outputs. To each happens what
happens to jobs: SIGKILL mostly, a power cut that leaves files shorter than they were, signals that
ask it to end, a pause, a killed FFmpeg, a full disk; and each is begun again until it is done.
What it made is compared frame by frame with what the same command makes that is left alone, which
in turn has to be what was known of it before: so many frames, each the right one of the clip by
the number in it, the exact rate, all of the sound. Nothing else may lie about in the end, no
process may outlive its run for long, and clips stay as they were. Beside it one process makes clip
after clip through the library, and may not grow. With --mutants so many broken clips go through
the command as well (benchmarks/mutants.py).

A table at the end; what failed is told with the command that does that job again. The exit code
is 1 if anything failed. Linux, and with less of the above other systems.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import av
from soak_checks import (
    Facts,
    differences,
    facts_of,
    fingerprints,
    parts_in,
    strangers,
    unlike_expected,
)
from soak_kinds import CLIPS, KINDS, Kind, make_clip
from soak_runs import HAPPENINGS, Ended, Peaks, cut_off, run
from soak_steady import Steady, growth

from vidbg import ledger
from vidbg.media.segments import is_work_folder, parse_journal, work_folder

_MOST_HAPPENINGS = 4
_TELL_EVERY_S = 60.0
_STEADY_EVERY = 2
# Of what the reference took; a machine may be busy.
_PATIENCE = 10
_LEAST_S = 120.0
# What a run takes that has nothing left to do but to join.
_SHORTEST_S = 1.5
# How often it happens when results are joined and named, which is over in a moment.
_LATE_SHARE = 0.3
_SMALLEST_FILE = 8192
# Folders of jobs that failed, for a look at them.
_MOST_KEPT = 3
# Between the halves of clips that arrive in a watched folder.
_ARRIVAL_S = 0.4


@dataclass(frozen=True)
class Reference:
    """What a kind of job makes that is left alone.

    Attributes:
        facts: By the results' names.
        seconds: What it took.
        largest: Bytes of its largest file.
    """

    facts: dict[str, Facts]
    seconds: float
    largest: int


@dataclass
class Tally:
    """What was done of one kind of job."""

    jobs: int = 0
    runs: int = 0
    frames: int = 0
    failures: int = 0
    seconds: float = 0.0
    happened: Counter[str] = field(default_factory=Counter)


class Soak:
    """The state of one soak.

    Attributes:
        tallies: By the names of kinds.
        failures: What went wrong: of which job, what, and how to see it again.
        peaks: The most that any run took.

    Args:
        folder: Where all of it happens; it has to be there.
        seed: Of all chance.
        kinds: The kinds of jobs to choose from.
    """

    def __init__(self, folder: Path, seed: int, kinds: Sequence[Kind]) -> None:
        self.folder, self.seed, self.kinds = folder, seed, kinds
        self.tallies = {kind.name: Tally() for kind in kinds}
        self.failures: list[dict[str, str]] = []
        self.peaks = Peaks()
        self._clips = folder / "clips"
        self._clips.mkdir(exist_ok=True)
        self._references: dict[str, Reference | None] = {}

    # ---- One job ---------------------------------------------------------------------------

    def job(self, number: int) -> None:
        """Do the job of a number: which, and what happens to it, is a matter of the seed."""
        chance = random.Random(f"{self.seed}/{number}")
        weights = [2 if kind.is_resumable else 1 for kind in self.kinds]
        (kind,) = chance.choices(self.kinds, weights)
        reference = self._reference(kind)
        if reference is None:
            return
        tally = self.tallies[kind.name]
        tally.jobs += 1
        place = self._place("job")
        self._source(kind, place)
        clips_before = fingerprints(self._clips)
        asked = chance.choices(list(HAPPENINGS), list(HAPPENINGS.values()), k=_MOST_HAPPENINGS)
        asked = asked[: chance.randint(1, _MOST_HAPPENINGS)]
        problems: list[str] = []
        history: list[str] = []
        kept, is_cut = 0, False
        for happening in [*asked, ""]:
            if kind.is_watched and happening in ("FFmpeg killed", "disk full"):
                happening = "kill"  # a clip that failed is not looked at again
            left = 1 - kept / kind.results[0].frames
            before = _left_in(kind, place)
            ended = self._attempt(kind, place, reference, happening, chance, left=left)
            tally.runs += 1
            tally.seconds += ended.seconds
            if ended.did_happen:
                tally.happened[happening] += 1
                history.append(f"{happening} ({ended.seconds:.1f} s, {ended.status})")
            is_killed = ended.did_happen and happening in ("kill", "power cut")
            problems += ended.problems(is_folder=kind.is_folder)
            problems += self._meanwhile(kind, place, reference)
            if not is_killed:
                # What a kill left, a run that was disturbed may not have come to.
                known = before if ended.did_happen else {n for n in before if not _is_stored(n)}
                fresh = sorted(_left_in(kind, place) - known)
                problems += [f"left behind: {name}" for name in fresh]
            kept_now = _kept_frames(kind, place)
            if not is_cut and kept_now < kept and not self._is_done(kind, place):
                problems.append(f"{kept} frames were kept, now {kept_now}")
            if problems or self._is_done(kind, place):
                break
            # For good: the next run may be killed before it looks at what is left.
            is_cut |= happening == "power cut" and bool(cut_off(place / "out", chance))
            kept = 0 if is_cut else kept_now
        if not problems:
            problems = self._finally(kind, place, reference)
        problems += self._changed_clips(kind, place, clips_before)
        tally.frames += sum(result.frames for result in kind.results)
        if problems:
            self._fail(kind, number, problems, history)
        self._clear(place, number, keep=bool(problems))

    def _reference(self, kind: Kind) -> Reference | None:
        """Return what a kind of job makes that is left alone, made at the first time of asking."""
        if kind.name not in self._references:
            self._references[kind.name] = None
            place = self._place("reference")
            self._source(kind, place)
            ended = self._attempt(kind, place, None, "", random.Random(0))
            problems = ended.problems(is_folder=kind.is_folder)
            facts: dict[str, Facts] = {}
            if not problems:
                for wanted in kind.results:
                    try:
                        facts[wanted.name] = facts_of(place / "out" / wanted.name, wanted)
                    except (OSError, av.FFmpegError) as error:
                        problems.append(f"{wanted.name}: {error}")
                    else:
                        wrong = unlike_expected(wanted, facts[wanted.name])
                        problems += [f"{wanted.name}: {one}" for one in wrong]
                problems += [
                    f"left behind: {name}" for name in strangers(kind, place / "out", is_over=True)
                ]
            if problems:
                self._fail(kind, None, problems, [])
            else:
                sizes = [path.stat().st_size for path in (place / "out").rglob("*")]
                self._references[kind.name] = Reference(facts, ended.seconds, max(sizes))
            self._clear(place, 0, keep=False)
        return self._references[kind.name]

    def _attempt(
        self,
        kind: Kind,
        place: Path,
        reference: Reference | None,
        happening: str,
        chance: random.Random,
        *,
        left: float = 1.0,
    ) -> Ended:
        """Run a job once, begun or gone on with; so large a share of it is left to do."""
        source = self._source(kind, place)
        named = [_named(option, self._clips) for option in kind.options]
        arguments = ["-" if kind.is_piped else str(source), *named]
        for option, name in kind.outputs:
            # A slash says that numbered files are meant.
            is_sequence = bool(name) and not Path(name).suffix
            arguments += [option, f"out/{name}{'/' if is_sequence else ''}"]
        if kind.is_resumable and not kind.is_folder:
            arguments.append("--resume")
        limit = None
        usual_s = reference.seconds if reference else 0.0
        if happening == "disk full" and reference is not None:
            limit = chance.randint(
                _SMALLEST_FILE, max(_SMALLEST_FILE, int(1.2 * reference.largest))
            )
        is_late = chance.random() < _LATE_SHARE
        return run(
            [*arguments, "-q"],
            place,
            self.peaks,
            timeout_s=_LEAST_S + _PATIENCE * usual_s,
            happening=happening,
            at_s=chance.uniform(0, 1) * max(_SHORTEST_S, left * usual_s),
            or_when=(lambda: _is_joining(kind, place / "out")) if is_late else None,
            chance=chance,
            file_bytes=limit,
            feed=source if kind.is_piped else None,
            meanwhile=self._arrivals(kind, place) if kind.is_watched else None,
        )

    def _source(self, kind: Kind, place: Path) -> Path:
        """Return a job's clip, or its folder of clips, made if need be."""
        for option in kind.options:
            if option in CLIPS:
                make_clip(option, self._clips)
        paths = [make_clip(name, self._clips) for name in kind.sources]
        if not kind.is_folder:
            return paths[0]
        if kind.is_watched:
            folder = place / "in"
            folder.mkdir(exist_ok=True)
            return folder
        folder = self.folder / kind.name
        if not folder.exists():
            folder.mkdir()
            for path in paths:
                shutil.copy(path, folder)
        return folder

    def _arrivals(self, kind: Kind, place: Path) -> Callable[[float], bool]:
        """Return what lets clips arrive in a watched folder, and says when all are done."""
        steps = itertools.chain.from_iterable(
            ((name, half) for half in (False, True)) for name in kind.sources
        )
        next_s = 0.0

        def arrive(now_s: float) -> bool:
            nonlocal next_s
            if now_s < next_s:
                return False
            next_s = now_s + _ARRIVAL_S
            for name, is_whole in steps:
                path = place / "in" / name
                content = (self._clips / name).read_bytes()
                if path.exists() and path.stat().st_size == len(content):
                    continue
                path.write_bytes(content if is_whole else content[: len(content) // 2])
                return False
            return self._is_done(kind, place)

        return arrive

    # ---- What is looked at ---------------------------------------------------------------

    def _is_done(self, kind: Kind, place: Path) -> bool:
        """Say whether nothing is left to do: a single job that is done is not begun again."""
        out = place / "out"
        if kind.is_folder:
            entries = ledger.read(out).values()
            finished = {entry.output.name for entry in entries if entry.fingerprint}
            return finished >= {result.name for result in kind.results}
        has_work = any(is_work_folder(path) for path in out.iterdir())
        return not has_work and all((out / result.name).exists() for result in kind.results)

    def _meanwhile(self, kind: Kind, place: Path, reference: Reference) -> list[str]:
        """Return what is wrong with results that have their names, after any run."""
        found = []
        for wanted in kind.results:
            path = place / "out" / wanted.name
            if path.exists():
                found += _unlike(path, reference.facts[wanted.name], wanted)
        return found

    def _finally(self, kind: Kind, place: Path, reference: Reference) -> list[str]:
        """Return what is wrong with a job that is done."""
        out = place / "out"
        missing = [result.name for result in kind.results if not (out / result.name).exists()]
        if missing:
            return [f"not made: {', '.join(missing)}"]
        found = [f"left behind: {name}" for name in strangers(kind, out, is_over=True)]
        if kind.is_folder and not kind.is_watched:
            before = {
                result.name: (out / result.name).stat().st_mtime_ns for result in kind.results
            }
            again = self._attempt(kind, place, reference, "", random.Random(0))
            found += again.problems(is_folder=True)
            found += [
                f"{name}: made again, though it was finished"
                for name, mtime_ns in before.items()
                if (out / name).stat().st_mtime_ns != mtime_ns
            ]
        return found

    def _changed_clips(self, kind: Kind, place: Path, before: dict[str, str]) -> list[str]:
        """Return what has become of clips, which nobody may write to, nor beside them."""
        after = [fingerprints(self._clips)]
        if kind.is_folder:
            after.append(fingerprints(self._source(kind, place)))
        changed = {name for files in after for name in files if files[name] != before.get(name)} | (
            before.keys() - after[0].keys()
        )
        return [f"a clip was changed: {name}" for name in sorted(changed)]

    def _place(self, name: str) -> Path:
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        (place / "out").mkdir(parents=True)
        return place

    def _clear(self, place: Path, number: int, *, keep: bool) -> None:
        """Remove a job's files, or put the first that failed aside."""
        aside = self.folder / f"failed-{number}"
        if keep and len(list(self.folder.glob("failed-*"))) < _MOST_KEPT and not aside.exists():
            place.rename(aside)
        else:
            shutil.rmtree(place)

    def _fail(
        self, kind: Kind, number: int | None, problems: list[str], history: list[str]
    ) -> None:
        self.tallies[kind.name].failures += 1
        which = f'--kinds "{kind.name}" --minutes 0'
        if number is not None:
            which = f"--job {number}"
            if len(self.kinds) < len(KINDS):  # which job a number is depends on them
                which += f' --kinds "{";".join(one.name for one in self.kinds)}"'
        failure = {
            "kind": kind.name,
            "problems": "; ".join(problems),
            "happened": ", ".join(history),
            "again": f"python benchmarks/soak.py --seed {self.seed} {which}",
        }
        self.failures.append(failure)
        tell(f"FAILED {kind.name}: {failure['problems']} [{failure['happened']}]")


class Mutants:
    """Broken clips, some now and some then, through the command.

    Attributes:
        made: How many became a result.
        refused: How many were refused.
        failures: What went wrong with others.

    Args:
        folder: Where they are looked at.
        seed: Of their changes.
        count: How many in all.
    """

    def __init__(self, folder: Path, seed: int, count: int) -> None:
        self.made = self.refused = 0
        self.failures: list[dict[str, str]] = []
        self._folder, self._seed, self._count = folder / "mutant", seed, count
        self._number = 0

    def catch_up(self, share: float) -> None:
        """Try mutants until so large a share of all has been tried, 0..1."""
        if self._number >= min(1.0, share) * self._count:
            return
        import mutants

        while self._number < min(1.0, share) * self._count:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir()
            subject = mutants.mutant(self._seed, self._number)
            with mutants.Command() as runner:
                outcome = mutants.check(subject, runner, self._folder)
            self._number += 1
            if outcome.problems:
                again = f"--seed {self._seed} --only {subject.number} --through-command"
                failure = {
                    "kind": f"mutant {subject.number} ({subject.kind}, {subject.change})",
                    "problems": "; ".join(outcome.problems),
                    "happened": "",
                    "again": f"python benchmarks/mutants.py {again}",
                }
                self.failures.append(failure)
                tell(f"FAILED {failure['kind']}: {failure['problems']}")
            elif outcome.ran.status == 0:
                self.made += 1
            else:
                self.refused += 1


def _named(option: str, clips: Path) -> str:
    """Return an option with the name of a clip put right."""
    return str(clips / option) if option in CLIPS else option


def _unlike(path: Path, reference: Facts, wanted: object) -> list[str]:
    """Return in what a result is not the one that was left alone."""
    try:
        found = differences(reference, facts_of(path, wanted))  # type: ignore[arg-type]
    except (OSError, av.FFmpegError) as error:
        found = [f"cannot be read ({error})"]
    return [f"{path.name}: {one}" for one in found]


def _left_in(kind: Kind, place: Path) -> set[str]:
    """Return what lies about that a run which could end in its own way has to take with it."""
    out, tmp = place / "out", place / "tmp"
    found = {*strangers(kind, out, is_over=False), *parts_in(out)}
    return found | {f"tmp/{path.name}" for path in tmp.iterdir()} if tmp.exists() else found


def _is_stored(name: str) -> bool:
    """Say whether what lies about was stored of a pipe, which the next run sweeps away."""
    return name.startswith("tmp/")


def _is_joining(kind: Kind, out: Path) -> bool:
    """Say whether a result is being joined, or has its name already."""
    has_name = any((out / result.name).exists() for result in kind.results)
    return has_name or any(out.glob(".*.vidbg-resume.part"))


def _kept_frames(kind: Kind, place: Path) -> int:
    """Return how many frames a job of one clip can go on after."""
    if kind.is_folder or not kind.is_resumable:
        return 0
    journal = work_folder(place / "out" / kind.results[0].name) / "journal"
    try:
        found = parse_journal(journal.read_bytes())
    except FileNotFoundError:
        return 0
    return 0 if found is None else sum(segment.frames for segment in found.segments)


def tell(words: str) -> None:
    """Say how far it is."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {words}\n")


# ---- All of it ---------------------------------------------------------------------------------


def table(soak: Soak, steady: Steady | None, seconds: float) -> list[str]:
    """Return what was done, as lines of Markdown."""
    heads = ["kind", "jobs", "runs", "frames", *HAPPENINGS, "failures"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    rows = {name: tally for name, tally in soak.tallies.items() if tally.jobs or tally.failures}
    total = Tally()
    for tally in rows.values():
        total.happened.update(tally.happened)
        for name in ("jobs", "runs", "frames", "failures"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
    for name, tally in {**rows, "all": total}.items():
        counts = [tally.jobs, tally.runs, tally.frames]
        counts += [tally.happened[what] for what in HAPPENINGS]
        lines.append(f"| {name} | {' | '.join(map(str, [*counts, tally.failures]))} |")
    peaks = soak.peaks
    lines += [
        "",
        f"{seconds / 60:.1f} minutes, seed {soak.seed}. At the most a run took "
        f"{peaks.resident / 2**20:.0f} MiB with all its processes, {peaks.files} open files and "
        f"{peaks.threads} threads.",
    ]
    if steady is not None and steady.held:
        first, last = steady.held[0], steady.held[-1]
        lines.append(
            f"One process, {len(steady.held)} jobs: first {first.resident / 2**20:.0f} MiB, "
            f"{first.files} files, {first.threads} threads; last {last.resident / 2**20:.0f} MiB, "
            f"{last.files} files, {last.threads} threads."
        )
    return lines


def soaked(
    soak: Soak, minutes: float, steady: Steady | None, mutants: Mutants, only: int | None
) -> None:
    """Do jobs until the time is over: one at least; only one, if that is asked for."""
    began_s = told_s = time.monotonic()
    for number in itertools.count() if only is None else [only]:
        soak.job(number)
        if steady is not None and number % _STEADY_EVERY == 0:
            steady.once_more()
        if only is None:
            elapsed_s = time.monotonic() - began_s
            mutants.catch_up(elapsed_s / (60 * minutes) if minutes else 1.0)
        now_s = time.monotonic()
        if now_s - told_s > _TELL_EVERY_S:
            told_s = now_s
            tell(
                f"{(now_s - began_s) / 60:.0f} min: {number + 1} jobs, {len(soak.failures)} failed"
            )
        if now_s - began_s > 60 * minutes:
            return


def _let_signals_through() -> None:
    """Have the commands heed signals that we ignore, as nohup and a shell's "&" have us do.

    What is ignored is handed down; what is handled is not, and here the handler does nothing.
    """
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and print the table; return the exit code.

    Args:
        argv: Arguments; None for the process's own.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where files go; jobs that failed stay there")
    parser.add_argument("--json", type=Path, help="all figures, as a file")
    parser.add_argument("--mutants", type=int, default=0, help="so many broken clips as well")
    parser.add_argument("--kinds", help="only these kinds of jobs, with semicolons between")
    parser.add_argument("--job", type=int, help="only the job of that number")
    parser.add_argument("--no-steady", action="store_true", help="not the long-lived process")
    options = parser.parse_args(argv)
    kinds = list(KINDS)
    if options.kinds is not None:
        names = options.kinds.split(";")
        kinds = [kind for kind in KINDS if kind.name in names]
        if len(kinds) != len(names):
            parser.error(f"kinds are {'; '.join(kind.name for kind in KINDS)}")
    _let_signals_through()
    began_s = time.monotonic()
    with ExitStack() as cleanup:
        folder = options.folder
        if folder is None:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(folder.resolve(), options.seed, kinds)
        steady = None
        if not options.no_steady and options.job is None:
            home = folder / "steady"
            shutil.rmtree(home, ignore_errors=True)
            steady = cleanup.enter_context(Steady(home.resolve()))
        mutants = Mutants(soak.folder, options.seed, options.mutants)
        soaked(soak, options.minutes, steady, mutants, options.job)
        seconds = time.monotonic() - began_s
        grown = [] if steady is None else growth(steady.held)
        if steady is not None and steady.failure is not None:
            grown.append(steady.failure)
        lines = table(soak, steady, seconds)
    if options.mutants:
        tried = f"{mutants.made} made, {mutants.refused} refused, {len(mutants.failures)} failed"
        lines.append(f"Broken clips: {tried}.")
    failures = [*soak.failures, *mutants.failures]
    for failure in failures:
        lines.append(f"FAILED {failure['kind']}: {failure['problems']}")
        lines.append(f"  after {failure['happened'] or 'nothing'}; again: {failure['again']}")
    lines += [f"FAILED one process: {one}" for one in grown]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json is not None:
        options.json.write_text(
            json.dumps(
                {
                    "seconds": seconds,
                    "seed": options.seed,
                    "kinds": {name: vars(tally) for name, tally in soak.tallies.items()},
                    "peaks": vars(soak.peaks),
                    "steady": [vars(held) for held in steady.held] if steady else [],
                    "failures": [
                        *soak.failures,
                        *({"kind": "one process", "problems": g} for g in grown),
                    ],
                },
                indent=1,
            )
        )
    return 1 if failures or grown else 0


if __name__ == "__main__":
    sys.exit(main())
