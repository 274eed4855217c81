"""Patches as pictures: numbered views to be answered, and examples with the names of regions."""

from __future__ import annotations

import os
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thc_dask.errors import MissingError, RequestError, writing

if TYPE_CHECKING:
    import xarray as xr

VIEWS = 48  # of a page
FOR_LIMITS = 256  # patches that say which grey levels are black and white


def write_sheet(
    found: xr.Dataset, path: str | os.PathLike[str], examples: bool = False
) -> list[str]:
    """Draw contact sheets of patches and return the names of the files, a page each.

    Further pages that a longer run has left under these names are removed.

    What is to be answered are the test patches, or all where there is no split: in the order of
    their numbers, which is shuffled, with nothing but the number. Grey levels are the same in
    all views.

    Parameters
    ----------
    found
        What ``patches`` returned, or ``xarray.open_zarr`` of what it wrote.
    path
        File of the first page, ``.png``, ``.svg`` or ``.pdf``; the next ones are called
        ``sheet_2.png`` and so on.
    examples
        Draw the train patches instead, sorted by region, with its name: what annotators learn from.

    Raises
    ------
    RequestError
        There are no such patches, or the suffix is another.
    MissingError
        The folder does not exist.
    WriteError
        A file cannot be written.

    Examples
    --------
    >>> import xarray as xr
    >>> from tempfile import mkdtemp
    >>> coords = {"patch": [0, 1], "region": ("patch", ["CTX", "ZI"]),
    ...           "split": ("patch", ["test", "test"])}
    >>> image = np.zeros((2, 8, 8), np.uint8)
    >>> attrs = {"size_um": 9.36, "spacing_um": [1.17, 1.17, 1.17]}
    >>> found = xr.Dataset({"image": (("patch", "y", "x"), image)}, coords, attrs)
    >>> [Path(name).name for name in write_sheet(found, mkdtemp() + "/sheet.png")]
    ['sheet.png']
    """
    from thc_dask.plot.canvas import save
    from thc_dask.plot.sheets import contact_sheet

    path = check_sheet(path)
    some, names = _shown(found, examples)
    image = found["image"].isel(patch=some)
    limits = np.percentile(image[:FOR_LIMITS].values, (0.5, 99.5))
    _, *spacing = found.attrs["spacing_um"]
    n_pages = -(-len(some) // VIEWS)
    what = "examples" if examples else "patches"
    files = []
    for page in range(n_pages):
        views = slice(page * VIEWS, (page + 1) * VIEWS)
        title = f"{len(some)} {what} of {found.attrs['size_um']:g} µm"
        title += f", page {page + 1} of {n_pages}" if n_pages > 1 else ""
        figure = contact_sheet(
            image[views].values, names[views], (float(limits[0]), float(limits[1])),
            (float(spacing[0]), float(spacing[1])), title,
        )  # fmt: skip
        file = _page(path, page)
        save(figure, file)
        files.append(str(file))
    # Up to the first that is not there: a number further on is not of a page.
    for stale in takewhile(Path.is_file, (_page(path, page) for page in count(n_pages))):
        with writing(stale):
            stale.unlink()
    return files


def _page(path: Path, page: int) -> Path:
    """Return the file of a page, from 0 on."""
    return path.with_name(f"{path.stem}_{page + 1}{path.suffix}") if page else path


def check_sheet(path: str | os.PathLike[str]) -> Path:
    """Return the file of a sheet, if one can be drawn there; RequestError says why not."""
    from thc_dask.plot.canvas import FORMATS

    file = Path(path)
    if file.suffix.lower().removeprefix(".") not in FORMATS:
        raise RequestError(f"sheet {path}: its name must end in .{', .'.join(FORMATS)}")
    if not file.parent.exists():
        raise MissingError(f"sheet {path}: folder {file.parent} does not exist; create it")
    return file


def _shown(found: xr.Dataset, examples: bool) -> tuple[list[int], list[str]]:
    """Return which patches are drawn, in which order, and the line below each."""
    number, region, split = (found[name].values for name in ("patch", "region", "split"))
    test = split == "test"
    if not examples:
        some = np.flatnonzero(test if test.any() else ~test).tolist()
        return some, [str(number[i]) for i in some]
    some = sorted(np.flatnonzero(~test).tolist(), key=lambda i: (str(region[i]), number[i]))
    return some, [f"{number[i]}  {region[i]}" for i in some]
