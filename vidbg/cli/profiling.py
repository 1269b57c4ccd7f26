"""What --profile tells: where the time went, what was slowest, and what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vidbg import machine

if TYPE_CHECKING:
    from vidbg.profile import Meter, Profile

# Stages as the subject of a sentence.
_SUBJECTS = {
    "probe": "Looking at what the files are",
    "start-up": "Starting, the loading of the network included,",
    "decode": "Decoding the clip",
    "upload": "Bringing frames to the GPU",
    "thumbnail": "Making the small pictures that the network sees",
    "network": "The network",
    "keyer": "Keying",
    "segment": "Reading the mattes",
    "carry": "Carrying the matte to frames that the network did not look at",
    "smooth": "Smoothing the matte over time",
    "refine": "Refining the edges",
    "foreground": "Taking the old background out of soft edges",
    "background": "The new background",
    "composite": "Putting the subject before the new background",
    "download": "Finishing on the GPU",
    "encode": "Encoding",
}
_ALL_ELSE = "What is none of these stages"


@dataclass(frozen=True, slots=True)
class Told:
    """A profile for people and for scripts.

    Attributes:
        lines: For people to read.
        fields: For JSON.
    """

    lines: list[str]
    fields: dict[str, object]


def told(meter: Meter, options: dict[str, Any], *, is_batch: bool = False) -> Told:
    """Return what a run's meter says.

    Args:
        meter: What measured it.
        options: The values of the command line's options.
        is_batch: Several clips were done in one run.
    """
    profile = meter.profile()
    said = sentence(profile, options, is_batch=is_batch)
    return Told(lines_of(profile, said), fields_of(profile, said))


def lines_of(profile: Profile, said: str) -> list[str]:
    """Return a profile as lines, the last of which is ``said``."""
    frames = profile.frames
    if not frames:
        return ["profile: no frame was made"]
    rows = [("stage", "ms/frame", "of the time", "CPU ms/frame", "FFmpeg's CPU")]
    for spent in profile.stages:
        rows.append(
            (
                spent.stage,
                f"{1000 * spent.wall_s / frames:.2f}",
                f"{spent.share:.0%}",
                f"{1000 * spent.cpu_s / frames:.2f}",
                f"{1000 * spent.ffmpeg_cpu_s / frames:.2f}" if spent.ffmpeg_cpu_s else "",
            )
        )
    libraries, cpu = profile.library_cpu_s, profile.cpu_s
    rows.append(("libraries", "", "", f"{1000 * libraries / frames:.2f}", ""))
    ffmpeg = f"{1000 * profile.ffmpeg_cpu_s / frames:.2f}"
    rows.append(
        ("all", f"{1000 * profile.wall_s / frames:.2f}", "", f"{1000 * cpu / frames:.2f}", ffmpeg)
    )
    lines = [f"profile of {frames} frames in {profile.wall_s:.1f} s:", *_aligned(rows)]
    lines.append(
        "Stages work at the same time. Libraries (OpenVINO, PyTorch, OpenCV) have threads of "
        "their own, which help several of them."
    )
    if not profile.is_ffmpeg_known:
        lines.append("What FFmpeg took of the processors is not known on this system.")
    queues = [("queue after", "filled", "waited for room", "waited for frames")]
    for queue in profile.queues:
        waits = f"{queue.room_wait_s:.1f} s", f"{queue.items_wait_s:.1f} s"
        queues.append((queue.name, f"{queue.filled:.0%}", *waits))
    if len(queues) > 1:
        lines += _aligned(queues)
    cores = machine.cores()
    lines.append(f"On average {profile.cores_busy:.1f} of {cores} cores were busy.")
    lines.append(said)
    return lines


def fields_of(profile: Profile, said: str) -> dict[str, object]:
    """Return a profile with its sentence as JSON has it: milliseconds, those of a frame."""

    def ms(seconds: float) -> float | None:
        return round(1000 * seconds / profile.frames, 4) if profile.frames else None

    return {
        "frames": profile.frames,
        "seconds": round(profile.wall_s, 3),
        "cores": machine.cores(),
        "cores_busy": round(profile.cores_busy, 3),
        "ms": ms(profile.wall_s),
        "cpu_ms": ms(profile.cpu_s),
        "library_cpu_ms": ms(profile.library_cpu_s),
        "ffmpeg_cpu_ms": ms(profile.ffmpeg_cpu_s) if profile.is_ffmpeg_known else None,
        "stages": [
            {
                "stage": spent.stage,
                "ms": ms(spent.wall_s),
                "ffmpeg_wait_ms": ms(spent.ffmpeg_wait_s),
                "share": round(spent.share, 4),
                "cpu_ms": ms(spent.cpu_s),
                "ffmpeg_cpu_ms": ms(spent.ffmpeg_cpu_s) if profile.is_ffmpeg_known else None,
            }
            for spent in profile.stages
        ],
        "queues": [
            {
                "queue": queue.name,
                "depth": queue.depth,
                "filled": round(queue.filled, 4),
                "room_wait_seconds": round(queue.room_wait_s, 3),
                "items_wait_seconds": round(queue.items_wait_s, 3),
            }
            for queue in profile.queues
        ],
        "bottleneck": profile.bottleneck,
        "message": said,
    }


def sentence(profile: Profile, options: dict[str, Any], *, is_batch: bool = False) -> str:
    """Say what was slowest, and the way out where there is one; arguments as :func:`told`."""
    share = next((s.share for s in profile.stages if s.stage == profile.bottleneck), 0.0)
    subject = _SUBJECTS.get(profile.bottleneck, _ALL_ELSE)
    way_out = _way_out(profile.bottleneck, options, is_batch)
    told = f"{subject} takes {share:.0%} of the time"
    return f"{told}: {way_out}." if way_out else f"{told}; no option makes that faster."


def _way_out(stage: str, options: dict[str, Any], is_batch: bool) -> str:
    """Return what makes a stage faster, or ""."""
    if stage == "network":
        return _network_way_out(options)
    if stage == "encode":
        if options["hwaccel"] == "none" and options["codec"] in (None, "h264", "hevc", "av1"):
            return "a graphics card may do it (--hwaccel auto), or a faster --preset"
        return "another --codec or a faster --preset may be quicker"
    if stage == "refine" and options["edges"] == "fine":
        return "--edges fast needs a fraction of that"
    if stage == "start-up":
        return "" if is_batch else "clips that are done in one command share it"
    return {
        "decode": "a faster disk helps, or a clip in a codec for editing such as ProRes",
        "smooth": "--smooth 0 leaves it out, but then the matte flickers more",
        "refine": "--edges off leaves it out, but then edges are those of the small matte",
        "background": "a background of the clip's own size and rate needs less work",
    }.get(stage, "")


def _network_way_out(options: dict[str, Any]) -> str:
    # Loaded already: a network has run. Without PyTorch, which is not loaded to say a sentence.
    from vidbg.matting.segmenter import has_only_a_cpu, resolve_device

    if int(options["looks"]) > 1:
        return f"--looks 1 needs 1/{options['looks']} of that"
    if options["every"] == "1":
        return "without --every 1 it looks at fewer frames"
    if has_only_a_cpu(options["device"]) or resolve_device(options["device"]).type == "cpu":
        return "a computer with an NVIDIA card, or a Mac with its own chip, is many times faster"
    return "`vidbg models` lists networks of several sizes"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as lines, the first column to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{width}}" if number else f"{cell:<{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
