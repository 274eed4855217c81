"""Answers of annotators as codes, from a CSV file or a pandas table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, MissingError, RequestError, ThcError

if TYPE_CHECKING:
    import pandas as pd

NO_ANSWER = ("", "na", "n/a", "nan", "none", "null")
"""How an answer that is not there is written, in any case."""
ALL = "all"
"""Name of all data sets together, all annotators together, all regions together."""
RESERVED = (ALL, "key")


@dataclass(frozen=True)
class Answers:
    """What annotators said of items, beside a key."""

    classes: tuple[str, ...]
    """In the order of their codes."""
    annotators: tuple[str, ...]
    datasets: tuple[str, ...]
    """Sorted; one, ``all``, where items are not divided."""
    dataset: NDArray[np.int64]
    """Number of each item's data set, (item,)."""
    key: NDArray[np.int64]
    """Code of the right class, (item,); -1 where there is none."""
    said: NDArray[np.int64]
    """Codes (annotator, item); -1 is no answer."""
    source: dict[str, Any]
    """Where they come from, ready for JSON."""

    def subset(self, dataset: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the key and what was said of one data set, or of all."""
        here = np.ones(len(self.key), bool)
        if dataset in self.datasets and len(self.datasets) > 1:
            here = self.dataset == self.datasets.index(dataset)
        return self.key[here], self.said[:, here]


def read_answers(
    answers: str | os.PathLike[str] | pd.DataFrame,
    key: str = "key",
    annotators: Sequence[str] | None = None,
    dataset: str | None = None,
    item: str | None = None,
    classes: Sequence[str] | None = None,
) -> Answers:
    """Return the answers in a CSV file or a table.

    Raises
    ------
    MissingError
        There is no such file.
    DataError
        It is no CSV file, it holds no answers, or an item stands in it twice.
    RequestError
        It is neither a file nor a table, a column is missing, an annotator answered nothing, there
        are fewer than two annotators or two classes, or a class is not among the known ones.
    """
    table, source = _table(answers)
    name = str(source["answers"])
    columns = list(table.columns)
    dataset = _optional(name, columns, dataset, "dataset")
    item = _optional(name, columns, item, "item")
    _need(name, columns, [key, *(annotators or [])])
    raters = list(annotators or [c for c in columns if c not in (key, dataset, item)])
    if len(set(raters)) < len(raters) or {key, dataset, item} & set(raters):
        raise RequestError(f"{name}: annotators {', '.join(raters)}: name each column once")
    if len(raters) < 2:
        raise RequestError(
            f"{name}: {len(raters)} column of annotators beside {key!r}, and two or more are "
            f"compared; its columns: {', '.join(columns)}"
        )
    if not len(table):
        raise DataError(f"{name} holds no answers; give one row an item")
    _reject_reserved(name, [*raters, *(table[dataset].unique() if dataset else [])])
    if item:
        _reject_doubles(name, table, [c for c in (dataset, item) if c])
    known = _classes(name, table, key, raters, classes)
    _reject_silent(name, table, raters)
    codes = {c: i for i, c in enumerate(known)}

    def encode(column: str) -> NDArray[np.int64]:
        return np.array([codes.get(v, -1) for v in table[column]], np.int64)

    datasets = sorted(table[dataset].unique(), key=_natural) if dataset else [ALL]
    number = {d: i for i, d in enumerate(datasets)}
    place = [number[d] for d in table[dataset]] if dataset else [0] * len(table)
    said = np.stack([encode(r) for r in raters])
    columns_used = {"key": key, "annotators": raters, "dataset": dataset, "item": item}
    return Answers(
        tuple(known), tuple(raters), tuple(datasets), np.array(place, np.int64), encode(key), said,
        source | {"columns": columns_used},
    )  # fmt: skip


def _table(answers: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the answers as text without blanks around it, and where they come from."""
    import pandas as pd

    if isinstance(answers, pd.DataFrame):
        frame = answers.astype(object).where(answers.notna(), "").astype(str)
        data = frame.to_csv(index=False).encode()
        source: dict[str, Any] = {"answers": "table"}
    else:
        if not isinstance(answers, str | os.PathLike):
            raise RequestError(f"answers {answers!r}: give a CSV file or a pandas table")
        path = Path(answers)
        if not path.is_file():
            raise MissingError(f"answers {path}: there is no such file; give a CSV file")
        data, source = path.read_bytes(), {"answers": str(path)}
        import io

        try:
            text = data.decode("utf-8-sig")
            between = _separator(text)
            _check_shape(str(path), text, between)
            frame = pd.read_csv(
                io.StringIO(text), dtype=str, keep_default_na=False, index_col=False, sep=between
            )
        except ThcError:
            raise
        except (ValueError, pd.errors.EmptyDataError) as error:
            why = " ".join(str(error).split())
            raise DataError(
                f"{path} is no CSV file with a line of column names: {why}; save it as UTF-8 CSV"
            ) from None
    frame = frame.rename(columns=lambda c: str(c).strip()).map(lambda v: str(v).strip())
    return frame, source | {"sha256": hashlib.sha256(data).hexdigest()}


def _separator(text: str) -> str:
    """Return what stands between columns: a comma, or what spreadsheets put where it is taken.

    >>> _separator("key,ann;bob"), _separator("key;ann")
    (',', ';')
    """
    first = text.partition("\n")[0]
    return next((c for c in (",", ";", "\t") if c in first), ",")


def _check_shape(name: str, text: str, separator: str) -> None:
    """Raise RequestError where two columns have one name, DataError where a line is cut short."""
    import csv

    rows = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    columns = [column.strip() for column in next(rows, [])]
    double = next((c for c in columns if columns.count(c) > 1), None)
    if double is not None:
        raise RequestError(f"{name} has two columns {double!r}; give each a name of its own")
    for row in rows:
        if row and len(row) != len(columns):
            raise DataError(
                f"{name} line {rows.line_num} has {len(row)} fields, and there are {len(columns)} "
                "columns; leave a field empty where there is no answer"
            )


def _optional(name: str, columns: list[str], asked: str | None, usual: str) -> str | None:
    if asked is not None:
        _need(name, columns, [asked])
        return asked
    return usual if usual in columns else None


def _need(name: str, columns: list[str], wanted: Sequence[str]) -> None:
    missing = [c for c in wanted if c not in columns]
    if missing:
        raise RequestError(
            f"{name} has no column {missing[0]!r}; its columns: {', '.join(columns)}; name the "
            "right one"
        )


def _reject_reserved(name: str, names: Sequence[Any]) -> None:
    taken = [n for n in names if n in RESERVED]
    if taken:
        raise RequestError(
            f"{name}: {taken[0]!r} cannot be the name of an annotator or a data set: results use "
            "it; rename it"
        )


def _reject_doubles(name: str, table: pd.DataFrame, columns: list[str]) -> None:
    double = table.duplicated(columns).to_numpy()
    if double.any():
        row = int(np.argmax(double))
        what = ", ".join(f"{c} {table[c].iloc[row]}" for c in columns)
        raise DataError(f"{name} line {row + 2}: {what} stands there twice; keep one row an item")


def _reject_silent(name: str, table: pd.DataFrame, raters: list[str]) -> None:
    """Raise where a column of answers is empty: of nobody, DataError; of somebody, RequestError."""
    silent = [r for r in raters if not _said(table, r)]
    if len(silent) == len(raters):
        raise DataError(f"{name} holds no answers: {', '.join(raters)} are empty")
    if silent:
        others = ",".join(r for r in raters if r not in silent)
        raise RequestError(
            f"{name}: annotator {silent[0]!r} answered nothing; fill in the column, or leave it "
            f"out with --annotators {others}"
        )


def _classes(
    name: str, table: pd.DataFrame, key: str, raters: list[str], classes: Sequence[str] | None
) -> list[str]:
    """Return the classes: those given, or those of the key; every answer is one of them."""
    given = list(classes) if classes else sorted(_said(table, key), key=_natural)
    if not given:
        raise RequestError(f"{name}: column {key!r}, the key, is empty; name another with --key")
    if len(set(given)) < len(given):
        raise RequestError(f"classes {', '.join(given)}: name each once")
    _reject_reserved(name, given)
    for column in (key, *raters):
        for row, answer in enumerate(table[column]):
            if answer not in given and answer.casefold() not in NO_ANSWER:
                raise RequestError(
                    f"{name} line {row + 2}: {column} says {answer!r}, which is no class; known: "
                    f"{', '.join(given) or 'none'}; correct it, or name all classes with --classes"
                )
    if len(given) < 2:
        raise RequestError(
            f"{name}: the key knows fewer than two classes ({', '.join(given) or 'none'}): with "
            "one class there is nothing to agree on"
        )
    return given


def _said(table: pd.DataFrame, column: str) -> set[str]:
    return {v for v in table[column] if v.casefold() not in NO_ANSWER}


def _natural(text: str) -> tuple[Any, ...]:
    """Return what sorts 2 before 10."""
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)
