"""Where labels of a source lie in a volume, and what of them is known."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.grid import AXES, OPPOSITE, Extent, Grid, Vox, disjoint
from thc_dask.origin import (
    inmost,
    is_reordered,
    is_same_place,
    order_of,
    orientation_of,
    reopen,
    seen_of,
)
from thc_dask.reader import Reader
from thc_dask.schemes import Scheme
from thc_dask.store.read import LabelSet, Store
from thc_dask.store.shards import ArrayReader
from thc_dask.views import reorder

KNOWS_AXES = ("zarr", "precomputed", "bossdb", "array")  # which is which, not which way it runs
AGAIN = "bring it back there, or bring the labels in again: thc labels --overwrite"
CHECKED_VOX = 2**18  # labels that are looked up at a time


class Laid(Reader, Protocol):
    """Labels that are laid into the volume; zero where they are not known."""

    @property
    def scheme(self) -> Scheme:
        """What the codes mean."""

    @property
    def pieces(self) -> tuple[tuple[Extent, Vox], ...]:
        """Known boxes of the volume, each with what to add to get to voxels of the source."""


@dataclass(frozen=True)
class Placed:
    """Labels of a source laid into the volume; zero where they are not known."""

    source: Reader
    grid: Grid
    """The volume's."""
    dtype: np.dtype[Any]
    """Type in the store: the smallest that holds the scheme."""
    scheme: Scheme
    pieces: tuple[tuple[Extent, Vox], ...]
    """Known boxes of the volume, each with what to add to get to voxels of the source."""
    name: str
    """What to call the source in an error."""

    @property
    def unit(self) -> Vox:
        return self.source.unit

    @property
    def provenance(self) -> dict[str, Any]:
        pieces = [[list(e.start), list(e.stop), list(shift)] for e, shift in self.pieces]
        return {**self.source.provenance, "pieces": pieces}

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        z, y, x = start
        here = Extent(start, (z + out.shape[0], y + out.shape[1], x + out.shape[2]))
        out[...] = 0
        for extent, shift in self.pieces:
            both = extent.intersect(here)
            if both.n_vox:
                values = np.empty(both.shape, self.source.dtype)
                self.source.read_into(values, both.shift(shift).start)
                out[both.shift((-z, -y, -x)).slices] = self._checked(values, both)

    def _checked(self, values: NDArray[Any], where: Extent) -> NDArray[Any]:
        """Return the codes in the store's type, after a look at each."""
        low, high = int(values.min()), int(values.max())
        if low >= 0 and high <= int(self.scheme.codes[-1]):
            codes = values.astype(self.dtype, copy=False)
            known = self.scheme.row_of_code(self.dtype) < len(self.scheme.labels)
            flat = codes.reshape(-1)
            # numpy looks codes up as words of eight bytes: some at a time, for they fill the memory
            ends = range(0, flat.size, CHECKED_VOX)
            if all(known[flat[i : i + CHECKED_VOX]].all() for i in ends):
                return codes
        odd = ~np.isin(values, self.scheme.codes)
        place = np.argwhere(odd)[0]
        z, y, x = (int(a + b) for a, b in zip(place, where.start, strict=True))
        codes_known = ", ".join(map(str, self.scheme.codes))
        raise RequestError(
            f"labels {self.name}: code {values[tuple(place)]} at voxel z={z} y={y} x={x} is not in "
            f"scheme {self.scheme.name!r} (codes {codes_known}); choose another --scheme"
        )


@dataclass(frozen=True)
class Added:
    """What a label set already holds, with more known voxels laid over it."""

    have: ArrayReader | Placed | Added
    more: Laid

    @property
    def grid(self) -> Grid:
        return self.more.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.have.dtype

    @property
    def unit(self) -> Vox:
        return self.have.unit

    @property
    def provenance(self) -> dict[str, Any]:
        return self.more.provenance

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        self.have.read_into(out, start)
        fresh = np.empty(out.shape, out.dtype)
        self.more.read_into(fresh, start)
        z, y, x = start
        here = Extent(start, (z + out.shape[0], y + out.shape[1], x + out.shape[2]))
        for extent, _ in self.more.pieces:
            where = extent.intersect(here).shift((-z, -y, -x)).slices
            out[where] = fresh[where]


