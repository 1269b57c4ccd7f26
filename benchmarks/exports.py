"""What do the exports with transparency cost, and how true are they? One table a clip.

    python benchmarks/exports.py [CLIP_OR_FOLDER ...] [--frames N]

The foreground of a clip's first frames, with a matte that is drawn (a soft, moving shape with fine
strands, so that no network takes time), is written in every format. For each: whether FFmpeg and
PyAV read it without complaint, its frames, the largest and the mean error of alpha against the
matte that went in (levels of 255, read by PyAV or Pillow), its size, and frames a second of the
encoder alone. For ProRes and VP9 the same RGBA frames go through a plain FFmpeg command too, and
the same frames with the old background left under alpha 0.

The last lines say how much of what lies under alpha 0 a scaler brings into the edge that knows
nothing of alpha: the error of the colour that is seen, luma of 255, when frames are halved.
"""

from __future__ import annotations

import argparse
import io
import itertools
import platform
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from vidbg import composite, pipeline
from vidbg.frames import VideoInfo
from vidbg.job import Job
from vidbg.media import audio, encode, sinks
from vidbg.media import ffmpeg as ff
from vidbg.media.probe import probe

if TYPE_CHECKING:
    from vidbg.frames import Plane, Planes

CLIPS = Path(__file__).parent.parent.parent / "shared" / "data" / "clips"
# Name, codec (None for the default) and what else is set.
FORMATS: tuple[tuple[str, str | None], ...] = (
    ("prores.mov", None),
    ("qtrle.mov", "qtrle"),
    ("vp9.webm", None),
    ("ffv1.mkv", None),
    ("png/f_%06d.png", None),
    ("png.zip", None),
    ("a.apng", None),
    ("a.webp", None),
    ("a.gif", None),
)
VP9 = ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-crf", "28", "-b:v", "0", "-row-mt", "1")
PLAIN_FFMPEG = {
    "prores.mov": ("-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"),
    "vp9.webm": (*VP9, "-deadline", "good", "-cpu-used", "5", "-auto-alt-ref", "0"),
}


@dataclass
class Drawn:
    """A segmenter whose mattes are drawn: a soft shape that moves, with strands at its edge."""

    name: str = "drawn"
    seen: int = 0

    def input_size(self, width: int, height: int, sar: Fraction = Fraction(1)) -> tuple[int, int]:
        """Mattes are made at the frame's own size."""
        return height, width

    def batch_size(self, height: int, width: int) -> int:
        """One frame at a time."""
        return 1

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the mattes of the next pictures."""
        return np.stack([self._next(*picture.shape[:2]) for picture in rgb])

    def _next(self, height: int, width: int) -> NDArray[np.float32]:
        y, x = np.mgrid[:height, :width].astype(np.float32)
        dx = (x - width * (0.45 + 0.004 * self.seen)) / (0.2 * width)
        dy = (y - height * 0.6) / (0.45 * height)
        angle = np.arctan2(dy, dx)
        strands = 0.03 * np.sin(90 * angle + 0.3 * self.seen) + 0.02 * np.sin(37 * angle)
        self.seen += 1
        edge = (1 + strands - np.hypot(dx, dy)) * height * 0.4
        return np.asarray(np.clip(edge / 5 + 0.5, 0, 1), np.float32)


@dataclass
class Frames:
    """A clip's finished frames, in memory."""

    info: VideoInfo
    alpha: list[Plane] = field(default_factory=list)
    extended: list[Planes] = field(default_factory=list)
    left: list[Planes] = field(default_factory=list)

    @property
    def matte(self) -> NDArray[np.float32]:
        """All mattes, float32 (N, H, W) in levels of 255."""
        stacked = np.concatenate(self.alpha)
        return stacked.astype(np.float32) * np.float32(255 / np.iinfo(stacked.dtype).max)


