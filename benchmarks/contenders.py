"""Who takes part in which job, and the command line that starts each."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = "thc"
SIZES = ["--levels", "5", "--chunk", "64", "--shard", "256"]


@dataclass(frozen=True)
class Contender:
    """One way to do the job."""

    name: str
    """Name in the table and for ``--peers``."""
    script: str = ""
    """File under ``peers/``; none for the package's own command."""
    environment: str = ""
    """File under ``environments/``; none for the environment of the runner."""
    path: str = "{level}/image"
    """Where a level's array is in the output of a conversion."""
    slow: bool = False
    """Takes so long that two kept runs are enough."""
    small: bool = False
    """Takes minutes for a gigavoxel: only where it is named."""
    how: str = ""
    """Which way of a script that knows several, or what the package's command is told besides."""

    @property
    def is_package(self) -> bool:
        """Whether it is the package itself, not a peer."""
        return not self.environment


CONTENDERS = {
    "convert": [
        Contender(PACKAGE),
        Contender("thc_counting", how="--count"),
        Contender("tensorstore", "tensorstore_convert.py", "tensorstore"),
        Contender("zarr_dask", "zarr_dask_convert.py", "zarr"),
        Contender("zarr_default", "zarr_default_convert.py", "zarr", slow=True),
        Contender("ome_zarr", "ome_zarr_convert.py", "ome_zarr", "s{level}", slow=True),
        Contender("ngff_zarr", "ngff_zarr_convert.py", "ngff_zarr", "scale{level}/image", True),
    ],
    "count": [
        Contender(PACKAGE),
        Contender("thc_in_process", "thc_count.py"),
        Contender("tensorstore", "tensorstore_count.py", "tensorstore"),
        Contender("zarr_dask", "zarr_dask_count.py", "zarr"),
        *(
            Contender(how, "grouped_count.py", "grouped", slow=True, small=True, how=how)
            for how in ("flox", "xhistogram", "dask_image", "scipy")
        ),
    ],
}


def thc(*arguments: str) -> list[str]:
    """Return a command line of the package in this environment."""
    return [str(Path(sys.executable).parent / "thc"), *arguments]


def command(contender: Contender, job: str, python: str, source: Path, output: Path) -> list[str]:
    """Return the command line of one run."""
    if contender.script:
        script = str(HERE / "peers" / contender.script)
        if contender.how:
            return [python, script, str(source), f"{output}.npy", "--how", contender.how]
        return [python, script, str(source), str(output), *SIZES]
    if job == "convert":
        extra = ["--spacing", "1.17um", *SIZES, "--overwrite", *contender.how.split()]
        return thc("convert", str(source), str(output), *extra)
    return thc("count", str(source), "--labels", "roi")


def store_commands(work: Path, store: Path, python: str | None) -> list[list[str]]:
    """Return what makes the store to count, by the package or, given a Python, by TensorStore."""
    image, labels = str(work / "input"), str(work / "labels")
    if python is None:
        scheme = ["--name", "roi", "--scheme", "prasad2020-roi"]
        sizes = ["--spacing", "1.17um", *SIZES, "--overwrite"]
        return [
            thc("convert", image, str(store), *sizes),
            thc("labels", labels, str(store), *scheme),
        ]
    script = [python, str(HERE / "peers" / "tensorstore_convert.py")]
    sizes = ["--levels", "1", *SIZES[2:]]
    return [
        [*script, image, str(store), *sizes],
        [*script, labels, str(store / "labels" / "roi"), *sizes, "--array", "roi"],
    ]
