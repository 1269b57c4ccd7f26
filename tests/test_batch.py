"""Many clips in one run, in this process: order, failures, what is skipped, how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
from clips import make_clip, video_info
from test_sharing import Counting

from vidbg import batch, pipeline
from vidbg.batch import Advanced, Event, Outcome, Started, Task, process
from vidbg.errors import DeviceError, InputError, WeightsError
from vidbg.job import Job, Progress, Result
from vidbg.ledger import Ledger
from vidbg.matting import segmenter
from vidbg.media import encode
from vidbg.media import ffmpeg as ff
from vidbg.media.background import Solid
from vidbg.sharing import SharedNetwork


def task(root: Path, name: str, **options: object) -> Task:
    """A keyed clip; made if it is not there."""
    source = root / name
    if not source.exists():
        make_clip(source, size=(64, 48), frames=4)
    output = encode.Output(root / "out" / f"{source.stem}.vidbg.mp4", "composite", "h264")
    fields = {"model": "chroma", "key": "green", "background": Solid((255, 0, 0))}
    return Task(source, root, root / "out", Job(source, output, **(fields | options)))  # type: ignore[arg-type]


def run(root: Path, tasks: list[Task], **options: object) -> list[Event]:
    events: list[Event] = []
    with Ledger(root) as ledger:
        process(tasks, {root: ledger}, events.append, **options)  # type: ignore[arg-type]
    return events


def states(events: list[Event]) -> dict[str, str]:
    outcomes = [event for event in events if isinstance(event, Outcome)]
    names = [outcome.source.name for outcome in outcomes]
    assert len(set(names)) == len(names), "each clip has one outcome"
    return {outcome.source.name: outcome.state for outcome in outcomes}


def test_one_bad_clip_does_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video\n" * 99)
    without = Task(tmp_path / "c.mp4", tmp_path, tmp_path, problem=InputError("has no background"))
    tasks = [task(tmp_path, "a.mp4"), task(tmp_path, "bad.mp4"), without, task(tmp_path, "d.mp4")]
    events = run(tmp_path, tasks)
    assert states(events) == {
        "a.mp4": "done",
        "bad.mp4": "failed",
        "c.mp4": "failed",
        "d.mp4": "done",
    }
    errors = [event.error for event in events if isinstance(event, Outcome) and event.error]
    assert ["not a video" in str(errors[0]), str(errors[1])] == [True, "has no background"]
    kinds = [type(event) for event in events if event.source == tmp_path / "a.mp4"]  # type: ignore[union-attr]
    assert (kinds[0], kinds[-1]) == (Started, Outcome)
    assert set(kinds[1:-1]) == {Advanced}
    assert not (tmp_path / "out/bad.vidbg.mp4").exists()


def test_what_is_finished_is_skipped(tmp_path: Path) -> None:
    tasks = [task(tmp_path, "a.mp4"), task(tmp_path, "b.mp4")]
    assert set(states(run(tmp_path, tasks)).values()) == {"done"}
    out = tmp_path / "out/a.vidbg.mp4"
    first = out.stat().st_mtime_ns
    again = run(tmp_path, tasks)
    assert states(again) == {"a.mp4": "skipped", "b.mp4": "skipped"}
    assert [event.frames for event in again if isinstance(event, Outcome)] == [4, 4]
    assert out.stat().st_mtime_ns == first

    # Other options, another clip of the name, a result that is gone: each is done anew.
    job = tasks[0].job
    assert job is not None
    changed = [replace(tasks[0], job=replace(job, feather_px=1.0)), tasks[1]]
    assert states(run(tmp_path, changed)) == {"a.mp4": "done", "b.mp4": "skipped"}
    make_clip(tmp_path / "a.mp4", size=(64, 48), frames=7)
    assert states(run(tmp_path, changed)) == {"a.mp4": "done", "b.mp4": "skipped"}
    (tmp_path / "out/b.vidbg.mp4").unlink()
    assert states(run(tmp_path, changed)) == {"a.mp4": "skipped", "b.mp4": "done"}
    assert states(run(tmp_path, changed, force=True)) == {"a.mp4": "done", "b.mp4": "done"}


def test_a_result_of_another_is_never_replaced_unasked(tmp_path: Path) -> None:
    one = task(tmp_path, "a.mp4")
    out = tmp_path / "out/a.vidbg.mp4"
    out.parent.mkdir()
    out.write_text("precious")
    for _ in range(2):  # nor does having tried once give any right to it
        assert states(run(tmp_path, [one])) == {"a.mp4": "failed"}
        assert out.read_text() == "precious"
    assert one.job is not None
    asked = replace(one, job=replace(one.job, output=replace(one.job.output, overwrite=True)))
    assert states(run(tmp_path, [asked])) == {"a.mp4": "done"}
    assert states(run(tmp_path, [one])) == {"a.mp4": "skipped"}
    # Somebody cut it: it is theirs now.
    out.write_text("edited")
    assert states(run(tmp_path, [one])) == {"a.mp4": "failed"}
    assert out.read_text() == "edited"


def test_a_run_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    """Killed after the result was named, and before that was noted."""
    one = task(tmp_path, "a.mp4")
    run(tmp_path, [one])
    noted = tmp_path / "out/.vidbg-batch.jsonl"
    lines = noted.read_bytes().splitlines(keepends=True)
    noted.write_bytes(lines[0] + lines[1][: len(lines[1]) // 2])
    assert states(run(tmp_path, [one])) == {"a.mp4": "done"}
    assert states(run(tmp_path, [one])) == {"a.mp4": "skipped"}


FakeRun = Callable[..., Result]


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeRun], None]:
    """Put something else in the place of what does a job."""

    def put(function: FakeRun) -> None:
        monkeypatch.setattr(pipeline, "run", function)

    return put


def result_of(job: Job, text: str = "x") -> Result:
    job.output.path.write_text(text)
    return Result(job.output.path, (), 1, Fraction(25), 0.1, 0)


def test_so_many_at_once_and_no_more(tmp_path: Path, fake_run: Callable[[FakeRun], None]) -> None:
    lock, counts = threading.Lock(), {"now": 0, "most": 0}

    def slow(job: Job, **_: object) -> Result:
        with lock:
            counts["now"] += 1
            counts["most"] = max(counts.values())
        time.sleep(0.15)
        with lock:
            counts["now"] -= 1
        assert job.resume
        return result_of(job)

    fake_run(slow)
    tasks = [task(tmp_path, f"{n}.mp4") for n in range(7)]
    assert set(states(run(tmp_path, tasks, jobs=3)).values()) == {"done"}
    assert counts["most"] == 3


def test_one_network_in_memory(
    tmp_path: Path, fake_run: Callable[[FakeRun], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is loaded once and dropped before the next; keyed clips come in between."""
    alive: list[str] = []
    loaded: list[str] = []

    class Network(Counting):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.own = name
            alive.append(name)

        def __del__(self) -> None:
            alive.remove(self.own)

    def load(*, model: str | None, **_: object) -> Network:
        assert alive == []
        loaded.append(str(model))
        if model == "broken":
            raise WeightsError("damaged")
        return Network(str(model))

    def work(job: Job, *, segmenter: object, **_: object) -> Result:
        assert (segmenter is None) == (job.model == "chroma")
        time.sleep(0.05)
        return result_of(job)

    monkeypatch.setattr(segmenter, "load_segmenter", load)
    fake_run(work)
    models = ["u2netp", "u2net", "chroma", "u2netp", "broken", "u2net", "u2netp", "broken"]
    tasks = [task(tmp_path, f"{n}.mp4", model=model) for n, model in enumerate(models)]
    found = states(run(tmp_path, tasks, jobs=2))
    assert (found.pop("4.mp4"), found.pop("7.mp4")) == ("failed", "failed")
    assert set(found.values()) == {"done"}
    assert loaded == ["u2netp", "u2net", "broken"]
    assert alive == []


