"""The comparison with other tools: its arithmetic, its accounts, and the loop that it holds."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from clips import DARK, decode_planes, make_clip, stream_facts
from hypothesis import given
from hypothesis import strategies as st

# Scripts, no package: they find each other in their own folder.
sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import costs
import e2e
import naive
import peers
from costs import Cost, measured
from e2e import Comparison, Run, figures_of, ratio, separated
from peers import Clip, NotAvailableError, Tool

needs_wait4 = pytest.mark.skipif(not hasattr(os, "wait4"), reason="no wait4(2)")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="no reaper of orphans")

# Uses up CPU time, and says at its very end how much it was.
BUSY = """
import sys, time
while time.process_time() < float(sys.argv[1]): sum(range(1000))
with open(sys.argv[2], "a") as said: said.write(f"{time.process_time()}\\n")
"""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]


def a_run(frames: int, seconds: float, cpu_s: float, mib: int = 100, number: int = 0) -> Run:
    return Run(number, frames, frames, Cost(seconds, 0.75 * cpu_s, 0.25 * cpu_s, mib << 20))


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def wait_until(path: Path) -> str:
    while not (path.exists() and path.read_text()):
        time.sleep(0.01)
    return path.read_text()


def test_start_and_frames_are_told_apart() -> None:
    assert separated((100, 52.0), (10, 7.0)) == (2.0, 0.5)


@given(
    st.integers(1, 500),
    st.integers(1, 5000),
    st.floats(0, 100),
    st.floats(1e-3, 10),
)
def test_what_a_line_is_made_of_is_found_again(
    short: int, more: int, start: float, each: float
) -> None:
    whole = short + more
    found = separated((whole, start + whole * each), (short, start + short * each))
    assert found == pytest.approx((start, each), rel=1e-6, abs=1e-6)


def test_a_longer_run_that_took_no_more_says_nothing_of_frames() -> None:
    assert separated((100, 5.0), (10, 5.0)) == (None, None)


def test_two_runs_of_the_same_length_are_refused() -> None:
    with pytest.raises(ValueError, match="not fewer"):
        separated((10, 5.0), (10, 4.0))


def test_figures_are_those_of_the_whole_run_and_of_the_difference() -> None:
    row = figures_of(a_run(240, 50.0, 72.0, mib=900), a_run(40, 10.0, 16.0, mib=1000))
    assert row.fps == pytest.approx(4.8)
    assert row.cpu_ms == pytest.approx(300)
    assert row.steady_fps == pytest.approx(5)  # 200 frames in 40 s
    assert row.steady_cpu_ms == pytest.approx(280)  # 56 s of 200 frames
    assert row.startup_s == pytest.approx(2)
    assert row.peak_mib == 1000


def test_a_ratio_above_one_is_always_to_our_credit() -> None:
    ours = figures_of(a_run(100, 20.0, 30.0, mib=500), a_run(10, 2.0, 3.0, mib=500))
    theirs = figures_of(a_run(100, 100.0, 120.0, mib=2000), a_run(10, 10.0, 12.0, mib=2000))
    found = {name: ratio(ours, theirs, name) for name in ("fps", "cpu_ms", "peak_mib")}
    assert found == pytest.approx({"fps": 5.0, "cpu_ms": 4.0, "peak_mib": 4.0})
    assert ratio(replace(ours, steady_fps=None), theirs, "steady_fps") is None


def compared() -> Comparison:
    """Return three rounds of ours at 10, 12 and 8 fps, and of a peer at 2; another failed."""
    found = Comparison(["vidbg (own)", "naive", "rembg"])
    for number, fps in enumerate((10, 12, 8)):
        found.whole["vidbg (own)"].append(a_run(240, 240 / fps, 24, number=number))
        found.short["vidbg (own)"].append(a_run(24, 24 / fps, 2.4, number=number))
        found.whole["naive"].append(a_run(120, 60, 60, mib=150, number=number))
        found.short["naive"].append(a_run(24, 12, 12, mib=150, number=number))
    found.notes["rembg"] = "cannot be installed: no such | thing"
    return found


def test_ratios_are_taken_round_by_round() -> None:
    found = compared().all_ratios()["vidbg (own)"]
    assert found.keys() == {"naive"}
    assert found["naive"]["steady_fps"] == pytest.approx([5, 6, 4])
    assert found["naive"]["cpu_ms"] == pytest.approx([5, 5, 5])


def cells_of(lines: list[str], name: str) -> dict[str, str]:
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    (row,) = (row for row in rows if row[0] == name)
    return dict(zip(head[1:], row[1:], strict=True))


def test_the_table_gives_medians_with_their_range() -> None:
    cells = cells_of(compared().table(), "vidbg (own)")
    assert cells["frames"] == cells["out"] == "240"
    assert cells["fps"] == cells["fps, steady"] == "10.00 (8.00-12.00)"
    assert cells["CPU ms"] == "100 (100-100)"
    assert cells_of(compared().table(), "naive")["frames"] == "120"
    cells = cells_of(compared().ratio_table(), "vidbg (own) : naive")
    assert cells["fps, steady"] == "5.00 (4.00-6.00)"
    assert cells["peak MiB"] == "1.50 (1.50-1.50)"


def test_a_tool_that_cannot_be_run_has_a_row_that_says_why() -> None:
    cells = cells_of(compared().table(), "rembg")
    assert cells.pop("") == "cannot be installed: no such / thing"
    assert set(cells.values()) == {"-"}


@needs_linux
def test_cpu_time_is_that_of_all_processes(tmp_path: Path) -> None:
    said = tmp_path / "own.txt"
    child = python(BUSY, 0.2, said)
    # One that is waited for, one that is not and outlives its parent, and the parent itself.
    code = f"import subprocess\nsubprocess.run({child})\nsubprocess.Popen({child})\n{BUSY}"
    both = [python(code, 0.3, said), python(BUSY, 0.2, said)]
    cost = measured(both, folder=tmp_path, timeout_s=60)
    times = [float(line) for line in said.read_text().split()]
    assert len(times) == 4
    # What each takes to end, after it has said its time, comes on top.
    assert sum(times) - 0.01 <= cost.cpu_s < sum(times) + 0.15
    assert cost.failure is None
    assert cost.left == 0


@needs_wait4
def test_nothing_is_left_of_a_run_that_takes_too_long(tmp_path: Path) -> None:
    child = python("import time; time.sleep(100)")
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({child}, start_new_session=True)\n"
        "open(sys.argv[1], 'w').write(f'{child.pid}\\n')\n"
        "time.sleep(100)"
    )
    pid_file = tmp_path / "pid"
    began = time.monotonic()
    cost = measured([python(code, pid_file)], folder=tmp_path, timeout_s=2)
    assert time.monotonic() - began < 20
    assert cost.failure == "took more than 2 s"
    assert has_ended(int(wait_until(pid_file)))


@needs_linux
def test_what_outlives_a_command_is_counted_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "_GRACE_S", 0.2)
    child = python("import time; time.sleep(100)")
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen({child}, start_new_session=True)\n"
        "open(sys.argv[1], 'w').write(f'{child.pid}\\n')"
    )
    pid_file = tmp_path / "pid"
    cost = measured([python(code, pid_file)], folder=tmp_path, timeout_s=60)
    assert cost.left == 1
    assert cost.failure is None
    assert has_ended(int(pid_file.read_text()))


@needs_wait4
def test_commands_are_joined_by_pipes(tmp_path: Path) -> None:
    feeder = python("print('x' * 1_000_000, end='')")
    counter = python("import sys; sys.stderr.write(str(len(sys.stdin.read())))")
    cost = measured([feeder, counter], folder=tmp_path, timeout_s=60)
    assert cost.failure is None
    assert (tmp_path / "said1.txt").read_text() == "1000000"


@needs_wait4
def test_a_failure_is_told_in_the_last_words_of_the_command(tmp_path: Path) -> None:
    feeder = python("print('x' * 1_000_000)")  # which fails too, for want of a reader
    cost = measured(
        [feeder, python("import sys; sys.exit('oh no')")], folder=tmp_path, timeout_s=60
    )
    assert (tmp_path / "said0.txt").read_text()
    assert cost.failure == "exit status 1: oh no"


@needs_linux
def test_memory_is_that_of_the_tree_and_forks_count_once(tmp_path: Path) -> None:
    hold = "import time\nheld = b'x' * (64 << 20)\n"
    forked = f"{hold}import os\nif not os.fork(): time.sleep(0.6); os._exit(0)\nos.wait()"
    once = measured([python(forked)], folder=tmp_path, timeout_s=60)
    child = python(f"{hold}time.sleep(0.6)")
    twice = measured(
        [python(f"{hold}import subprocess\nsubprocess.run({child})")],
        folder=tmp_path,
        timeout_s=60,
    )
    assert 64 <= once.peak_bytes / 2**20 < 128
    assert 128 <= twice.peak_bytes / 2**20 < 192


def test_the_naive_blend() -> None:
    frame = np.full((2, 3, 3), 201, np.uint8)
    behind = np.full((2, 3, 3), 100, np.uint8)
    matte = np.array([[0, 1, 0.5], [0.25, 0.75, 1]], np.float32)
    found = naive.blended(frame, behind, matte)
    # Cut off, not rounded: 150.5, 125.25 and 175.75.
    expected = np.array([[100, 201, 150], [125, 175, 201]])
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))


def test_the_naive_matte_is_stretched_and_of_the_frames_size() -> None:
    frame = np.zeros((48, 80, 3), np.uint8)
    frame[:, 40:, 2] = 255  # red, where OpenCV has it
    matte = naive.matte_of(frame, lambda rgb: rgb[:, :1])
    assert matte.shape == (48, 80)
    assert matte.dtype == np.float32
    assert not matte[:, :38].any()
    np.testing.assert_allclose(matte[:, 42:], 1, atol=1e-6)


def test_the_naive_loop_takes_every_frame_and_repeats_the_background(tmp_path: Path) -> None:
    grey = np.full((4, 24 * 32 * 3 // 2), 128, np.uint8)
    behind = make_clip(tmp_path / "behind.mp4", size=(32, 24), raw=grey.tobytes())
    dark = np.full((10, 48 * 64 * 3 // 2), 128, np.uint8)
    dark[:, : 48 * 64] = DARK
    clip = make_clip(tmp_path / "clip.mp4", size=(64, 48), raw=dark.tobytes())
    right = torch.zeros(1, 1, naive.SIDE_PX, naive.SIDE_PX)
    right[..., naive.SIDE_PX // 2 :] = 20
    output = tmp_path / "out.mp4"
    assert naive.composite(clip, behind, output, lambda _: right - 10) == 10
    facts = stream_facts(output)
    assert (facts.frames, facts.width, facts.height) == (10, 64, 48)
    assert facts.rate == Fraction(25)
    luma = decode_planes(output)[0].astype(int)
    assert np.abs(luma[:, :, :24] - 128).max() < 12
    assert np.abs(luma[:, :, 40:] - DARK).max() < 12


def test_clip_and_background_are_prepared_alike(tmp_path: Path, talking_clip: Path) -> None:
    behind = make_clip(tmp_path / "behind.mp4", size=(32, 48), frames=5, rate="10")
    clip = e2e.prepared(talking_clip, behind, 60, 24, tmp_path)
    assert (clip.frames, clip.width, clip.height, clip.rate) == (60, 32, 24, 25)
    for path in (clip.path, clip.background):
        facts = stream_facts(path)
        assert (facts.frames, facts.width, facts.height) == (60, 32, 24)
        assert (facts.rate, facts.codec) == (25, "h264")
    (sound,) = stream_facts(clip.path).audio
    assert float(sound.end - sound.start) == pytest.approx(60 / 25, abs=0.05)


def test_frames_of_results_are_counted(tmp_path: Path, plain_clip: Path) -> None:
    for name in ("000000.png", "000001.png", "said.txt"):
        (tmp_path / name).touch()
    assert e2e.frames_in(tmp_path) == 2
    assert e2e.frames_in(plain_clip) == 10
    assert e2e.frames_in(tmp_path / "said.txt") == 0
    assert e2e.frames_in(tmp_path / "nothing.mp4") == 0


@needs_wait4
def test_rounds_alternate_and_a_failure_does_not_stop_the_others(
    tmp_path: Path, plain_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"

    def copying(clip: Clip, output: Path) -> list[list[str]]:
        return [python(copy, clip.path, output)]

    def failing(clip: Clip, output: Path) -> list[list[str]]:
        return [python("import sys; sys.exit('no luck')")]

    tools = {
        "vidbg (own)": Tool("vidbg (own)", "out.mp4", copying, is_vidbg=True),
        "naive": Tool("naive", "out.mp4", copying),
        "rembg": Tool("rembg", "", failing),
    }
    clips = {n: Clip(plain_clip, plain_clip, n, 64, 48, Fraction(25)) for n in (10, 8, 2)}
    options = argparse.Namespace(frames=10, peer_frames=8, short=2, timeout=60, keep=None)
    found = Comparison(list(tools))
    for number in range(2):
        e2e.compare(tools, clips, found, number, options)
    started = [line for line in capsys.readouterr().err.splitlines() if line[:5] == "round"]
    assert started == [
        "round 1: vidbg (own), 10 frames",
        "round 1: vidbg (own), 2 frames",
        "round 1: naive, 8 frames",
        "round 1: naive, 2 frames",
        "round 1: rembg, 8 frames",
        "round 2: naive, 8 frames",
        "round 2: naive, 2 frames",
        "round 2: vidbg (own), 10 frames",
        "round 2: vidbg (own), 2 frames",
    ]
    assert found.notes == {"rembg": "failed in round 1: exit status 1: no luck"}
    assert [run.frames_out for run in found.whole["vidbg (own)"]] == [10, 10]
    assert not found.whole["rembg"]


def test_a_package_that_cannot_be_installed_says_so_in_pips_last_words() -> None:
    with pytest.raises(NotAvailableError, match=r"^cannot be installed: no such package$"):
        peers.run_or_raise(python("import sys; print('trying'); sys.exit('no such package')"))


def test_peers_have_a_home_of_their_own_and_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    monkeypatch.setenv("https_proxy", "http://proxy:80")
    found = peers.secluded(tmp_path, "rembg")
    assert found["HOME"] == str(tmp_path / "rembg-home")
    assert "/somewhere" not in found.values()
    assert found["https_proxy"] == "http://127.0.0.1:9"
    assert found["PATH"] == os.environ["PATH"]
