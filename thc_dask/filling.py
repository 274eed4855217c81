"""What a label set holds between its planes: found plane by plane, read block by block.

Three rounds, each over many items on whatever scheduler is current: planes are laid aside as they
are known; of each plane the distances of the pixels that its neighbours label otherwise; between
two planes the runs of planes on which such a pixel has another code than below. What is laid
aside is small, and a reader of any block needs nothing else: the writer of label sets does the
rest.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.errors import DataError, RequestError
from thc_dask.gaps import Gap, gaps, held_out, piled, without_tiles
from thc_dask.grid import Extent, Grid, Vox, disjoint
from thc_dask.progress import Progress, Standing, tell
from thc_dask.reader import read
from thc_dask.schemes import Scheme
from thc_dask.store import sight
from thc_dask.store.location import Location
from thc_dask.store.read import LabelSet
from thc_dask.store.shards import ArrayReader
from thc_dask.store.staging import STAGED

TILE = 16  # voxels a side: what is unknown between two planes is left out in such columns


@dataclass(frozen=True)
class Scratch:
    """Where a running interpolation lays things aside, for every worker to find."""

    location: Location
    top: str

    def put(self, key: str, data: Any) -> None:
        self.location.put(f"{self.top}/{key}", data, durable=False)

    def get(self, key: str) -> bytes:
        data = self.location.get(f"{self.top}/{key}")
        return self._found(key, data)

    def get_range(self, key: str, start: int, n: int) -> bytes:
        return self._found(key, self.location.get_range(f"{self.top}/{key}", start, n))

    def _found(self, key: str, data: bytes | None) -> bytes:
        if data is None:
            raise DataError(
                f"{self.location.url}/{self.top}/{key} is gone while it was in use: another "
                "process has swept the store; run thc interpolate again"
            )
        return data


@dataclass(frozen=True)
class Source:
    """A label set as numbers: 0 where it is not known, else one more than the row of the code."""

    array: ArrayReader
    scheme: Scheme
    known: tuple[Extent, ...]
    """Boxes that do not overlap."""
    spacing: tuple[float, float]
    """Of pixels along y and x, in units of the smaller."""
    scratch: Scratch
    spans: tuple[Gap, ...]
    """What is to be filled, and after that the planes that are held out."""

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels of a plane (y, x)."""
        return self.array.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return np.dtype(np.uint8 if len(self.scheme.labels) < 255 else np.uint16)

    @property
    def codes(self) -> NDArray[Any]:
        """The code of each number, in the type of the labels."""
        return np.concatenate([[0], self.scheme.codes]).astype(self.array.dtype)

    @property
    def band(self) -> int:
        """Rows of a plane whose runs lie together."""
        return self.array.chunk[1]

    def lay_aside(self, z: int) -> None:
        """Read a plane and keep its numbers."""
        rows = np.zeros((1, *self.shape), self.dtype)
        row_of = (self.scheme.row_of_code(self.array.dtype) + 1).astype(self.dtype)
        for box in self.known:
            here = box.intersect(Extent((z, 0, 0), (z + 1, *self.shape)))
            if here.n_vox:
                rows[here.shift((-z, 0, 0)).slices] = row_of[read(self.array, here)]
        self.scratch.put(f"planes/{z}", rows.tobytes())

    def rows(self, z: int, y: int = 0, n: int | None = None) -> NDArray[Any]:
        """Return the numbers of some rows of a plane that was laid aside."""
        wide = self.shape[1] * self.dtype.itemsize
        n = self.shape[0] - y if n is None else n
        data = self.scratch.get_range(f"planes/{z}", y * wide, n * wide)
        return np.frombuffer(data, self.dtype).reshape(n, self.shape[1])

    def differing(self, span: Gap, below: NDArray[Any], above: NDArray[Any]) -> NDArray[np.int64]:
        """Return the pixels of a span that have another number above than below, rising."""
        found = []
        for box in span.boxes:
            _, y, x = box.slices
            at = np.flatnonzero(below[y, x] != above[y, x])
            at_y, at_x = np.divmod(at, box.shape[2])
            found.append((at_y + y.start) * self.shape[1] + at_x + x.start)
        return np.sort(np.concatenate(found))

    def measure(self, z: int) -> None:
        """Keep the distances of a plane's pixels that differ from a plane it brackets with."""
        from thc_dask.kernels.interpolate import distances

        rows, others, pixels = self.rows(z), [], []
        for span in self.spans:
            if z in (span.below, span.above):
                others.append(self.rows(span.above + span.below - z))
                pixels.append(self.differing(span, rows, others[-1]))
        wanted = np.unique(np.concatenate(pixels))
        partners = np.zeros((len(others), len(wanted)), rows.dtype)
        for i, (other, places) in enumerate(zip(others, pixels, strict=True)):
            partners[i, np.searchsorted(wanted, places)] = other.ravel()[places]
        present, outside, inside = distances(rows, wanted, partners, self.spacing)
        kept = io.BytesIO()
        np.savez(kept, pixels=wanted, present=present, outside=outside, inside=inside)
        self.scratch.put(f"distances/{z}", kept.getvalue())

    def settle(self, i: int) -> Settled:
        """Decide what one span holds; keep its runs by bands of rows."""
        from thc_dask.kernels.interpolate import compete

        span = self.spans[i]
        ends = (span.below, span.above)
        planes = [self.rows(z) for z in ends]
        pixels = self.differing(span, *planes)
        parts: dict[str, list[Any]] = {"present": [], "outside": [], "inside": []}
        for z in ends:
            with np.load(io.BytesIO(self.scratch.get(f"distances/{z}"))) as kept:
                at = np.searchsorted(kept["pixels"], pixels)
                parts["present"].append(kept["present"])
                parts["outside"].append(kept["outside"][:, at])
                parts["inside"].append(kept["inside"][at])
        own = (planes[0].ravel()[pixels], planes[1].ravel()[pixels])
        found, unknown = compete(
            own, tuple(parts["present"]), tuple(parts["outside"]), tuple(parts["inside"]),
            ends, span.planes,
        )  # fmt: skip
        y, x = np.divmod(pixels, self.shape[1])
        tiles = np.unique(np.stack([y[unknown] // TILE, x[unknown] // TILE], axis=1), axis=0)
        boxes = without_tiles(span.boxes, map(tuple, tiles.tolist()), TILE)
        runs = np.empty((len(found), 5), np.int32)
        runs[:, 0], runs[:, 1], runs[:, 2:] = y[found[:, 0]], x[found[:, 0]], found[:, 1:]
        n_bands = -(-self.shape[0] // self.band)
        cuts = np.searchsorted(runs[:, 0], np.arange(n_bands + 1) * self.band)
        for band, (a, b) in enumerate(pairwise(cuts)):
            self.scratch.put(f"runs/{i}/{band}", runs[a:b].tobytes())
        both = set(parts["present"][0].tolist()) & set(parts["present"][1].tolist())
        return Settled(i, tuple(boxes), tuple(sorted(both)))

    def runs(self, i: int, y0: int, y1: int) -> NDArray[np.int32]:
        """Return the runs of a span that lie in the bands of some rows, with numbers for codes."""
        bands = range(y0 // self.band, -(-y1 // self.band))
        data = b"".join(self.scratch.get(f"runs/{i}/{band}") for band in bands)
        return np.frombuffer(data, np.int32).reshape(-1, 5)

    def fill(self, out: NDArray[Any], box: Extent, i: int) -> None:
        """Fill ``out`` with the numbers that a box of a span holds."""
        from thc_dask.kernels.interpolate import fill

        (_, y0, x0), (_, y1, x1) = box.start, box.stop
        out[...] = self.rows(self.spans[i].below, y0, y1 - y0)[:, x0:x1]
        fill(out, self.runs(i, y0, y1), box.start)

    def score(self, settled: Settled) -> dict[str, Any]:
        """Return how a span's annotated planes agree with what the planes around them foretell.

        ``n_annotated`` is of the voxels that something is foretold of, ``n_unknown`` of the others.
        """
        span, n = self.spans[settled.span], len(self.scheme.labels) + 1
        planes = span.sample  # a slab of many planes tells no more
        counts = np.zeros((len(planes), n * n), np.int64)
        whole = np.zeros((len(planes), n), np.int64)
        for k, z in enumerate(planes):
            truth = self.rows(z).astype(np.int64)
            for box in span.boxes:
                whole[k] += np.bincount(truth[box.slices[1:]].ravel(), minlength=n)
            for box in settled.boxes:
                plane = Extent((z, *box.start[1:]), (z + 1, *box.stop[1:]))
                foretold = np.empty(plane.shape, self.dtype)
                self.fill(foretold, plane, settled.span)
                both = truth[plane.slices[1:]] * n + foretold[0]
                counts[k] += np.bincount(both.ravel(), minlength=n * n)
        table = counts.reshape(-1, n, n)[:, 1:, 1:]
        annotated = table.sum(axis=2)
        return {
            "planes": planes,
            "below": span.below,
            "above": span.above,
            "bracketed": [k + 1 in settled.both for k in range(n - 1)],
            "n_annotated": annotated.tolist(),
            "n_predicted": table.sum(axis=1).tolist(),
            "n_both": np.diagonal(table, axis1=1, axis2=2).tolist(),
            "n_unknown": (whole[:, 1:] - annotated).tolist(),
        }


@dataclass(frozen=True)
class Settled:
    """What was found of a span."""

    span: int
    boxes: tuple[Extent, ...]
    """Where it is known now."""
    both: tuple[int, ...]
    """The numbers that both planes have."""


@dataclass(frozen=True)
class Between:
    """A label set with what lies between its planes: labels as ``thc_dask.labels`` brings in."""

    source: Source
    filled: tuple[Settled, ...]
    grid: Grid
    """The volume's."""
    provenance: dict[str, Any]
    """What the store is to say of its making, apart from ``pieces``."""
    scores: tuple[dict[str, Any], ...] = ()
    """How far planes that were left out are as those around them foretell."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.array.dtype

    @property
    def unit(self) -> Vox:
        return self.source.array.unit

    @property
    def scheme(self) -> Scheme:
        return self.source.scheme

    @cached_property
    def pieces(self) -> tuple[tuple[Extent, Vox], ...]:
        """The known boxes, annotated and filled ones, as ``Placed`` has them."""
        boxes = [*self.source.known, *(box for found in self.filled for box in found.boxes)]
        return tuple((box, (0, 0, 0)) for box in piled(boxes))

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        z, y, x = start
        here = Extent(start, (z + out.shape[0], y + out.shape[1], x + out.shape[2]))
        out[...] = 0
        for box in self.source.known:
            both = box.intersect(here)
            if both.n_vox:
                out[both.shift((-z, -y, -x)).slices] = read(self.source.array, both)
        codes = self.source.codes
        for found in self.filled:
            for box in found.boxes:
                both = box.intersect(here)
                if both.n_vox:
                    numbers = np.empty(both.shape, self.source.dtype)
                    self.source.fill(numbers, both, found.span)
                    np.take(codes, numbers, out=out[both.shift((-z, -y, -x)).slices])


def _over(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    step: str,
    n_vox: int,
    progress: Progress | None,
) -> list[Any]:
    """Call a function for all items on the current scheduler; tell of ``n_vox`` for each."""
    found = []
    tell(progress, Standing(0, len(items) * n_vox, step=step))
    for result in schedule.run(function, items):
        found.append(result)
        tell(progress, Standing(len(found) * n_vox, len(items) * n_vox, step=step))
    return found


@contextmanager
def between(
    labels: LabelSet, *, score: bool = True, progress: Progress | None = None
) -> Iterator[Between]:
    """Return a reader of a label set with what lies between its planes, inside a context.

    The caller holds the store's lock: what is laid aside in the store goes when the context ends.

    Raises
    ------
    RequestError
        Nothing is bracketed.
    """
    store = labels.store
    wanted, tests = gaps(labels.extents), held_out(labels.extents) if score else []
    if not wanted:
        raise RequestError(
            f"label set {labels.name!r}: nothing lies between two known planes (known: "
            f"{'; '.join(map(str, labels.extents[:3]))}, z,y,x voxels); add planes with thc labels "
            f"--into {labels.name}"
        )
    _, p_y, p_x = store.grid.spacing_um
    scratch = Scratch(store.location, f"{STAGED}/{secrets.token_hex(4)}")
    source = Source(
        labels.array(), labels.scheme, tuple(disjoint(labels.extents)),
        (p_y / min(p_y, p_x), p_x / min(p_y, p_x)), scratch, (*wanted, *tests),
    )  # fmt: skip
    ends = sorted({z for span in source.spans for z in (span.below, span.above)})
    planes = sorted({*ends, *(z for span in tests for z in span.sample)})
    try:
        sight.exchange(store.location)
        n = source.shape[0] * source.shape[1]
        _over(source.lay_aside, planes, "planes", n, progress)
        _over(source.measure, ends, "distances", n, progress)
        settled = _over(source.settle, range(len(source.spans)), "shapes", n, progress)
        settled.sort(key=lambda found: found.span)
        scores = _over(source.score, settled[len(wanted) :], "leaving planes out", n, progress)
        scores.sort(key=lambda found: (found["planes"], found["below"], found["above"]))
        filled = tuple(found for found in settled[: len(wanted)] if found.boxes)
        if not filled:
            raise RequestError(
                f"label set {labels.name!r}: no two planes have a code in common, so that nothing "
                "can be interpolated between them"
            )
        yield Between(source, filled, store.grid, {}, tuple(scores))
    finally:
        store.location.delete(scratch.top)
