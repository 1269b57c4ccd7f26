"""Which sound goes into the result, and how: copied, cut, looped, mixed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import ffmpeg

from vidbg.frames import VideoInfo
from vidbg.media.formats import Container
from vidbg.media.source import seconds, seek_point, source_input

logger = logging.getLogger(__name__)

CHOICES = ("source", "bg", "mix", "none")

_KBITS_PER_CHANNEL = {"aac": 96, "libopus": 64}
# Layouts that every player of the format decodes. libopus takes no others; AAC has others, but
# only by a description of its own in the stream, which hardware decoders do not read.
# 5.1(side), that of AC-3 and DTS, is not among them and becomes 5.1.
_LAYOUTS = {
    "aac": "mono|stereo|3.0|4.0|5.0|5.1|7.1(wide)|7.1",
    "libopus": "mono|stereo|3.0|quad|5.0|5.1|6.1|7.1",
}
_MIX_LAYOUTS = {1: "mono", 2: "stereo", 3: "5.1", 4: "5.1", 5: "5.1", 6: "5.1"}
_SAMPLE_RATE = 48000
# The finest period that a loop keeps exactly. One more exact than that of any frame rate in use.
_FINEST_PERIOD = 2 * _SAMPLE_RATE
# Fills gaps in a track with silence, so that what is cut or joined stays on the clock. Gaps below
# 30 ms are left: some containers stamp sound that coarsely.
_ON_THE_CLOCK = {"async": 1, "min_hard_comp": 0.03}


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the clip that is used, on the file's own clock, in seconds.

    Attributes:
        start_s: When its first frame appears.
        duration_s: How long its frames last.
        is_trimmed: It is not all of the clip.
    """

    start_s: Fraction
    duration_s: Fraction
    is_trimmed: bool


@dataclass(frozen=True, slots=True)
class BackgroundSound:
    """A background video's sound: its first track, in step with its pictures.

    Attributes:
        info: The background.
        start_s: Where in the background to begin, in seconds.
        is_looped: It starts again at its end.
    """

    info: VideoInfo
    start_s: Fraction
    is_looped: bool


@dataclass(frozen=True, slots=True)
class Track:
    """One audio track of the output.

    Attributes:
        node: The ffmpeg-python stream.
        codec: FFmpeg's encoder, or "copy".
        channels: Channels, for the bit rate.
        metadata_of: Index of the source's stream whose metadata it takes, or None.
    """

    node: Any
    codec: str
    channels: int
    metadata_of: int | None


def follows_source(info: VideoInfo, container: Container, choice: str) -> bool:
    """Say whether sound of the clip's own goes into the output.

    Args:
        info: The clip.
        container: The output's format.
        choice: One of :data:`CHOICES`.
    """
    return bool(info.audio) and container.audio_encoder is not None and choice in ("source", "mix")


def tracks(
    info: VideoInfo,
    container: Container,
    choice: str,
    window: Window,
    background: BackgroundSound | None,
    first_frame_s: Fraction = Fraction(0),
) -> list[Track]:
    """Return the output's audio tracks.

    Args:
        info: The clip.
        container: The output's format.
        choice: One of :data:`CHOICES`. "mix" lays the background's sound under the first
            track and keeps the others.
        window: The part of the clip that is used.
        background: The background's sound, if it has any.
        first_frame_s: When the first frame appears in the output, in seconds: 0 unless the
            clip's own sound begins before its pictures.
    """
    encoder = container.audio_encoder
    if choice == "none" or encoder is None:
        return []
    source = [
        _source_track(info, ordinal, container, window, first_frame_s)
        for ordinal in range(len(info.audio))
        if choice != "bg"
    ]
    if choice == "source" or background is None:
        return source
    behind = _background_node(background, window.duration_s)
    if first_frame_s:
        behind = behind.filter("asetpts", f"PTS+({first_frame_s})/TB")
    channels = background.info.audio[0].channels
    if not source:
        return [Track(_encodable(behind, encoder), encoder, channels, None)]
    widest = max(channels, info.audio[0].channels)
    heard = _source_node(info, 0, window, first_frame_s)
    mixed = ffmpeg.filter(
        [_mixable(heard, widest), _mixable(behind, widest)],
        "amix",
        inputs=2,
        duration="longest",
        normalize=0,
        dropout_transition=0,
    )
    return [Track(_encodable(mixed, encoder), encoder, widest, info.audio[0].index), *source[1:]]


def encoder_options(found: list[Track]) -> dict[str, object]:
    """Return the output options that encode or copy these tracks."""
    options: dict[str, object] = {}
    for number, track in enumerate(found):
        options[f"c:a:{number}"] = track.codec
        if track.codec in _KBITS_PER_CHANNEL:
            kbits = _KBITS_PER_CHANNEL[track.codec] * max(1, track.channels)
            options[f"b:a:{number}"] = f"{min(kbits, 510)}k"
    return options


