"""Jobs in segments: ended anywhere and taken up again, they make what they would have made."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import (
    cores_of_children,
    decode_planes,
    make_clip,
    noise_planes,
    run_ffmpeg,
    stream_facts,
    video_info,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg import machine
from vidbg.cli import reporting
from vidbg.errors import EncodeError, FFmpegError, InputError, Interrupted, OutputError
from vidbg.job import Job, Progress, Result
from vidbg.media import audio, background, encode, formats, segments, sinks
from vidbg.media import ffmpeg as ff
from vidbg.media.encode import Output
from vidbg.media.probe import probe
from vidbg.media.segments import (
    Finished,
    Journal,
    SegmentedSinks,
    Terms,
    Work,
    parse_journal,
    pieces,
    work_folder,
)
from vidbg.pipeline import run
from vidbg.temporal.smooth import PREROLL_FRAMES

SAMPLES = Path(__file__).parent.parent / "samples"
GRID = 16
FRAMES = 3 * GRID + 5
RATE = Fraction(30000, 1001)

# The command with another grid, ended by itself when it has done so much: each file that is
# opened, renamed, linked or removed where the output lies, each process and each batch counts.
RUNNER = f"""
import os, signal, sys
import vidbg.cli.main
from vidbg.media import segments, sinks
segments.SEGMENT_FRAMES = {GRID}
limit, folder, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
names = {{"open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "subprocess.Popen"}}
done = 0
def count():
    global done
    done += 1
    if done == limit:
        os.kill(os.getpid(), signal.SIGKILL)
def watch(event, details):
    if event in names and folder in str(details[:2]):
        count()
write = sinks.Sink.write
def counted(*shown):
    write(*shown)
    count()
sinks.Sink.write = counted
sys.addaudithook(watch)
try:
    vidbg.cli.main.main(arguments)
finally:
    print("moments", done, file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", GRID)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """53 counted frames at 29.97 fps, H.264 with B-frames, AAC sound, title and chapters."""
    folder = tmp_path_factory.mktemp("resume")
    plain = make_clip(
        folder / "plain.mp4", size=(96, 64), frames=FRAMES, rate=RATE, audio="aac", matrix="bt709",
        primaries="bt709", transfer="bt709", colour_range="tv", sar="4/3",
    )  # fmt: skip
    notes = folder / "notes.txt"
    notes.write_text(
        ";FFMETADATA1\ntitle=a walk\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=900\ntitle=one\n"
    )
    told = folder / "in.mp4"
    run_ffmpeg(
        "-i", str(plain), "-f", "ffmetadata", "-i", str(notes), "-map", "0", "-c", "copy",
        "-map_metadata", "1", str(told),
    )  # fmt: skip
    return told


@dataclass
class Flicker:
    """A segmenter whose mattes change from frame to frame, but depend on the picture only."""

    name: str = "flicker"
    calls: int = 0

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        return 3

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls += len(rgb)
        flicker = rgb.sum(axis=(1, 2, 3), keepdims=True)[..., 0] % 97 / 97
        return np.abs(rgb[..., 1] / 255 - flicker).astype(np.float32)


class Never(Flicker):
    """A segmenter that nobody may ask."""

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise AssertionError("no frame was to be made again")


def job_for(source: Path, path: Path, kind: str = "composite", **options: Any) -> Job:
    codec = encode.choose_codec(path, kind, options.pop("codec", None))
    written = Output(path, kind, codec, overwrite=options.pop("overwrite", False))
    behind = background.parse("#204060") if kind == "composite" else None
    fields: dict[str, Any] = {"background": behind, "smooth": 0.7, "edges": "off", "resume": True}
    return Job(source, written, **{**fields, **options})


def interrupt_at(frames: int) -> Callable[[Progress], None]:
    """Return what presses Ctrl-C as soon as so many frames are written."""

    def look(progress: Progress) -> None:
        if progress.frames >= frames:
            raise KeyboardInterrupt

    return look


def packets(path: Path) -> list[tuple[object, ...]]:
    """Return all that is in a file's packets: stream, times, flags and bytes."""
    found: list[tuple[object, ...]] = []
    with av.open(f"file:{path}") as container:
        for packet in container.demux():
            if packet.size:
                times = packet.pts, packet.dts, packet.duration
                extra = tuple(bytes(part) for part in packet.iter_sidedata())
                found.append(
                    (packet.stream_index, *times, packet.is_keyframe, bytes(packet), extra)
                )
    return sorted(found, key=lambda entry: entry[:1])


def same_file(one: Path, other: Path) -> None:
    """Assert that two files hold the same pictures, sound, times and tags."""
    assert packets(one) == packets(other)
    assert stream_facts(one) == stream_facts(other)


# ---- The grid ----------------------------------------------------------------------------------


@given(st.integers(0, 2000), st.integers(0, 700), st.integers(1, 350))
def test_pieces_cover_a_batch_and_cross_no_border(position: int, count: int, grid: int) -> None:
    found = pieces(position, count, grid)
    frames = [position + n for piece in found for n in range(count)[piece]]
    assert frames == list(range(position, position + count))
    for piece in found:
        numbers = [(position + n) // grid for n in range(count)[piece]]
        assert len(numbers) > 0
        assert len(set(numbers)) == 1
    # No more cuts than borders.
    segments_met = {n // grid for n in range(position, position + count)}
    assert len(found) == len(segments_met)


@pytest.mark.parametrize("name", ["out.mp4", "a" * 251 + ".mp4", "ä" * 124 + ".mkv", "x\ny.mov"])
def test_the_work_folder_has_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    folder = work_folder(tmp_path / name)
    folder.mkdir()
    assert folder.parent == tmp_path
    assert segments.is_work_folder(folder)
    assert not segments.is_work_folder(tmp_path / name)
    assert folder != work_folder(tmp_path / f"b{name[1:]}")
    assert folder != work_folder((tmp_path / name).with_suffix(".webm"))


# ---- The journal -------------------------------------------------------------------------------

TERMS = Terms("f" * 64, GRID, (".mp4", ".mkv"), ("none", "h264_qsv"), "ffmpeg version 7", 2)
WHOLE = Journal(
    TERMS,
    (Finished(GRID, (10, 20), False), Finished(GRID, (11, 21), False), Finished(5, (1, 2), True)),
    ((0, (1234, 5678)),),
    "OpenVINO in int8",
)


def test_a_journal_is_read_as_it_was_written() -> None:
    assert parse_journal(b"".join(WHOLE.lines())) == WHOLE


def test_a_torn_journal_says_no_more_than_its_whole_lines() -> None:
    lines = list(WHOLE.lines())
    content = b"".join(lines)
    ends = [len(b"".join(lines[: n + 1])) for n in range(len(lines))]
    for length in range(len(content) + 1):
        journal = parse_journal(content[:length])
        whole = sum(end <= length for end in ends)
        if whole == 0:
            assert journal is None
            continue
        assert journal is not None
        # The second line says what ran the network.
        assert journal.network == (WHOLE.network if whole > 1 else "")
        assert journal.segments == WHOLE.segments[: max(0, whole - 2)]
        assert bool(journal.published) == (whole == len(lines))


@given(st.integers(0, len(b"".join(WHOLE.lines())) - 1), st.integers(0, 7))
def test_a_damaged_journal_never_has_more_frames(place: int, bit: int) -> None:
    content = bytearray(b"".join(WHOLE.lines()))
    content[place] ^= 1 << bit
    journal = parse_journal(bytes(content))
    if journal is not None and journal.terms == TERMS:
        assert len(journal.segments) <= 3
        for found, true in zip(journal.segments, WHOLE.segments, strict=False):
            assert found.frames == true.frames or found.is_last


@pytest.mark.parametrize("name", ["processors", "ffmpeg", "hardware"])
def test_a_journal_that_says_less_is_of_another_version(name: str) -> None:
    head, *rest = WHOLE.lines()
    given = json.loads(head)
    del given[name]
    assert parse_journal(b"".join([json.dumps(given).encode() + b"\n", *rest])) is None


@given(st.binary(max_size=200))
def test_any_other_file_is_no_journal(content: bytes) -> None:
    assert parse_journal(content) is None


@pytest.mark.parametrize(
    "wrong",
    [
        [Finished(GRID - 1, (1, 2), False)],
        [Finished(GRID + 1, (1, 2), True)],
        [Finished(0, (1, 2), True)],
        [Finished(GRID, (1,), False)],
        [Finished(GRID, (1, 2), True), Finished(GRID, (1, 2), True)],
    ],
)
def test_segments_that_cannot_be_are_not_believed(wrong: list[Finished]) -> None:
    journal = parse_journal(b"".join(Journal(TERMS, tuple(wrong)).lines()))
    assert journal is not None
    assert len(journal.segments) == len(wrong) - 1


def a_work(path: Path, fingerprint: str = "one", codec: str = "ffv1") -> Work:
    return Work((Output(path, "matte", codec),), fingerprint)


def fill(work: Work, count: int) -> None:
    for number in range(count):
        work.path(number, 0).write_bytes(b"x" * (number + 1))
        work.add(is_last=False, frames=GRID)


def leave(work: Work) -> None:
    """Leave a work folder as a job does that fails."""
    with pytest.raises(OutputError, match="--resume"), work:
        raise OutputError("no", path="there")


def test_finished_segments_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    work = a_work(path)
    fill(work, 3)
    stray = work.folder / "000003.0.1234.part.mkv"
    stray.write_bytes(b"half")
    leave(work)
    again = a_work(path)
    assert again.frames == 3 * GRID
    assert not stray.exists()
    with again:
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["shorter", "longer", "gone"])
def test_a_damaged_segment_and_what_follows_is_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mkv"
    work = a_work(path)
    fill(work, 4)
    leave(work)
    second = work.path(1, 0)
    if damage == "gone":
        second.unlink()
    else:
        second.write_bytes(b"" if damage == "shorter" else b"xxxxxx")
    again = a_work(path)
    assert "segment 2 of it is damaged" in caplog.text
    assert again.frames == GRID
    assert sorted(p.name for p in again.folder.iterdir()) == ["000000.0.mkv", "journal", "lock"]
    with again:
        pass


def test_an_ffmpeg_that_ends_before_it_says_what_it_is_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.mkv"
    work = a_work(path)
    fill(work, 2)
    leave(work)
    with monkeypatch.context() as patch:
        patch.setattr(ff, "run", lambda *_, **__: ff.Ran(-9, b"", ()))
        with pytest.raises(FFmpegError, match=r"does not run .*Killed"):
            a_work(path)
    again = a_work(path)
    assert again.frames == 2 * GRID
    leave(again)


@pytest.mark.parametrize("change", ["fingerprint", "grid", "codec", "ffmpeg"])
def test_segments_of_another_job_are_not_used(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mkv"
    work = a_work(path)
    fill(work, 2)
    leave(work)
    if change == "grid":
        monkeypatch.setattr(segments, "SEGMENT_FRAMES", GRID + 1)
    if change == "ffmpeg":
        monkeypatch.setattr(segments, "_ffmpeg_version", lambda: "another")
    again = a_work(
        path,
        "two" if change == "fingerprint" else "one",
        "h264" if change == "codec" else "ffv1",
    )
    assert "of another job: it starts over" in caplog.text
    assert again.frames == 0
    with again:
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_is_none_starts_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mkv"
    work = a_work(path)
    fill(work, 2)
    leave(work)
    (work.folder / "journal").write_bytes(b"\0" * 300)
    with a_work(path) as again:
        assert "is damaged: it starts over" in caplog.text
        assert again.frames == 0


def test_later_runs_have_the_threads_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.mp4"
    monkeypatch.setattr(machine, "allowed_cores", lambda: 4)
    work = a_work(path, codec="h264")
    fill(work, 1)
    leave(work)
    monkeypatch.setattr(machine, "allowed_cores", lambda: 64)
    with a_work(path, codec="h264") as again:
        assert again.frames == GRID
        assert again.threads(0) == 6
    with a_work(path, codec="h264") as anew:
        assert anew.threads(0) == 16


def test_two_jobs_do_not_share_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    with a_work(path):
        with pytest.raises(OutputError, match="another vidbg is working on it"):
            a_work(path)
        with a_work(tmp_path / "other.mkv"):
            pass
    with a_work(path):
        pass


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    with a_work(tmp_path / "out.mkv") as work:
        (work.folder / "diary.txt").write_text("dear")
    assert [path.name for path in work.folder.iterdir()] == ["diary.txt"]


# ---- Joins -------------------------------------------------------------------------------------

WRITTEN = [
    (".mp4", "composite", "h264"),
    (".mp4", "composite", "hevc"),
    (".mp4", "composite", "av1"),
    (".mp4", "composite", "vp9"),
    (".mov", "composite", "prores"),
    (".mov", "alpha", "prores"),
    (".mkv", "composite", "h264"),
    (".mkv", "composite", "ffv1"),
    (".mkv", "alpha", "ffv1"),
    (".mkv", "alpha", "vp9"),
    (".mkv", "matte", "ffv1"),
    (".webm", "composite", "vp9"),
    (".webm", "alpha", "vp9"),
]


@pytest.mark.parametrize(("suffix", "kind", "codec"), WRITTEN)
@pytest.mark.parametrize("rate", ["30000/1001", "179/6"])
@pytest.mark.parametrize("frames", [5, 3 * GRID, 3 * GRID + 1])
def test_joined_files_are_regular(
    tmp_path: Path, exact_clip: Path, suffix: str, kind: str, codec: str, rate: str, frames: int
) -> None:
    info = replace(video_info(width=96, height=64), path=exact_clip, frame_rate=Fraction(rate))
    output = Output(tmp_path / f"out{suffix}", kind, codec, sound="none")
    window = audio.Window(Fraction(0), frames / info.frame_rate, False)
    planes = noise_planes("yuv420p", (96, 64), 1)
    with Work((output,), "one") as work, SegmentedSinks(work, info, window) as written:
        for number in range(frames):
            alpha = np.full((1, 64, 96), number, np.uint8)
            written.write([(planes, None if kind == "composite" else alpha)])  # type: ignore[list-item]
        assert written.frames_written == frames
    assert [path.name for path in tmp_path.iterdir()] == [output.path.name]
    facts = stream_facts(output.path)
    assert facts.frames == frames
    assert facts.rate == info.frame_rate
    wanted = [n / info.frame_rate for n in range(frames)]
    slack = Fraction(1, 2000) if suffix in (".mkv", ".webm") else 0
    assert all(abs(a - b) <= slack for a, b in zip(facts.stamps, wanted, strict=True))
    assert abs(facts.duration - frames / info.frame_rate) < Fraction(1, 500)
    with av.open(f"file:{output.path}") as container:
        kept = [packet for packet in container.demux(video=0) if packet.size]
    assert all(packet.dts is None or packet.dts <= packet.pts for packet in kept)
    starts = {round(p.pts * p.time_base * info.frame_rate) for p in kept if p.is_keyframe}
    assert set(range(0, frames, GRID)) <= starts
    with av.open(f"file:{output.path}") as container:
        assert sum(1 for _ in container.decode(video=0)) == frames


@pytest.mark.parametrize("count", [1, 2])
def test_several_outputs_share_their_segments(tmp_path: Path, exact_clip: Path, count: int) -> None:
    info = replace(video_info(width=96, height=64), path=exact_clip)
    outputs = (
        Output(tmp_path / "a.mp4", "composite", "h264", sound="none"),
        Output(tmp_path / "b.mkv", "matte", "ffv1", sound="none"),
    )[:count]
    window = audio.Window(Fraction(0), FRAMES / info.frame_rate, False)
    planes = noise_planes("yuv420p", (96, 64), 7)
    alpha = np.zeros((7, 64, 96), np.uint8)
    shown: list[Any] = [(planes, None), (planes, alpha)][:count]

    def work_on(stop: int) -> None:
        with Work(outputs, "one") as work, SegmentedSinks(work, info, window) as written:
            assert written.frames_written % GRID == 0
            while written.frames_written < stop:
                rest = min(7, stop - written.frames_written)
                written.write(
                    [
                        (tuple(p[:rest] for p in given), a if a is None else a[:rest])
                        for given, a in shown
                    ]
                )
            if stop < FRAMES:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"{GRID} frames are kept"):
        work_on(2 * GRID - 1)
    work_on(FRAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mkv"][:count]
    for output in outputs:
        assert stream_facts(output.path).frames == FRAMES


# ---- Whole jobs --------------------------------------------------------------------------------


def interrupted_run(job: Job, at: int) -> int:
    """Run a job until so many frames are written; return how many are kept."""
    with pytest.raises(Interrupted, match=r"\d+ frames are kept: run it again with --resume"):
        run(job, segmenter=Flicker(), on_progress=interrupt_at(at))
    assert not job.output.path.exists()
    journal = parse_journal((work_folder(job.output.path) / "journal").read_bytes())
    assert journal is not None
    return sum(segment.frames for segment in journal.segments)


def taken_up(job: Job) -> tuple[Result, list[int]]:
    """Run a job to its end; return its result and the frames that it told on its way."""
    told: list[int] = []
    result = run(job, segmenter=Flicker(), on_progress=lambda so_far: told.append(so_far.frames))
    return result, told


@dataclass
class Placed(Flicker):
    """A segmenter that says what it runs in."""

    way: str = ""


@pytest.mark.parametrize("later", ["OpenVINO in int8", "PyTorch in fp32 on cpu"])
def test_a_network_that_runs_elsewhere_on_the_way_is_told_of(
    tmp_path: Path, clip: Path, later: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_for(clip, tmp_path / "out.mkv", codec="ffv1")
    first = "OpenVINO in int8"
    with pytest.raises(Interrupted):
        run(job, segmenter=Placed(way=first), on_progress=interrupt_at(GRID + 3))
    assert run(job, segmenter=Placed(way=later)).earlier_frames == GRID
    told = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len(told) == (later != first)
    assert all(first in line and later in line for line in told)


@pytest.mark.parametrize(("suffix", "kind", "codec"), WRITTEN)
def test_a_job_taken_up_again_makes_the_same(
    tmp_path: Path, clip: Path, suffix: str, kind: str, codec: str
) -> None:
    whole, parts = (
        job_for(clip, tmp_path / name / f"out{suffix}", kind, codec=codec)
        for name in ("whole", "parts")
    )
    for job in (whole, parts):
        job.output.path.parent.mkdir()
    uninterrupted, _ = taken_up(whole)
    assert uninterrupted.frames == FRAMES
    assert interrupted_run(parts, GRID + 3) == GRID
    assert interrupted_run(parts, 3 * GRID + 4) == 3 * GRID
    result, told = taken_up(parts)
    assert told[0] == 3 * GRID
    assert (result.frames, result.earlier_frames) == (FRAMES, 3 * GRID)
    same_file(whole.output.path, parts.output.path)
    assert [path.name for path in parts.output.path.parent.iterdir()] == [f"out{suffix}"]


@pytest.mark.parametrize(
    ("suffix", "kind", "codec"), [entry for entry in WRITTEN if entry[2] in ("ffv1", "prores")]
)
def test_segments_change_no_sample(
    tmp_path: Path, clip: Path, suffix: str, kind: str, codec: str
) -> None:
    # These encoders know no other frame than the one they encode.
    direct, joined = (
        job_for(clip, tmp_path / f"{name}{suffix}", kind, codec=codec, resume=name == "joined")
        for name in ("direct", "joined")
    )
    for job in (direct, joined):
        run(job, segmenter=Flicker())
    same_file(direct.output.path, joined.output.path)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "h264"), (".mov", "hevc"), (".mkv", "h264"), (".webm", "vp9")]
)
def test_all_but_the_pictures_is_as_without_segments(
    tmp_path: Path, clip: Path, suffix: str, codec: str
) -> None:
    direct, joined = (
        job_for(clip, tmp_path / f"{name}{suffix}", codec=codec, resume=name == "joined")
        for name in ("direct", "joined")
    )
    for job in (direct, joined):
        run(job, segmenter=Flicker())
    before, after = (stream_facts(job.output.path) for job in (direct, joined))
    assert before == after
    assert after.metadata["title"] == "a walk"
    assert after.chapters == 1
    sound = [
        [entry for entry in packets(job.output.path) if entry[0] != 0] for job in (direct, joined)
    ]
    assert sound[0] == sound[1]
    assert sound[0]


SITED = [(".mp4", "h264"), (".mkv", "av1"), (".mkv", "vp9"), (".webm", "vp9")]


@pytest.mark.parametrize(("suffix", "codec"), SITED)
def test_where_chroma_sits_is_still_said(tmp_path: Path, suffix: str, codec: str) -> None:
    source = make_clip(tmp_path / "in.mp4", options=("-chroma_sample_location", "topleft"))
    job = job_for(source, tmp_path / f"out{suffix}", codec=codec)
    run(job, segmenter=Flicker())
    assert probe(job.output.path).format.chroma_location == "topleft"


@pytest.mark.parametrize(
    ("start", "end"), [("0.4", None), ("0.2", "1.5"), (None, "1.2"), ("0.05", "1.151")]
)
def test_trims(tmp_path: Path, clip: Path, start: str | None, end: str | None) -> None:
    times = {"start_s": start and Fraction(start), "end_s": end and Fraction(end)}
    whole = job_for(clip, tmp_path / "whole.mp4", **times)
    parts = job_for(clip, tmp_path / "parts.mp4", **times)
    run(whole, segmenter=Flicker())
    assert interrupted_run(parts, GRID + 1) == GRID
    run(parts, segmenter=Flicker())
    same_file(whole.output.path, parts.output.path)


def test_uneven_clips(tmp_path: Path, uneven_clip: Path) -> None:
    whole, parts = (
        job_for(uneven_clip, tmp_path / f"{name}.mkv", codec="ffv1") for name in ("whole", "parts")
    )
    result = run(whole, segmenter=Flicker())
    assert result.frames > 3 * GRID
    assert interrupted_run(parts, 2 * GRID + 1) == 2 * GRID
    run(parts, segmenter=Flicker())
    same_file(whole.output.path, parts.output.path)


def test_a_background_that_starts_again(tmp_path: Path, clip: Path) -> None:
    behind = make_clip(tmp_path / "bg.mkv", size=(96, 64), frames=7, rate="12")
    options = {"codec": "ffv1", "background": behind, "start_s": Fraction("0.1")}
    whole, parts = (job_for(clip, tmp_path / f"{n}.mkv", **options) for n in ("whole", "parts"))
    run(whole, segmenter=Flicker())
    assert interrupted_run(parts, GRID + 4) == GRID
    run(parts, segmenter=Flicker())
    same_file(whole.output.path, parts.output.path)


def test_damaged_clips(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "cut.mp4", frames=90, options=("-movflags", "+faststart", "-g", "12")
    )
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * 0.7)])
    options = {"codec": "h264", "allow_damaged": True}
    whole, parts = (job_for(source, tmp_path / f"{n}.mp4", **options) for n in ("whole", "parts"))
    uninterrupted = run(whole, segmenter=Flicker())
    assert uninterrupted.lost_frames > 0
    interrupted_run(parts, 2 * GRID + 1)
    result = run(parts, segmenter=Flicker())
    assert (result.frames, result.lost_frames) == (uninterrupted.frames, uninterrupted.lost_frames)
    same_file(whole.output.path, parts.output.path)


