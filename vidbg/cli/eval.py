"""``vidbg eval CLIP TRUTH``: how good the mattes are, in the figures of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidbg.cli.matting import matting_fields, matting_options, was_given

if TYPE_CHECKING:
    from vidbg.cli.reporting import Reporter
    from vidbg.evaluation.measure import Report
    from vidbg.job import Job

# Options that say something of mattes that exist already.
_WITH_A_MATTE = {
    "matte",
    "allow_damaged",
    "json_path",
    "html_path",
    "overwrite",
    "quiet",
    "debug",
}


@click.command(
    "eval",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("source", metavar="CLIP", type=click.Path(path_type=Path))
@click.argument("truth", metavar="[TRUTH]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--matte",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measure the mattes in this video or folder instead of making them.",
)
@matting_options
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write all figures, frame by frame.",
)
@click.option(
    "--html",
    "html_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write a report with curves and pictures of the worst frames.",
)
@click.option("-y", "--overwrite", is_flag=True, help="Replace these files if they exist.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but the figures.")
@click.option("--debug", is_flag=True, help="Show a traceback if it fails.")
def evaluate(source: Path, truth: Path | None, **options: Any) -> None:
    """Measure how good the mattes of a clip are.

    TRUTH is a video or a folder of numbered pictures, one for each frame: masks (binary) or
    alpha mattes; which of the two is seen from its values. Of masks, the figures are J and F as
    in DAVIS, MAE, max-F-beta and the S-measure; of alpha mattes, MAD, MSE, Grad, Conn and
    dtSSD in the scales of Robust Video Matting. Without TRUTH it is only measured how much the
    matte changes along the picture's motion.

    CLIP may be a folder of pictures too, and TRUTH one with masks of the same names: each is
    then measured by itself. The figures are those of mattes at frame size, as vidbg
    composites with them.
    """
    if options["matte"] is not None:
        for name in options:
            if name not in _WITH_A_MATTE and was_given(name):
                shown = name.replace("_", "-")
                raise click.UsageError(f"--{shown} has no effect on --matte, which exists already.")
    if source.is_dir() and not (truth is not None and truth.is_dir()):
        raise click.UsageError("Of a folder of pictures, TRUTH is a folder of masks.")
    if options["json_path"] is not None and options["json_path"] == options["html_path"]:
        raise click.UsageError("--json and --html name the same file.")
    fields = matting_fields(options)
    from vidbg.cli.reporting import Reporter
    from vidbg.evaluation import report as reports
    from vidbg.job import matte_job
    from vidbg.media.encode import check_writable
    from vidbg.whole import write_whole

    job = matte_job(source, **fields)
    written = {"json_path": reports.as_json, "html_path": reports.as_html}
    for name in written:
        if options[name] is not None:
            for given in (source, truth, options["matte"]):
                if given is not None:
                    check_writable(options[name], given, options["overwrite"])
    with Reporter(job, as_json=False, quiet=options["quiet"], verbose=options["debug"]) as reporter:
        report = _measured(job, truth, options["matte"], reporter)
    for name, render in written.items():
        if options[name] is not None:
            # Names may hold bytes that are no text.
            write_whole(options[name], render(report).encode("utf-8", "backslashreplace"))
    if not options["quiet"]:
        click.echo(reports.summary(report).encode("utf-8", "backslashreplace"), err=True)
    for line in reports.table(report):
        click.echo(line.encode("utf-8", "backslashreplace"))


def _measured(job: Job, truth: Path | None, matte: Path | None, reporter: Reporter) -> Report:
    """Measure a clip, or a folder of pictures."""
    from vidbg.evaluation import measure
    from vidbg.evaluation.mattes import matching

    if truth is None or not job.source.is_dir():
        return measure.evaluate_clip(
            job,
            truth,
            matte=matte,
            on_start=reporter.start,
            on_progress=reporter.progress,
            on_download=reporter.download,
        )
    truths = matching(job.source, truth)
    made = {} if matte is None else dict(matching(job.source, matte))
    return measure.evaluate_pictures(
        job,
        truth,
        [(picture, true, made.get(picture)) for picture, true in truths],
        on_progress=lambda count: reporter.pictures(count, len(truths)),
        on_download=reporter.download,
    )
