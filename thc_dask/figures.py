"""The paper's panels from a store.

A slice with labels (A), intensity distributions (B), structure fractions (C), divergences (D, E).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import plot
from thc_dask.analysis.comparison import compare
from thc_dask.analysis.regions import fractions, histogram
from thc_dask.errors import MissingError, RequestError, writing
from thc_dask.grid import Box, Extent
from thc_dask.interpolate import annotated, origins
from thc_dask.output import long_table
from thc_dask.reader import read
from thc_dask.store.filesink import write_file
from thc_dask.store.read import LabelSet, Store, store_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

MOST_PIXELS = 2400  # of a slice's longer side: finer than a page shows


@dataclass(frozen=True)
class Panel:
    """One figure with the numbers behind it."""

    letter: str
    """A to E, as in the paper."""
    title: str
    caption: str
    figure: Figure
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """By caption."""
    notes: tuple[str, ...] = ()
    """How the numbers were obtained."""
    of: str = ""
    """The label set that a slice shows; there is one panel A for each."""
    png: bytes | None = None
    """The figure as a file, once it has been drawn: that takes longer than all the numbers."""

    @property
    def stem(self) -> str:
        """What a file of it is called, without the suffix."""
        return self.letter.lower() + (f"_{self.of}" if self.of else "")


def choose_sets(store: Store, by: str | None, of: str | None) -> tuple[str | None, str | None]:
    """Return the label sets to show: those named, else the first of regions and of structures.

    To a set that was named none of its own kind is added.

    Raises
    ------
    MissingError
        There is no set of that name.
    RequestError
        Both are named, and are not regions and structures.
    """
    kinds = {name: labels.scheme.kind for name, labels in store.label_sets.items()}
    named = [store.label_set(name).scheme.kind for name in (by, of) if name is not None]
    if len(named) == 2 and named != ["region", "structure"]:
        raise RequestError(
            f"panels of {of!r} by {by!r}: give --by a set of regions and --of a set of structures"
        )
    regions = [n for n, kind in kinds.items() if kind == "region" and kind not in named]
    structures = [n for n, kind in kinds.items() if kind == "structure" and kind not in named]
    # A set called roi is what the whole field calls it.
    regions.sort(key=lambda n: n != "roi")
    return by or next(iter(regions), None), of or next(iter(structures), None)


def panels(
    volume: Any, by: str | None = None, of: str | None = None, box: Box | None = None
) -> Iterator[Panel]:
    """Yield every panel that the store's label sets allow."""
    store = store_of(volume)
    by, of = choose_sets(store, by, of)
    if by is None and of is None:
        raise MissingError(f"{store.url} has no label set to show; add one with thc labels")
    for name in (by, of):
        if name is not None:
            yield slice_panel(store, store.label_set(name))
    if by is not None:
        yield _distributions(store, by, box)
    table = fractions(store, of, by, box).compute() if by is not None and of is not None else None
    if table is not None and int(table["n_vox"].sum()):
        yield _fractions(table)
    if by is not None:
        if store.label_set(by).scheme.n_besides_none < 2:
            return  # there is nothing to compare one region with
        yield _intensity_divergence(store, by, box)
        if table is not None and of is not None and int(table["n_vox"].sum()):
            yield _composition_divergence(store, of, by, box)


def drawn(found: Iterable[Panel]) -> list[Panel]:
    """Return the panels with their pictures, for use in several places."""
    return [replace(panel, png=plot.render(panel.figure, "png")) for panel in found]


