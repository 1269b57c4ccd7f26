"""Where the time of a job goes: measured while it runs, for those who want to know.

>>> with Meter() as meter:  # doctest: +SKIP
...     vidbg.run(job)
>>> meter.profile().bottleneck  # doctest: +SKIP
'network'

All that happens inside the block is measured, also in the threads that it starts. Stages are
marked where they are done, by :func:`stage`. Nothing is handed from one to the next: the meter is
found in a context variable, and where there is none a mark costs two looks at that, under half a
microsecond.

* A thread is in one stage at a time, the innermost that is marked: each moment counts once.
* The time of a stage is wall-clock time. Waiting for its FFmpeg belongs to it, since that is who
  does the work; waiting at a queue, or for another clip to be done with the network, to none.
* The CPU time of a stage is that of the threads that were in it, and apart from it what its FFmpeg
  processes took, as the system says when they end.
* PyTorch and OpenCV have threads of their own that help whoever calls, and nobody can say in which
  stage. Their CPU time is what is left of the process's when all marked threads are taken off.
  With one thread for each library (OMP_NUM_THREADS=1, OPENCV_FOR_THREADS_NUM=1) callers do all of
  the work, and the CPU time of stages is complete.
* Stages run at the same time in several threads, so that their times add up to more than the
  whole. Their shares do not: the job's own thread is always busy or waiting for a queue, and who
  is to fill that answers for the wait.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, TypeVar

T = TypeVar("T")

STAGES: Final = (
    "probe",
    "start-up",
    "decode",
    "upload",
    "thumbnail",
    "network",
    "keyer",
    "segment",
    "carry",
    "smooth",
    "refine",
    "foreground",
    "background",
    "composite",
    "download",
    "encode",
    "archive",
    "other",
)
"""All stages in the order of the data flow. "segment" is what its thread does besides the network:
ready mattes are read there. "upload" and "download" are the ways to a GPU and from it. "other" is
what a job's own thread does in none of the stages."""

Kind = Literal["stage", "ffmpeg", "room", "items", "turn"]

_current: ContextVar[Meter | None] = ContextVar("vidbg_meter", default=None)


class Clocks(NamedTuple):
    """Functions that return seconds: of the wall, and of CPU time of this thread and process."""

    wall: Callable[[], float] = time.perf_counter
    thread: Callable[[], float] = time.thread_time
    process: Callable[[], float] = time.process_time


@dataclass(frozen=True, slots=True)
class Spent:
    """What a stage took, in seconds.

    Attributes:
        stage: One of :data:`STAGES`.
        wall_s: Time in which a thread was in it, waiting for FFmpeg included; the sum where
            several clips are worked on at once.
        ffmpeg_wait_s: That part of it in which FFmpeg was waited for.
        cpu_s: CPU time of the threads that were in it.
        ffmpeg_cpu_s: CPU time of its FFmpeg processes.
        share: Part of the whole time that it answers for, 0..1: what the job's own thread spent
            in it, and what that one waited for it. The shares of all stages are 1 together. A
            stage that took no time would make the run shorter by about its share at the most.
    """

    stage: str
    wall_s: float
    ffmpeg_wait_s: float
    cpu_s: float
    ffmpeg_cpu_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Queue:
    """How a bounded queue between two threads fared.

    Attributes:
        name: The stage that fills it.
        depth: How many items it holds.
        filled: How much of it was taken, on average over time, 0..1. Full says that what comes
            after it is slower, empty that what comes before it is.
        room_wait_s: How long the thread that fills it waited for room.
        items_wait_s: How long the thread that empties it waited for items.
    """

    name: str
    depth: int
    filled: float
    room_wait_s: float
    items_wait_s: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What a :class:`Meter` has measured. Times in seconds.

    Attributes:
        frames: Frames made.
        wall_s: How long all of it took.
        cpu_s: CPU time of this process, of all its threads.
        library_cpu_s: That part of it that belongs to threads of libraries, and to no stage.
        stages: Those that took any time, in the order of :data:`STAGES`.
        queues: Those that were used, by name.
        bottleneck: The stage that answers for most of the time; "" if there was none.
        is_ffmpeg_known: Whether the system says what CPU time FFmpeg took. Windows does not, and
            ``ffmpeg_cpu_s`` of the stages is 0 there.
    """

    frames: int
    wall_s: float
    cpu_s: float
    library_cpu_s: float
    stages: tuple[Spent, ...]
    queues: tuple[Queue, ...]
    bottleneck: str
    is_ffmpeg_known: bool = True

    @property
    def ffmpeg_cpu_s(self) -> float:
        """CPU time of all FFmpeg processes."""
        return sum(spent.ffmpeg_cpu_s for spent in self.stages)

    @property
    def cores_busy(self) -> float:
        """How many cores were busy on average, FFmpeg's included."""
        return (self.cpu_s + self.ffmpeg_cpu_s) / self.wall_s if self.wall_s else 0.0


