"""The main job from nothing to a report, on a synthetic volume and, if given, on the real slice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.errors import ExistsError, MissingError, writing
from thc_dask.figures import drawn, panels, save_panels
from thc_dask.grid import Extent, Vox
from thc_dask.labels import write_labels
from thc_dask.page import Section
from thc_dask.report import sections, write_page
from thc_dask.sources.phantom import write_phantom

SHAPE: Vox = (160, 384, 1536)
SPACING = "1.17um"
MARK = "made-by-thc-demo"

Tell = Callable[[str], None]


def demo(
    directory: str | os.PathLike[str] = "demo",
    *,
    shape: Vox = SHAPE,
    seed: int = 0,
    data: str | os.PathLike[str] | None = None,
    tell: Tell = lambda _: None,
) -> Path:
    """Make a phantom, convert it, add labels, count, draw, report; return the report's path.

    Parameters
    ----------
    directory
        Where everything goes; what an earlier demo left there is replaced.
    shape
        Voxels of the phantom (z, y, x).
    seed
        Of the phantom.
    data
        Folder with ``slice_z309.tif``, ``roi_z309.tif`` and ``roi_z309.json`` of Prasad et al.
        2020, to show the real slice too.
    tell
        Called with a line about each step.

    Raises
    ------
    ExistsError
        The folder holds something that no demo made.
    MissingError
        A file of ``data`` is missing.
    WriteError
        The folder cannot be written.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> demo(mkdtemp(), shape=(8, 32, 64)).name
    'report.html'
    """
    if data is not None:
        _check_data(Path(data))
    top = _clear(Path(directory))
    tell(f"phantom: {' x '.join(map(str, shape))} voxels (z, y, x), seed {seed}")
    write_phantom(top / "phantom", shape=shape, seed=seed)
    store = top / "phantom.ome.zarr"
    tell(f"convert: {top / 'phantom/image'} -> {store}")
    write_store(top / "phantom/image", store, spacing=SPACING, overwrite=True)
    tell("labels: roi on annotated planes, microstructure everywhere")
    labels = top / "phantom/labels"
    planes = json.loads((labels / "roi_planes/planes.json").read_text())["planes"]
    write_labels(labels / "roi_planes", store, "roi", "prasad2020-roi", planes=planes)
    scheme = "prasad2020-microstructure"
    write_labels(labels / "microstructure", store, "microstructure", scheme)
    parts = _finish(store, top / "figures/phantom", tell)
    title = "thc_dask demo: a synthetic thalamocortical volume"
    if data is not None:
        real = _real_slice(Path(data), top / "slice_z309.ome.zarr", tell)
        parts += _named(_finish(real, top / "figures/slice_z309", tell), "Real slice z = 309")
        title += ", and a real slice"
    page = write_page(top / "report.html", title, parts)
    tell(f"report: {page}")
    return page


def _clear(top: Path) -> Path:
    """Return the folder, empty but for our mark."""
    import shutil

    with writing(top):
        if top.exists() and not (top / MARK).exists() and (top.is_file() or any(top.iterdir())):
            raise ExistsError(f"{top} is not empty and no demo made it; give another folder")
        if top.exists():
            shutil.rmtree(top)
        top.mkdir(parents=True)
        (top / MARK).touch()
    return top


def _finish(store: Path, folder: Path, tell: Tell) -> list[Section]:
    tell(f"count: {store}")
    write_counts(store)
    found = drawn(panels(store))
    files = save_panels(found, folder)
    tell(f"figures: {len(files)} in {folder}")
    return sections(store, found)


def _named(parts: list[Section], prefix: str) -> list[Section]:
    from dataclasses import replace

    return [replace(part, heading=f"{prefix}: {part.heading}") for part in parts]


def _check_data(data: Path) -> None:
    for name in ("slice_z309.tif", "roi_z309.tif", "roi_z309.json"):
        if not (data / name).is_file():
            raise MissingError(f"data {data}: {name} is missing; give the folder that holds it")


def _real_slice(data: Path, store: Path, tell: Tell) -> Path:
    window = json.loads((data / "roi_z309.json").read_text())["known_window"]
    (y0, y1), (x0, x1) = window["y"], window["x"]
    tell(f"convert: {data / 'slice_z309.tif'} -> {store}")
    write_store(data / "slice_z309.tif", store, spacing=SPACING, overwrite=True)
    known = [Extent((0, y0, x0), (1, y1, x1))]
    write_labels(data / "roi_z309.tif", store, "roi", "prasad2020-roi", extents=known)
    return store
