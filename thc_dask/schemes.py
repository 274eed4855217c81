"""Label schemes: which code means which region or structure, and what colour it has.

Code 0 always means *known, and none of these*. *Unknown* has no code: it is what lies
outside a label set's annotated extents.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, MissingError, RequestError

Kind = Literal["region", "structure"]

PAPER = "Prasad et al. 2020, Scientific Data 7:358, doi 10.1038/s41597-020-00692-y"

# Colour-blind safe hues (Okabe and Ito 2008), then lighter mixes, for schemes that name none.
PALETTE = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999",
    "#f4c96b", "#a5d6f3", "#6bc4a8", "#7a5195", "#6ea8d0", "#ea9a66", "#e2b5cd", "#5b5b5b",
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """One code of a scheme."""

    code: int
    """Value of the voxels."""
    name: str
    """Short name, the one used in tables: ``CTX``, ``vessel``."""
    title: str = ""
    """Full name: ``cortex``."""
    color: str = "#999999"
    """``#rrggbb``."""

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        r, g, b = bytes.fromhex(self.color[1:])
        return r, g, b


@dataclass(frozen=True)
class Scheme:
    """The codes of a label set.

    >>> roi = find_scheme("prasad2020-roi")
    >>> roi["cortex"].code, roi["CTX"].code, roi["1"].name
    (1, 1, 'CTX')
    """

    name: str
    """Name of the scheme itself."""
    kind: Kind
    """What its labels are; the dimension of its count tables."""
    labels: tuple[Label, ...]
    """All labels by rising code; the first has code 0."""
    source: str = ""
    """Where the codes come from."""

    def __post_init__(self) -> None:
        codes = [label.code for label in self.labels]
        names = [label.name.casefold() for label in self.labels]
        if codes != sorted(set(codes)) or not codes or codes[0] != 0 or codes[-1] > 65535:
            raise RequestError(
                f"scheme {self.name!r}: codes must be different whole numbers from 0 to 65535 and "
                f"include 0 (none of these); got {codes}"
            )
        if not all(names):
            raise RequestError(f"scheme {self.name!r}: label {codes[names.index('')]} has no name")
        if len(set(names)) != len(names):
            raise RequestError(f"scheme {self.name!r}: names must differ; got {names}")

    @property
    def names(self) -> list[str]:
        """Names by rising code, the one of code 0 first."""
        return [label.name for label in self.labels]

    @property
    def n_besides_none(self) -> int:
        """How many labels there are without that of code 0."""
        return sum(label.code != 0 for label in self.labels)

    @property
    def codes(self) -> NDArray[np.int64]:
        """Codes, rising."""
        return np.array([label.code for label in self.labels], np.int64)

    def __getitem__(self, key: str) -> Label:
        wanted = str(key).strip().casefold()
        for label in self.labels:
            if wanted and wanted in (
                label.name.casefold(),
                label.title.casefold(),
                str(label.code),
            ):
                return label
        raise MissingError(
            f"{self.kind} {key!r} is not in scheme {self.name!r}; known: {', '.join(self.names)}"
        )

    def row_of_code(self, dtype: np.dtype[Any]) -> NDArray[np.uint16]:
        """Return a look-up table from voxel value to row; codes outside the scheme get ``n``.

        uint16, 1-D, one entry for every value of ``dtype`` (uint8 or uint16).
        """
        table = np.full(np.iinfo(dtype).max + 1, len(self.labels), np.uint16)
        codes = self.codes[self.codes < len(table)]
        table[codes] = np.arange(len(codes))
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return the scheme ready for JSON; ``from_dict`` is its inverse."""
        labels = [
            {"code": x.code, "name": x.name, "title": x.title, "color": x.color}
            for x in self.labels
        ]
        return {"name": self.name, "kind": self.kind, "source": self.source, "labels": labels}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scheme:
        """Return the scheme that ``as_dict`` described; a ValueError names what is no code."""
        labels = [
            Label(code_of(x["code"]), str(x["name"] or ""), str(x.get("title") or ""), _color(x, i))
            for i, x in enumerate(sorted(data["labels"], key=lambda x: code_of(x["code"])))
        ]
        kind = data.get("kind", "region")
        if kind not in ("region", "structure"):
            raise RequestError(f"scheme kind {kind!r}: must be 'region' or 'structure'")
        if labels and labels[0].code != 0:
            labels.insert(0, Label(0, "none" if kind == "region" else "background", "", "#000000"))
        return cls(str(data.get("name", "")), kind, tuple(labels), str(data.get("source", "")))


def code_of(value: Any) -> int:
    """Return a code, which a file may also have as text or as 7.0.

    Raises
    ------
    ValueError
        It is not a whole number.

    >>> code_of(7), code_of(" 7"), code_of(7.0)
    (7, 7, 7)
    """
    if (
        (isinstance(value, int | np.integer) and not isinstance(value, bool))
        or (isinstance(value, float) and value.is_integer())
        or (isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value))
    ):
        return int(value)
    raise ValueError(f"{value!r} is not a whole number")


def _color(label: dict[str, Any], i: int) -> str:
    color = str(label.get("color") or PALETTE[(i - 1) % len(PALETTE)])
    if (
        len(color) != 7
        or color[0] != "#"
        or any(c not in "0123456789abcdefABCDEF" for c in color[1:])
    ):
        raise RequestError(f"label {label.get('name')!r}: colour {color!r} is not #rrggbb")
    return color.lower()


def _structures(name: str, order: Sequence[str], source: str) -> Scheme:
    looks = {"vessel": ("blood vessel", "#d55e00"), "cell": ("cell body", "#56b4e9"),
             "axon": ("myelinated axon", "#f0e442")}  # fmt: skip
    labels = [Label(0, "background", "none of these", "#000000")]
    labels += [Label(i, n, *looks[n]) for i, n in enumerate(order, 1)]
    return Scheme(name, "structure", tuple(labels), source)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "prasad2020-roi",
            "region",
            (
                Label(0, "none", "none", "#000000"),
                Label(1, "CTX", "cortex", "#e69f00"),
                Label(2, "STR", "striatum", "#56b4e9"),
                Label(3, "TRN", "thalamic reticular nucleus", "#009e73"),
                Label(4, "VP", "ventral posterior nucleus", "#f0e442"),
                Label(5, "ZI", "zona incerta", "#0072b2"),
                Label(6, "IC", "internal capsule", "#cc79a7"),
                Label(7, "HYP", "hypothalamus", "#d55e00"),
                Label(8, "CC", "corpus callosum", "#7a5195"),
            ),
            f"{PAPER}, Data Records",
        ),
        # Three codings of the same structures are in use; results carry names, never codes.
        _structures("prasad2020-microstructure", ("vessel", "cell", "axon"),
                    f"{PAPER}, Data Records; also bossDB pixel_annotation"),
        _structures("prasad2020-masks", ("axon", "vessel", "cell"),
                    f"{PAPER}, analysis files masks_*.npz"),
        _structures("prasad2020-readme", ("cell", "vessel", "axon"),
                    f"{PAPER}, README of the data repository; contradicts the paper"),
    )
}  # fmt: skip


# IDX -R- -G- -B- -A-- VIS MSH "LABEL"
ITKSNAP = re.compile(r"(\d+)" + r"\s+(\d+)" * 3 + r"\s+[\d.eE+-]+\s+[01]\s+[01]\s+\"(.*)\"")


def _is_itksnap(text: str) -> bool:
    """Whether a text is, or is meant to be, the label descriptions that ITK-SNAP saves."""
    lines = [line.strip() for line in text.splitlines()]
    comments = [line for line in lines if line.startswith("#")]
    first = next((line for line in lines if line and line not in comments), "")
    return bool(ITKSNAP.fullmatch(first)) or any("itk-snap" in c.casefold() for c in comments)


def _parse_itksnap(text: str, name: str) -> dict[str, Any]:
    """Return label descriptions of ITK-SNAP as a scheme's dictionary; "Clear Label" goes."""
    labels: list[dict[str, Any]] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        found = ITKSNAP.fullmatch(line)
        if found is None or max(map(int, found.groups()[1:4])) > 255:
            raise DataError(
                f"scheme file {name}: line {number} is not a label of ITK-SNAP; write it like "
                '1 255 0 0 1 1 1 "CTX"'
            )
        color = "#{:02x}{:02x}{:02x}".format(*map(int, found.groups()[1:4]))
        if int(found[1]):
            labels.append({"code": int(found[1]), "name": found[5].strip(), "color": color})
    if not labels:
        raise DataError(f"scheme file {name}: it has no label but that of code 0")
    return {"kind": kind_of(label["name"] for label in labels), "labels": labels}


