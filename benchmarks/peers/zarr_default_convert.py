"""TIFF folder to sharded zarr v3 with zarr's own codec pipeline, dask.store and a compiled mean."""

from __future__ import annotations

from zarr_dask_convert import convert

if __name__ == "__main__":
    convert(None)
