"""A source seen otherwise: axes in another order, flipped, cropped, in 8 bit.

Each view is a reader over a reader, so nothing is copied before the writer asks for a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.grid import AXES, Box, Extent, Grid, Um, Vox
from thc_dask.reader import Reader, pieces

if TYPE_CHECKING:
    from thc_dask.kernels.intensity import Window


@dataclass(frozen=True)
class Reordered:
    """Axes of the source in another order, some of them backwards."""

    source: Reader
    taken: Vox
    """Which axis of the source becomes z, y, x."""
    flipped: tuple[bool, bool, bool]
    """Whether z, y, x run backwards."""

    @property
    def grid(self) -> Grid:
        grid, (z, y, x) = self.source.grid, self.taken
        shape, um, origin = grid.shape, grid.spacing_um, grid.origin_um
        return Grid(
            (shape[z], shape[y], shape[x]), (um[z], um[y], um[x]), (origin[z], origin[y], origin[x])
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def unit(self) -> Vox:
        unit = self.source.unit
        z, y, x = (unit[a] for a in self.taken)
        return z, y, x

    @property
    def provenance(self) -> dict[str, Any]:
        order = "".join(AXES[self.taken.index(a)] for a in range(3))
        flip = "".join(axis for axis, f in zip(AXES, self.flipped, strict=True) if f)
        return {"kind": "reordered", "order": order, "flip": flip, "source": self.source.provenance}

    def read_into(self, out: NDArray[Any], start: Vox) -> Any:
        shape = self.grid.shape
        first = [
            n - a - size if flip else a
            for a, size, n, flip in zip(start, out.shape, shape, self.flipped, strict=True)
        ]
        target = out[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
        inverse = [self.taken.index(a) for a in range(3)]
        a, b, c = (first[i] for i in inverse)
        part = np.empty([out.shape[i] for i in inverse], out.dtype)
        found = self.source.read_into(part, (a, b, c))
        target[...] = part.transpose(self.taken)
        return found


@dataclass(frozen=True)
class Respaced:
    """The same voxels at other distances."""

    source: Reader
    spacing_um: Um

    @property
    def grid(self) -> Grid:
        return Grid(self.source.grid.shape, self.spacing_um, self.source.grid.origin_um)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def unit(self) -> Vox:
        return self.source.unit

    @property
    def provenance(self) -> dict[str, Any]:
        return self.source.provenance

    def read_into(self, out: NDArray[Any], start: Vox) -> Any:
        return self.source.read_into(out, start)


@dataclass(frozen=True)
class Cropped:
    """A box of the source."""

    source: Reader
    extent: Extent

    @property
    def grid(self) -> Grid:
        grid = self.source.grid
        origin = tuple(
            t + p * a
            for t, p, a in zip(grid.origin_um, grid.spacing_um, self.extent.start, strict=True)
        )
        return Grid(self.extent.shape, grid.spacing_um, origin)  # type: ignore[arg-type]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def unit(self) -> Vox:
        # Blocks no longer begin where units do; only a unit of one voxel is not cut.
        return self.source.unit

    @property
    def provenance(self) -> dict[str, Any]:
        return {"kind": "cropped", "extent": str(self.extent), "source": self.source.provenance}

    def read_into(self, out: NDArray[Any], start: Vox) -> Any:
        z, y, x = (a + b for a, b in zip(start, self.extent.start, strict=True))
        return self.source.read_into(out, (z, y, x))


@dataclass(frozen=True)
class EightBit:
    """The source in uint8 through a window; reading says how many voxels were clipped."""

    source: Reader
    window: Window

    @property
    def grid(self) -> Grid:
        return self.source.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    @property
    def unit(self) -> Vox:
        return self.source.unit

    @property
    def provenance(self) -> dict[str, Any]:
        return self.source.provenance

    def read_into(self, out: NDArray[Any], start: Vox) -> NDArray[np.int64]:
        (z, y, x), (n_z, n_y, n_x) = start, out.shape
        clipped = np.zeros(5, np.int64)
        for box, part in self._pieces(Extent(start, (z + n_z, y + n_y, x + n_x))):
            self._convert(part, out[box.shift((-z, -y, -x)).slices], clipped)
        return clipped

    def clipped(self, extent: Extent) -> NDArray[np.int64]:
        """Return what reading a box says of clipped voxels, without holding the box."""
        clipped = np.zeros(5, np.int64)
        for _, part in self._pieces(extent):
            self._convert(part, np.empty(part.shape, np.uint8), clipped)
        return clipped

    def _pieces(self, extent: Extent) -> Iterator[tuple[Extent, NDArray[Any]]]:
        return pieces(self.source, self.source.unit, extent)

    def _convert(self, part: NDArray[Any], out: NDArray[Any], clipped: NDArray[np.int64]) -> None:
        from thc_dask.kernels.intensity import MAPPED, to_uint8

        if part.dtype not in MAPPED:
            # No number is lost, but of whole ones beyond 2**53: the rule holds for every type.
            fits = np.can_cast(part.dtype, np.float32)
            part = part.astype(np.float32 if fits else np.float64)
        to_uint8(part, self.window, out, clipped)


def reorder(reader: Reader, order: str = "zyx", flip: str = "") -> Reader:
    """Return the reader with its axes named by ``order`` and those in ``flip`` backwards.

    ``order`` names the source's axes as they stand: ``"xyz"`` for 5805 x 1420 x 720 (x, y, z).

    Raises
    ------
    RequestError
        ``order`` is not z, y and x once each, or ``flip`` names another axis.
    """
    if sorted(order) != sorted(AXES):
        raise RequestError(f"order {order!r}: name the source's axes with z, y and x once: xyz")
    if any(axis not in AXES for axis in flip) or len(set(flip)) != len(flip):
        raise RequestError(f"flip {flip!r}: name axes with z, y and x, each once at most")
    if order == "zyx" and not flip:
        return reader
    z, y, x = (order.index(axis) for axis in AXES)
    z_back, y_back, x_back = (axis in flip for axis in AXES)
    return Reordered(reader, (z, y, x), (z_back, y_back, x_back))


def respace(reader: Reader, spacing_um: Um) -> Reader:
    """Return the reader with its voxels ``spacing_um`` (z, y, x) apart."""
    return reader if reader.grid.spacing_um == spacing_um else Respaced(reader, spacing_um)


def crop(reader: Reader, box: Box | None) -> Reader:
    """Return the voxels of the reader whose centres lie in a box of micrometers."""
    if box is None:
        return reader
    extent = reader.grid.extent_of(box)
    return reader if extent == reader.grid.extent else Cropped(reader, extent)