class _Mark(ContextDecorator):
    """Says what a thread does in a block or a function; holds no state of its own."""

    def __init__(self, kind: Kind, name: str) -> None:
        self._kind: Kind = kind
        self._name = name

    def __enter__(self) -> None:
        meter = _current.get()
        if meter is not None:
            meter.lane().begin(self._kind, self._name)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        meter = _current.get()
        if meter is not None:
            meter.lane().end()

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items; each of them is made in this stage, and used in whichever comes then."""
        iterator = iter(items)
        while True:
            with self:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
            del item  # or it stays in memory while the next one is made


def stage(name: str) -> _Mark:
    """Return what marks a block (``with``) or a function (as a decorator) as a stage.

    Args:
        name: One of :data:`STAGES`.
    """
    return _Mark("stage", name)


def waiting(for_what: Literal["ffmpeg", "room", "items", "turn"], queue: str = "") -> _Mark:
    """Return what marks a block in which a thread waits.

    Args:
        for_what: "ffmpeg", which does the work of the stage that waits; "room" in a queue, or
            "items" in it; its "turn", if it is a clip's among several.
        queue: The queue's name.
    """
    return _Mark(for_what, queue)


def count_frames(count: int) -> None:
    """Take note that so many frames more are made."""
    meter = _current.get()
    if meter is not None:
        meter.count_frames(count)


def gauge(name: str, depth: int) -> Gauge | None:
    """Return what a new queue tells its level to, or None where nothing is measured.

    Args:
        name: The stage that fills it.
        depth: How many items it holds.
    """
    meter = _current.get()
    return None if meter is None else meter.gauge(name, depth)


def bill() -> Callable[[float | None], None] | None:
    """Return what an FFmpeg's CPU seconds are given to at its end, or None where nobody asks.

    They are counted as the stage's in which this is called. None means that they are not known.
    """
    meter = _current.get()
    return None if meter is None else meter.bill()


class Meter:
    """Measures what is done inside its block, once. A context manager.

    Args:
        clocks: Where the time comes from.
    """

    def __init__(self, clocks: Clocks | None = None) -> None:
        self._clocks = clocks or Clocks()
        self._here = threading.local()
        self._lock = threading.Lock()
        self._lanes: list[_Lane] = []
        self._gauges: list[Gauge] = []
        self._ffmpeg_cpu_s: defaultdict[str, float] = defaultdict(float)
        self._is_ffmpeg_known = True
        self._frames = 0
        self._began = self._ended = (0.0, 0.0)
        self._token: Token[Meter | None] | None = None

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        self._began = self._now()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended = self._now()
        if self._token is not None:
            _current.reset(self._token)
            self._token = None

    def _now(self) -> tuple[float, float]:
        return self._clocks.wall(), self._clocks.process()

    def lane(self) -> _Lane:
        """Return the account of the thread that asks."""
        lane: _Lane | None = getattr(self._here, "lane", None)
        if lane is None:
            lane = self._here.lane = _Lane(self._clocks)
            with self._lock:
                self._lanes.append(lane)
        return lane

    def count_frames(self, count: int) -> None:
        """Take note that so many frames more are made."""
        with self._lock:
            self._frames += count

    def gauge(self, name: str, depth: int) -> Gauge:
        """Return what a new queue tells its level to."""
        new = Gauge(name, depth, self._clocks.wall)
        with self._lock:
            self._gauges.append(new)
        return new

    def bill(self) -> Callable[[float | None], None]:
        """Return what an FFmpeg's CPU seconds are given to, for the stage of this moment."""
        name = self.lane().stage

        def charge(cpu_s: float | None) -> None:
            with self._lock:
                self._ffmpeg_cpu_s[name] += cpu_s or 0.0
                self._is_ffmpeg_known &= cpu_s is not None

        return charge

    def profile(self) -> Profile:
        """Return what was measured: until the block's end, or until now inside of it."""
        ended = self._ended if self._token is None else self._now()
        wall_s, cpu_s = (end - begin for end, begin in zip(ended, self._began, strict=True))
        total: defaultdict[str, _Sum] = defaultdict(_Sum)
        waited: defaultdict[tuple[str, str], float] = defaultdict(float)
        own_cpu_s = 0.0
        for lane in list(self._lanes):
            # A copy: of a batch that was cut short, threads may go on for a while.
            for (kind, name), (lane_wall_s, lane_cpu_s) in dict(lane.spent).items():
                own_cpu_s += lane_cpu_s
                if kind in ("room", "items"):
                    waited[kind, name] += lane_wall_s
                    total["other"].cpu_s += lane_cpu_s  # next to nothing: waiting in steps
                    continue
                total[name].cpu_s += lane_cpu_s
                if kind != "turn":
                    total[name].wall_s += lane_wall_s
                if kind == "ffmpeg":
                    total[name].ffmpeg_wait_s += lane_wall_s
        for name, ffmpeg_cpu_s in self._ffmpeg_cpu_s.items():
            total[name].ffmpeg_cpu_s += ffmpeg_cpu_s
        for name, share in _shares(self._lanes, {one.name for one in self._gauges}).items():
            total[name].share = share
        stages = tuple(
            Spent(name, one.wall_s, one.ffmpeg_wait_s, one.cpu_s, one.ffmpeg_cpu_s, one.share)
            for name, one in sorted(total.items(), key=lambda item: _place(item[0]))
        )
        return Profile(
            frames=self._frames,
            wall_s=wall_s,
            cpu_s=cpu_s,
            # Clocks are not read all at the same moment.
            library_cpu_s=max(0.0, cpu_s - own_cpu_s),
            stages=stages,
            queues=tuple(self._queues(waited)),
            bottleneck=max(stages, key=lambda spent: spent.share).stage if stages else "",
            is_ffmpeg_known=self._is_ffmpeg_known,
        )

    def _queues(self, waited: defaultdict[tuple[str, str], float]) -> Iterator[Queue]:
        gauges: defaultdict[str, list[Gauge]] = defaultdict(list)
        for one in self._gauges:
            gauges[one.name].append(one)
        for name, same in sorted(gauges.items(), key=lambda item: _place(item[0])):
            room = sum(one.room_s for one in same)
            yield Queue(
                name=name,
                depth=max(one.depth for one in same),
                filled=sum(one.taken_s for one in same) / room if room else 0.0,
                room_wait_s=waited["room", name],
                items_wait_s=waited["items", name],
            )


