"""Ctrl-C, or being told to end: one line and exit code 130 or 143, at whatever moment it comes.

SIGTERM is what ``kill``, batch systems and containers send before they kill; Python by itself would
end at once, and leave jobs and keys behind. Its answer to Ctrl-C is an exception wherever the
program happens to be. Within an import, or in a function that the interpreter calls by itself, it
is printed with a traceback, lost, or turned into another error.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

LATER_S = 0.01
SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

_came: signal.Signals | None = None


def leave_at_once() -> None:
    """From here on nothing has been begun: an interrupt says so and ends the process."""
    for number in _heard():
        signal.signal(number, _leave)


@contextmanager
def raised() -> Iterator[None]:
    """Within, work is done: an interrupt is raised, so that what was begun is put away."""
    global _came
    _came = None
    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread, which alone hears signals
        for number in _heard():
            before[number] = signal.signal(number, _raise)
    hook = sys.unraisablehook

    def again(found: sys.UnraisableHookArgs) -> None:
        if not isinstance(found.exc_value, KeyboardInterrupt):
            hook(found)
            return
        # The interrupt came where nothing can be raised. It has to come once more, later: this is
        # such a place too.
        from threading import Timer

        Timer(LATER_S, os.kill, (os.getpid(), _came or signal.SIGINT)).start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_with(code: int) -> None:
    """From here on all is done and said: an interrupt only ends the process sooner."""
    for number in _heard():
        signal.signal(number, lambda *_: os._exit(code))


def came() -> signal.Signals | None:
    """Return what interrupted the work, if anything did."""
    return _came


def exit_code(number: signal.Signals) -> int:
    """Return the exit code of a command that a signal has ended, as shells have it."""
    return 128 + number


def _heard() -> list[signal.Signals]:
    """Return which signals are wanted; a shell's background jobs ignore Ctrl-C."""
    return [n for n in SAID if signal.getsignal(n) not in (signal.SIG_IGN, None)]


def _leave(number: int, _: Any) -> None:
    found = signal.Signals(number)
    os.write(2, f"thc: {SAID[found]}\n".encode())  # not print: it may have come inside one
    os._exit(exit_code(found))


def _raise(number: int, _: Any) -> None:
    global _came
    _came = signal.Signals(number)
    raise KeyboardInterrupt
