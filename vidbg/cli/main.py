"""The entry point: which command, what is printed, which exit code."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import click

from vidbg.cli.streams import end_output, let_talk_be_lost
from vidbg.errors import Interrupted, VidbgError

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

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

# The last is sent by ourselves.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
# How long a job has to clean up after a signal, undisturbed by the signals after it.
_UNWIND_S = 5.0
# How soon an interruption that was lost comes again.
_AGAIN_S = 0.05


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 the job failed, 2 wrong usage, 130 interrupted.

    Args:
        argv: Arguments without the program's name; None for the process's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    let_talk_be_lost()
    status = _dispatch(arguments)
    error = end_output()
    if error is not None and status == 0:
        click.echo(f"vidbg: standard output: {error.strerror}", err=True)
        status = EXIT_FAILED
    _heed_signals(signal.SIG_IGN)  # the interpreter's own end is soon over, and no job
    sys.exit(status)


def _dispatch(arguments: list[str]) -> int:
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
        message = str(kept) if isinstance(kept, Interrupted) else "interrupted, nothing was written"
        if as_json:
            _emit_error(error, message)
        click.echo(f"vidbg: {message}", err=True)
        return EXIT_INTERRUPTED
    except VidbgError as error:
        if debug:
            raise
        return _report(error, as_json)
    except MemoryError as error:
        if debug:
            raise
        return _report(VidbgError("out of memory", hint="Try --batch-size 1"), as_json, error)
    except OSError as error:
        if debug:
            raise
        refused = VidbgError(error.strerror or str(error), path=error.filename)
        return _report(refused, as_json, error)
    except Exception as error:
        if debug:
            raise
        unexpected = VidbgError(
            f"unexpected {type(error).__name__}: {error}", hint="Run with --debug for details"
        )
        return _report(unexpected, as_json, error)
    return result if isinstance(result, int) else 0


def _report(error: VidbgError, as_json: bool, cause: BaseException | None = None) -> int:
    """Say in one line what failed; as a JSON event too where that was asked for."""
    if as_json:
        path = None if error.path is None else str(error.path)
        _emit_error(cause or error, error.message, path, error.hint)
    click.echo(printable(f"vidbg: {error}"), err=True)
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

    _heed_signals(stop)
    if hasattr(signal, "setitimer"):
        sys.unraisablehook = try_again


def _heed_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Handle the signals that end a job, but for those that were ignored before."""
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
