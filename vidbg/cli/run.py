"""The main command: ``vidbg INPUT --bg SRC``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidbg import __version__
from vidbg.cli import batch
from vidbg.cli.config import as_toml, settings_for
from vidbg.cli.matting import background_options, matting_fields, matting_options
from vidbg.cli.parameters import Time
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
  vidbg clips/ --bg beach.jpg -o out/           every video in a folder

\b
Other commands:
  vidbg models           networks, their sizes and licences, what is on disk
  vidbg preview INPUT    a few frames side by side, before the whole job
  vidbg probe INPUT      what vidbg understands of a file
  vidbg train DATA       a network from pictures of your own
  vidbg export FILE      a trained network for other programs (ONNX) or to hand on
  vidbg eval CLIP TRUTH  how good the mattes are, in the figures of the literature

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
@click.argument("sources", metavar="INPUT...", nargs=-1, type=click.Path(path_type=Path))
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
    help="The result; a folder for several INPUTs. Default: INPUT's name with .vidbg.mp4, beside "
    "it (.mov with --alpha).",
)
@click.option("-y", "--overwrite", is_flag=True, help="Replace the output if it exists.")
@background_options
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
@matting_options
@batch.batch_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for scripts.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless it fails.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option("--debug", is_flag=True, help="Show everything, and a traceback if it fails.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
@click.pass_context
def run(ctx: click.Context, /, sources: tuple[Path, ...], **options: Any) -> int:
    """Take the background out of a video and put another in its place.

    INPUT is a video or a picture, or a folder or several of them, of which every video is taken;
    one of --bg, --alpha and --matte says what to make of it.
    """
    settings = settings_for(ctx, sources)
    if options["print_config"]:
        click.echo(as_toml(settings, ctx.command))
        return 0
    if not sources:
        raise click.UsageError("Missing argument 'INPUT...'.")
    if batch.is_batch(sources, settings):
        return batch.run(sources, settings, lambda values: job_of(kind_of(values), values))
    options = {"source": sources[0], **settings.of_clip(Path(sources[0].name))}
    kind = kind_of(options)
    # Imported late: --help and wrong usage need neither OpenCV nor FFmpeg.
    from vidbg.cli.reporting import Reporter

    job = job_of(kind, options)
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
    return 0


def kind_of(options: dict[str, Any]) -> str:
    """Return what the options ask for: "composite", "alpha" or "matte"."""
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


def job_of(kind: str, options: dict[str, Any]) -> Job:
    """Return the job that the options describe, all of them checked."""
    from vidbg import pipeline
    from vidbg.errors import OutputError
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

    matting = matting_fields(options)
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
        **matting,
    )


def _was_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT
