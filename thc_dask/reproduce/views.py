"""The densely annotated views behind Figure 2: from the authors' files, or from the cubes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.catalogue import CUBES, Cube, find_channel, known_extents, plane_of
from thc_dask.errors import DataError, RequestError
from thc_dask.grid import Extent
from thc_dask.reader import Reader, read
from thc_dask.schemes import Scheme, find_scheme

REGIONS = ("CTX", "ZI", "STR", "TRN")
"""In the order of Figure 2."""
N_CORNERS = 4
"""The authors cut the four corners of each annotated plane out of a cube."""
N_INTENSITIES = 256
ANNOTATIONS = "bossdb://prasad/prasad2020/pixel_annotation"


@dataclass(frozen=True)
class Views:
    """The views of one region."""

    values: NDArray[np.uint8]
    """Intensities or codes, (view, y, x)."""
    planes: NDArray[np.int64]
    """Which plane each view is of, (view,): views of one plane are alike."""


@dataclass(frozen=True)
class Sample:
    """Views of all regions, and where they come from."""

    views: Mapping[str, Views]
    """By region, in the order of ``REGIONS``."""
    source: str
    """In words."""
    scheme: Scheme | None = None
    """What the codes mean; None for intensities."""
    are_corners: bool = False
    """Whether they are those that the authors cut out, not whole planes of the cubes."""

    def pairs_with(self, other: Sample) -> bool:
        """Whether each view shows the same place as that of another sample."""
        return self.are_corners == other.are_corners and all(
            a.values.shape == b.values.shape and np.array_equal(a.planes, b.planes)
            for a, b in zip(self.views.values(), other.views.values(), strict=True)
        )

    @property
    def names(self) -> list[str]:
        """What the values stand for: structures, background first, or nothing for intensities."""
        return self.scheme.names if self.scheme else []

    def counts(self) -> NDArray[np.int64]:
        """Return how often each value occurs, int64 (plane, region, value).

        A region's planes come first; what is left to the largest number of planes is zero.
        """
        n = len(self.names) or N_INTENSITIES
        planes = [np.unique(v.planes) for v in self.views.values()]
        table = np.zeros((max(map(len, planes)), len(self.views), n), np.int64)
        for r, (view, here) in enumerate(zip(self.views.values(), planes, strict=True)):
            for p, plane in enumerate(here):
                values = view.values[view.planes == plane]
                table[p, r] = np.bincount(values.ravel(), minlength=n)
        return table


def find_masks(folder: Path) -> Sample | None:
    """Return the annotated views in ``masks.npz`` or ``masks_<region>.npz``; None without them."""
    arrays = _find_arrays(folder, "masks")
    if arrays is None:
        return None
    scheme = find_scheme("prasad2020-masks")
    views = {r: _views(_codes(a, scheme, where), where) for r, (a, where) in arrays.items()}
    return Sample(views, _files(arrays), scheme, are_corners=True)


def find_images(folder: Path) -> Sample | None:
    """Return the grey views in ``imgs.npz`` or ``imgs_<region>.npz``; None without them."""
    arrays = _find_arrays(folder, "imgs")
    if arrays is None:
        return None
    views = {r: _views(_levels(a, where), where) for r, (a, where) in arrays.items()}
    return Sample(views, _files(arrays), are_corners=True)


def read_cubes(image: Reader | None, labels: Reader | None) -> tuple[Sample | None, Sample | None]:
    """Return intensities and codes of the annotated planes of the four cubes.

    Which planes are annotated is found by reading ``labels``; without it those that the authors'
    notebooks name are taken.
    """
    if labels is not None:
        _check(labels, "labels")
        planes = _annotated(labels)
    else:
        planes = known_extents(ANNOTATIONS) or []
    codes = scheme = None
    if labels is not None:
        channel = find_channel(_location(labels))
        scheme = find_scheme(channel.scheme if channel else "prasad2020-microstructure")
        at_hand = scheme
        codes = _sample(labels, planes, lambda a, where: _codes(a, at_hand, where), scheme)
    grey = None
    if image is not None:
        _check(image, "image")
        grey = _sample(image, planes, _levels)
    return grey, codes


def _sample(
    reader: Reader, planes: list[Extent], take: Any, scheme: Scheme | None = None
) -> Sample:
    views = {}
    for cube in _cubes():
        here = [e for e in planes if cube.extent.contains(e)]
        where = f"{_location(reader)}, cube {cube.region}"
        if not here:
            raise DataError(f"{where}: no plane is annotated; a region needs one at least")
        values = np.concatenate([take(read(reader, e), where) for e in here])
        views[cube.region] = Views(values, np.array([e.start[0] for e in here], np.int64))
    return Sample(views, f"the four cubes in {_location(reader)}", scheme)


def _cubes() -> Iterator[Cube]:
    by_region = {cube.region: cube for cube in CUBES}
    for region in REGIONS:
        yield by_region[region]


def _annotated(labels: Reader) -> list[Extent]:
    from thc_dask.sources.bossdb.planes import annotated_extents, annotated_planes
    from thc_dask.views import Cropped

    if find_channel(_location(labels)) is not None:
        return annotated_extents(labels, scheme="prasad2020-microstructure")
    found = []
    for cube in _cubes():
        inside = annotated_planes(Cropped(labels, cube.extent))
        found += [plane_of(cube.extent, cube.extent.start[0] + z) for z in inside]
    return found


def _check(reader: Reader, what: str) -> None:
    """Raise RequestError unless the source holds the four cubes."""
    outside = [c for c in _cubes() if not reader.grid.extent.contains(c.extent)]
    if outside:
        raise RequestError(
            f"{what} {_location(reader)}: its shape {reader.grid.shape} does not hold the cube "
            f"{outside[0].region} at {outside[0].extent} (z, y, x); give the whole volume"
        )


def _location(reader: Reader) -> str:
    return str(reader.provenance.get("location", reader.provenance.get("kind", "source")))


def _find_arrays(folder: Path, stem: str) -> dict[str, tuple[NDArray[Any], str]] | None:
    """Return an array a region and its place in the files, None where there are none."""
    together = folder / f"{stem}.npz"
    alone = {region: folder / f"{stem}_{region.lower()}.npz" for region in REGIONS}
    if together.exists():
        arrays = {name.upper(): (a, f"{together}: {name}") for name, a in _load(together).items()}
        missing = [region for region in REGIONS if region not in arrays]
        if missing:
            raise DataError(
                f"{together}: no array {missing[0].lower()}; it must hold one for each of "
                f"{', '.join(REGIONS)}"
            )
        return {region: arrays[region] for region in REGIONS}
    if not any(path.exists() for path in alone.values()):
        return None
    missing = [str(path) for path in alone.values() if not path.exists()]
    if missing:
        raise DataError(f"{missing[0]} is missing; each of {', '.join(REGIONS)} needs its file")
    found = {}
    for region, path in alone.items():
        held = _load(path)
        if len(held) != 1:
            raise DataError(f"{path}: holds {len(held)} arrays; give one, (view, y, x)")
        [(name, array)] = held.items()
        found[region] = (array, f"{path}: {name}")
    return found


def _load(path: Path) -> dict[str, NDArray[Any]]:
    import zipfile
    import zlib

    try:
        with np.load(path, allow_pickle=False) as held:
            return {str(name): np.asarray(held[name]) for name in held.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        # Not what numpy says: it recommends to unpickle, which runs whatever is in the file.
        raise DataError(f"{path}: not a readable .npz file of arrays; fetch it again") from error


def _files(arrays: dict[str, tuple[NDArray[Any], str]]) -> str:
    return ", ".join(
        dict.fromkeys(Path(where.rpartition(":")[0]).name for _, where in arrays.values())
    )


def _views(values: NDArray[np.uint8], where: str) -> Views:
    """Return views with the planes they are of.

    View i and those a quarter, a half and three quarters of all further on are corners of one
    plane: structures run on from the border of one into the next (docs/how-to/reproduce.md).
    """
    if values.ndim != 3 or not values.size:
        raise DataError(f"{where}: shape {values.shape}; must be (view, y, x)")
    n = len(values)
    per_plane = N_CORNERS if n % N_CORNERS == 0 else 1
    return Views(values, np.arange(n, dtype=np.int64) % (n // per_plane))


def _codes(values: NDArray[Any], scheme: Scheme, where: str) -> NDArray[np.uint8]:
    known = {int(code) for code in scheme.codes}
    found = np.unique(values)
    wrong = [v for v in found.tolist() if v not in known]
    if wrong:
        raise DataError(
            f"{where}: holds {wrong[0]}; codes of {scheme.name} are "
            f"{', '.join(map(str, sorted(known)))}"
        )
    return values.astype(np.uint8)


def _levels(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Return whole grey levels; the authors' files hold them divided by 255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f" and values.size:
        level = np.rint(np.asarray(values, np.float64) * 255)
        near = np.abs(level - np.asarray(values, np.float64) * 255) < 0.01
        if near.all() and level.min() >= 0 and level.max() <= 255:
            return level.astype(np.uint8)
    raise DataError(
        f"{where}: {values.dtype} that are no grey levels; give uint8, or levels divided by 255"
    )
