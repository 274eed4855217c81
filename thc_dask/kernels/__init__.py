"""Numpy in, numpy out: no dask, no files, no settings."""
