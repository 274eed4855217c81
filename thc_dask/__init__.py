"""Distributed out-of-core analytics for brain-scale image volumes.

>>> import thc_dask as thc
>>> from tempfile import mkdtemp
>>> volume = thc.convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
>>> volume = thc.labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
>>> counts = thc.histogram(volume, by="roi")
>>> counts.dims
('region', 'intensity')
"""

__version__ = "0.1.0"

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thc_dask.agreement import agreement
    from thc_dask.analysis.comparison import compare
    from thc_dask.analysis.profile import profile
    from thc_dask.analysis.regions import fractions, histogram, summary
    from thc_dask.cluster import running as cluster
    from thc_dask.convert import convert
    from thc_dask.count import count
    from thc_dask.demo import demo
    from thc_dask.errors import ThcError
    from thc_dask.figures import figures
    from thc_dask.grid import Box, Extent, Grid
    from thc_dask.info import info
    from thc_dask.interpolate import interpolate
    from thc_dask.labels import labels
    from thc_dask.maps import maps
    from thc_dask.patches import patches
    from thc_dask.report import report
    from thc_dask.reproduce import reproduce
    from thc_dask.schemes import Scheme
    from thc_dask.sources import open_source
    from thc_dask.sources.phantom import write_phantom as phantom
    from thc_dask.store.read import open_volume
    from thc_dask.verify import verify

__all__ = [
    "Box",
    "Extent",
    "Grid",
    "Scheme",
    "ThcError",
    "agreement",
    "cluster",
    "compare",
    "convert",
    "count",
    "demo",
    "figures",
    "fractions",
    "histogram",
    "info",
    "interpolate",
    "labels",
    "maps",
    "open_source",
    "open_volume",
    "patches",
    "phantom",
    "profile",
    "report",
    "reproduce",
    "summary",
    "verify",
]

_HOMES = {
    "Box": "grid",
    "Extent": "grid",
    "Grid": "grid",
    "Scheme": "schemes",
    "ThcError": "errors",
    "compare": "analysis.comparison",
    "fractions": "analysis.regions",
    "histogram": "analysis.regions",
    "open_source": "sources",
    "open_volume": "store.read",
    "phantom": "sources.phantom",
    "profile": "analysis.profile",
    "summary": "analysis.regions",
}  # of the names that are not called as their modules are
_NAMES = {"cluster": "running", "phantom": "write_phantom"}  # what they are called there


class _FrontDoor(ModuleType):
    """Loads a name when it is first asked for: a command must not wait for what it does not use."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        home = import_module(f"{self.__name__}.{_HOMES.get(name, name)}")
        found = getattr(home, _NAMES.get(name, name))
        setattr(self, name, found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        # To import a module binds its name here; a verb is the function, not the module it is in.
        if isinstance(value, ModuleType) and name in __all__:
            value = getattr(value, _NAMES.get(name, name))
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _FrontDoor
