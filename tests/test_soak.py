"""The soak: it runs, and its checks see what they are there to see."""

from __future__ import annotations

import json
import random
import shutil
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import run_ffmpeg

# Scripts, no package: they find each other in their own folder.
sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import soak
from soak_checks import differences, facts_of, strangers, unlike_expected
from soak_kinds import KINDS, Wanted, make_clip, number_in, numbered
from soak_runs import Ended, cut_off
from soak_steady import Held, growth

from vidbg.media.segments import Finished, Journal, Terms, parse_journal, work_folder

WANTED = Wanted("brief.mp4", 40, Fraction(25), Fraction(40, 25), first=0)
KIND = next(kind for kind in KINDS if kind.name == "composite")


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip("brief.mp4", tmp_path_factory.mktemp("soak"))


def spoiled(brief: Path, path: Path, *options: str) -> Path:
    """Return the clip with something done to it, and nothing else."""
    run_ffmpeg("-i", str(brief), *options, str(path))
    return path


LOSSLESS = ("-c:v", "libx264", "-qp", "0", "-preset", "ultrafast", "-c:a", "copy")


def test_numbers_are_read_as_they_were_written() -> None:
    frames = np.frombuffer(numbered(700), np.uint8).reshape(700, 96 * 64 * 3 // 2)
    luma = frames[:, : 96 * 64].reshape(700, 64, 96).astype(np.float32) / 255
    is_grey = (luma > 0.7).astype(np.float32)  # what a keyer makes of it
    assert [number_in(frame) for frame in is_grey] == list(range(700))
    assert number_in(np.rot90(is_grey[523], -1), turned=1) == 523


def test_a_result_that_is_right_is_taken(brief: Path, tmp_path: Path) -> None:
    again = shutil.copy(brief, tmp_path)
    facts = facts_of(brief, replace(WANTED, first=None))
    assert differences(facts, facts_of(Path(again), replace(WANTED, first=None))) == []
    assert unlike_expected(replace(WANTED, first=None), facts) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-frames:v", "39"), "39 frames, 40 if left alone"),
        (("-vf", "select=not(eq(n\\,20))", "-fps_mode", "passthrough"), "39 frames, 40"),
        (("-vf", "drawbox=enable=eq(n\\,20):w=2:h=2"), "frame 20 is another, the first of 1"),
        (("-vf", "setpts=PTS+0.2/TB"), "frame 0 is another, the first of 40"),
        (("-filter:v", "fps=24"), "rate 24, 25 if left alone"),
        (("-an",), "the sound is another"),
    ],
)
def test_a_spoiled_result_is_found(
    brief: Path, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    wanted = replace(WANTED, first=None)
    plain = facts_of(spoiled(brief, tmp_path / "plain.mp4", *LOSSLESS), wanted)
    found = differences(
        plain, facts_of(spoiled(brief, tmp_path / "other.mp4", *LOSSLESS, *options), wanted)
    )
    assert any(told in one for one in found), found


def test_sound_that_is_cut_is_found(brief: Path, tmp_path: Path) -> None:
    wanted = replace(WANTED, first=None)
    silent = spoiled(brief, tmp_path / "silent.mp4", "-c", "copy", "-an")
    joined = tmp_path / "cut.mp4"
    run_ffmpeg(
        "-i", str(silent), "-t", "1.2", "-i", str(brief), "-map", "0:v", "-map", "1:a",
        "-c", "copy", str(joined),
    )  # fmt: skip
    whole, cut = facts_of(brief, wanted), facts_of(joined, wanted)
    assert differences(whole, cut) == ["the sound is another"]
    (told,) = unlike_expected(wanted, cut)
    assert told.endswith("s of sound, not 1.600")
    assert unlike_expected(replace(wanted, sound_s=None), cut) == ["sound that nobody asked for"]


def test_what_was_known_before_is_compared(brief: Path) -> None:
    facts = facts_of(brief, replace(WANTED, first=None))
    right = replace(facts, numbers=tuple(range(40)))
    assert unlike_expected(WANTED, right) == []
    swapped = replace(facts, numbers=(*range(18), 19, 18, *range(20, 40)))
    assert unlike_expected(WANTED, swapped) == ["frame 18 is the clip's 19, not 18"]
    even = replace(WANTED, source_frames=39)
    repeated = replace(facts, numbers=(*range(20), *range(19, 39)))
    assert unlike_expected(even, repeated) == []
    lost = replace(facts, numbers=(*range(18), 17, 17, *range(19, 39)))
    assert unlike_expected(even, lost) == ["its frames are not the clip's in their order"]
    assert unlike_expected(replace(WANTED, frames=41), right)[0] == "40 frames, not 41"
    (told,) = unlike_expected(replace(WANTED, rate=Fraction(30000, 1001)), right)
    assert told == "25 frames a second, not 30000/1001"


def test_what_is_left_behind_is_found(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").touch()
    assert strangers(KIND, tmp_path, is_over=True) == []
    work_folder(tmp_path / "out.mp4").mkdir()
    part = tmp_path / "out.1234abcd.part.mp4"
    part.touch()
    assert strangers(KIND, tmp_path, is_over=False) == [part.name]
    assert strangers(KIND, tmp_path, is_over=True) == [
        ".out.mp4.vidbg-resume",
        part.name,
    ]
    part.unlink()


@pytest.mark.parametrize(
    ("happening", "status", "said", "told"),
    [
        ("kill", -9, "", None),
        ("kill", 1, "vidbg: no", "exit status 1 after kill: vidbg: no"),
        ("SIGTERM", 130, "\nvidbg: interrupted\n", None),
        ("SIGTERM", -15, "", "exit status -15 after SIGTERM: no message"),
        ("FFmpeg killed", 1, "vidbg: FFmpeg was killed\n", None),
        ("disk full", 1, "vidbg: full\nvidbg: really\n", "its failure is not told in one line"),
        ("disk full", 1, "Traceback (most recent call last):\nOSError", "a traceback: OSError"),
        ("stop", 1, "vidbg: no\n", "exit status 1 after stop"),
        ("", 0, "", None),
    ],
)
def test_statuses_and_words(happening: str, status: int, said: str, told: str | None) -> None:
    found = Ended([], happening, bool(happening), status, 1.0, said).problems(is_folder=False)
    assert len(found) == (told is not None)
    assert told is None or found[0].startswith(told)
    orphan = Ended([], "", orphans=["ffmpeg -i in"]).problems(is_folder=False)
    assert orphan == ["left a process behind: ffmpeg -i in"]
    assert Ended([], "", is_late=True).problems(is_folder=True) == ["did not end in time"]


def test_a_power_cut_takes_no_more_than_one_can(tmp_path: Path) -> None:
    terms = Terms("f" * 64, 300, (".mp4",), ("none",), "ffmpeg", 2)
    said = Journal(terms, tuple(Finished(300, (n,), False) for n in (1000, 2000)))
    named = replace(said, published=((0, (5, 7)),))
    for journal in (said, named):
        whole = b"".join(journal.lines())
        seen = set()
        for seed in range(40):
            work = work_folder(tmp_path / "out.mp4")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            (work / "journal").write_bytes(whole)
            (work / "000001.0.mp4").write_bytes(b"x" * 2000)
            cut_off(tmp_path, random.Random(seed))
            left = parse_journal((work / "journal").read_bytes())
            assert left is not None
            seen.add((len(left.segments), (work / "000001.0.mp4").stat().st_size < 2000))
            assert left.published == journal.published
        kept = {1, 2} if journal is said else {2}
        assert seen == {(count, is_shorter) for count in kept for is_shorter in (False, True)}


def a_run(number: int, **changes: object) -> Held:
    held = Held("ab"[number % 2], (500 << 20) + (number % 3 << 20), 12, 20)
    return replace(held, **changes)  # type: ignore[arg-type]


def test_growth_is_told_from_warming_up() -> None:
    steady = [a_run(n) for n in range(40)]
    warming = [a_run(n, resident=100 << 20, threads=3) for n in range(4)] + steady
    assert growth(steady) == growth(warming) == []
    assert growth(steady[:6]) == []  # too few to say anything
    leak = [a_run(n, resident=(500 << 20) + (n << 21)) for n in range(40)]
    assert len(growth(leak)) == 1
    assert "MiB at first" in growth(leak)[0]
    assert growth([*steady[:30], *(a_run(n, files=13) for n in range(10))]) == [
        "13 files, 12 at first"
    ]
    assert growth([*steady[:30], *(a_run(n, threads=21) for n in range(10))]) == [
        "21 threads, 20 at first"
    ]
    assert growth([a_run(0, left=("thread vidbg-stderr",))]) == [
        "after job 0 (a): thread vidbg-stderr"
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="POSIX signals")
def test_the_smallest_jobs_come_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = tmp_path / "told.json"
    arguments = ["--minutes", "0", "--seed", "3", "--kinds", "photograph", "--no-steady"]
    assert soak.main([*arguments, "--folder", str(tmp_path), "--json", str(told)]) == 0
    said = capsys.readouterr().out
    assert "| photograph | 1 |" in said
    found = json.loads(told.read_text())
    assert found["kinds"]["photograph"]["jobs"] == 1
    assert found["peaks"]["resident"] > 1 << 20
    assert found["failures"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "told.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="POSIX signals")
def test_a_command_that_loses_a_frame_is_found_out(
    tmp_path: Path, brief: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In vidbg's place: it copies its input, the second time without the last frame.
    script = tmp_path / "copying.py"
    script.write_text(
        "import pathlib, subprocess, sys\n"
        "from vidbg.media.ffmpeg import executable\n"
        f"again = pathlib.Path({str(tmp_path / 'again')!r})\n"
        "cut = ['-frames:v', '39'] if again.exists() else []\n"
        "again.touch()\n"
        "command = [executable(), '-v', 'error', '-i', sys.argv[1], '-c', 'copy', *cut]\n"
        "sys.exit(subprocess.call([*command, 'out/out.mp4']))\n"
    )
    monkeypatch.setattr("soak_runs.command_line", lambda: [sys.executable, str(script)])
    kind = replace(
        KIND,
        name="copy",
        sources=("brief.mp4",),
        results=(replace(WANTED, name="out.mp4", first=None),),
        is_resumable=False,
    )
    monkeypatch.setattr(soak, "KINDS", (kind,))
    monkeypatch.setattr("soak_runs.HAPPENINGS", {})
    monkeypatch.setattr(soak, "HAPPENINGS", {"stop": 1})
    arguments = ["--minutes", "0", "--seed", "0", "--no-steady", "--folder", str(tmp_path)]
    assert soak.main(arguments) == 1
    said = capsys.readouterr().out
    assert "FAILED copy: out.mp4: 39 frames, 40 if left alone" in said
    assert "again: python benchmarks/soak.py --seed 0 --job 0" in said
    assert (tmp_path / "failed-0" / "out" / "out.mp4").exists()