class Gauge:
    """How much of a queue is taken, over time. Told by both threads.

    Args:
        name: The stage that fills the queue.
        depth: How many items it holds.
        clock: Returns seconds.

    Attributes:
        taken_s: The number of items in it, summed over time to the last move.
        room_s: The same of a queue that is always full.
    """

    def __init__(self, name: str, depth: int, clock: Callable[[], float]) -> None:
        self.name = name
        self.depth = depth
        self.taken_s = 0.0
        self.room_s = 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._level = 0
        self._at_s = clock()

    def moved(self, by: int) -> None:
        """Take note that so many items more are in it; a negative number, so many less."""
        with self._lock:
            now_s = self._clock()
            self.taken_s += self._level * (now_s - self._at_s)
            self.room_s += self.depth * (now_s - self._at_s)
            self._at_s = now_s
            self._level += by


class _Lane:
    """What one thread does, one thing at a time.

    Args:
        clocks: Where the time comes from.

    Attributes:
        first: The first stage that it was in: of a thread that fills a queue, that one's name.
        spent: Wall and CPU seconds by kind and name.
    """

    def __init__(self, clocks: Clocks) -> None:
        self.first = ""
        self.spent: defaultdict[tuple[Kind, str], tuple[float, float]] = defaultdict(
            lambda: (0.0, 0.0)
        )
        self._clocks = clocks
        self._doing: list[tuple[Kind, str]] = []
        self._at = clocks.wall(), clocks.thread()

    @property
    def stage(self) -> str:
        """The innermost stage that the thread is in."""
        return next((name for kind, name in reversed(self._doing) if kind == "stage"), "other")

    def begin(self, kind: Kind, name: str) -> None:
        """Take note that the thread begins with something, in the midst of what it did."""
        self._settle()
        self.first = self.first or (name if kind == "stage" else "other")
        self._doing.append((kind, self.stage if kind in ("ffmpeg", "turn") else name))

    def end(self) -> None:
        """Take note that the thread goes back to what it did before."""
        self._settle()
        if self._doing:  # else the meter's own block began inside of the one that ends
            self._doing.pop()

    def _settle(self) -> None:
        """Charge the time since the last change to what was being done."""
        now = self._clocks.wall(), self._clocks.thread()
        if self._doing:
            wall_s, cpu_s = self.spent[self._doing[-1]]
            wall_s += now[0] - self._at[0]
            self.spent[self._doing[-1]] = wall_s, cpu_s + now[1] - self._at[1]
        self._at = now