def test_reading_starts_where_the_segments_end(tmp_path: Path, clip: Path) -> None:
    job = job_for(clip, tmp_path / "out.mkv", codec="ffv1")
    interrupted_run(job, 3 * GRID + 1)
    segmenter = Flicker()
    run(job, segmenter=segmenter)
    assert segmenter.calls == FRAMES - 3 * GRID + PREROLL_FRAMES


def test_a_short_clip_has_one_segment(tmp_path: Path, plain_clip: Path) -> None:
    direct, joined = (
        job_for(plain_clip, tmp_path / f"{name}.mp4", resume=name == "joined")
        for name in ("direct", "joined")
    )
    run(direct, segmenter=Flicker())
    with pytest.raises(KeyboardInterrupt) as caught:
        run(joined, segmenter=Flicker(), on_progress=interrupt_at(9))
    assert not isinstance(caught.value, Interrupted)  # nothing was finished
    assert [path.name for path in tmp_path.iterdir()] == ["direct.mp4"]
    run(joined, segmenter=Flicker())
    assert stream_facts(direct.output.path) == stream_facts(joined.output.path)


def test_other_options_start_over(
    tmp_path: Path, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mkv"
    interrupted_run(job_for(clip, path, codec="ffv1"), 2 * GRID + 1)
    other = job_for(clip, path, codec="ffv1", grow_px=3.0)
    result = run(other, segmenter=Flicker())
    assert "starts over" in caplog.text
    assert result.earlier_frames == 0
    expected = job_for(clip, tmp_path / "expected.mkv", codec="ffv1", grow_px=3.0)
    run(expected, segmenter=Flicker())
    same_file(expected.output.path, path)


def test_segments_of_other_hardware_are_not_joined(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    missing = {name: formats.Codec(f"lib{name}") for name in formats.hardware_for("h264")}
    # A stand-in that works, with other headers than the software has.
    working = replace(formats.CODECS["h264"], options=(("g", "7"), ("profile", "main")))

    def job(name: str) -> Job:
        made = job_for(clip, tmp_path / name)
        return replace(made, output=replace(made.output, hwaccel="auto"))

    encode._trial.cache_clear()
    monkeypatch.setattr(formats, "HARDWARE", {**missing, "h264_qsv": working})
    interrupted_run(job("out.mp4"), 2 * GRID + 1)
    monkeypatch.setattr(formats, "HARDWARE", missing)
    result = run(job("out.mp4"), segmenter=Flicker())
    assert "starts over" in caplog.text
    assert result.earlier_frames == 0
    run(job("expected.mp4"), segmenter=Flicker())
    encode._trial.cache_clear()
    same_file(tmp_path / "expected.mp4", tmp_path / "out.mp4")


def test_a_full_disk_keeps_what_is_finished(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(clip, tmp_path / "out.mp4")
    write = sinks.Sink.write
    room = iter(range(10))

    def fill_up(sink: sinks.Sink, *shown: Any) -> None:
        if next(room, None) is None:
            raise EncodeError("cannot be written (No space left)", path=sink.output.path)
        write(sink, *shown)

    with monkeypatch.context() as patch:
        patch.setattr(sinks.Sink, "write", fill_up)
        with pytest.raises(EncodeError) as caught:
            run(job, segmenter=Flicker())
    said = str(caught.value)
    assert said.startswith(f"{job.output.path}: cannot be written (No space left)")
    assert "frames are kept: run it again with --resume" in said
    result = run(job, segmenter=Flicker())
    assert result.earlier_frames == GRID


def test_room_is_looked_for_before_the_join(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(clip, tmp_path / "out.mp4")
    with monkeypatch.context() as patch:
        usage = segments.shutil.disk_usage(tmp_path)
        patch.setattr(segments.shutil, "disk_usage", lambda _: usage._replace(free=1_100_000))
        with pytest.raises(OutputError, match="joining its segments takes 1 MB") as caught:
            run(job, segmenter=Flicker())
    assert f"{FRAMES} frames are kept" in str(caught.value)
    assert not job.output.path.exists()
    # All frames are there: no network is asked, no frame decoded.
    result = run(job, segmenter=Never())
    assert (result.frames, result.earlier_frames) == (FRAMES, FRAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_no_more_room_is_taken_than_the_result_and_its_segments(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(clip, tmp_path / "out.mkv", codec="ffv1")
    most = 0
    for name in ("finish", "publish", "discard"):
        plain = getattr(sinks.Sink, name)

        def measured(sink: sinks.Sink, plain: Callable[..., None] = plain) -> None:
            nonlocal most
            plain(sink)
            inodes = {p.stat().st_ino: p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()}
            most = max(most, sum(inodes.values()))

        monkeypatch.setattr(sinks.Sink, name, measured)
    run(job, segmenter=Flicker())
    size = job.output.path.stat().st_size
    assert size < most < 2.1 * size


def test_a_result_that_was_named_just_before_the_end_is_known_again(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(clip, tmp_path / "out.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(Work, "remove_segments", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted):
            run(job, segmenter=Flicker())
    made = job.output.path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        run(replace(job, grow_px=1.0), segmenter=Never())
    assert run(job, segmenter=Never()).frames == FRAMES
    assert job.output.path.read_bytes() == made
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    with pytest.raises(OutputError, match="exists already"):
        run(job, segmenter=Never())


def test_a_background_that_is_missing_is_no_other_error_than_without(
    tmp_path: Path, clip: Path
) -> None:
    job = job_for(clip, tmp_path / "out.mp4", background=tmp_path / "gren")
    with pytest.raises(InputError, match="no such file, nor a colour"):
        run(job, segmenter=Never())


def test_segments_go_when_the_name_is_on_the_disk(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    job = job_for(clip, tmp_path / "out.mp4", also=(Output(elsewhere / "a.mkv", "matte", "ffv1"),))
    happened: list[tuple[str, bool]] = []
    sync_folder, remove_segments = segments._sync_folder, Work.remove_segments

    def synced(folder: Path) -> None:
        sync_folder(folder)
        if folder == elsewhere:
            happened.append(("synced", job.also[0].path.exists()))

    def removed(work: Work, output: int) -> None:
        if output == 1:
            happened.append(("removed", job.also[0].path.exists()))
        remove_segments(work, output)

    monkeypatch.setattr(segments, "_sync_folder", synced)
    monkeypatch.setattr(Work, "remove_segments", removed)
    run(job, segmenter=Flicker())
    assert happened == [("synced", True), ("removed", True)]


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, clip: Path) -> None:
    job = job_for(clip, tmp_path / "out.mp4")

    def meddle(progress: Progress) -> None:
        if progress.frames == FRAMES:
            job.output.path.write_text("mine")

    with pytest.raises(OutputError, match="appeared while the job ran") as caught:
        run(job, segmenter=Flicker(), on_progress=meddle)
    assert "frames are kept" in str(caught.value)
    assert job.output.path.read_text() == "mine"
    run(replace(job, output=replace(job.output, overwrite=True)), segmenter=Never())
    assert stream_facts(job.output.path).frames == FRAMES


def test_folders_that_are_hard_to_name(tmp_path: Path, clip: Path) -> None:
    folder = tmp_path / "it's a\nline %03d [x] #1?"
    folder.mkdir()
    source = folder / "in 'here'.mp4"
    source.write_bytes(clip.read_bytes())
    job = job_for(source, folder / "o'ut\n.mp4")
    interrupted_run(job, GRID + 1)
    assert run(job, segmenter=Flicker()).frames == FRAMES
    assert sorted(path.name for path in folder.iterdir()) == ["in 'here'.mp4", "o'ut\n.mp4"]


def test_relative_names(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    binary = os.path.relpath(ff.executable())
    monkeypatch.setattr(ff, "executable", lambda: binary)
    Path("in.mp4").write_bytes(clip.read_bytes())
    job = job_for(Path("in.mp4"), Path("out.mp4"))
    interrupted_run(job, GRID + 1)
    run(job, segmenter=Flicker())
    assert stream_facts(tmp_path / "out.mp4").frames == FRAMES


def test_the_other_sound_is_joined_too(tmp_path: Path, clip: Path) -> None:
    behind = make_clip(tmp_path / "bg.mp4", size=(96, 64), frames=12, audio="aac")
    source = job_for(clip, tmp_path / "whole.mp4", background=behind)
    whole, parts = (
        replace(source, output=replace(source.output, path=tmp_path / name, sound="mix"))
        for name in ("whole.mp4", "parts.mp4")
    )
    run(whole, segmenter=Flicker())
    interrupted_run(parts, GRID + 1)
    run(parts, segmenter=Flicker())
    same_file(whole.output.path, parts.output.path)


# ---- The command -------------------------------------------------------------------------------


def vidbg(
    limit: int, folder: Path, *arguments: object, cores: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command with small segments; it is killed at a moment, 0 for never.

    Args:
        limit: The moment.
        folder: Where its outputs lie.
        *arguments: What a user writes.
        cores: How many it may use; None for all.
    """
    with nullcontext() if cores is None else cores_of_children(cores):
        return subprocess.run(
            [sys.executable, "-c", RUNNER, str(limit), str(folder), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )


def moments(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1])


def kept_frames(out: Path) -> int:
    try:
        journal = parse_journal((work_folder(out) / "journal").read_bytes())
    except FileNotFoundError:
        return 0
    return 0 if journal is None else sum(segment.frames for segment in journal.segments)


GREEN_FRAMES = 140
COMMAND = ("--bg", SAMPLES / "stars.mp4", "--model", "chroma", "--resume")


@pytest.fixture(scope="module")
def green(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The green sample's first frames, made small, with sound and B-frames."""
    path = tmp_path_factory.mktemp("green") / "in.mp4"
    run_ffmpeg(
        "-i", str(SAMPLES / "talk.green.mp4"), "-f", "lavfi", "-t", "4.6", "-i",
        "sine=frequency=440:sample_rate=48000", "-map", "0:v", "-map", "1:a",
        "-frames:v", str(GREEN_FRAMES), "-vf", "scale=96:64", "-c:v", "libx264", "-bf", "3",
        "-c:a", "aac", str(path),
    )  # fmt: skip
    return path


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_killed_at_ten_moments_makes_the_same(tmp_path: Path, green: Path, seed: int) -> None:
    whole, parts = tmp_path / "whole" / "out.mp4", tmp_path / "parts" / "out.mp4"
    for path in (whole, parts):
        path.parent.mkdir()
    total = moments(vidbg(0, whole.parent, green, *COMMAND, "-o", whole))
    assert total > 100
    chance = random.Random(seed)
    for _ in range(10):
        before = kept_frames(parts)
        done = vidbg(chance.randint(1, 45), parts.parent, green, *COMMAND, "-o", parts)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert kept_frames(parts) >= before
    before = kept_frames(parts)
    assert 0 < before < GREEN_FRAMES
    done = vidbg(0, parts.parent, green, *COMMAND, "-o", parts, "--json")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["frames"], last["earlier_frames"]) == (GREEN_FRAMES, before)
    same_file(whole, parts)
    assert [path.name for path in parts.parent.iterdir()] == ["out.mp4"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov"])
def test_a_kill_costs_one_segment_at_most(tmp_path: Path, green: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    what = COMMAND if suffix != ".mov" else ("--alpha", "--model", "chroma", "--resume")
    total = moments(vidbg(0, tmp_path, green, *what, "-o", whole))
    chance = random.Random(suffix)
    for share in (0.5, 0.97):
        out = tmp_path / str(share) / f"out{suffix}"
        out.parent.mkdir()
        limit = round((share + chance.uniform(-0.05, 0.02)) * total)
        done = vidbg(limit, out.parent, green, *what, "-o", out, "--json")
        assert done.returncode == -signal.SIGKILL, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        reached = max((e["frames"] for e in events if e["event"] == "progress"), default=0)
        assert kept_frames(out) >= reached - GRID
        assert vidbg(0, out.parent, green, *what, "-o", out).returncode == 0
        same_file(whole, out)
        assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_three_outputs_of_a_killed_job_are_those_of_one_that_was_not(
    tmp_path: Path, green: Path
) -> None:
    names = ["matte.mkv", "out.mp4", "subject.mov"]

    def asked(folder: Path) -> list[object]:
        folder.mkdir(exist_ok=True)
        matte, out, subject = (folder / name for name in names)
        return [green, *COMMAND, "-o", out, "--alpha-out", subject, "--matte-out", matte]

    def present(folder: Path) -> list[str]:
        return [name for name in names if (folder / name).exists()]

    whole = tmp_path / "whole"
    total = moments(vidbg(0, whole, *asked(whole)))
    # In the middle of the segments, and when all outputs but the last have their names.
    middle, end = tmp_path / "middle", tmp_path / "end"
    for folder, limit in ((middle, total // 2), (end, total - 20)):
        done = vidbg(limit, folder, *asked(folder))
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert present(middle) == []
    assert GRID <= kept_frames(middle / "out.mp4") < GREEN_FRAMES
    assert present(end) == ["out.mp4", "subject.mov"]
    for folder in (middle, end):
        done = vidbg(0, folder, *asked(folder))
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in folder.iterdir()) == names
        for name in names:
            before, after = decode_planes(whole / name), decode_planes(folder / name)
            assert len(before[0]) == GREEN_FRAMES
            assert all(np.array_equal(*planes) for planes in zip(before, after, strict=True))
            same_file(whole / name, folder / name)


@pytest.fixture(scope="module")
def falling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments of blotches that fall by 20 pixels a frame: motion that x264 limits.

    How far down it searches depends on how many frames it encodes at once, thus on its threads.
    """
    width, height, step_px = 96, 128, 20
    noise = np.random.default_rng(0).integers(0, 256, (3 * GRID * step_px + height, width))
    blotches = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 2)
    tall = ((blotches - 128) * 4 + 128).clip(0, 255).astype(np.uint8)
    grey = bytes([128]) * (width * height // 2)
    raw = b"".join(tall[n * step_px :][:height].tobytes() + grey for n in range(3 * GRID))
    path = tmp_path_factory.mktemp("falling") / "in.mkv"
    return make_clip(path, size=(width, height), rate=RATE, raw=raw, raw_pix_fmt="yuv420p")


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="no second core to have or not to have",
)
def test_a_job_goes_on_with_the_threads_of_the_machine_that_began_it(
    tmp_path: Path, falling: Path
) -> None:
    outs = [tmp_path / name / "out.mp4" for name in ("one", "two", "parts")]
    one, two, parts = outs
    for out in outs:
        out.parent.mkdir()
    command = (falling, "--bg", "red", "--model", "chroma", "--key", "red", "--resume", "-o")
    total = moments(vidbg(0, one.parent, *command, one, cores=1))
    moments(vidbg(0, two.parent, *command, two, cores=2))
    shown = [decode_planes(out)[0] for out in (one, two)]
    assert not np.array_equal(*shown)  # it does depend on them
    killed = vidbg(round(0.7 * total), parts.parent, *command, parts, cores=1)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert GRID <= kept_frames(parts) < 3 * GRID
    moments(vidbg(0, parts.parent, *command, parts, cores=2))
    same_file(one, parts)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_segments_and_says_so(
    tmp_path: Path, green: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out.mp4"
    program = RUNNER.replace("signal.SIGKILL", f"signal.{number.name}")
    command = [sys.executable, "-c", program, "70", str(tmp_path), str(green), *map(str, COMMAND)]
    done = subprocess.run(
        [*command, "-o", str(out), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert done.returncode == 130, done.stderr
    kept = kept_frames(out)
    assert kept >= GRID
    said = f"interrupted, {kept} frames are kept: run it again with --resume to go on from there"
    assert f"vidbg: {said}" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["message"] == said
    assert [path.name for path in tmp_path.iterdir()] == [work_folder(out).name]
    assert vidbg(0, tmp_path, green, *COMMAND, "-o", out).returncode == 0


def test_frames_of_an_earlier_run_are_not_this_ones_speed() -> None:
    assert reporting._fps(Progress(100, 200, 4.0, 2.0, earlier_frames=90)) == 5
    assert reporting._fps(Result(Path("out.mp4"), (), 30, RATE, 3.0, 0)) == 10


def test_which_outputs_cannot_be_resumed_is_said(
    tmp_path: Path, plain_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames, slow = tmp_path / "frames" / "%d.png", tmp_path / "slow.mkv"
    also = (
        Output(frames, "matte", "png"),
        Output(slow, "matte", "ffv1", frame_rate=Fraction(5)),
        Output(tmp_path / "fine.mkv", "matte", "ffv1"),
    )
    run(job_for(plain_clip, tmp_path / "out.mp4", also=also), segmenter=Flicker())
    assert f"{frames}, {slow}: cannot be made in segments, nor resumed" in caplog.text
    names = ["fine.mkv", "frames", "out.mp4", "slow.mkv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_pictures_are_not_resumed_and_that_is_said(tmp_path: Path) -> None:
    picture = make_clip(tmp_path / "in.png", frames=1)
    done = vidbg(
        0, tmp_path, picture, "--bg", "red", "--model", "chroma", "--key", "blue", "--resume",
        "-o", tmp_path / "out.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "out.png: cannot be made in segments, nor resumed" in done.stderr
