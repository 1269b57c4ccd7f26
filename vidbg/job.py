"""What is to be done with one clip, how far it is, what came of it: plain records."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypedDict, Unpack

from vidbg.frames import MAX_PIXELS
from vidbg.matting import chroma, refine, views
from vidbg.media import audio, background, encode
from vidbg.temporal import keyframes

CHROMA_MODEL = "chroma"


@dataclass(frozen=True, slots=True)
class Job:
    """One clip to process. Times are in seconds.

    Attributes:
        source: The clip or picture, or the directory or printf pattern of a picture sequence.
        output: What to write.
        also: Further outputs of the same run, each of its own kind and name.
        background: What goes behind the subject; None unless the output is a composite.
        bg_fit: How the background fills the frame: "cover", "contain" or "stretch".
        bg_end: What follows a background that is too short: "loop", "hold" or "black".
        bg_start_s: Where in the background video to begin.
        start_s: Begin with the first frame at or after this time on the clip's clock.
        end_s: End before the first frame at or after this time.
        model: A name from the registry, or "chroma"; None for the default.
        weights: A checkpoint to use instead of a registered one.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto", "fp32", "fp16", "bf16" or "int8".
        batch_size: Frames per call of the network, 1 or more; None chooses.
        key: Screen colour for the chroma model: "auto" or a colour.
        similarity: Chroma model: how far from the key still counts as screen, 0..1.
        smoothness: Chroma model: how softly the edge falls off, 0..1.
        looks: How often the network looks at each frame of a video, 1, 2 or 4, each time in
            another way (:mod:`vidbg.matting.views`); a picture is looked at in all ways.
        every: The network looks at every so many frames of a video, 1 to 12, and mattes are carried
            to those between; None for as few as the clip allows on a CPU, and all on a GPU.
        smooth: Strength of temporal smoothing, 0..1; None for the model's default.
        edges: How the matte's edges are refined: "off", "fast" or "fine"; None for the
            model's default.
        keep: "all" objects in the matte, or the "largest".
        fill_holes: Make holes in the subject opaque.
        grow_px: Pixels by which the matte's edge moves outwards, inwards if negative.
        feather_px: Pixels over which the matte's edge is softened besides.
        despill: Take the old background's tint off the subject; None for the model's default.
        allow_damaged: Keep what decodes of a damaged clip instead of refusing it.
        max_pixels: The most pixels that a frame of the clip, the background or ready mattes may
            have, 1 or more: what claims to be larger is refused before there is room for it.
        in_fps: Frames per second of picture sequences; None for 25.
        matte_in: Mattes that are ready, in place of a network: a video, picture or picture
            sequence with a frame for each of the clip's, or of its trim. They are neither
            smoothed nor are their edges refined unless ``smooth`` and ``edges`` say so.
        resume: Work in segments, kept in a folder beside the output until all is done, and go
            on after those that are there from an earlier run. Pictures are not made that way.

    Raises:
        ValueError: A choice is none of those above, a length out of its range, the codec has
            no such quality or preset, or ``batch_size`` is below 1.
    """

    source: Path
    output: encode.Output
    also: tuple[encode.Output, ...] = ()
    background: background.Blur | background.Solid | Path | None = None
    bg_fit: str = "cover"
    bg_end: str = "loop"
    bg_start_s: Fraction = Fraction(0)
    start_s: Fraction | None = None
    end_s: Fraction | None = None
    model: str | None = None
    weights: str | Path | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    key: str = "auto"
    similarity: float = chroma.DEFAULT_SIMILARITY
    smoothness: float = chroma.DEFAULT_SMOOTHNESS
    looks: int = 1
    every: int | None = None
    smooth: float | None = None
    edges: str | None = None
    keep: str = "all"
    fill_holes: bool = False
    grow_px: float = 0.0
    feather_px: float = 0.0
    despill: bool | None = None
    allow_damaged: bool = False
    max_pixels: int = MAX_PIXELS
    in_fps: Fraction | None = None
    matte_in: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        for value, choices in (
            *((output.kind, encode.KINDS) for output in self.outputs),
            *((output.sound, audio.CHOICES) for output in self.outputs),
            (self.bg_fit, background.FITS),
            (self.bg_end, background.ENDS),
        ):
            if value not in choices:
                raise ValueError(f"{value!r} is none of {', '.join(choices)}")
        for output in self.outputs:
            problem = encode.problem(output)
            if problem is not None:
                raise ValueError(": ".join(problem))
        if self.edges is not None and self.edges not in refine.EDGES:
            raise ValueError(f"{self.edges!r} is none of {', '.join(refine.EDGES)}")
        if self.looks not in views.LOOKS:
            raise ValueError(f"{self.looks} looks are none of {', '.join(map(str, views.LOOKS))}")
        if self.every is not None and not 1 <= self.every <= keyframes.MOST_FRAMES:
            raise ValueError(f"every {self.every}th frame is not in 1..{keyframes.MOST_FRAMES}")
        if self.in_fps is not None and self.in_fps <= 0:
            raise ValueError(f"{self.in_fps} frames per second")
        if self.max_pixels < 1:
            raise ValueError(f"frames of at most {self.max_pixels} pixels")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batches of {self.batch_size} frames")
        _ = self.controls  # which says what is wrong with them

    @property
    def outputs(self) -> tuple[encode.Output, ...]:
        """All that is written, the main one first."""
        return (self.output, *self.also)

    @property
    def controls(self) -> refine.Controls:
        """What is wanted otherwise about the matte."""
        return refine.Controls(self.keep, self.fill_holes, self.grow_px, self.feather_px)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        frames: Frames written.
        total_frames: Frames expected, or None when unknown.
        media_s: Seconds of the clip that they cover.
        seconds: Wall-clock seconds since the first frame was asked for; loading the network
            and fetching its weights come before, and say nothing of how long the rest takes.
        earlier_frames: Those of ``frames`` that an earlier run made.
    """

    frames: int
    total_frames: int | None
    media_s: float
    seconds: float
    earlier_frames: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished job made.

    Attributes:
        output: The file.
        also: The further files of the same run.
        frames: Frames in it.
        frame_rate: Its exact rate.
        seconds: Wall-clock seconds that it took.
        lost_frames: Frames of a damaged source that could not be decoded.
        earlier_frames: Those of ``frames`` that an earlier run made.
    """

    output: Path
    also: tuple[Path, ...]
    frames: int
    frame_rate: Fraction
    seconds: float
    lost_frames: int
    earlier_frames: int = 0


class Matting(TypedDict, total=False):
    """How mattes are made: fields of :class:`Job`, as keyword arguments."""

    model: str | None
    weights: str | Path | None
    device: str
    precision: str
    batch_size: int | None
    key: str
    similarity: float
    smoothness: float
    looks: int
    every: int | None
    smooth: float | None
    edges: str | None
    keep: str
    fill_holes: bool
    grow_px: float
    feather_px: float
    despill: bool | None
    allow_damaged: bool
    max_pixels: int
    in_fps: Fraction | None


class Options(Matting, total=False):
    """The optional fields of :class:`Job`, as keyword arguments."""

    also: tuple[encode.Output, ...]
    bg_fit: str
    bg_end: str
    bg_start_s: Fraction
    start_s: Fraction | None
    end_s: Fraction | None
    matte_in: Path | None
    resume: bool


def matte_job(source: str | Path, **options: Unpack[Matting]) -> Job:
    """Return a job whose mattes are only looked at, by :func:`read_mattes`: it writes nothing.

    Args:
        source: The clip or picture.
        **options: See :class:`Job`.
    """
    return Job(Path(source), encode.Output(Path(os.devnull), "matte", "ffv1"), **options)
