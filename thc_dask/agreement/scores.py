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

    def entries(
        self, name: str, value: Any, ends: tuple[Any, Any], n_items: Any, right: Any = None
    ) -> dict[str, Any]:
        """Return what a table has of one score: ``kernels.agreement.amended``, by names."""
        low, high, note = kernel.amended(value, ends, n_items, right, self.confidence)
        return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_note": note}


def _blank(names: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Return a table of scores that are not defined."""
    numbers = {f"{s}{end}": np.full(shape, np.nan) for s in names for end in ("", "_low", "_high")}
    return numbers | {f"{s}_note": np.full(shape, kernel.UNDEFINED, object) for s in names}


def _notes_last(values: dict[str, Any], counts: dict[str, Any]) -> dict[str, Any]:
    """Return variables in the order of columns: numbers, counts, notes."""
    notes = {name: v for name, v in values.items() if name.endswith("note")}
    return {name: v for name, v in values.items() if name not in notes} | counts | notes


def names_of(answers: Answers) -> tuple[str, ...]:
    """Return the data sets to report: each, and all of them where there are several."""
    return answers.datasets if len(answers.datasets) == 1 else (*answers.datasets, ALL)


def by_class(answers: Answers, wrong: bool, bootstrap: Bootstrap) -> xr.Dataset:
    """Return precision, recall, F1 with intervals, notes, support: (dataset, annotator, region)."""
    import xarray as xr
    from sklearn.metrics import precision_recall_fscore_support

    datasets, k = names_of(answers), len(answers.classes)
    shape = (len(datasets), len(answers.annotators), k)
    found, support = _blank(SCORES, shape), np.zeros(shape, np.int64)
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

        ends = [np.split(end, len(SCORES)) for end in bootstrap.ends(statistic, key.size)]
        table = kernel.confusions(key, said, k)
        right, answered = np.diagonal(table), table[:, :-1].sum(axis=0)
        of = (answered, support[d, a], answered + support[d, a] - right)
        for i, name in enumerate(SCORES):
            share = None if name == "f1" else right
            both = (ends[0][i], ends[1][i])
            for column, v in bootstrap.entries(name, points[i], both, of[i], share).items():
                found[column][d, a] = v
    dims = ("dataset", "annotator", "region")
    coords = dict(zip(dims, (datasets, answers.annotators, answers.classes), strict=True))
    data = {name: (dims, values) for name, values in found.items()}
    return xr.Dataset(_notes_last(data, {"support": (dims, support)}), _texts(coords))


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
    found = _blank(scores, shape)
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

        mean_f1 = f1_macro(kernel.confusions(key, said, k))
        points = (accuracy_score(key, said), mean_f1, kappa(key, said))
        low, high = bootstrap.ends(statistic, key.size)
        of = (key.size, key.size, int((said >= 0).sum()))  # kappa leaves out what is not answered
        for i, name in enumerate(scores):
            share = (key == said).sum() if name == "accuracy" else None
            both = (low[i], high[i])
            for column, v in bootstrap.entries(name, points[i], both, of[i], share).items():
                found[column][d, a] = v
    dims = ("dataset", "annotator")
    data = {name: (dims, values) for name, values in found.items()}
    coords = _texts({"dataset": datasets, "annotator": answers.annotators})
    counts = {"n_items": (dims, n), "n_missing": (dims, n_missing)}
    return xr.Dataset(_notes_last(data, counts), coords)


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
    found = _blank(scores, shape)
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
            share = (first == second).sum() if name == "agreement" else None
            both = (low[i], high[i])
            for column, v in bootstrap.entries(name, points[i], both, first.size, share).items():
                found[column][d, [a, b], [b, a]] = v
    dims = ("dataset", "annotator", "other")
    data = {name: (dims, values) for name, values in found.items()}
    coords = {"dataset": datasets, "annotator": answers.annotators, "other": answers.annotators}
    return xr.Dataset(_notes_last(data, {"n_items": (dims, n)}), _texts(coords))


def alpha(answers: Answers, bootstrap: Bootstrap) -> xr.Dataset:
    """Return Krippendorff's alpha of all annotators, the key apart: (dataset)."""
    import krippendorff
    import xarray as xr

    datasets, k = names_of(answers), len(answers.classes)
    found, n = _blank(("alpha",), (len(datasets),)), np.zeros(len(datasets), np.int64)
    for d, dataset in enumerate(datasets):
        said = answers.subset(dataset)[1]
        votes = kernel.votes(said, k)
        paired = votes.sum(axis=1) >= 2
        n[d] = paired.sum()
        if (votes[paired].sum(axis=0) > 0).sum() < 2:
            continue  # one class, or nothing in common: krippendorff would divide by zero
        data = np.where(said < 0, np.nan, said.astype(np.float64))
        point = krippendorff.alpha(data, level_of_measurement="nominal", value_domain=np.arange(k))

        def statistic(drawn: Codes, votes: Codes = votes) -> Any:
            return kernel.krippendorff_alpha(votes[drawn])[None]

        low, high = bootstrap.ends(statistic, len(votes))
        for column, v in bootstrap.entries("alpha", point, (low[0], high[0]), n[d]).items():
            found[column][d] = v
    data_vars = {name.removeprefix("alpha_"): ("dataset", values) for name, values in found.items()}
    counts = {"n_items": ("dataset", n)}
    return xr.Dataset(_notes_last(data_vars, counts), _texts({"dataset": datasets}))


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