def turned(labels: Reader, volume: Store, name: str) -> Reader:
    """Return labels with their axes as those of the volume, where both say where theirs point to.

    Raises
    ------
    RequestError
        No order and no flip makes them so: they are turned between two axes.
    """
    own, wanted = orientation_of(labels.provenance), orientation_of(volume.thc["provenance"])
    if own is None or wanted is None or own == wanted:
        return labels
    # By axis of the volume; letters of labels run x, y, z, their voxels z, y, x.
    order, flip = "", ""
    for letter in reversed(own):
        ends = zip("xyz", wanted, strict=True)
        axis = next((a for a, end in ends if letter in (end, OPPOSITE[end])), "")
        order += axis
        flip += axis if letter not in wanted else ""
    if sorted(order) != sorted(AXES):
        raise RequestError(
            f"labels {name}: their axes point {own} (x, y, z), those of the volume {wanted}; save "
            "them again along the axes of the volume"
        )
    return reorder(labels, order, flip)


def turn_of(labels: Reader, volume: Store, name: str) -> tuple[str | None, str | None]:
    """Return the order and the flip that labels need to lie as the volume does, None for none.

    Those that its source was given, if the labels come from beside it. Warns where the volume was
    turned, and it is not known whether the labels should be.
    """
    image = volume.thc["provenance"]
    if not is_reordered(image) or orientation_of(labels.provenance) is not None:
        return None, None
    seen, order = seen_of(image), order_of(image)
    if seen is not None and is_same_place(labels.provenance, image):
        return order, seen.flip
    # Whose axes have names were put in order by these, as those of the volume may have been.
    named = is_reordered(labels.provenance) or inmost(labels.provenance)["kind"] in KNOWS_AXES
    flip = "" if seen is None else seen.flip
    said = [] if named or order == "zyx" else [f"--order {order}"]
    said += [f"--flip {flip}"] if flip else []
    if said:
        warnings.warn(
            f"labels {name}: the volume was converted with {' '.join(said)}; these are laid as it "
            f"is now. If they are as its source is, give {' '.join(said)} again",
            stacklevel=2,
        )
    return None, None


def place(
    shape: Vox, volume: Vox, offset: Vox | None, planes: Sequence[int] | None,
    extents: Sequence[Extent] | None, name: str, clip: bool = False,
) -> tuple[tuple[Extent, Vox], ...]:  # fmt: skip
    """Return the known boxes of the volume, each with the shift to voxels of the source.

    A source of the volume's shape lies upon it; one with as many planes as ``planes`` names is
    spread over them; any other needs ``offset``. With ``clip`` it may reach outside the volume.

    Raises
    ------
    RequestError
        The source does not fit, or a plane or extent is outside it.
    """
    spread = planes is not None and offset is None and shape[0] == len(planes) != volume[0]
    if planes is not None and len(set(planes)) != len(planes):
        raise RequestError(f"planes {list(planes)}: one is named twice")
    if planes is not None and not all(0 <= p < volume[0] for p in planes):
        raise RequestError(f"planes {list(planes)}: the volume has planes 0 to {volume[0] - 1}")
    if spread and planes is not None and shape[1:] == volume[1:]:
        full = [
            (Extent((p, 0, 0), (p + 1, *volume[1:])), (i - p, 0, 0)) for i, p in enumerate(planes)
        ]
    else:
        o = offset or (0, 0, 0)
        stop = (o[0] + shape[0], o[1] + shape[1], o[2] + shape[2])
        every = Extent((0, 0, 0), volume)
        whole = Extent(o, stop).intersect(every) if clip else Extent(o, stop)
        if (offset is None and shape != volume) or not (every.contains(whole) and whole.n_vox):
            hint = "give --offset z,y,x, or --planes"
            if any(n > m for n, m in zip(shape, volume, strict=True)):
                hint = "cut it as the volume was, or save what lies in that alone"
            raise RequestError(
                f"labels {name}: shape {shape} does not fit the volume {volume} (z,y,x)"
                + (f" at offset {offset}" if offset else f"; {hint}")
            )
        boxes = [Extent((p, *o[1:]), (p + 1, *stop[1:])) for p in planes] if planes else [whole]
        if clip and extents:
            extents = [e.intersect(whole) for e in extents]
        full = [(box.intersect(whole), (-o[0], -o[1], -o[2])) for box in boxes]
    pieces = [
        (both, shift)
        for extent in (disjoint(extents) if extents else [Extent((0, 0, 0), volume)])
        for box, shift in full
        if (both := extent.intersect(box)).n_vox
    ]
    n_wanted = sum(e.n_vox for e in disjoint(extents)) if extents else 0
    if not pieces or (extents and not planes and sum(b.n_vox for b, _ in pieces) != n_wanted):
        named = "; ".join(map(str, extents or [])) or f"planes {list(planes or [])}"
        raise RequestError(
            f"labels {name}: {named} reaches outside what the file covers, "
            f"{'; '.join(str(b) for b, _ in full[:3])} (z,y,x voxels)"
        )
    return tuple(pieces)


