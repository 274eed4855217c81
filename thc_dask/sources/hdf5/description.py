"""What attributes and neighbours of a dataset say: the order of its axes and its voxel size.

Data Exchange: https://dxfile.readthedocs.io. Its files describe the measurement, and files of
reconstructions keep that description, so lengths there are those of the detector.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from thc_dask.errors import RequestError
from thc_dask.grid import AXES, Um
from thc_dask.units import micrometers

INSTRUMENT = "/measurement/instrument"
OBJECTIVE = f"{INSTRUMENT}/detection_system/objective"
DETECTOR = f"{INSTRUMENT}/detector"
# Attributes of a dataset or of what holds it; Fiji, ilastik and others write the first.
SIZES = ("element_size_um", "voxel_size_um", "pixel_size_um", "voxel_size", "pixel_size")


def axes_of(dataset: Any) -> str:
    """Return the axes in the order in which they are stored; ``zyx`` where nothing names them.

    Raises
    ------
    RequestError
        The dataset holds projections, not a volume.
    """
    names = _axis_names(dataset)
    if dataset.ndim == 2:
        names = ["z", *names]
    if sorted(names) == sorted(AXES):
        return "".join(names)
    if dataset.ndim == 3 and _has_angles(dataset, names):
        raise RequestError(
            f"hdf5: {dataset.name} of {dataset.file.filename} holds projections (there are angles "
            "in theta beside it), not a volume; reconstruct it first"
        )
    return "".join(AXES)


def _axis_names(dataset: Any) -> list[str]:
    given = dataset.attrs.get("axes")
    if given is None:
        return [dimension.label.lower() for dimension in dataset.dims]
    texts = [t.decode(errors="replace") if isinstance(t, bytes) else str(t) for t in _flat(given)]
    return re.findall(r"\w+", " ".join(texts).lower())


def _has_angles(dataset: Any, names: list[str]) -> bool:
    """Whether angles stand beside a dataset whose axes are theirs, or are not named at all.

    Reconstructions are often written with the axes of projections, by default, but without angles.
    """
    theta = dataset.parent.get("theta")
    if getattr(theta, "shape", None) is None:
        return False
    if any(name.startswith("theta") for name in names):
        return theta.size in dataset.shape
    return not any(names) and theta.size == len(dataset)


def voxel_size_of(dataset: Any, file: Any) -> Um | None:
    """Return the voxel size in micrometers along the axes as stored, None where none is given."""
    for sizes in (*_from_attributes(dataset), *_from_measurement(file)):
        if len(sizes) == 1:
            sizes *= 3
        if len(sizes) == 3 and all(math.isfinite(s) and s > 0 for s in sizes):
            return sizes[0], sizes[1], sizes[2]
    return None


def _from_attributes(dataset: Any) -> Iterator[list[float]]:
    for owner in (dataset, dataset.parent, dataset.file):
        for name in SIZES:
            if name in owner.attrs:
                units = (owner.attrs.get(f"{name}{end}") for end in ("_unit", "_units"))
                unit = "um" if name.endswith("_um") else next(filter(None, units), "")
                yield _lengths(owner.attrs[name], unit)


def _from_measurement(file: Any) -> Iterator[list[float]]:
    """Yield voxel sizes that the description of the measurement gives, the surest first."""
    yield _value(file, f"{OBJECTIVE}/resolution")
    yield _value(file, f"{DETECTOR}/actual_pixel_size_x")
    # The detector's own pixel is that of a voxel only behind the lens, and unless it is binned.
    scale = _numbers(_get(file, f"{OBJECTIVE}/magnification"))
    binned = _numbers(_get(file, f"{DETECTOR}/binning_x"))
    if len(scale) == 1 and scale[0] > 0 and binned in ([], [1.0]):
        for name in ("pixel_size", "pixel_size_x"):
            yield [size / scale[0] for size in _value(file, f"{DETECTOR}/{name}")]


def _get(file: Any, path: str) -> Any:
    item = file.get(path)
    return item[()] if getattr(item, "shape", None) is not None else ()


def _value(file: Any, path: str) -> list[float]:
    item = file.get(path)
    unit = None if item is None else item.attrs.get("units")
    return _lengths(_get(file, path), "micron" if unit is None else unit)


def _lengths(values: Any, unit: Any) -> list[float]:
    text = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
    return [micrometers(value, text) or math.nan for value in _numbers(values)]


def _flat(value: Any) -> list[Any]:
    return list(np.ravel(np.asarray(value, object if isinstance(value, bytes) else None)))


def _numbers(values: Any) -> list[float]:
    """Return numbers of any form, also such as "5x"; nothing where there are others."""
    texts = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in _flat(values)]
    try:
        # By way of text, so that 1.17 in single precision is 1.17.
        return [float(text.strip().rstrip("xX")) for text in texts]
    except ValueError:
        return []
