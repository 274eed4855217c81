"""Every region against every other: distances with intervals, tests over planes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.kernels.statistics import divergences as d
from thc_dask.kernels.statistics.counts import Floats, shares
from thc_dask.kernels.statistics.permutations import corrected, permuted
from thc_dask.kernels.statistics.resampling import Distance, Resampling, intervals


@dataclass(frozen=True)
class Measure:
    """How far two rows of shares are apart, in one way."""

    of: Callable[[Floats, Floats], Floats]
    units: str
    turned: float | None = 1.0
    """What it is multiplied with when the rows change places; None where that is another number."""
    smoothed: bool = False
    """Whether counts are smoothed first."""
    each: bool = False
    """Whether there is a number for each column, not one for all."""
    distance: Distance | None = None
    """How its intervals allow for chance; None where it is as often below as above the truth."""


def _difference(p: Floats, q: Floats) -> Floats:
    return p - q


def _foreground_cosine(p: Floats, q: Floats) -> Floats:
    return d.cosine(p[..., 1:], q[..., 1:])


INTENSITY = {
    "kl": Measure(d.kl, "nats", None, smoothed=True, distance=Distance(1)),
    "js": Measure(d.js, "nats", distance=Distance(1, math.log(2))),
    "hellinger": Measure(d.hellinger, "1", distance=Distance(2, 1.0)),
    "wasserstein": Measure(d.wasserstein, "grey levels", distance=Distance(2)),
    "total_variation": Measure(d.total_variation, "1", distance=Distance(2, 1.0)),
    "cosine": Measure(d.cosine, "1", distance=Distance(1, 1.0)),
    "cliffs_delta": Measure(d.cliffs_delta, "1", -1.0),
    "mean_difference": Measure(d.mean_difference, "grey levels", -1.0),
}
"""Of distributions over intensities."""
COMPOSITION = {name: INTENSITY[name] for name in ("kl", "js", "hellinger", "total_variation")} | {
    "cosine": Measure(d.cosine, "1", distance=Distance(1, 1.0)),
    "cohen_h": Measure(d.cohen_h, "radians", -1.0, each=True),
    "difference": Measure(_difference, "1", -1.0, each=True),
}
"""Of shares of structures."""


def chosen(measures: Sequence[str] | None, known: dict[str, Measure]) -> dict[str, Measure]:
    """Return the measures of those names, all of them for None.

    >>> chosen(["sj"], INTENSITY)
    Traceback (most recent call last):
    thc_dask.errors.RequestError: measure 'sj': give some of kl, js, hellinger, wasserstein, \
