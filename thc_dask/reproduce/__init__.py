"""Figures 2 and 3 of Prasad et al. 2020, as far as the data at hand allow."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thc_dask import __version__
from thc_dask.catalogue import errata
from thc_dask.errors import MissingError, RequestError, ThcError, writing

PANELS = ("2A", "2B", "2C", "2D", "2E", "3A", "3B", "3C")
OF_IMAGES, OF_MASKS = ("2A", "2B", "2D"), ("2C", "2E")
RECORD = "reproduce.json"
ANSWERS = "irr.csv"
SLICE = ("slice_z309.tif", "roi_z309.tif", "roi_z309.json")
NO_IMAGES = (
    "the grey views are not in {folder}: give imgs.npz (arrays ctx, zi, str, trn of view, y, x) "
    "or imgs_ctx.npz and so on there, or --image bossdb://prasad/prasad2020/image"
)
NO_MASKS = (
    "the annotated views are not in {folder}: give masks.npz (arrays ctx, zi, str, trn of view, "
    "y, x) there, or --labels bossdb://prasad/prasad2020/pixel_annotation"
)


@dataclass(frozen=True)
class Reproduction:
    """What was made of the paper's figures."""

    folder: str
    """Where the files are."""
    files: dict[str, list[str]]
    """Names of the files by panel (``2C``), in the order of the paper."""
    notes: dict[str, list[str]]
    """How the numbers of a panel were obtained."""
    missing: dict[str, str]
    """Why a panel could not be made."""
    errata: dict[str, list[str]]
    """What the paper's sources contradict one another in, by panel; cited as E1, E2."""
    inputs: dict[str, dict[str, Any]]
    """What was read: files with bytes and sha256, addresses."""
    options: dict[str, Any] = field(default_factory=dict)
    """Resamples, confidence, seed, software."""


