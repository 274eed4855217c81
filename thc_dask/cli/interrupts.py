"""Ctrl-C: one line and exit code 130, at whatever moment it comes.

Python's own answer is an exception wherever the program happens to be. Within an import, or in a
function that the interpreter calls by itself, it is printed with a traceback, lost, or turned into
another error.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_CODE = 130
LATER_S = 0.01

_came = False


def leave_at_once() -> None:
    """From here on nothing has been begun: an interrupt says so and ends the process."""
    if _heard():
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def raised() -> Iterator[None]:
    """Within, work is done: an interrupt is raised, so that what was begun is put away."""
    global _came
    _came = False
    try:
        before = signal.signal(signal.SIGINT, _raise) if _heard() else None
    except ValueError:  # not the main thread, which alone hears signals
        before = None
    hook = sys.unraisablehook

    def again(found: sys.UnraisableHookArgs) -> None:
        if not isinstance(found.exc_value, KeyboardInterrupt):
            hook(found)
            return
        # The interrupt came where nothing can be raised. It has to come once more, later: this is
        # such a place too.
        from threading import Timer

        Timer(LATER_S, os.kill, (os.getpid(), signal.SIGINT)).start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if before is not None:
            signal.signal(signal.SIGINT, before)


def leave_with(code: int) -> None:
    """From here on all is done and said: an interrupt only ends the process sooner."""
    if _heard():
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))


def came() -> bool:
    """Whether the work was interrupted."""
    return _came


def _heard() -> bool:
    """Whether anybody wants interrupts; a shell's background jobs ignore them."""
    return signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)


def _leave(*_: Any) -> None:
    os.write(2, b"thc: interrupted\n")  # not print: the interrupt may have come inside one
    os._exit(EXIT_CODE)


def _raise(*_: Any) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt
