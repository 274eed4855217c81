"""How far regions are apart: distances with intervals, effect sizes, tests over planes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.draws import check_whole
from thc_dask.errors import RequestError
from thc_dask.grid import Box
from thc_dask.pairs import IMAGE
from thc_dask.results import apply_all, attributes, drawing, names_of, taken
from thc_dask.sampling import DENOMINATORS, EMPTY, Cubes, block_of, check_kinds, sample
from thc_dask.store.read import Store, store_of

if TYPE_CHECKING:
    import xarray as xr

    Volume = str | os.PathLike[str] | xr.DataTree | Store

SMOOTHING = 1e-6  # added to every count, as the paper's notebook did (survey of its Figure 2D)
TESTED = {"intensity": ("wasserstein",), "composition": ("total_variation", "difference")}
ENDS = ("", "_low", "_high")
TESTS = ("_p", "_p_holm", "_p_bh")


def compare(
    volume: Volume,
    by: str = "roi",
    box: Box | None = None,
    *,
    of: str | None = None,
    measures: Sequence[str] | None = None,
    smoothing: float = SMOOTHING,
    denominator: str = "known",
    cubes: Cubes = None,
    block: int | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    n_permutations: int = 9999,
    seed: int = 0,
) -> xr.Dataset:
    """Return how far apart regions are, in their intensities or in what they are made of.

    Formulas, sources and what the tests ask: ``docs/statistics.md``. Intervals and tests draw
    planes, never voxels.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    by
        Label set of regions.
    box
        Only voxels whose centre is in this half-open box, micrometers.
    of
        Label set of structures, to compare what regions are made of; None compares intensities.
    measures
        Which of them, by name; None gives all.
    smoothing
        Added to every count before ``kl``, as the paper did for its Figure 2D.
    denominator
        ``known`` or ``unclipped``; of structures ``foreground`` too, as ``fractions`` takes it.
    cubes, block, confidence, n_resamples, seed
        As ``fractions`` takes them.
    n_permutations
        Dealings of each test: all there are if they are fewer. 0 makes no tests.

    Returns
    -------
    xarray.Dataset
        With dims (region, other), each with ``_low`` and ``_high``. Of intensities: ``kl`` (row
        from column) and ``js`` in nats, ``hellinger``, ``total_variation``, ``cosine`` (0 to 1),
        ``wasserstein`` and ``mean_difference`` in grey levels, ``cliffs_delta`` (-1 to 1, above 0
        where the row is brighter). Of structures: ``kl``, ``js``, ``hellinger``,
        ``total_variation``, ``cosine`` (background left out), and for each structure
        ``difference`` of the fractions and ``cohen_h``.

        Of ``wasserstein``, or of ``total_variation`` and ``difference``, also the permutation
        test: ``_p``, ``_p_holm``, ``_p_bh``, and ``test`` (region, other), how it was made.
        ``n_vox`` (region); ``note`` (region, other) says why a number is missing. Code 0 is left
        out.

    Raises
    ------
    MissingError
        There is no such label set; the message names those there are.
    RequestError
        The box, a measure or another option is wrong, ``by`` has no two regions, or ``of`` and
        ``by`` are of one kind.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> found = compare(volume, measures=["js"], n_resamples=100, n_permutations=99)
    >>> float(found["js"].sel(region="CTX", other="CTX"))
    0.0
    """
    import xarray as xr

    from thc_dask.kernels import statistics

    store = store_of(volume)
    how = statistics.Resampling(n_resamples, confidence, seed)
    statistics.check_smoothing(smoothing)
    check_whole("n_permutations", n_permutations, 0)
    _check_two(store, by)
    known = statistics.INTENSITY if of is None else statistics.COMPOSITION
    if measures is not None and not len(measures):
        raise RequestError(
            f"measures {measures!r}: give some of {', '.join(known)}; None gives all"
        )
    asked = statistics.chosen(measures, known)
    if of is not None:
        check_kinds(store, of, by)
    drawn = n_resamples > 0 or n_permutations > 0
    found = sample(store, by, of or IMAGE, box, denominator, cubes, by_plane=drawn)
    units = found.units(block_of(store, [by, of or IMAGE], block))
    if of is not None and found.columns[0]:
        asked = statistics.with_background(asked)
    tests = TESTED["intensity" if of is None else "composition"] if n_permutations else ()
    tested = {name: m for name, m in asked.items() if name in tests}
    rows, columns = found.table.rows, found.table.columns
    keep = rows.values != 0

    def numbers(planes: NDArray[np.int64]) -> dict[str, Any]:
        counts = units.pool(planes)[:, keep]
        values = statistics.compared(counts, units.cube, asked, smoothing, how)
        p, text = statistics.tested(counts, units.cube, tested, n_permutations, seed)
        parts = {f"{name}{end}": v[i] for name, v in values.items() for i, end in enumerate(ENDS)}
        parts |= {f"{name}{end}": v[i] for name, v in p.items() for i, end in enumerate(TESTS)}
        return parts | {"test": text, "note": _notes(counts, denominator, drawn)}

    pair = (rows.dim, "other")
    dims = {
        f"{name}{end}": (*pair, columns.dim) if m.each else pair
        for name, m in asked.items()
        for end in (*ENDS, *(TESTS if name in tested else ()))
    } | {"test": pair, "note": pair}
    sizes = {rows.dim: int(keep.sum()), "other": int(keep.sum()),
             columns.dim: int(found.columns.sum())}  # fmt: skip
    shapes = {name: tuple(sizes[d] for d in where) for name, where in dims.items()}
    made = apply_all(numbers, found.data, shapes, ("test", "note"))
    data: dict[str, Any] = {name: (dims[name], made[name]) for name in dims}
    data["n_vox"] = (rows.dim, found.data.sum(axis=(0, 2))[keep])
    coords = taken(names_of(rows), rows.dim, keep)
    coords["other"] = coords[rows.dim]
    if any(m.each for m in asked.values()):
        coords |= taken(names_of(columns), columns.dim, found.columns)
    attrs = attributes(store, found.table, found.extent, found.answered_from, by=by)
    attrs |= ({} if of is None else {"of": of}) | {
        "denominator": DENOMINATORS[denominator],
        "measures": {name: m.units for name, m in asked.items()},
        "kl": f"row from column, {smoothing:g} added to every count",
        "smoothing": smoothing,
        "n_permutations": n_permutations,
    }
    ends = "BCa where defined; of distances, percentiles without the bias"
    return xr.Dataset(data, coords, attrs | drawing(units.drawn, how, ends))


def _check_two(store: Store, by: str) -> None:
    """Raise RequestError where there are no two regions to compare."""
    n_regions = {name: labels.scheme.n_besides_none for name, labels in store.label_sets.items()}
    if by != IMAGE:
        store.label_set(by)  # which names those there are, if it is not among them
        if n_regions[by] > 1:
            return
    what = "all voxels are one region" if by == IMAGE else "it has one region besides none"
    others = ", ".join(name for name, n in n_regions.items() if n > 1)
    raise RequestError(
        f"compare by {by!r}: {what}, and comparing needs two; give a label set as by (--by) that "
        f"has more: {others or 'there is none, add one with thc labels'}"
    )


def _notes(counts: NDArray[np.int64], denominator: str, drawn: bool) -> NDArray[Any]:
    """Return why a pair has no numbers, or no intervals; empty where it has both."""
    n = counts.sum(axis=2)
    n_rows = n.shape[1]
    text = np.full((n_rows, n_rows), "", object)
    for a, b in np.ndindex(n_rows, n_rows):
        if not (n[:, a].any() and n[:, b].any()):
            text[a, b] = EMPTY[denominator]
        elif drawn and a != b and (n[:, [a, b]].any(axis=1)).sum() < 2:
            text[a, b] = "one plane only: no interval"
    return text