def kind_of(names: Iterable[str]) -> Kind:
    """Return what labels of these names are: structures if all names are those of structures.

    >>> kind_of(["Vessel", "cell"]), kind_of(["CTX", "cell"])
    ('structure', 'region')
    """
    structures = {
        label.name
        for scheme in SCHEMES.values()
        if scheme.kind == "structure"
        for label in scheme.labels
    }
    return "structure" if {name.casefold() for name in names} <= structures else "region"


def find_scheme(name: str) -> Scheme:
    """Return the scheme of that name, or the one that a file describes.

    A file is CSV with the columns ``code,name`` and perhaps ``title,color``, or JSON with either
    ``{"kind": "region", "labels": [{"code": 1, "name": "CTX"}]}`` or ``{"codes": {"CTX": 1}}``, or
    the label descriptions of ITK-SNAP. The labels of these are structures where all names are
    those of structures (vessel, cell, axon), else regions.

    Raises
    ------
    MissingError
        No scheme and no file has that name.
    DataError
        The file cannot be understood.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    path = Path(name)
    if not path.is_file():
        raise MissingError(
            f"scheme {name!r} is not known and no such file exists; known: {', '.join(SCHEMES)}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a mark first
        if path.suffix.lower() == ".json":
            data = json.loads(text)
            if "labels" not in data:
                data = {"labels": [{"code": c, "name": n} for n, c in data["codes"].items()]}
        elif _is_itksnap(text):
            data = _parse_itksnap(text, name)
        else:
            data = {"labels": list(csv.DictReader(text.splitlines()))}
        data.setdefault("name", path.stem)
        return Scheme.from_dict(data | {"source": data.get("source") or path.name})
    except (
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,  # nested without end
        UnicodeDecodeError,
        json.JSONDecodeError,
    ) as error:
        raise DataError(
            f"scheme file {name}: {error!r}; needs CSV columns code,name or JSON with 'labels', "
            "or labels as ITK-SNAP saves them"
        ) from error
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise DataError(f"scheme file {name}: a code is wrong: {error}; write it like 1") from error
