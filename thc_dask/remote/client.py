"""Make the client of a place in object storage, with the credentials that its cloud looks for.

What stands in the environment comes first, then the files that the cloud's own tools keep, then
the machine's role. Where none of them is, requests go unsigned: so public data are read.
Nothing here waits for a network: whether a machine has a role is read from its firmware.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thc_dask.errors import AccessError, RequestError, ThcError
from thc_dask.remote.address import Address

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

    Client = AzureStore | GCSStore | HTTPStore | S3Store

# Of a single request, from the first byte to the last: a shard over a slow line takes its time.
TIMEOUTS = {"connect_timeout": "10s", "timeout": "180s"}
RETRIES: dict[str, Any] = {
    "max_retries": 8,
    "backoff": {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=15),
        "base": 3,
    },
    "retry_timeout": timedelta(seconds=240),
}
SETTINGS = ("AWS_", "GOOGLE_", "AZURE_", "CLOUDSDK_", "HOME", "IDENTITY_", "MSI_")
KEYS_OF_S3 = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
KEYS_OF_GS = (
    "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_BEARER_TOKEN",
)  # fmt: skip
KEYS_OF_AZ = (
    "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_TOKEN", "AZURE_CLIENT_ID",
    "AZURE_STORAGE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_USE_AZURE_CLI",
    "AZURE_STORAGE_USE_EMULATOR", "IDENTITY_ENDPOINT", "MSI_ENDPOINT",
)  # fmt: skip


def connect(address: Address) -> Client:
    """Return the client of a place; one for each place and each set of settings.

    Raises
    ------
    RequestError
        The package that does it is not installed, or a setting is wrong.
    """
    settings = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(SETTINGS)))
    return _connect(address, settings)


@lru_cache(maxsize=64)
def _connect(address: Address, settings: tuple[tuple[str, str], ...]) -> Client:
    try:
        import obstore.exceptions
    except ImportError as error:
        raise RequestError(
            f"{address.url}: to reach it install obstore: pip install 'thc_dask[remote]'"
        ) from error
    makers: dict[str, Callable[[Address, Mapping[str, str]], Client]] = {
        "s3": _s3, "gs": _gs, "az": _az, "http": _http
    }  # fmt: skip
    try:
        return makers[address.service](address, dict(settings))
    except ThcError:
        raise
    except (obstore.exceptions.BaseError, ValueError) as error:
        words = str(error).partition("\n\nDebug source:")[0]
        raise RequestError(f"{address.url}: {' '.join(words.split())}") from error


def is_anonymous(address: Address) -> bool:
    """Whether requests to a place go unsigned."""
    found = getattr(connect(address), "config", {})
    return str(found.get("skip_signature", "false")).lower() == "true"


def options(endpoint: str | None) -> Any:
    """Return how the client behaves; plain HTTP is spoken only where an endpoint asks for it."""
    return {**TIMEOUTS, "allow_http": (endpoint or "").lower().startswith("http://")}


def _s3(address: Address, settings: Mapping[str, str]) -> S3Store:
    from obstore.store import S3Store

    profile = _profile(settings)
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = _first(settings, names) or profile.get("endpoint_url")
    config: dict[str, Any] = {}
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    region = _first(settings, ("AWS_REGION", "AWS_DEFAULT_REGION")) or profile.get("region")
    if region is None and not endpoint:
        region = region_of(address.bucket)
    if region:
        config["region"] = region
    if "AWS_UNSIGNED_PAYLOAD" not in settings and not options(endpoint)["allow_http"]:
        # TLS proves every byte on its way; to hash them too costs more than all else here.
        config["unsigned_payload"] = True
    provider = None
    if "AWS_SKIP_SIGNATURE" in settings:
        config["skip_signature"] = _is_true(settings["AWS_SKIP_SIGNATURE"])
    elif not _first(settings, KEYS_OF_S3):
        if profile.get("credentials"):
            provider = ProfileCredentials(settings.get("AWS_PROFILE"))
        elif not _made_by("sys_vendor", "Amazon"):
            config["skip_signature"] = True
    return S3Store(
        address.bucket, prefix=address.prefix or None, config=config, retry_config=RETRIES,  # type: ignore[arg-type]
        client_options=options(endpoint), credential_provider=provider,
    )  # fmt: skip


class ProfileCredentials:
    """Credentials of a profile in ``~/.aws``, by whatever way it describes: keys, SSO, a role."""

    def __init__(self, profile: str | None) -> None:
        self._profile = profile

    def __call__(self) -> Any:
        """Return keys that hold for some minutes."""
        found = _botocore(self._profile).get_credentials()
        if found is None:
            raise AccessError(f"profile {self._profile!r} of ~/.aws has no credentials")
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            # Those that expire are renewed at least ten minutes before they do.
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),
        }


def _profile(settings: Mapping[str, str]) -> dict[str, Any]:
    """Return what the files of AWS's own tools say: region, endpoint_url, credentials (whether)."""
    home = Path(settings.get("HOME", "~")).expanduser()
    files = [
        Path(settings.get("AWS_SHARED_CREDENTIALS_FILE", home / ".aws/credentials")),
        Path(settings.get("AWS_CONFIG_FILE", home / ".aws/config")),
    ]
    name = settings.get("AWS_PROFILE")
    if name is None and not any(path.expanduser().is_file() for path in files):
        return {}
    from botocore.exceptions import BotoCoreError

    try:
        session = _botocore(name)
        found = dict(session.get_scoped_config())
        needed = "AWS_SKIP_SIGNATURE" not in settings and not _first(settings, KEYS_OF_S3)
        found["credentials"] = needed and session.get_credentials() is not None
    except BotoCoreError as error:
        raise AccessError(f"AWS profile {name or 'default'}: {error}; see ~/.aws/config") from error
    return found


