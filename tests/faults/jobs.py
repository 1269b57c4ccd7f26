"""Jobs that a fault is put into while they run, and what has to be true of each afterwards.

A :class:`Job` is the installed command in a process group of its own, on a small clip that its
decoder gives out at a steady pace, so that there is time to break something. The pace, and those
faults that cannot be done to the real FFmpeg from outside, come from a shell script that stands
for it (``VIDBG_FFMPEG`` names the script) and runs the real one.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vidbg.media import ffmpeg as ff

VIDBG = Path(sys.executable).parent / "vidbg"
KEYED = ("--model", "chroma", "--key", "#00ff00")
SIZE = (64, 48)
RATE = 50
FRAMES = 1000

# A job has to be over, with all that it started, so long after a fault. Two seconds are what is
# meant; machines that run tests are busy.
SOON_S = 15.0
_POLL_S = 0.03
_MARK = "VIDBG_TEST_JOB"
_PRECIOUS = b"made with love, years ago"

# What an FFmpeg does is seen from its arguments.
_STAND_IN = """#!/bin/sh
ffmpeg={ffmpeg}
case " $* " in
  *" -i pipe:0 "*) role=encoder ;;
  *"/behind."*" pipe:1 ") role=background ;;
  *" rawvideo "*" pipe:1 ") role=decoder ;;
  *) role=other ;;
esac
if [ $role = decoder ] || [ $role = background ]; then
  for argument; do
    shift
    [ "$argument" = -i ] && set -- "$@" -readrate {pace}
    set -- "$@" "$argument"
  done
