"""The main command: ``vidbg INPUT --bg SRC``."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidbg import __version__
from vidbg.cli.parameters import Device, Key, Length, Share, Time
from vidbg.media.formats import CONTAINERS, VIDEO_CODECS

if TYPE_CHECKING:
    from vidbg.pipeline import Job

_EXTENSIONS = " ".join(dict.fromkeys(CONTAINERS))

_EPILOG = f"""\b
Examples:
  vidbg talk.mp4 --bg beach.mp4                 another video behind the subject
  vidbg talk.mp4 --bg office.jpg -o out.mp4     a picture
  vidbg talk.mp4 --bg blur                      its own background, blurred
  vidbg talk.mp4 --alpha                        transparent ProRes 4444 for an editor
  vidbg studio.mp4 --bg beach.mp4 --model chroma    keyed from a green or blue screen

\b
Other commands:
  vidbg models           networks, their sizes and licences, what is on disk
  vidbg probe INPUT      what vidbg understands of a file

Output formats: {_EXTENSIONS}
"""


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"vidbg {__version__}")
        ctx.exit()


@click.command(
    epilog=_EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option(
    "--bg",
    metavar="SRC",
    help="What goes behind the subject: a video, a picture, a colour (#00b140, green, 0,177,64), "
    "or blur[:RADIUS] for the clip's own background, blurred.",
)
@click.option("--alpha", is_flag=True, help="Write the subject with transparency instead.")
@click.option("--matte", is_flag=True, help="Write the matte instead: white subject on black.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The result. Default: INPUT's name with .vidbg.mp4, beside it (.mov with --alpha).",
)
@click.option("-y", "--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--bg-fit",
    type=click.Choice(["cover", "contain", "stretch"]),
    default="cover",
    show_default=True,
    help="How the background fills the frame.",
)
@click.option(
    "--bg-end",
    type=click.Choice(["loop", "hold", "black"]),
    default="loop",
    show_default=True,
    help="What follows a background that is shorter than the clip.",
)
@click.option(
    "--bg-start", type=Time(), default=Fraction(0), help="Where in the background to begin."
)
@click.option("--start", type=Time(), help="Begin here: seconds, or hh:mm:ss.ms.")
@click.option("--end", type=Time(), help="End here: seconds, or hh:mm:ss.ms.")
@click.option(
    "--audio",
    type=click.Choice(["source", "bg", "mix", "none"]),
    default="source",
    show_default=True,
    help="Whose sound the result has.",
)
@click.option(
    "--codec", type=click.Choice(VIDEO_CODECS), help="Video codec. Default: H.264 in .mp4."
)
@click.option("--crf", type=int, help="Quality; lower is better and larger. H.264: 19.")
@click.option("--preset", help="Encoder speed, slower is smaller. H.264: veryfast.")
@click.option(
    "--model",
    metavar="NAME",
    help="A network (see `vidbg models`), or chroma for a green or blue screen. Default: u2netp.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A U-2-Net or U-2-Net-p checkpoint of your own: .pth or .safetensors.",
)
@click.option(
    "--device",
    type=Device(),
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:N or mps.",
)
@click.option(
    "--batch-size", type=click.IntRange(1, 256), help="Frames per call. Default: by memory."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16", "bf16"]),
    default="auto",
    show_default=True,
)
@click.option("--key", type=Key(), help="Screen colour for --model chroma. Default: auto.")
@click.option(
    "--similarity",
    type=Share(),
    help="Chroma: how far from the key still counts as screen, 0 to 1.",
)
@click.option(
    "--smoothness",
    type=Share(),
    help="Chroma: how softly the edge falls off, 0 to 1.",
)
@click.option(
    "--smooth",
    type=Share(),
    help="Steadiness of the matte over time, 0 (each frame alone) to 1.",
)
@click.option(
    "--edges",
    type=click.Choice(["off", "fast", "fine"]),
    help="How edges are refined: not at all, cheaply, or slowly and better. Default: fast, off "
    "with --model chroma.",
)
@click.option("--grow", metavar="PX", type=Length(), help="Move the edge outwards, in pixels.")
@click.option("--shrink", metavar="PX", type=Length(), help="Move the edge inwards, in pixels.")
@click.option("--feather", metavar="PX", type=Length(), help="Soften the edge, in pixels.")
@click.option("--fill-holes", is_flag=True, help="Make holes inside the subject opaque.")
@click.option(
    "--keep",
    type=click.Choice(["all", "largest"]),
    default="all",
    show_default=True,
    help="Which objects stay.",
)
@click.option(
    "--despill/--no-despill",
    default=None,
    help="Take the old background's tint off the subject. Default: on with --model chroma.",
)
@click.option(
    "--allow-damaged", is_flag=True, help="Keep what decodes of a damaged or cut-off file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for scripts.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless it fails.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option("--debug", is_flag=True, help="Show everything, and a traceback if it fails.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
def run(**options: Any) -> None:
    """Take the background out of a video and put another in its place.

    INPUT is a video or a picture; one of --bg, --alpha and --matte says what to make of it.
    """
    kind = _kind(options)
    # Imported late: --help and wrong usage need neither OpenCV nor FFmpeg.
    from vidbg.cli.reporting import Reporter

    job = _job(kind, options)
    from vidbg import pipeline

    reporter = Reporter(
        job,
        as_json=options["as_json"],
        quiet=options["quiet"],
        verbose=options["verbose"] or options["debug"],
    )
    with reporter:
        result = pipeline.run(
            job,
            on_start=reporter.start,
            on_progress=reporter.progress,
            on_download=reporter.download,
        )
        reporter.done(result)


def _kind(options: dict[str, Any]) -> str:
    chosen = [
        kind
        for kind, given in (
            ("composite", options["bg"] is not None),
            ("alpha", options["alpha"]),
            ("matte", options["matte"]),
        )
        if given
    ]
    if len(chosen) == 1:
        return chosen[0]
    what = "Say what to make" if not chosen else "Choose one"
    raise click.UsageError(
        f"{what}: --bg SRC (another background), --alpha (transparency) or --matte (the matte)."
    )


def _job(kind: str, options: dict[str, Any]) -> Job:
    """Return the job that the options describe, all of them checked."""
    from vidbg import pipeline
    from vidbg.errors import OutputError
    from vidbg.matting import chroma, weights
    from vidbg.media import background, encode

    source: Path = options["source"]
    path = options["output"] or encode.default_path(source, kind, options["codec"])
    try:
        codec = encode.choose_codec(path, kind, options["codec"])
    except OutputError as error:
        raise click.BadParameter(str(error), param_hint="-o") from error
    if path.exists() and source.exists() and path.samefile(source):
        raise click.BadParameter("the output is the input itself", param_hint="-o")
    problem = encode.quality_problem(codec, options["crf"], options["preset"])
    if problem is not None:
        raise click.BadParameter(problem[1], param_hint=f"--{problem[0]}")
    if options["end"] is not None and options["end"] <= (options["start"] or 0):
        raise click.BadParameter("it has to come after --start", param_hint="--end")

    model = options["model"]
    known = [*weights.registry(), pipeline.CHROMA_MODEL]
    if model is not None and model not in known:
        raise click.BadParameter(f"{model!r} is none of {', '.join(known)}", param_hint="--model")
    keyed = [name for name in ("key", "similarity", "smoothness") if options[name] is not None]
    if keyed and model != pipeline.CHROMA_MODEL:
        raise click.UsageError(f"--{keyed[0]} is for --model {pipeline.CHROMA_MODEL}.")
    if options["grow"] is not None and options["shrink"] is not None:
        raise click.UsageError("Choose one: --grow or --shrink.")
    if options["weights"] is not None and model == pipeline.CHROMA_MODEL:
        raise click.UsageError(f"--model {pipeline.CHROMA_MODEL} takes no --weights.")
    backdrop = None
    if kind != "composite":
        for name in ("bg_fit", "bg_end", "bg_start"):
            if _was_given(name):
                raise click.UsageError(f"--{name.replace('_', '-')} is for --bg.")
        if options["audio"] in ("bg", "mix"):
            raise click.UsageError(f"--audio {options['audio']} is for --bg.")
    else:
        try:
            backdrop = background.parse(options["bg"])
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--bg") from error
    return pipeline.Job(
        source=source,
        output=encode.Output(
            path=path,
            kind=kind,
            codec=codec,
            crf=options["crf"],
            preset=options["preset"],
            sound=options["audio"],
            overwrite=options["overwrite"],
        ),
        background=backdrop,
        bg_fit=options["bg_fit"],
        bg_end=options["bg_end"],
        bg_start_s=options["bg_start"],
        start_s=options["start"],
        end_s=options["end"],
        model=model,
        weights=options["weights"],
        device=options["device"],
        precision=options["precision"],
        batch_size=options["batch_size"],
        key=options["key"] or "auto",
        similarity=_or(options["similarity"], chroma.DEFAULT_SIMILARITY),
        smoothness=_or(options["smoothness"], chroma.DEFAULT_SMOOTHNESS),
        smooth=options["smooth"],
        edges=options["edges"],
        keep=options["keep"],
        fill_holes=options["fill_holes"],
        grow_px=(options["grow"] or 0) - (options["shrink"] or 0),
        feather_px=options["feather"] or 0,
        despill=options["despill"],
        allow_damaged=options["allow_damaged"],
    )


def _was_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
