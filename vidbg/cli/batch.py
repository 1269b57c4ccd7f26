"""A folder of clips, or several: the options, and which jobs they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vidbg.cli import profiling
from vidbg.cli.config import NAME, Settings, matches
from vidbg.cli.main import EXIT_FAILED, EXIT_INTERRUPTED
from vidbg.profile import Meter, stage

if TYPE_CHECKING:
    from vidbg.batch import Task
    from vidbg.discover import Source
    from vidbg.job import Job
    from vidbg.ledger import Ledger

    MakeJob = Callable[[dict[str, Any]], Job]

Command = TypeVar("Command", bound=Callable[..., Any])

_MOST_JOBS = 64
# Where results go, by parameter.
_FOLDERS = {"output": "-o", "alpha_out": "--alpha-out", "matte_out": "--matte-out"}
# From so many cores up another job finds some that one leaves idle.
_CORES_PER_JOB = 4


class Jobs(click.ParamType):  # type: ignore[type-arg]
    """How many clips at once: a number, or "auto"."""

    name = "jobs"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, once it is known to be one of the two."""
        if value != "auto" and not (
            str(value).isdecimal() and str(value).isascii() and 1 <= int(value) <= _MOST_JOBS
        ):
            self.fail(f"{value!r} is neither auto nor a number from 1 to {_MOST_JOBS}", param, ctx)
        return str(value)


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--bg-dir",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Folder of backgrounds, each for the clip of the same name: clip1.jpg for clip1.mp4.",
    ),
    click.option("--recursive", is_flag=True, help="Folders: take the clips of sub-folders too."),
    click.option(
        "--jobs",
        type=Jobs(),
        metavar="N",
        default="1",
        show_default=True,
        help="Several clips: so many at once, as far as memory holds them; or auto.",
    ),
    click.option(
        "--force", is_flag=True, help="Several clips: do what is finished already once more."
    ),
    click.option(
        "--watch", is_flag=True, help="Keep looking for clips that arrive in the folder, to Ctrl-C."
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"Settings from this file. Default: {NAME} in INPUT, if it is a folder.",
    ),
    click.option(
        "--print-config", is_flag=True, help="Print all settings in the form of such a file."
    ),
)


