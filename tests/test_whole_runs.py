"""Whole jobs on clips of any size, rate, length and offset: frames, rate and sound come out right.

What is expected is said by how a clip was made, and what came out is read by PyAV.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
from clips import counter_luma, decode_planes, decode_sound, frame_numbers, make_clip, stream_facts
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidbg.job import Job
from vidbg.media import background, encode
from vidbg.pipeline import run

# Each example is a whole job, of several processes. Always the same ones, for steady times.
jobs = settings(
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

STANDARD = ["24000/1001", "25", "30000/1001", "50", "12.5", "1", "240", "60000/1001"]
SAMPLES_PER_S = 48_000
# The longest frame of sound that is written: AAC's.
SOUND_FRAME_S = Fraction(1024, SAMPLES_PER_S)
LARGEST_LATENESS_S = 0.004
LOUDNESS_PER_S = 1 / 16
LEAST_LOUDNESS = 1 / 8


@dataclass
class Still:
    """A segmenter that takes all of a picture for the subject, or nothing."""

    alpha: float
    name: str = "still"

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        return 5

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full(rgb.shape[:3], self.alpha, np.float32)


@dataclass(frozen=True)
class Sound:
    """Sound of a clip whose every sample says when it is to be heard, by how large it is.

    Attributes:
        begin_s: When it begins on the file's clock.
        length_s: How long it is.
    """

    begin_s: Fraction
    length_s: Fraction

    @property
    def source(self) -> str:
        return f"aevalsrc=exprs='{LEAST_LOUDNESS}+t*{LOUDNESS_PER_S}':s={SAMPLES_PER_S}"

    def at(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how large samples are at times on the file's clock."""
        own_s = times_s - float(self.begin_s)
        is_there = (own_s >= 0) & (own_s < float(self.length_s))
        return np.where(is_there, LEAST_LOUDNESS + own_s * LOUDNESS_PER_S, 0.0)

    def near_an_end(self, times_s: NDArray[np.float64], within_s: float) -> NDArray[np.bool_]:
        ends = (float(self.begin_s), float(self.begin_s + self.length_s))
        return np.min([np.abs(times_s - end) for end in ends], axis=0) < within_s


@dataclass(frozen=True)
class Case:
    """A clip, and the part of it that is asked for.

    Attributes:
        size: Width and height.
        rate: Frames a second.
        frames: How many.
        begin_s: When the first appears on the file's clock.
        sound: What is heard.
        suffixes: Of the clip and of the result.
        part: First frame and one past the last; None for all without a trim.
    """

    size: tuple[int, int]
    rate: Fraction
    frames: int
    begin_s: Fraction
    sound: Sound | None
    suffixes: tuple[str, str]
    part: tuple[int, int] | None

    @property
    def kept(self) -> tuple[int, int]:
        return self.part or (0, self.frames)

    @property
    def zero_s(self) -> Fraction:
        return self.begin_s if self.sound is None else min(self.begin_s, self.sound.begin_s)

    def time_of(self, frame: int) -> Fraction:
        """Return when a frame appears on the file's clock."""
        return self.begin_s + frame / self.rate


def milliseconds(least: int, most: int) -> st.SearchStrategy[Fraction]:
    return st.integers(least, most).map(lambda ms: Fraction(ms, 1000))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    side = st.one_of(st.integers(1, 9), st.integers(10, 80))
    rate = Fraction(draw(st.sampled_from(STANDARD)))
    # Matroska says nothing of how long a single frame of a second is.
    frames = draw(st.integers(2 if rate == 1 else 1, max(3, min(30, round(rate * 2)))))
    part = None
    if draw(st.booleans()):
        first = draw(st.integers(0, frames - 1))
        part = first, draw(st.integers(first + 1, frames))
        # A trim that takes all frames is none: sound after them stays.
        part = None if part == (0, frames) else part
    sound = None
    if draw(st.booleans()):
        sound = Sound(draw(milliseconds(0, 700)), draw(milliseconds(50, 2000)))
    return Case(
        size=(draw(side), draw(side)),
        rate=rate,
        frames=frames,
        begin_s=draw(st.one_of(st.just(Fraction(0)), milliseconds(1, 700)))
        if sound
        else Fraction(0),
        sound=sound,
        suffixes=(
            draw(st.sampled_from([".mkv", ".mov"])),
            draw(st.sampled_from([".mkv", ".mov", ".mp4"])),
        ),
        part=part,
    )


