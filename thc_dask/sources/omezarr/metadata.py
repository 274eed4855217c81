"""What zarr attributes say of an array: its axes, its voxel size, where its first voxel lies.

OME-Zarr 0.4 and 0.5; for other arrays the names of their dimensions and coordinate arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError
from thc_dask.grid import AXES, Um, Vox
from thc_dask.units import micrometers

KNOWN = "OME-Zarr 0.4 and 0.5 are known"


@dataclass(frozen=True)
class Lattice:
    """Where the elements of an array lie; one value for each of its dimensions."""

    names: tuple[str, ...]
    """Of the dimensions: ``z``, ``c``, ...; ``?`` where it has none."""
    spacing_um: tuple[float | None, ...]
    """Distance of centres in micrometers; None where it is not known."""
    origin_um: tuple[float, ...]
    """Centre of the first element in micrometers."""
    falls: tuple[bool, ...]
    """Whether its coordinates descend."""


@dataclass(frozen=True)
class Spatial:
    """The dimensions of an array that are z, y and x."""

    places: tuple[int, ...]
    """Which dimensions they are; two for a plane, three for a volume."""
    axes: str
    """Their names as stored, such as ``zyx``; a plane is given a z first."""

    def pick(self, values: Sequence[Any], plane: Any) -> tuple[Any, Any, Any]:
        """Return the values of these dimensions; ``plane`` is that of the z of a plane."""
        found = [values[place] for place in self.places]
        a, b, c = [plane, *found] if len(found) == 2 else found
        return a, b, c


def multiscale_of(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the (first) multiscale image that the attributes of a group describe."""
    ome = attributes.get("ome")
    images = (ome if isinstance(ome, Mapping) else attributes).get("multiscales")
    if isinstance(images, Sequence) and images and isinstance(images[0], dict):
        return images[0]
    return None


def level_paths(image: Mapping[str, Any]) -> list[str]:
    """Return the paths of the levels' arrays, finest first; none where the version is not known."""
    try:
        named = all(isinstance(axis["name"], str) for axis in image["axes"])
        return [str(dataset["path"]).strip("/") for dataset in image["datasets"] if named]
    except (KeyError, TypeError):
        return []


def lattice_of_level(
    image: Mapping[str, Any], level: int, shape: Sequence[int], where: str
) -> Lattice:
    """Return the lattice of one level of a multiscale image.

    Raises
    ------
    DataError
        The metadata do not fit the array, or hold a transformation that is not allowed there.
    """
    axes = image["axes"]
    if len(axes) != len(shape):
        raise DataError(f"zarr: {where} names {len(axes)} axes, but its array has {len(shape)}")
    scale, shift = [1.0] * len(axes), [0.0] * len(axes)
    known = False
    # Those of the image come after that of the level.
    for owner in (image["datasets"][level], image):
        for step in owner.get("coordinateTransformations") or ():
            values = _vector(step, len(shape), where)
            if step["type"] == "scale":
                known = True
                scale = [a * b for a, b in zip(scale, values, strict=True)]
                shift = [a * b for a, b in zip(shift, values, strict=True)]
            elif step["type"] == "translation":
                shift = [a + b for a, b in zip(shift, values, strict=True)]
    units = [str(axis.get("unit") or "") for axis in axes]
    return Lattice(
        tuple(axis["name"].lower() for axis in axes),
        tuple(micrometers(a, u) if known else None for a, u in zip(scale, units, strict=True)),
        tuple(micrometers(t, u) or 0.0 for t, u in zip(shift, units, strict=True)),
        tuple(a < 0 for a in scale),
    )


def _vector(step: Any, n: int, where: str) -> list[float]:
    kind = step.get("type") if isinstance(step, Mapping) else None
    if kind == "identity":
        return []
    values = step.get(kind) if kind in ("scale", "translation") else None
    try:
        numbers = [float(value) for value in values or ()]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != n or not all(map(math.isfinite, numbers)):
        raise DataError(
            f"zarr: {where}: a coordinate transformation must be a scale or a translation of {n} "
            f"numbers, not {str(step)[:80]}; {KNOWN}"
        )
    return numbers


