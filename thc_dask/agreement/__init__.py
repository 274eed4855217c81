"""How well annotators answer, and how far they agree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from thc_dask import __version__
from thc_dask.draws import check_draws
from thc_dask.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

NEEDS = ("sklearn", "statsmodels", "krippendorff")
UNTESTED = "no item counts for both: no test"
TABLES = ("classes", "annotators", "pairs", "alpha", "confusion", "mcnemar", "regions")


def agreement(
    answers: str | os.PathLike[str] | pd.DataFrame,
    *,
    key: str = "key",
    annotators: Sequence[str] | None = None,
    dataset: str | None = None,
    item: str | None = None,
    classes: Sequence[str] | None = None,
    missing: str = "omit",
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> xr.DataTree:
    """Return how well annotators answer, how far they agree, and what they find hard.

    Scores are those of scikit-learn and krippendorff; intervals come from resampled items (BCa),
    all data sets together as well as each. ``docs/how-to/agreement.md`` explains every table.

    Parameters
    ----------
    answers
        A CSV file, or a pandas table: one row an item.
    key
        Column of the right classes. An item without one counts for kappa between annotators and
        for alpha alone.
    annotators
        Columns of answers, two or more; None takes every column that is nothing else.
    dataset
        Column that divides items; None takes ``dataset`` if there is such a column.
    item
        Column that, within a data set, names an item; None takes ``item`` if there is one. No item
        may stand there twice.
    classes
        All classes; None takes those of the key. An answer that is none of them is an error.
    missing
        What an empty answer is: ``omit`` leaves the item out of that annotator's scores, ``wrong``
        counts it as a wrong answer.
    confidence
        Of the intervals, between 0 and 1.
    n_resamples
        Bootstrap samples, at least 9.
    seed
        Of the bootstrap, and of permutations where there are too many items to try all; the same
        seed gives the same numbers.

    Returns
    -------
    xarray.DataTree
        ``classes`` (dataset, annotator, region): precision, recall, f1 with ``_low``, ``_high``
        and ``_note``, support. ``annotators`` (dataset, annotator): accuracy, f1_macro, kappa with
        the key, n_missing. ``pairs`` (dataset, annotator, other): kappa, agreement. ``alpha``
        (dataset). A note says why a score or its interval is missing, or that the interval is
        exact: of a share whose draws are all alike it is Clopper and Pearson's.
        ``confusion`` (dataset, annotator, region, answer): count. ``mcnemar`` (dataset,
        annotator, other, region): p, stars, and how many items only one answered right.
        ``regions`` (dataset, annotator, region, other): recall of both, p of the difference, p
        after Holm and after Benjamini and Hochberg, stars. What is not defined is NaN. The
        attribute ``n_missing`` has how many answers of each annotator are missing, of items with a
        key.

    Raises
    ------
    MissingError
        There is no such file.
    DataError
        It is no CSV file, it holds no answers, or an item stands in it twice.
    RequestError
        A column is missing, an annotator answered nothing, there are fewer than two annotators or
        two classes, an answer is no class, or an option is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"key": ["CTX", "CTX", "ZI", "ZI"],
    ...                       "ann": ["CTX", "CTX", "ZI", "CTX"], "bob": ["CTX", "ZI", "ZI", "ZI"]})
    >>> found = agreement(table)
    >>> found["classes"]["recall"].sel(dataset="all", region="CTX").values.tolist()
    [1.0, 0.5]
    >>> found["pairs"]["kappa"].sel(dataset="all", annotator="ann", other="bob").round(2).item()
    0.2
    """
    import xarray as xr

    lacking = [name for name in NEEDS if find_spec(name) is None]
    if lacking:
        raise RequestError(
            f"agreement needs {' and '.join(lacking)}, which is not installed; pip install "
            '"thc_dask[stats]"'
        )
    from thc_dask.agreement import contrasts, scores
    from thc_dask.agreement.answers import read_answers

    check_draws(n_resamples, confidence, seed, none=False)
    if missing not in ("omit", "wrong"):
        raise RequestError(f"missing {missing!r}: give omit or wrong")
    wrong = missing == "wrong"
    read = read_answers(answers, key, annotators, dataset, item, classes)
    bootstrap = scores.Bootstrap(n_resamples, confidence, seed)
    tables = {
        "classes": scores.by_class(read, wrong, bootstrap),
        "annotators": scores.by_annotator(read, wrong, bootstrap),
        "pairs": scores.by_pair(read, bootstrap),
        "alpha": scores.alpha(read, bootstrap),
        "confusion": scores.confusion(read),
        "mcnemar": contrasts.between_annotators(read, wrong),
        "regions": contrasts.between_regions(read, wrong, seed),
    }
    attrs: dict[str, Any] = {
        **read.source,
        "software": f"thc_dask {__version__}",
        "missing": missing,
        "n_missing": _n_missing(tables["annotators"]),
        "interval": f"{confidence:.0%} bootstrap over items, BCa where defined; exact "
        "(Clopper-Pearson) for shares of which all draws are alike",
        "n_resamples": n_resamples,
        "seed": seed,
        "mcnemar": "exact, two-sided",
        "regions": "one annotator: Fisher's exact test of right and wrong; all: permutation of "
        f"items, exact, or {contrasts.N_PERMUTATIONS} draws of many; corrected over the pairs of "
        "an annotator",
        "stars": "* p < 0.05, ** p < 0.01, *** p < 0.001, before correction",
    }
    return xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs=attrs)} | {k: t.assign_attrs(attrs) for k, t in tables.items()}
    )


def _n_missing(annotators: xr.Dataset) -> dict[str, int]:
    """Return how many answers of each annotator are missing, of items with a key."""
    total = annotators["n_missing"].isel(dataset=-1)  # that of all data sets is the last
    names = total["annotator"].values.tolist()
    return dict(zip(names, total.values.tolist(), strict=True))


def summary(found: xr.DataTree) -> xr.Dataset:
    """Return the scores of ``agreement`` as one long table, one row a value.

    Parameters
    ----------
    found
        What ``agreement`` returned.

    Returns
    -------
    xarray.Dataset
        Along ``row``: ``measure``, ``dataset``, ``annotator``, ``other``, ``region`` (text, empty
        where it does not apply), ``value``, ``low``, ``high``, ``p`` (NaN where there is none),
        ``n`` items and ``note``. Kappa with the key has the other ``key``; for ``mcnemar`` the
        value is how many more items the annotator alone answered right.
    """
    import pandas as pd

    rows = pd.DataFrame(_rows(found))
    table = rows.rename_axis("row").to_xarray().drop_vars("row")
    return table.assign_attrs(found.attrs)


def _rows(found: xr.DataTree) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(measure: str, at: dict[str, Any], n: Any, value: Any, **more: Any) -> None:
        row: dict[str, Any] = dict.fromkeys(("dataset", "annotator", "other", "region"), "")
        row = {"measure": measure} | row | at | {"value": float(value)}
        row |= {"low": float("nan"), "high": float("nan"), "p": float("nan"), "n": int(n)}
        rows.append(row | more)

    def score(name: str, at: dict[str, Any], n: Any, v: dict[str, Any]) -> None:
        add(name, at, n, v[name], **{end: v[f"{name}_{end}"] for end in ("low", "high", "note")})

    def each(table: str) -> Any:
        dataset = found[table].to_dataset()
        for at, values in _cells(dataset):
            yield at, {name: v.item() for name, v in values.items()}

    for at, v in each("annotators"):
        for name in ("accuracy", "f1_macro", "kappa"):
            score(name, at | ({"other": "key"} if name == "kappa" else {}), v["n_items"], v)
    for at, v in each("pairs"):
        if _first(found, at):
            for name in ("kappa", "agreement"):
                score(name, at, v["n_items"], v)
    for at, v in each("alpha"):
        ends = {end: v[end] for end in ("low", "high", "note")}
        add("alpha", at, v["n_items"], v["alpha"], **ends)
    for at, v in each("mcnemar"):
        if _first(found, at):
            more = v["only_annotator"] - v["only_other"]
            note = "" if v["n_items"] else UNTESTED
            add("mcnemar", at, v["n_items"], more, p=v["p"], note=note)
    for at, v in each("classes"):
        for name in ("precision", "recall", "f1"):
            score(name, at, v["support"], v)
    return rows


def _first(found: xr.DataTree, at: dict[str, Any]) -> bool:
    """Whether a pair stands in the order of the columns: the other way says the same."""
    order = found["pairs"].to_dataset()["annotator"].values.tolist()
    return bool(order.index(at["annotator"]) < order.index(at["other"]))


def _cells(table: xr.Dataset) -> Any:
    import itertools

    dims = [str(d) for d in table.dims]
    for place in itertools.product(*(range(table.sizes[d]) for d in dims)):
        cell = table.isel(dict(zip(dims, place, strict=True)))
        yield {d: str(cell[d].item()) for d in dims}, cell.data_vars
