"""Decoding on NVIDIA's hardware (NVDEC), where it gives the very frames that FFmpeg gives without.

Frames come back to the host's memory, since that is where filters and pipes are.
"""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Final

from vidbg.errors import FFmpegError
from vidbg.frames import VideoInfo
from vidbg.media import ffmpeg as ff
from vidbg.media.source import exact_format, opened_at, raw_pix_fmt

logger = logging.getLogger(__name__)

# Codecs whose standards say what a decoder gives, bit for bit.
_EXACT: Final = frozenset({"h264", "hevc", "vp9", "av1"})
# Two groups of pictures of a camera are more, but these have all kinds of frames.
_TRIAL_FRAMES: Final = 16
_TRIAL_S: Final = 30.0


def decodes(info: VideoInfo, gpu: int) -> bool:
    """Say whether a GPU decodes a clip's first frames, without a complaint, to the same samples.

    Not asked for clips whose frames are worked on by filters that need them on the CPU: fields,
    uneven times, alpha.

    Args:
        info: The clip.
        gpu: The number of the CUDA device.
    """
    if (
        info.codec not in _EXACT
        or info.is_interlaced
        or info.is_vfr
        or info.is_image
        or info.has_alpha
        or info.sequence is not None
    ):
        return False
    there = _digests(info, gpu)
    same = there is not None and there == _digests(info, None)
    logger.info(
        "%s: decoded %s", info.path, f"on cuda:{gpu}" if same else "in software, not by the GPU"
    )
    return same


def _digests(info: VideoInfo, gpu: int | None) -> bytes | None:
    """Return FFmpeg's digests of a clip's first frames, or None where it complains."""
    node = exact_format(opened_at(info, Fraction(0), gpu=gpu), info, (info.width, info.height))
    options = {"format": "framemd5", "pix_fmt": raw_pix_fmt(info), "frames:v": _TRIAL_FRAMES}
    arguments = node.output("pipe:1", fps_mode="passthrough", **options).get_args()
    try:
        ran = ff.run(["-nostdin", *arguments], timeout_s=_TRIAL_S)
    except FFmpegError:
        return None
    if ran.returncode or any(ff.is_complaint(line) for line in ran.lines):
        return None
    return ran.stdout
