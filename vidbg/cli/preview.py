"""``vidbg preview INPUT``: a contact sheet of a few frames, in seconds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidbg.cli.matting import background_options, matting_fields, matting_options, was_given
from vidbg.cli.parameters import Time

if TYPE_CHECKING:
    from vidbg.job import Job

_SUFFIXES = (".png", ".jpg", ".jpeg")


class Settings(click.ParamType):  # type: ignore[type-arg]
    """Settings to compare: "smooth=0,smooth=0.8", several options of one joined by +."""

    name = "settings"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, dict[str, str]]:
        """Return options and their values, as text, by setting."""
        if isinstance(value, dict):
            return value
        settings: dict[str, dict[str, str]] = {}
        for word in str(value).split(","):
            pairs = [pair.partition("=") for pair in word.strip().split("+")]
            if not all(name and equals and text for name, equals, text in pairs):
                self.fail(f"{word!r}: write OPTION=VALUE, as in smooth=0,smooth=0.8", param, ctx)
            settings[word.strip()] = {name.strip("-"): text for name, _, text in pairs}
        return settings


@click.command(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--bg", metavar="SRC", help="Show the composite over this too, as in the main job.")
@click.option(
    "--at",
    "times",
    type=Time(),
    multiple=True,
    help="Show the frame at this time: seconds, or hh:mm:ss.ms. Repeatable. "
    "Default: four frames, evenly spread.",
)
@click.option(
    "--compare",
    metavar="A,B,...",
    type=Settings(),
    help="Settings to show side by side, such as smooth=0,smooth=0.8 or model=u2netp,model=u2net; "
    "several options of one are joined by +.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The sheet, .png or .jpg. Default: INPUT's name with .preview.png, beside it.",
)
@click.option("-y", "--overwrite", is_flag=True, help="Replace the sheet if it exists.")
@background_options
@matting_options
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless it fails.")
@click.option("--debug", is_flag=True, help="Show a traceback if it fails.")
def preview(**options: Any) -> None:
    """Show what vidbg makes of a few frames: source, matte, cut-out and composite side by side.

    Each frame is what the whole job would make of it; only those near it are decoded.
    """
    source: Path = options["source"]
    path: Path = options["output"] or source.with_name(f"{source.stem}.preview.png")
    if path.suffix.lower() not in _SUFFIXES:
        raise click.BadParameter("expected a name that ends in .png or .jpg", param_hint="-o")
    settings = _settings(options["compare"])
    if options["bg"] is None:
        for name in ("bg_fit", "bg_end", "bg_start"):
            if was_given(name) or any(name in changes for changes in settings.values()):
                raise click.UsageError(f"--{name.replace('_', '-')} is for --bg.")
    jobs = {caption: _job(source, path, options | changes) for caption, changes in settings.items()}
    from vidbg import preview as sheets
    from vidbg.cli.reporting import Reporter
    from vidbg.media.encode import check_writable
    from vidbg.whole import write_whole

    check_writable(path, source, options["overwrite"])
    first = next(iter(jobs.values()))
    with Reporter(first, as_json=False, quiet=options["quiet"], verbose=options["debug"]) as told:
        sheet = sheets.draw_sheet(jobs, options["times"], on_download=told.download)
    write_whole(path, sheets.as_file(sheet, path.suffix))
    if not options["quiet"]:
        click.echo(os.fsencode(path))


def _settings(compared: dict[str, dict[str, str]] | None) -> dict[str, dict[str, Any]]:
    """Return by caption the options that differ, their values checked as on the command line."""
    if compared is None:
        return {"": {}}
    ctx = click.get_current_context()
    own = {"source", "bg", "times", "compare", "output", "overwrite", "quiet", "debug"}
    known = {
        option.opts[0].removeprefix("--"): option
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name not in own
    }
    settings: dict[str, dict[str, Any]] = {}
    for caption, texts in compared.items():
        settings[caption] = {}
        for name, text in texts.items():
            option = known.get(name)
            if option is None or option.name is None:
                raise click.BadParameter(
                    f"{name!r} is none of {', '.join(sorted(known))}", param_hint="--compare"
                )
            settings[caption][option.name] = option.type_cast_value(ctx, text)
    return settings


def _job(source: Path, path: Path, options: dict[str, Any]) -> Job:
    """Return the job that options describe, all of them checked; it writes nothing."""
    from vidbg.job import Job, matte_job
    from vidbg.media import background, encode

    matting = matting_fields(options)
    if options["bg"] is None:
        return matte_job(source, **matting)
    try:
        backdrop = background.parse(options["bg"])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--bg") from error
    return Job(
        source=source,
        # The codec is that of the picture; what matters is that a background is not overwritten.
        output=encode.Output(path, "composite", "png"),
        background=backdrop,
        bg_fit=options["bg_fit"],
        bg_end=options["bg_end"],
        bg_start_s=options["bg_start"],
        **matting,
    )
