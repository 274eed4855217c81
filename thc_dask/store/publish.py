"""Begin and end a store: the claim first, the root's metadata last.

While a conversion runs the folder holds ``thc/plan.json`` and no ``zarr.json`` at its root, so
nothing takes it for a store. Publishing writes the small arrays and groups, then the root.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from thc_dask import __version__
from thc_dask.errors import ExistsError
from thc_dask.grid import AXES, Extent
from thc_dask.schemes import Scheme
from thc_dask.store import metadata
from thc_dask.store.books import book_key, digest, in_order, receipts_key
from thc_dask.store.filesink import PARTIAL
from thc_dask.store.layout import Level
from thc_dask.store.location import LOCK, Location
from thc_dask.store.root import ROOT, ROOT_COPY, is_sealed, node_bytes, put_root, sealed
from thc_dask.store.target import Receipt, Target

PLAN = "thc/plan.json"
PARTS = ("thc", "labels", "counts", "maps")  # what is in a store beside its root and levels
BEGUN = "begun"  # among receipts, while a new label set, table or map is written
FAR_PUTS, NEAR_PUTS = 8, 3  # small files written at a time: near, more threads wait for one another


def is_free(location: Location) -> bool:
    """Whether nothing is there but the lock: who took it may have been cut off before it began.

    Or while it wrote the plan: that is not there yet, but the file that was to become it.
    """
    return all(
        key == LOCK or (key.startswith(f"{PLAN}.") and key.endswith(PARTIAL))
        for key in location.keys("")
    )


def check_place(location: Location, overwrite: bool) -> None:
    """Raise ExistsError where a store may not be begun.

    Something is there and ``overwrite`` was not asked for, or it is no store of ours and so not
    ours to remove.
    """
    root, plan = location.get(ROOT), location.get(PLAN)
    if plan is None and not (is_free(location) if root is None else is_ours(location, root)):
        raise ExistsError(
            f"{location.url} exists and is not a store, so --overwrite leaves it alone; choose "
            "another name, or remove it yourself"
        )
    if (root is not None or plan is not None) and not overwrite:
        hint = "choose another name or give --overwrite"
        if root is None:
            hint = "give --resume to go on with it, --overwrite to start anew"
            raise ExistsError(f"{location.url} holds an unfinished conversion; {hint}")
        raise ExistsError(f"{location.url} exists; {hint}")


def is_ours(location: Location, root: bytes) -> bool:
    """Whether a root is that of a store of ours, or, where it is damaged, was."""
    try:
        return "layout" in json.loads(root)["attributes"]["thc"]
    except (KeyError, TypeError, ValueError):
        copy = location.get(ROOT_COPY)
        return copy is not None and is_sealed(copy)


def begin(location: Location, plan: dict[str, Any], overwrite: bool) -> None:
    """Claim the place for a store; ``plan`` says what is being made. The store that was goes.

    What somebody else has put beside it stays.
    """
    check_place(location, overwrite)
    claimed = location.get(PLAN)
    if location.get(ROOT) is not None:
        # What breaks off from here on is unfinished, not a folder of somebody else.
        claimed = _claim(location, claimed, {})
        location.remove(ROOT)
    top = LOCK.split("/")[0]
    parts = (key.split("/") for key in location.keys("") if _may_go(key))
    for old in sorted({"/".join(p[: 1 + (p[0] == top)]) for p in parts} - {LOCK, PLAN}):
        location.delete(old)
    _claim(location, claimed, plan)


def _may_go(key: str) -> bool:
    """Whether a key is one that a store of ours has."""
    first = key.split("/")[0]
    return first.isdigit() or first in PARTS or key == ROOT or key.endswith(PARTIAL)


def _claim(location: Location, before: bytes | None, plan: dict[str, Any]) -> bytes:
    """Write the plan where it still is ``before``, and return it as it is now."""
    data = metadata.dumps(plan)
    if not location.exchange(PLAN, before, data):
        raise ExistsError(f"{location.url} is being written by another process; wait for it to end")
    return data


def sweep(location: Location) -> None:
    """Remove files that a killed process had not finished; only the holder of the lock may.

    Behind a URL there are none, and to list all keys takes long.
    """
    if "://" in location.url:
        return
    for key in location.keys(""):
        if key.endswith(PARTIAL):
            location.remove(key)


def go_on(location: Location) -> None:
    """Remove all that an interrupted conversion left but finished shards; the holder of the lock.

    Tables come last, and may not be wanted any more.
    """
    sweep(location)
    for key in ("counts", receipts_key("counts")):
        location.delete(key)


def interrupted(location: Location) -> dict[str, Any] | None:
    """Return the plan of the conversion that began here, finished or not; None if none did.

    Of a finished store it is what its root says of its making; where a store was to be overwritten
    and that broke off before the new plan was there, it is empty.
    """
    data = location.get(ROOT)
    if data is not None:
        try:
            made: dict[str, Any] = json.loads(data)["attributes"]["thc"]
        except (KeyError, TypeError, ValueError):
            raise ExistsError(f"{location.url} exists and is not a store of thc_dask") from None
        return made | {"finished": True}
    data = location.get(PLAN)
    plan: dict[str, Any] | None = None if data is None else json.loads(data)
    return plan


def _level_nodes(
    target: Target, levels: Sequence[Level], attributes: dict[str, Any]
) -> tuple[dict[str, metadata.Node], dict[str, bytes]]:
    """Return the nodes below a pyramid's group, and the chunks of the coordinate arrays."""
    nodes: dict[str, metadata.Node] = {}
    chunks: dict[str, bytes] = {}
    for level in levels:
        top = f"{target.prefix}{level.index}"
        nodes[top] = metadata.group()
        nodes[target.path(level)] = metadata.sharded_array(
            level, target.dtype, target.codec, attributes
        )
        for axis, name in enumerate(AXES):
            nodes[f"{top}/{name}"], chunks[f"{top}/{name}/c/0"] = metadata.coordinate_array(
                level.grid, axis
            )
    return nodes, chunks