def made(case: Case, path: Path) -> Path:
    """Write the clip: lossless, each frame with its number where that fits in, with raw sound."""
    luma = counter_luma(range(case.frames), case.size)
    # Version 1 of FFV1, without slices, is for pictures of any size.
    options: dict[str, Any] = {"options": ("-level", "1") if path.suffix == ".mkv" else ()}
    if case.sound is not None:
        options |= {
            "audio": "pcm_s16le",
            "audio_source": case.sound.source,
            "audio_s": case.sound.length_s,
            "audio_delay_s": case.sound.begin_s,
            "video_delay_s": case.begin_s,
        }
    return make_clip(
        path,
        size=case.size,
        rate=case.rate,
        raw=luma.tobytes(),
        raw_pix_fmt="gray",
        pix_fmt="yuv444p" if path.suffix == ".mkv" else "rgb24",
        codec="ffv1" if path.suffix == ".mkv" else "qtrle",
        **options,
    )


def result_of(case: Case, source: Path, output: Path, **options: Any) -> Path:
    """Do the job with the whole picture for the subject; check what every result has."""
    codec = {".mkv": "ffv1", ".mov": "prores", ".mp4": "h264"}[output.suffix]
    fields: dict[str, Any] = {"background": background.parse("#204060")} | options
    if case.part is not None:
        first, stop = case.part
        # A quarter of a frame before the frames, so that it is clear which are meant.
        # A clip's time begins with whichever of its tracks begins first.
        earlier_s = case.zero_s + 1 / (4 * case.rate)
        fields["start_s"] = max(Fraction(0), case.time_of(first) - earlier_s)
        fields["end_s"] = case.time_of(stop) - earlier_s
    written = encode.Output(output, "composite", codec, sound=fields.pop("sound", "source"))
    segmenter = Still(fields.pop("alpha", 1.0))
    told = run(Job(source, written, smooth=0.0, edges="off", **fields), segmenter=segmenter)
    first, stop = case.kept
    facts = stream_facts(output)
    assert told.frames == facts.frames == stop - first
    # Matroska stamps in milliseconds, and has a frame's length in nanoseconds.
    is_coarse = output.suffix == ".mkv"
    assert facts.rate is not None
    if not is_coarse or case.rate > 1:  # FFmpeg writes no length of frames of a second and more
        off_s = abs(1 / facts.rate - 1 / case.rate)
        assert off_s <= (Fraction(2, 10**9) if is_coarse else 0)
    tick_s = Fraction(1, 1000) if is_coarse else Fraction(0)
    for number, stamp in enumerate(facts.stamps):
        assert abs(stamp - facts.start - number / case.rate) <= tick_s
    return output


@contextmanager
def folder() -> Iterator[Path]:
    # A fixture's folder would be the same for all examples.
    with tempfile.TemporaryDirectory(prefix="vidbg-") as name:
        yield Path(name)


# Both begin after time 0, and the pictures after the sound: Matroska's length counts from there.
LATE = Case(
    size=(62, 4),
    rate=Fraction(60000, 1001),
    frames=20,
    begin_s=Fraction(689, 1000),
    sound=Sound(Fraction(540, 1000), Fraction(173, 1000)),
    suffixes=(".mkv", ".mp4"),
    part=None,
)