def lattice_of_coordinates(
    names: Sequence[str], coordinates: Mapping[str, tuple[NDArray[Any], str]]
) -> Lattice:
    """Return the lattice that 1-D arrays of coordinates, with their units, describe."""
    steps: list[float | None] = []
    first: list[float] = []
    falls: list[bool] = []
    for name in names:
        values, unit = coordinates.get(name, (np.empty(0), ""))
        step = _step(np.asarray(values, np.float64))
        steps.append(None if step is None else micrometers(step, unit))
        first.append((micrometers(float(values[0]), unit) or 0.0) if len(values) else 0.0)
        falls.append(len(values) > 1 and bool(values[-1] < values[0]))
    return Lattice(tuple(names), tuple(steps), tuple(first), tuple(falls))


def _step(values: NDArray[np.float64]) -> float | None:
    """Return the distance of evenly spaced, rising values."""
    if len(values) < 2:
        return None
    step = float((values[-1] - values[0]) / (len(values) - 1))
    even = step > 0 and np.allclose(np.diff(values), step, rtol=1e-6, atol=1e-6 * step)
    return step if even else None


def spatial_of(names: Sequence[str], shape: Sequence[int], where: str) -> Spatial:
    """Return which dimensions are z, y and x; all others must have one element.

    Raises
    ------
    RequestError
        There are others, or too few.
    """
    n = len(shape)
    if not any(name in AXES for name in names):
        # Where none is named, the last three are z, y, x, as everywhere.
        names = [*names[: max(0, n - 3)], *AXES[max(0, 3 - n) :]]
    places = tuple(i for i, name in enumerate(names) if name in AXES)
    axes = "".join(names[i] for i in places)
    others = [i for i in range(n) if i not in places and shape[i] != 1]
    if n < 2 or others or sorted(axes) not in (["x", "y"], ["x", "y", "z"]) or 0 in shape:
        sizes = ", ".join(f"{name}={size}" for name, size in zip(names, shape, strict=True))
        raise RequestError(
            f"zarr: {where} has axes {sizes or 'none'}; there must be z, y and x (or y and x), and "
            "any other may have one element only: save one channel of one time alone"
        )
    return Spatial(places, axes if len(axes) == 3 else f"z{axes}")


def grid_values(lattice: Lattice, spatial: Spatial, given: Um | None, where: str) -> tuple[Um, Um]:
    """Return spacing and origin in micrometers along the axes as stored.

    Raises
    ------
    RequestError
        Coordinates descend, or there is no voxel size and none was ``given``.
    """
    falls = [a for a, f in zip(spatial.axes, spatial.pick(lattice.falls, False), strict=True) if f]
    if falls:
        raise RequestError(
            f"zarr: coordinates along {', '.join(falls)} descend in {where}; save it turned round, "
            f"or convert it from Python, opened by xarray: .sortby({falls!r})"
        )
    spacing, origin = spatial.pick(lattice.spacing_um, None), spatial.pick(lattice.origin_um, 0.0)
    if given is not None:
        a, b, c = (given[AXES.index(axis)] for axis in spatial.axes)
        return (a, b, c), origin
    if None in spacing:
        missing = ", ".join(a for a, s in zip(spatial.axes, spacing, strict=True) if s is None)
        raise RequestError(
            f"zarr: no voxel size along {missing} in {where}; give it as --spacing 1.17um"
        )
    return spacing, origin


def unit_of(chunk: Sequence[int], spatial: Spatial, shape: Vox) -> Vox:
    """Return the voxels of a chunk (as stored) that exist."""
    z, y, x = (min(c, n) for c, n in zip(spatial.pick(chunk, 1), shape, strict=True))
    return z, y, x
