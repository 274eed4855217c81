"""Tables to files: the suffix says the format, and a table is long, one row a value."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from thc_dask.errors import ExistsError, RequestError, writing

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SUFFIXES = (".csv", ".parquet", ".json", ".nc", ".zarr")
NEEDS = {".parquet": ("pyarrow",), ".nc": ("h5netcdf", "h5py")}
BESIDE = ("low", "high", "p", "p_holm", "p_bh")  # what goes with a measure
N_TRIES, PAUSE_S = 20, 0.01  # to remove what is still written to
MARK = "thc_table"  # attribute of the tables we write as folders


def check_target(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a table's file, if a table may be written there.

    Raises
    ------
    RequestError
        The suffix is none of the known ones, its package is not installed, or it is an address.
    ExistsError
        A folder has that name and is no table that was written here.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError(f"output {path}: unknown format; use one of {' '.join(SUFFIXES)}")
    if "://" in str(path):
        raise RequestError(f"output {path}: tables go to files; give a path")
    missing = [name for name in NEEDS.get(suffix, ()) if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"output {path}: {suffix} needs {' and '.join(missing)}, which is not installed; "
            'pip install "thc_dask[formats]"'
        )
    if target.is_dir() and not (suffix == ".zarr" and _is_table(target)):
        raise ExistsError(
            f"output {path}: a folder of that name holds something else; choose another name"
        )
    return suffix


def check_apart(*paths: str | os.PathLike[str] | None) -> None:
    """Raise RequestError where one file is to be written twice; None is none.

    >>> check_apart("a.csv", None, None, "b.csv")
    """
    named = [Path(path).resolve() for path in paths if path is not None]
    for path in named:
        if named.count(path) > 1:
            raise RequestError(f"output {path}: named twice; give each file a name of its own")


def _is_table(folder: Path) -> bool:
    """Whether a folder is a table that ``write_table`` wrote: nothing else may be replaced."""
    try:
        attrs = json.loads((folder / ".zattrs").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(attrs, dict) and MARK in attrs


def long_table(table: xr.DataArray | xr.Dataset) -> pd.DataFrame:
    """Return a table with one row a value: first its dims, then the values.

    Variables that lack one of the dims are left out (a region's total stands in every file that
    keeps arrays, ``.nc`` and ``.zarr``). Of a table whose attribute ``measures`` names its
    variables and their units, each measure has rows of its own, with what goes with it:
    ``_low``, ``_high``, ``_p``, ``_p_holm``, ``_p_bh``; ``test`` says what kind of test gave p.

    >>> import xarray as xr
    >>> table = xr.DataArray([[1, 2]], {"region": ["CTX"], "intensity": [0, 1]}, name="count")
    >>> long_table(table).to_csv(index=False).splitlines()
    ['region,intensity,count', 'CTX,0,1', 'CTX,1,2']
    """
    dataset = _dataset(table)
    if "measures" in dataset.attrs:
        return _by_measure(dataset)
    dims = max((v.dims for v in dataset.data_vars.values()), key=len)
    keep = [name for name, v in dataset.data_vars.items() if v.dims == dims]
    plain = dataset[keep].reset_coords(drop=True)
    frame = plain.to_dataframe(dim_order=list(dims))
    # A table that is long already has rows, and no names for them.
    return frame.reset_index(drop=dims == ("row",) and "row" not in dataset.coords)


def _by_measure(dataset: xr.Dataset) -> pd.DataFrame:
    """Return rows of (dims, measure, value, low, high, p..., units, note)."""
    import pandas as pd

    measures = {n: units for n, units in dataset.attrs["measures"].items() if n in dataset}
    plain = dataset.reset_coords(drop=True)
    beside = [s for s in BESIDE if any(f"{name}_{s}" in dataset for name in measures)]
    dims = max((dataset[name].dims for name in measures), key=len)
    frames = []
    for name, units in measures.items():
        own = plain[name].dims
        parts = {"value": plain[name]} | {
            s: plain[f"{name}_{s}"] for s in beside if f"{name}_{s}" in dataset
        }
        some = dataset.__class__(parts)
        for text in ("test", "note"):
            if text in plain and (text == "note" or f"{name}_p" in dataset):
                some[text] = plain[text].broadcast_like(some["value"])
        frame = some.to_dataframe(dim_order=list(own)).reset_index()
        frames.append(frame.assign(measure=name, units=units))
    found = pd.concat(frames, ignore_index=True)
    said = [text for text in ("test", "note") if text in found]
    columns = [*dims, "measure", "value", *beside, "units", *said]
    found = found.reindex(columns=columns)
    if "test" in found:  # of measures that have none
        found["test"] = found["test"].where(found["test"].notna(), "")
    texts = [d for d in dims if dataset[d].dtype.kind in "OUT"]
    found[texts] = found[texts].fillna("")  # a number for all structures names none
    return found


def _dataset(table: xr.DataArray | xr.Dataset) -> xr.Dataset:
    import xarray as xr

    return table.to_dataset() if isinstance(table, xr.DataArray) else table


def write_table(table: xr.DataArray | xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write a table, whole or not at all, in place of a table that was there before.

    ``.json``, ``.nc``, ``.zarr`` and ``.parquet`` (``attrs`` of the frame that pandas reads) also
    keep where it comes from.

    Raises
    ------
    RequestError
        The suffix is none of the known ones, or its package is not installed.
    ExistsError
        A folder has that name and is no table that was written here.
    WriteError
        The file cannot be written.
    """
    suffix = check_target(path)
    with replacing(path) as made:
        _write(table, made, suffix)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to; what was written there becomes ``path`` if all went well."""
    target = Path(path)
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that a rename is all that is left to do.
        beside = Path(mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            made = beside / target.name
            yield made
            if target.is_dir():
                _swap(made, target, beside / "before")
            else:
                os.replace(made, target)
        finally:
            _remove(beside)


def _swap(made: Path, target: Path, before: Path) -> None:
    """Put a folder in the place of another, which stays if that fails."""
    os.replace(target, before)
    try:
        os.replace(made, target)
    except BaseException:
        os.replace(before, target)
        raise


def _remove(folder: Path) -> None:
    """Remove a folder, where tasks of zarr write on for a moment after one of them failed."""
    for _ in range(N_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(PAUSE_S)


def _write(table: xr.DataArray | xr.Dataset, target: Path, suffix: str) -> None:
    if suffix == ".csv":
        long_table(table).to_csv(target, index=False)
    elif suffix == ".parquet":
        frame = long_table(table)
        frame.attrs = _plain(table.attrs)
        frame.to_parquet(target, index=False)
    elif suffix == ".json":
        target.write_text(as_json(table), encoding="utf-8")
    else:
        _write_arrays(table, target, suffix)


def _write_arrays(table: xr.DataArray | xr.Dataset, target: Path, suffix: str) -> None:
    attrs = {k: json.dumps(v) if isinstance(v, Mapping) else v for k, v in table.attrs.items()}
    plain = _dataset(table).drop_attrs().assign_attrs(attrs)
    if suffix == ".nc":
        plain.to_netcdf(target, engine="h5netcdf")
        return
    # zarr v3 has no string type yet: v2 holds names as they are.
    plain.assign_attrs({MARK: 1}).to_zarr(target, mode="w", zarr_format=2, consolidated=True)


def as_json(table: xr.DataArray | xr.Dataset) -> str:
    """Return ``{"attrs": …, "rows": [{…}, …]}``, numbers to their last digit.

    NaN becomes null, infinity the text ``Infinity`` or ``-Infinity``: JSON has neither.
    """
    found = _plain({"attrs": table.attrs, "rows": long_table(table).to_dict("records")})
    return json.dumps(found, indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value).replace("inf", "Infinity")
    return value