def source_clock(window: Window, first_frame_s: Fraction) -> dict[str, str | None]:
    """Return the input options that put all of a clip's file on the output's clock.

    Args:
        window: The part of the clip that is used; not trimmed.
        first_frame_s: When the first frame appears in the output, in seconds.
    """
    later_s = first_frame_s - window.start_s
    return {"itsoffset": seconds(later_s)} if later_s else {}


def opened(info: VideoInfo, options: Mapping[str, str | None] | None = None) -> Any:
    """Return an ffmpeg-python input node for a file of whose streams all but the video is wanted.

    Args:
        info: The file.
        options: Input options.
    """
    return source_input(
        info.path, container=info.container, options=options, max_pixels=info.max_pixels
    )


def _source_track(
    info: VideoInfo, ordinal: int, container: Container, window: Window, first_frame_s: Fraction
) -> Track:
    stream = info.audio[ordinal]
    carried = stream.codec in container.audio_copied
    if carried and not window.is_trimmed:
        copied = opened(info, source_clock(window, first_frame_s))
        return Track(copied[str(stream.index)], "copy", stream.channels, stream.index)
    encoder = container.audio_encoder or "aac"
    if not carried:
        logger.info(
            "%s: sound is re-encoded to %s, %s cannot be carried",
            info.path,
            encoder.removeprefix("lib"),
            stream.codec,
        )
    node = _source_node(info, ordinal, window, first_frame_s)
    return Track(_encodable(node, encoder), encoder, stream.channels, stream.index)


def _source_node(info: VideoInfo, ordinal: int, window: Window, first_frame_s: Fraction) -> Any:
    """Return a decoded track on the output's clock, cut to the window, exact to the sample.

    Silence stands in for a track that is empty, and where one has not begun or is over in a
    window: no encoder can do with no sound at all.
    """
    index = str(info.audio[ordinal].index)
    if not window.is_trimmed:
        node = opened(info, source_clock(window, first_frame_s))[index]
        return node.filter("aresample", **_ON_THE_CLOCK).filter("apad", whole_len=1)
    seek_s = seek_point(info, window.start_s)
    options: dict[str, str | None] = {}
    if seek_s:
        options = {"ss": seconds(seek_s), "noaccurate_seek": None}
    begin_s = window.start_s - seek_s
    node = opened(info, options)[index]
    node = node.filter("atrim", start=seconds(begin_s), end=seconds(begin_s + window.duration_s))
    node = node.filter("asetpts", f"PTS-({begin_s})/TB")
    node = node.filter("aresample", **_ON_THE_CLOCK, first_pts=0)
    node = node.filter("apad", whole_dur=seconds(window.duration_s))
    return node.filter("asetpts", "N/SR/TB")


def _encodable(node: Any, encoder: str) -> Any:
    if encoder not in _LAYOUTS:  # PCM takes any
        return node
    return node.filter("aformat", channel_layouts=_LAYOUTS[encoder])


def _mixable(node: Any, channels: int) -> Any:
    """Bring a track to what amix needs: one rate, one layout, and a first sample at time 0.

    amix joins its inputs at their first samples, whatever their time stamps say.
    """
    node = node.filter("aresample", _SAMPLE_RATE, **_ON_THE_CLOCK, first_pts=0)
    return node.filter("aformat", channel_layouts=_MIX_LAYOUTS.get(channels, "7.1"))


def _background_node(background: BackgroundSound, duration_s: Fraction) -> Any:
    """Return the background's sound from its start, from time 0 and for ``duration_s``."""
    info = background.info
    begin_s = info.start + background.start_s
    period_s = (info.duration - background.start_s).limit_denominator(_FINEST_PERIOD)
    is_looped = background.is_looped and period_s < duration_s
    # A loop is a whole number of samples. It has to last exactly as long as the pictures' turn,
    # or the two drift apart: so it is made at the rate from 48 kHz up at which that is one.
    rate = _SAMPLE_RATE
    if is_looped:
        rate = period_s.denominator * ceil(Fraction(_SAMPLE_RATE, period_s.denominator))
    node = opened(info)[str(info.audio[0].index)]
    node = node.filter("atrim", start=seconds(begin_s), end=seconds(begin_s + period_s))
    node = node.filter("asetpts", f"PTS-({begin_s})/TB")
    node = node.filter("aresample", rate, **_ON_THE_CLOCK, first_pts=0)
    if is_looped:
        # One turn is held in memory; 16-bit samples keep a minute at 11 MiB.
        period = int(period_s * rate)
        node = node.filter("aformat", sample_fmts="s16")
        node = node.filter("apad", whole_len=period).filter("atrim", end_sample=period)
        node = node.filter("aloop", loop=-1, size=period).filter("aresample", _SAMPLE_RATE)
    return node.filter("atrim", end=seconds(duration_s))