def slice_panel(store: Store, labels: LabelSet) -> Panel:
    """Return panel A: the plane with most known voxels, with its labels."""
    extents = labels.extents
    area: dict[int, int] = {}
    for e in extents:
        for z in range(e.start[0], e.stop[0]):
            area[z] = area.get(z, 0) + e.shape[1] * e.shape[2]
    most = max(area.values())
    candidates = [z for z, n in sorted(area.items()) if n == most]
    plane = candidates[len(candidates) // 2]
    window = _window(store, [e for e in extents if e.start[0] <= plane < e.stop[0]])
    level = next(
        k for k, lv in enumerate(store.levels)
        if max(window.level(k).shape) <= MOST_PIXELS or k == len(store.levels) - 1
    )  # fmt: skip
    here = _plane(window, plane).level(level)
    image = read(store.image(level), here)[0]
    codes = read(labels.array(level), here)[0]
    known = np.zeros(codes.shape, bool)
    for extent in extents:
        both = extent.level(level).intersect(here)
        if both.n_vox:
            z, y, x = here.start
            known[both.shift((-z, -y, -x)).slices[1:]] = True
    spacing = store.levels[level].grid.spacing_um
    made = origins(store, [labels.name])
    between = "" if annotated(store, [labels.name], np.array([plane])).all() else ", interpolated"
    title = f"plane z = {plane} ({store.grid.coordinates(0)[plane]:g} um){between}"
    figure = plot.annotated_slice(
        image, codes, labels.scheme, (spacing[1], spacing[2]), None if known.all() else known, title
    )
    noun = "regions" if labels.scheme.kind == "region" else "structures"
    caption = f"Plane {plane} at level {level} with the {noun} of label set {labels.name!r}."
    notes = (
        "Chosen plane: the middle one of those with most known voxels. Unknown areas are hatched.",
        *_interpolated(made),
    )
    return Panel("A", f"Slice with {noun}", caption, figure, notes=notes, of=labels.name)


def _interpolated(made: dict[str, str]) -> list[str]:
    """Return notes that say which label sets nobody drew on every plane."""
    return [f"Label set {name!r} is {how}." for name, how in made.items()]


def _window(store: Store, extents: list[Extent]) -> Extent:
    """Return the part of the plane to show: all of it, or the surroundings of small cubes."""
    low = np.min([e.start for e in extents], axis=0)
    high = np.max([e.stop for e in extents], axis=0)
    full = store.grid.extent
    if (high - low)[1:].prod() * 16 > full.shape[1] * full.shape[2]:
        return full
    margin = ((high - low) // 8).tolist()
    start = tuple(max(0, int(a) - m) for a, m in zip(low, margin, strict=True))
    stop = tuple(min(n, int(b) + m) for b, m, n in zip(high, margin, full.shape, strict=True))
    return Extent(start, stop)


def _plane(window: Extent, plane: int) -> Extent:
    return Extent((plane, *window.start[1:]), (plane + 1, *window.stop[1:]))


def _distributions(store: Store, by: str, box: Box | None) -> Panel:
    import pandas as pd

    from thc_dask.kernels import statistics

    counts = histogram(store, by, box).compute()
    dim = str(counts.dims[0])
    rows = counts.isel({dim: counts.sum("intensity").values > 0})
    numbers: dict[str, NDArray[Any]] = dict(statistics.summary(rows.values))
    summary = pd.DataFrame({dim: rows[dim].values} | numbers).rename(columns={"n": "n_vox"})
    caption = f"Intensity distribution of each {dim}, all known voxels at full resolution."
    notes = (
        "Each known voxel of level 0 is counted once, in whole numbers; nothing is sampled.",
        f"Answered from: {counts.attrs['answered_from']}. Box: {counts.attrs['box_um']} um.",
        "sd divides by n; a percentile is the smallest intensity that reaches that share.",
        *_interpolated(counts.attrs.get("interpolated", {})),
    )
    tables = {f"Distribution of intensity by {dim}": summary, "All counts": long_table(counts)}
    figure = plot.intensity_distributions(counts)
    return Panel("B", f"Intensity by {dim}", caption, figure, tables, notes)


def _fractions(table: xr.Dataset) -> Panel:
    alone = table.n_planes.values == 1 if "n_planes" in table else slice(0)
    few = [str(region) for region in table.region.values[alone]]
    notes = [
        f"Denominator: {table.attrs['denominator']}.",
        f"{_interval_note(table)} The plane is the unit, since voxels of a plane are alike.",
        f"Answered from: {table.attrs['answered_from']}.",
        *_interpolated(table.attrs.get("interpolated", {})),
    ]
    if few:
        notes.append(f"One plane only, so no interval: {', '.join(few)}.")
    figure = plot.structure_fractions(table)
    caption = "Share of each region's known voxels by structure; bars are confidence intervals."
    shown = long_table(table.isel(region=table["n_vox"].values > 0))
    tables = {"Structures by region": shown}
    return Panel("C", "Structures by region", caption, figure, tables, tuple(notes))


N_RESAMPLES = 1000  # of divergences: there are as many as pairs of regions


def _intensity_divergence(store: Store, by: str, box: Box | None) -> Panel:
    table = compare(
        store, by, box, measures=("kl", "js", "wasserstein"), n_resamples=N_RESAMPLES,
        n_permutations=0,
    ).compute()  # fmt: skip
    dim = str(table["kl"].dims[0])
    shown = _with_counts(table, dim)
    title = "Kullback-Leibler divergence, row from column"
    figure = plot.divergence_matrix(shown["kl"], title, "nats")
    notes = (
        f"p ln(p/q) summed over intensities, {table.attrs['smoothing']:g} added to every count "
        "before dividing, as the paper did. It depends on the direction; js does not.",
        *_interpolated(table.attrs.get("interpolated", {})),
        _interval_note(table),
    )
    tables = {"Distances of intensity distributions": long_table(shown)}
    caption = "How far the intensity distribution of the row is from that of the column."
    return Panel("D", "Divergence of intensities", caption, figure, tables, notes)


def _with_counts(table: xr.Dataset, dim: str) -> xr.Dataset:
    filled = table["n_vox"].values > 0
    return table.isel({dim: filled, "other": filled})


def _interval_note(table: xr.Dataset) -> str:
    about = table.attrs
    return (
        f"Interval (low, high): {about['interval']}, {about['n_resamples']} resamples, seed "
        f"{about['seed']}. It speaks of {about['speaks_of']}."
    )


def _composition_divergence(store: Store, of: str, by: str, box: Box | None) -> Panel:
    table = compare(
        store, by, box, of=of, measures=("cosine", "js"), n_resamples=N_RESAMPLES, n_permutations=0
    ).compute()
    shown = _with_counts(table, "region")
    figure = plot.divergence_matrix(shown["cosine"], "1 - cosine similarity of structures", "")
    notes = (
        "cosine: fractions of vessel, cell and axon; background is left out and the rest not "
        "rescaled. The paper calls its Figure 2E a KL divergence; its notebook computes this "
        "quantity. js: of all known voxels, background included.",
        *_interpolated(table.attrs.get("interpolated", {})),
        _interval_note(table),
    )
    tables = {"Distances of composition": long_table(shown)}
    caption = "How different the structural composition of two regions is."
    return Panel("E", "Divergence of composition", caption, figure, tables, notes)


def figures(
    volume: Any,
    out: str | os.PathLike[str],
    *,
    by: str | None = None,
    of: str | None = None,
    box: Box | None = None,
    suffix: str = ".png",
) -> list[Path]:
    """Draw the paper's panels of a store into a folder and return the files.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    out
        Folder; made if needed.
    by, of
        Label sets of regions and of structures; by default the first of each kind.
    box
        Only voxels whose centre is in this half-open box, micrometers.
    suffix
        ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    MissingError
        There is no label set.
    RequestError
        The suffix or the box is wrong.
    WriteError
        A file cannot be written.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> [path.name for path in figures(volume, mkdtemp())]
    ['a_roi.png', 'b.png', 'd.png']
    """
    if suffix not in (".png", ".svg", ".pdf"):
        raise RequestError(f"figures: unknown format {suffix!r}; use .png, .svg or .pdf")
    return save_panels(panels(volume, by, of, box), out, suffix)


def save_panels(
    found: Iterable[Panel], out: str | os.PathLike[str], suffix: str = ".png"
) -> list[Path]:
    """Write panels as files into a folder, made if needed, and return their paths."""
    files = []
    for panel in found:
        path = Path(out) / f"{panel.stem}{suffix}"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if panel.png is not None and suffix == ".png":
            write_file(path, panel.png)
        else:
            plot.save(panel.figure, path)
        files.append(path)
    return files
