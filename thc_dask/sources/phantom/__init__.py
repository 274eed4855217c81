"""A synthetic thalamocortical volume of any shape: image, label sets and the true answers.

``volume`` makes any block without the rest, ``truth`` counts, ``files`` writes.
"""

from __future__ import annotations

from thc_dask.sources.phantom.files import Written, write_phantom
from thc_dask.sources.phantom.truth import Truth, annotated_planes, true_tables
from thc_dask.sources.phantom.volume import (
    DEFAULT_SHAPE,
    GENERATOR,
    SCHEME_OF,
    Phantom,
    open_phantom,
)

__all__ = [
    "DEFAULT_SHAPE",
    "GENERATOR",
    "SCHEME_OF",
    "Phantom",
    "Truth",
    "Written",
    "annotated_planes",
    "open_phantom",
    "true_tables",
    "write_phantom",
]
