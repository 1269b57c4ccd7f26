"""Signals and pipes that close: a job ends in good order, or goes on, and is ended with us."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from clips import decode_planes, frame_numbers, stream_facts
from jobs import KEYED, KINDS, SOON_S, VIDBG, Job, Kind

Start = Callable[..., Job]

INTERRUPTED = 130


@pytest.mark.parametrize(
    ("number", "kind", "times"),
    [
        (signal.SIGINT, "over a video", 3),
        (signal.SIGINT, "resume", 3),
        (signal.SIGTERM, "resume", 1),
        (signal.SIGHUP, "sequence", 1),
    ],
)
def test_a_signal_ends_the_job(start: Start, number: signal.Signals, kind: str, times: int) -> None:
    """As often as it comes: once, or from somebody who cannot wait."""
    job = start(kind, pace=10 if kind == "resume" else 1)
    if kind == "resume":
        job.until(job.kept_frames)
    job.ffmpeg("encoder")
    for _ in range(times):
        os.killpg(job.popen.pid, number)  # as a terminal does
        time.sleep(0.02)
    ended = job.end()
    assert ended.code == INTERRUPTED, ended
    kept = job.kept_frames()
    said = f"interrupted, {kept} frames are kept" if kept else "interrupted, nothing was written"
    assert ended.stderr.strip().startswith(f"vidbg: {said}")
    assert len(ended.stderr.strip().splitlines()) == 1
    assert bool(kept) == (kind == "resume")
    job.assert_nothing_lost()


def test_a_killed_job_takes_its_ffmpegs_with_it(start: Start) -> None:
    """Also a decoder that looks for something, and reads or writes no pipe for a long time."""
    job = start(stand_in={"decoder": "sleep 600 & wait"})
    job.waiting_itself()
    assert any(process.name() == "sleep" for process in job.all_processes())
    job.popen.kill()
    assert job.end().code == -signal.SIGKILL
    part = [*job.out.glob("*.part.*")]  # nobody was there to remove it
    assert len(part) <= 1
    job.assert_nothing_lost(*part)
    shutil.rmtree(job.out)


@pytest.mark.parametrize(
    ("module", "number"),
    [("click", signal.SIGINT), ("click", signal.SIGTERM), ("cv2", signal.SIGINT)],
)
def test_a_signal_that_comes_before_the_job(
    tmp_path: Path, plain_clip: Path, module: str, number: signal.Signals
) -> None:
    """While the command is imported, which for click and OpenCV takes as long as wanted here."""
    (tmp_path / f"{module}.py").write_text("import os, time\nos.write(1, b'.')\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    out = tmp_path / "out.mp4"
    with subprocess.Popen(
        [VIDBG, plain_clip, "--bg", "red", *KEYED, "-o", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.read(1)
        job.send_signal(number)
        assert job.stderr.read().strip() == "vidbg: interrupted, nothing was written"
    assert job.returncode == INTERRUPTED
    assert not out.exists()


def test_a_killed_job_takes_the_reader_of_its_weights_with_it(tmp_path: Path) -> None:
    """Which here is never done with importing PyTorch."""
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "some.pth").write_bytes(b"weights")
    program = (
        "from pathlib import Path\nfrom vidbg.matting import weights\n"
        f"weights.read_arrays(Path({str(tmp_path / 'some.pth')!r}))"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as job:
        deadline = time.monotonic() + SOON_S
        while not (readers := psutil.Process(job.pid).children()) or readers[0].num_threads() < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.kill()
    (reader,) = readers
    while reader.is_running() and reader.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_job_that_is_suspended_goes_on(start: Start, number: signal.Signals) -> None:
    """For longer than an FFmpeg may stand still; SIGSTOP stops these too."""
    job = start(KINDS["plain"], "--end", "3", environment={"VIDBG_STALL_S": "1.5"})
    job.ffmpeg("encoder")
    suspended = [psutil.Process(job.popen.pid)]
    if number == signal.SIGSTOP:
        suspended = job.all_processes()
        assert len(suspended) >= 3
    else:
        os.killpg(job.popen.pid, number)
    for process in suspended:
        process.send_signal(number)
    job.until(lambda: all(p.status() == psutil.STATUS_STOPPED for p in suspended))
    time.sleep(2.2)
    for process in suspended:
        process.send_signal(signal.SIGCONT)
    ended = job.end(60)
    assert (ended.code, ended.stderr) == (0, "")
    luma = decode_planes(job.output)[0]
    assert frame_numbers(luma) == list(range(150))
    job.assert_nothing_left(job.output)


def test_a_signal_that_comes_at_a_bad_time_is_not_lost() -> None:
    """Python drops what is raised while it clears up an object, such as a frame's memory."""
    program = """
import signal, time, weakref
from vidbg.cli import dispatch
dispatch._unwind_on_signals()
class Frame: pass
frame = Frame()
weakref.finalize(frame, signal.raise_signal, signal.SIGTERM)
try:
    del frame
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON_S)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


# --- pipes and terminals that go away ----------------------------------------------------------


def talkative(kind: str) -> Kind:
    """Return a kind of job that says what it does."""
    quiet = KINDS[kind]
    return Kind(tuple(a for a in quiet.arguments if a != "-q"), quiet.output, quiet.keeps)


def test_a_reader_of_results_that_goes_away(start: Start) -> None:
    """As in: vidbg --json ... | head -1."""
    readable, writable = os.pipe()
    job = start("plain", "--json", stdout=writable)
    os.close(writable)
    with os.fdopen(readable) as results:
        assert "start" in results.readline()
    ended = job.end()
    assert (ended.code, ended.stderr) == (1, "")
    job.assert_nothing_lost()


def test_a_reader_that_is_interrupted_too(start: Start) -> None:
    """As in: vidbg --json ... | tee log, and Ctrl-C ends both."""
    readable, writable = os.pipe()
    job = start("plain", "--json", stdout=writable)
    os.close(writable)
    job.ffmpeg("encoder")
    os.close(readable)
    job.popen.send_signal(signal.SIGINT)
    ended = job.end()
    assert ended.code == INTERRUPTED, ended
    assert ended.stderr.strip() == "vidbg: interrupted, nothing was written"
    job.assert_nothing_lost()


@pytest.mark.parametrize("kind", ["plain", "folder"])
def test_a_job_outlives_those_who_listen(start: Start, kind: str) -> None:
    """What is said on the way is lost, the results are not: they are there, and named."""
    readable, writable = os.pipe()
    job = start(talkative(kind), "-v", "--end", "0.5", stderr=writable)
    os.close(writable)
    with os.fdopen(readable) as talk:
        talk.readline()
    ended = job.end(60)
    assert ended.code == 0
    results = ended.stdout.splitlines()
    assert len(results) == (1 if kind == "plain" else 2)
    assert str(job.output) in results
    assert {stream_facts(Path(path)).frames for path in results} <= {25, 13}


def test_a_terminal_that_is_closed(start: Start) -> None:
    """The hang-up comes, and nothing can be said about it any more."""
    readable, writable = os.pipe()
    job = start(talkative("plain"), stderr=writable)
    os.close(writable)
    job.ffmpeg("encoder")
    os.close(readable)
    job.popen.send_signal(signal.SIGHUP)
    assert job.end().code == INTERRUPTED
    job.assert_nothing_lost()


def test_results_that_cannot_be_written(start: Start) -> None:
    """A log on a full disk."""
    with Path("/dev/full").open("w") as full:
        job = start("plain", "--json", stdout=full.fileno())
    ended = job.end()
    assert ended.code == 1
    assert ended.stderr == "vidbg: No space left on device\n"
    job.assert_nothing_lost()
