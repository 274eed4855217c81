"""Baselines: how well two plain classifiers tell regions apart, scored as annotators are."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from thc_dask.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from thc_dask.kernels.texture import Floats

CLASSIFIERS = ("logistic", "forest")
MEASURES = {"classes": ("precision", "recall", "f1"), "annotators": ("accuracy", "kappa")}
ENDS = ("", "_low", "_high")


def check_classify(test: float) -> None:
    """Raise RequestError where nothing can be classified: no split, or a package is missing."""
    if find_spec("sklearn") is None:
        raise RequestError(
            'classifying needs sklearn, which is not installed; pip install "thc_dask[stats]"'
        )
    if not test:
        raise RequestError("classifying needs patches to test on: give --test above 0")


def answer(found: xr.Dataset, seed: int = 0) -> pd.DataFrame:
    """Return what two classifiers say of the test patches, having learned from the train patches.

    Both see the features of ``kernels.texture`` and nothing else: ``logistic`` is a logistic
    regression of standardised features, ``forest`` a random forest, both of scikit-learn.

    Parameters
    ----------
    found
        What ``patches`` returned, or ``xarray.open_zarr`` of what it wrote.
    seed
        Of the forest.

    Returns
    -------
    pandas.DataFrame
        One row a test patch, as ``agreement`` takes it: ``dataset`` (test), ``item`` (number of
        the patch), ``key`` (its region), ``logistic``, ``forest``.

    Raises
    ------
    RequestError
        There are no test patches or no train patches, or all are of one region.

    Examples
    --------
    >>> import xarray as xr
    >>> rng = np.random.default_rng(0)
    >>> image = rng.integers(0, 100, (40, 16, 16)) + 100 * (np.arange(40) % 2)[:, None, None]
    >>> coords = {"patch": np.arange(40), "region": ("patch", ["CTX", "ZI"] * 20),
    ...           "split": ("patch", ["train"] * 20 + ["test"] * 20)}
    >>> answers = answer(xr.Dataset({"image": (("patch", "y", "x"), image)}, coords))
    >>> len(answers), bool((answers.forest == answers.key).all())
    (20, True)
    """
    import pandas as pd
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    test = found["split"].values == "test"
    region = np.array([str(name) for name in found["region"].values])  # zarr gives its own type
    if not test.any() or test.all():
        raise RequestError("patches are not split into train and test: draw them with --test 0.3")
    if len(set(region)) < 2:
        raise RequestError(f"all patches are of {region[0]}: there is nothing to tell apart")
    measured = _features(found, test)
    forest = RandomForestClassifier(n_estimators=300, random_state=seed, n_jobs=1)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=10_000))
    said = {
        name: model.fit(measured[~test], region[~test]).predict(measured[test])
        for name, model in zip(CLASSIFIERS, (linear, forest), strict=True)
    }
    return pd.DataFrame(
        {"dataset": "test", "item": found["patch"].values[test], "key": region[test], **said}
    )


def _features(found: xr.Dataset, test: Any) -> Floats:
    """Return features (patch, feature), block by block on whatever scheduler is current."""
    import dask.array as da

    from thc_dask.kernels.texture import feature_names, features

    image = da.asarray(found["image"].data).rechunk({1: -1, 2: -1})
    train = image[np.flatnonzero(~test)]
    # Test patches have no say in anything that is learned, the ends of the histogram included.
    low, high = (float(v) for v in da.compute(train.min(), train.max()))
    columns = len(feature_names())
    found_by_block: Floats = image.map_blocks(
        features, low, high, drop_axis=(1, 2), new_axis=1, chunks=(image.chunks[0], (columns,)),
        dtype=np.float64, meta=np.zeros((0, columns)),
    ).compute()  # fmt: skip
    return found_by_block


def score(
    answers: pd.DataFrame, *, confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> xr.Dataset:
    """Return how well classifiers did, by the scores and intervals of ``agreement``.

    Parameters
    ----------
    answers
        As ``answer`` gives them; columns of people may stand beside.
    confidence, n_resamples, seed
        Of the intervals, which come from drawing test patches.

    Returns
    -------
    xarray.Dataset
        (dataset, annotator, region), as Figure 3B has them: ``precision``, ``recall``, ``f1`` of
        each region, ``support`` in patches; ``accuracy`` and ``kappa`` with the key of all regions
        together; each but ``support`` with ``_low``, ``_high`` and ``_note``, as ``agreement`` has
        them.

    Raises
    ------
    RequestError
        ``agreement`` cannot score the answers.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"key": ["CTX", "CTX", "ZI", "ZI"],
    ...                       "logistic": ["CTX", "CTX", "ZI", "CTX"],
    ...                       "forest": ["CTX", "ZI", "ZI", "ZI"]})
    >>> found = score(table, n_resamples=99)
    >>> found["accuracy"].sel(annotator="forest", region="ZI").item()
    0.75
    """
    import xarray as xr

    from thc_dask.agreement import agreement

    found = agreement(answers, confidence=confidence, n_resamples=n_resamples, seed=seed)
    classes, whole = found["classes"].to_dataset(), found["annotators"].to_dataset()
    data = {f"{m}{end}": classes[f"{m}{end}"] for m in MEASURES["classes"] for end in ENDS}
    data["support"] = support = classes["support"]

    def spread(name: str) -> xr.DataArray:
        return whole[name].broadcast_like(support).transpose(*support.dims)

    data |= {f"{m}{end}": spread(f"{m}{end}") for m in MEASURES["annotators"] for end in ENDS}
    data |= {f"{m}_note": classes[f"{m}_note"] for m in MEASURES["classes"]}
    data |= {f"{m}_note": spread(f"{m}_note") for m in MEASURES["annotators"]}
    return xr.Dataset(data, attrs=found.attrs)
