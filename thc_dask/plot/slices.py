"""A slice with its labels laid over it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thc_dask.errors import RequestError
from thc_dask.plot.canvas import DPI, INK, MUTED, WIDTH_IN, new_figure, plain
from thc_dask.schemes import Label, Scheme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

OVERLAY_PX = 1600
"""Labels are drawn at about this many pixels along the longer side, whatever the slice has."""
LINE_IN = 0.165
"""Height of one line of the legend, in inches."""


def annotated_slice(
    image2d: ArrayLike,
    labels2d: ArrayLike | None,
    scheme: Scheme,
    spacing_um: float | tuple[float, float],
    known: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Return a grey slice with its labels laid over it, a legend and a scale bar.

    Grey limits are the 0.5th and 99.8th percentile of the slice. Where labels are not known the
    slice is faded and hatched.

    Parameters
    ----------
    image2d
        Grey levels, (row, column), for instance (y, x).
    labels2d
        Codes of ``scheme``, (row, column), or None for the bare slice.
    scheme
        Names and colours.
    spacing_um
        Distance between voxel centres in micrometers, one number or (row, column).
    known
        Where the labels are known, bool (row, column); None means everywhere.
    title
        Line above the slice.

    Raises
    ------
    RequestError
        The shapes differ, or a label has a code that the scheme does not name.

    Examples
    --------
    >>> from thc_dask.schemes import find_scheme
    >>> image = np.arange(64).reshape(8, 8)
    >>> figure = annotated_slice(image, image // 32, find_scheme("prasad2020-roi"), 1.17)
    >>> [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    ['CTX  cortex']
    """
    image = np.asarray(image2d)
    if image.ndim != 2 or not image.size:
        raise RequestError(f"slice of shape {image.shape}: give a 2-D array (row, column)")
    rows_um, columns_um = _spacing(spacing_um)
    labels = None if labels2d is None else _like(labels2d, image, "labels2d")
    seen = np.ones(image.shape, bool)
    if known is not None and labels is not None:
        seen = _like(known, image, "known") != 0
    width_um, height_um = image.shape[1] * columns_um, image.shape[0] * rows_um
    present = [] if labels is None else _present(labels, seen, scheme)
    handles = _handles(present, unknown=not seen.all())
    names = [str(handle.get_label()) for handle in handles]
    figure, axes, strip = _layout(width_um / height_um, names, bool(title))
    low, high = np.percentile(image, (0.5, 99.8))
    box = (0.0, width_um, height_um, 0.0)
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1), extent=box, aspect="auto")
    if labels is not None:
        axes.imshow(_overlay(labels, seen, scheme), extent=box, aspect="auto")
        for label in present:
            _name_region(axes, (labels == label.code) & seen, label.name, box)
    if title:
        axes.set_title(plain(title), loc="left", fontsize=11, color=INK, pad=7)
    _scale_bar(strip, width_um * DPI / axes.bbox.width)
    _legend(strip, handles)
    return figure


def _spacing(spacing_um: float | tuple[float, float]) -> tuple[float, float]:
    pair = np.broadcast_to(np.asarray(spacing_um, np.float64), (2,))
    if not np.all(np.isfinite(pair) & (pair > 0)):
        raise RequestError(f"spacing {spacing_um} um: give one or two lengths above 0")
    return float(pair[0]), float(pair[1])


def _like(array: ArrayLike, image: NDArray[Any], what: str) -> NDArray[Any]:
    result = np.asarray(array)
    if result.shape != image.shape:
        raise RequestError(
            f"{what} has shape {result.shape}, the slice {image.shape}: give equal shapes"
        )
    return result


def _present(labels: NDArray[Any], seen: NDArray[np.bool_], scheme: Scheme) -> list[Label]:
    """Return the labels, other than 0, that occur where they are known."""
    codes = {int(code) for code in np.unique(labels[seen])} - {0}
    if strange := codes - set(scheme.codes.tolist()):
        raise RequestError(
            f"labels2d holds code {min(strange)}, which scheme {scheme.name!r} does not name; "
            f"known: {', '.join(map(str, scheme.codes))}"
        )
    return [label for label in scheme.labels if label.code in codes]


def _handles(present: Sequence[Label], unknown: bool) -> list[Patch]:
    from matplotlib.patches import Patch

    names = [plain(f"{x.name}  {x.title}" if x.title else x.name) for x in present]
    handles = [
        Patch(facecolor=x.color, edgecolor=INK, lw=0.4, label=name)
        for x, name in zip(present, names, strict=True)
    ]
    if unknown:
        handles.append(Patch(fc="#f3f4f6", ec=MUTED, hatch="////", lw=0.4, label="not annotated"))
    return handles