def batch_options(command: Command) -> Command:
    """Give a command the options for many clips."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def is_batch(inputs: Sequence[Path], settings: Settings) -> bool:
    """Say whether there may be more than one clip to work on.

    Args:
        inputs: The INPUTs.
        settings: What is set. That a folder's file asks to watch it makes one clip no batch.
    """
    wants_many = any(settings.given.get(name) for name in ("force", "watch"))
    pairs = settings.common()["bg_dir"] is not None
    from vidbg.media.sequence import is_sequence

    is_folder = inputs[0].is_dir() and not is_sequence(inputs[0])
    return len(inputs) > 1 or wants_many or pairs or is_folder


def run(inputs: Sequence[Path], settings: Settings, make_job: MakeJob) -> int:
    """Do all clips and return the exit code.

    Args:
        inputs: Files and folders.
        settings: Of all clips and of single ones.
        make_job: Returns the job that the values of all options describe.

    Raises:
        VidbgError: There is nothing to do, or nothing can be done.
        click.UsageError: The options of a clip do not go together.
    """
    options = settings.common()
    _check(inputs, options)
    meter = None
    if options["profile"]:
        meter = click.get_current_context().with_resource(Meter())
    with stage("start-up"):
        from vidbg import batch, machine
        from vidbg.cli.overview import Overview
        from vidbg.errors import InputError
        from vidbg.ledger import Ledger
        from vidbg.watch import Arrivals

    wanted = options["jobs"]
    jobs = max(1, machine.cores() // _CORES_PER_JOB) if wanted == "auto" else int(wanted)
    overview = Overview(
        as_json=options["as_json"],
        quiet=options["quiet"],
        verbose=options["verbose"] or options["debug"],
    )
    with ExitStack() as cleanup:
        cleanup.enter_context(overview)
        sources = [] if options["watch"] else _sources(inputs, settings)
        if not sources and not options["watch"]:
            hint = None if options["recursive"] else "Sub-folders are looked into with --recursive"
            raise InputError("there is no video in it", path=inputs[0], hint=hint)
        overview.expect(len(sources))
        if settings.path is not None:
            overview.say(f"settings from {settings.path}")
        # Every clip's options are looked at before a folder is made.
        planner = _Planner(settings, make_job, is_strict=not options["watch"])
        tasks = planner.tasks(sources)
        _check_background(options, tasks)
        if not options["watch"]:
            planner.check_globs(sources)
        roots = {task.root for task in tasks if task.job is not None}
        if options["watch"]:
            homes = inputs if options["output"] is None else [options["output"]]
            roots = {Path(os.path.realpath(home)) for home in homes}
        ledgers: dict[Path, Ledger] = {}
        for root in sorted(roots):
            root.mkdir(parents=True, exist_ok=True)
            ledgers[root] = cleanup.enter_context(Ledger(root))
        arrivals = None
        if options["watch"]:
            watched = Arrivals(lambda: (s.path for s in _sources(inputs, settings, is_sure=False)))
            overview.say(f"watching {', '.join(map(str, inputs))}; Ctrl-C ends it")

            def arrivals() -> Iterable[Task]:
                paths = set(watched())
                if not paths:
                    return []
                every = _sources(inputs, settings, is_sure=False)
                arrived = planner.tasks(source for source in every if source.path in paths)
                overview.expect(len(arrived))
                return arrived

        def finish(*, is_interrupted: bool) -> None:
            told = None if meter is None else profiling.told(meter, options, is_batch=True)
            overview.finish(is_interrupted=is_interrupted, profile=told)

        try:
            batch.process(
                tasks,
                ledgers,
                overview.show,
                jobs=jobs,
                force=options["force"],
                arrivals=arrivals,
            )
        except KeyboardInterrupt:
            finish(is_interrupted=True)
            # It is how watching ends.
            if not options["watch"] or overview.was_cut_short:
                return EXIT_INTERRUPTED
        else:
            finish(is_interrupted=False)
        return EXIT_FAILED if overview.has_failures else 0


def _check(inputs: Sequence[Path], options: dict[str, Any]) -> None:
    """Refuse what one clip can have and several cannot."""
    from vidbg.media import spool

    for name in _FOLDERS:
        _check_folder(name, options[name])
    if options["matte_in"] is not None:
        raise click.UsageError(f"--matte-in is for one clip. In {NAME} each can have its own.")
    if options["bg"] is not None and spool.is_url(options["bg"]):
        raise click.UsageError("A background from a URL is for one clip: download it first.")
    if options["allow_playlists"]:
        raise click.UsageError("--allow-playlists is for one clip: join the files of each first.")
    if options["bg"] is not None and options["bg_dir"] is not None:
        raise click.UsageError("Choose one: --bg or --bg-dir.")
    if options["watch"] and not all(path.is_dir() for path in inputs):
        raise click.UsageError("--watch is for folders.")


def _check_folder(name: str, folder: Path | None) -> None:
    """Raise :class:`click.BadParameter` if an output is named as a file is, for several clips."""
    from vidbg.media.formats import CONTAINERS

    if folder is None:
        return
    is_file = folder.exists() and not folder.is_dir()
    if is_file or (not folder.exists() and folder.suffix.lower() in CONTAINERS):
        raise click.BadParameter("for several clips it is a folder", param_hint=_FOLDERS[name])


def _check_background(options: dict[str, Any], tasks: Sequence[Task]) -> None:
    """Raise :class:`InputError` if a background that clips have in common is not there."""
    from vidbg.errors import InputError
    from vidbg.media.sequence import find_sequence, is_sequence

    if options["bg"] is None:
        return
    path = Path(options["bg"])
    if all(task.job is None or task.job.background != path for task in tasks):
        return
    if is_sequence(path):
        find_sequence(path)
    elif not path.exists():
        raise InputError(
            "no such file, nor a colour",
            path=path,
            hint="Colours are #rrggbb, red,green,blue or a CSS name",
        )


def _sources(inputs: Sequence[Path], settings: Settings, *, is_sure: bool = True) -> list[Source]:
    """Return the clips that there are; files that may be, where the looker decides."""
    from vidbg import discover

    options = settings.common()
    names = ("bg", "bg_dir", "config", "alpha_out", "matte_out", "matte_in")
    layers = [options, *(values for _, values in settings.clips)]
    found = (values.get(name) for values in layers for name in names)
    left_out = [Path(path) for path in found if path is not None]
    return discover.sources_in(
        inputs,
        options["output"],
        recursive=options["recursive"],
        left_out=left_out,
        is_sure=is_sure,
    )


class _Planner:
    """Makes tasks of clips, and remembers whose the names of results are."""

    def __init__(self, settings: Settings, make_job: MakeJob, *, is_strict: bool) -> None:
        self._settings = settings
        self._make_job = make_job
        self._is_strict = is_strict
        self._known: set[Path] = set()
        self._taken: dict[str, str] = {}
        self._earlier: dict[str, list[Path]] = {}

    def _learn(self, folder: Path) -> None:
        """Take note of what results in a folder are called, and whose they are."""
        from vidbg import ledger
        from vidbg.discover import clip_key, name_key

        if folder in self._known:
            return
        self._known.add(folder)
        for entry in ledger.read(folder).values():
            place = ledger.place_of(entry.output)
            if entry.source.exists() and place.exists():
                self._taken.setdefault(name_key(place), clip_key(entry.source))
                self._earlier.setdefault(clip_key(entry.source), []).append(place)

    def tasks(self, sources: Iterable[Source]) -> list[Task]:
        """Return what is to be done with each clip."""
        from vidbg.discover import clip_key, name_key

        sources = list(sources)
        for source in sources:
            self._learn(source.folder)
        for source in sources:  # what is read by one job is written by none
            self._taken[name_key(source.path)] = clip_key(source.path)
        return [self._task(source) for source in sources]

    def _task(self, source: Source) -> Task:
        from vidbg.batch import Task
        from vidbg.errors import VidbgError

        try:
            return Task(source.path, source.root, source.folder, self._job(source))
        except click.UsageError as error:
            if self._is_strict:
                raise
            problem = VidbgError(error.format_message(), path=source.path)
        except VidbgError as error:
            problem = error
        except OSError as error:  # a name that is too long with our ending
            problem = VidbgError(error.strerror or str(error), path=source.path)
        return Task(source.path, source.root, source.folder, problem=problem)

    def _job(self, source: Source) -> Job:
        """Return what is to be done with a clip.

        Raises:
            VidbgError: It has no background.
            OSError: The name of its result cannot be.
            click.UsageError: Its options do not go together.
        """
        import logging

        from vidbg import ledger
        from vidbg.discover import partner
        from vidbg.media.probe import check_readable
        from vidbg.media.sequence import is_sequence

        if not is_sequence(source.path):
            check_readable(source.path)
        options = self._settings.of_clip(source.place / source.path.name)
        if options["bg_dir"] is not None:
            behind = partner(source.path, source.place, options["bg_dir"])
            options["bg"] = str(behind.absolute())
        for kind in ("alpha", "matte"):
            if options[f"{kind}_out"] is not None:
                _check_folder(f"{kind}_out", options[f"{kind}_out"])
                home = options["output"]
                place = source.place if home is None else source.folder.relative_to(home)
                folder = options[f"{kind}_out"] / place
                options[f"{kind}_out"] = self._beside(source, kind, folder)
        # What it is called by itself, beside its clip: a file, or a folder and the files in it.
        job = self._make_job(options | {"source": source.path, "output": None})
        own = ledger.place_of(job.output.path)
        plain = source.folder / own.name
        place = self._named(plain, source, ".vidbg")
        if place.name != plain.name:
            logging.getLogger(__name__).info(
                "%s: becomes %s, as %s is another's", source.path, place.name, plain.name
            )
        output = place / job.output.path.relative_to(own)
        return self._make_job(options | {"source": source.path, "output": output})

    def _beside(self, source: Source, kind: str, folder: Path) -> Path:
        """Return what a clip's foreground or matte is called in a folder."""
        from vidbg.media import encode

        named = encode.default_path(source.path, kind).name
        stem, mark, suffix = named.rpartition(".vidbg")
        plain = folder / f"{stem}.{kind}{mark}{suffix}"
        self._learn(folder)
        return self._named(plain, source, f".{kind}.vidbg")

    def _named(self, plain: Path, source: Source, mark: str) -> Path:
        """Return what a result is called that would be ``plain``, and note whose name that is."""
        from vidbg.discover import clip_key, name_key, result_path

        key = clip_key(source.path)
        earlier = self._earlier.get(key, ())
        place = result_path(plain, source.path, self._taken, earlier, mark=mark)
        self._taken[name_key(place)] = key
        return place

    def check_globs(self, sources: Iterable[Source]) -> None:
        """Warn of globs in the settings that mean no clip: they are mistyped, as a rule."""
        import logging

        names = [source.place / source.path.name for source in sources]
        for glob, _ in self._settings.clips:
            if not any(matches(name, glob) for name in names):
                logging.getLogger(__name__).warning(
                    '%s: [clips."%s"] means no clip', self._settings.path, glob
                )
