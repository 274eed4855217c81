"""The one inside format: sharded, multiscale OME-Zarr."""
