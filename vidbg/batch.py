"""Many clips in one run: jobs at once in threads, what is finished is skipped.

Threads and not processes, because the network is to be in memory once, or once on each of several
GPUs, over which jobs are spread. What takes time lets go of the interpreter: FFmpeg is a process of
its own, the network and array operations are native code.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidbg import machine, pipeline
from vidbg.errors import OutputError, VidbgError, as_ours
from vidbg.frames import VideoInfo
from vidbg.job import CHROMA_MODEL
from vidbg.journal import fingerprint
from vidbg.ledger import Ledger, located, place_of
from vidbg.media import ffmpeg as ff
from vidbg.media.segments import is_resumable
from vidbg.profile import stage
from vidbg.sharing import SETTLED_FRAMES, Room, SharedNetwork, cores_for, memory_bytes

if TYPE_CHECKING:
    from vidbg.job import Job, Progress
    from vidbg.matting.segmenter import NetworkSegmenter
    from vidbg.media.encode import Output

logger = logging.getLogger(__name__)

_POLL_S = 0.1
# After an interruption: when jobs' FFmpegs are ended, and when we no longer wait for jobs.
_GRACE_S, _PATIENCE_S = 3.0, 15.0
# Which network a job needs: model, weights, device, precision.
_Network = tuple[str | None, str | None, str, str]


@dataclass(frozen=True, slots=True)
class Task:
    """One clip of a batch.

    Attributes:
        source: The clip.
        root: The folder whose ledgers note the result.
        folder: The folder that the result goes into; made if it is not there.
        job: What to do.
        problem: Why there is nothing to be done with the clip; there is no job then.
    """

    source: Path
    root: Path
    folder: Path
    job: Job | None = None
    problem: VidbgError | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A clip's first frame is asked for; ``total`` is the number expected, where known."""

    source: Path
    output: Path
    info: VideoInfo
    total: int | None


@dataclass(frozen=True, slots=True)
class Advanced:
    """A batch of a clip's frames is written."""

    source: Path
    progress: Progress


