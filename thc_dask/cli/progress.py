"""How far a command has come, on standard error: a bar, plain lines, or JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from thc_dask.cli.printing import duration, short
from thc_dask.progress import Standing

BAR_S, JSON_S, LINE_S = 0.1, 0.5, 60.0  # at least so often, if there is anything new
SURE_S = 1.0  # before that, and before a tenth of the work, nobody knows how long it takes


def pace(standing: Standing, elapsed_s: float) -> tuple[float | None, float | None]:
    """Return units per second and seconds left, None where that would be a guess.

    Only work of this run counts.

    >>> pace(Standing(60, 100, kept=40), 4.0)
    (5.0, 8.0)
    >>> pace(Standing(41, 100, kept=40), 0.1)
    (10.0, None)
    """
    new, left = standing.done - standing.kept, standing.total - standing.done
    if new <= 0 or elapsed_s <= 0:
        return None, None if left else 0.0
    rate = new / elapsed_s
    sure = elapsed_s >= SURE_S or 10 * new >= new + left
    return rate, left / rate if sure else None


class Meter:
    """A progress callback that prints; a context, so that what follows begins on a new line.

    ``unit`` is what is counted, ``key`` its name in JSON; ``clock`` gives seconds.
    """

    def __init__(
        self, what: str, unit: str, as_json: bool = False, key: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._what, self._unit, self._key = what, unit, key or unit
        self._form = "json" if as_json else "bar" if sys.stderr.isatty() else "lines"
        self._clock = clock
        self._started = self._said = clock()
        self._step: str | None = None
        self._tenth = 0
        self._width = 0

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            print(file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int) -> None:
        self.watch(Standing(done, total))

    def watch(self, standing: Standing) -> None:
        """Take note, and print if it is time to."""
        now, first = self._clock(), standing.step != self._step
        new = standing.done > standing.kept
        tenth = 10 * standing.done // max(standing.total, 1)
        if first:
            # What came before the step took time too, but says nothing of its pace.
            self._started = now if not new else self._said
            self._step, self._tenth = standing.step, 0
        if self._is_due(standing, first, new, tenth > self._tenth, now - self._said):
            self._print(standing, now - self._started)
            self._said, self._tenth = now, tenth

    def _is_due(
        self, standing: Standing, first: bool, new: bool, grown: bool, silent_s: float
    ) -> bool:
        if self._form == "lines":
            # At the beginning there is something to say only of what was there before.
            return (grown or silent_s >= LINE_S) if new else first and standing.kept > 0
        wait_s = BAR_S if self._form == "bar" else JSON_S
        return first or standing.done >= standing.total or silent_s >= wait_s

    def _print(self, standing: Standing, elapsed_s: float) -> None:
        if self._form == "json":
            facts = {"progress": self._facts(standing, elapsed_s)}
            print(json.dumps(facts), file=sys.stderr, flush=True)
            return
        line = self._line(standing, elapsed_s)
        if self._form == "lines":
            print(line, file=sys.stderr, flush=True)
            return
        room = shutil.get_terminal_size().columns - 1
        width = min(30, room - len(line) - 4)
        if width >= 10:
            filled = int(width * standing.done / max(standing.total, 1))
            line += f"  [{'#' * filled:<{width}}]"
        line = line[:room]
        # Blanks go over what is left of a longer line.
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def _line(self, standing: Standing, elapsed_s: float) -> str:
        rate, left_s = pace(standing, elapsed_s)
        step = f" ({standing.step})" if standing.step else ""
        parts = [f"{self._what}{step}: {standing.done / max(standing.total, 1):4.0%}"]
        if standing.kept and rate is None:
            parts.append("done before")
        if rate is not None:
            parts.append(f"{short(rate)}{self._unit}/s")
        # A terminal has no room for all of it, a bar included.
        if standing.read_bytes and self._form != "bar":
            parts.append(f"{short(standing.read_bytes)}B read")
        if standing.written_bytes:
            parts.append(f"{short(standing.written_bytes)}B written")
        if left_s is not None:
            parts.append(f"{duration(left_s)} left")
        return "  ".join(parts)

    def _facts(self, standing: Standing, elapsed_s: float) -> dict[str, Any]:
        rate, left_s = pace(standing, elapsed_s)
        key = self._key
        return {
            "command": self._what,
            "step": standing.step or None,
            f"done_{key}": standing.done,
            f"total_{key}": standing.total,
            f"kept_{key}": standing.kept,
            "read_bytes": standing.read_bytes,
            "written_bytes": standing.written_bytes,
            f"rate_{key}_per_s": rate,
            "elapsed_s": elapsed_s,
            "eta_s": left_s,
        }
