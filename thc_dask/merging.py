"""Regions put together under one name: ``VP=TRN,VP``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import MissingError, RequestError
from thc_dask.schemes import Scheme

RULES = {"prasad2020": {"VP": ("TRN", "VP"), "WM": ("IC", "CC")}}
"""Known by name: those of the paper's study of annotators (Technical Validation)."""

Merge = str | Mapping[str, Sequence[str]] | Sequence[str] | None


@dataclass(frozen=True)
class Merged:
    """What is left of a scheme's labels once some are put together."""

    scheme: Scheme
    names: tuple[str, ...]
    """In the order of the scheme; a new one stands where its first member did."""
    members: tuple[tuple[str, ...], ...]
    """Names of the labels behind each."""

    def index(self, name: str) -> int:
        """Return which one has that name, in any case.

        Raises
        ------
        MissingError
            None has; the message names those there are.
        """
        wanted = name.strip().casefold()
        for i, known in enumerate(self.names):
            if known.casefold() == wanted:
                return i
        raise MissingError(
            f"{self.scheme.kind} {name!r} is not in scheme {self.scheme.name!r} as it is merged; "
            f"known: {', '.join(self.names)}"
        )

    def numbers(self, dtype: np.dtype[Any], chosen: Sequence[int]) -> NDArray[Any]:
        """Return a look-up table from voxel value to number: 1 for the first chosen, and so on.

        uint8 (uint16 beyond 255), 1-D, one entry for every value of ``dtype`` (uint8 or uint16);
        0 for all that was not chosen.
        """
        small = np.uint8 if len(chosen) < 256 else np.uint16
        table = np.zeros(np.iinfo(dtype).max + 1, small)
        for number, i in enumerate(chosen, 1):
            table[[self.scheme[name].code for name in self.members[i]]] = number
        return table


def parse_merge(rules: Merge) -> dict[str, tuple[str, ...]]:
    """Return the members of each new name.

    Parameters
    ----------
    rules
        ``VP=TRN,VP``, or a name of ``RULES``, or several of these, or ``{"VP": ["TRN", "VP"]}``.

    Raises
    ------
    RequestError
        A rule is not of that form, or a name stands in two.

    Examples
    --------
    >>> parse_merge(["VP=TRN,VP", "WM=IC,CC"]) == parse_merge("prasad2020")
    True
    """
    if rules is None:
        return {}
    if isinstance(rules, Mapping):
        pairs = [(str(name), tuple(map(str, members))) for name, members in rules.items()]
    else:
        texts = [rules] if isinstance(rules, str) else list(rules)
        pairs = list(chain.from_iterable(_rules(text) for text in texts))
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RequestError(f"merge {', '.join(names)}: give each new name once")
    for name, members in found.items():
        if not name or not members or not all(members):
            raise RequestError(f"merge {name!r}: give names of regions, as in VP=TRN,VP")
    return found


def _rules(text: str) -> list[tuple[str, tuple[str, ...]]]:
    if text in RULES:
        return list(RULES[text].items())
    name, equals, members = text.partition("=")
    if not equals:
        raise RequestError(
            f"merge {text!r}: write it like VP=TRN,VP, or give a known rule: {', '.join(RULES)}"
        )
    return [(name.strip(), tuple(part.strip() for part in members.split(",")))]


def merged(scheme: Scheme, rules: Merge = None) -> Merged:
    """Return what is left of a scheme, but for code 0, once labels are put together.

    Raises
    ------
    MissingError
        A rule names a label that the scheme does not have.
    RequestError
        A label is in two rules, or is code 0; or a new name is that of a label which stays.

    Examples
    --------
    >>> from thc_dask.schemes import find_scheme
    >>> merged(find_scheme("prasad2020-roi"), "prasad2020").names
    ('CTX', 'STR', 'VP', 'ZI', 'WM', 'HYP')
    """
    taken: dict[str, str] = {}
    for name, members in parse_merge(rules).items():
        for member in members:
            label = scheme[member]
            if label.code == 0:
                raise RequestError(
                    f"merge {name}: {label.name!r} is no {scheme.kind}, it means none of these; "
                    "leave it out"
                )
            if label.name in taken:
                raise RequestError(
                    f"merge: {label.name} is put into {taken[label.name]} and again into {name}; "
                    "name it once"
                )
            taken[label.name] = name
    groups: dict[str, list[str]] = {}
    for label in scheme.labels:
        if label.code:
            groups.setdefault(taken.get(label.name, label.name), []).append(label.name)
    for label in scheme.labels:
        clash = {name.casefold(): name for name in taken.values()}.get(label.name.casefold())
        if clash is not None and taken.get(label.name) != clash:
            raise RequestError(
                f"merge {clash}: there is a {scheme.kind} of that name, which is not put into it; "
                "choose another name"
            )
    return Merged(scheme, tuple(groups), tuple(map(tuple, groups.values())))