@cache
def _botocore(profile: str | None) -> Any:
    try:
        import botocore.session
    except ImportError as error:
        raise RequestError(
            "~/.aws holds profiles; to use them install botocore: pip install 'thc_dask[remote]'"
        ) from error
    session = botocore.session.Session(profile=profile)
    if not _made_by("sys_vendor", "Amazon"):
        # Elsewhere nobody answers, and to find that out takes a second.
        session.get_component("credential_provider").remove("iam-role")
    return session


def region_of(bucket: str, endpoint: str = "https://s3.amazonaws.com") -> str | None:
    """Return the region that a bucket of S3 lies in, None where that cannot be found out.

    S3 says it to anybody, whether or not the bucket may be read.
    """
    import urllib.error
    import urllib.request

    request = urllib.request.Request(f"{endpoint}/{bucket}", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
    except OSError:
        return None  # the first real request says why
    found = headers.get("x-amz-bucket-region")
    return None if found is None else str(found)


def _gs(address: Address, settings: Mapping[str, str]) -> GCSStore:
    from obstore.store import GCSStore

    home = Path(settings.get("HOME", "~")).expanduser()
    folder = Path(settings.get("CLOUDSDK_CONFIG", home / ".config/gcloud"))
    known = (
        _first(settings, KEYS_OF_GS)
        or (folder / "application_default_credentials.json").is_file()
        or "K_SERVICE" in os.environ
        or _made_by("product_name", "Google")
    )
    config = {"skip_signature": _is_true(settings.get("GOOGLE_SKIP_SIGNATURE", str(not known)))}
    endpoint = _first(settings, ("GOOGLE_BASE_URL",))
    return GCSStore(
        address.bucket, prefix=address.prefix or None, config=config, retry_config=RETRIES,  # type: ignore[arg-type]
        client_options=options(endpoint),
    )  # fmt: skip


def _az(address: Address, settings: Mapping[str, str]) -> AzureStore:
    from obstore.store import AzureStore

    config: dict[str, Any] = _connection_string(settings)
    if address.account:
        config["account_name"] = address.account
    if not config and not _first(
        settings, ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR")
    ):
        raise RequestError(
            f"{address.url} names no account; set AZURE_STORAGE_ACCOUNT_NAME, or write "
            "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
        )
    home = Path(settings.get("HOME", "~")).expanduser()
    azure = Path(settings.get("AZURE_CONFIG_DIR", home / ".azure"))
    known = {"account_key", "sas_key"} & set(config) or _first(settings, KEYS_OF_AZ)
    if "AZURE_SKIP_SIGNATURE" in settings:
        config["skip_signature"] = _is_true(settings["AZURE_SKIP_SIGNATURE"])
    elif not known and (azure / "azureProfile.json").is_file():
        config["use_azure_cli"] = True
    elif not known and not _made_by("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77"):
        config["skip_signature"] = True
    endpoint = config.get("endpoint") or _first(
        settings, ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    )
    emulator = "AZURE_STORAGE_USE_EMULATOR" in settings and not endpoint
    return AzureStore(
        address.bucket, prefix=address.prefix or None, config=config, retry_config=RETRIES,  # type: ignore[arg-type]
        client_options=options("http://" if emulator else endpoint),
    )  # fmt: skip


def _connection_string(settings: Mapping[str, str]) -> dict[str, Any]:
    """Return what Azure's connection string says, as its tools and portal give it."""
    names = {
        "AccountName": "account_name",
        "AccountKey": "account_key",
        "SharedAccessSignature": "sas_key",
        "BlobEndpoint": "endpoint",
    }
    text = settings.get("AZURE_STORAGE_CONNECTION_STRING", "")
    pairs = dict(part.partition("=")[::2] for part in text.split(";") if "=" in part)
    return {names[key]: value for key, value in pairs.items() if key in names}


def _http(address: Address, settings: Mapping[str, str]) -> HTTPStore:
    from urllib.parse import quote

    from obstore.store import HTTPStore

    return HTTPStore(
        quote(address.url, safe="/:@%~!$&'()*+,;="), client_options=options(address.url),
        retry_config=RETRIES,  # type: ignore[arg-type]
    )  # fmt: skip


def _first(settings: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((settings[name] for name in names if settings.get(name)), None)


def _is_true(setting: str) -> bool:
    return setting.lower() in ("1", "true", "on", "yes", "y")


def _made_by(field: str, name: str) -> bool:
    """Whether the machine's firmware says that it is one of a cloud's."""
    try:
        return name in Path("/sys/class/dmi/id", field).read_text()
    except OSError:
        return False