@dataclass(frozen=True, slots=True)
class Downloading:
    """Weights are fetched: bytes had and bytes in all."""

    had: int
    total: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a clip.

    Attributes:
        source: The clip.
        output: Its result's name, if it got as far as that.
        state: "done", "skipped" (done by an earlier run), "failed" or "interrupted".
        frames: Frames in the result; for a clip that was interrupted, those that were written.
        seconds: Wall-clock seconds that it took.
        lost_frames: Frames of a damaged source that could not be decoded.
        error: Why it failed.
        earlier_frames: Those of ``frames`` that an earlier run made, in a time of its own.
        also: Further results, of a clip that is done.
    """

    source: Path
    output: Path | None
    state: str
    frames: int = 0
    seconds: float = 0.0
    lost_frames: int = 0
    error: VidbgError | None = None
    earlier_frames: int = 0
    also: tuple[Path, ...] = ()


Event = Started | Advanced | Downloading | Outcome


def process(
    tasks: Iterable[Task],
    ledgers: Mapping[Path, Ledger],
    on_event: Callable[[Event], None],
    *,
    jobs: int = 1,
    force: bool = False,
    arrivals: Callable[[], Iterable[Task]] | None = None,
) -> None:
    """Do tasks, one or more at once. One that fails does not stop the others.

    Clips that need the same network are done together, so that one is in memory at a time.

    Args:
        tasks: What to do.
        ledgers: By each task's root, the ledgers of what is finished.
        on_event: Called in this thread with all that happens; last of each task comes its Outcome.
        jobs: How many at once; fewer where memory does not hold as many.
        force: Do what is finished again.
        arrivals: Called now and then for tasks that have come up; with it there is no end.

    Raises:
        KeyboardInterrupt: Ctrl-C, once all that ran has been ended and reported.
    """
    batch = _Batch(ledgers, on_event, jobs, force)
    with cores_for(jobs):
        try:
            batch.work_off(deque(tasks), arrivals)
        finally:
            batch.end()


class _Batch:
    """The state of one call of :func:`process`. Only its own thread calls ``on_event``."""

    def __init__(
        self,
        ledgers: Mapping[Path, Ledger],
        on_event: Callable[[Event], None],
        jobs: int,
        force: bool,
    ) -> None:
        self._ledgers = ledgers
        self._on_event = on_event
        self._jobs = max(1, jobs)
        self._force = force
        self._stop = threading.Event()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._threads: dict[Path, threading.Thread] = {}  # by output: one writer each
        self._network: tuple[_Network, list[_Place]] | None = None
        self._places: dict[Path, _Place] = {}  # by output, of the jobs that run
        self._refusals: dict[_Network, VidbgError] = {}
        self._room = Room()

    def work_off(self, waiting: deque[Task], arrivals: Callable[[], Iterable[Task]] | None) -> None:
        while True:
            if arrivals is not None:
                waiting.extend(arrivals())
            while len(self._threads) < self._jobs:
                task = self._next(waiting)
                if task is None:
                    break
                self._begin(task)
            if not (waiting or self._threads or arrivals is not None):
                return
            self._report(_POLL_S)

    def end(self) -> None:
        """End what still runs, and report what became of it. Waits are bounded."""
        self._stop.set()
        began_s = time.monotonic()
        on_event = self._on_event

        def tell(event: Event) -> None:
            with suppress(OSError):  # nobody listens any more, which is no reason to leave jobs
                on_event(event)

        self._on_event = tell
        while any(thread.is_alive() for thread in self._threads.values()):
            waited_s = time.monotonic() - began_s
            if waited_s > _PATIENCE_S:
                logger.warning("%d jobs did not stop", len(self._threads))
                break
            if waited_s > _GRACE_S:
                ff.kill_all()
            self._report(_POLL_S)
        self._report(0)

    def _report(self, timeout_s: float) -> None:
        """Pass on what has happened; wait so long for the first of it."""
        with suppress(queue.Empty):
            while True:
                event = (
                    self._events.get(timeout=timeout_s) if timeout_s else self._events.get(False)
                )
                timeout_s = 0
                if isinstance(event, Outcome) and event.output is not None:
                    self._threads.pop(event.output).join(_GRACE_S)
                    self._leave(event.output)
                self._on_event(event)

    def _next(self, waiting: deque[Task]) -> Task | None:
        """Take the next task that may begin now: of those with the loaded network, the first."""
        loaded = None if self._network is None else self._network[0]
        ready = (t for t in waiting if t.job is None or t.job.output.path not in self._threads)
        other = None
        for task in ready:
            if task.job is None or _network_of(task.job) in (None, loaded):
                waiting.remove(task)
                return task
            other = other or task
        if other is None or self._threads:  # while jobs run, their network is needed
            return None
        waiting.remove(other)
        return other

    def _begin(self, task: Task) -> None:
        """Start a thread for a task, unless nothing is to be done."""
        if task.job is None:
            self._on_event(Outcome(task.source, None, "failed", error=task.problem))
            return
        output = task.job.output.path
        mark = None
        with suppress(OSError, VidbgError):  # what is missing the pipeline says
            mark = _mark(task.job)
        if mark is not None and not self._force:
            ledger = self._ledgers[task.root]
            known, *others = (ledger.finished(one.path, mark) for one in task.job.outputs)
            if known is not None and None not in others:
                also = tuple(one.path for one in task.job.also)
                self._on_event(
                    Outcome(task.source, output, "skipped", known.frames, known.seconds, also=also)
                )
                return
        wanted = _network_of(task.job)
        place = None
        if wanted is not None:
            place = self._load(wanted)
            if place is None:
                error = self._refusals[wanted]
                self._on_event(Outcome(task.source, output, "failed", error=error))
                return
            place.jobs += 1
            self._places[output] = place
        thread = threading.Thread(
            target=copy_context().run,
            args=(self._work, task, task.job, mark, place),
            name="vidbg-job",
            daemon=True,
        )
        self._threads[output] = thread
        thread.start()

    def _leave(self, output: Path) -> None:
        """Take note that a job has left its device."""
        place = self._places.pop(output, None)
        if place is not None:
            place.jobs -= 1

    @stage("start-up")
    def _load(self, wanted: _Network) -> _Place | None:
        """Return the least busy device with a network, or None if none can have it: asked for once.

        A device gets its network with its first job. Of networks, one kind is in memory at a time.
        """
        if wanted in self._refusals:
            return None
        from vidbg.matting.segmenter import devices_of

        if self._network is None or self._network[0] != wanted:
            self._network = None
            self._network = wanted, [_Place(device) for device in devices_of(wanted[2])]
        places = self._network[1]
        while True:
            place = min(places, key=lambda place: place.jobs)
            try:
                if place.network is None:
                    place.network = self._loaded(wanted, place.device)
            except Exception as error:
                places.remove(place)
                if not places:
                    self._network = None
                    self._refusals[wanted] = as_ours(error)
                    return None
                logger.warning("%s is left out: %s", place.device, as_ours(error))
            else:
                return place

    def _loaded(self, wanted: _Network, device: str) -> NetworkSegmenter:
        from vidbg.matting.segmenter import load_segmenter

        model, weights, _, precision = wanted
        network = load_segmenter(
            model=model,
            weights=weights,
            device=device,
            precision=precision,
            threads=machine.quota(),
            progress=lambda had, total: self._on_event(Downloading(had, total)),
        )
        # Once, so that its memory is no longer among what is free.
        network(np.zeros((1, *network.input_size(1920, 1080), 3), np.uint8))
        return network

    def _work(self, task: Task, job: Job, mark: str | None, place: _Place | None) -> None:
        """Do a job: what a thread runs."""
        output = job.output.path
        run = _Run()
        try:
            outcome = self._made(task, job, mark, place, run)
        except BaseException as error:
            was_stopped = self._stop.is_set()
            if not (was_stopped or isinstance(error, VidbgError)):
                logger.debug("%s: failed", task.source, exc_info=True)
            outcome = Outcome(
                task.source,
                output,
                "interrupted" if was_stopped else "failed",
                run.frames,
                run.seconds,
                error=None if was_stopped else as_ours(error),
                earlier_frames=run.earlier_frames,
            )
        finally:
            self._room.leave(output)
        self._events.put(outcome)

    def _made(
        self, task: Task, job: Job, mark: str | None, place: _Place | None, run: _Run
    ) -> Outcome:
        output, ledger = job.output.path, self._ledgers[task.root]
        main, *others = (_replacing(one, task.source, ledger) for one in job.outputs)
        for folder in (task.folder, *(place_of(also.path).parent for also in others)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot be made ({error.strerror})", path=folder) from error
        for one in job.outputs:
            ledger.begin(one.path, task.source)
        shared = None
        if place is not None and place.network is not None:
            shared = SharedNetwork(place.network, place.turn, self._stop)

        def admit(info: VideoInfo, total: int | None) -> None:
            batch_size = job.batch_size or (1 if shared is None else shared.last_batch_size)
            needed = memory_bytes(info, batch_size, machine.cores())
            self._room.enter(output, needed, task.source, self._stop)
            self._check()
            run.began_s = time.monotonic()  # waiting for memory is not the clip's own time
            self._events.put(Started(task.source, output, info, total))

        def advance(progress: Progress) -> None:
            run.frames, run.earlier_frames = progress.frames, progress.earlier_frames
            if progress.frames >= SETTLED_FRAMES:
                self._room.settle(output)
            self._events.put(Advanced(task.source, progress))
            self._check()

        try:
            self._check()
            result = pipeline.run(
                replace(
                    job,
                    # Nobody is to hear of what cannot be, unless it was asked for.
                    resume=job.resume or all(map(is_resumable, job.outputs)),
                    output=main,
                    also=tuple(others),
                ),
                segmenter=shared,
                on_start=admit,
                on_progress=advance,
            )
        except BaseException:
            with suppress(OutputError):
                for one in job.outputs:
                    ledger.give_up(one.path)
            raise
        mark = mark or _mark(job)
        for one in job.outputs:
            ledger.finish(one.path, task.source, mark, result.frames, run.seconds)
        return Outcome(
            task.source,
            output,
            "done",
            result.frames,
            run.seconds,
            result.lost_frames,
            earlier_frames=result.earlier_frames,
            also=result.also,
        )

    def _check(self) -> None:
        """End this thread's job if the batch is to end, as Ctrl-C ends a single one."""
        if self._stop.is_set():
            raise KeyboardInterrupt


