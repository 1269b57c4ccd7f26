"""The committed sample clips are what samples/LICENSE.md and make_samples.py say they are."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

SAMPLES = Path(__file__).parent.parent / "samples"
WIDTH, HEIGHT = 640, 360
CLICKS_S = (0.5, 1.3, 2.5, 3.4, 4.6)
GREEN = (0x00, 0xB1, 0x40)
# Frames at rest, nodding, in the quick step with its motion blur, and at the end.
LOOKED_AT = (0, 17, 58, 92, 149)


def decode(name: str, pix_fmt: str, frames: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """Decode a clip, or some of its frames, to uint8 ``(B, H, W)`` or ``(B, H, W, 3)``."""
    chosen = "+".join(f"eq(n,{index})" for index in frames) or "1"
    matrix = "scale=in_color_matrix=bt709," if pix_fmt == "rgb24" else ""
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(SAMPLES / name)),
        *("-vf", f"select='{chosen}',{matrix}format={pix_fmt}", "-fps_mode", "passthrough"),
        *("-f", "rawvideo", "pipe:1"),
    ]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    shape = (-1, HEIGHT, WIDTH, 3) if pix_fmt == "rgb24" else (-1, HEIGHT, WIDTH)
    return np.frombuffer(raw, np.uint8).reshape(shape)


def decode_sound(name: str, sample_rate: int) -> NDArray[np.float32]:
    """Decode a clip's sound to mono, float32 ``(samples,)`` in -1..1."""
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(SAMPLES / name)),
        *("-f", "f32le", "-ac", "1", "-ar", str(sample_rate), "pipe:1"),
    ]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, "<f4")


