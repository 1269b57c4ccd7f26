"""Which sound goes into the result, and how: copied, cut, looped, mixed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import ffmpeg

from vidbg.frames import AudioStream, VideoInfo
from vidbg.media.formats import Container
from vidbg.media.source import seconds, seek_point, source_input

logger = logging.getLogger(__name__)

CHOICES = ("source", "bg", "mix", "none")

_KBITS_PER_CHANNEL = {"aac": 96, "libopus": 64}
_SAMPLE_RATE = 48000
# Fills gaps in a track with silence, so that what is cut or joined stays on the clock.
_ON_THE_CLOCK = {"async": 1}
# libopus takes no other layouts of surround sound; 5.1(side) is common and is not among them.
_OPUS_LAYOUTS = "mono|stereo|3.0|quad|5.0|5.1|6.1|7.1"


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
        metadata_of: Ordinal of the source's audio track whose metadata it takes, or None.
    """

    node: Any
    codec: str
    channels: int
    metadata_of: int | None


def tracks(
    info: VideoInfo,
    container: Container,
    choice: str,
    window: Window,
    background: BackgroundSound | None,
) -> list[Track]:
    """Return the output's audio tracks.

    Args:
        info: The clip.
        container: The output's format.
        choice: One of :data:`CHOICES`. "mix" lays the background's sound under the first
            track and keeps the others.
        window: The part of the clip that is used.
        background: The background's sound, if it has any.
    """
    if choice == "none" or container.audio_encoder is None:
        return []
    source = [_source_track(info, ordinal, container, window) for ordinal in range(len(info.audio))]
    if choice == "source" or background is None:
        return source
    # Times in the output count from the beginning of the clip's file, as the source's do.
    lead_s = Fraction(0) if window.is_trimmed else window.start_s
    behind = _background_node(background, window.duration_s, lead_s)
    encoder = container.audio_encoder
    channels = background.info.audio[0].channels
    if choice == "bg" or not source:
        return [Track(_encodable(behind, encoder), encoder, channels, None)]
    first = _cut(_opened(info, info.audio[0], window), info, window)
    first = first.filter("aresample", **_ON_THE_CLOCK, first_pts=0)
    mixed = ffmpeg.filter(
        [first, behind], "amix", inputs=2, duration="longest", normalize=0, dropout_transition=0
    )
    widest = max(channels, info.audio[0].channels)
    return [Track(_encodable(mixed, encoder), encoder, widest, 0), *source[1:]]


def encoder_options(found: list[Track]) -> dict[str, object]:
    """Return the output options that encode or copy these tracks."""
    options: dict[str, object] = {}
    for number, track in enumerate(found):
        options[f"c:a:{number}"] = track.codec
        if track.codec in _KBITS_PER_CHANNEL:
            kbits = _KBITS_PER_CHANNEL[track.codec] * max(1, track.channels)
            options[f"b:a:{number}"] = f"{min(kbits, 510)}k"
    return options


def _source_track(info: VideoInfo, ordinal: int, container: Container, window: Window) -> Track:
    stream = info.audio[ordinal]
    node = _opened(info, stream, window)
    carried = container.audio_copied is None or stream.codec in container.audio_copied
    if carried and not window.is_trimmed:
        return Track(node, "copy", stream.channels, ordinal)
    encoder = container.audio_encoder or "aac"
    if not carried:
        logger.info(
            "%s: sound is re-encoded to %s, %s cannot be carried",
            info.path,
            encoder.removeprefix("lib"),
            stream.codec,
        )
    node = _cut(node, info, window).filter("aresample", **_ON_THE_CLOCK)
    return Track(_encodable(node, encoder), encoder, stream.channels, ordinal)


def _opened(info: VideoInfo, stream: AudioStream, window: Window) -> Any:
    seek_s = _seek(info, window)
    options: dict[str, str | None] = {}
    if seek_s:
        options = {"ss": seconds(seek_s), "noaccurate_seek": None}
    return source_input(info.path, options=options)[str(stream.index)]


def _seek(info: VideoInfo, window: Window) -> Fraction:
    return seek_point(info, window.start_s) if window.is_trimmed else Fraction(0)


def _cut(node: Any, info: VideoInfo, window: Window) -> Any:
    """Cut a track to the window, sample-exact, its clock starting with the window."""
    if not window.is_trimmed:
        return node
    begin_s = window.start_s - _seek(info, window)
    end_s = begin_s + window.duration_s
    node = node.filter("atrim", start=seconds(begin_s), end=seconds(end_s))
    return node.filter("asetpts", f"PTS-({begin_s})/TB")


def _encodable(node: Any, encoder: str) -> Any:
    return node.filter("aformat", channel_layouts=_OPUS_LAYOUTS) if encoder == "libopus" else node


def _background_node(background: BackgroundSound, duration_s: Fraction, lead_s: Fraction) -> Any:
    """Return the background's sound from its start for ``duration_s``, after ``lead_s``."""
    info = background.info
    begin_s = info.start + background.start_s
    period_s = info.duration - background.start_s
    node = source_input(info.path)[str(info.audio[0].index)]
    node = node.filter("atrim", start=seconds(begin_s), end=seconds(begin_s + period_s))
    node = node.filter("asetpts", f"PTS-({begin_s})/TB")
    node = node.filter("aresample", _SAMPLE_RATE, **_ON_THE_CLOCK, first_pts=0)
    if background.is_looped and period_s < duration_s:
        # One turn is held in memory, and lasts exactly as long as the pictures' turn, so
        # that the two never drift apart; 16-bit samples keep a minute at 11 MiB.
        period = round(period_s * _SAMPLE_RATE)
        node = node.filter("aformat", sample_fmts="s16")
        node = node.filter("apad", whole_len=period).filter("atrim", end_sample=period)
        node = node.filter("aloop", loop=-1, size=period)
    node = node.filter("atrim", end=seconds(duration_s))
    return node.filter("asetpts", f"PTS+({lead_s})/TB") if lead_s else node
