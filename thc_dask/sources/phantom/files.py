"""The phantom as files: TIFF slices, label sets, and the true tables as CSV."""

from __future__ import annotations

import csv
import functools
import json
import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thc_dask.errors import ExistsError, writing
from thc_dask.grid import Vox
from thc_dask.schemes import SCHEMES
from thc_dask.sources.phantom.truth import Progress, Slab, Truth, annotated_planes, walk
from thc_dask.sources.phantom.volume import DEFAULT_SHAPE, SCHEME_OF, Phantom

FOLDERS = ("image", "labels/roi", "labels/roi_planes", "labels/microstructure", "labels", "truth")


@dataclass(frozen=True)
class Written:
    """What ``write_phantom`` wrote."""

    directory: str
    """Holds image/, labels/roi/, labels/roi_planes/, labels/microstructure/ and truth/."""
    shape: Vox
    """Planes, rows and columns of the image and of each label set."""
    seed: int
    """Which volume."""
    spacing_um: float
    """Distance between voxel centres, in micrometers."""
    annotated: tuple[int, ...]
    """Planes in labels/roi_planes/."""
    n_files: int
    """Files written."""
    n_bytes: int
    """Their size together."""


def write_phantom(
    directory: str | os.PathLike[str],
    shape: Vox = DEFAULT_SHAPE,
    seed: int = 0,
    *,
    spacing_um: float = 1.17,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write a phantom as TIFF slices, with its label sets and the true tables.

    ``image/`` is uncompressed, ``labels/roi/``, ``labels/microstructure/`` (every plane) and
    ``labels/roi_planes/`` (the annotated planes, and ``planes.json``) are deflated; all uint8,
    one file a plane, z0000.tif and so on. ``truth/`` holds ``histogram.csv``,
    ``histogram_planes.csv`` (annotated planes only), ``fractions.csv`` and ``planes.csv``; it is
    written last. At most 8 planes a thread are in memory.

    Parameters
    ----------
    directory
        New, or empty.
    shape, seed, spacing_um
        As in ``Phantom``.
    threads, progress
        As in ``true_tables``.

    Raises
    ------
    RequestError
        The shape, seed or spacing is not allowed.
    ExistsError
        The directory holds something.
    WriteError
        The directory cannot be written; what was begun is gone again.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> written = write_phantom(tempfile.mkdtemp(), (4, 40, 80))
    >>> written.n_files, sorted(path.name for path in Path(written.directory).glob("truth/*"))
    (20, ['fractions.csv', 'histogram.csv', 'histogram_planes.csv', 'planes.csv'])
    """
    phantom, root = Phantom(shape, seed, spacing_um), Path(directory)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise ExistsError(f"{root}: exists and is not empty; name a new directory or remove it")
    try:
        with writing(root):
            for folder in FOLDERS:
                (root / folder).mkdir(parents=True, exist_ok=True)
            use = functools.partial(_write_slab, root, phantom)
            truth = walk(phantom, use, threads, progress)
            planes = json.dumps({"planes": truth.annotated})
            (root / "labels/roi_planes/planes.json").write_text(planes + "\n", encoding="utf-8")
            _write_truth(root / "truth", truth)
            sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    except BaseException:
        for folder in FOLDERS:  # a part of a volume looks like a volume
            shutil.rmtree(root / folder, ignore_errors=True)
        raise
    return Written(str(root), shape, seed, spacing_um, truth.annotated, len(sizes), sum(sizes))


def _write_slab(root: Path, phantom: Phantom, first: int, slab: Slab) -> None:
    from tifffile import imwrite

    annotated = annotated_planes(phantom.shape[0])
    digits = max(4, len(str(phantom.shape[0] - 1)))
    per_cm = 1e4 / phantom.spacing_um
    tags: dict[str, Any] = {
        "photometric": "minisblack", "metadata": None, "software": "thc_dask",
        "resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER",
    }  # fmt: skip
    deflate = {**tags, "compression": "zlib"}
    for z, (image, roi, structure) in enumerate(zip(*slab.values(), strict=True), first):
        name = f"z{z:0{digits}}.tif"
        imwrite(root / "image" / name, image, **tags)
        imwrite(root / "labels/roi" / name, roi, **deflate)
        imwrite(root / "labels/microstructure" / name, structure, **deflate)
        if z in annotated:
            imwrite(root / "labels/roi_planes" / name, roi, **deflate)


def _write_truth(folder: Path, truth: Truth) -> None:
    regions = SCHEMES[SCHEME_OF["roi"]].names
    structures = SCHEMES[SCHEME_OF["microstructure"]].names
    for name, table in (
        ("histogram", truth.histogram),
        ("histogram_planes", truth.histogram_planes),
    ):
        rows = ((regions[r], i, n) for (r, i), n in np.ndenumerate(table))
        _write_csv(folder / f"{name}.csv", ("region", "intensity", "count"), rows)
    voxels = truth.structures.sum(axis=1)
    shares = (
        (regions[r], structures[s], n, n / voxels[r] if voxels[r] else math.nan)
        for (r, s), n in np.ndenumerate(truth.structures)
    )
    _write_csv(folder / "fractions.csv", ("region", "structure", "count", "fraction"), shares)
    rows = ((z, regions[r], n) for (z, r), n in np.ndenumerate(truth.planes))
    _write_csv(folder / "planes.csv", ("plane", "region", "count"), rows)


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
