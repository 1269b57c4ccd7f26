"""Make the sample clips: a person before a launch pad, the same before a green screen, and a sky.

Run ``python samples/make_samples.py`` with the ``samples`` extra installed. It writes, beside
itself:

* ``talk.mp4``: a person swaying, nodding and once stepping aside quickly, before a launch pad.
* ``talk.green.mp4``: the same person, motion and sound before a green screen.
* ``talk.alpha.mkv``: the alpha that both were composited with, lossless.
* ``stars.mp4``: another background, with another frame rate, length, sound and sample rate.
  It loops without a seam, in picture and in sound.

The pictures are three photographs that come with scikit-image (see LICENSE.md), the motion and
the sound are synthetic. Compositing is done on gamma-encoded R'G'B', as video editors do:
``C = P + (1 - alpha) * B`` with P the person's colours premultiplied by alpha. Nothing depends
on the clock or on an unseeded generator: the same versions of FFmpeg and of the libraries give
the same bytes again.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import cv2
import imageio_ffmpeg
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import skimage.data
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

SAMPLES = Path(__file__).resolve().parent
WIDTH, HEIGHT = 640, 360
SEED = 20

# The clip. Each click of the sound falls on the first instant of a frame, on which a nod of the
# person begins. The distances between clicks differ, so that an offset of the sound is never
# mistaken for another.
TALK_FPS = 30
TALK_FRAMES = 150
CLICK_FRAMES = (15, 39, 75, 102, 138)
TALK_SAMPLE_RATE = 48_000
# All of the clip's sound lies above 500 Hz, all of the other background's below 400 Hz.
TALK_NOTES_HZ = (523.25, 659.26, 783.99, 880.0, 783.99, 659.26, 587.33, 783.99, 880.0, 1046.5)

# The other background: 4 s, shorter than the clip.
STARS_FPS = 25
STARS_FRAMES = 100
STARS_SAMPLE_RATE = 44_100
STARS_CHORD_HZ = (110.0, 165.0, 220.0, 275.0)

GREEN = (0x00, 0xB1, 0x40)
SCREEN_FALLOFF = 0.07
NOISE_SIGMA = 0.9
SHUTTER = 0.5
SUBFRAMES = 9

# The person's outline in the photograph, (x, y) in pixels, clockwise from the bottom left.
ARM_AND_SHOULDER = (
    (36, 515), (31, 500), (26, 480), (23, 460), (24, 440), (21, 420), (19, 400), (21, 390),
    (24, 375), (25, 355), (27, 340), (30, 330), (36, 310), (40, 298), (45, 280), (49, 270),
    (60, 250), (69, 240), (82, 230), (96, 220), (114, 206),
)  # fmt: skip
COLLAR_LEFT = (
    (112, 194), (114, 186), (122, 176), (126, 166), (135, 157), (150, 150), (165, 148), (181, 148),
)  # fmt: skip
HEAD = (
    (182, 140), (181, 131), (176, 130), (171, 125), (168, 118), (164, 115), (158, 108), (155, 100),
    (153, 88), (152, 75), (153, 65), (157, 57), (165, 48), (175, 42), (187, 36), (193, 28),
    (205, 22), (218, 18), (230, 15), (245, 17), (262, 24), (276, 31), (286, 39), (293, 52),
    (297, 65), (300, 80), (300, 92), (297, 105), (291, 115), (282, 124), (278, 130), (273, 135),
    (267, 137), (265, 148), (258, 160), (255, 172),
)  # fmt: skip
COLLAR_RIGHT = ((262, 177), (275, 188), (285, 199), (295, 214), (302, 229), (304, 235))
SHOULDER = (
    (313, 239), (325, 247), (338, 256), (345, 270), (349, 283), (354, 300), (357, 315), (361, 331),
    (360, 340), (365, 348),
)  # fmt: skip
HELMET = (
    (380, 345), (395, 343), (416, 344), (435, 350), (452, 360), (467, 372), (479, 386), (488, 402),
    (493, 420), (496, 440), (497, 452), (502, 456), (506, 465), (509, 480), (515, 486), (515, 515),
)  # fmt: skip
OUTLINE = ARM_AND_SHOULDER + COLLAR_LEFT + HEAD + COLLAR_RIGHT + SHOULDER + HELMET
EDGE_BAND_PX = 9
# Loose hair stands further out than the outline can follow.
HAIR = HEAD[5:-6]
HAIR_BAND_PX = 21
# Fainter than the first is the solver's noise, denser than the second is solid: the polished
# collar, which mirrors the studio wall, comes out of the solver as slightly transparent.
ALPHA_LEVELS = (0.08, 0.9)

# Where the photograph's point PIVOT (the middle of its bottom edge) stands in the frame, and how
# many frame pixels a pixel of the photograph is.
PIVOT = (258.0, 512.0)
STAND = (392.0, 404.0)
SCALE = 0.765


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the person is at one instant.

    Attributes:
        x: Columns that the pivot lies right of STAND, in frame pixels.
        y: Rows that the pivot lies below STAND, in frame pixels.
        scale: Factor on SCALE.
        angle: Rotation about the pivot in radians, clockwise.
        bend: Columns that the top of the photograph leans right, in its own pixels.
    """

    x: float
    y: float
    scale: float
    angle: float
    bend: float


