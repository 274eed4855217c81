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
import time
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

LATER_S = 0.01
MOST = 2  # interrupts that are raised; one more ends the process at once
LOCKS = {"threading", "concurrent", "queue", "logging", "weakref", "importlib"}
"""Packages whose functions take locks that other threads need."""
TAKES = {"acquire", "release", "__enter__", "__exit__"}
"""What functions that take and give back locks are called anywhere."""
SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

_came: int | None = None
_times = 0
_put_off = False  # one that came is to come once more
_again = False  # and is on its way
_waiting = False  # for that, with nothing else to do: it can be raised


def leave_at_once() -> None:
    """From here on nothing has been begun: an interrupt says so and ends the process."""
    for number in _heard():
        signal.signal(number, _leave)


@contextmanager
def raised() -> Iterator[None]:
    """Within, work is done: an interrupt is raised, so that what was begun is put away."""
    global _came, _times, _put_off, _again, _waiting
    _came, _times, _put_off, _again, _waiting = None, 0, False, False, False
    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread, which alone hears signals
        for number in _heard():
            before[number] = signal.signal(number, _raise)
    hook = sys.unraisablehook

    def again(found: sys.UnraisableHookArgs) -> None:
        if not isinstance(found.exc_value, KeyboardInterrupt):
            hook(found)
            return
        # The interrupt came where nothing can be raised; this is such a place too.
        _put_it_off(_came or signal.SIGINT)

    sys.unraisablehook = again
    try:
        try:
            yield
        finally:
            _waiting = True
            while _put_off:
                time.sleep(LATER_S)
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
    return None if _came is None else signal.Signals(_came)


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


def _raise(number: int, frame: FrameType | None) -> None:
    global _came, _times, _put_off, _again
    _came = number
    if _again:
        _put_off = _again = False
    else:
        _times += 1
    if _times > MOST:
        _leave(number, frame)
    if _within(frame) or _among_locks(frame):
        _put_it_off(number)
        return
    raise KeyboardInterrupt


def _within(frame: FrameType | None) -> bool:
    """Return whether an interrupt is being dealt with: where that one came is not looked at."""
    return frame is not None and frame.f_globals is globals() and not _waiting


def _among_locks(frame: FrameType | None) -> bool:
    """Return whether an exception here may leave a lock taken, or a thread that nobody knows of."""
    if frame is None or not (_locks(frame) or frame.f_code.co_name in TAKES):
        return False
    if frame.f_code.co_qualname != "Condition.wait":
        return True
    # Where something may be long in coming nothing is held, but for a thread that is being started.
    inner: FrameType | None = frame
    while inner is not None and _locks(inner):
        if inner.f_code.co_qualname == "Thread.start":
            return True
        inner = inner.f_back
    return False


def _locks(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] in LOCKS


def _put_it_off(number: int) -> None:
    """Have an interrupt come once more, a little later."""
    global _put_off
    if not _put_off:
        _put_off = True
        # Not threading.Thread: what was interrupted may hold the lock that it takes.
        start_new_thread(_come_again, (number,))


def _come_again(number: int) -> None:
    global _again
    time.sleep(LATER_S)
    _again = True
    os.kill(os.getpid(), number)