def share_of_band(sound: NDArray[np.float32], sample_rate: int, low: float, high: float) -> float:
    """Return the part of a sound's energy between two frequencies in Hz."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    frequency_hz = np.fft.rfftfreq(sound.size, 1 / sample_rate)
    return float(power[(frequency_hz >= low) & (frequency_hz < high)].sum() / power.sum())


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "rate", "frames"),
    [
        ("talk.mp4", "h264", "yuv420p", 30, 150),
        ("talk.green.mp4", "h264", "yuv420p", 30, 150),
        ("talk.alpha.mkv", "ffv1", "gray", 30, 150),
        ("stars.mp4", "h264", "yuv420p", 25, 100),
    ],
)
def test_picture_has_its_rate_size_and_frames(
    name: str, codec: str, pix_fmt: str, rate: int, frames: int
) -> None:
    with av.open(str(SAMPLES / name)) as clip:
        stream = clip.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.width, context.height) == (codec, WIDTH, HEIGHT)
        assert context.pix_fmt == pix_fmt
        assert stream.average_rate == rate
        base = stream.time_base
        stamps = sorted(p.pts * base for p in clip.demux(stream) if p.pts is not None)
    # Matroska's stamps are whole milliseconds.
    grid = [Fraction(n, rate) for n in range(frames)]
    assert len(stamps) == frames
    assert all(abs(a - b) <= Fraction(1, 2000) for a, b in zip(stamps, grid, strict=True))


@pytest.mark.parametrize("name", ["talk.mp4", "talk.green.mp4", "stars.mp4"])
def test_clips_are_tagged_bt709_limited(name: str) -> None:
    with av.open(str(SAMPLES / name)) as clip:
        context = clip.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc)
        # ITU-T H.273 numbers bt709 as 1 in all three; AVCOL_RANGE_MPEG is 1.
        assert [int(tag) for tag in (*tags, context.color_range)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("name", "sample_rate", "duration_s"),
    [("talk.mp4", 48000, 5), ("talk.green.mp4", 48000, 5), ("stars.mp4", 44100, 4)],
)
def test_sound_lasts_as_long_as_the_picture(name: str, sample_rate: int, duration_s: int) -> None:
    with av.open(str(SAMPLES / name)) as clip:
        stream = clip.streams.audio[0]
        assert (stream.codec_context.name, stream.codec_context.channels) == ("aac", 2)
        assert stream.codec_context.sample_rate == sample_rate
    # AAC codes blocks of 1024 samples.
    assert abs(decode_sound(name, sample_rate).size - duration_s * sample_rate) <= 1024


def test_alpha_has_no_sound() -> None:
    with av.open(str(SAMPLES / "talk.alpha.mkv")) as clip:
        assert not clip.streams.audio


@pytest.mark.parametrize("name", ["talk.mp4", "talk.green.mp4"])
def test_clicks_sound_when_they_should(name: str) -> None:
    rate = 48000
    spectrum = np.fft.rfft(decode_sound(name, rate)[: 5 * rate])
    spectrum[: 5 * 4000] = 0  # bins are 1/5 Hz apart; only clicks sound above 4 kHz
    loudness = np.abs(np.fft.irfft(spectrum))
    starts = np.flatnonzero(loudness > 0.3 * loudness.max())
    first = starts[np.diff(starts, prepend=-rate) > rate // 10]
    assert first / rate == pytest.approx(CLICKS_S, abs=0.001)


def test_each_click_begins_a_nod() -> None:
    alpha = decode("talk.alpha.mkv", "gray")
    top = (alpha > 127).any(axis=2).argmax(axis=1)
    for click_s in CLICKS_S:
        frame = round(click_s * 30)
        assert abs(int(top[frame - 1]) - int(top[frame - 2])) <= 1
        assert top[frame + 2] - top[frame - 1] >= 5


def test_sounds_of_clip_and_background_share_no_band() -> None:
    talk, stars = decode_sound("talk.mp4", 48000), decode_sound("stars.mp4", 44100)
    assert share_of_band(talk, 48000, 450, 24000) > 0.99
    assert share_of_band(stars, 44100, 0, 450) > 0.99


def test_alpha_is_empty_solid_and_soft() -> None:
    alpha = decode("talk.alpha.mkv", "gray", LOOKED_AT)
    soft = (alpha > 0) & (alpha < 255)
    assert (alpha == 0).mean() > 0.4
    assert (alpha == 255).mean() > 0.25
    assert (soft.mean(axis=(1, 2)) > 0.005).all()
    # Motion blur: the edge is softer in the quick step than at rest.
    assert soft[2].sum() > 1.5 * soft[0].sum()


def test_screen_is_green_where_alpha_is_empty() -> None:
    alpha = decode("talk.alpha.mkv", "gray", LOOKED_AT)
    green = decode("talk.green.mp4", "rgb24", LOOKED_AT)
    for matte, frame in zip(alpha, green, strict=True):
        # Chroma is half size and H.264 works in blocks: keep away from the edge.
        screen = cv2.dilate(matte, np.ones((33, 33), np.uint8)) == 0
        assert np.abs(frame[screen].mean(axis=0) - GREEN).max() < 4
        assert np.abs(frame[screen].astype(int) - GREEN).max() <= 26


def test_both_clips_are_composites_with_the_stored_alpha() -> None:
    alpha = decode("talk.alpha.mkv", "gray", LOOKED_AT)
    # Luma, because chroma is too coarse for the edge.
    talk = decode("talk.mp4", "gray", LOOKED_AT)
    green = decode("talk.green.mp4", "gray", LOOKED_AT)
    for matte, scene, screen in zip(alpha, talk, green, strict=True):
        clear = 1 - matte.astype(np.float32) / 255
        difference = scene.astype(np.float32) - screen
        # C1 - C2 = (1 - alpha) (B1 - B2): the person cancels out. The backgrounds behind the
        # soft edge are taken from the nearest clear pixels, which are smooth.
        empty = (clear == 1).astype(np.float32)
        weight = cv2.GaussianBlur(empty, (0, 0), 8)
        behind = cv2.GaussianBlur(difference * empty, (0, 0), 8) / np.maximum(weight, 1e-6)
        soft = (clear > 0.02) & (clear < 0.98)
        error = np.abs(difference - clear * behind)[soft].mean()
        error_of_hard_edge = np.abs(difference - (clear > 0.5) * behind)[soft].mean()
        assert error < 0.6 * error_of_hard_edge
        assert np.abs(difference)[clear == 0].mean() < 0.1 * np.abs(behind[soft]).mean()


def test_stars_end_where_they_begin() -> None:
    frames = decode("stars.mp4", "gray").astype(np.float32)
    step = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2))
    assert np.abs(frames[-1] - frames[0]).mean() < 1.5 * np.median(step)
    assert np.abs(frames[50] - frames[0]).mean() > 3 * np.median(step)


def test_samples_stay_small_and_are_no_package() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.iterdir() if path.is_file()) < 2_500_000
    assert not (SAMPLES / "__init__.py").exists()
