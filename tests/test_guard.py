"""The guard: it ends what is watched when we are killed, and does not outlive what it watches."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from vidbg.media import ffmpeg as ff
from vidbg.media import guard

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX process groups")

_PROGRAM = """
import os, subprocess, sys, time
from vidbg.media import guard
def sleeper():
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    guard.watch(process.pid)
    return process.pid
first, forgotten = sleeper(), sleeper()
if "kill" in sys.argv:
    guard._guard.kill()
    guard._guard.wait()
second = sleeper()
guard.forget(forgotten)
print(first, second, guard._guard.pid, forgotten, flush=True)
if "fork" in sys.argv and not os.fork():
    print(os.getpid(), sleeper(), guard._guard.pid, flush=True)
time.sleep(600)
"""


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", ["as it is", "kill", "fork"])
def test_what_is_watched_ends_with_a_process_that_is_killed(how: str) -> None:
    """Also if the first guard was killed before, and if a fork of the process goes on."""
    job = subprocess.Popen([sys.executable, "-c", _PROGRAM, how], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    *watched, forgotten = map(int, job.stdout.readline().split())
    forked = [int(pid) for pid in job.stdout.readline().split()] if how == "fork" else []
    job.kill()
    job.wait()
    job.stdout.close()
    try:
        until(lambda: not any(map(runs, watched)))
        assert runs(forgotten)
        assert all(map(runs, forked))
        if forked:  # which has a guard of its own
            psutil.Process(forked[0]).kill()
            until(lambda: not any(map(runs, forked)))
    finally:
        psutil.Process(forgotten).kill()


def test_it_goes_with_the_last_that_is_watched() -> None:
    groups = [1 << 22, (1 << 22) + 1]  # above all numbers of processes
    for group in groups:
        guard.watch(group)
    assert guard._guard is not None
    pid = guard._guard.pid
    guard.forget(groups[0])
    assert runs(pid)
    guard.forget(groups[0])  # again, of what is not watched
    guard.forget(groups[1])
    assert not runs(pid)


def test_what_has_ended_is_watched_no_more() -> None:
    """Its number may be another's from then on, long before whoever started it is done with it."""
    with ff.Process(["-version"], reads=True) as process:
        assert guard._guard is not None
        process.wait()
        assert guard._guard is None


def test_without_a_shell_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_SHELL", "/no/such/shell")
    guard.watch(1 << 22)
    assert guard._guard is None
    guard.forget(1 << 22)