def closed_form_alpha(
    photograph: ByteArray, known: FloatArray, is_unknown: NDArray[np.bool_], epsilon: float = 1e-5
) -> FloatArray:
    """Find alpha in a band from the colour-line model.

    Levin, Lischinski, Weiss: "A Closed-Form Solution to Natural Image Matting" (2008), with
    windows of 3 x 3 pixels; known pixels enter as exact boundary values.

    Args:
        photograph: uint8 RGB ``(H, W, 3)``.
        known: float32 ``(H, W)``, 0 or 1 outside the band.
        is_unknown: bool ``(H, W)``, the band to solve for.
        epsilon: Regularisation of the windows' colour covariance, in squared units of 0..1.

    Returns:
        float32 ``(H, W)`` in 0..1, equal to ``known`` outside the band.
    """
    height, width = is_unknown.shape
    near = cv2.dilate(is_unknown.astype(np.uint8), np.ones((3, 3), np.uint8))
    near[[0, -1]] = 0
    near[:, [0, -1]] = 0
    rows, columns = np.nonzero(near)
    dy, dx = (offset.ravel() - 1 for offset in np.mgrid[:3, :3])
    pixels = (rows[:, None] + dy) * width + columns[:, None] + dx  # (windows, 9)

    colours = (photograph.reshape(-1, 3) / 255.0)[pixels]
    centred = colours - colours.mean(axis=1, keepdims=True)
    covariance = centred.swapaxes(1, 2) @ centred / 9 + epsilon / 9 * np.eye(3)
    affinity = (1 + centred @ np.linalg.solve(covariance, centred.swapaxes(1, 2))) / 9
    weights = np.eye(9) - affinity

    first = np.repeat(pixels, 9, axis=1).ravel()
    second = np.tile(pixels, (1, 9)).ravel()
    laplacian = scipy.sparse.csr_matrix(
        (weights.ravel(), (first, second)), shape=(height * width, height * width)
    )
    unknown = np.flatnonzero(is_unknown)
    alpha = np.where(is_unknown, 0, known).ravel().astype(np.float64)
    rows_of_unknown = laplacian[unknown]
    alpha[unknown] = scipy.sparse.linalg.spsolve(
        rows_of_unknown[:, unknown].tocsc(), -rows_of_unknown @ alpha
    )
    return alpha.clip(0, 1).reshape(height, width).astype(np.float32)


