"""One run of the command that something happens to, with what it took and what it left behind."""

from __future__ import annotations

import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from memory import resident_bytes

from vidbg.media.segments import is_work_folder

_POLL_S = 0.02
_SHORT_POLL_S = 0.002
_SAMPLE_S = 0.1
# How long a job may take to end that was told to, and its FFmpegs after it was killed.
_END_S = 20.0
_ORPHANS_S = 10.0
_TAIL_BYTES = 20_000
_TOKEN = "VIDBG_SOAK"

# What happens, and with which chance: what takes the process away without a word most of all.
HAPPENINGS = {
    "kill": 8,
    "power cut": 4,
    "SIGTERM": 2,
    "SIGINT": 2,
    "SIGHUP": 1,
    "stop": 2,
    "FFmpeg killed": 3,
    "disk full": 2,
}
_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")


@dataclass
class Peaks:
    """The most that any run took, of its whole tree of processes.

    Attributes:
        resident: Bytes of the sum of resident sets.
        files: Open file descriptors of the command itself.
        threads: Threads of the command itself.
    """

    resident: int = 0
    files: int = 0
    threads: int = 0

    def note(self, root: psutil.Process) -> None:
        """Look at a command and all that it has started."""
        with suppress(psutil.Error):
            self.resident = max(
                self.resident, resident_bytes([root, *root.children(recursive=True)])
            )
            if hasattr(root, "num_fds"):
                self.files = max(self.files, root.num_fds())
            self.threads = max(self.threads, root.num_threads())


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        command: Its command line.
        happening: What happened to it: a key of :data:`HAPPENINGS`, or "" for nothing.
        did_happen: It came to that before the run was over.
        status: Its exit status, negative for a signal.
        seconds: What it took.
        said: Its standard error.
        is_late: It had to be ended, because it did not end in time.
        orphans: Command lines of processes that outlived it for long, and were ended.
    """

    command: list[str]
    happening: str
    did_happen: bool = False
    status: int = 0
    seconds: float = 0.0
    said: str = ""
    is_late: bool = False
    orphans: list[str] = field(default_factory=list)

    def problems(self, *, is_folder: bool) -> list[str]:
        """Return what is wrong with its exit status and its words.

        Args:
            is_folder: It is of several clips, and lists those that failed in a table.
        """
        found = [f"left a process behind: {orphan}" for orphan in self.orphans]
        if self.is_late:
            return [*found, "did not end in time"]
        allowed = {0}
        if self.did_happen:
            allowed |= _statuses_after(self.happening)
        # A terminal shows ^C, and click goes to a new line behind that.
        lines = [line for line in self.said.splitlines() if line]
        if self.status not in allowed:
            last = lines[-1] if lines else "no message"
            found.append(f"exit status {self.status} after {self.happening or 'nothing'}: {last}")
        if "Traceback" in self.said:
            found.append(f"a traceback: {lines[-1]}")
        elif self.status in (1, 130) and not is_folder and not _is_told(lines):
            found.append(f"its failure is not told in one line: {self.said!r}")
        return found


def _is_told(lines: list[str]) -> bool:
    return len(lines) == 1 and lines[0].startswith("vidbg: ")


def _statuses_after(happening: str) -> set[int]:
    if happening in ("kill", "power cut"):
        return {-signal.SIGKILL}
    if happening in _SIGNALS:
        return {130}
    return {1} if happening in ("FFmpeg killed", "disk full") else set()


def command_line() -> list[str]:
    """Return the installed command, the one beside this Python."""
    script = Path(sys.executable).with_name("vidbg")
    return [str(script)] if script.exists() else [sys.executable, "-m", "vidbg"]


def run(
    arguments: Sequence[str],
    folder: Path,
    peaks: Peaks,
    *,
    timeout_s: float,
    happening: str = "",
    at_s: float = 0.0,
    or_when: Callable[[], bool] | None = None,
    chance: random.Random | None = None,
    file_bytes: int | None = None,
    feed: Path | None = None,
    meanwhile: Callable[[float], bool] | None = None,
) -> Ended:
    """Run the command once. Nothing of it runs any more when this returns.

    Args:
        arguments: What follows ``vidbg``.
        folder: Where it runs; what it says is kept there, and TMPDIR is ``tmp`` there.
        peaks: Where the most that it takes is noted.
        timeout_s: Seconds after which it is ended, which is a failure.
        happening: What happens to it; "" for nothing.
        at_s: Seconds from its start after which that happens.
        or_when: It happens instead as soon as this is so.
        chance: What else is left to chance about that.
        file_bytes: How large files can become, for "disk full".
        feed: A file for its standard input.
        meanwhile: Called with the seconds since the start, and says when the command, which does
            not end by itself, is to be told to.
    """
    chance = chance or random.Random(0)
    token = secrets.token_hex(8)
    home = folder / "tmp"
    home.mkdir(exist_ok=True)
    ended = Ended([*command_line(), *arguments], happening)
    environment = {**os.environ, _TOKEN: token, "TMPDIR": str(home)}
    said = folder / "said.txt"
    began = time.monotonic()
    with _opened(feed) as stdin, said.open("wb") as stream:
        process = subprocess.Popen(
            ended.command,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    root = psutil.Process(process.pid)
    told_s = None
    try:
        if file_bytes is not None:
            ended.did_happen = _limit_files(process.pid, file_bytes)
        next_sample_s = 0.0
        while process.poll() is None:
            now_s = time.monotonic() - began
            if now_s > timeout_s or (told_s is not None and now_s > told_s + _END_S):
                ended.is_late = True
                break
            if now_s >= next_sample_s:
                peaks.note(root)
                next_sample_s = now_s + _SAMPLE_S
            if told_s is None and meanwhile is not None and meanwhile(now_s):
                told_s = now_s
                process.send_signal(signal.SIGINT)
            is_due = now_s >= at_s if or_when is None else or_when()
            if happening and not ended.did_happen and is_due:
                ended.did_happen = _happen(happening, process, root, chance)
                if ended.did_happen and happening in _SIGNALS:
                    told_s = time.monotonic() - began
            time.sleep(_POLL_S if or_when is None else _SHORT_POLL_S)
    finally:
        if process.poll() is None:
            process.kill()
        ended.status = process.wait()
        ended.orphans = _ended_orphans(token)
    ended.seconds = time.monotonic() - began
    with said.open("rb") as stream:
        stream.seek(max(0, said.stat().st_size - _TAIL_BYTES))
        ended.said = stream.read().decode("utf-8", "replace")
    said.unlink()
    return ended


@contextmanager
def _opened(feed: Path | None) -> Iterator[object]:
    if feed is None:
        yield subprocess.DEVNULL
        return
    with feed.open("rb") as stream:
        yield stream


def _happen(
    happening: str, process: subprocess.Popen[bytes], root: psutil.Process, chance: random.Random
) -> bool:
    """Let it happen; return whether it could."""
    if happening in ("kill", "power cut"):
        process.kill()
        return True
    if happening in _SIGNALS:
        if not _handles_signals(process.pid):
            return False
        process.send_signal(getattr(signal, happening))
        return True
    try:
        children = root.children(recursive=True)
        if happening == "stop":
            members = [root, *children]
            for member in members:
                _quietly(member.suspend)
            time.sleep(chance.uniform(0.2, 2))
            for member in members:
                _quietly(member.resume)
            return True
        encoders = [child for child in children if "ffmpeg" in child.name().lower()]
        if not encoders:
            return False
        chance.choice(encoders).kill()
    except psutil.Error:
        return False
    return True


def _handles_signals(pid: int) -> bool:
    """Say whether a command has got so far that it is more than Python starting up."""
    try:
        (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    except (OSError, ValueError):  # no Linux, or over
        return not Path("/proc").exists()
    return bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)


def _quietly(act: Callable[[], None]) -> None:
    with suppress(psutil.Error):
        act()


def _limit_files(pid: int, size: int) -> bool:
    """Let no file of a process, nor of those that it starts, grow beyond a size."""
    if not hasattr(psutil.Process, "rlimit"):
        return False
    with suppress(psutil.Error):
        psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, size))
        return True
    return False


def _ended_orphans(token: str) -> list[str]:
    """Wait for processes that a command has started and that outlive it; end those that stay."""
    deadline = time.monotonic() + _ORPHANS_S
    while True:
        left = list(_members(token))
        if not left:
            return []
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    found = []
    for orphan in left:
        with suppress(psutil.Error):
            found.append(" ".join(orphan.cmdline()))
            orphan.kill()
    return found


def _members(token: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(_TOKEN) == token:
                yield process


def cut_off(folder: Path, chance: random.Random) -> list[str]:
    """Do to work folders what a power cut can: files are shorter than they were said to be.

    What came to the disk for good before something was said of it stays: a journal loses no more
    than its last line, and that only if it is of a segment; a result that has its name is whole.

    Args:
        folder: The folder of results, with work folders in it.
        chance: Which files, and how much of them.

    Returns:
        What was done.
    """
    done = []
    for work in (path for path in folder.iterdir() if is_work_folder(path) and path.is_dir()):
        for path in sorted(work.iterdir()):
            size = path.stat().st_size
            if path.name == "lock" or not size or chance.random() < 0.5:
                continue
            length = chance.randrange(size)
            if path.name == "journal":
                content = path.read_bytes()
                *before, last = content.splitlines(keepends=True)
                if b'"segment"' not in last:
                    continue
                length = len(b"".join(before)) + chance.randrange(len(last))
            os.truncate(path, length)
            done.append(f"{path.name} {size} -> {length}")
    return done
