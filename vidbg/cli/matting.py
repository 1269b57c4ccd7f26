"""Options that several commands share: how mattes are made, how a background is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vidbg.cli.parameters import Device, Every, Key, Length, Rate, Share, Time
from vidbg.frames import MAX_PIXELS

if TYPE_CHECKING:
    from vidbg.job import Matting

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--model",
        metavar="NAME",
        help="A network (see `vidbg models`), or chroma for a green or blue screen. "
        "Default: vidbg-s.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="A checkpoint of your own, .pth or .safetensors: from `vidbg train`, or any U-2-Net.",
    ),
    click.option(
        "--device",
        type=Device(),
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, cuda:N or mps.",
    ),
    click.option(
        "--batch-size", type=click.IntRange(1, 256), help="Frames per call. Default: by memory."
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "bf16", "int8"]),
        default="auto",
        show_default=True,
        help="What the network computes in. auto: fp16 on CUDA; on a CPU int8 for the models that "
        "are measured for it, fp32 for others.",
    ),
    click.option("--key", type=Key(), help="Screen colour for --model chroma. Default: auto."),
    click.option(
        "--similarity",
        type=Share(),
        help="Chroma: how far from the key still counts as screen, 0 to 1.",
    ),
    click.option(
        "--smoothness",
        type=Share(),
        help="Chroma: how softly the edge falls off, 0 to 1.",
    ),
    click.option(
        "--looks",
        type=click.Choice(["1", "2", "4"]),
        default="1",
        show_default=True,
        help="How often the network looks at each frame: more is slower and better.",
    ),
    click.option(
        "--every",
        type=Every(),
        metavar="auto|N",
        default="auto",
        show_default=True,
        help="Which frames the network looks at: every Nth, 1 (all of them, slower) to 12, or as "
        "many as the clip needs. The matte is carried to the frames between along the motion.",
    ),
    click.option(
        "--smooth",
        type=Share(),
        help="Steadiness of the matte over time, 0 (each frame alone) to 1.",
    ),
    click.option(
        "--edges",
        type=click.Choice(["off", "fast", "fine"]),
        help="How edges are refined: not at all, cheaply, or slowly and better. Default: fast, "
        "off with --model chroma.",
    ),
    click.option("--grow", metavar="PX", type=Length(), help="Move the edge outwards, in pixels."),
    click.option("--shrink", metavar="PX", type=Length(), help="Move the edge inwards, in pixels."),
    click.option("--feather", metavar="PX", type=Length(), help="Soften the edge, in pixels."),
    click.option("--fill-holes", is_flag=True, help="Make holes inside the subject opaque."),
    click.option(
        "--keep",
        type=click.Choice(["all", "largest"]),
        default="all",
        show_default=True,
        help="Which objects stay.",
    ),
    click.option(
        "--despill/--no-despill",
        default=None,
        help="Take the old background's tint off the subject. Default: on with --model chroma.",
    ),
    click.option(
        "--allow-damaged",
        is_flag=True,
        help="Keep what decodes of a damaged or cut-off file; of a picture sequence, repeat the "
        "picture before a gap.",
    ),
    click.option(
        "--max-pixels",
        metavar="N",
        type=click.IntRange(min=1),
        default=MAX_PIXELS,
        show_default=True,
        help="Refuse files with more pixels a frame than this: 12K video fits, and what merely "
        "claims to be huge takes no memory.",
    ),
    click.option(
        "--in-fps",
        metavar="RATE",
        type=Rate(),
        help="Frames a second of picture sequences: 24, 29.97, 30000/1001. Default: 25.",
    ),
)


_BACKGROUND_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--bg-fit",
        type=click.Choice(["cover", "contain", "stretch"]),
        default="cover",
        show_default=True,
        help="How the background fills the frame.",
    ),
    click.option(
        "--bg-end",
        type=click.Choice(["loop", "hold", "black"]),
        default="loop",
        show_default=True,
        help="What follows a background that is shorter than the clip.",
    ),
    click.option(
        "--bg-start", type=Time(), default=Fraction(0), help="Where in the background to begin."
    ),
)


def matting_options(command: Command) -> Command:
    """Give a command the options that say how mattes are made."""
    return _with(command, _OPTIONS)


def background_options(command: Command) -> Command:
    """Give a command the options that say how a background is shown."""
    return _with(command, _BACKGROUND_OPTIONS)


def _with(command: Command, options: Sequence[Callable[[Any], Any]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def was_given(name: str) -> bool:
    """Return whether an option of the command that runs was given, and is not its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


def matting_fields(options: dict[str, Any]) -> Matting:
    """Return the fields of a job that these options describe, all of them checked."""
    from vidbg.job import CHROMA_MODEL
    from vidbg.matting import chroma, weights

    model = options["model"]
    known = [*weights.registry(), CHROMA_MODEL]
    if model is not None and model not in known:
        raise click.BadParameter(f"{model!r} is none of {', '.join(known)}", param_hint="--model")
    keyed = [name for name in ("key", "similarity", "smoothness") if options[name] is not None]
    if keyed and model != CHROMA_MODEL:
        raise click.UsageError(f"--{keyed[0]} is for --model {CHROMA_MODEL}.")
    if options["grow"] is not None and options["shrink"] is not None:
        raise click.UsageError("Choose one: --grow or --shrink.")
    if options["weights"] is not None and model == CHROMA_MODEL:
        raise click.UsageError(f"--model {CHROMA_MODEL} takes no --weights.")
    return {
        "model": model,
        "weights": options["weights"],
        "device": options["device"],
        "precision": options["precision"],
        "batch_size": options["batch_size"],
        "key": options["key"] or "auto",
        "similarity": _or(options["similarity"], chroma.DEFAULT_SIMILARITY),
        "smoothness": _or(options["smoothness"], chroma.DEFAULT_SMOOTHNESS),
        "looks": int(options["looks"]),
        "every": None if options["every"] == "auto" else int(options["every"]),
        "smooth": options["smooth"],
        "edges": options["edges"],
        "keep": options["keep"],
        "fill_holes": options["fill_holes"],
        "grow_px": (options["grow"] or 0) - (options["shrink"] or 0),
        "feather_px": options["feather"] or 0,
        "despill": options["despill"],
        "allow_damaged": options["allow_damaged"],
        "max_pixels": options["max_pixels"],
        "in_fps": options["in_fps"],
    }


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
