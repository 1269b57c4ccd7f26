"""``vidbg probe INPUT``: what vidbg understands of a file."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidbg.frames import MAX_PIXELS

if TYPE_CHECKING:
    from vidbg.frames import VideoInfo


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option(
    "--max-pixels",
    metavar="N",
    type=click.IntRange(min=1),
    default=MAX_PIXELS,
    show_default=True,
    help="Refuse a file with more pixels a frame than this.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, help="Show a traceback if it fails.")
def show(source: Path, max_pixels: int, as_json: bool, debug: bool) -> None:
    """Print what vidbg understands of a video or picture."""
    from vidbg.media.probe import probe

    info = probe(source, max_pixels=max_pixels)
    if as_json:
        click.echo(json.dumps(_fields(info)))
        return
    for name, value in _lines(info):
        click.echo(f"{name + ':':<14}{value}")


def _fields(info: VideoInfo) -> dict[str, Any]:
    """Return a probe's result as JSON values; rates and other fractions are strings "n/d"."""
    return {
        "path": str(info.path),
        "container": info.container,
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "rotation": info.rotation,
        "sar": _ratio(info.sar),
        "frame_rate": _ratio(info.frame_rate),
        "is_vfr": info.is_vfr,
        "frames": info.frame_count,
        "missing_frames": info.missing_frames,
        "repeated_frames": info.repeated_frames,
        "dropped_frames": info.dropped_frames,
        "start_seconds": float(info.start),
        "duration_seconds": float(info.duration),
        "pix_fmt": info.source_pix_fmt,
        "working_pix_fmt": info.format.pix_fmt,
        "bit_depth": info.format.depth,
        "chroma_location": info.format.chroma_location,
        "has_alpha": info.has_alpha,
        "is_interlaced": info.is_interlaced,
        "is_image": info.is_image,
        "color_range": info.colour.range,
        "color_space": info.colour.matrix,
        "color_primaries": info.colour.primaries,
        "color_transfer": info.colour.transfer,
        "audio": [
            {
                "codec": track.codec,
                "sample_rate": track.sample_rate,
                "channels": track.channels,
                "start_seconds": float(track.start),
                "duration_seconds": None if track.duration is None else float(track.duration),
            }
            for track in info.audio
        ],
        "subtitles": [track.codec for track in info.subtitles],
        "has_chapters": info.has_chapters,
    }


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


def _lines(info: VideoInfo) -> list[tuple[str, str]]:
    traits = [
        "still picture" if info.is_image else "variable frame rate" if info.is_vfr else "",
        "interlaced" if info.is_interlaced else "",
        f"turned by {info.rotation}°" if info.rotation else "",
        f"sample aspect ratio {_ratio(info.sar)}" if info.sar != 1 else "",
        "with alpha" if info.has_alpha else "",
    ]
    colour = info.colour
    lines = [
        ("file", str(info.path)),
        ("container", info.container),
        ("video", f"{info.codec}, {info.width}x{info.height}, {info.source_pix_fmt}"),
        ("frame rate", f"{_ratio(info.frame_rate)} ({float(info.frame_rate):.3f} fps)"),
        ("length", f"{info.frame_count} frames, {float(info.duration):.3f} s"),
        (
            "colour",
            f"{colour.range} range, {colour.matrix} matrix, {colour.primaries} primaries, "
            f"{colour.transfer} transfer",
        ),
        ("worked on in", info.format.pix_fmt),
    ]
    if any(traits):
        lines.append(("also", ", ".join(trait for trait in traits if trait)))
    if info.is_vfr:
        lines.append(
            ("made even", f"{info.repeated_frames} repeated, {info.dropped_frames} dropped")
        )
    if info.missing_frames:
        lines.append(("damaged", f"{info.missing_frames} frames are missing"))
    lines += [
        (
            "audio",
            f"{track.codec}, {track.channels} channels, {track.sample_rate} Hz, "
            f"starts at {float(track.start):.3f} s",
        )
        for track in info.audio
    ] or [("audio", "none")]
    lines += [("subtitles", track.codec) for track in info.subtitles]
    return lines
