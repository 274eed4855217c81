"""``python -m thc_dask``."""

from thc_dask.cli import main

if __name__ == "__main__":
    main()
