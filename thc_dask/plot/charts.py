"""Distributions, fractions and divergences: count tables as curves, bars and matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.plot.canvas import (
    CHARACTER_IN,
    INK,
    MUTED,
    PALE,
    casing,
    colors_along,
    dress,
    luminance,
    name_ticks,
    new_figure,
    plain,
    put_title,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ANNOTATED = 16
UNKNOWN = "\N{EN DASH}"


def intensity_distributions(histogram: xr.DataArray, title: str = "") -> Figure:
    """Return one curve of intensity density for each region with counts, labelled directly.

    The lowest and the highest level are drawn apart, as dots: that is where normalisation piles
    up what it clips. The row of code 0 (no region) is left out. Where fewer than half of
    the levels between the first and the last occur at all (an image with few grey levels), counts
    are divided by the distance between those that do.

    Parameters
    ----------
    histogram
        Whole numbers (region, intensity) or (structure, intensity) with the coordinate
        ``intensity`` and, where known, ``code`` and ``color`` (``#rrggbb``) along the first.
    title
        Line above the figure.

    Raises
    ------
    RequestError
        The dims are others, or no region has counts.

    Examples
    --------
    >>> import xarray as xr
    >>> table = xr.DataArray([[0, 0, 0], [1, 3, 2]], dims=("region", "intensity"),
    ...                      coords={"region": ["none", "CTX"], "intensity": [0, 1, 2]})
    >>> [text.get_text() for text in intensity_distributions(table).axes[0].texts]
    ['CTX']
    """
    table = _rows_with_counts(histogram)
    dim = str(table.dims[0])
    names, colors = [str(name) for name in table[dim].values], colors_along(table, dim)
    level = np.asarray(table["intensity"].values, np.float64)
    share = table.values / table.values.sum(axis=1, keepdims=True)
    x, curves, n_levels = _densities(level, share)
    top = 1.08 * (curves.max() if curves.any() else share.max())
    figure = new_figure(4.4, layout="constrained")
    axes = figure.add_subplot()
    marker = "o" if n_levels else None
    for curve, color in zip(curves, colors, strict=True):
        axes.plot(x, curve, color=color, lw=2, path_effects=casing(color), marker=marker, ms=4)
    margin = 0.03 * max(level[-1] - level[0], 1.0)
    axes.set_xlim(level[0] - margin, level[-1] + margin)
    axes.set_ylim(0, top)
    ends = _mark_ends(axes, level, share, names, colors, top)
    sparse = f"; only {n_levels} levels occur" if n_levels else ""
    axes.set_xlabel(f"grey level{sparse}{ends}")
    axes.set_ylabel("share of voxels per grey level")
    dress(axes, percent=True)
    highest = curves.argmax(axis=1) if x.size else np.zeros(len(names), int)
    peaks = [(x[i], curve[i]) for i, curve in zip(highest, curves, strict=True) if x.size]
    _label_peaks(figure, axes, names, colors, peaks)
    put_title(figure, title)
    return figure


def _rows_with_counts(histogram: xr.DataArray) -> xr.DataArray:
    if histogram.ndim != 2 or histogram.dims[1] != "intensity":
        raise RequestError(f"histogram with dims {histogram.dims}: give (region, intensity)")
    dim = str(histogram.dims[0])
    table = histogram.isel({dim: ~_is_zero(histogram, dim) & (histogram.values.sum(axis=1) > 0)})
    if not len(table):
        raise RequestError(f"no {dim} has counts: count a label set, or a box that meets one")
    return table


def _is_zero(table: xr.DataArray | xr.Dataset, dim: str) -> NDArray[np.bool_]:
    """Return which entry along ``dim`` stands for code 0, by its code or else by its name."""
    for name in (f"{dim}_code", "code"):
        if name in table.coords and table[name].dims == (dim,):
            return np.asarray(table[name].values == 0)
    return np.isin(table[dim].values.astype(str), ("none", "background"))


def _densities(
    level: NDArray[np.float64], share: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return levels and densities between the ends, and how many levels occur if it is a comb."""
    occurs = 1 + np.flatnonzero(share[:, 1:-1].any(axis=0))
    few = len(occurs) if len(occurs) > 1 and len(occurs) < np.ptp(occurs) / 2 else 0
    inside = occurs if few else np.arange(1, len(level) - 1)
    x = level[inside]
    width = np.gradient(x) if few else np.ones(x.size)
    return x, share[:, inside] / width, few


def _mark_ends(
    axes: Axes,
    level: NDArray[np.float64],
    share: NDArray[np.float64],
    names: Sequence[str],
    colors: Sequence[str],
    top: float,
) -> str:
    """Draw the share at each end as a dot, or as text if it is off the scale; return a note."""
    marked = []
    for end, side in ((0, "left"), (-1, "right")):
        if not share[:, end].any():
            continue
        marked.append(f"{level[end]:g}")
        fits = share[:, end] <= top
        axes.scatter(
            np.full(fits.sum(), level[end]),
            share[fits, end],
            c=[c for c, fit in zip(colors, fits, strict=True) if fit],
            s=34,
            edgecolors=INK,
            linewidths=0.7,
            zorder=4,
            clip_on=False,
        )
        above = [f"{names[i]} {share[i, end]:.1%}" for i in np.flatnonzero(~fits).tolist()]
        if above:
            text = plain("\n".join([f"off scale at {level[end]:g}:", *above]))
            axes.text(level[end], 0.97 * top, text, ha=side, va="top", fontsize=8, color=MUTED)
    return f"  (dots: voxels at exactly {' and '.join(marked)})" if marked else ""


def _label_peaks(
    figure: Figure,
    axes: Axes,
    names: Sequence[str],
    colors: Sequence[str],
    peaks: Sequence[tuple[float, float]],
) -> None:
    """Name each curve above the axes, with a line to its peak; in a legend if they do not fit."""
    low, high = axes.get_xlim()
    order = sorted(range(len(peaks)), key=lambda i: peaks[i])
    where = _spread(
        [(peaks[i][0] - low) / (high - low) for i in order],
        [0.025 + 0.0105 * len(names[i]) for i in order],
    )
    if where is None:
        for line, name in zip(axes.lines, names, strict=True):
            line.set_label(plain(name))
        figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(len(names) / 4))
        figure.legend(
            loc="outside lower center", ncols=4, frameon=False, fontsize=8.5, labelcolor=INK
        )
        return
    for i, x in zip(order, where, strict=True):
        axes.annotate(
            plain(names[i]),
            peaks[i],
            xytext=(x, 1.07),
            textcoords="axes fraction",
            ha="center",
            va="center",
            fontsize=9,
            color=INK,
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.3", "fc": "white", "ec": colors[i], "lw": 1.8},
            arrowprops={"arrowstyle": "-", "color": colors[i], "lw": 0.9, "shrinkB": 3},
        )