def reproduce(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    image: Any = None,
    labels: Any = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> Reproduction:
    """Write what the data allow of Figures 2 and 3 of Prasad et al. 2020, as CSV and PNG.

    Each panel is computed as the authors did, with intervals and with what they left out beside
    it; ``docs/how-to/reproduce.md`` says what every file holds. ``reproduce.json`` in the folder
    keeps what is returned.

    Parameters
    ----------
    data
        Folder with ``masks.npz`` (2C, 2E), ``imgs.npz`` (2A, 2B, 2D), ``irr.csv`` (3B, 3C) and
        ``slice_z309.tif``, ``roi_z309.tif``, ``roi_z309.json`` (3A), or some of them.
    out
        Folder of the files; made if needed.
    image
        The whole volume, any source (``bossdb://prasad/prasad2020/image``, a store): the grey
        views are then the annotated planes of its four cubes.
    labels
        Structures of the whole volume, any source: the annotated views are then those planes.
    n_resamples, confidence, seed
        Of the intervals; planes are resampled for 2C, items for 3B.
    tell
        Called with a line about each panel.

    Returns
    -------
    Reproduction
        Files, notes, errata and what could not be made, by panel.

    Raises
    ------
    MissingError
        There is no such folder, or nothing in it that a panel could be made from.
    DataError
        A file does not hold what its name says.
    RequestError
        An option is out of range, or a source does not hold the cubes.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> data = Path(mkdtemp())
    >>> draw = np.random.default_rng(0).integers
    >>> views = {region: draw(4, size=(8, 16, 16)) for region in ("ctx", "zi", "str", "trn")}
    >>> np.savez(data / "masks.npz", **views)
    >>> made = reproduce(data, data / "out", n_resamples=99)
    >>> sorted(made.files), sorted(made.missing)
    (['2C', '2E'], ['2A', '2B', '2D', '3A', '3B', '3C'])
    """
    from thc_dask.draws import check_draws

    check_draws(n_resamples, confidence, seed, none=False)
    job = _Job(Path(data), Path(out), (n_resamples, confidence, seed), tell or (lambda line: None))
    return job.run(image, labels)


class _Job:
    """One run: what was read, made and missed so far."""

    def __init__(
        self, data: Path, out: Path, options: tuple[int, float, int], tell: Callable[[str], None]
    ) -> None:
        if not data.is_dir():
            raise MissingError(f"data {data}: no such folder; give the one with masks.npz, irr.csv")
        if out.exists() and not out.is_dir():
            raise RequestError(f"output {out} is a file; give a folder")
        from thc_dask.kernels.statistics import Resampling

        self._data, self._out, self._tell = data, out, tell
        Resampling(*options)  # says what is wrong before anything is made
        self._n_resamples, self._confidence, self._seed = options
        self._files: dict[str, list[str]] = {}
        self._notes: dict[str, list[str]] = {}
        self._missing: dict[str, str] = {}
        self._inputs: dict[str, dict[str, Any]] = {}
        self._failure: ThcError | None = None

    def run(self, image: Any, labels: Any) -> Reproduction:
        """Make every panel that can be made; the record last."""
        for panel in self._panels(image, labels):
            self._write(panel)
        if not self._files:
            if self._failure is not None:
                raise self._failure
            raise MissingError(
                f"data {self._data}: holds nothing to make a panel from; put masks.npz, imgs.npz "
                f"or {ANSWERS} there, or give --image and --labels"
            )
        made = Reproduction(
            folder=str(self._out),
            files={p: self._files[p] for p in PANELS if p in self._files},
            notes={p: self._notes[p] for p in PANELS if p in self._files},
            missing={p: self._missing[p] for p in PANELS if p in self._missing},
            errata={p: [str(e) for e in errata(p)] for p in PANELS if p in self._files},
            inputs=self._inputs,
            options={
                "n_resamples": self._n_resamples, "confidence": self._confidence,
                "seed": self._seed, "software": f"thc_dask {__version__}",
            },
        )  # fmt: skip
        self._put(RECORD, json.dumps(asdict(made), indent=1).encode() + b"\n")
        return made

    def _panels(self, image: Any, labels: Any) -> Iterator[Any]:
        """Yield the panels that can be made; note the others as missing."""
        from thc_dask.reproduce import panels

        images, masks = self._samples(image, labels)
        if images is None:
            why = NO_IMAGES.format(folder=self._data) + self._too_coarse()
            self._missing = dict.fromkeys(OF_IMAGES, why) | self._missing
        else:
            if masks is not None and images.pairs_with(masks):
                yield panels.examples(images, masks)
            else:
                self._missing["2A"] = "needs grey and annotated views of the same places"
            with self._or_missing(OF_IMAGES):
                yield from panels.intensities(images)
        if masks is None:
            why = NO_MASKS.format(folder=self._data)
            self._missing = dict.fromkeys(OF_MASKS, why) | self._missing
        else:
            how = panels.Interval(self._n_resamples, self._confidence, self._seed)
            with self._or_missing(OF_MASKS):
                yield from panels.structures(masks, how)
        with self._or_missing(["3A"]):
            yield from self._slice()
        with self._or_missing(["3B", "3C"]):
            yield from self._raters()

    @contextmanager
    def _or_missing(self, panels: Sequence[str]) -> Iterator[None]:
        """Note panels as missing where their file is no good; the others are made all the same."""
        try:
            yield
        except ThcError as error:
            self._failure = self._failure or error
            self._missing |= {p: str(error) for p in panels if p not in self._files}

    def _samples(self, image: Any, labels: Any) -> tuple[Any, Any]:
        """Return grey and annotated views; a source that is given goes before files."""
        from thc_dask.reproduce.views import find_images, find_masks, read_cubes
        from thc_dask.sources import open_reader

        given = [None if source is None else open_reader(source) for source in (image, labels)]
        for what, reader in zip(("image", "labels"), given, strict=True):
            if reader is not None:
                self._inputs[what] = dict(reader.provenance)
        images, masks = read_cubes(*given) if any(r is not None for r in given) else (None, None)
        if images is None:
            with self._or_missing(OF_IMAGES):
                images = find_images(self._data)
                self._read("imgs*.npz", images)
        if masks is None:
            with self._or_missing(OF_MASKS):
                masks = find_masks(self._data)
                self._read("masks*.npz", masks)
        return images, masks

    def _too_coarse(self) -> str:
        if not (self._data / SLICE[0]).exists():
            return ""
        return f" ({SLICE[0]} was published with 19 grey levels: too few for a distribution)"

    def _slice(self) -> Iterator[Any]:
        """Yield panel 3A, if the slice and its regions are there."""
        import numpy as np

        from thc_dask.reader import read
        from thc_dask.reproduce import panels
        from thc_dask.sources import open_reader

        image, roi, window = (self._data / name for name in SLICE)
        lacking = [path.name for path in (image, roi, window) if not path.exists()]
        if lacking:
            self._missing["3A"] = f"{', '.join(lacking)} not in {self._data}"
            return
        planes = []
        for path in (image, roi):
            reader = open_reader(path, (1.17, 1.17, 1.17))
            planes.append(read(reader, reader.grid.extent)[0])
        known = np.zeros(planes[0].shape, bool)
        known[_window(window)] = True
        for path in (image, roi, window):
            self._note_file(path)
        yield panels.annotated_plane(planes[0], planes[1], known)

    def _raters(self) -> Iterator[Any]:
        """Yield panels 3B and 3C, if the answers are there."""
        from thc_dask.agreement import agreement
        from thc_dask.reproduce import panels

        path = self._data / ANSWERS
        if not path.exists():
            self._missing |= dict.fromkeys(("3B", "3C"), f"{ANSWERS} is not in {self._data}")
            return
        found = agreement(
            path, n_resamples=self._n_resamples, confidence=self._confidence, seed=self._seed
        )
        self._note_file(path)
        yield from panels.raters(found)

    def _read(self, pattern: str, sample: Any) -> None:
        for path in sorted(self._data.glob(pattern)) if sample is not None else ():
            self._note_file(path)

    def _note_file(self, path: Path) -> None:
        data = path.read_bytes()
        self._inputs[path.name] = {
            "n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip

    def _write(self, panel: Any) -> None:
        from thc_dask.plot import render

        names = []
        for stem, table in panel.tables.items():
            square = table.index.name is not None
            text = table.to_csv(index=square, lineterminator="\n")
            names.append(self._put(f"{stem}.csv", text.encode()))
        for stem, figure in panel.figures.items():
            names.append(self._put(f"{stem}.png", render(figure, "png")))
        self._files[panel.number], self._notes[panel.number] = names, list(panel.notes)
        self._tell(f"{panel.number}: {' '.join(names)}")

    def _put(self, name: str, data: bytes) -> str:
        from thc_dask.store.filesink import write_file

        with writing(self._out / name):
            self._out.mkdir(parents=True, exist_ok=True)
        write_file(self._out / name, data)
        return name


def _window(path: Path) -> tuple[slice, slice]:
    """Return where the regions of the slice are known, in y and x."""
    from thc_dask.errors import DataError

    try:
        (y0, y1), (x0, x1) = (json.loads(path.read_text())["known_window"][a] for a in "yx")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: no known_window with y and x, two whole numbers each; fetch it again"
        ) from error
    return slice(int(y0), int(y1)), slice(int(x0), int(x1))