def test_a_network_makes_mattes_for_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Counting()
    monkeypatch.setattr(segmenter, "load_segmenter", lambda **_: network)
    tasks = [task(tmp_path, f"{n}.mp4", model=None) for n in range(3)]
    assert set(states(run(tmp_path, tasks, jobs=3)).values()) == {"done"}
    assert network.most == 1


def test_jobs_are_spread_over_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three devices one is in use by others; two jobs at once are on the two that are left."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr(segmenter, "has_only_a_cpu", lambda device: False)
    networks: dict[str, Counting] = {}
    at_once: list[set[str]] = []
    both = threading.Barrier(2, timeout=20)

    def load(*, device: str, **_: object) -> Counting:
        assert device not in networks
        if device == "cuda:1":
            raise DeviceError("in use")
        networks[device] = Counting()
        return networks[device]

    def work(job: Job, *, segmenter: SharedNetwork, **_: object) -> Result:
        (device,) = (name for name, one in networks.items() if one is segmenter._network)
        at_once.append({device})
        both.wait()
        both.wait()
        return result_of(job)

    monkeypatch.setattr(segmenter, "load_segmenter", load)
    monkeypatch.setattr(pipeline, "run", work)
    tasks = [task(tmp_path, f"{n}.mp4", model=None, device="auto") for n in range(6)]
    found = states(run(tmp_path, tasks, jobs=2))
    assert set(found.values()) == {"done"}
    assert set(networks) == {"cuda:0", "cuda:2"}
    # Pairs that ran at the same time never share a device.
    assert [at_once[n] | at_once[n + 1] for n in (0, 2, 4)] == [{"cuda:0", "cuda:2"}] * 3