fi
case $role in
{faults}
esac
exec "$ffmpeg" "$@"
"""


@dataclass(frozen=True)
class Kind:
    """A way to use the command.

    Attributes:
        arguments: Of the command; ``{source}``, ``{behind}`` and ``{out}`` (a folder) are filled
            in.
        output: What becomes of it, below the output folder.
        keeps: What may stay there after a failure, as a glob pattern, because it was asked for.
    """

    arguments: tuple[str, ...]
    output: str
    keeps: str | None = None


KINDS = {
    "plain": Kind(("{source}", "--bg", "red", "-o", "{out}/out.mp4", "-y", "-q"), "out.mp4"),
    "alpha": Kind(("{source}", "--alpha", "-o", "{out}/out.mov", "-y", "-q"), "out.mov"),
    "sequence": Kind(
        ("{source}", "--alpha", "-o", "{out}/pictures/n%03d.png", "-y", "-q"), "pictures/n001.png"
    ),
    "resume": Kind(
        ("{source}", "--bg", "red", "-o", "{out}/out.mp4", "-y", "--resume", "-q"),
        "out.mp4",
        keeps=".out.mp4.vidbg-resume*",
    ),
    "folder": Kind(
        ("{source}", "{behind}", "--bg", "red", "-o", "{out}", "-y", "-q"),
        "in.vidbg.mp4",
        keeps=".*vidbg*",
    ),
    "over a video": Kind(
        ("{source}", "--bg", "{behind}", "--audio", "mix", "-o", "{out}/out.mp4", "-y", "-q"),
        "out.mp4",
    ),
}


@dataclass
class Ended:
    """How a job ended."""

    code: int
    stdout: str
    stderr: str


class Job:
    """A running command.

    Args:
        folder: A new folder for all that it reads and writes.
        clip: What it works on: a copy of it, so that it can be spoilt.
        behind: A video for the background.
        kind: What is to be made.
        more: Further arguments.
        stand_in: By role (encoder, decoder, background), what a shell does in place of FFmpeg,
            or before it.
        environment: Further variables.
        prepare: Called in the new process before the command.
        pace: How many times faster than they play clip and background are given out.
        out: Where its outputs go, if elsewhere.
        spoils_source: The test writes to the clip.
        stdout: What the command has for its standard output.
        stderr: And for its standard error.
    """

    def __init__(
        self,
        folder: Path,
        clip: Path,
        behind: Path,
        kind: Kind | str = "plain",
        *more: str,
        stand_in: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
        pace: int = 2,
        out: Path | None = None,
        spoils_source: bool = False,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> None:
        self.kind = KINDS[kind] if isinstance(kind, str) else kind
        self.out = out or folder / "out"
        self._spoils_source = spoils_source
        self.source = folder / f"in{clip.suffix}"
        self.source.write_bytes(clip.read_bytes())
        self.output = self.out / self.kind.output
        self.named = self.output.with_name(self.output.name.replace("001", "%03d"))
        self.output.parent.mkdir(parents=True)
        self.output.write_bytes(_PRECIOUS)
        self._content = self.source.read_bytes()
        places = {"source": self.source, "behind": behind, "out": self.out}
        arguments = [part.format(**places) for part in self.kind.arguments]
        program = folder / "ffmpeg-stand-in"
        faults = {role: body.format(**places) for role, body in (stand_in or {}).items()}
        program.write_text(_script(pace, faults))
        program.chmod(0o755)
        self._token = uuid.uuid4().hex
        variables = {
            **os.environ,
            "VIDBG_FFMPEG": str(program),
            _MARK: self._token,
            "PYTHONFAULTHANDLER": "1",
        }
        self.popen = subprocess.Popen(
            [VIDBG, *arguments, *KEYED, *more],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=variables | dict(environment or {}),
            process_group=0,
            preexec_fn=_heeding(prepare),
        )

    def all_processes(self) -> list[psutil.Process]:
        """Return all that the job has started and that still runs, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                is_ours = process.environ().get(_MARK) == self._token
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def ffmpeg(self, role: str) -> psutil.Process:
        """Return an FFmpeg, once it has read or written some frames."""
        few_bytes = 8 * SIZE[0] * SIZE[1] * 3 // 2

        def busy() -> psutil.Process | None:
            for process in psutil.Process(self.popen.pid).children(recursive=True):
                with suppress(psutil.Error):
                    moved = process.io_counters()
                    count = moved.read_chars if role == "encoder" else moved.write_chars
                    if count >= few_bytes and _role(process.cmdline()) == role:
                        return process
            return None

        return self.until(busy)

    def waiting_encoder(self) -> psutil.Process:
        """Return an encoder that waits for its first frame, which something holds back."""
        return self._idle(lambda: [p for p in self._children() if _role(p.cmdline()) == "encoder"])

    def waiting_itself(self) -> psutil.Process:
        """Return vidbg's own process when it waits for a decoder, which something holds back."""
        own = psutil.Process(self.popen.pid)
        return self._idle(
            lambda: [own] if any(_role(p.cmdline()) == "decoder" for p in self._children()) else []
        )

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)

    def _idle(self, candidates: Callable[[], list[psutil.Process]]) -> psutil.Process:
        """Return the first of some processes that sleeps and has done nothing for a while."""
        last: dict[psutil.Process, float] = {}

        def idle() -> psutil.Process | None:
            with suppress(psutil.Error):
                for process in candidates():
                    used_s = sum(process.cpu_times()[:2])
                    if last.get(process) == used_s and process.status() == psutil.STATUS_SLEEPING:
                        return process
                    last[process] = used_s
                    time.sleep(0.3)
            return None

        return self.until(idle)

    def until(self, happened: Callable[[], Any]) -> Any:
        """Wait for something while the job runs, and return it."""
        deadline = time.monotonic() + 60
        while True:
            with suppress(psutil.NoSuchProcess):
                if found := happened():
                    return found
            if self.popen.poll() is not None:
                stdout, stderr = self.popen.communicate()
                raise AssertionError(f"it ended with {self.popen.returncode}: {stdout}{stderr}")
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(_POLL_S)

    def kept_frames(self) -> int:
        """Return how many frames of a job with ``--resume`` are in finished segments."""
        from vidbg.media.segments import parse_journal, work_folder

        try:
            journal = parse_journal((work_folder(self.output) / "journal").read_bytes())
        except FileNotFoundError:
            return 0
        return 0 if journal is None else sum(segment.frames for segment in journal.segments)

    def end(self, within_s: float = SOON_S) -> Ended:
        """Wait for the end of the command and of all that it started."""
        deadline = time.monotonic() + within_s
        try:
            stdout, stderr = self.popen.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGABRT)  # with faulthandler: where it stands
            raise AssertionError(f"it goes on: {self.popen.communicate()}") from None
        while left := self.all_processes():
            assert time.monotonic() < deadline, f"left behind: {[p.cmdline() for p in left]}"
            time.sleep(_POLL_S)
        return Ended(self.popen.returncode, stdout or "", stderr or "")

    def close(self) -> None:
        """End what still runs, of a job whose test has failed."""
        for process in self.all_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.kill()
        self.popen.communicate()

    def says_what_is_kept(self) -> list[str]:
        """Return what an error has to say, of a job that can be gone on with."""
        kept = self.kept_frames()
        return [f"{kept} frames are kept: run it again with --resume"] if kept else []

    def assert_nothing_lost(self, *but: Path) -> None:
        """Check that the clip and the earlier result are as they were, and nothing else is there.

        Of a job that was to leave what it can go on with, that may be there too.

        Args:
            *but: What else may be there.
        """
        if not self._spoils_source:
            assert self.source.read_bytes() == self._content, "the clip was written to"
        assert self.output.read_bytes() == _PRECIOUS, "what was there is lost"
        self.assert_nothing_left(self.output, *but)

    def assert_nothing_left(self, *but: Path) -> None:
        """Check that nothing is in the output folder but some files, and what was asked for."""
        kept = set(but)
        if self.kind.keeps is not None:
            for place in self.out.glob(self.kind.keeps):
                kept |= {place, *place.rglob("*")}
                assert not list(place.rglob("*.part*")), "half a segment is left"
        left = {path for path in self.out.rglob("*") if not path.is_dir()} - kept
        assert not left, f"left behind: {left}"

    def assert_failed(self, ended: Ended, *words: str, path: Path | None = None) -> None:
        """Check that the job said in one line what failed, and of which file.

        Args:
            ended: How it ended.
            words: What has to be in the line.
            path: The file that it is about; None for the output.
        """
        assert ended.code == 1, ended
        lines = ended.stderr.splitlines()
        assert len(lines) == 1, ended.stderr
        for part in (str(path or self.named), *words):
            assert part in lines[0], lines[0]


def _heeding(prepare: Callable[[], None] | None) -> Callable[[], None]:
    def prepared() -> None:
        # What nohup, or a shell's background jobs, hand down is undone: signals that are ignored.
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        if prepare is not None:
            prepare()

    return prepared


def _script(pace: int, stand_in: Mapping[str, str]) -> str:
    faults = "\n".join(f"  {role}) {body} ;;" for role, body in stand_in.items())
    return _STAND_IN.format(ffmpeg=shlex.quote(ff.executable()), pace=pace, faults=faults)


def _role(argv: Sequence[str]) -> str | None:
    """Return what an FFmpeg does, seen from its arguments as the stand-in sees it."""
    if argv[-1:] == ["pipe:1"]:
        return "background" if any("/behind." in part for part in argv) else "decoder"
    return "encoder" if "pipe:0" in argv else None
