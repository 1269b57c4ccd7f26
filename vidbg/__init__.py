"""Take the background out of a video and put another in its place.

>>> import vidbg
>>> vidbg.replace_background("in.mp4", bg="bg.mp4", output="out.mp4")  # doctest: +SKIP

The stages are usable on their own: :func:`probe` and :func:`read_frames` give frames as
arrays, :func:`load_segmenter` a function from pictures to mattes, :func:`over` composites.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vidbg.composite import alpha_planes, over
    from vidbg.errors import (
        DecodeError,
        DeviceError,
        EncodeError,
        FFmpegError,
        InputError,
        OutputError,
        VidbgError,
        WeightsError,
    )
    from vidbg.frames import FrameBatch, MattedBatch, VideoInfo
    from vidbg.job import Job, Progress, Result
    from vidbg.matting.chroma import ChromaKeyer
    from vidbg.matting.foreground import estimate_foreground
    from vidbg.matting.refine import Controls, finish_matte
    from vidbg.matting.segmenter import Segmenter, load_segmenter
    from vidbg.media.decode import read_frames
    from vidbg.media.probe import probe
    from vidbg.pipeline import extract_foreground, extract_matte, replace_background, run, segment
    from vidbg.profile import Meter, Profile
    from vidbg.temporal.smooth import smooth

# Imported on first use, so that `import vidbg` loads neither torch nor OpenCV.
_HOMES = {
    "vidbg.composite": ("alpha_planes", "over"),
    "vidbg.errors": (
        "DecodeError",
        "DeviceError",
        "EncodeError",
        "FFmpegError",
        "InputError",
        "OutputError",
        "VidbgError",
        "WeightsError",
    ),
    "vidbg.frames": ("FrameBatch", "MattedBatch", "VideoInfo"),
    "vidbg.job": ("Job", "Progress", "Result"),
    "vidbg.matting.chroma": ("ChromaKeyer",),
    "vidbg.matting.foreground": ("estimate_foreground",),
    "vidbg.matting.refine": ("Controls", "finish_matte"),
    "vidbg.matting.segmenter": ("Segmenter", "load_segmenter"),
    "vidbg.media.decode": ("read_frames",),
    "vidbg.media.probe": ("probe",),
    "vidbg.pipeline": (
        "extract_foreground",
        "extract_matte",
        "replace_background",
        "run",
        "segment",
    ),
    "vidbg.profile": ("Meter", "Profile"),
    "vidbg.temporal.smooth": ("smooth",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ChromaKeyer",
    "Controls",
    "DecodeError",
    "DeviceError",
    "EncodeError",
    "FFmpegError",
    "FrameBatch",
    "InputError",
    "Job",
    "MattedBatch",
    "Meter",
    "OutputError",
    "Profile",
    "Progress",
    "Result",
    "Segmenter",
    "VidbgError",
    "VideoInfo",
    "WeightsError",
    "__version__",
    "alpha_planes",
    "estimate_foreground",
    "extract_foreground",
    "extract_matte",
    "finish_matte",
    "load_segmenter",
    "over",
    "probe",
    "read_frames",
    "replace_background",
    "run",
    "segment",
    "smooth",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'vidbg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
