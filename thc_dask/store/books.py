"""What was written, as the store itself says: a receipt for every file of voxels, table or map."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from thc_dask.store.location import Location
from thc_dask.store.publish import digest


@dataclass(frozen=True)
class Book:
    """The receipts of one pyramid, one pair of tables or one map."""

    key: str
    """Where they are written down."""
    digest: str
    """What the root says they come to."""
    meaning: Any = None
    """What else the digest is of."""

    def read(self, location: Location) -> tuple[list[dict[str, Any]], str | None]:
        """Return the receipts, none of them if they are not those that the root knows.

        Then the second says what they are: ``missing`` or ``damaged``.
        """
        data = location.get(self.key)
        if data is None:
            return [], "missing"
        try:
            found = [json.loads(line) for line in data.decode().splitlines()]
            lines = "".join(f"{json.dumps(receipt)}\n" for receipt in found)
            if lines.encode() == data and digest(found, self.meaning) == self.digest:
                return found, None
        except (ValueError, KeyError, TypeError):
            pass
        return [], "damaged"
