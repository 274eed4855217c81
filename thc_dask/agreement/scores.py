"""Scores of answers: scikit-learn's and krippendorff's, with intervals from resampled items."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.agreement.answers import ALL, Answers
from thc_dask.kernels import agreement as kernel

if TYPE_CHECKING:
    import xarray as xr

Codes = NDArray[np.int64]
SCORES = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made."""

    n_resamples: int
    confidence: float
    seed: int

    def ends(self, statistic: Any, n_items: int) -> tuple[Any, Any]:
        """Return the ends of the interval of each score."""
        return kernel.intervals(statistic, n_items, self.n_resamples, self.confidence, self.seed)


def names_of(answers: Answers) -> tuple[str, ...]:
    """Return the data sets to report: each, and all of them where there are several."""
    return answers.datasets if len(answers.datasets) == 1 else (*answers.datasets, ALL)


def by_class(answers: Answers, wrong: bool, bootstrap: Bootstrap) -> xr.Dataset:
    """Return precision, recall, F1 with intervals and support: (dataset, annotator, region)."""
    import xarray as xr
    from sklearn.metrics import precision_recall_fscore_support

    datasets, k = names_of(answers), len(answers.classes)
    shape = (len(datasets), len(answers.annotators), k)
    found = {f"{s}{end}": np.full(shape, np.nan) for s in SCORES for end in ("", "_low", "_high")}
    support = np.zeros(shape, np.int64)
    for (d, dataset), a in itertools.product(enumerate(datasets), range(shape[1])):
        key, said = scored(*_of(answers, dataset, a), wrong)
        if not key.size:
            continue
        *points, support[d, a] = precision_recall_fscore_support(
            key, said, labels=np.arange(k), zero_division=np.nan
        )

        def statistic(drawn: Codes, key: Codes = key, said: Codes = said) -> Any:
            table = kernel.confusions(key[drawn], said[drawn], k)
            scores = kernel.class_scores(table, count_missing=True)
            return np.concatenate([np.moveaxis(s, -1, 0) for s in scores])

        low, high = bootstrap.ends(statistic, key.size)
        for i, name in enumerate(SCORES):
            found[name][d, a] = points[i]
            found[f"{name}_low"][d, a] = low[i * k : (i + 1) * k]
            found[f"{name}_high"][d, a] = high[i * k : (i + 1) * k]
    dims = ("dataset", "annotator", "region")
    coords = dict(zip(dims, (datasets, answers.annotators, answers.classes), strict=True))
    data = {name: (dims, values) for name, values in found.items()}
    return xr.Dataset(data | {"support": (dims, support)}, _texts(coords))


def scored(key: Codes, said: Codes, wrong: bool) -> tuple[Codes, Codes]:
    """Return the items that count: those with a key, and with an answer unless none is wrong."""
    keep = (key >= 0) if wrong else (key >= 0) & (said >= 0)
    return key[keep], said[keep]


def by_annotator(answers: Answers, wrong: bool, bootstrap: Bootstrap) -> xr.Dataset:
    """Return accuracy, mean F1 and kappa with the key, with intervals: (dataset, annotator)."""
    import xarray as xr
    from sklearn.metrics import accuracy_score

    datasets, k = names_of(answers), len(answers.classes)
    shape = (len(datasets), len(answers.annotators))
    scores = ("accuracy", "f1_macro", "kappa")
    found = {f"{s}{end}": np.full(shape, np.nan) for s in scores for end in ("", "_low", "_high")}
    n, n_missing = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for (d, dataset), a in itertools.product(enumerate(datasets), range(shape[1])):
        everything = _of(answers, dataset, a)
        key, said = scored(*everything, wrong)
        n[d, a] = key.size
        n_missing[d, a] = ((everything[0] >= 0) & (everything[1] < 0)).sum()
        if not key.size:
            continue

        def statistic(drawn: Codes, key: Codes = key, said: Codes = said) -> Any:
            table = kernel.confusions(key[drawn], said[drawn], k)
            return np.stack([
                kernel.accuracy(table, True), f1_macro(table), kernel.cohen_kappa(table),
            ])  # fmt: skip

        points = [accuracy_score(key, said), f1_macro(kernel.confusions(key, said, k))]
        low, high = bootstrap.ends(statistic, key.size)
        for i, name in enumerate(scores):
            point = kappa(key, said) if name == "kappa" else points[i]
            for end, value in (("", point), ("_low", low[i]), ("_high", high[i])):
                found[f"{name}{end}"][d, a] = value
    dims = ("dataset", "annotator")
    data = {name: (dims, values) for name, values in found.items()}
    coords = _texts({"dataset": datasets, "annotator": answers.annotators})
    return xr.Dataset(data | {"n_items": (dims, n), "n_missing": (dims, n_missing)}, coords)


