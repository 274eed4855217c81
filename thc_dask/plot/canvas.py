"""What all figures share: size, ink, names, and the way out as a file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thc_dask.errors import MissingError, RequestError
from thc_dask.schemes import PALETTE
from thc_dask.store.filesink import write_file

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, PALE, FAINT = "#1f2328", "#59636e", "#d0d5da", "#e4e7eb"
WIDTH_IN = 9.0
"""Width of a figure: 900 px on a page, where 9 pt is then about 12 px."""
DPI = 150
CHARACTER_IN = 0.078
"""Width of a character of 9 pt, about."""
FORMATS = ("png", "svg", "pdf")


def render(figure: Figure, form: str) -> bytes:
    """Return the figure as the bytes of a ``png``, ``svg`` or ``pdf`` file.

    Raises
    ------
    RequestError
        Another form is asked for.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> render(Figure(), "png")[1:4]
    b'PNG'
    """
    if form not in FORMATS:
        raise RequestError(f"figure format {form!r}: give one of {', '.join(FORMATS)}")
    from matplotlib import rc_context

    # No date and no version inside, and no names of parts made up anew: equal figures are equal
    # files.
    nothing = {"png": ["Software"], "svg": ["Date", "Creator"]}.get(form, ["CreationDate"])
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "thc_dask"}):
        figure.savefig(buffer, format=form, dpi=DPI, metadata=dict.fromkeys(nothing))
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure to ``path``; the suffix says which form: ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    RequestError
        Another suffix.
    MissingError
        The folder does not exist.
    WriteError
        The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        raise RequestError(f"{path}: a figure's name must end in .{', .'.join(FORMATS)}")
    data = render(figure, path.suffix.lower().removeprefix("."))
    if not path.parent.exists():
        raise MissingError(f"{path}: folder {path.parent} does not exist; create it")
    write_file(path, data)


def new_figure(height: float, width: float = WIDTH_IN, **options: Any) -> Figure:
    """Return an empty white figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", **options)


def put_title(figure: Figure, title: str) -> None:
    """Write the title at the upper left, if there is one."""
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11, color=INK)


def dress(axes: Axes, percent: bool = False) -> None:
    """Give axes their ink; ``percent`` is for shares along y."""
    from matplotlib.ticker import PercentFormatter

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(MUTED)
    axes.tick_params(labelsize=9, colors=MUTED, labelcolor=INK)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set(color=INK, fontsize=9)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", color=FAINT, lw=0.8)
        axes.set_axisbelow(True)


def name_ticks(axes: Axes, axis: str, names: Sequence[str], room: float = math.inf) -> None:
    """Write names along ``axis`` (``x`` or ``y``), slanted if longer than ``room`` inches."""
    long = CHARACTER_IN * max(map(len, names)) > room
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    place = axes.set_xticks if axis == "x" else axes.set_yticks
    place(range(len(names)), [plain(name) for name in names], **(slant if long else {}))


def plain(text: str) -> str:
    """Return text that is drawn as it is: a dollar would begin a formula."""
    return text.replace("$", r"\$")


def colors_along(table: xr.DataArray | xr.Dataset, dim: str) -> list[str]:
    """Return the colours along ``dim``: its coordinate, or the palette."""
    for name in (f"{dim}_color", "color"):
        if name in table.coords and table[name].dims == (dim,):
            return [str(color) for color in table[name].values]
    return [PALETTE[i % len(PALETTE)] for i in range(table.sizes[dim])]


def luminance(color: str) -> float:
    """Return how light a colour looks, 0 (black) to 1 (white); ITU-R BT.709 weights."""
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722)))


def casing(color: str) -> list[Any]:
    """Return a dark rim for lines of a colour too light to be seen on white."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=3, foreground=MUTED), Normal()] if luminance(color) > 0.7 else []
