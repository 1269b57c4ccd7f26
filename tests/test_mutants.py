"""Broken files by the hundred, and whether those who judge what comes of them can say no."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

# Scripts, no package: they find each other in their own folder.
sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import mutants
from mutants import Command, Forks, Mutant, Outcome, Ran, check, check_all, mutant, originals, table

needs_wait4 = pytest.mark.skipif(not hasattr(os, "wait4"), reason="no wait4(2)")

SEED = 2


def failures(outcomes: Sequence[Outcome]) -> str:
    return "\n".join(line for line in table(outcomes) if line.startswith("--seed"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_wait4
def test_180_mutants_in_forked_processes() -> None:
    outcomes = check_all([mutant(SEED, number) for number in range(180)], Forks)
    assert not failures(outcomes)
    came = {outcome.what for outcome in outcomes}
    assert {"made", "refused"} <= came
    assert sum(outcome.what == "made" for outcome in outcomes) > 40


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_wait4
def test_20_mutants_through_the_command() -> None:
    outcomes = check_all([mutant(SEED, number) for number in range(180, 200)], Command)
    assert not failures(outcomes)
    assert {"made", "refused"} <= {outcome.what for outcome in outcomes}


def test_a_number_and_a_seed_make_the_same_mutant() -> None:
    first = [mutant(SEED, number) for number in range(70)]
    originals.cache_clear()
    assert [mutant(SEED, number) for number in range(70)] == first
    assert {one.kind for one in first} == set(mutants.KINDS)
    changed = [one for one in first if one.content != originals()[one.kind]]
    assert len(changed) > 60
    assert mutant(SEED + 1, 0) != mutant(SEED, 0)
    assert {name for one in first for name in one.change.split("+")} == set(mutants._CHANGES)


@pytest.mark.parametrize("kind", mutants.KINDS)
def test_parts_follow_each_other_and_lie_in_the_file(kind: str) -> None:
    content = originals()[kind]
    parts = list(mutants._PARTS[kind](content))
    assert len(parts) >= (3 if kind == "png" else 4)
    assert all(0 <= one.start <= one.body <= one.stop <= len(content) for one in parts)
    outermost = [one for one in parts if not any(_holds(other, one) for other in parts)]
    ends = [one.stop for one in outermost]
    begins = [one.start for one in outermost[1:]] + [len(content)]
    assert ends == begins


def _holds(outer: mutants.Part, inner: mutants.Part) -> bool:
    return outer.start < inner.start and inner.stop <= outer.stop


def test_a_changed_chunk_has_its_checksum_put_right() -> None:
    content = originals()["png"]
    header = next(part for part in mutants.chunks(content) if part.name == "IHDR")
    wide = mutants._put(content, header.body, (1000).to_bytes(4, "big"))
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(wide))
    assert Image.open(io.BytesIO(mutants.checked(wide, header))).size == (1000, 48)


class Scripted:
    """Runs nothing: what it says of a file is given."""

    def __init__(self, ran: Ran, act: Callable[[Path], None] = lambda folder: None) -> None:
        self._ran = ran
        self._act = act

    def run(self, arguments: Sequence[str], folder: Path) -> Ran:
        self._act(folder)
        return self._ran


HEALTHY = Mutant(0, 0, "mp4", "none", b"")
REFUSED = Ran(1, 1.0, 1 << 20, "", f"vidbg: {HEALTHY.name}: no video\n")
DONE = json.dumps({"event": "done", "frames": 12}) + "\n"


def problems(ran: Ran, folder: Path, act: Callable[[Path], None] = lambda folder: None) -> str:
    subject = replace(HEALTHY, content=originals()["mp4"])
    return "; ".join(check(subject, Scripted(ran, act), folder).problems)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"status": -11}, "exit status -11"),
        ({"status": 70}, "exit status 70"),
        ({"status": None}, "did not end"),
        ({"stderr": f"Traceback (most recent call last):\n{REFUSED.stderr}"}, "a traceback"),
        ({"stderr": ""}, "0 lines of error"),
        ({"stderr": REFUSED.stderr * 2}, "2 lines of error"),
        ({"stderr": "vidbg: no video\n"}, "does not name the file"),
        ({"stderr": f"vidbg: unexpected KeyError: {HEALTHY.name}\n"}, "nobody foresaw"),
        ({"stderr": f"warning: {HEALTHY.name}: odd\n{REFUSED.stderr}"}, ""),
        ({"peak_bytes": 1 << 30}, "took 1024 MiB"),
        ({"status": 0}, "without a result"),
    ],
)
def test_what_a_refusal_must_not_be(
    changes: dict[str, object], problem: str, tmp_path: Path
) -> None:
    found = problems(replace(REFUSED, **changes), tmp_path)  # type: ignore[arg-type]
    assert problem in found
    assert bool(problem) == bool(found)


def test_a_file_that_is_left_behind_is_a_failure(tmp_path: Path) -> None:
    found = problems(REFUSED, tmp_path, lambda folder: (folder / "result.part.mp4").touch())
    (tmp_path / "result.part.mp4").unlink()
    assert found == "left result.part.mp4 behind"


def _write(name: str, cut: int = 0) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        content = originals()[name]
        (folder / "result.mp4").write_bytes(content[: len(content) - cut])

    return act


@pytest.mark.parametrize(
    ("written", "cut", "claimed", "problem"),
    [
        ("mp4", 0, 12, ""),
        ("mp4", 0, 11, "11 frames are claimed, 12 are there"),
        ("png", 0, 1, "1 frames, where 12 decode"),
        ("mp4", 200, 12, "cannot be played"),
    ],
)
def test_a_result_that_is_claimed_is_played(
    written: str, cut: int, claimed: int, problem: str, tmp_path: Path
) -> None:
    ran = Ran(0, 1.0, 1 << 20, DONE.replace("12", str(claimed)), "")
    found = problems(ran, tmp_path, _write(written, cut))
    assert problem in found
    assert bool(problem) == bool(found)


def test_a_clip_of_many_frames_may_take_longer(tmp_path: Path) -> None:
    progress = {"event": "progress", "frames": 5000, "total_frames": 9000}
    slow = replace(REFUSED, status=None, stdout=json.dumps(progress) + '\n{"event": "pro')
    assert problems(slow, tmp_path) == ""
    stuck = json.dumps(progress | {"frames": 12, "total_frames": 12})
    assert "did not end" in problems(replace(slow, stdout=stuck), tmp_path)


@needs_wait4
@pytest.mark.parametrize("make_runner", [Forks, Command])
def test_limits_of_time_and_memory_hold(
    make_runner: type[Forks] | type[Command], tmp_path: Path
) -> None:
    """A healthy clip within them is made; without room, and without time, it is not."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(originals()["mp4"])
    arguments = ["clip.mp4", *mutants._OPTIONS, "-o", "out.mp4", "-y", "-q"]
    with make_runner() as runner:
        whole = runner.run(arguments, tmp_path)
    assert (whole.status, whole.stderr) == (0, "")
    assert 20 << 20 < whole.peak_bytes < mutants.PEAK_LIMIT_BYTES
    with make_runner(limit_s=0.05) as runner:
        hurried = runner.run(arguments, tmp_path)
    assert hurried.status is None
    assert hurried.seconds < 10
    for left in tmp_path.glob("*.part.*"):  # nobody clears up after having been killed
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def test_the_table_says_how_to_repeat_what_failed() -> None:
    healthy = Outcome(mutant(SEED, 0), REFUSED, ())
    failed = Outcome(mutant(SEED, 1), replace(REFUSED, status=-6), ("exit status -6",))
    lines = list(table([healthy, failed]))
    assert lines[-1].startswith(f"--seed {SEED} --only 1 (mov, ")
    assert lines[-1].endswith("exit status -6")
    (total,) = (line for line in lines if line.startswith("all"))
    np.testing.assert_array_equal([int(n) for n in total.split()[1:5]], [0, 1, 0, 1])