@settings(jobs, max_examples=20)
@example(LATE)
@given(cases())
def test_frames_rate_and_sound_of_any_clip(case: Case) -> None:
    with folder() as here:
        source = made(case, here / f"in{case.suffixes[0]}")
        output = result_of(case, source, here / f"out{case.suffixes[1]}")
        facts = stream_facts(output)
        first, stop = case.kept
        if min(case.size[0] // 4, case.size[1] // 3) >= 4:  # blocks that a codec leaves legible
            luma = decode_planes(output, "gray")[0][:, : case.size[1], : case.size[0]]
            assert frame_numbers(luma) == list(range(first, stop))
        if case.sound is None:
            assert not facts.audio
            return
        (track,) = facts.audio
        if case.part is None:  # all of it is kept, before and after the pictures too
            assert abs((track.end - track.start) - case.sound.length_s) <= SOUND_FRAME_S
        else:
            assert abs((track.end - facts.start) - (stop - first) / case.rate) <= SOUND_FRAME_S
            assert abs(track.start - facts.start) <= SOUND_FRAME_S
        if track.codec.startswith("pcm"):  # what is lossless says when each sample was heard
            samples, rate, begin_s = decode_sound(output)
            since_first_s = float(begin_s - facts.start) + np.arange(samples.shape[1]) / rate
            heard_s = since_first_s + float(case.time_of(first))
            # Holes in time of less than 30 ms are left as they are.
            is_sure = ~case.sound.near_an_end(heard_s, 0.035)
            error = np.abs(samples[0] - case.sound.at(heard_s))[is_sure]
            assert error.max(initial=0) <= LARGEST_LATENESS_S * LOUDNESS_PER_S


def background_numbers(
    number: int, rate: Fraction, behind: Case, first: int, end: str
) -> set[int | None]:
    """Return which frames of a background may be seen behind a clip's frame; None for black."""
    if behind.frames == 1:  # a picture, whatever its file is
        return {0}
    left = behind.frames - first
    passed = number / rate * behind.rate
    if end == "loop":
        passed %= left
    shown: set[int | None] = set()
    for turn in (floor(passed), ceil(passed)):  # the one before or the one after, as is nearer
        if turn < left:
            shown.add(first + turn)
        else:
            shown.add({"loop": first, "hold": behind.frames - 1, "black": None}[end])
    if end == "black" and passed > left - 1:
        shown |= {None, behind.frames - 1} if passed <= left else {None}
    return shown


@settings(jobs, max_examples=12)
@given(st.data())
def test_backgrounds_of_any_length_leave_frames_and_sound_as_long_as_the_clip(
    data: st.DataObject,
) -> None:
    rates = st.sampled_from(["24000/1001", "25", "50", "12.5"]).map(Fraction)
    silent = {"size": (64, 48), "begin_s": Fraction(0), "sound": None, "suffixes": ("", "")}
    clip, behind = (
        Case(rate=data.draw(rates), frames=data.draw(st.integers(1, 30)), part=None, **silent)  # type: ignore[arg-type]
        for _ in range(2)
    )
    first = data.draw(st.integers(0, behind.frames - 1))
    end = data.draw(st.sampled_from(background.ENDS))
    sound = data.draw(st.sampled_from(["none", "bg", "mix"]))
    with folder() as here:
        source = made(clip, here / "in.mkv")
        own = {"size": behind.size, "rate": behind.rate, "frames": behind.frames}
        path = make_clip(here / "bg.mkv", audio="pcm_s16le", **own)  # type: ignore[arg-type]
        output = result_of(
            clip,
            source,
            here / "out.mkv",
            background=path,
            bg_end=end,
            bg_start_s=first / behind.rate,
            sound=sound,
            alpha=0.0,
        )
        facts = stream_facts(output)
        luma = decode_planes(output, "gray")[0]
        for number, (frame, shown) in enumerate(zip(luma, frame_numbers(luma), strict=True)):
            seen = None if frame.max() <= 20 else shown
            assert seen in background_numbers(number, clip.rate, behind, first, end)
        if sound == "none":
            assert not facts.audio
            return
        length_s = clip.frames / clip.rate
        if end != "loop":
            length_s = min(length_s, (behind.frames - first) / behind.rate)
        (track,) = facts.audio
        assert abs(track.end - facts.start - length_s) <= SOUND_FRAME_S


@settings(jobs, max_examples=6)
@given(st.lists(st.sampled_from([20, 33, 40, 50, 80, 210]), max_size=15))
def test_uneven_clips_last_as_long_as_they_did(more_ms: list[int]) -> None:
    gaps_ms = [40, 40, 200, 40, 40, *more_ms]  # no grid that leaves no frame out has these
    durations = [Fraction(gap, 1000) for gap in gaps_ms]
    with folder() as here:
        source = make_clip(
            here / "in.mkv", frames=len(gaps_ms), durations=durations, audio="pcm_s16le"
        )
        output = encode.Output(here / "out.mp4", "composite", "h264", sound="source")
        job = Job(source, output, background=background.parse("red"), smooth=0.0, edges="off")
        run(job, segmenter=Still(1.0))
        facts = stream_facts(output.path)
        assert facts.rate is not None
        length_s = sum(durations, Fraction(0))
        assert facts.frames == max(1, floor(length_s * facts.rate + Fraction(1, 2)))
        for number, stamp in enumerate(facts.stamps):
            assert stamp - facts.start == number / facts.rate
        (track,) = facts.audio
        assert abs(track.end - facts.start - length_s) <= SOUND_FRAME_S + Fraction(1, 1000)
