"""What a command costs, with all processes that it starts: seconds, CPU time, memory.

CPU time is the kernel's own account, not a sum of samples: wait4(2) gives a child's user and
system time when it has ended, with those of all its descendants that were waited for, also of
such as lived for a millisecond. What that leaves out are descendants that nobody waits for:
workers that outlive their parent, helpers such as the resource tracker of multiprocessing, which
ends after it. So on Linux this process makes itself the reaper of orphans (PR_SET_CHILD_SUBREAPER
of prctl(2)): they become its children, are waited for in the same way and counted to the last
tick; sampling them would miss what they do after the last sample, and those that live between two.
Elsewhere, what the last sample saw of descendants that outlive the commands is added.

Memory is the largest sum of resident sets, sampled; pages that processes share are counted once
for each, so the true figure is lower.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from memory import resident_bytes

# Each sample takes one to four milliseconds of a core.
SAMPLE_S = 0.1
_POLL_S = 0.005
# How long descendants may outlive the command before they are ended.
_GRACE_S = 3.0
_TAIL_BYTES = 4000
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    """What running a pipeline of commands took.

    Attributes:
        seconds: From the start of the first command to the end of the last.
        user_s: Time of all processes in user mode, in seconds.
        system_s: Time of all processes in the kernel, in seconds.
        peak_bytes: Largest sum of resident sets.
        left: How many descendants were still there some seconds after the commands had ended.
        failure: Why it does not count, with the last line of its messages; None if it does.
    """

    seconds: float
    user_s: float
    system_s: float
    peak_bytes: int
    left: int = 0
    failure: str | None = None

    @property
    def cpu_s(self) -> float:
        """User and system time of all processes, in seconds."""
        return self.user_s + self.system_s


class _Family:
    """The children that this process has got since a moment, and what they have used up.

    Args:
        is_reaper: Orphans become this process's children.
    """

    def __init__(self, is_reaper: bool) -> None:
        self.peak_bytes = 0
        self.user_s = self.system_s = 0.0
        self._is_reaper = is_reaper
        self._me = psutil.Process()
        self._strangers = self._me.children()
        # CPU seconds in user mode and in the kernel, of what may leave the family.
        self._seen: dict[psutil.Process, tuple[float, float]] = {}

    def members(self) -> list[psutil.Process]:
        """Return all descendants, those too that have lost their parent."""
        strangers = set(self._strangers)
        for stranger in self._strangers:
            with suppress(psutil.NoSuchProcess):
                strangers |= set(stranger.children(recursive=True))
        members = {m for m in self._me.children(recursive=True) if m not in strangers}
        return [*members, *(m for m in self._seen if m not in members and m.is_running())]

    def sample(self) -> None:
        """Note what all have now."""
        members = self.members()
        self.peak_bytes = max(self.peak_bytes, resident_bytes(members))
        if not self._is_reaper:
            for member in members:
                with suppress(psutil.NoSuchProcess):
                    times = member.cpu_times()
                    self._seen[member] = (
                        times.user + times.children_user,
                        times.system + times.children_system,
                    )

    def reap(self, pid: int) -> int | None:
        """Return a child's exit status, and count its time; None if it has not ended."""
        try:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        if not ended:
            return None
        self.user_s += usage.ru_utime
        self.system_s += usage.ru_stime
        return os.waitstatus_to_exitcode(status)

    def outlived(self) -> int:
        """Wait a little for those that outlive the commands; return how many stay."""
        if not self._is_reaper:
            alive = [member for member in self._seen if member.is_running()]
            self.user_s += sum(self._seen[member][0] for member in alive)
            self.system_s += sum(self._seen[member][1] for member in alive)
            return len(alive)
        deadline = time.monotonic() + _GRACE_S
        while self._orphans():
            if time.monotonic() > deadline:
                return len(self.members())
            time.sleep(_POLL_S)
        return 0

    def _orphans(self) -> list[psutil.Process]:
        """Return children that have not ended, and count the time of those that have."""
        children = [child for child in self._me.children() if child not in self._strangers]
        return [child for child in children if self.reap(child.pid) is None]

    def end(self, popen: Sequence[subprocess.Popen[bytes]]) -> None:
        """Kill all that still run, and wait for them."""
        while True:
            for process in popen:
                if process.returncode is None:
                    process.returncode = self.reap(process.pid)
            if not self._orphans() and not self.members():
                return
            # One that is killed leaves orphans, which come to us, or has just started more.
            for member in self.members():
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            time.sleep(_POLL_S)


def measured(
    commands: Sequence[Sequence[str]],
    *,
    folder: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> Cost:
    """Run commands, each one's output the next one's input, and return what they took together.

    What the last one writes to its standard output is dropped. All processes that they have
    started are gone when this returns, whatever ends it.

    Args:
        commands: Argument lists.
        folder: Where they run, and where their messages are kept: said0.txt, said1.txt.
        timeout_s: Seconds after which they are killed.
        environment: Their environment; None for this process's own.

    Raises:
        OSError: A program is missing or cannot be started.
    """
    popen: list[subprocess.Popen[bytes]] = []
    failure, left = None, 0
    with orphans_adopted() as is_reaper:
        family = _Family(is_reaper)
        began = time.monotonic()
        try:
            for number, command in enumerate(commands):
                is_last = number == len(commands) - 1
                with (folder / f"said{number}.txt").open("wb") as said:
                    process = subprocess.Popen(
                        command,
                        stdin=popen[-1].stdout if popen else subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL if is_last else subprocess.PIPE,
                        stderr=said,
                        cwd=folder,
                        env=environment,
                        start_new_session=True,
                    )
                if popen and popen[-1].stdout:
                    popen[-1].stdout.close()  # so that it notices when its reader has gone
                popen.append(process)
            next_sample = began
            while any(process.returncode is None for process in popen):
                now = time.monotonic()
                if now - began > timeout_s:
                    failure = f"took more than {timeout_s:.0f} s"
                    break
                if now >= next_sample:
                    family.sample()
                    next_sample = time.monotonic() + SAMPLE_S
                for process in popen:
                    if process.returncode is None:
                        process.returncode = family.reap(process.pid)
                time.sleep(_POLL_S)
            seconds = time.monotonic() - began
            if failure is None:
                left = family.outlived()
        finally:
            for process in popen:
                if process.stdout:
                    process.stdout.close()
            family.end(popen)
    statuses = [process.returncode for process in popen]
    if failure is None and any(statuses):
        # The last that failed: those before it fail because nobody reads on.
        number = max(number for number, status in enumerate(statuses) if status)
        words = _last_line((folder / f"said{number}.txt").read_bytes())
        failure = f"exit status {statuses[number]}: {words}"
    return Cost(seconds, family.user_s, family.system_s, family.peak_bytes, left, failure)


@contextmanager
def orphans_adopted() -> Iterator[bool]:
    """Make this process the parent of its descendants' orphans; give whether that works here."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    is_reaper = prctl is not None and prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield is_reaper
    finally:
        if prctl is not None and is_reaper:
            prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _last_line(said: bytes) -> str:
    """Return the last line of messages that says anything."""
    lines = said[-_TAIL_BYTES:].decode("utf-8", "replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
