"""Which command is run, what is printed, which exit code it comes to."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

import click

from vidbg.cli.main import EXIT_FAILED, EXIT_INTERRUPTED, INTERRUPTED, heed_signals
from vidbg.cli.streams import end_output, let_talk_be_lost
from vidbg.errors import Interrupted, as_ours

# A first word that is one of these is the command; a file of that name is written "./probe".
COMMANDS = {
    "eval": "vidbg.cli.eval:evaluate",
    "export": "vidbg.cli.export:export",
    "models": "vidbg.cli.models:models",
    "preview": "vidbg.cli.preview:preview",
    "probe": "vidbg.cli.probe:show",
    "train": "vidbg.cli.train:train",
}
_DEFAULT = "vidbg.cli.run:run"

# Where --json names a file to write, standard output is no stream of events.
_JSON_IS_A_FILE = {"eval"}

# How long a job has to clean up after a signal, undisturbed by the signals after it.
_UNWIND_S = 5.0
# How soon an interruption that was lost comes again.
_AGAIN_S = 0.05


def dispatch(arguments: list[str]) -> int:
    """Run a command and return its exit status: see :func:`vidbg.cli.main.main`.

    Args:
        arguments: Those of the command line, without the program's name.

    Raises:
        KeyboardInterrupt: A signal came when the command was over.
    """
    let_talk_be_lost()
    status = _run(arguments)
    error = end_output()
    if error is not None and status == 0:
        click.echo(f"vidbg: standard output: {error.strerror}", err=True)
        status = EXIT_FAILED
    return status


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments and arguments[0] in COMMANDS else None
    module_name, _, attribute = COMMANDS.get(name or "", _DEFAULT).partition(":")
    debug = "--debug" in arguments
    as_json = "--json" in arguments and name not in _JSON_IS_A_FILE
    try:
        _unwind_on_signals()
        command: click.Command = getattr(importlib.import_module(module_name), attribute)
        result = command.main(
            args=arguments[1:] if name else arguments,
            prog_name=f"vidbg {name}" if name else "vidbg",
            standalone_mode=False,
        )
    except click.ClickException as error:
        if as_json:
            _emit_error(error, error.format_message())
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        # click hands on an interruption as an Abort of its own.
        kept = error.__cause__ if isinstance(error, click.Abort) else error
        message = str(kept) if isinstance(kept, Interrupted) else INTERRUPTED
        if as_json:
            _emit_error(error, message)
        click.echo(f"vidbg: {message}", err=True)
        return EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            raise
        return _report(error, as_json)
    return result if isinstance(result, int) else 0


def _report(error: Exception, as_json: bool) -> int:
    """Say in one line what failed; as a JSON event too where that was asked for."""
    ours = as_ours(error)
    if as_json:
        path = None if ours.path is None else str(ours.path)
        _emit_error(error, ours.message, path, ours.hint)
    click.echo(printable(f"vidbg: {ours}"), err=True)
    return EXIT_FAILED


def printable(text: str) -> str:
    """Return a text in one line and without what a terminal takes for a command.

    Names may hold anything.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _emit_error(
    error: BaseException, message: str, path: str | None = None, hint: str | None = None
) -> None:
    """Print the JSON event of a failure."""
    event = {"event": "error", "message": message, "path": path, "hint": hint}
    with suppress(OSError):  # nobody reads it, which is not what failed
        click.echo(json.dumps(event | {"type": type(error).__name__}))


def _unwind_on_signals() -> None:
    """Let SIGTERM and SIGHUP end a job as Ctrl-C does: processes ended, part files removed.

    Impatient repeats do not cut that short. What is ignored stays so, as nohup wants it. Where
    Python can raise nothing, because it is clearing up an object, it is tried again.
    """
    undisturbed_until_s = 0.0

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal undisturbed_until_s
        now_s = time.monotonic()
        if now_s >= undisturbed_until_s:
            undisturbed_until_s = now_s + _UNWIND_S
            raise KeyboardInterrupt

    def try_again(lost: sys.UnraisableHookArgs) -> None:
        nonlocal undisturbed_until_s
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(lost)
            return
        undisturbed_until_s = 0.0
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)

    heed_signals(stop)
    if hasattr(signal, "setitimer"):
        sys.unraisablehook = try_again