def offset_of(own: Grid, volume: Grid, name: str) -> Vox | None:
    """Return where labels that know their place lie in a volume; None where they lie upon it.

    Warns where that is between voxels, or is not where labels of the volume's shape will lie.

    Raises
    ------
    RequestError
        Their voxels are of another size, and they are not of the volume's shape.
    """
    upon = own.shape == volume.shape
    if not np.allclose(own.spacing_um, volume.spacing_um, rtol=0.01):
        what = (
            f"labels {name}: their voxels are {_short(own.spacing_um)} um, those of the volume "
            f"{_short(volume.spacing_um)} (z,y,x)"
        )
        if not upon:
            raise RequestError(f"{what}; name a level that fits, or give --offset or --planes")
        warnings.warn(f"{what}; taken for the volume's, whose shape they have", stacklevel=2)
        return None
    exact = [
        (a - b) / p
        for a, b, p in zip(own.origin_um, volume.origin_um, volume.spacing_um, strict=True)
    ]
    z, y, x = (round(n) for n in exact)
    if upon:
        if (z, y, x) != (0, 0, 0):
            warnings.warn(
                f"labels {name}: their own place is {z},{y},{x} voxels (z,y,x) from the volume's; "
                "laid upon it, whose shape they have",
                stacklevel=2,
            )
        return None
    if max(abs(a - b) for a, b in zip(exact, (z, y, x), strict=True)) > 0.01:
        warnings.warn(
            f"labels {name}: they begin at voxel {_short(exact)} (z,y,x); rounded to {z},{y},{x}",
            stacklevel=2,
        )
    return z, y, x


def _short(values: Sequence[float]) -> str:
    return ",".join(f"{n:g}" for n in values)


def laid(labels: LabelSet) -> Placed | Added:
    """Return a reader of a label set's own sources, opened again and laid as they were.

    Raises
    ------
    RequestError
        A source is gone, has changed, or was an array in memory.
    """
    grid, dtype = labels.store.grid, labels.array().dtype
    found: Placed | Added | None = None
    for entry in labels.thc["provenance"]:
        source = reopen({k: v for k, v in entry.items() if k != "pieces"}, remedy=AGAIN)
        pieces = tuple(
            (Extent(tuple(start), tuple(stop)), tuple(shift))
            for start, stop, shift in entry["pieces"]
        )
        called = str(inmost(entry).get("location"))
        part = Placed(source, grid, dtype, labels.scheme, pieces, called)
        found = part if found is None else Added(found, part)
    assert found is not None
    return found
