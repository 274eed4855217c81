"""Count tables to numbers: summaries, distances, fractions, intervals, tests.

Nothing here touches voxels: every function takes integer counts and costs the same for a slice
and for a brain. Where there are no counts the answer is NaN, never a number. Formulas and their
sources: ``docs/statistics.md``.
"""

from thc_dask.kernels.statistics.comparisons import (
    COMPOSITION,
    INTENSITY,
    Measure,
    chosen,
    compared,
    tested,
    with_background,
)
from thc_dask.kernels.statistics.counts import shares as shares_of
from thc_dask.kernels.statistics.divergences import (
    check_smoothing,
    cliffs_delta,
    cohen_h,
    cosine_dissimilarity,
    hellinger,
    jensen_shannon,
    kl_divergence,
    total_variation,
    wasserstein,
)
from thc_dask.kernels.statistics.permutations import Tested, corrected, permuted
from thc_dask.kernels.statistics.resampling import (
    Distance,
    Resampling,
    bootstrap_fractions,
    bootstrap_summary,
    intervals,
)
from thc_dask.kernels.statistics.summaries import (
    PERCENTILES,
    UNITS,
    fractions,
    summary,
    summary_of,
)

__all__ = [
    "COMPOSITION",
    "INTENSITY",
    "PERCENTILES",
    "UNITS",
    "Distance",
    "Measure",
    "Resampling",
    "Tested",
    "bootstrap_fractions",
    "bootstrap_summary",
    "check_smoothing",
    "chosen",
    "cliffs_delta",
    "cohen_h",
    "compared",
    "corrected",
    "cosine_dissimilarity",
    "fractions",
    "hellinger",
    "intervals",
    "jensen_shannon",
    "kl_divergence",
    "permuted",
    "shares_of",
    "summary",
    "summary_of",
    "tested",
    "total_variation",
    "wasserstein",
    "with_background",
]