def finished(clip: Path, count: int) -> Frames:
    """Return the first frames of a clip as an alpha export has them."""
    info = probe(clip)
    unused = encode.Output(Path("unused.mkv"), "alpha", "ffv1")
    job = Job(clip, unused, smooth=0.0, edges="off", batch_size=1)
    segmenter = Drawn()
    finish = pipeline.finisher(job, info, segmenter)
    frames = Frames(info)
    for batch in pipeline.read_mattes(job, info, segmenter, stop=count):
        ((planes, alpha),) = finish(batch, None)
        if alpha is None:
            raise ValueError("an export with transparency has alpha")
        alphas = composite.alpha_planes(alpha, info.format)
        # As it was before what lies under alpha 0 was chosen: the old background.
        left = tuple(
            np.where(share > 0, plane, source)
            for plane, source, share in zip(planes, batch.frames.planes, alphas, strict=True)
        )
        frames.alpha.append(alpha)
        frames.extended.append(planes)
        frames.left.append(left)  # type: ignore[arg-type]
    return frames


def written(path: Path, codec: str | None, frames: Frames, planes: list[Planes]) -> float:
    """Write frames and return how many a second."""
    info = frames.info
    chosen = encode.choose_codec(path, "alpha", codec)
    output = encode.Output(path, "alpha", chosen, sound="none")
    window = audio.Window(info.start, len(planes) / info.frame_rate, True)
    began = time.perf_counter()
    with sinks.Sink(output, info, window) as sink:
        for frame, alpha in zip(planes, frames.alpha, strict=True):
            sink.write(frame, alpha)
    return len(planes) / (time.perf_counter() - began)


def plain(path: Path, rgba: NDArray[np.uint8], rate: Fraction, options: tuple[str, ...]) -> float:
    """Let FFmpeg alone write RGBA frames and return how many a second."""
    count, height, width, _ = rgba.shape
    raw = ("-f", "rawvideo", "-pix_fmt", "rgba", "-s", f"{width}x{height}", "-framerate", str(rate))
    command = ff.command([*raw, "-i", "pipe:0", *options, "-y", str(path)])
    began = time.perf_counter()
    subprocess.run(command, input=rgba.tobytes(), check=True, capture_output=True)
    return count / (time.perf_counter() - began)


def pillow_alpha(source: Path | io.BytesIO) -> Iterator[NDArray[np.uint8]]:
    """Yield the alpha of a picture file's frames."""
    with Image.open(source) as opened:
        for number in range(getattr(opened, "n_frames", 1)):
            opened.seek(number)
            yield np.asarray(opened.convert("RGBA"))[..., 3]


def video_alpha(path: Path) -> Iterator[NDArray[np.float32]]:
    """Yield the alpha of a video's frames, in levels of 255."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames: Iterable[av.VideoFrame] = container.decode(stream)
        if stream.codec_context.name == "vp9":
            context = av.CodecContext.create("libvpx-vp9", "r")
            frames = (f for packet in container.demux(stream) for f in context.decode(packet))
        for frame in frames:
            depth = frame.format.components[3].bits
            # Packed pixels are taken apart; planes stay as the decoder gives them.
            shown = frame if len(frame.planes) == 4 else frame.reformat(format="gbrap")
            plane = shown.planes[3]
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
            codes = rows.copy().view(np.uint8 if depth == 8 else np.uint16)[:, : plane.width]
            yield codes * np.float32(255 / ((1 << depth) - 1))


def alpha_of(path: Path) -> Iterator[NDArray[np.float32] | NDArray[np.uint8]]:
    """Yield the alpha of an export's frames."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield from pillow_alpha(io.BytesIO(archive.read(name)))
    elif "%" in path.name:
        for part in sorted(path.parent.iterdir()):
            yield from pillow_alpha(part)
    elif path.suffix in (".apng", ".webp", ".gif"):
        yield from pillow_alpha(path)
    else:
        yield from video_alpha(path)