def putters(location: Location) -> ThreadPoolExecutor:
    """Return threads that write small files of a store."""
    return ThreadPoolExecutor(FAR_PUTS if location.far else NEAR_PUTS)


def _put_all(location: Location, nodes: dict[str, metadata.Node], chunks: dict[str, bytes]) -> None:
    # Side by side: each waits for the disk or the network, and one flush of a disk serves several.
    with putters(location) as pool:
        about = {f"{path}/zarr.json": metadata.dumps(node) for path, node in nodes.items()}
        files = chunks | about
        list(pool.map(location.put, files.keys(), files.values()))


def _keep_receipts(target: Target, receipts: Sequence[Receipt], meaning: Any = None) -> str:
    # How many shards of zeros were looked at depends on memory; what is stored does not.
    shards = [s for receipt in receipts for s in receipt["shards"] if s["n_bytes"]]
    target.location.put(book_key(target.what), in_order(shards))
    return digest(shards, meaning)


def claim_labels(target: Target) -> None:
    """Say that a new label set is being written, before anything of it is there.

    What breaks off is known by this word as ours, and not as something of somebody else's.
    """
    target.location.put(f"{receipts_key(target.what)}/{BEGUN}", b"begun\n")


def clear_receipts(target: Target) -> None:
    """Remove the receipts that a resumed run would have asked for, and the word that it began."""
    target.location.delete(receipts_key(target.what))


def small_files(root: metadata.Node, levels: Sequence[Level]) -> dict[str, bytes]:
    """Return every file below the root that follows from the root: metadata and coordinates."""
    nodes = root["consolidated_metadata"]["metadata"]
    found = {f"{path}/zarr.json": node_bytes(nodes, path) for path in nodes}
    sets = [p for p in nodes if p.startswith("labels/") and p.count("/") == 1]
    for prefix in ("", *(f"{path}/" for path in sets)):
        for level in levels:
            for axis, name in enumerate(AXES):
                _, chunk = metadata.coordinate_array(level.grid, axis)
                found[f"{prefix}{level.index}/{name}/c/0"] = chunk
    return found


def _with_parents(location: Location, nodes: dict[str, metadata.Node]) -> dict[str, metadata.Node]:
    """Return nodes with the groups above them, which are written."""
    found = dict(nodes)
    for path in nodes:
        parts = path.split("/")
        for n in range(1, len(parts)):
            above = "/".join(parts[:n])
            if above not in found:
                found[above] = metadata.group()
                location.put(f"{above}/zarr.json", metadata.dumps(found[above]))
    return found


def publish_image(
    target: Target, levels: Sequence[Level], receipts: Sequence[Receipt], record: dict[str, Any],
    window: tuple[float, float], limits: tuple[float, float],
    more: Callable[[str], dict[str, metadata.Node]] | None = None,
) -> None:  # fmt: skip
    """Turn finished shards into a store; the last thing written is the root.

    ``more`` writes what else it is to hold, given the digest of the voxels, and returns its nodes.
    """
    attributes = {"long_name": "X-ray attenuation, grey level"}
    nodes, chunks = _level_nodes(target, levels, attributes)
    made = _keep_receipts(target, receipts)
    thc = {
        "format": metadata.FORMAT,
        **record,
        "codec": str(target.codec),
        "digest": made,
    }
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(_put_all, target.location, dict(nodes), chunks)
        if more is not None:
            nodes |= _with_parents(target.location, more(made))
        put.result()
    ome = {
        "version": metadata.OME,
        "multiscales": metadata.multiscales(target.name, levels, metadata.MEAN),
        "omero": metadata.omero(target.name, window, limits, levels[0].grid.shape[0] // 2),
    }
    root = metadata.group({"ome": ome, "thc": thc})
    put_root(target.location, sealed(metadata.consolidate(root, nodes)), None)
    target.location.remove(PLAN)
    clear_receipts(target)


def write_nodes_of_labels(
    target: Target, levels: Sequence[Level], receipts: Sequence[Receipt],
    scheme: Scheme, extents: Sequence[Extent], provenance: list[dict[str, Any]],
) -> dict[str, metadata.Node]:  # fmt: skip
    """Write the metadata and receipts of a finished label set; return its nodes by path.

    It is part of the store once the root names them.
    """
    nodes, chunks = _level_nodes(target, levels, {"long_name": f"{scheme.kind} codes"})
    meaning = {
        "scheme": scheme.as_dict(),
        "extents": metadata.extents_as_lists(extents),
    }
    thc = {
        "format": metadata.FORMAT,
        "software": f"thc_dask {__version__}",
        **meaning,
        "provenance": provenance,
        "codec": str(target.codec),
        "digest": _keep_receipts(target, receipts, meaning),
    }
    ome = {
        "version": metadata.OME,
        "multiscales": metadata.multiscales(target.name, levels, metadata.MODE),
        "image-label": metadata.image_label(scheme),
    }
    _put_all(target.location, nodes, chunks)
    # Last: viewers open it by itself, and it names the levels.
    path = target.prefix.rstrip("/")
    nodes[path] = metadata.group({"ome": ome, "thc": thc})
    target.location.put(f"{path}/zarr.json", metadata.dumps(nodes[path]))
    return nodes
