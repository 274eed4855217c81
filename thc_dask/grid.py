"""Where voxels are: shapes, spacing, pyramid levels, boxes in microns and in voxels.

Axes are always ``z, y, x``. A voxel's coordinate is that of its centre.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError

AXES = ("z", "y", "x")
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
"""Ends of anatomical axes."""

Vox = tuple[int, int, int]
Um = tuple[float, float, float]

# Exact ratios of the length units a user may write to one micrometer.
MICRONS = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micrometer": 1.0, "micron": 1.0, "mm": 1e3}


@dataclass(frozen=True)
class Extent:
    """A half-open box of voxels.

    >>> Extent((0, 0, 0), (1, 2, 3)).shape
    (1, 2, 3)
    """

    start: Vox
    """First voxel (z, y, x)."""
    stop: Vox
    """One past the last voxel (z, y, x)."""

    @property
    def shape(self) -> Vox:
        """Size in voxels (z, y, x); zero where the box is empty."""
        z, y, x = (max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def n_vox(self) -> int:
        """Number of voxels inside."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index a (z, y, x) array with it."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def intersect(self, other: Extent) -> Extent:
        """Return what both hold; a box with ``n_vox == 0`` where they do not meet."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Extent(start, stop)  # type: ignore[arg-type]

    def contains(self, other: Extent) -> bool:
        """Whether every voxel of ``other`` is inside."""
        return self.intersect(other) == other

    def level(self, k: int) -> Extent:
        """Return the voxels of pyramid level ``k`` that hold at least one voxel of this box."""
        start = tuple(a >> k for a in self.start)
        stop = tuple(-(-b >> k) for b in self.stop)
        return Extent(start, stop)  # type: ignore[arg-type]

    def shift(self, offset: Vox) -> Extent:
        """Return the box moved by ``offset`` voxels."""
        start = tuple(a + o for a, o in zip(self.start, offset, strict=True))
        stop = tuple(b + o for b, o in zip(self.stop, offset, strict=True))
        return Extent(start, stop)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True)
class Box:
    """A half-open box in micrometers: a voxel is inside if its centre is."""

    start_um: Um
    stop_um: Um

    def __post_init__(self) -> None:
        for ends in (self.start_um, self.stop_um):
            numbers = isinstance(ends, Sequence) and all(isinstance(v, Real) for v in ends)
            if not numbers or len(ends) != 3:
                raise RequestError(f"box {ends!r}: give where it begins and ends as (z, y, x) um")

    def __str__(self) -> str:
        return ",".join(f"{a:g}:{b:g}" for a, b in zip(self.start_um, self.stop_um, strict=True))


@dataclass(frozen=True)
class Grid:
    """The lattice of voxel centres of one pyramid level.

    >>> grid = Grid((720, 1420, 5805), (1.17, 1.17, 1.17))
    >>> grid.level(1).shape, grid.level(1).origin_um
    ((360, 710, 2903), (0.585, 0.585, 0.585))
    """

    shape: Vox
    """Voxels (z, y, x)."""
    spacing_um: Um
    """Distance between voxel centres, in micrometers (z, y, x)."""
    origin_um: Um = (0.0, 0.0, 0.0)
    """Centre of voxel (0, 0, 0), in micrometers (z, y, x)."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or any(n < 1 for n in self.shape):
            raise RequestError(
                f"shape {self.shape}: need three sizes (z, y, x) of at least 1 voxel"
            )
        if any(not (math.isfinite(p) and p > 0) for p in self.spacing_um):
            raise RequestError(f"spacing {self.spacing_um} um: need three finite sizes above 0")

    @property
    def n_vox(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def extent(self) -> Extent:
        """All voxels."""
        return Extent((0, 0, 0), self.shape)

    def level(self, k: int) -> Grid:
        """Return the grid of pyramid level ``k`` counted from this one.

        Its spacing is ``p * 2**k``, its origin ``t + p * (2**k - 1) / 2``, its shape
        ``ceil(n / 2**k)``: a voxel's centre is the mean of the centres it stands for.
        """
        shape = tuple(-(-n >> k) for n in self.shape)
        spacing = tuple(p * 2**k for p in self.spacing_um)
        origin = tuple(
            t + p * (2**k - 1) / 2 for t, p in zip(self.origin_um, self.spacing_um, strict=True)
        )
        return Grid(shape, spacing, origin)  # type: ignore[arg-type]

    def coordinates(self, axis: int) -> NDArray[np.float64]:
        """Return the voxel centres along ``axis`` in micrometers, float64, 1-D."""
        index = np.arange(self.shape[axis], dtype=np.float64)
        return self.origin_um[axis] + self.spacing_um[axis] * index

    def extent_of(self, box: Box | None) -> Extent:
        """Return the voxels whose centres are inside ``box``, clipped to the grid.

        Raises
        ------
        RequestError
            The box is upside down or holds no voxel centre.
        """
        if box is None:
            return self.extent
        if not isinstance(box, Box):
            raise RequestError(f"box {box!r}: give Box((z, y, x), (z, y, x)), in micrometers")
        starts, stops = [], []
        for axis, (low, high) in enumerate(zip(box.start_um, box.stop_um, strict=True)):
            if not low < high:
                raise RequestError(
                    f"box {box}: along {AXES[axis]} it starts at {low:g} um and stops at "
                    f"{high:g} um; give start:stop with start below stop"
                )
            starts.append(self._first_at_or_above(axis, low))
            stops.append(self._first_at_or_above(axis, high))
        found = Extent(tuple(starts), tuple(stops))  # type: ignore[arg-type]
        if found.n_vox == 0:
            raise RequestError(
                f"box {box} um holds no voxel centre of the volume; the volume spans "
                f"{self.span()} um (z,y,x), its centres are "
                f"{','.join(f'{p:g}' for p in self.spacing_um)} um apart"
            )
        return found

    def span(self) -> str:
        """Return the first and last voxel centre along each axis, as ``a:b,a:b,a:b``."""
        ends = (
            t + p * (n - 1)
            for t, p, n in zip(self.origin_um, self.spacing_um, self.shape, strict=True)
        )
        return ",".join(f"{t:g}:{e:g}" for t, e in zip(self.origin_um, ends, strict=True))

    def _first_at_or_above(self, axis: int, um: float) -> int:
        """Return the index that searchsorted would find in the stored coordinates."""
        origin, spacing, n = self.origin_um[axis], self.spacing_um[axis], self.shape[axis]
        if math.isinf(um):
            return 0 if um < 0 else n
        i = min(max(math.ceil((um - origin) / spacing), 0), n)
        while i > 0 and origin + spacing * (i - 1) >= um:
            i -= 1
        while i < n and origin + spacing * i < um:
            i += 1
        return i


def blocks(shape: Sequence[int], size: Sequence[int]) -> Iterable[Extent]:
    """Yield the boxes of at most ``size`` voxels that tile ``shape``, x fastest.

    >>> [str(b) for b in blocks((1, 1, 5), (1, 1, 4))]
    ['0:1,0:1,0:4', '0:1,0:1,4:5']
    """
    for z in range(0, shape[0], size[0]):
        for y in range(0, shape[1], size[1]):
            for x in range(0, shape[2], size[2]):
                start = (z, y, x)
                stop = tuple(min(a + s, n) for a, s, n in zip(start, size, shape, strict=True))
                yield Extent(start, stop)  # type: ignore[arg-type]


def disjoint(extents: Iterable[Extent]) -> list[Extent]:
    """Return boxes that hold the same voxels and do not overlap.

    >>> [str(e) for e in disjoint([Extent((0, 0, 0), (1, 2, 2)), Extent((0, 1, 0), (1, 3, 2))])]
    ['0:1,0:2,0:2', '0:1,2:3,0:2']
    """
    done: list[Extent] = []
    for extent in extents:
        pieces = [extent] if extent.n_vox else []
        for other in done:
            pieces = [rest for piece in pieces for rest in _subtract(piece, other)]
        done += pieces
    return done


def _subtract(box: Extent, other: Extent) -> list[Extent]:
    both = box.intersect(other)
    if not both.n_vox:
        return [box]
    rest = []
    start, stop = list(box.start), list(box.stop)
    for axis in range(3):  # cut slabs off, axis by axis, until what is left is the common part
        if start[axis] < both.start[axis]:
            end = [*stop[:axis], both.start[axis], *stop[axis + 1 :]]
            rest.append(Extent(tuple(start), tuple(end)))  # type: ignore[arg-type]
            start[axis] = both.start[axis]
        if both.stop[axis] < stop[axis]:
            begin = [*start[:axis], both.stop[axis], *start[axis + 1 :]]
            rest.append(Extent(tuple(begin), tuple(stop)))  # type: ignore[arg-type]
            stop[axis] = both.stop[axis]
    return rest


def parse_spacing(text: str | float | Sequence[float]) -> Um:
    """Return the spacing in micrometers of ``1.17um`` or ``2um,1.17um,1.17um`` (z, y, x).

    Numbers, one or three, are micrometers.

    Raises
    ------
    RequestError
        No unit, an unknown unit, or a number that is not above zero.

    Examples
    --------
    >>> parse_spacing("1.17um")
    (1.17, 1.17, 1.17)
    >>> parse_spacing("2um,1170nm,1170nm"), parse_spacing((2, 1.17, 1.17))
    ((2.0, 1.17, 1.17), (2.0, 1.17, 1.17))
    """
    if not isinstance(text, str):
        numbers = text if isinstance(text, Sequence) else [text]
        text = ",".join(f"{number!r}um" for number in numbers)
    parts = [_length(part.strip(), text) for part in text.split(",")]
    if len(parts) == 1:
        parts *= 3
    if len(parts) != 3:
        raise RequestError(
            f"spacing {text!r}: give one length, or three as z,y,x: 2um,1.17um,1.17um"
        )
    return parts[0], parts[1], parts[2]


def _length(part: str, whole: str) -> float:
    match = re.fullmatch(r"([-+0-9.eE]+?)\s*([^-+0-9.\s]*)", part)
    units = ", ".join(MICRONS)
    if not match:
        raise RequestError(f"spacing {whole!r}: {part!r} is not a length; write it like 1.17um")
    number, unit = match.groups()
    if not unit:
        raise RequestError(
            f"spacing {whole!r}: {part!r} has no unit; write it like {part}um ({units})"
        )
    if unit not in MICRONS:
        raise RequestError(f"spacing {whole!r}: unknown unit {unit!r}; known: {units}")
    try:
        value = float(number)
    except ValueError:
        raise RequestError(f"spacing {whole!r}: {number!r} is not a number") from None
    if not (math.isfinite(value) and value > 0):
        raise RequestError(f"spacing {whole!r}: must be above 0")
    # Dividing keeps 1170 nm == 1.17 um to the last bit, multiplying by 1e-3 does not.
    return value / 1000 if unit == "nm" else value * MICRONS[unit]


def parse_triple(text: str, what: str, low: int = 1) -> Vox:
    """Return three whole numbers (z, y, x) of ``720,1420,5805``, or ``64`` for all three.

    >>> parse_triple("64", "chunk")
    (64, 64, 64)
    """
    try:
        parts = [int(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) == 1:
        parts *= 3
    if len(parts) != 3 or any(part < low for part in parts):
        raise RequestError(f"{what} {text!r}: give whole numbers of at least {low} as z,y,x")
    return parts[0], parts[1], parts[2]


def _parse_ranges(text: str, what: str) -> list[tuple[str, str]]:
    parts = [tuple(part.split(":")) for part in text.split(",")]
    if len(parts) != 3 or any(len(part) != 2 for part in parts):
        raise RequestError(f"{what} {text!r}: write it as z0:z1,y0:y1,x0:x1")
    return [(a.strip(), b.strip()) for a, b in parts]


def parse_box(text: str) -> Box:
    """Return the box of ``z0:z1,y0:y1,x0:x1`` in micrometers; an empty end is open.

    >>> parse_box("0:10,:,5:6").start_um
    (0.0, -inf, 5.0)
    """
    ranges = _parse_ranges(text, "box")
    try:
        ends = [(float(a) if a else -math.inf, float(b) if b else math.inf) for a, b in ranges]
    except ValueError:
        raise RequestError(
            f"box {text!r}: give numbers, in micrometers: 0:150,0:150,0:150"
        ) from None
    if any(math.isnan(v) for pair in ends for v in pair):
        raise RequestError(f"box {text!r}: give numbers, in micrometers: 0:150,0:150,0:150")
    (z0, z1), (y0, y1), (x0, x1) = ends
    return Box((z0, y0, x0), (z1, y1, x1))


def parse_extent(text: str, shape: Vox | None = None) -> Extent:
    """Return the box of ``z0:z1,y0:y1,x0:x1`` in voxels; empty ends need ``shape``.

    >>> parse_extent("0:1,343:1200,904:5657").shape
    (1, 857, 4753)
    """
    starts, stops = [], []
    for axis, (a, b) in enumerate(_parse_ranges(text, "extent")):
        if not b and shape is None:
            raise RequestError(f"extent {text!r}: give both ends of {AXES[axis]}")
        try:
            starts.append(int(a) if a else 0)
            stops.append(int(b) if b else shape[axis])  # type: ignore[index]
        except ValueError:
            raise RequestError(f"extent {text!r}: give whole numbers of voxels") from None
        if not 0 <= starts[-1] < stops[-1]:
            raise RequestError(
                f"extent {text!r}: along {AXES[axis]} give 0 <= start < stop, in voxels"
            )
    return Extent(tuple(starts), tuple(stops))  # type: ignore[arg-type]