def f1_macro(table: Any) -> Any:
    """Return the mean F1 of the classes that were asked for or answered."""
    f1 = kernel.class_scores(table, count_missing=True)[2]
    defined = np.isfinite(f1)
    return np.where(defined, f1, 0).sum(axis=-1) / np.maximum(defined.sum(axis=-1), 1)


def kappa(first: Codes, second: Codes) -> float:
    """Return Cohen's kappa over the items that both answered; NaN where it is not defined."""
    from sklearn.metrics import cohen_kappa_score

    both = (first >= 0) & (second >= 0)
    first, second = first[both], second[both]
    if np.union1d(first, second).size < 2:  # scikit-learn would warn, and give NaN
        return float("nan")
    return float(cohen_kappa_score(first, second))


def by_pair(answers: Answers, bootstrap: Bootstrap) -> xr.Dataset:
    """Return how far two annotators agree: (dataset, annotator, other), both ways the same."""
    import xarray as xr

    datasets, k, m = names_of(answers), len(answers.classes), len(answers.annotators)
    shape = (len(datasets), m, m)
    scores = ("kappa", "agreement")
    found = {f"{s}{end}": np.full(shape, np.nan) for s in scores for end in ("", "_low", "_high")}
    n = np.zeros(shape, np.int64)
    for (d, dataset), (a, b) in itertools.product(
        enumerate(datasets), itertools.combinations(range(m), 2)
    ):
        said = answers.subset(dataset)[1]
        first, second = said[:, (said[a] >= 0) & (said[b] >= 0)][[a, b]]
        n[d, a, b] = n[d, b, a] = first.size
        if not first.size:
            continue

        def statistic(drawn: Codes, first: Codes = first, second: Codes = second) -> Any:
            table = kernel.confusions(first[drawn], second[drawn], k)
            return np.stack([kernel.cohen_kappa(table), kernel.accuracy(table)])

        low, high = bootstrap.ends(statistic, first.size)
        points = (kappa(first, second), float((first == second).mean()))
        for i, name in enumerate(scores):
            for end, value in (("", points[i]), ("_low", low[i]), ("_high", high[i])):
                found[f"{name}{end}"][d, [a, b], [b, a]] = value
    dims = ("dataset", "annotator", "other")
    data = {name: (dims, values) for name, values in found.items()}
    coords = {"dataset": datasets, "annotator": answers.annotators, "other": answers.annotators}
    return xr.Dataset(data | {"n_items": (dims, n)}, _texts(coords))


def alpha(answers: Answers, bootstrap: Bootstrap) -> xr.Dataset:
    """Return Krippendorff's alpha of all annotators, the key apart: (dataset)."""
    import krippendorff
    import xarray as xr

    datasets, k = names_of(answers), len(answers.classes)
    found = np.full((3, len(datasets)), np.nan)
    n = np.zeros(len(datasets), np.int64)
    for d, dataset in enumerate(datasets):
        said = answers.subset(dataset)[1]
        votes = kernel.votes(said, k)
        paired = votes.sum(axis=1) >= 2
        n[d] = paired.sum()
        if (votes[paired].sum(axis=0) > 0).sum() < 2:
            continue  # one class, or nothing in common: krippendorff would divide by zero
        data = np.where(said < 0, np.nan, said.astype(np.float64))
        found[0, d] = krippendorff.alpha(
            data, level_of_measurement="nominal", value_domain=np.arange(k)
        )
        found[1:, d] = np.ravel(
            bootstrap.ends(
                lambda drawn, votes=votes: kernel.krippendorff_alpha(votes[drawn])[None], len(votes)
            )
        )
    values = {name: ("dataset", found[i]) for i, name in enumerate(("alpha", "low", "high"))}
    return xr.Dataset(values | {"n_items": ("dataset", n)}, _texts({"dataset": datasets}))


def confusion(answers: Answers) -> xr.Dataset:
    """Return how often each class was answered as each: (dataset, annotator, region, answer)."""
    import xarray as xr

    datasets, k = names_of(answers), len(answers.classes)
    tables = []
    for dataset in datasets:
        key, said = answers.subset(dataset)
        tables.append(kernel.confusions(np.broadcast_to(key, said.shape), said, k))
    coords = {
        "dataset": datasets, "annotator": answers.annotators, "region": answers.classes,
        "answer": (*answers.classes, "no answer"),
    }  # fmt: skip
    dims = ("dataset", "annotator", "region", "answer")
    return xr.Dataset({"count": (dims, np.stack(tables))}, _texts(coords))


def _of(answers: Answers, dataset: str, annotator: int) -> tuple[Codes, Codes]:
    key, said = answers.subset(dataset)
    return key, said[annotator]


def _texts(coords: Any) -> dict[str, Any]:
    return {name: np.array(values, object) for name, values in coords.items()}
