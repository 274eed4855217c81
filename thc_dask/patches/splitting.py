"""Which planes are for testing, and how many patches come from each plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TRY_ALL = 12  # planes of which every division is tried
N_DRAWN = 512  # divisions of more planes that are drawn, before the best is improved


@dataclass(frozen=True)
class Division:
    """Planes for training and planes for testing."""

    test: Bools
    """Which planes are for testing, (plane,)."""
    n: int
    """How many patches of each region it allows, train and test together."""


def parts(n: int, test: float) -> tuple[int, int]:
    """Return how many of ``n`` patches are for training and for testing, at least one of each.

    >>> parts(10, 0.25), parts(3, 0.01), parts(5, 0.0)
    ((7, 3), (2, 1), (5, 0))
    """
    if not test:
        return n, 0
    n_test = min(max(1, int(n * test + 0.5)), n - 1)
    return n - n_test, n_test


def most(train: int, test: int, share: float) -> int:
    """Return the largest number of patches whose parts there are; 0 if there is none.

    >>> most(20, 6, 0.25), most(20, 0, 0.25), most(20, 0, 0.0)
    (25, 0, 20)
    """
    if not share:
        return train
    least = 2
    # No part grows faster than the whole, so what fits is found from above.
    bound = min(train + test, int(min((train + 1) / (1 - share), (test + 1) / share)) + 2)
    for n in range(bound, least - 1, -1):
        need_train, need_test = parts(n, share)
        if need_train <= train and need_test <= test:
            return n
    return 0


def divide(capacity: Ints, share: float, n: int | None, rng: np.random.Generator) -> Division:
    """Return which planes are for testing.

    Among the divisions that leave every region ``n`` patches, one whose share of planes is
    nearest to ``share``; where none does, or no number was given, the one that leaves most to the
    region that gets least. Ties are drawn.

    Parameters
    ----------
    capacity
        Patches that there are, (region, plane).
    share
        Of patches that are for testing, 0 to below 1.
    n
        Patches wanted of each region; None wants as many as there can be.
    rng
        What draws.

    Examples
    --------
    >>> found = divide(np.array([[4, 4, 4], [0, 2, 2]]), 0.5, None, np.random.default_rng(0))
    >>> found.n, int(found.test.sum()) in (1, 2)
    (4, True)
    """
    n_planes = capacity.shape[1]
    if not share:
        return Division(np.zeros(n_planes, bool), int(capacity.sum(axis=1).min()))
    if n_planes < 2:
        return Division(np.zeros(n_planes, bool), 0)
    tried = _candidates(n_planes, share, rng)
    if n is not None:
        need_train, need_test = parts(n, share)
        train, test = _left(capacity, tried)
        enough = (train >= need_train) & (test >= need_test)
        if enough.any():
            return _chosen(capacity, tried[enough], share)
    allowed = _allowed(capacity, tried, share)
    best = tried[allowed == allowed.max()]
    if n_planes > TRY_ALL:
        best = _improved(capacity, best[0], share)[None]
    return _chosen(capacity, best, share)


def _candidates(n_planes: int, share: float, rng: np.random.Generator) -> Bools:
    """Return divisions (division, plane) in an order that is drawn."""
    if n_planes <= TRY_ALL:
        every = np.arange(1, 2**n_planes - 1)
        bits = (every[:, None] >> np.arange(n_planes)) & 1
        return rng.permutation(bits.astype(bool))
    n_test = min(max(1, int(n_planes * share + 0.5)), n_planes - 1)
    first = np.zeros((N_DRAWN, n_planes), bool)
    first[:, :n_test] = True
    return rng.permuted(first, axis=1)


def _left(capacity: Ints, divisions: Bools) -> tuple[Ints, Ints]:
    """Return what each division leaves the poorest region to train and to test."""
    test = (divisions.astype(np.int64) @ capacity.T).min(axis=1)
    train = ((~divisions).astype(np.int64) @ capacity.T).min(axis=1)
    return train, test


def _allowed(capacity: Ints, divisions: Bools, share: float) -> Ints:
    """Return how many patches of each region every division allows."""
    pairs, which = np.unique(_left(capacity, divisions), axis=1, return_inverse=True)
    found = [most(train, test, share) for train, test in pairs.T.tolist()]
    return np.array(found, np.int64)[which.ravel()]


def _improved(capacity: Ints, division: Bools, share: float) -> Bools:
    """Return the division after planes have changed sides one by one, as long as that helps.

    It helps if the region and part that has least of what it should have gets more; of equals,
    the next one.
    """
    while True:
        others = np.concatenate([division[None], division ^ np.eye(len(division), dtype=bool)])
        sides = (others.astype(np.int64) / share, (~others).astype(np.int64) / (1 - share))
        shares = np.sort(np.concatenate([side @ capacity.T for side in sides], axis=1), axis=1)
        best = int(np.lexsort(shares.T[::-1])[-1])
        if (shares[best] == shares[0]).all():
            return division
        division = others[best]


def _chosen(capacity: Ints, divisions: Bools, share: float) -> Division:
    far = np.abs(divisions.mean(axis=1) - share)
    chosen = divisions[int(far.argmin())]
    train, test = _left(capacity, chosen[None])
    return Division(chosen, most(int(train[0]), int(test[0]), share))


def spread(capacity: Ints, n: int, rng: np.random.Generator) -> Ints:
    """Return how many patches each plane gives: as even as they can be, what is over is drawn.

    Parameters
    ----------
    capacity
        Patches of each plane, (plane,); together ``n`` at least.
    n
        How many are wanted.
    rng
        What draws.

    Examples
    --------
    >>> spread(np.array([1, 5, 9]), 9, np.random.default_rng(0)).tolist()
    [1, 4, 4]
    """
    given = np.zeros(len(capacity), np.int64)
    while left := n - int(given.sum()):
        open_ = np.flatnonzero(given < capacity)
        each = left // len(open_)
        if each:
            given[open_] += np.minimum(each, (capacity - given)[open_])
        else:
            given[rng.permutation(open_)[:left]] += 1
    return given
