"""What the client of object storage says when something fails, in one line with a remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from thc_dask.errors import AccessError, MissingError, ReadError, RequestError, ThcError, WriteError
from thc_dask.remote.address import Address
from thc_dask.retry import Fault, times

EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
REFUSED = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "AuthFailure",
    "InvalidClientTokenId", "UnrecognizedClientException", "AuthenticationFailed",
    "InvalidAuthenticationInfo", "MissingAuthenticationToken", "InvalidCredentials",
}  # fmt: skip
NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "AccountNotFound"}
ELSEWHERE = {
    "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException",
    "InvalidRegion", "TemporaryRedirect",
}  # fmt: skip
WORDS_OF_EXPIRY = re.compile(r"expired|not within its validity|Signature not valid in the", re.I)
LOGIN = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (or run gcloud auth application-default login)",
    "az": "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN (or run az login)",
    "http": "another address: of http only what anybody may read is read",
}
UNSIGNED = {
    "s3": "AWS_SKIP_SIGNATURE=true",
    "gs": "GOOGLE_SKIP_SIGNATURE=true",
    "az": "AZURE_SKIP_SIGNATURE=true",
}
RENEW = {
    "s3": "get new ones (aws sso login, or a new AWS_SESSION_TOKEN)",
    "gs": "get new ones (gcloud auth application-default login)",
    "az": "get new ones (az login, or a new AZURE_STORAGE_SAS_TOKEN)",
}
ENDPOINTS = {
    "s3": " and AWS_ENDPOINT_URL",
    "gs": " and GOOGLE_BASE_URL",
    "az": " and the account's name",
}


@dataclass(frozen=True)
class Refusal:
    """What a server answered, or that it did not."""

    status: int
    """Of the answer; 0 where there was none."""
    code: str
    """The service's own word for it; may be empty."""
    words: str
    """What is said of it, in one line."""
    tried: int
    """How often the client has tried already."""
    to_the_end: bool = False
    """Whether that is as often as it may."""

    @property
    def passes(self) -> bool:
        """Whether it may be gone at the next try."""
        if self.status:
            return self.status in (408, 409, 425, 429) or (
                self.status >= 500 and self.status != 501
            )
        # A connection that was lost or never made, an answer that broke off.
        return "HTTP error" in self.words or "timed out" in self.words


def read_refusal(error: Exception) -> Refusal:
    """Return what stands in an error of the client.

    >>> found = read_refusal(OSError("… status code: 403 Forbidden: <Code>AccessDenied</Code>"))
    >>> found.status, found.code, found.words
    (403, 'AccessDenied', '403 Forbidden, AccessDenied')
    """
    text = str(error).partition("\n\nDebug source:")[0]
    status = re.search(r"status code: (\d{3})([^:<]*)", text)
    code = re.search(r"<Code>\s*(\w+)\s*</Code>", text) or re.search(r'"reason":\s*"(\w+)"', text)
    message = re.search(r"<Message>\s*(.*?)\s*</Message>", text, re.S) or re.search(
        r'"message":\s*"([^"]*)"', text
    )
    tries = re.search(r"after (\d+) retries, max_retries: (\d+)", text)
    if status:
        parts = [f"{status[1]}{status[2].rstrip()}"]
        parts += [" ".join(m[1].split()).rstrip(".") for m in (code, message) if m]
        words = ", ".join(parts)
    else:
        last = re.search(r"(?:retry_timeout: \S+\s+- |in [\d.]+\S+ - )(.*)", text, re.S)
        words = " ".join((last[1] if last else text).split())
    return Refusal(
        int(status[1]) if status else 0, code[1] if code else "", words or type(error).__name__,
        int(tries[1]) + 1 if tries else 1, bool(tries and int(tries[1]) >= int(tries[2])),
    )  # fmt: skip


def judge(error: Exception) -> Fault | None:
    """Return the fault where another try may help, for ``thc_dask.retry``."""
    if isinstance(error, FileNotFoundError | ThcError):
        return None
    found = read_refusal(error)
    # What the client has tried to the end is not tried all over again.
    return Fault(found.words) if found.passes and not found.to_the_end else None


def explain(
    address: Address, key: str, error: Exception, *, writes: bool, anonymous: bool,
    region: str = "", n_tries: int = 1,
) -> ThcError:  # fmt: skip
    """Return what to raise for an error of the client, in one line with a remedy.

    ``anonymous`` says that the request was not signed, ``region`` where it went, ``n_tries`` how
    often it was sent.
    """
    found, service = read_refusal(error), address.service
    bucket = f"{address.top} does not exist"
    what = f"{address.url}/{key}" if key else address.url
    verb = "write" if writes else "read"
    if found.code in NO_BUCKET:
        return MissingError(f"{bucket}; create it, or check its name{ENDPOINTS.get(service, '')}")
    if found.code == "InvalidBucketName":
        return RequestError(f"{address.top}: no bucket can have that name; check it")
    if found.code in EXPIRED or (found.status in (400, 401, 403) and _expired(found.words)):
        return AccessError(
            f"the credentials for {address.top} have expired; "
            f"{RENEW.get(service, 'get new ones')} and run it again"
        )
    if found.code in ELSEWHERE or "Received redirect without LOCATION" in found.words:
        return RequestError(_region(address, found, region))
    if found.code == "RequestTimeTooSkewed":
        return AccessError(
            f"{address.top} refuses requests because the clock of this machine is wrong; set it"
        )
    if found.code in REFUSED or found.status == 401:
        public = f"; for public data set {UNSIGNED[service]}" if service in UNSIGNED else ""
        return AccessError(
            f"{address.top} does not accept the credentials ({found.code or found.status}); check "
            f"{LOGIN[service]}{public}"
        )
    if found.status == 403:
        return AccessError(f"no permission to {verb} {what}{_permission(address, anonymous)}")
    if found.passes:
        often = f" (tried {times(max(n_tries, found.tried))})"
        remedy = f"see that {_host(address)} can be reached"
        kind = WriteError if writes else ReadError
        return kind(f"cannot {verb} {what}: {found.words}{often}; {remedy}")
    return (WriteError if writes else ReadError)(f"cannot {verb} {what}: {found.words}")


def _expired(words: str) -> bool:
    return WORDS_OF_EXPIRY.search(words) is not None


def _permission(address: Address, anonymous: bool) -> str:
    if address.service == "http":
        return "; the server keeps it to itself"
    if anonymous:
        return f" without credentials; set {LOGIN[address.service]}"
    listing = ", which S3 also says of what is not there unless the bucket may be listed"
    return (
        f" with these credentials{listing if address.service == 's3' else ''}; ask the owner of "
        f"{address.top} for it, or use others"
    )


def _region(address: Address, found: Refusal, region: str) -> str:
    right = re.search(r"expecting '([\w-]+)'", found.words)
    now = f"{address.top} does not lie in region {region or 'us-east-1'}"
    if right:
        return f"{now} but in {right[1]}; set AWS_REGION={right[1]}"
    return f"{now}; set AWS_REGION to the bucket's own, or unset it to have that looked up"


def _host(address: Address) -> str:
    return address.bucket if address.service == "http" else address.top
