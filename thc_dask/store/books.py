"""What was written, as the store itself says: a receipt for every file of voxels, table or map.

What they are of is named by its group, ``labels/roi``, ``counts/roi``, ``maps/image_mean``; the
image, which has none, is ``image``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c

from thc_dask.errors import DataError
from thc_dask.store.location import Location

RECEIPTS = "thc/receipts"


def receipts_key(what: str) -> str:
    """Return below which key the receipts of columns lie while a pyramid is written.

    >>> receipts_key("image"), receipts_key("labels/roi"), receipts_key("counts/roi")
    ('thc/receipts/image', 'thc/receipts/labels/roi/roi', 'thc/receipts/counts/roi')
    """
    top, _, name = what.partition("/")
    return f"{RECEIPTS}/{what}/{name}" if top == "labels" else f"{RECEIPTS}/{what}"


def book_key(what: str) -> str:
    """Return where the receipts of what is finished are written down.

    >>> book_key("labels/roi")
    'thc/receipts/labels/roi/roi.jsonl'
    """
    return f"{receipts_key(what)}.jsonl"


def written_down(receipts: Iterable[dict[str, Any]]) -> bytes:
    """Return receipts as a book holds them: a line of JSON each, in this order."""
    return "".join(f"{json.dumps(receipt)}\n" for receipt in receipts).encode()


def in_order(receipts: Iterable[dict[str, Any]]) -> bytes:
    """Return the same by what the lines say: in whatever order shards end, a book is the same."""
    return b"".join(sorted(written_down([receipt]) for receipt in receipts))


def digest(receipts: Iterable[dict[str, Any]], meaning: Any = None) -> str:
    """Return what identifies the files of receipts: equal digests mean equal bytes.

    ``meaning``, ready for JSON, is what else they cannot be understood without: of labels, where
    they are known and their scheme.
    """
    found = sorted((r["key"], r["n_bytes"], r["crc32c"]) for r in receipts)
    what = [found] if meaning is None else [found, meaning]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def receipt_of(key: str, data: bytes) -> dict[str, Any]:
    """Return the receipt of a file."""
    return {"key": key, "n_bytes": len(data), "crc32c": int(google_crc32c.value(data))}


def fetch(location: Location, key: str, receipts: Mapping[str, dict[str, Any]]) -> bytes | None:
    """Return a file as its receipt has it, None where none is of it: what is zero is not stored.

    Raises
    ------
    DataError
        It is missing or damaged; the message names it.
    """
    data = location.get(key)
    if (None if data is None else receipt_of(key, data)) != receipts.get(key):
        what = "missing" if data is None else "damaged"
        raise DataError(f"{location.url}/{key} is {what}; run thc verify --repair")
    return data


@dataclass(frozen=True)
class Book:
    """The receipts of one pyramid, one pair of tables or one map."""

    key: str
    """Where they are written down."""
    digest: str
    """What the root says they come to."""
    meaning: Any = None
    """What else the digest is of."""

    def read(self, location: Location) -> tuple[dict[str, dict[str, Any]], str | None]:
        """Return the receipts by the key of their file, none if not those that the root knows.

        Then the second says what they are: ``missing`` or ``damaged``.
        """
        data = location.get(self.key)
        if data is None:
            return {}, "missing"
        try:
            found = [json.loads(line) for line in data.decode().splitlines()]
            if written_down(found) == data and digest(found, self.meaning) == self.digest:
                return {receipt["key"]: receipt for receipt in found}, None
        except (ValueError, KeyError, TypeError):
            pass
        return {}, "damaged"

    def sound(self, location: Location) -> dict[str, dict[str, Any]]:
        """Return the receipts as ``read`` does; raise DataError where they are not to be had."""
        found, lost = self.read(location)
        if lost is not None:
            raise DataError(f"{location.url}/{self.key} is {lost}; run thc verify --repair")
        return found
