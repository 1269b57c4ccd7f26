"""How fast are matting and finishing on a GPU, how busy is it, and how far is that from its floor?

    python benchmarks/gpu.py [--device cuda] [--size 1920x1080] [--model NAME] [--clip CLIP]

Frames are made up and lie in the host's memory: what is timed first is all that a job does but its
codecs, from the copy up to the copy down, composites over a moving background. Then each stage by
itself, the device being waited for before and after. The floor is what the device needs at least
for the network's multiplications and for the bytes that every frame moves, at the rates that it
reaches itself here in a matrix product and in copies. With --clip, a whole job with H.264 is
compared with FFmpeg's own transcoding of the clip by the same encoder.

Utilisation is what nvidia-smi says of the device, if there is one, in the middle of the run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from vidbg import pipeline
from vidbg.frames import Colour, FrameBatch, PlaneFormat, VideoInfo
from vidbg.gpu.smooth import smooth
from vidbg.gpu.stages import Stages
from vidbg.gpu.transfer import Downloads, Uploads
from vidbg.job import Job
from vidbg.matting import views
from vidbg.matting.segmenter import NetworkSegmenter, load_segmenter
from vidbg.media import background, encode
from vidbg.media import ffmpeg as ff
from vidbg.media.probe import probe
from vidbg.prefetch import Prefetch
from vidbg.temporal.smooth import DEFAULT_STRENGTH

_FORMAT = PlaneFormat("yuv420p", 8, 1, 1, is_rgb=False)


def made_up_clip(width: int, height: int) -> VideoInfo:
    """Return what is known of a clip that is in memory only: 8-bit 4:2:0, BT.709."""
    return VideoInfo(
        path=Path("made up"),
        container="",
        codec="",
        stream_index=0,
        width=width,
        height=height,
        rotation=0,
        sar=Fraction(1),
        frame_rate=Fraction(25),
        time_base=Fraction(1, 25),
        start=Fraction(0),
        duration=Fraction(1),
        source_pix_fmt=_FORMAT.pix_fmt,
        format=_FORMAT,
        has_alpha=False,
        colour=Colour("tv", "bt709", "bt709", "bt709"),
        is_vfr=False,
        is_interlaced=False,
        is_image=False,
        frame_count=None,
        missing_frames=0,
        repeated_frames=0,
        dropped_frames=0,
        audio=(),
        subtitles=(),
        has_chapters=False,
    )


def made_up_batch(info: VideoInfo, count: int) -> FrameBatch:
    """Return frames of a bright shape that moves over a texture."""
    rng = np.random.default_rng(0)
    planes = []
    for height, width in info.format.plane_sizes(info.width, info.height):
        y, x = np.mgrid[:height, :width]
        plane = np.empty((count, height, width), np.uint8)
        for n in range(count):
            away = np.hypot(y / height - 0.5, x / width - 0.4 - 0.01 * n)
            plane[n] = 60 + 60 * np.sin(x / 9 + y / 13) + 100 * (away < 0.25)
        planes.append(plane + rng.integers(0, 4, plane.shape, np.uint8))
    first, second, third = planes
    return FrameBatch((first, second, third), info.format, 0)


def batches_of(batch: FrameBatch, frames: int) -> Iterator[FrameBatch]:
    """Yield the same frames again and again, numbered on, so many in all."""
    for first in range(0, frames, len(batch)):
        yield replace(batch, first_index=first)


@contextmanager
def watched(device: torch.device) -> Iterator[list[float]]:
    """Collect the device's utilisation in per cent while a block runs, if nvidia-smi is there."""
    seen: list[float] = []
    program = shutil.which("nvidia-smi")
    if device.type != "cuda" or program is None:
        yield seen
        return
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    argv = [program, *query, "-i", str(device.index or 0)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:

        def collect() -> None:
            for line in process.stdout or ():
                if line.strip().isdecimal():
                    seen.append(float(line))

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            process.terminate()
            thread.join()


def seconds_of(device: torch.device, work: Callable[[], object], repeats: int = 3) -> float:
    """Return the least time of a piece of work, after a first one that does not count."""
    times = []
    for _ in range(repeats + 1):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def throughput(stages: Stages, batch: FrameBatch, frames: int) -> float:
    """Return the frames a second of all stages, their copies included, without codecs."""
    behind = batch.planes[0][:, ::-1], batch.planes[1][:, ::-1], batch.planes[2][:, ::-1]
    # Another object each time, or it would pass for a still.
    moving = ((behind[0], behind[1], behind[2]) for _ in itertools.count())
    done = 0
    with (
        Prefetch(moving, 1, "background") as scenery,
        stages.shown(batches_of(batch, frames), scenery) as shown,
    ):
        began = time.perf_counter()
        for _ in shown:
            done += len(batch)
        return done / (time.perf_counter() - began)


def stage_times(
    stages: Stages, batch: FrameBatch, segmenter: NetworkSegmenter, size: tuple[int, int]
) -> dict[str, float]:
    """Return the milliseconds for a frame of each stage by itself."""
    device, count = segmenter.device, len(batch)
    uploads, downloads = Uploads(device), Downloads(device)
    (frames,) = (sent() for sent in stages._sent([batch]))
    matted = stages.segment(frames)
    behind = frames.planes
    pictures = torch.zeros((count, *size, 3), dtype=torch.uint8, device=device)
    repeats = 4  # batches through the smoother

    def smoothed() -> None:
        stream = (
            replace(matted, frames=replace(frames, first_index=n * count)) for n in range(repeats)
        )
        for _ in smooth(stream, DEFAULT_STRENGTH, downloads):
            pass

    work: dict[str, tuple[Callable[[], object], int]] = {
        "up": (lambda: uploads.send(batch.planes).arrived(), count),
        "network alone": (lambda: segmenter.on_device(pictures), count),
        "segment": (lambda: stages.segment(frames), count),
        "smooth": (smoothed, repeats * count),
        "finish": (lambda: stages.finish(matted, behind), count),
        "down": (lambda: downloads.fetch(frames.planes).arrays(), count),
    }
    return {
        name: 1000 * seconds_of(device, action) / frames_done
        for name, (action, frames_done) in work.items()
    }


def floor(
    segmenter: NetworkSegmenter, info: VideoInfo, size: tuple[int, int], side: int
) -> dict[str, float]:
    """Return what a frame takes at least: operations, bytes, the device's rates, milliseconds.

    Args:
        segmenter: The network on its device.
        info: The clip.
        size: The network's (height, width).
        side: Of the matrices whose product the device's rate is measured with.
    """
    device = segmenter.device
    with FlopCounterMode(display=False) as counter:
        segmenter.on_device(torch.zeros((1, *size, 3), dtype=torch.uint8, device=device))
    operations = float(counter.get_total_flops())
    samples = sum(h * w for h, w in info.format.plane_sizes(info.width, info.height))
    across = 3.0 * samples * info.format.bytes_per_sample  # frame and background up, result down

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(segmenter.precision, torch.float32)
    matrix = torch.ones((side, side), device=device, dtype=dtype)
    rate = 2.0 * side**3 / seconds_of(device, lambda: matrix @ matrix)
    block = torch.zeros(side * side * 4, dtype=torch.uint8, device=device)
    bandwidth = 2.0 * block.numel() / seconds_of(device, block.clone)
    host = block.cpu().numpy()
    uploads = Uploads(device)
    link = host.nbytes / seconds_of(device, lambda: uploads.send([host]).arrived())
    # Planes and background are read once and the result written, if all is fused into one pass.
    least = max(operations / rate, across / bandwidth, across / link)
    return {
        "GFLOP a frame": operations / 1e9,
        "MB a frame up and down": across / 1e6,
        "TFLOP/s in a matrix product": rate / 1e12,
        "GB/s in memory": bandwidth / 1e9,
        "GB/s up": link / 1e9,
        "floor ms": 1000 * least,
    }


def end_to_end(clip: Path, segmenter: NetworkSegmenter) -> dict[str, float]:
    """Return the frames a second of a whole job, and of FFmpeg's transcoding of the clip."""
    info = probe(clip)
    with tempfile.TemporaryDirectory() as folder:
        output = encode.Output(Path(folder) / "job.mp4", "composite", "h264", sound="none")
        job = Job(clip, output, background=background.parse("#204060"))
        began = time.perf_counter()
        result = pipeline.run(job, segmenter=segmenter)
        job_s = time.perf_counter() - began
        options = itertools.chain.from_iterable(
            (f"-{name}", str(value)) for name, value in encode.encoder_options(output).items()
        )
        began = time.perf_counter()
        target = str(Path(folder) / "ffmpeg.mp4")
        ran = ff.run(
            ["-nostdin", "-i", ff.file_url(info.path), "-an", *options, target], timeout_s=3600
        )
        ffmpeg_s = time.perf_counter() - began
    if ran.returncode:
        raise SystemExit(f"FFmpeg failed: {ran.cause()}")
    return {"job fps": result.frames / job_s, "FFmpeg fps": result.frames / ffmpeg_s}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and return all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="fp16", help="fp16, bf16 or fp32")
    parser.add_argument("--model")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", default="1920x1080", metavar="WIDTHxHEIGHT")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--batch", type=int, help="frames at once; default: what memory allows")
    parser.add_argument("--matrix", type=int, default=8192, help="side, for the device's rate")
    parser.add_argument("--clip", type=Path, help="for the comparison with FFmpeg")
    parser.add_argument("--json", type=Path, help="write all figures here too")
    options = parser.parse_args(arguments)
    width, height = (int(side) for side in options.size.split("x"))

    info = made_up_clip(width, height)
    segmenter = load_segmenter(options.model, options.weights, options.device, options.precision)
    size = segmenter.input_size(width, height)
    stages = Stages(
        segmenter,
        info,
        views.turns(size, segmenter.square_size),
        strength=DEFAULT_STRENGTH,
        edges="fast",
        wanted=[("composite", False)],
    )
    count = options.batch or stages.batch_size(segmenter.batch_size(*size))
    batch = made_up_batch(info, count)
    throughput(stages, batch, 4 * count)  # kernels are chosen, and graphs recorded
    with watched(segmenter.device) as utilisation:
        fps = throughput(stages, batch, options.frames)
    middle = utilisation[len(utilisation) // 4 : -len(utilisation) // 4 or None]
    figures: dict[str, Any] = {
        "network": f"{segmenter.name}, {segmenter.precision}, {size[1]}x{size[0]}",
        "device": str(segmenter.device),
        "frames at once": count,
        "fps": fps,
        "utilisation %": statistics.fmean(middle) if middle else None,
        "ms a frame": stage_times(stages, batch, segmenter, size),
        "floor": floor(segmenter, info, size, options.matrix),
    }
    figures["share of the floor"] = figures["floor"]["floor ms"] * fps / 1000
    if options.clip is not None:
        figures["end to end"] = end_to_end(options.clip, segmenter)
    print(json.dumps(figures, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))
    return figures


if __name__ == "__main__":
    main()