def foreground_colours(photograph: ByteArray, alpha: FloatArray) -> FloatArray:
    """Estimate the subject's own colours where it is partly transparent.

    Forte: "Approximate Fast Foreground Colour Estimation" (2021), two passes.

    Args:
        photograph: uint8 RGB ``(H, W, 3)``.
        alpha: float32 ``(H, W)`` in 0..1.

    Returns:
        float32 RGB ``(H, W, 3)`` in 0..255; the photograph itself where alpha is 1.
    """
    pixels = photograph.astype(np.float32)
    opacity = alpha[..., None]
    foreground = background = pixels
    for size_px in (45, 5):
        blurred = cv2.blur(alpha, (size_px, size_px))[..., None]
        near_foreground = cv2.blur(foreground * opacity, (size_px, size_px)) / (blurred + 1e-5)
        near_background = cv2.blur(background * (1 - opacity), (size_px, size_px)) / (
            1 - blurred + 1e-5
        )
        residual = pixels - opacity * near_foreground - (1 - opacity) * near_background
        foreground = (near_foreground + opacity * residual).clip(0, 255)
        background = near_background
    return np.where(opacity >= 1, pixels, foreground)


def cut_out_person() -> FloatArray:
    """Cut the person out of the astronaut's portrait.

    The outline is drawn by hand; alpha is solved for in a band along it.

    Returns:
        float32 RGBA ``(512, 512, 4)`` in 0..255, colours premultiplied by alpha.
    """
    photograph = skimage.data.astronaut()
    inside = np.zeros(photograph.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.array(OUTLINE)], 1)
    band = np.zeros_like(inside)
    cv2.polylines(band, [np.array(OUTLINE)], True, 1, EDGE_BAND_PX)
    cv2.polylines(band, [np.array(HAIR)], False, 1, HAIR_BAND_PX)
    # The outline closes outside the photograph, so no band runs along the photograph's border.
    alpha = closed_form_alpha(photograph, inside.astype(np.float32), band.astype(bool))
    empty, solid = ALPHA_LEVELS
    alpha = ((alpha - empty) / (solid - empty)).clip(0, 1)
    colours = foreground_colours(photograph, alpha)
    return np.dstack([colours * alpha[..., None], 255 * alpha]).astype(np.float32)


def ease(position: float) -> float:
    """Go from 0 to 1 with no speed or acceleration at the ends (Perlin's quintic)."""
    x = min(max(position, 0.0), 1.0)
    return x * x * x * (x * (6 * x - 15) + 10)


def pose_at(time_s: float) -> Pose:
    """Return the person's pose: a slow sway, a nod on each click, one quick step aside."""

    def wave_of(frequency_hz: float, phase: float = 0.0) -> float:
        return float(np.sin(2 * np.pi * (frequency_hz * time_s + phase)))

    nod = 0.0
    for frame in CLICK_FRAMES:
        since = max(time_s - frame / TALK_FPS, 0.0) / 0.06
        nod += since * float(np.exp(1 - since))
    step = ease((time_s - 1.75) / 0.45) - ease((time_s - 2.85) / 0.6)
    return Pose(
        x=9 * wave_of(0.31) + 3 * wave_of(0.83, 0.2) - 72 * step,
        y=2 * wave_of(0.24) + 10 * nod,
        scale=1 + 0.015 * wave_of(0.27, 0.6) + 0.05 * ease((time_s - 3.4) / 1.2),
        angle=float(np.radians(1.2 * wave_of(0.37, 0.1) - 2.5 * step)),
        bend=10 * wave_of(0.43, 0.3) - 14 * step,
    )


def place(cut_out: FloatArray, pose: Pose) -> FloatArray:
    """Draw the cut-out in a frame at one instant.

    Args:
        cut_out: float32 RGBA ``(h, w, 4)``, premultiplied.
        pose: Where it stands.

    Returns:
        float32 RGBA ``(HEIGHT, WIDTH, 4)``, premultiplied.
    """
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x -= STAND[0] + pose.x
    y -= STAND[1] + pose.y
    cosine = float(np.cos(pose.angle)) / (SCALE * pose.scale)
    sine = float(np.sin(pose.angle)) / (SCALE * pose.scale)
    photo_x = cosine * x + sine * y
    photo_y = cosine * y - sine * x
    # A body bends more the higher up, with its hips standing still.
    photo_x -= pose.bend * (photo_y / PIVOT[1]) ** 2
    return cv2.remap(
        cut_out,
        (photo_x + PIVOT[0]).astype(np.float32),
        (photo_y + PIVOT[1]).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )


