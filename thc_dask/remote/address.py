"""What a URL of object storage names: which service, which bucket, what lies in front of keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from thc_dask.errors import RequestError

Service = Literal["s3", "gs", "az", "http"]

SCHEMES: dict[str, Service] = {
    "s3": "s3", "s3a": "s3",
    "gs": "gs", "gcs": "gs",
    "az": "az", "azure": "az", "abfs": "az", "abfss": "az",
    "http": "http", "https": "http",
}  # fmt: skip
FORMS = {
    "s3": "s3://BUCKET/PATH",
    "gs": "gs://BUCKET/PATH",
    "az": "az://CONTAINER/PATH",
    "http": "https://HOST/PATH",
}


@dataclass(frozen=True)
class Address:
    """A place in object storage."""

    url: str
    """As it was given, without a slash at the end."""
    service: Service
    bucket: str
    """Bucket, container, or host with its port."""
    prefix: str
    """What stands in front of every key; may be empty."""
    account: str = ""
    """Of Azure, where the URL names it."""

    @property
    def top(self) -> str:
        """The URL of the bucket or host alone."""
        return self.url[: len(self.url) - len(self.prefix)].rstrip("/") if self.prefix else self.url


def is_remote(url: str) -> bool:
    """Whether a URL is one of object storage or of the web.

    >>> is_remote("s3://bucket/v.zarr"), is_remote("memory://v.zarr"), is_remote("/data/v.zarr")
    (True, False, False)
    """
    return "://" in url and url.partition("://")[0].lower() in SCHEMES


def parse(url: str) -> Address:
    """Return what a URL names.

    >>> parse("abfss://scans@lab.dfs.core.windows.net/mouse/v.ome.zarr").account
    'lab'

    Raises
    ------
    RequestError
        It names no bucket.
    """
    scheme, _, rest = url.partition("://")
    service = SCHEMES[scheme.lower()]
    bucket, _, prefix = rest.partition("/")
    account = ""
    if service == "az" and "@" in bucket:
        bucket, _, host = bucket.partition("@")
        account = host.split(".")[0]
    if not bucket or re.search(r"[\s?#]", bucket):
        raise RequestError(f"{url} names no bucket; write it as {FORMS[service]}")
    return Address(url.rstrip("/"), service, bucket, prefix.strip("/"), account)
