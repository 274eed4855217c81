"""What headers of medical images say, whatever the format: place, type and frame of the voxels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thc_dask.files import File
from thc_dask.grid import OPPOSITE, Um
from thc_dask.units import micrometers

# Rotations that single precision makes of right angles.
NOISE = 1e-5


class Frame(NamedTuple):
    """How the voxel axes lie in the space of the file; the fastest axis first."""

    sizes: tuple[float, ...] = ()
    """Distances of voxel centres along x, y, z; empty where none are given."""
    unit: str = ""
    """Of lengths; empty where it is not known."""
    directions: NDArray[np.float64] | None = None
    """(3, 3): column i points along voxel axis i; None where the file has no space."""
    corner: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Where the centre of voxel (0, 0, 0) lies in that space."""
    space: str = ""
    """Where the axes of space point to, such as RAS; empty where that is not known."""


@dataclass(frozen=True)
class Header:
    """What is needed to find and to understand the voxels of a file."""

    kind: str
    """nifti, metaimage or nrrd."""
    file: File
    """The one with the voxels."""
    shape: tuple[int, ...]
    """Voxels along the axes as stored, the fastest first."""
    stored: np.dtype[Any]
    """Type and byte order on disk."""
    offset: int | None
    """Byte of the first voxel, after unpacking; None where voxels end with the file."""
    packed_at: int | None
    """Byte where a deflated stream begins; None where nothing is packed."""
    frame: Frame
    scale: tuple[float, float] | None = None
    """Slope and intercept from stored values to grey levels; None where they are the same."""


def shortest(value: Any) -> float:
    """Return the shortest decimal that a number on disk stands for.

    >>> shortest(np.float32(0.00117)), float(np.float32(0.00117))
    (0.00117, 0.0011699999449774623)
    """
    return float(str(value))


def lengths(frame: Frame) -> list[float]:
    """Return the distances of voxel centres along x, y, z that the directions make."""
    columns = () if frame.directions is None else frame.directions.T.tolist()
    return [math.hypot(*column) for column in columns]


def unit_vectors(frame: Frame) -> NDArray[np.float64] | None:
    """Return the directions of x, y, z as columns of length 1, None where there are none."""
    if frame.directions is None or not all(0 < n < math.inf for n in lengths(frame)):
        return None
    vectors = frame.directions / lengths(frame)
    vectors[abs(vectors) < NOISE] = 0
    result: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=0)
    return result


def orientation(frame: Frame) -> str | None:
    """Return where x, y and z point to, such as ``LPS``; None where the file does not say.

    >>> orientation(Frame(directions=np.diag([-1.0, -1.0, 2.0]), space="RAS"))
    'LPS'
    """
    vectors = unit_vectors(frame)
    if vectors is None or not frame.space:
        return None
    nearest = abs(vectors).argmax(axis=0)
    return "".join(
        letter if vectors[row, column] > 0 else OPPOSITE[letter]
        for column, row in enumerate(nearest)
        for letter in frame.space[row]
    )


def tilt(frame: Frame) -> float:
    """Return by how many degrees, at most, an axis is off the nearest axis of space."""
    vectors = unit_vectors(frame)
    if vectors is None:
        return 0.0
    return max(math.degrees(math.acos(min(1.0, c))) for c in abs(vectors).max(axis=0))


def spacing_of(frame: Frame) -> Um | None:
    """Return the voxel size (z, y, x) in micrometers, None where the file does not say."""
    sizes = [micrometers(size, frame.unit) for size in frame.sizes[:3]]
    if len(sizes) == 2:  # a plane
        sizes.append(sizes[1])
    if len(sizes) != 3 or not all(size is not None and size > 0 for size in sizes):
        return None
    x, y, z = sizes
    return z, y, x  # type: ignore[return-value]


def origin_of(frame: Frame, spacing: Um) -> Um:
    """Return the centre of the first voxel (z, y, x) along the axes' own directions, in um."""
    vectors = unit_vectors(frame)
    if vectors is None or not np.isfinite(frame.corner).all():
        return 0.0, 0.0, 0.0
    along = [float(t) for t in np.asarray(frame.corner) @ vectors]
    if spacing == spacing_of(frame):
        x, y, z = (micrometers(t, frame.unit) or 0.0 for t in along)
    else:  # the size was wrong or not known, and so was every length
        own = [*frame.sizes, 0.0, 0.0, 0.0][:3]
        pairs = zip(along, own, spacing[::-1], strict=True)
        found = (t / p * um if p > 0 else 0.0 for t, p, um in pairs)
        x, y, z = (t if math.isfinite(t) else 0.0 for t in found)
    return z + 0.0, y + 0.0, x + 0.0


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a text; ValueError where there are other words."""
    return tuple(float(word) for word in text.replace(",", " ").split())


def several(name: str) -> bool:
    """Whether what should name the file with the voxels stands for many.

    >>> several("LIST"), several("slice%03d.raw 1 720 1"), several("LIST.raw")
    (True, True, False)
    """
    return name.split()[:1] == ["LIST"] or re.search(r"%\d*d", name) is not None


def square(values: Sequence[float], n: int) -> NDArray[np.float64] | None:
    """Return directions of ``n`` axes, one after the other, as columns in three dimensions."""
    if n not in (2, 3) or len(values) != n * n:
        return None
    matrix = np.eye(3)
    matrix[:n, :n] = np.reshape(values, (n, n)).T
    return matrix