def opens(path: Path) -> str:
    """Return which of FFmpeg and PyAV read a file to its end without complaint."""
    found = []
    if path.suffix != ".zip":  # which is no video to either
        ran = ff.run(["-i", str(path), "-f", "null", "-"])
        if not ran.returncode and not any(ff.is_complaint(line) for line in ran.lines):
            found.append("FFmpeg")
        try:
            with av.open(str(path)) as container:
                if sum(1 for _ in container.decode(video=0)):
                    found.append("PyAV")
        except (av.FFmpegError, IndexError, OSError):
            pass
    return "+".join(found) or "-"


def size_of(path: Path) -> int:
    """Return an export's size in bytes."""
    if "%" in path.name:
        return sum(part.stat().st_size for part in path.parent.iterdir())
    return path.stat().st_size


def row(label: str, path: Path, matte: NDArray[np.float32], fps: float) -> None:
    """Print what there is to say of an export."""
    read = [
        np.abs(alpha[: matte.shape[1], : matte.shape[2]].astype(np.float32) - truth)
        for alpha, truth in zip(alpha_of(path), matte, strict=False)
    ]
    errors = np.stack(read)
    print(
        f"{label:<34}{opens(path):>12}{len(read):>7}{errors.max():>8.2f}{errors.mean():>8.4f}"
        f"{size_of(path) / 1024:>10.0f}{fps:>8.1f}",
        flush=True,
    )


def bled(frames: Frames, planes: list[Planes]) -> tuple[float, float]:
    """Return the worst and the mean error of what is seen of halved frames' edges."""
    top = (1 << frames.info.format.depth) - 1
    worst, means = 0.0, []
    for (luma, _, _), alpha in zip(planes, frames.alpha, strict=True):
        share = alpha[0].astype(np.float32) / np.iinfo(alpha.dtype).max
        colour = luma[0].astype(np.float32) * np.float32(255 / top)
        size = (luma.shape[2] // 2, luma.shape[1] // 2)
        naive, half, seen = (
            cv2.resize(part, size, interpolation=cv2.INTER_AREA)
            for part in (colour, share, colour * share)
        )
        soft = (half > 0) & (half < 1)
        errors = np.abs(naive * half - seen)[soft]
        worst = max(worst, float(errors.max()))
        means.append(float(errors.mean()))
    return worst, float(np.mean(means))


def table(clip: Path, count: int, folder: Path) -> None:
    """Measure and print one clip's table."""
    frames = finished(clip, count)
    info, matte = frames.info, frames.matte
    print(f"\n{clip.name}: {info.width}x{info.height}, {info.format.pix_fmt}, {len(matte)} frames")
    head = ["format", "opens", "frames", "max", "mean", "KiB", "fps"]
    print("{:<34}{:>12}{:>7}{:>8}{:>8}{:>10}{:>8}".format(*head))
    for name, codec in FORMATS:
        path = folder / name
        row(name, path, matte, written(path, codec, frames, frames.extended))
    rgba = np.stack([np.asarray(Image.open(p)) for p in sorted((folder / "png").iterdir())])
    for name, options in PLAIN_FFMPEG.items():
        path = folder / f"plain.{name}"
        if rgba.dtype == np.uint8:
            row(f"{name}, plain FFmpeg", path, matte, plain(path, rgba, info.frame_rate, options))
        path = folder / f"left.{name}"
        row(f"{name}, old background left", path, matte, written(path, None, frames, frames.left))
    for label, planes in (("extended", frames.extended), ("old background left", frames.left)):
        worst, mean = bled(frames, planes)
        print(f"halved, {label}: edges off by {worst:.1f} at most, {mean:.2f} on average")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="*", default=[CLIPS])
    parser.add_argument("--frames", type=int, default=48, help="how many of each clip")
    options = parser.parse_args()
    print(f"{platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}")
    found = (sorted(p.glob("*.mp4")) if p.is_dir() else [p] for p in options.clips)
    for clip in itertools.chain.from_iterable(found):
        with tempfile.TemporaryDirectory() as name:
            table(clip, options.frames, Path(name))


if __name__ == "__main__":
    main()
