"""Count tables as figures, in the manner of Figures 2 and 3 of Prasad et al. 2020.

Every function returns a ``matplotlib.figure.Figure`` that belongs to the caller; pyplot and its
global state are not touched, so figures may be made in several threads.
"""

from thc_dask.plot.canvas import render, save
from thc_dask.plot.charts import (
    divergence_matrix,
    intensity_distributions,
    structure_fractions,
)
from thc_dask.plot.raters import scores_by_region, significance_matrices
from thc_dask.plot.slices import annotated_slice

__all__ = [
    "annotated_slice",
    "divergence_matrix",
    "intensity_distributions",
    "render",
    "save",
    "scores_by_region",
    "significance_matrices",
    "structure_fractions",
]
