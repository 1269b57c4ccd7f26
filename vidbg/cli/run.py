"""The main command: ``vidbg INPUT --bg SRC``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidbg import __version__
from vidbg.cli import batch, profiling
from vidbg.cli.config import as_toml, settings_for
from vidbg.cli.matting import background_options, matting_fields, matting_options, was_given
from vidbg.cli.parameters import BitRate, FolderPath, OutputPath, Rate, Size, Time
from vidbg.media.formats import CONTAINERS, HARDWARE, VIDEO_CODECS
from vidbg.profile import Meter, stage

if TYPE_CHECKING:
    from vidbg.job import Job
    from vidbg.media.encode import Output

_EXTENSIONS = " ".join(dict.fromkeys(CONTAINERS))
_FORMATS = tuple(suffix[1:] for suffix in CONTAINERS)

_EPILOG = f"""\b
Examples:
  vidbg talk.mp4 --bg beach.mp4                 another video behind the subject
  vidbg talk.mp4 --bg office.jpg -o out.mp4     a picture
  vidbg talk.mp4 --bg blur                      its own background, blurred
  vidbg talk.mp4 --alpha                        transparent ProRes 4444 for an editor
  vidbg talk.mp4 --alpha -o frames/             the same as numbered PNG files
  vidbg talk.mp4 --bg beach.mp4 --matte-out matte.mkv    the matte too, in one go
  vidbg studio.mp4 --bg beach.mp4 --model chroma    keyed from a green or blue screen
  vidbg clips/ --bg beach.jpg -o out/           every video in a folder
  vidbg frames/ --bg beach.mp4 --in-fps 24      numbered pictures
  curl ... | vidbg - --bg beach.mp4 -o out.mp4  standard input

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
@click.argument("sources", metavar="INPUT...", nargs=-1)
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
    type=OutputPath(),
    help="The result: a file, or for numbered PNG files a folder or name_%06d.png; for several "
    "INPUTs a folder. Default: INPUT's name with .vidbg.mp4, beside it (.mov with --alpha).",
)
@click.option(
    "--format",
    "container",
    type=click.Choice(_FORMATS),
    help="File format, whatever the name says. png of a video is a folder of numbered files.",
)
@click.option("--zip", "as_zip", is_flag=True, help="Numbered PNG files in one .zip archive.")
@click.option(
    "--alpha-out",
    metavar="PATH",
    type=OutputPath(),
    help="Write the subject with transparency too, from the same run.",
)
@click.option(
    "--matte-out",
    metavar="PATH",
    type=OutputPath(),
    help="Write the matte too, from the same run.",
)
@click.option("-y", "--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option(
    "--allow-url",
    is_flag=True,
    help="INPUT and SRC may be http or https URLs: they are downloaded first.",
)
@click.option(
    "--allow-playlists",
    is_flag=True,
    help="INPUT and SRC may be HLS playlists (.m3u8) of files that lie in their folders: they are "
    "joined first.",
)
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
    "--codec",
    type=click.Choice(VIDEO_CODECS),
    help="Video codec. Default: H.264 in .mp4, which has 8 bits: HDR becomes SDR.",
)
@click.option("--crf", type=int, help="Quality; lower is better and larger. H.264: 19.")
@click.option("--bitrate", metavar="RATE", type=BitRate(), help="Bits a second (8M) instead.")
@click.option("--preset", help="Encoder speed, slower is smaller. H.264: veryfast.")
@click.option(
    "--matte-in",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Mattes that are ready, in place of a network: a video, a picture or numbered pictures, "
    "with a frame for each of INPUT's. White, or opaque, is the subject.",
)
@click.option(
    "--pix-fmt",
    metavar="NAME",
    help="How pixels are stored, in FFmpeg's name: yuv422p10le. Default: what fits codec and clip.",
)
@click.option(
    "--hwaccel",
    metavar="NAME",
    type=click.Choice(["none", "auto", *HARDWARE]),
    default="none",
    show_default=True,
    help="Encode by hardware: auto for the codec's first that works, or one such as h264_nvenc, "
    "hevc_videotoolbox, h264_qsv.",
)
@click.option(
    "--scale", metavar="WxH", type=Size(), help="Size of the outputs; -1 keeps the shape: 1280x-1."
)
@click.option(
    "--fps", metavar="R", type=Rate(), help="Frames a second of the outputs: 25, 30000/1001."
)
@click.option(
    "--premultiplied",
    is_flag=True,
    help="Transparent outputs: multiply colours by alpha. Default: straight.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Work in segments that outlive a crash or Ctrl-C; given again, go on after those.",
)
@matting_options
@batch.batch_options
@click.option(
    "--profile",
    is_flag=True,
    help="Say at the end where the time went: stage by stage, which one was slowest, and what "
    "makes it faster.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for scripts.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless it fails.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option("--debug", is_flag=True, help="Show everything, and a traceback if it fails.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
@click.pass_context
def run(ctx: click.Context, /, sources: tuple[str, ...], **options: Any) -> int:
    """Take the background out of a video and put another in its place.

    INPUT is a video, a picture, or numbered pictures (a directory of them, or a pattern such as
    frames/%05d.png), or a folder or several of them, of which every video is taken; one of --bg,
    --alpha and --matte says what to make of it. With - it comes from standard input: it is stored
    beside the result (or in TMPDIR) while the job runs, since a video is read more than once. The
    same goes for a URL with --allow-url.
    """
    inputs = _inputs(sources)
    settings = settings_for(ctx, inputs)
    if options["print_config"]:
        click.echo(as_toml(settings, ctx.command))
        return 0
    if not sources:
        raise click.UsageError("Missing argument 'INPUT...'.")
    is_stored = not _is_path(sources[0])
    if is_stored:
        for name in ("watch", "bg_dir"):
            if settings.given.get(name):
                raise click.UsageError(f"--{name.replace('_', '-')} is for folders and files.")
    if not is_stored and batch.is_batch(inputs, settings):
        return batch.run(inputs, settings, lambda values: job_of(kind_of(values), values))
    source = sources[0] if is_stored else str(inputs[0])
    options = {"source": source, **settings.of_clip(Path(inputs[0].name))}
    kind = kind_of(options)
    meter = ctx.with_resource(Meter()) if options["profile"] else None
    # Imported late: --help and wrong usage need neither OpenCV nor FFmpeg.
    with stage("start-up"):
        from vidbg.cli.reporting import Reporter

        _check_urls(options)
        job = job_of(kind, options)
        from vidbg import pipeline

    reporter = Reporter(
        job,
        as_json=options["as_json"],
        quiet=options["quiet"],
        verbose=options["verbose"] or options["debug"],
    )
    with reporter, _as_files(job, options) as stored:
        result = pipeline.run(
            stored,
            on_start=reporter.start,
            on_progress=reporter.progress,
            on_download=reporter.download,
        )
        reporter.done(result, None if meter is None else profiling.told(meter, options))
    return 0


def _inputs(sources: tuple[str, ...]) -> list[Path]:
    """Return the INPUTs as paths, patterns that the shell left alone resolved."""
    from vidbg.media.inputs import expand

    others = [source for source in sources if not _is_path(source)]
    if others and len(sources) > 1:
        raise click.UsageError(f"{others[0]} goes alone, not with other INPUTs.")
    return [Path(source) for source in others] or expand(sources)


def _is_path(source: str) -> bool:
    """Say whether an INPUT is neither standard input nor a URL."""
    from vidbg.media import spool

    return source != "-" and not spool.is_url(source)


def _is_stored(options: dict[str, Any]) -> bool:
    """Say whether INPUT or the background is no one file, and has to be stored as such."""
    from vidbg.media import spool

    return (
        not _is_path(options["source"])
        or spool.is_url(options["bg"] or "")
        or any(_playlist(options, name) for name in ("source", "bg"))
    )


def _playlist(options: dict[str, Any], name: str) -> Path | None:
    """Return INPUT or the background if it is a playlist that may be followed, else None."""
    from vidbg.media import spool

    if not options["allow_playlists"] or options[name] is None:
        return None
    path = Path(options[name])
    return path if spool.is_playlist(path) else None


def _check_urls(options: dict[str, Any]) -> None:
    """Refuse what cannot be stored, before anything is."""
    from vidbg.media import spool

    source = options["source"]
    for text in (source, options["bg"]):
        if text is None or not spool.is_url(text):
            continue
        if not options["allow_url"]:
            raise click.UsageError(f"{text} is a URL: add --allow-url to have it downloaded.")
        if not text.lower().startswith(("http://", "https://")):
            raise click.UsageError(f"{text}: URLs are of http or https.")
    # Each run stores them anew, and cannot know that they are the same.
    if options["resume"] and _is_stored(options):
        raise click.UsageError(
            "--resume is for files: store standard input, URLs and playlists as such."
        )
    if options["output"] is None and not _is_path(source):
        raise click.UsageError(f"Say with -o what to write: {source} has no folder.")
    if source == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError("Standard input is a terminal, not a video.")


@contextmanager
def _as_files(job: Job, options: dict[str, Any]) -> Iterator[Job]:
    """Give the job with standard input, URLs and playlists as files, which are removed again."""
    from vidbg.media import encode, pngs, spool

    source, behind = options["source"], options["bg"]
    if _is_stored(options):
        for output in job.outputs:
            check = pngs.check_writable if output.is_sequence else encode.check_writable
            check(output.path, job.source, output.overwrite)
    folder = job.output.path.parent
    if job.output.is_sequence and not folder.is_dir():  # it is made when the pictures are there
        folder = folder.parent
    with ExitStack() as stored:
        if source == "-":
            pipe = stored.enter_context(open(sys.stdin.fileno(), "rb", closefd=False))
            job = replace(job, source=stored.enter_context(spool.from_pipe(pipe, folder)))
        elif spool.is_url(source):
            job = replace(job, source=stored.enter_context(spool.from_url(source, folder)))
        if spool.is_url(behind or ""):
            job = replace(job, background=stored.enter_context(spool.from_url(behind, folder)))
        if (playlist := _playlist(options, "source")) is not None:
            job = replace(job, source=stored.enter_context(spool.from_playlist(playlist, folder)))
        if (playlist := _playlist(options, "bg")) is not None:
            joined = stored.enter_context(spool.from_playlist(playlist, folder))
            job = replace(job, background=joined)
        yield job


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
    from vidbg.errors import OutputError
    from vidbg.job import Job
    from vidbg.media import background, encode

    source = Path(options["source"])
    container = _container(options)
    wanted = options["codec"]
    if wanted is None and options["hwaccel"] not in ("none", "auto"):
        wanted = options["hwaccel"].partition("_")[0]
    path = encode.default_path(source, kind, wanted, container)
    if options["output"] is not None:
        path = _file(options["output"], source, container)
    output = encode.Output(
        path=path,
        kind=kind,
        codec=_codec(path, kind, wanted, source, "-o", container),
        crf=options["crf"],
        preset=options["preset"],
        sound=options["audio"],
        overwrite=options["overwrite"],
        container=container,
        bitrate=options["bitrate"],
        pix_fmt=options["pix_fmt"],
        hwaccel=options["hwaccel"],
        scale=options["scale"],
        frame_rate=options["fps"],
    )
    # The background's sound belongs to the composite; an editor puts it in with the background.
    own_sound = "source" if options["audio"] in ("source", "mix") else "none"
    also = []
    for other in ("alpha", "matte"):
        given = options[f"{other}_out"]
        if given is not None:
            beside = _file(given, source, None)
            chosen = _codec(beside, other, None, source, f"--{other}-out", None)
            also.append(
                encode.Output(
                    path=beside,
                    kind=other,
                    codec=chosen,
                    sound=own_sound,
                    overwrite=options["overwrite"],
                    scale=options["scale"],
                    frame_rate=options["fps"],
                )
            )
    outputs = _premultiplied([output, *also]) if options["premultiplied"] else [output, *also]
    for one in outputs:
        problem = encode.problem(one)
        if problem is not None:
            raise click.BadParameter(problem[1], param_hint=f"--{problem[0].replace('_', '-')}")
    try:
        encode.check_distinct(outputs)
    except OutputError as error:
        raise click.UsageError(str(error)) from error
    if options["end"] is not None and options["end"] <= (options["start"] or 0):
        raise click.BadParameter("it has to come after --start", param_hint="--end")

    matting = matting_fields(options)
    if options["in_fps"] is not None:
        from vidbg.media.sequence import is_sequence

        given = (source, options["bg"])
        if not any(is_sequence(Path(path)) for path in given if path is not None):
            raise click.UsageError("--in-fps is for picture sequences.")
    if options["matte_in"] is not None and was_given("matte_in"):
        for name in ("model", "weights", "device", "precision", "looks", "every"):
            if was_given(name):
                raise click.UsageError(f"--{name} has no effect on --matte-in, which is ready.")
    backdrop = None
    if kind != "composite":
        for name in ("bg_fit", "bg_end", "bg_start"):
            if was_given(name):
                raise click.UsageError(f"--{name.replace('_', '-')} is for --bg.")
        if options["audio"] in ("bg", "mix"):
            raise click.UsageError(f"--audio {options['audio']} is for --bg.")
    else:
        try:
            backdrop = background.parse(options["bg"])
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--bg") from error
    return Job(
        source=source,
        output=outputs[0],
        also=tuple(outputs[1:]),
        background=backdrop,
        bg_fit=options["bg_fit"],
        bg_end=options["bg_end"],
        bg_start_s=options["bg_start"],
        start_s=options["start"],
        end_s=options["end"],
        matte_in=options["matte_in"],
        resume=options["resume"],
        **matting,
    )


def _container(options: dict[str, Any]) -> str | None:
    """Return the extension of the file format that is asked for besides the name's, or None."""
    chosen: str | None = options["container"]
    if not options["as_zip"]:
        return None if chosen is None else f".{chosen}"
    if chosen not in (None, "png", "zip"):
        raise click.UsageError(f"--zip is for numbered PNG files, not for --format {chosen}.")
    if options["output"] is not None and options["output"].suffix.lower() != ".zip":
        raise click.BadParameter("--zip makes one file, NAME.zip", param_hint="-o")
    return ".zip"


def _file(given: Path, source: Path, container: str | None) -> Path:
    """Return what is written for an output's name: of a folder, the files in it."""
    from vidbg.media import pngs
    from vidbg.media.formats import IMAGE_SUFFIXES
    from vidbg.media.sequence import is_sequence

    is_still = source.suffix.lower() in IMAGE_SUFFIXES and not is_sequence(source)
    if is_still or pngs.is_pattern(given):
        return given
    names_folder = given.is_dir() or isinstance(given, FolderPath)
    if names_folder or (container == ".png" and not given.suffix):
        # Names with a dash in front look like options.
        stem = given.name if str(source) == "-" else source.stem
        return pngs.pattern_in(Path(given), stem)
    return given


def _premultiplied(outputs: list[Output]) -> list[Output]:
    """Return outputs with the transparent ones premultiplied, of which there has to be one."""
    if all(output.kind != "alpha" for output in outputs):
        raise click.UsageError("--premultiplied is for --alpha.")
    return [replace(output, premultiplied=output.kind == "alpha") for output in outputs]


def _codec(
    path: Path, kind: str, wanted: str | None, source: Path, option: str, container: str | None
) -> str:
    """Return the codec of an output, once it is known that there can be one."""
    from vidbg.errors import OutputError
    from vidbg.media import encode

    try:
        codec = encode.choose_codec(path, kind, wanted, container)
    except OutputError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
    if path.exists() and source.exists() and path.samefile(source):
        raise click.BadParameter("the output is the input itself", param_hint=option)
    return codec