@pytest.mark.parametrize(
    ("count", "device", "devices"),
    [
        (0, "auto", ("auto",)),
        (0, "cuda", ("cuda",)),
        (2, "auto", ("cuda:0", "cuda:1")),
        (2, "cuda", ("cuda:0", "cuda:1")),
        (2, "cuda:1", ("cuda:1",)),
        (2, "cpu", ("cpu",)),
    ],
)
def test_which_devices_a_name_stands_for(
    monkeypatch: pytest.MonkeyPatch, count: int, device: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr(segmenter, "has_only_a_cpu", lambda device: device == "cpu")
    assert segmenter.devices_of(device) == devices


def interrupted(tmp_path: Path, tasks: list[Task], started: threading.Event) -> list[Event]:
    """Run until a job has begun, then have Ctrl-C come."""
    events: list[Event] = []

    def arrivals() -> list[Task]:
        if started.is_set():
            raise KeyboardInterrupt
        return []

    with Ledger(tmp_path) as ledger, pytest.raises(KeyboardInterrupt):
        process(tasks, {tmp_path: ledger}, events.append, jobs=2, arrivals=arrivals)
    return events


def test_an_interruption_ends_jobs_between_frames(
    tmp_path: Path, fake_run: Callable[[FakeRun], None]
) -> None:
    started = threading.Event()

    def endless(job: Job, *, on_progress: Callable[[Progress], None], **_: object) -> Result:
        while True:
            started.set()
            on_progress(Progress(5, 10, 0.2, 0.1))
            time.sleep(0.01)

    fake_run(endless)
    tasks = [task(tmp_path, name) for name in ("a.mp4", "b.mp4", "c.mp4")]
    began = time.monotonic()
    events = interrupted(tmp_path, tasks, started)
    assert time.monotonic() - began < 3
    assert states(events) == {"a.mp4": "interrupted", "b.mp4": "interrupted"}


def test_an_interruption_ends_what_hangs(
    tmp_path: Path, fake_run: Callable[[FakeRun], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that waits for an FFmpeg which never says anything."""
    monkeypatch.setattr(batch, "_GRACE_S", 0.3)
    started = threading.Event()
    endless = ["-nostdin", "-re", "-f", "lavfi", "-i", "color", "-f", "null", "-"]

    def hang(job: Job, **_: object) -> Result:
        if job.source.name == "a.mp4":
            with ff.Process(endless, reads=True) as process:
                started.set()
                process.read_into(memoryview(bytearray(1)))
        else:
            ff.run(endless)
        raise InputError("FFmpeg ended")

    fake_run(hang)
    tasks = [task(tmp_path, name) for name in ("a.mp4", "b.mp4")]
    began = time.monotonic()
    events = interrupted(tmp_path, tasks, started)
    assert time.monotonic() - began < 5
    assert states(events) == {"a.mp4": "interrupted", "b.mp4": "interrupted"}
    assert not [p for p in psutil.Process().children() if "ffmpeg" in p.name()]


def test_what_arrives_is_done_until_it_is_told_to_end(tmp_path: Path) -> None:
    coming = [[task(tmp_path, "b.mp4")], [], [task(tmp_path, "a.mp4"), task(tmp_path, "b.mp4")]]
    events: list[Event] = []

    def arrivals() -> list[Task]:
        if coming:
            return coming.pop(0)
        if sum(isinstance(event, Outcome) for event in events) == 3:
            raise KeyboardInterrupt
        return []

    with Ledger(tmp_path) as ledger, pytest.raises(KeyboardInterrupt):
        process([], {tmp_path: ledger}, events.append, jobs=2, arrivals=arrivals)
    outcomes = [(e.source.name, e.state) for e in events if isinstance(e, Outcome)]
    # The second b.mp4 waited for the first, as both write one file.
    assert sorted(outcomes) == [("a.mp4", "done"), ("b.mp4", "done"), ("b.mp4", "skipped")]


def test_memory_is_asked_for_before_frames_are(
    tmp_path: Path, fake_run: Callable[[FakeRun], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three large clips on a machine with room for two."""
    monkeypatch.setattr("vidbg.machine.free_memory", lambda: 1500 << 20)
    info = video_info(width=1920, height=1080)
    lock, counts = threading.Lock(), {"now": 0, "most": 0}

    def slow(job: Job, *, on_start: Callable[..., None], **_: object) -> Result:
        on_start(info, 10)
        with lock:
            counts["now"] += 1
            counts["most"] = max(counts.values())
        time.sleep(0.2)
        with lock:
            counts["now"] -= 1
        return result_of(job)

    fake_run(slow)
    tasks = [task(tmp_path, f"{n}.mp4") for n in range(4)]
    assert set(states(run(tmp_path, tasks, jobs=4)).values()) == {"done"}
    assert counts["most"] == 2


def test_results_do_not_depend_on_how_many_run_at_once(tmp_path: Path) -> None:
    written = []
    for jobs in (1, 3):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        tasks = [task(folder, f"{n}.mp4") for n in range(3)]
        run(folder, tasks, jobs=jobs)
        written.append([np.fromfile(path, np.uint8) for path in sorted(folder.glob("out/*.mp4"))])
    assert len(written[0]) == 3
    assert all(np.array_equal(one, other) for one, other in zip(*written, strict=True))