@dataclass(slots=True)
class _Sum:
    """What all threads together took in a stage; see :class:`Spent`."""

    wall_s: float = 0.0
    ffmpeg_wait_s: float = 0.0
    cpu_s: float = 0.0
    ffmpeg_cpu_s: float = 0.0
    share: float = 0.0


def _shares(lanes: Sequence[_Lane], queues: Collection[str]) -> dict[str, float]:
    """Return what part of the time each stage is to answer for, 1 together.

    A job's own thread answers for what it does. While it waits for items, those answer for it who
    are to make them: by what they do, and in turn wait for, over the whole time. Who waits for
    room is ahead of the others, and holds nobody up.

    Args:
        lanes: All threads. One that fills a queue has that one's name for its first stage.
        queues: The queues' names.
    """
    by_first: defaultdict[str, defaultdict[tuple[Kind, str], float]] = defaultdict(
        lambda: defaultdict(float)
    )
    for lane in lanes:
        for what, (wall_s, _) in dict(lane.spent).items():
            if what[0] != "room":
                by_first[lane.first if lane.first in queues else ""][what] += wall_s
    shares: defaultdict[str, float] = defaultdict(float)

    def spread(share: float, spent: Mapping[tuple[Kind, str], float], name: str) -> None:
        whole_s = sum(spent.values())
        if not whole_s:
            shares[name] += share
            return
        for (kind, stage_name), wall_s in spent.items():
            if kind == "items":
                spread(share * wall_s / whole_s, by_first.get(stage_name, {}), stage_name)
            else:
                shares[stage_name] += share * wall_s / whole_s

    own: Mapping[tuple[Kind, str], float] = by_first.get("", {})
    if any(own.values()):
        spread(1.0, own, "other")
    return shares


def _place(name: str) -> tuple[int, str]:
    """Return where a stage stands in a list: by the data flow."""
    return (STAGES.index(name) if name in STAGES else len(STAGES)), name
