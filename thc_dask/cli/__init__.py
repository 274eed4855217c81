"""The command line: one sub-command a verb, each a thin door to the function of that name."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from thc_dask.cli import interrupts
from thc_dask.errors import RequestError, ThcError

if TYPE_CHECKING:
    import argparse  # an interrupt within it would not be heard

GC_OBJECTS = 50_000  # new objects from one look for rubbish to the next


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 wrong request, 130 or 143 told to end."""
    interrupts.leave_at_once()
    # The largest product of matrices here takes milliseconds, and less on one core than on two;
    # the threads that BLAS starts spin for 50 ms of CPU time. Dask gives its workers one as well.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What imports make stays for good: a command of a second should not look through it again and
    # again for rubbish, least of all at its end.
    gc.set_threshold(GC_OBJECTS, *gc.get_threshold()[1:])
    code = run(argv)
    if code:
        gc.collect()  # files that an error holds on to: HDF5 crashes if it is closed before them
    gc.freeze()
    interrupts.leave_with(code)
    sys.exit(code)


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; ``--help`` and wrong options exit at once."""
    from thc_dask.cli.arguments import build_parser

    command = "thc"
    try:
        args, unknown = build_parser().parse_known_args(argv)
        command = f"thc {args.command}"
        if unknown:
            raise RequestError(f"unknown: {' '.join(unknown)}; {command} --help shows how")
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)  # said to the user, never an error
            warnings.showwarning = partial(_warn, command)
            from thc_dask.cli import commands

            with interrupts.raised(), _logged(command), _on_cluster(args):
                getattr(commands, args.command)(args)
        print(end="", flush=True)  # errors of writing belong here, not to the exit of Python
    except (Exception, KeyboardInterrupt) as error:
        return _report(command, error)
    return 0


def _report(command: str, error: BaseException) -> int:
    """Print what ended a command as one line and return its exit code; bugs are raised again."""
    # Imports turn an interrupt into errors of their own.
    if isinstance(error, KeyboardInterrupt) or interrupts.came():
        number = interrupts.came() or signal.SIGINT
        print(f"{command}: {interrupts.SAID[number]}", file=sys.stderr)
        return interrupts.exit_code(number)
    if isinstance(error, ThcError):
        print(f"{command}: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        _give_up_output()  # the reader of a pipe has gone; that is its right
        return 0
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        text = " ".join(str(error.strerror or error).split())
        print(f"{command}: {what}{text}", file=sys.stderr)
        _give_up_output()
        return 1
    raise error


@contextmanager
def _logged(command: str) -> Iterator[None]:
    """Print what the package logs, of what is tried again, say, as warnings are."""
    import logging

    class Line(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _warn(command, record.getMessage())

    logger, line = logging.getLogger("thc_dask"), Line(logging.WARNING)
    logger.addHandler(line)
    try:
        yield
    finally:
        logger.removeHandler(line)


@contextmanager
def _on_cluster(args: argparse.Namespace) -> Iterator[None]:
    """Start the cluster that was asked for, and end it; there is none to plan something only."""
    spec = getattr(args, "on_cluster", None)
    if spec is None or getattr(args, "dry_run", False):
        yield
        return
    from thc_dask.cluster import running
    from thc_dask.cluster.logs import quiet
    from thc_dask.store import sight
    from thc_dask.store.location import locate

    with quiet(), running(spec):
        sight.see(locate(args.store))
        yield


def _give_up_output() -> None:
    """Send what is still to be printed nowhere: at exit Python would try again, and complain."""
    try:
        print(end="", flush=True)
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _warn(command: str, message: Warning | str, *_: Any) -> None:
    """Print a warning as errors are: one line."""
    print(f"{command}: warning: {message}", file=sys.stderr)
