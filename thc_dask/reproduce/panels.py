"""The panels of Figures 2 and 3: the numbers of each as a table, and its picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import plot
from thc_dask.kernels import statistics
from thc_dask.reproduce.views import REGIONS, Sample
from thc_dask.schemes import find_scheme

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

SMOOTHING = 1e-6
"""Counts added before a Kullback-Leibler divergence: that of the authors' notebook."""
STRUCTURES = ("background", "vessel", "cell", "axon")
"""In the order of Figure 2C."""
KNOWN = "all known pixels, background included"
FOREGROUND = "pixels of a vessel, cell or axon"


@dataclass(frozen=True)
class Interval:
    """How intervals are made."""

    n_resamples: int
    confidence: float
    seed: int


@dataclass(frozen=True)
class Panel:
    """One panel of a figure."""

    name: str
    """Of its files, without suffix: ``figure2c``."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Tables by the stem of their file."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """Pictures by the stem of their file."""
    notes: tuple[str, ...] = ()
    """How the numbers were obtained, where the paper leaves it open."""

    @property
    def number(self) -> str:
        """As the paper and the errata name it: ``2C``."""
        return self.name.removeprefix("figure").upper()


def examples(images: Sample, masks: Sample) -> Panel:
    """Return panel 2A: of each region the view with most of it annotated."""
    assert masks.scheme is not None
    figures = {}
    for region in REGIONS:
        grey, codes = images.views[region].values, masks.views[region].values
        best = int((codes > 0).sum(axis=(1, 2)).argmax())
        figures[f"figure2a_{region.lower()}"] = plot.annotated_slice(
            grey[best], codes[best], masks.scheme, 1.17, title=f"{region}, view {best}"
        )
    return Panel(
        "figure2a", figures=figures,
        notes=("The view of each region with most pixels annotated; the paper shows others.",),
    )  # fmt: skip


def intensities(images: Sample) -> Iterator[Panel]:
    """Yield panels 2B and 2D."""
    import pandas as pd
    import xarray as xr

    counts = images.counts().sum(axis=0)
    n_views = np.array([len(images.views[region].values) for region in REGIONS])
    place = np.indices(counts.shape).reshape(2, -1)
    table = pd.DataFrame({
        "region": np.array(REGIONS, object)[place[0]],
        "intensity": place[1],
        "count": counts.ravel(),
        "mean_count": (counts / n_views[:, None]).ravel(),
        "share": (counts / counts.sum(axis=1, keepdims=True)).ravel(),
    })  # fmt: skip
    scheme = find_scheme("prasad2020-roi")
    rows = xr.DataArray(
        counts, dims=("region", "intensity"),
        coords={"region": list(REGIONS), "intensity": np.arange(counts.shape[1]),
                "color": ("region", [scheme[r].color for r in REGIONS])},
    )  # fmt: skip
    title = f"Figure 2B: intensity by region, from {images.source}"
    yield Panel(
        "figure2b", {"figure2b": table}, {"figure2b": plot.intensity_distributions(rows, title)},
        ("count is of all views, mean_count of one, as the paper draws it; whole grey levels.",),
    )  # fmt: skip
    kl = statistics.kl_divergence(counts, SMOOTHING)
    js = statistics.jensen_shannon(counts)
    yield _matrices(
        "figure2d",
        {"figure2d": ("KL(row || column), nats", kl), "figure2d_js": ("JS, nats", js)},
        "Figure 2D: divergence of intensities",
        (f"figure2d: row from column, {SMOOTHING:g} added to every count, as in the notebook.",),
    )


def structures(masks: Sample, interval: Interval) -> Iterator[Panel]:
    """Yield panels 2C and 2E."""
    counts = masks.counts()[..., [masks.names.index(name) for name in STRUCTURES]]
    known, fore = _shares(counts, interval, KNOWN), _shares(counts[..., 1:], interval, FOREGROUND)
    n_planes = (counts.sum(axis=2) > 0).sum(axis=0)
    how = f"{interval.confidence:.0%} bootstrap over planes (BCa where defined), "
    how += f"{interval.n_resamples} resamples, seed {interval.seed}; planes: "
    how += ", ".join(f"{r} {n}" for r, n in zip(REGIONS, n_planes, strict=True))
    title = f"Figure 2C: structures by region, from {masks.source}"
    yield Panel(
        "figure2c",
        {"figure2c": _long_shares(known), "figure2c_foreground": _long_shares(fore)},
        {"figure2c": plot.structure_fractions(known, title)},
        (
            f"figure2c: shares of {KNOWN}; figure2c_foreground: of {FOREGROUND}.",
            f"Intervals: {how}.",
            *_one_plane(n_planes),
        ),
    )  # fmt: skip
    total = counts.sum(axis=0)
    fractions = statistics.fractions(counts)[:, 1:]
    yield _matrices(
        "figure2e",
        {
            "figure2e": ("1 - cosine similarity", statistics.cosine_dissimilarity(fractions)),
            "figure2e_kl": (
                "KL(row || column), nats", statistics.kl_divergence(total, SMOOTHING)
            ),
            "figure2e_js": ("JS, nats", statistics.jensen_shannon(total)),
        },
        "Figure 2E: dissimilarity of structures",
        ("figure2e: vessel, cell and axon shares, background left out, as the authors computed it.",
         "figure2e_kl and figure2e_js: background included, so that each region's shares sum to 1; "
         f"kl is row from column with {SMOOTHING:g} added to every count."),
    )  # fmt: skip


def _one_plane(n_planes: NDArray[np.int64]) -> tuple[str, ...]:
    alone = [r for r, n in zip(REGIONS, n_planes, strict=True) if n < 2]
    if not alone:
        return ()
    return (f"No interval for {', '.join(alone)}: one plane says nothing of others.",)


def _shares(counts: NDArray[np.int64], interval: Interval, of: str) -> xr.Dataset:
    """Return fractions of (plane, region, structure) counts with intervals."""
    import xarray as xr

    low, high = statistics.bootstrap_fractions(
        counts, interval.n_resamples, interval.confidence, interval.seed
    )
    dims = ("region", "structure")
    scheme = find_scheme("prasad2020-microstructure")
    names = list(STRUCTURES[-counts.shape[2] :])
    values = {"fraction": statistics.fractions(counts), "low": low, "high": high}
    return xr.Dataset(
        {name: (dims, value) for name, value in values.items()},
        {"region": list(REGIONS), "structure": names,
         "structure_color": ("structure", [scheme[name].color for name in names])},
        {"denominator": of},
    )  # fmt: skip


def _long_shares(shares: xr.Dataset) -> pd.DataFrame:
    from thc_dask.output import long_table

    return long_table(shares).assign(denominator=shares.attrs["denominator"])


def _matrices(
    name: str, matrices: dict[str, tuple[str, NDArray[np.float64]]], title: str,
    notes: tuple[str, ...],
) -> Panel:  # fmt: skip
    """Return square matrices of regions as a panel."""
    import pandas as pd
    import xarray as xr

    tables, figures = {}, {}
    for stem, (units, values) in matrices.items():
        tables[stem] = pd.DataFrame(values, list(REGIONS), list(REGIONS)).rename_axis("region")
        coords = {"region": list(REGIONS), "other": list(REGIONS)}
        matrix = xr.DataArray(values, coords, ("region", "other"))
        figures[stem] = plot.divergence_matrix(matrix, title, units)
    return Panel(name, tables, figures, notes)


def raters(found: xr.DataTree) -> Iterator[Panel]:
    """Yield panels 3B and 3C from what ``thc_dask.agreement`` found."""
    from thc_dask.agreement import summary
    from thc_dask.output import long_table

    kappa = found["pairs"].to_dataset()["kappa"].isel(dataset=-1).values
    both = kappa[np.triu_indices(len(kappa), 1)].mean()
    classes = found["classes"].to_dataset()
    columns = ["dataset", "annotator", "region", "precision", "recall", "f1", "support"]
    each = [d for d in classes["dataset"].values if d != "all"]
    scores = long_table(classes.sel(dataset=each))[columns]
    title = f"Figure 3B: F1 by region; kappa between annotators {both:.2f}"
    yield Panel(
        "figure3b", {"figure3b": scores, "agreement": long_table(summary(found))},
        {"figure3b": plot.scores_by_region(classes["f1"].sel(dataset=each).rename("F1"), title)},
        ("Bars are means of the data sets, dots the data sets; agreement.csv has intervals over "
         "items, kappa, alpha and McNemar's tests.",),
    )  # fmt: skip
    tests = found["regions"].to_dataset().isel(dataset=-1, drop=True)
    rows = long_table(tests)
    order = {name: i for i, name in enumerate(tests["region"].values)}
    rows = rows[rows["region"].map(order) < rows["other"].map(order)].reset_index(drop=True)
    yield Panel(
        "figure3c", {"figure3c": rows},
        {"figure3c": plot.significance_matrices(
            tests["stars"], tests["difference"],
            "Figure 3C: is one region more often recognised than another?")},
        ("All data sets together. One annotator: Fisher's exact test of right and wrong; all: "
         "permutation of items. Stars before correction: * p < 0.05, ** p < 0.01, *** p < 0.001; "
         "p_holm and p_bh are corrected over the pairs of an annotator.",),
    )  # fmt: skip


def annotated_plane(image: NDArray[Any], roi: NDArray[Any], known: NDArray[np.bool_]) -> Panel:
    """Return panel 3A: the annotated slice, without the views beside it."""
    figure = plot.annotated_slice(
        image, roi, find_scheme("prasad2020-roi"), 1.17, known, "Figure 3A: regions at z = 309"
    )
    return Panel(
        "figure3a", figures={"figure3a": figure},
        notes=("Plane 309. Unknown areas are hatched. The views beside it in the paper come from "
               "thc patches --sheet.",),
    )  # fmt: skip
