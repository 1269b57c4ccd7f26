"""``vidbg train``: a network from the user's own pictures."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from vidbg.cli.main import EXIT_INTERRUPTED
from vidbg.cli.parameters import Device
from vidbg.cli.reporting import clock, logging_to_stderr
from vidbg.matting.architectures import NAMES

if TYPE_CHECKING:
    import torch

    from vidbg.training.bank import Bank, Teacher
    from vidbg.training.datasets import Dataset
    from vidbg.training.loop import Recipe, Step

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 30.0


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """Picture sizes, one after another."""

    name = "sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the sizes in pixels."""
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        sizes = tuple(int(word) for word in words if word.strip().isdecimal())
        if len(sizes) != len(words) or any(px < 32 or px > 1024 or px % 32 for px in sizes):
            self.fail(
                f"{value!r}: write multiples of 32 up to 1024, such as 192,256,320", param, ctx
            )
        return sizes


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for checkpoints, log and curves.",
)
@click.option("--resume", is_flag=True, help="Go on with the training that the folder holds.")
@click.option(
    "--coco",
    type=click.Path(path_type=Path, dir_okay=False),
    help="COCO annotations (instances_*.json); needs --coco-images.",
)
@click.option(
    "--coco-images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the pictures that --coco is about.",
)
@click.option(
    "--category", default="person", show_default=True, help="What to cut out, for --coco."
)
@click.option("--teacher", help="Model that labels photos without masks (see vidbg models).")
@click.option(
    "--teacher-weights",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The teacher's checkpoint, if it is not to be downloaded.",
)
@click.option(
    "--arch",
    type=click.Choice(NAMES),
    default=NAMES[0],
    show_default=True,
    help="The network to train.",
)
@click.option(
    "--init",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Weights to start from. Default: random.",
)
@click.option(
    "--time-budget", type=click.FloatRange(min=0, min_open=True), help="Minutes to train."
)
@click.option("--steps", type=click.IntRange(min=1), help="Steps to train.")
@click.option(
    "--size",
    type=Sizes(),
    default="192,256,320",
    show_default=True,
    help="Picture sizes in pixels, each for an equal share of the training.",
)
@click.option("--batch-size", type=click.IntRange(2, 4096), default=16, show_default=True)
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    default=2e-3,
    show_default=True,
    help="Highest learning rate.",
)
@click.option(
    "--validate-every",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Steps between validations.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", type=Device(), default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="What the network computes in.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless it fails.")
@click.option("--debug", is_flag=True, help="Show a traceback if it fails.")
def train(**options: Any) -> int:
    """Train a network on the pictures in DATA, or in --coco.

    A folder with images/ and masks/ of matching names holds pairs; images/ alone, photos that
    a --teacher labels; clips/ and masks/, videos; cutouts/ and backgrounds/ are put together
    anew every time. DATA may hold such folders at any depth. One picture in ten is kept for
    validation.

    Ctrl-C leaves a checkpoint that --resume goes on from. The result is best.pt in the output
    folder: use it with --weights, or turn it into smaller files with "vidbg export".
    """
    _check(options)
    with ExitStack() as cleanup:
        cleanup.enter_context(
            logging_to_stderr(logging.ERROR if options["quiet"] else logging.INFO)
        )
        return _train(options, cleanup)


def _check(options: dict[str, Any]) -> None:
    if not options["data"] and options["coco"] is None:
        raise click.UsageError("Say what to learn from: DATA folders, or --coco.")
    if (options["coco"] is None) != (options["coco_images"] is None):
        raise click.UsageError("--coco and --coco-images go together.")
    if options["time_budget"] is None and options["steps"] is None:
        raise click.UsageError("Say how long: --time-budget MIN or --steps N.")
    if options["teacher_weights"] is not None and options["teacher"] is None:
        raise click.UsageError("--teacher-weights is for --teacher.")
    if options["teacher"] is not None:
        from vidbg.matting import weights

        known = weights.registry()
        if options["teacher"] not in known:
            raise click.BadParameter(
                f"{options['teacher']!r} is none of {', '.join(known)}", param_hint="--teacher"
            )
    from vidbg.training import CHECKPOINT

    has_checkpoint = (options["folder"] / CHECKPOINT).exists()
    if has_checkpoint and not options["resume"]:
        raise click.UsageError(
            f"{options['folder']} holds a training: go on with it by --resume, or choose another."
        )
    if options["resume"] and not has_checkpoint:
        raise click.UsageError(f"{options['folder']} holds no training to go on with.")
    if options["resume"] and options["init"] is not None:
        raise click.UsageError("--resume and --init exclude each other.")


def _train(options: dict[str, Any], cleanup: ExitStack) -> int:
    from vidbg.matting.segmenter import resolve_device
    from vidbg.training import BEST, bank, loop, record

    device = resolve_device(options["device"])
    bar = _Bar(quiet=options["quiet"])
    cleanup.callback(bar.close)
    record.require_curves()
    network = loop.starting_network(options["arch"], options["seed"], options["init"])
    recipe = loop.Recipe(
        architecture=options["arch"],
        sizes_px=options["size"],
        batch_size=options["batch_size"],
        steps=options["steps"],
        time_budget_s=None if options["time_budget"] is None else 60 * options["time_budget"],
        learning_rate=options["lr"],
        validate_every=options["validate_every"],
        seed=options["seed"],
        precision=loop.choose_precision(options["precision"], device),
    )
    folder: Path = options["folder"]
    # Before anything of it is made anew, which may take hours.
    loop.read_checkpoint(folder, recipe)
    teacher, teacher_id = _teacher(options, bar)
    pictures = bank.build(_datasets(options), folder / "pictures", teacher, teacher_id, bar.reading)
    if not len(pictures.select("pair", validation=True)):
        logger.warning("too few pairs to measure by: the last weights are kept, not the best")
    bar.begin(_summary(pictures, recipe, device))
    log = cleanup.enter_context(record.Log(folder))
    was_stopped = cleanup.enter_context(_stopping())
    steps = cleanup.enter_context(closing(loop.train(network, pictures, recipe, folder, device)))
    for step in steps:
        log.add(step)
        bar.step(step)
        if step.validation_iou is not None:
            _draw(folder)
        if was_stopped():
            steps.close()
            bar.close()
            logger.warning("stopped after step %d: go on with --resume", step.step)
            return EXIT_INTERRUPTED
    _draw(folder)
    bar.close()
    best = record.best_iou(folder)
    if best is not None:
        logger.info("best validation IoU %.3f", best)
    if not options["quiet"]:
        click.echo(os.fsencode(folder / BEST))
    return 0


def _draw(folder: Path) -> None:
    """Draw the curves; that they cannot be written ends no training."""
    from vidbg.errors import OutputError
    from vidbg.training import record

    try:
        record.draw(folder)
    except OutputError as error:
        logger.warning("%s", error)


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether a signal asked to stop, for between two steps.

    Within a step the state is no checkpoint. A second signal does not wait.
    """
    asked = False
    earlier: dict[int, Any] = {}

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signum, earlier[signum])

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            earlier[number] = signal.signal(number, stop)
    try:
        yield lambda: asked
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _datasets(options: dict[str, Any]) -> list[Dataset]:
    from vidbg.training import datasets

    found = [dataset for folder in options["data"] for dataset in datasets.find(folder)]
    if options["coco"] is not None:
        found.append(datasets.coco(options["coco"], options["coco_images"], options["category"]))
    return found


def _teacher(options: dict[str, Any], bar: _Bar) -> tuple[Teacher | None, str]:
    if options["teacher"] is None:
        return None, ""
    from vidbg.training.teacher import load_teacher

    return load_teacher(
        options["teacher"], options["teacher_weights"], options["device"], bar.download
    )


def _summary(pictures: Bank, recipe: Recipe, device: torch.device) -> str:
    from vidbg.training import bank, loop

    counts = [
        f"{len(pictures.select(kind))} {kind}s" for kind in bank.KINDS if len(pictures.select(kind))
    ]
    shown = f"{', '.join(counts)} on {device} in {recipe.precision}"
    teacher = loop.teacher_iou(pictures)
    return shown if teacher is None else f"{shown}; the teacher's validation IoU is {teacher:.3f}"


class _Bar:
    """A bar on a terminal, a line now and then elsewhere, both on standard error."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._has_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar: Any = None
        self._last_s = 0.0

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def download(self, had: int, total: int) -> None:
        """Show how far the download of the teacher's weights is."""
        self._show(had, total, "B", f"weights: {had / 1e6:.1f} of {total / 1e6:.1f} MB")

    def reading(self, had: int, total: int) -> None:
        """Show how far the reading (and labelling) of the pictures is."""
        self._show(had, total, "picture", f"read {had} of {total} pictures")

    def _show(self, had: int, total: int, unit: str, line: str) -> None:
        if self._quiet:
            return
        if not self._has_terminal:
            if self._is_due() or had == total:
                click.echo(line, err=True)
            return
        if self._bar is None or self._bar.unit != unit:
            self.close()
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=unit, unit_scale=unit == "B", dynamic_ncols=True)
        self._bar.update(had - self._bar.n)

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._last_s < _LINE_EVERY_S:
            return False
        self._last_s = now
        return True

    def begin(self, summary: str) -> None:
        """Say what is trained on."""
        self.close()
        if self._quiet:
            return
        click.echo(summary, err=True)
        if self._has_terminal:
            from tqdm import tqdm

            self._bar = tqdm(
                total=100.0,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% |{bar}| {postfix}",
            )

    def step(self, step: Step) -> None:
        """Show a step: loss, speed and time left; validations on lines of their own."""
        if self._quiet:
            return
        left_s = step.elapsed_s / step.done * (1.0 - step.done) if step.done else 0.0
        rate = step.pictures / step.elapsed_s if step.elapsed_s else 0.0
        line = (
            f"step {step.step}, {step.pictures} pictures, loss {step.loss:.3f}, "
            f"{rate:.0f} pictures/s, {clock(left_s)} left"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(line, refresh=False)
            self._bar.update(100.0 * step.done - self._bar.n)
        elif self._is_due():
            click.echo(line, err=True)
        measured = []
        if step.validation_iou is not None:
            measured.append(f"validation IoU {step.validation_iou:.3f}")
        if step.empty_alpha is not None:
            measured.append(f"mean alpha of empty scenes {step.empty_alpha:.3f}")
        if measured:
            logger.info("step %d: %s", step.step, ", ".join(measured))