total_variation, cosine, cliffs_delta, mean_difference
    """
    for name in measures or ():
        if name not in known:
            raise RequestError(f"measure {name!r}: give some of {', '.join(known)}")
    return {name: known[name] for name in measures or known}


def with_background(measures: dict[str, Measure]) -> dict[str, Measure]:
    """Return the measures for shares whose first column is background: the cosine leaves it out."""
    return {
        name: replace(measure, of=_foreground_cosine) if name == "cosine" else measure
        for name, measure in measures.items()
    }


def compared(
    units: NDArray[np.int64], cubes: NDArray[np.int64] | None, measures: dict[str, Measure],
    smoothing: float, how: Resampling,
) -> dict[str, Floats]:  # fmt: skip
    """Return each measure of every two rows with the ends of its interval.

    Parameters
    ----------
    units
        Counts (unit, row, column); both rows of a pair come with a unit that is drawn.
    cubes, how
        As ``intervals`` takes them.
    measures, smoothing
        What is asked for; smoothing is added to counts for those that are smoothed.

    Returns
    -------
    dict
        By name float64 (value, low and high; row; other), and a last dimension of columns for
        those that have a number for each. NaN where a row has no counts.
    """
    n_rows, n_columns = units.shape[1:]
    found = {
        name: np.full((3, n_rows, n_rows, *([n_columns] if m.each else [])), np.nan)
        for name, m in measures.items()
    }
    smoothed = any(m.smoothed for m in measures.values())

    def statistic(h: Floats) -> Floats:
        p = shares(h)
        smooth = shares(h, smoothing) if smoothed else p
        values = []
        for m in measures.values():
            first, second = np.moveaxis(smooth if m.smoothed else p, -2, 0)
            both = [m.of(first, second)] + ([m.of(second, first)] if m.turned is None else [])
            values += both if m.each else [value[..., None] for value in both]
        return np.concatenate(values, axis=-1)

    kinds = [
        m.distance
        for m in measures.values()
        for _ in range((n_columns if m.each else 1) * (2 if m.turned is None else 1))
    ]
    total = units.sum(axis=0)
    held = np.flatnonzero(total.any(axis=1))
    for row in held:
        for name in found:
            found[name][:, row, row] = 0.0
    for a, b in itertools.combinations(held, 2):
        pair = units[:, [a, b]]
        low, high = intervals(statistic, pair, cubes, how, kinds)
        ends = np.stack([statistic(pair.sum(axis=0)), low, high])
        place = 0
        for name, m in measures.items():
            n = n_columns if m.each else 1
            there, back = ends[:, place : place + n], ends[:, place : place + n]
            place += n
            if m.turned is None:
                back = ends[:, place : place + n]
                place += n
            elif m.turned < 0:
                back = -there[[0, 2, 1]]
            found[name][:, a, b] = there if m.each else there[:, 0]
            found[name][:, b, a] = back if m.each else back[:, 0]
    return found


def tested(
    units: NDArray[np.int64], cubes: NDArray[np.int64] | None, distances: dict[str, Measure],
    n_permutations: int, seed: int,
) -> tuple[dict[str, Floats], NDArray[Any]]:  # fmt: skip
    """Return p values of every two rows, as ``permuted`` finds them, and how each was found.

    Parameters
    ----------
    units, cubes
        As ``compared`` takes them. With cubes a cube is the unit: planes of one are alike.
    distances
        What is tested, by name.
    n_permutations, seed
        Of the dealings.

    Returns
    -------
    tuple
        By name float64 (p, p after Holm, p after Benjamini and Hochberg; row; other), with a last
        dimension of columns where there is a test for each; corrected over all pairs and columns.
        And text (row, other).
    """
    how = np.full((units.shape[1], units.shape[1]), "", object)
    if not distances:
        return {}, how
    if cubes is not None:
        names, group = np.unique(cubes, return_inverse=True)
        sums = np.zeros((len(names), *units.shape[1:]), np.int64)
        np.add.at(sums, group, units)
        units = sums
    n_rows, n_columns = units.shape[1:]
    profiles = shares(units)
    held = [np.flatnonzero(np.isfinite(profiles[:, r]).all(axis=1)) for r in range(n_rows)]
    widths = [n_columns if m.each else 1 for m in distances.values()]
    p = np.full((n_rows, n_rows, sum(widths)), np.nan)

    def apart(a: Floats, b: Floats) -> Floats:
        found = [m.of(a, b) for m in distances.values()]
        return np.concatenate(
            [np.abs(v) if m.each else v[..., None]
             for v, m in zip(found, distances.values(), strict=True)], axis=-1,
        )  # fmt: skip

    for a, b in itertools.combinations(range(n_rows), 2):
        if len(held[a]) and len(held[b]):
            result = permuted(
                profiles[held[a], a], profiles[held[b], b], (held[a], held[b]), apart,
                n_permutations, seed,
            )  # fmt: skip
            p[a, b] = p[b, a] = result.p
            how[a, b] = how[b, a] = result.how
    found, start = {}, 0
    upper = np.triu_indices(n_rows, 1)
    for (name, m), width in zip(distances.items(), widths, strict=True):
        some = p[..., start : start + width]
        start += width
        three = np.full((3, *some.shape), np.nan)
        for i, values in enumerate(
            (some[upper], *(corrected(some[upper], method) for method in ("holm", "bh")))
        ):
            three[i][upper] = values
            three[i].transpose(1, 0, 2)[upper] = values
        found[name] = three if m.each else three[..., 0]
    return found, how
