"""Annotators: how well they recognise each region, and which regions differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thc_dask.errors import RequestError
from thc_dask.plot.canvas import (
    CHARACTER_IN,
    INK,
    MUTED,
    PALE,
    WIDTH_IN,
    dress,
    name_ticks,
    new_figure,
    plain,
    put_title,
)
from thc_dask.schemes import PALETTE

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def scores_by_region(scores: xr.DataArray, title: str = "") -> Figure:
    """Return grouped bars, one group a region and one bar an annotator, a dot for each data set.

    Parameters
    ----------
    scores
        (dataset, annotator, region), 0 to 1; NaN where there is none.
    title
        Line above the figure.

    Raises
    ------
    RequestError
        The dims are others, or there is no score.

    Examples
    --------
    >>> import xarray as xr
    >>> f1 = xr.DataArray([[[0.9, 0.5]]], dims=("dataset", "annotator", "region"),
    ...                   coords={"dataset": ["1"], "annotator": ["ann"], "region": ["CTX", "ZI"]})
    >>> [label.get_text() for label in scores_by_region(f1).axes[0].get_xticklabels()]
    ['CTX', 'ZI']
    """
    dims = ("dataset", "annotator", "region")
    if set(scores.dims) != set(dims) or not np.isfinite(scores.values).any():
        raise RequestError(f"scores with dims {scores.dims}: give {dims} with one score at least")
    value = np.asarray(scores.transpose(*dims).values, np.float64)
    annotators = [str(name) for name in scores["annotator"].values]
    regions = [str(name) for name in scores["region"].values]
    figure = new_figure(3.9, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(annotators)
    for a, name in enumerate(annotators):
        x = np.arange(len(regions)) + (a + 0.5) * width - 0.4
        known = np.isfinite(value[:, a])
        total = np.where(known, value[:, a], 0).sum(axis=0)
        mean = np.divide(
            total, known.sum(axis=0), out=np.full(len(regions), np.nan), where=known.any(axis=0)
        )
        axes.bar(x, mean, 0.9 * width, color=PALETTE[a % len(PALETTE)], ec=INK, lw=0.6,
                 label=plain(name))  # fmt: skip
        for dots in value[:, a]:
            axes.plot(x, dots, "o", ms=4, mfc="white", mec=INK, mew=0.8, ls="none")
    axes.set_ylim(0, 1.05)
    axes.set_ylabel(str(scores.name or "score"))
    name_ticks(axes, "x", regions, room=8.3 / len(regions))
    dress(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(annotators), frameon=False,
                fontsize=9, labelcolor=INK)  # fmt: skip
    put_title(figure, title)
    return figure


def significance_matrices(stars: xr.DataArray, difference: xr.DataArray, title: str = "") -> Figure:
    """Return a matrix for each annotator: how far recall differs, and the stars of its test.

    Parameters
    ----------
    stars
        (annotator, region, other) of ``*``, ``**``, ``***``, ``ns`` or nothing.
    difference
        (annotator, region, other): recall of region minus that of other, -1 to 1.
    title
        Line above the figure.

    Raises
    ------
    RequestError
        The dims are others.

    Examples
    --------
    >>> import xarray as xr
    >>> coords = {"annotator": ["ann"], "region": ["CTX", "ZI"], "other": ["CTX", "ZI"]}
    >>> stars = xr.DataArray([[["", "*"], ["*", ""]]], coords, ("annotator", "region", "other"))
    >>> apart = stars.copy(data=[[[0.0, 0.3], [-0.3, 0.0]]])
    >>> [text.get_text() for text in significance_matrices(stars, apart).axes[0].texts]
    ['*']
    """
    dims = ("annotator", "region", "other")
    if set(stars.dims) != set(dims) or set(difference.dims) != set(dims):
        raise RequestError(f"significance with dims {stars.dims}: give {dims}")
    marks = stars.transpose(*dims).values
    apart = np.asarray(difference.transpose(*dims).values, np.float64)
    names = [str(name) for name in stars["region"].values]
    n = len(names)
    side = (WIDTH_IN - 1.6) / len(marks)
    figure = new_figure(side + 1.3 + CHARACTER_IN * max(map(len, names)), layout="constrained")
    panels = figure.subplots(1, len(marks), sharey=True, squeeze=False)[0]
    below = np.tril(np.ones((n, n), bool))
    for axes, mark, values, who in zip(
        panels, marks, apart, stars["annotator"].values, strict=True
    ):
        picture = axes.imshow(np.where(below, np.nan, values), cmap="RdBu", vmin=-1, vmax=1)
        for (row, column), text in np.ndenumerate(mark):
            if row < column and text:
                known = np.isfinite(values[row, column])
                ink = "white" if known and abs(values[row, column]) > 0.6 else INK
                axes.text(column, row, text, ha="center", va="center", fontsize=9, color=ink)
        axes.set_facecolor(PALE)
        name_ticks(axes, "x", names, room=side / n)
        name_ticks(axes, "y", names)
        axes.set_title(plain(str(who)), fontsize=9.5, color=INK)
        dress(axes)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.8, aspect=24, pad=0.02)
    bar.set_label("recall of row minus recall of column", color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=8.5, colors=MUTED, labelcolor=INK)
    bar.outline.set_visible(False)
    put_title(figure, title)
    return figure