def expose(cut_out: FloatArray, time_s: float) -> FloatArray:
    """Draw one frame of the person with the motion blur of an open shutter.

    Returns:
        float32 RGBA ``(HEIGHT, WIDTH, 4)``, premultiplied, with alpha in whole codes 0..255.
    """
    instants = time_s + SHUTTER / TALK_FPS * np.arange(SUBFRAMES) / SUBFRAMES
    person = np.mean([place(cut_out, pose_at(instant)) for instant in instants], axis=0)
    # Both clips are composited with the very alpha that is stored.
    person[..., 3] = np.rint(person[..., 3])
    return person.astype(np.float32)


def view(picture: FloatArray, centre: tuple[float, float], zoom: float) -> FloatArray:
    """Look at a picture through a frame.

    Args:
        picture: float32 ``(h, w, 3)``.
        centre: The picture's point (x, y) that shows in the middle of the frame.
        zoom: Frame pixels per pixel of the picture.

    Returns:
        float32 ``(HEIGHT, WIDTH, 3)``; beyond the picture's border, its mirror image.
    """
    matrix = np.array(
        [
            [1 / zoom, 0, centre[0] - (WIDTH - 1) / 2 / zoom],
            [0, 1 / zoom, centre[1] - (HEIGHT - 1) / 2 / zoom],
        ]
    )
    return cv2.warpAffine(
        picture,
        matrix,
        (WIDTH, HEIGHT),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def launch_pad_frames() -> Iterator[FloatArray]:
    """Yield the clip's own background: a launch pad out of focus, in a slow pan and zoom."""
    photograph = cv2.GaussianBlur(skimage.data.rocket().astype(np.float32), (0, 0), 2.5)
    for index in range(TALK_FRAMES):
        travel = index / (TALK_FRAMES - 1)
        sway = np.sin(2 * np.pi * 0.31 * index / TALK_FPS)
        centre = (432 + 22 * travel + 2 * sway, 285 - 26 * travel)
        yield view(photograph, centre, 2.0 - 0.15 * travel)


def green_screen() -> FloatArray:
    """Return a screen lit from the upper left, float32 RGB ``(HEIGHT, WIDTH, 3)``."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(x / WIDTH - 0.4, (y / HEIGHT - 0.3) * HEIGHT / WIDTH)
    light = 1 + SCREEN_FALLOFF * (1 - 3 * distance)
    return (light[..., None] * np.array(GREEN)).astype(np.float32)


def over(person: FloatArray, background: FloatArray, grain: FloatArray) -> ByteArray:
    """Composite the person over a background and add the camera's noise.

    Args:
        person: float32 RGBA ``(H, W, 4)`` in 0..255, premultiplied.
        background: float32 RGB ``(H, W, 3)`` in 0..255.
        grain: float32 ``(H, W, 1)``, added to each channel.

    Returns:
        uint8 RGB ``(H, W, 3)``.
    """
    composite = person[..., :3] + (1 - person[..., 3:] / 255) * background
    return np.rint(composite + grain).clip(0, 255).astype(np.uint8)


def talk_frames() -> Iterator[tuple[ByteArray, ByteArray, ByteArray]]:
    """Yield the clip before the launch pad, before the green screen, and its alpha."""
    generator = np.random.default_rng(SEED)
    cut_out = cut_out_person()
    screen = green_screen()
    for index, launch_pad in enumerate(launch_pad_frames()):
        person = expose(cut_out, index / TALK_FPS)
        grain = generator.normal(0, NOISE_SIGMA, (HEIGHT, WIDTH, 1)).astype(np.float32)
        yield (
            over(person, launch_pad, grain),
            over(person, screen, grain),
            person[..., 3].astype(np.uint8),
        )


def nebula() -> FloatArray:
    """Return glowing dust, float32 RGB ``(HEIGHT + 80, WIDTH + 80, 3)`` in 0..255."""
    generator = np.random.default_rng(SEED)
    size = (WIDTH + 80, HEIGHT + 80)
    glow = np.zeros((size[1], size[0], 3), np.float32)
    for tint in ((70, 40, 150), (20, 110, 150), (190, 70, 110)):
        density = np.zeros((size[1], size[0]), np.float32)
        for cells in (3, 6, 12, 24):
            octave = generator.normal(0, 1, (cells, 2 * cells)).astype(np.float32)
            density += cv2.resize(octave, size, interpolation=cv2.INTER_CUBIC) / cells
        density = np.clip(density / density.std(), 0, 3) / 3
        glow += density[..., None] ** 1.5 * np.array(tint, np.float32)
    return glow


def stars_frames() -> Iterator[ByteArray]:
    """Yield a drift past galaxies before glowing dust, uint8 RGB; its end meets its beginning."""
    sky = cv2.GaussianBlur(skimage.data.hubble_deep_field().astype(np.float32), (0, 0), 0.8)
    dust = nebula()
    for index in range(STARS_FRAMES):
        angle = 2 * np.pi * index / STARS_FRAMES
        drift = np.array([np.cos(angle), np.sin(angle)])
        layers = (
            view(dust, tuple(np.array([360, 220]) + 12 * drift), 1.0),
            view(sky, tuple(np.array([620, 560]) + 22 * drift), 1.2 + 0.03 * np.sin(angle)),
            view(sky, tuple(np.array([360, 300]) + 30 * drift), 2.2 + 0.1 * np.sin(angle)) - 40,
        )
        # Light adds up but does not clip: the "screen" of image editors.
        dark = np.prod([1 - layer.clip(0, 255) / 255 for layer in layers], axis=0)
        yield np.rint(255 * (1 - dark)).astype(np.uint8)


def tone(
    time_s: NDArray[np.float64], start_s: float, frequency_hz: float, decay_s: float
) -> NDArray[np.float64]:
    """Return a struck tone that begins softly at one time and dies away, peak about 1."""
    since = (time_s - start_s).clip(0)
    envelope = np.exp(-since / decay_s) * (1 - np.exp(-since / 0.012))
    phase = 2 * np.pi * frequency_hz * since
    return envelope * (np.sin(phase) + 0.3 * np.sin(2 * phase))


def talk_sound() -> NDArray[np.float64]:
    """Return a little tune with a sharp click on each of CLICK_FRAMES.

    A click is 3 ms of 6 kHz that starts on the exact sample; nothing else sounds above 3 kHz.

    Returns:
        float64 stereo ``(samples, 2)`` in -1..1 at TALK_SAMPLE_RATE.
    """
    time_s = np.arange(TALK_FRAMES * TALK_SAMPLE_RATE // TALK_FPS) / TALK_SAMPLE_RATE
    tune = np.zeros((time_s.size, 2))
    for number, frequency_hz in enumerate(TALK_NOTES_HZ):
        pan = 0.5 + 0.2 * (-1) ** number
        note = 0.16 * tone(time_s, 0.05 + number / 2, frequency_hz, 0.22)
        tune += note[:, None] * (pan, 1 - pan)
    length = TALK_SAMPLE_RATE * 3 // 1000
    click = 0.8 * np.cos(2 * np.pi * 6000 * time_s[:length]) * (1 - np.arange(length) / length) ** 2
    for frame in CLICK_FRAMES:
        start = frame * TALK_SAMPLE_RATE // TALK_FPS
        tune[start : start + length] += click[:, None]
    return tune


def stars_sound() -> NDArray[np.float64]:
    """Return a low chord that swells twice and loops without a seam.

    Every part of it has a whole number of periods in the clip.

    Returns:
        float64 stereo ``(samples, 2)`` in -1..1 at STARS_SAMPLE_RATE.
    """
    time_s = np.arange(STARS_FRAMES * STARS_SAMPLE_RATE // STARS_FPS) / STARS_SAMPLE_RATE
    chord = np.zeros((time_s.size, 2))
    for number, frequency_hz in enumerate(STARS_CHORD_HZ):
        for side in range(2):
            swell = 1 + 0.4 * np.cos(2 * np.pi * (time_s / 2 + number / 4 + side / 2))
            chord[:, side] += 0.1 * swell * np.sin(2 * np.pi * frequency_hz * time_s + side)
    return chord


def write_sound(path: Path, sound: NDArray[np.float64], sample_rate: int) -> None:
    """Write sound, float64 ``(samples, channels)`` in -1..1, as 16-bit WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(sound.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.rint(sound.clip(-1, 1) * 32767).astype("<i2").tobytes())


@contextlib.contextmanager
def ffmpeg(path: Path, pix_fmt: str, fps: int, *output: str) -> Iterator[BinaryIO]:
    """Run FFmpeg on raw frames; what the block writes to the file it gets is encoded.

    Args:
        path: The clip to write.
        pix_fmt: Format of the raw frames.
        fps: Frames per second.
        output: FFmpeg's options between the frames' input and the output's name.

    Raises:
        subprocess.CalledProcessError: FFmpeg failed.
    """
    frames = f"-f rawvideo -pix_fmt {pix_fmt} -color_range pc -video_size {WIDTH}x{HEIGHT}"
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-hide_banner", "-loglevel", "error"),
        *(*frames.split(), "-framerate", str(fps), "-i", "pipe:0"),
        *output,
        *("-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),
        *("-flags:a", "+bitexact", str(path)),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield cast(BinaryIO, process.stdin)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def h264(sound: Path, crf: int, audio_bitrate: str) -> list[str]:
    """Return FFmpeg's options for a small bt709 H.264 clip with AAC sound."""
    # Chroma sits at the left, as H.264 takes it to: FFmpeg's scaler would put it in the centre.
    colour = (
        "-vf scale=in_range=pc:out_range=tv:out_color_matrix=bt709"
        ":out_h_chr_pos=0:out_v_chr_pos=128"
        ":flags=bicubic+accurate_rnd+full_chroma_inp+full_chroma_int+bitexact"
        ",format=yuv420p"
        ",setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    )
    # One number of threads everywhere: x264's output depends on it.
    video = f"-c:v libx264 -preset veryslow -crf {crf} -threads 4"
    audio = f"-c:a aac -b:a {audio_bitrate} -movflags +faststart"
    return ["-i", str(sound), *colour.split(), *video.split(), *audio.split()]


def main() -> None:
    """Write all clips; they appear under their names only when all are complete."""
    ffv1 = "-c:v ffv1 -level 3 -coder 1 -context 1 -g 25 -slices 4 -slicecrc 1 -color_range pc"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        talk_wav, stars_wav = folder / "talk.wav", folder / "stars.wav"
        write_sound(talk_wav, talk_sound(), TALK_SAMPLE_RATE)
        write_sound(stars_wav, stars_sound(), STARS_SAMPLE_RATE)

        talk = h264(talk_wav, crf=19, audio_bitrate="96k")
        outputs = (
            ffmpeg(folder / "talk.mp4", "rgb24", TALK_FPS, *talk),
            ffmpeg(folder / "talk.green.mp4", "rgb24", TALK_FPS, *talk),
            ffmpeg(folder / "talk.alpha.mkv", "gray", TALK_FPS, *ffv1.split()),
        )
        with contextlib.ExitStack() as stack:
            pipes = [stack.enter_context(output) for output in outputs]
            for frames in talk_frames():
                for pipe, frame in zip(pipes, frames, strict=True):
                    pipe.write(frame.tobytes())

        stars = h264(stars_wav, crf=23, audio_bitrate="64k")
        with ffmpeg(folder / "stars.mp4", "rgb24", STARS_FPS, *stars) as pipe:
            for frame in stars_frames():
                pipe.write(frame.tobytes())

        for clip in (*folder.glob("*.mp4"), *folder.glob("*.mkv")):
            shutil.move(clip, SAMPLES / clip.name)


if __name__ == "__main__":
    main()