def _spread(wanted: Sequence[float], width: Sequence[float]) -> NDArray[np.float64] | None:
    """Return rising places in 0..1 near the wanted ones that do not overlap; None if too many."""
    from scipy.optimize import isotonic_regression

    if sum(width) > 1 or not len(wanted):
        return None
    half = np.asarray(width) / 2
    offset = np.cumsum(2 * half) - half
    # without their own widths the labels only have to keep their order
    free = isotonic_regression(np.asarray(wanted) - offset).x
    return np.clip(free, 0, 1 - 2 * half.sum()) + offset


def structure_fractions(
    ds: xr.Dataset, title: str = "", background: bool = False, none: bool = False
) -> Figure:
    """Return grouped bars, one group a region and one bar a structure, with their intervals.

    A bar without known interval (NaN) has no error bar; a region without known voxels has no
    bars and is named below the figure.

    Parameters
    ----------
    ds
        ``fraction``, ``low`` and ``high`` (region, structure), 0 to 1, and, where known, the
        coordinates ``structure_color`` (or ``color`` along structure), ``region_code`` and
        ``structure_code``.
    title
        Line above the figure.
    background
        Whether to show the structure of code 0 too.
    none
        Whether to show the region of code 0 too.

    Raises
    ------
    RequestError
        A variable is missing, or nothing is left to show.

    Examples
    --------
    >>> import xarray as xr
    >>> table = xr.DataArray([[0.1]], dims=("region", "structure"),
    ...                      coords={"region": ["CTX"], "structure": ["cell"]})
    >>> ds = xr.Dataset({"fraction": table, "low": table - 0.02, "high": table + 0.05})
    >>> [label.get_text() for label in structure_fractions(ds).axes[0].get_xticklabels()]
    ['CTX']
    """
    shown, missing = _shown(ds, background, none)
    regions = [str(name) for name in shown["region"].values]
    structures = [str(name) for name in shown["structure"].values]
    value, low, high = (
        np.asarray(shown[name].values, np.float64) for name in ("fraction", "low", "high")
    )
    figure = new_figure(4.4, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(structures)
    colors = colors_along(shown, "structure")
    for s, (name, color) in enumerate(zip(structures, colors, strict=True)):
        x = np.arange(len(regions), dtype=np.float64) + ((s + 0.5) * width - 0.4)
        # black is the colour of code 0: intervals could not be seen on it
        fill = PALE if luminance(color) < 0.1 else color
        axes.bar(x, value[:, s], 0.9 * width, color=fill, ec=INK, lw=0.6, label=plain(name))
        _draw_intervals(axes, x, value[:, s], low[:, s], high[:, s])
    top = np.nanmax(np.fmax(value, high), initial=0.0)
    axes.set_ylim(0, 1.08 * top or 0.01)
    name_ticks(axes, "x", regions, room=8.3 / len(regions))
    axes.set_ylabel("share of the region's known voxels")
    bare = [r for r, ends in zip(regions, low + high, strict=True) if np.isnan(ends).all()]
    notes = [("no known voxels: ", missing), ("no interval, fewer than two planes: ", bare)]
    axes.set_xlabel(plain("; ".join(text + ", ".join(who) for text, who in notes if who)))
    dress(axes, percent=True)
    figure.legend(loc="outside upper right", ncols=6, frameon=False, fontsize=9, labelcolor=INK)
    put_title(figure, title)
    return figure


def _draw_intervals(
    axes: Axes,
    x: NDArray[np.float64],
    value: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> None:
    known = np.isfinite(low) & np.isfinite(high)
    # rounding may leave an end on the wrong side of the value by one part in 1e16
    ends = np.maximum([value - low, high - value], 0.0)[:, known]
    axes.errorbar(x[known], value[known], ends, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5)


def _shown(ds: xr.Dataset, background: bool, none: bool) -> tuple[xr.Dataset, list[str]]:
    """Return the regions and structures to draw, and the names of regions that have no values."""
    for name in ("fraction", "low", "high"):
        if name not in ds or set(ds[name].dims) != {"region", "structure"}:
            raise RequestError(f"fractions need {name!r} with dims (region, structure)")
    ds = ds.transpose("region", "structure", ...)
    if not none:
        ds = ds.isel(region=~_is_zero(ds, "region"))
    if not background:
        ds = ds.isel(structure=~_is_zero(ds, "structure"))
    known = np.isfinite(ds["fraction"].values).all(axis=1)
    if not known.any() or not ds.sizes["structure"]:
        raise RequestError("no region has known voxels: count where both label sets are known")
    return ds.isel(region=known), [str(name) for name in ds["region"].values[~known]]


def divergence_matrix(matrix: xr.DataArray, title: str = "", units: str = "") -> Figure:
    """Return an annotated heat map of a divergence between every two regions.

    Values that are not known (NaN) are grey, with a dash.

    Parameters
    ----------
    matrix
        (region, other), at least 0; for a divergence with a direction rows are p, columns q.
    title
        Line above the figure.
    units
        What the colour bar shows, for instance ``KL(row || column), nats``.

    Raises
    ------
    RequestError
        The array is not a square table.

    Examples
    --------
    >>> import xarray as xr
    >>> matrix = xr.DataArray([[0.0, 0.2], [0.1, 0.0]], dims=("region", "other"),
    ...                       coords={"region": ["CTX", "ZI"], "other": ["CTX", "ZI"]})
    >>> [text.get_text() for text in divergence_matrix(matrix).axes[0].texts]
    ['0', '0.200', '0.100', '0']
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise RequestError(f"matrix of shape {matrix.shape}: give a square (region, other) table")
    import matplotlib

    value = np.asarray(matrix.values, np.float64)
    n = len(value)
    top = float(np.max(value, where=np.isfinite(value), initial=0.0)) or 1.0
    names = [[str(name) for name in matrix[dim].values] for dim in matrix.dims]
    side = min(0.62 * n + 0.4, 6.0)
    longest = max(map(len, names[0]))
    width = max(side + 1.4 + CHARACTER_IN * longest, 0.3 + 1.2 * CHARACTER_IN * len(title))
    figure = new_figure(side + 0.8 + 0.04 * longest, width=width, layout="constrained")
    axes = figure.add_subplot()
    colors = matplotlib.colormaps["viridis"].with_extremes(bad=PALE)
    picture = axes.imshow(value, cmap=colors, vmin=0, vmax=top)
    if n <= MAX_ANNOTATED:
        _annotate(axes, value, top)
    name_ticks(axes, "y", names[0])
    name_ticks(axes, "x", names[1], room=side / n)
    axes.set_ylabel(str(matrix.dims[0]))
    axes.set_xlabel(str(matrix.dims[1]))
    dress(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(picture, ax=axes, shrink=0.85, aspect=24, pad=0.03)
    bar.set_label(plain(units), color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=8.5, colors=MUTED, labelcolor=INK)
    bar.outline.set_visible(False)
    put_title(figure, title)
    return figure


def _annotate(axes: Axes, value: NDArray[np.float64], top: float) -> None:
    decimals = min(max(2 - math.floor(math.log10(top)), 0), 6)
    for (row, column), v in np.ndenumerate(value):
        text = UNKNOWN if np.isnan(v) else "∞" if np.isinf(v) else f"{v:.{decimals}f}" if v else "0"
        # viridis is dark up to about 0.6 of its range
        ink = INK if np.isnan(v) or v > 0.6 * top else "white"
        size = 9 if len(value) <= 10 else 7
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=ink)
