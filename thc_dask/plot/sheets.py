"""Contact sheets: many small views, each with a line below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from thc_dask.errors import RequestError
from thc_dask.plot.canvas import INK, WIDTH_IN, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 6
PAD_IN, LINE_IN, TITLE_IN = 0.1, 0.22, 0.4  # around views, below each for its name, above all


def contact_sheet(
    views: ArrayLike,
    names: Sequence[str],
    limits: tuple[float, float],
    spacing_um: tuple[float, float] = (1.0, 1.0),
    title: str = "",
) -> Figure:
    """Return grey views side by side, six in a row, each with its name below.

    Parameters
    ----------
    views
        Grey levels (view, y, x).
    names
        A line for each view.
    limits
        Grey levels that are black and white in all views.
    spacing_um
        Distance between voxel centres along y and x, micrometers.
    title
        Line above.

    Raises
    ------
    RequestError
        There is no view, or not a name for each.

    Examples
    --------
    >>> figure = contact_sheet(np.zeros((7, 8, 8)), list("abcdefg"), (0, 255))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['a', 'b', 'c', 'd', 'e', 'f', 'g']
    """
    tiles = np.asarray(views)
    if tiles.ndim != 3 or not tiles.size or len(names) != len(tiles):
        raise RequestError(
            f"views of shape {tiles.shape} with {len(names)} names: give (view, y, x) and a name "
            "for each"
        )
    n_columns = min(COLUMNS, len(tiles))
    n_rows = math.ceil(len(tiles) / n_columns)
    width = (WIDTH_IN - PAD_IN) / COLUMNS - PAD_IN
    height = width * tiles.shape[1] * spacing_um[0] / (tiles.shape[2] * spacing_um[1])
    above = TITLE_IN if title else PAD_IN
    wide, high = WIDTH_IN, above + n_rows * (height + LINE_IN)
    figure = new_figure(high, width=wide)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for i, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        row, column = divmod(i, n_columns)
        left = PAD_IN + column * (width + PAD_IN)
        top = above + row * (height + LINE_IN)
        axes.imshow(
            tile, cmap="gray", vmin=limits[0], vmax=max(limits[1], limits[0] + 1), aspect="auto",
            extent=(left, left + width, top + height, top),
        )  # fmt: skip
        axes.text(left, top + height + 0.04, plain(name), color=INK, fontsize=9, va="top")
    axes.set(xlim=(0, wide), ylim=(high, 0))
    figure.text(PAD_IN / wide, 1 - PAD_IN / high, plain(title), color=INK, fontsize=11, va="top")
    return figure
