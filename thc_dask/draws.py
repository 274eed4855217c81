"""What may be asked of a bootstrap: how often, how sure, from which seed."""

from __future__ import annotations

from numbers import Real
from operator import index
from typing import Any

from thc_dask.errors import RequestError

# No interval reaches beyond the smallest and the largest of n draws, and those hold
# (n - 1) / (n + 1) of all that could be drawn: 80 % of nine. Fewer make no interval of any use.
FEWEST = 9


def check_draws(n_resamples: Any, confidence: Any, seed: Any, *, none: bool = True) -> None:
    """Raise RequestError for options of a bootstrap that make no sense.

    ``none`` is whether 0 resamples, for no intervals, may be asked for.

    >>> check_draws(1, 0.95, 0)
    Traceback (most recent call last):
    thc_dask.errors.RequestError: n_resamples 1: give a whole number of at least 9, or 0 for none
    """
    or_none = ", or 0 for none" if none else ""
    if not (none and is_whole(n_resamples, 0) and n_resamples == 0):
        check_whole("n_resamples", n_resamples, FEWEST, or_none)
    check_whole("seed", seed, 0)
    if not isinstance(confidence, Real) or not 0 < float(confidence) < 1:
        raise RequestError(f"confidence {confidence!r}: give a number between 0 and 1, like 0.95")


def check_whole(name: str, value: Any, least: int, more: str = "") -> None:
    """Raise RequestError where a value is no whole number of at least ``least``."""
    if not is_whole(value, least):
        raise RequestError(f"{name} {value!r}: give a whole number of at least {least}{more}")


def is_whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number of at least ``least``: 10.0 is none, to count with."""
    try:
        return index(value) >= least
    except TypeError:
        return False
