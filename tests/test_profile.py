"""Where the time goes: sums that are known, since the clocks are ours."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidbg import profile
from vidbg.media import ffmpeg as ff
from vidbg.media import guard
from vidbg.prefetch import Prefetch
from vidbg.profile import Clocks, Gauge, Meter, Profile, Spent, count_frames, stage, waiting

PICTURES = ("-nostdin", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=25")
ENCODED = ("-c:v", "libx264", "-f", "null", "-")


class Hands:
    """Clocks whose hands are moved by the test; each thread has a CPU clock of its own."""

    def __init__(self) -> None:
        self.wall_s = 100.0
        self.process_s = 7.0
        self.threads_s: defaultdict[int, float] = defaultdict(float)

    def __call__(self) -> Clocks:
        return Clocks(
            lambda: self.wall_s,
            lambda: self.threads_s[threading.get_ident()],
            lambda: self.process_s,
        )

    def pass_by(self, wall_s: float, cpu_s: float = 0.0) -> None:
        """Let time go by, in which the calling thread computes for ``cpu_s``."""
        self.wall_s += wall_s
        self.process_s += cpu_s
        self.threads_s[threading.get_ident()] += cpu_s


def in_thread(work: Callable[[], None]) -> None:
    """Run something in a thread that knows the meter, to its end."""
    thread = threading.Thread(target=copy_context().run, args=(work,))
    thread.start()
    thread.join()


def by_stage(measured: Profile) -> dict[str, Spent]:
    return {spent.stage: spent for spent in measured.stages}


def test_each_moment_counts_for_the_innermost_stage() -> None:
    hands = Hands()
    with Meter(hands()) as meter, stage("encode"):
        hands.pass_by(1, 0.5)
        with stage("refine"):
            hands.pass_by(2, 1.5)
            with stage("encode"):
                hands.pass_by(4, 3)
            hands.pass_by(8, 7)
        hands.pass_by(16, 15)
    measured = meter.profile()
    stages = by_stage(measured)
    assert list(stages) == ["refine", "encode"]  # in the order of the data flow
    assert (stages["encode"].wall_s, stages["encode"].cpu_s) == (21, 18.5)
    assert (stages["refine"].wall_s, stages["refine"].cpu_s) == (10, 8.5)
    assert stages["encode"].share == pytest.approx(21 / 31)
    assert (measured.wall_s, measured.cpu_s, measured.library_cpu_s) == (31, 27, 0)
    assert measured.bottleneck == "encode"


def test_waiting_for_ffmpeg_is_the_stages_time_and_waiting_at_a_queue_nobodys() -> None:
    hands = Hands()
    with Meter(hands()) as meter, stage("encode"):
        hands.pass_by(1)
        with waiting("ffmpeg"):
            hands.pass_by(2)
        with waiting("items", "segment"):
            hands.pass_by(4)
        with waiting("room", "archive"):
            hands.pass_by(8)
        with waiting("turn"):
            hands.pass_by(16)
        meter.gauge("segment", 1)
        meter.gauge("archive", 3)
    measured = meter.profile()
    encode = by_stage(measured)["encode"]
    assert (encode.wall_s, encode.ffmpeg_wait_s) == (3, 2)
    queues = {queue.name: queue for queue in measured.queues}
    assert (queues["segment"].items_wait_s, queues["segment"].room_wait_s) == (4, 0)
    assert (queues["archive"].items_wait_s, queues["archive"].room_wait_s) == (0, 8)


def test_who_keeps_the_job_waiting_answers_for_it() -> None:
    """Six of ten seconds wait for mattes, half of which wait for frames themselves."""
    hands = Hands()
    with Meter(hands()) as meter:
        for name in ("decode", "segment"):
            meter.gauge(name, 1)
        began_s = hands.wall_s

        def decodes() -> None:
            with stage("decode"):
                hands.pass_by(1)
                with waiting("room", "decode"):
                    hands.pass_by(9)

        def segments() -> None:
            hands.wall_s = began_s
            with stage("segment"):
                with stage("network"):
                    hands.pass_by(3)
                with stage("thumbnail"):
                    hands.pass_by(1)
                with waiting("items", "decode"):
                    hands.pass_by(4)
                with waiting("room", "segment"):
                    hands.pass_by(2)

        in_thread(decodes)
        in_thread(segments)
        hands.wall_s = began_s
        with stage("other"):
            with stage("refine"):
                hands.pass_by(4)
            with waiting("items", "segment"):
                hands.pass_by(6)
    stages = by_stage(meter.profile())
    shares = {name: spent.share for name, spent in stages.items() if spent.share}
    assert shares == pytest.approx(
        {"refine": 0.4, "network": 0.6 * 3 / 8, "thumbnail": 0.6 / 8, "decode": 0.6 * 4 / 8}
    )
    assert meter.profile().bottleneck == "refine"


def test_what_is_left_of_the_process_belongs_to_libraries() -> None:
    hands = Hands()
    with Meter(hands()) as meter:
        with stage("network"):
            hands.pass_by(1, 1)
            hands.process_s += 5  # a thread that PyTorch has started
        in_thread(lambda: stage("decode")(hands.pass_by)(1, 2))
    measured = meter.profile()
    assert (measured.cpu_s, measured.library_cpu_s) == (8, 5)
    assert measured.cores_busy == 8 / 2


def test_an_ffmpegs_bill_goes_to_the_stage_that_started_it_wherever_it_ends() -> None:
    with Meter(Hands()()) as meter:
        with stage("encode"):
            charge = profile.bill()
        assert charge is not None
        with stage("decode"):
            in_thread(lambda: charge(2.5))
    measured = meter.profile()
    assert by_stage(measured)["encode"].ffmpeg_cpu_s == measured.ffmpeg_cpu_s == 2.5
    assert measured.is_ffmpeg_known
    charge(None)
    assert not meter.profile().is_ffmpeg_known


def test_a_gauge_is_the_mean_level_over_time() -> None:
    hands = Hands()
    gauge = Gauge("decode", 2, lambda: hands.wall_s)
    for wait_s, by in ((1, 1), (2, 1), (4, -1), (3, -1), (10, 0)):
        hands.pass_by(wait_s)
        gauge.moved(by)
    assert gauge.taken_s == 0 * 1 + 1 * 2 + 2 * 4 + 1 * 3 + 0 * 10
    assert gauge.room_s == 2 * 20


@given(
    st.lists(
        st.one_of(st.sampled_from(["decode", "smooth", "encode", None]), st.floats(0.001, 100)),
        max_size=40,
    )
)
def test_nothing_is_lost_and_nothing_counts_twice(steps: list[str | float | None]) -> None:
    """Stages begin (a name), end (None) and take time (a number), in any order."""
    hands = Hands()
    depth, inside_s = 0, 0.0
    with Meter(hands()) as meter:
        lane = meter.lane()
        for step in steps:
            if isinstance(step, float):
                hands.pass_by(step, step / 2)
                inside_s += step * (depth > 0)
            elif step is None:
                lane.end()
                depth = max(0, depth - 1)
            else:
                lane.begin("stage", step)
                depth += 1
        while depth:
            lane.end()
            depth -= 1
    measured = meter.profile()
    assert math.isclose(sum(s.wall_s for s in measured.stages), inside_s, abs_tol=1e-6)
    assert math.isclose(sum(s.cpu_s for s in measured.stages), inside_s / 2, abs_tol=1e-6)
    shares = sum(spent.share for spent in measured.stages)
    assert math.isclose(shares, 1.0 if inside_s else 0.0)


def test_without_a_meter_marks_do_nothing() -> None:
    @stage("refine")
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    with stage("encode"), waiting("ffmpeg"):
        count_frames(3)
        assert double(2) == 4
    assert double.__doc__ == "Twice as much."
    assert profile.bill() is None
    assert profile.gauge("decode", 1) is None
    with Meter(Hands()()) as meter:
        pass
    double(1)
    measured = meter.profile()
    assert (measured.stages, measured.queues, measured.frames) == ((), (), 0)
    assert measured.bottleneck == ""
    assert measured.cores_busy == 0


def test_a_mark_ends_with_an_error_and_is_good_for_another_time() -> None:
    hands = Hands()
    mark = stage("probe")

    def fail() -> None:
        hands.pass_by(3)
        raise ValueError("no")

    with Meter(hands()) as meter, stage("other"):
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                mark(fail)()
        hands.pass_by(1)
    stages = by_stage(meter.profile())
    assert (stages["probe"].wall_s, stages["other"].wall_s) == (6, 1)


def test_items_are_made_in_their_stage_and_used_outside_of_it() -> None:
    class Item:
        pass

    hands = Hands()
    alive: list[weakref.ref[Item]] = []

    def items() -> Iterator[Item]:
        for _ in range(3):
            gc.collect()
            assert all(ref() is None for ref in alive), "the item before is still in memory"
            hands.pass_by(2)
            item = Item()
            alive.append(weakref.ref(item))
            yield item
            del item
        hands.pass_by(8)  # after the last one

    with Meter(hands()) as meter, stage("other"):
        for item in stage("smooth").each(items()):
            hands.pass_by(1)
            del item
    stages = by_stage(meter.profile())
    assert (stages["smooth"].wall_s, stages["other"].wall_s) == (14, 3)


def test_a_thread_that_runs_ahead_is_its_own_stage() -> None:
    hands = Hands()

    def frames() -> Iterator[int]:
        for number in range(20):
            hands.pass_by(0, 2)
            with stage("thumbnail"):
                hands.pass_by(0, 1)
            count_frames(1)
            yield number

    with Meter(hands()) as meter, stage("other"), Prefetch(frames(), 2, "decode") as ahead:
        for _ in ahead:
            hands.pass_by(0, 4)
    measured = meter.profile()
    stages = by_stage(measured)
    assert {name: spent.cpu_s for name, spent in stages.items()} == {
        "decode": 40,
        "thumbnail": 20,
        "other": 80,
    }
    assert [(queue.name, queue.depth) for queue in measured.queues] == [("decode", 2)]
    assert measured.frames == 20


def test_waits_at_a_real_queue_are_seen_on_the_side_that_waits() -> None:
    """The consumer takes nothing before the producer has waited, by the clock on the wall."""
    hands = Hands()
    has_made_two = threading.Event()

    def frames() -> Iterator[int]:
        yield 0
        has_made_two.set()
        yield 1

    with Meter(hands()) as meter, stage("other"), Prefetch(frames(), 1, "decode") as ahead:
        assert has_made_two.wait(10)
        hands.pass_by(5)
        assert list(ahead) == [0, 1]
    (queue,) = meter.profile().queues
    assert queue.filled == 1.0
    assert queue.items_wait_s == 0
    # The second item was handed in at some moment before, or the end was, or neither yet.
    assert queue.room_wait_s in (0, 5)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say")
def test_cpu_time_of_ffmpeg_is_what_the_system_says() -> None:
    """The oracle is what the kernel sums up of all children that have been waited for."""
    import resource

    def of_children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    ff.executable()  # which asks it for its version, once
    nobody = 1 << 22  # keeps the guard, which takes some time too, from being waited for
    guard.watch(nobody)
    before_s = of_children()
    with Meter() as meter:
        with stage("probe"):
            assert ff.run([*PICTURES, "-frames:v", "40", *ENCODED]).returncode == 0
        with stage("encode"), ff.Process([*PICTURES, "-frames:v", "40", *ENCODED]) as process:
            assert process.wait() == 0
        with stage("background"), ff.Process([*PICTURES, *ENCODED]):
            pass  # killed at once
    stages = by_stage(meter.profile())
    assert stages["probe"].ffmpeg_cpu_s > 0.01
    assert stages["encode"].ffmpeg_cpu_s > 0.01
    taken_s = sum(spent.ffmpeg_cpu_s for spent in stages.values())
    known_s = of_children() - before_s
    guard.forget(nobody)
    assert taken_s == pytest.approx(known_s, abs=1e-4)
    assert meter.profile().is_ffmpeg_known
    # Waiting for it is its stage's time.
    assert stages["encode"].ffmpeg_wait_s > 0.5 * stages["encode"].wall_s


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sleep")
def test_a_process_that_goes_on_is_waited_for_only_so_long() -> None:
    with ff._Child(["sleep", "30"]) as child:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.01)
        assert child.poll() is None
        child.kill()
        assert child.wait() == -9
        assert child.cpu_s is not None
        assert 0 <= child.cpu_s < 1