@dataclass(slots=True, eq=False)
class _Place:
    """A device that jobs are spread over.

    Attributes:
        device: Its name.
        network: Its network, once it has one.
        turn: To call that: one job at a time.
        jobs: How many jobs use it.
    """

    device: str
    network: NetworkSegmenter | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)
    jobs: int = 0


@dataclass(slots=True)
class _Run:
    """How far a job is, for when it does not get to its end."""

    frames: int = 0
    earlier_frames: int = 0
    began_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began_s


def _replacing(output: Output, source: Path, ledger: Ledger) -> Output:
    """Return an output that may replace what is there, if that was made here of the same clip.

    Raises:
        OutputError: Something else is there.
    """
    if output.overwrite or ledger.owns(output.path, source):
        return replace(output, overwrite=True)
    if os.path.lexists(place_of(output.path)):
        raise OutputError("exists already", path=output.path, hint="Use -y to overwrite it")
    return output


def _mark(job: Job) -> str:
    """Return a job's fingerprint, the same for all ways that lead to its clip."""
    return fingerprint(replace(job, source=located(job.source)))


def _network_of(job: Job) -> _Network | None:
    """Return which network a job needs, or None if it needs none."""
    if job.model == CHROMA_MODEL or job.matte_in is not None:
        return None
    weights = None if job.weights is None else str(job.weights)
    return job.model, weights, job.device, job.precision