def _layout(aspect: float, names: Sequence[str], title: bool) -> tuple[Figure, Axes, Axes]:
    """Return a figure, axes for the slice, and a strip for the legend below or beside it.

    The strip's coordinates are inches.
    """
    pad, above = 0.1, 0.36 if title else 0.1
    wide = aspect > 1.8
    width = WIDTH_IN - 2 * pad if wide else min(6.0, 6.2 * aspect)
    height = max(width / aspect, 0.3)
    n_rows = math.ceil(len(names) / _legend_columns(names)) if wide else 0
    below = max(0.5, 0.2 + LINE_IN * n_rows) if wide else pad
    side = 0.0 if wide else 2.9
    figure = new_figure(above + height + below, width=width + 2 * pad + side)
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes(
        (pad / total_width, below / total_height, width / total_width, height / total_height)
    )
    x, y, w, h = (pad, 0.0, width, below - 0.08) if wide else (2 * pad + width, below, side, height)
    strip = figure.add_axes((x / total_width, y / total_height, w / total_width, h / total_height))
    strip.set_xlim(0, w)
    strip.set_ylim(0, h)
    for each in (axes, strip):
        each.set_xticks([])
        each.set_yticks([])
        each.spines[:].set_visible(False)
    return figure, axes, strip


def _legend_columns(names: Sequence[str]) -> int:
    """Return how many columns of such names leave room for the scale bar."""
    column = 0.5 + 0.058 * max(map(len, names), default=1)
    return max(1, min(len(names), int(7.0 / column)))


def _overlay(labels: NDArray[Any], seen: NDArray[np.bool_], scheme: Scheme) -> NDArray[np.uint8]:
    """Return the labels as pixels (row, column, rgba): faint inside, strong at their border."""
    code = _resampled(labels, OVERLAY_PX).astype(np.int64)
    known = _resampled(seen, OVERLAY_PX)
    code[~known] = 0
    table = np.zeros((int(scheme.codes.max()) + 1, 4), np.uint8)
    for label in scheme.labels[1:]:
        table[label.code] = (*label.rgb, 70)
    pixels = table[code]
    pixels[_border(code) & (code > 0), 3] = 255
    diagonal = np.add.outer(np.arange(code.shape[0]), np.arange(code.shape[1]))
    pixels[~known] = (255, 255, 255, 140)
    pixels[~known & (diagonal % 24 < 2)] = (110, 117, 126, 170)
    return pixels


def _resampled(array: NDArray[Any], target: int) -> NDArray[Any]:
    """Return every n-th element, or every element n times, to come near ``target``."""
    longest = max(array.shape)
    step = max(1, round(longest / target))
    times = max(1, target // longest)
    return array[::step, ::step].repeat(times, 0).repeat(times, 1)


def _border(code: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the elements within two of another code."""
    border: NDArray[np.bool_] = np.zeros(code.shape, bool)
    for n in (1, 2):
        below, right = code[n:] != code[:-n], code[:, n:] != code[:, :-n]
        border[n:] |= below
        border[:-n] |= below
        border[:, n:] |= right
        border[:, :-n] |= right
    return border


def _name_region(
    axes: Axes, inside: NDArray[np.bool_], name: str, box: tuple[float, float, float, float]
) -> None:
    """Write the name where the region is widest, if there is room for it."""
    from matplotlib.patheffects import withStroke
    from scipy.ndimage import distance_transform_edt

    coarse = np.pad(_resampled(inside, 300), 1)
    depth = distance_transform_edt(coarse)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    if depth[row, column] < 1.2:
        return
    n_rows, n_columns = coarse.shape
    # a narrow region that stands upright gets its name upright
    narrow = depth[row, column] < 5
    across, along = (np.flatnonzero(coarse.any(axis=axis)) for axis in (0, 1))
    upright = narrow and len(along) > len(across)
    axes.text(
        (column - 0.5) / (n_columns - 2) * box[1],
        (row - 0.5) / (n_rows - 2) * box[2],
        plain(name),
        color="white",
        fontsize=7 if narrow else 9,
        fontweight="bold",
        ha="center",
        va="center",
        rotation=90 if upright else 0,
        path_effects=[withStroke(linewidth=2, foreground="black")],
    )


def _legend(strip: Axes, handles: list[Patch]) -> None:
    width, height = strip.get_xlim()[1], strip.get_ylim()[1]
    if handles:
        strip.legend(
            handles=handles,
            loc="upper left",
            ncols=_legend_columns([str(h.get_label()) for h in handles]) if width > height else 1,
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            handlelength=1.3,
            handleheight=0.9,
            columnspacing=1.4,
            borderpad=0,
            borderaxespad=0.1,
            labelspacing=0.4,
        )


def _scale_bar(strip: Axes, um_per_inch: float) -> None:
    """Draw a round length of about one inch: top right of a low strip, else at the bottom."""
    exponent = 10.0 ** math.floor(math.log10(1.4 * um_per_inch))
    um = max(m for m in (1, 2, 5) if m * exponent <= 1.4 * um_per_inch) * exponent
    length = um / um_per_inch
    width, height = strip.get_xlim()[1], strip.get_ylim()[1]
    x, y = (width - length, height - 0.08) if width > height else (0.02, 0.22)
    strip.plot([x, x + length], [y, y], color=INK, lw=3, solid_capstyle="butt")
    strip.text(x + length / 2, y - 0.07, f"{um:g} µm", color=INK, fontsize=9, ha="center", va="top")
