"""Reaching object storage: addresses, credentials, errors of one line, the web."""

import pickle

import pytest

import thc_dask as thc
from tests.assertions import read_files
from tests.fault_proxy import fault_proxy
from tests.object_storage import KEY, SECRET, free_ports, impatient, point_at, seaweed
from thc_dask import cli
from thc_dask.convert import write_store
from thc_dask.errors import AccessError, MissingError, ReadError, RequestError, WriteError
from thc_dask.remote import Remote, client
from thc_dask.remote.address import parse
from thc_dask.remote.client import ProfileCredentials, connect, is_anonymous, region_of
from thc_dask.sources import open_reader
from thc_dask.store.location import locate

URL = "s3://bucket/lab/v.ome.zarr"
SIZES = {"chunk": (16, 16, 16), "shard": (32, 32, 32), "levels": 2}
READER = {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": "read"}],
          "actions": ["Read", "List"]}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a store in it, that knows its users, and lets anybody read ``public``."""
    anybody = {"name": "anonymous", "actions": ["Read:public", "List:public"]}
    with seaweed(tmp_path_factory.mktemp("weed"), READER, anybody) as url:
        with pytest.MonkeyPatch.context() as patch:
            point_at(patch, url)
            for bucket in ("bucket", "public"):
                locate(f"s3://{bucket}").put("first", b"")  # there is a bucket after that
                write_store("phantom:32,32,48", f"s3://{bucket}/lab/v.ome.zarr", **SIZES)
        yield url


@pytest.mark.parametrize(
    ("url", "service", "bucket", "prefix", "top"),
    [
        ("s3://b/a/v.zarr/", "s3", "b", "a/v.zarr", "s3://b"),
        ("s3a://b", "s3", "b", "", "s3a://b"),
        ("gcs://b/v", "gs", "b", "v", "gcs://b"),
        ("az://c/v", "az", "c", "v", "az://c"),
        ("abfss://c@lab.dfs.core.windows.net/v", "az", "c", "v",
         "abfss://c@lab.dfs.core.windows.net"),
        ("https://h:8080/a b/v", "http", "h:8080", "a b/v", "https://h:8080"),
    ],
)  # fmt: skip
def test_addresses(url, service, bucket, prefix, top):
    found = parse(url)
    assert (found.service, found.bucket, found.prefix, found.top) == (service, bucket, prefix, top)


@pytest.mark.parametrize("url", ["s3://", "gs:///v", "s3://a bucket/v"])
def test_what_names_no_bucket(url):
    with pytest.raises(RequestError, match=r"names no bucket; write it as (s3|gs)://BUCKET/PATH"):
        parse(url)


def test_keys_are_not_sent_to_other_processes(server, monkeypatch):
    point_at(monkeypatch, server)
    location = locate(URL)
    assert location.get("zarr.json")
    sent = pickle.dumps(location)
    assert KEY.encode() not in sent
    assert SECRET.encode() not in sent
    assert pickle.loads(sent).get("zarr.json") == location.get("zarr.json")


def test_a_profile_brings_endpoint_region_and_keys(server, monkeypatch, tmp_path):
    config, keys = tmp_path / "config", tmp_path / "credentials"
    config.write_text(f"[profile lab]\nendpoint_url = {server}\nregion = eu-west-1\n")
    keys.write_text(f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    point_at(
        monkeypatch, None, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, AWS_REGION=None,
        AWS_PROFILE="lab", AWS_CONFIG_FILE=str(config), AWS_SHARED_CREDENTIALS_FILE=str(keys),
    )  # fmt: skip
    assert locate(URL).get("zarr.json")
    assert connect(parse(URL)).config["region"] == "eu-west-1"
    assert ProfileCredentials("lab")()["access_key_id"] == KEY
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AccessError, match=r"AWS profile nobody: .*; see ~/.aws/config"):
        locate(URL).get("zarr.json")


def test_without_credentials_public_data_are_read(server, monkeypatch, tmp_path):
    monkeypatch.setattr(client, "_made_by", lambda field, name: False)
    point_at(monkeypatch, server, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert is_anonymous(parse(URL))
    public = "s3://public/lab/v.ome.zarr"
    assert thc.open_volume(public)["1/image"].shape == (16, 16, 24)
    assert thc.verify(public)["whole"]
    with pytest.raises(AccessError, match=r"no permission to read .* without credentials; set A"):
        locate(URL).get("zarr.json")


@pytest.mark.parametrize(
    ("url", "settings", "anonymous"),
    [
        ("gs://b/v", {}, True),
        ("gs://b/v", {"GOOGLE_SKIP_SIGNATURE": "true"}, True),
        ("gs://b/v", {"GOOGLE_BEARER_TOKEN": "t"}, False),
        ("az://c/v", {"AZURE_STORAGE_ACCOUNT_NAME": "lab"}, True),
        ("az://c/v", {"AZURE_STORAGE_ACCOUNT_NAME": "lab", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"},
         False),
        ("az://c/v",
         {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=lab;AccountKey=a2V5;X=y"}, False),
        ("abfss://c@lab.dfs.core.windows.net/v", {}, True),
        ("s3://b/v", {"AWS_SKIP_SIGNATURE": "true"}, True),
        ("s3://b/v", {}, False),
    ],
)  # fmt: skip
def test_who_signs(url, settings, anonymous, monkeypatch, tmp_path):
    monkeypatch.setattr(client, "_made_by", lambda field, name: False)
    point_at(monkeypatch, "http://127.0.0.1:1", HOME=str(tmp_path), **settings)
    assert is_anonymous(parse(url)) == anonymous


def test_azure_without_an_account(monkeypatch, tmp_path):
    point_at(monkeypatch, "http://127.0.0.1:1", HOME=str(tmp_path))
    with pytest.raises(RequestError, match="names no account; set AZURE_STORAGE_ACCOUNT_NAME"):
        locate("az://c/v").get("a")


def test_bodies_are_hashed_only_where_nothing_else_proves_them(monkeypatch):
    point_at(monkeypatch, "http://127.0.0.1:1")
    assert "unsigned_payload" not in connect(parse(URL)).config
    point_at(monkeypatch, "https://storage.example.org")
    assert connect(parse(URL)).config["unsigned_payload"]


def test_the_region_of_a_bucket_is_looked_up(server):
    with fault_proxy(server) as proxy:
        proxy.answer = (403, {"x-amz-bucket-region": "eu-north-1"}, b"")
        assert region_of("b", proxy.url) == "eu-north-1"
        proxy.answer = (404, {}, b"")
        assert region_of("b", proxy.url) is None
    assert region_of("b", f"http://127.0.0.1:{free_ports(1)[0]}") is None


def refusal(code, message="No."):
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


ANSWERS = {  # as the services word them
    "bucket": (404, refusal("NoSuchBucket"), MissingError,
               r"^s3://bucket does not exist; create it, or check its name and AWS_ENDPOINT_URL$"),
    "expired": (400, refusal("ExpiredToken", "The provided token has expired."), AccessError,
                r"^the credentials for s3://bucket have expired; get new ones .* run it again$"),
    "expired, Azure": (403, refusal("AuthenticationFailed", "Signed expiry time has expired"),
                       AccessError, "have expired; get new ones"),
    "redirect": (301, refusal("PermanentRedirect"), RequestError,
                 r"does not lie in region us-east-1; set AWS_REGION to the bucket's own"),
    "region": (400, refusal("AuthorizationHeaderMalformed",
                            "the region 'us-east-1' is wrong; expecting 'eu-west-1'"), RequestError,
               r"not lie in region us-east-1 but in eu-west-1; set AWS_REGION=eu-west-1$"),
    "clock": (403, refusal("RequestTimeTooSkewed"), AccessError, "clock of this machine is wrong"),
    "denied": (403, refusal("AccessDenied"), AccessError,
               r"^no permission to read s3://bucket/lab/v.ome.zarr/zarr.json with these .*owner"),
    "name": (400, refusal("InvalidBucketName"), RequestError, "no bucket can have that name"),
    "odd": (418, "<html>teapot</html>", ReadError,
            r"^cannot read s3://bucket/lab/v.ome.zarr/zarr.json: 418"),
}  # fmt: skip


@pytest.mark.parametrize("what", ANSWERS)
def test_what_a_server_refuses_is_one_line(server, what, monkeypatch, capsys):
    status, body, kind, words = ANSWERS[what]
    with fault_proxy(server) as proxy:
        point_at(monkeypatch, proxy.url)
        proxy.answer = (status, {"content-type": "application/xml"}, body.encode())
        with pytest.raises(kind, match=words) as found:
            locate(URL).get("zarr.json")
        assert "\n" not in str(found.value)
        assert cli.run(["info", URL]) == found.value.exit_code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(found.value) in said


def test_who_may_only_read_is_told_so(server, monkeypatch):
    point_at(monkeypatch, server, AWS_ACCESS_KEY_ID="reader", AWS_SECRET_ACCESS_KEY="read")
    assert thc.verify(URL)["whole"]
    before = locate(URL).keys("")
    for command in (
        lambda: write_store("phantom:32,32,48", "s3://bucket/new.ome.zarr", **SIZES),
        lambda: thc.labels("phantom:32,32,48?channel=roi", URL, "roi", "prasad2020-roi"),
    ):
        with pytest.raises(AccessError, match=r"no permission to write s3://bucket/.*/thc/lock"):
            command()
    assert locate(URL).keys("") == before


@pytest.mark.parametrize("key", ["nobody", KEY])
def test_keys_that_are_not_accepted(server, monkeypatch, key):
    point_at(monkeypatch, server, AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY="wrong")
    words = r"s3://bucket does not accept the credentials \(\w+\); check AWS_ACCESS_KEY_ID and .*"
    with pytest.raises(AccessError, match=words + "AWS_SKIP_SIGNATURE=true"):
        thc.open_volume(URL)
    with pytest.raises(AccessError, match=words):
        open_reader(URL, None)


def test_a_bucket_that_is_not_there(server, monkeypatch):
    point_at(monkeypatch, server)
    for command in (
        lambda: thc.open_volume("s3://nowhere/v.ome.zarr"),
        lambda: open_reader("s3://nowhere/v.ome.zarr", None),
    ):
        with pytest.raises(MissingError, match=r"s3://nowhere.*(create it|check the path)"):
            command()


def test_a_server_that_cannot_be_reached(monkeypatch):
    impatient(monkeypatch)
    point_at(monkeypatch, f"http://127.0.0.1:{free_ports(1)[0]}")
    remote = Remote(URL)
    with pytest.raises(ReadError, match=r"cannot read .*zarr.json: .* \(tried 3 times\); see that"):
        remote.get("zarr.json")
    with pytest.raises(WriteError, match=r"cannot write .*zarr.json: .*s3://bucket can be reached"):
        remote.put("zarr.json", b"")
    with pytest.raises(ReadError, match=r"cannot read .*: .*see that s3://bucket can be reached$"):
        open_reader(URL, None)


def test_the_web_is_read_and_never_written(server, monkeypatch, tmp_path, capsys):
    point_at(monkeypatch, server, AWS_ACCESS_KEY_ID=None)
    web = f"{server}/public/lab/v.ome.zarr"
    here = read_files_of_public(monkeypatch, server)
    with fault_proxy(server) as proxy:
        web = f"{proxy.url}/public/lab/v.ome.zarr"
        assert (thc.open_volume(web)["1/image"].values > 0).any()
        assert thc.verify(web)["whole"]
        write_store(web, tmp_path / "copy.ome.zarr", **SIZES)
        proxy.forget()
        for command in (
            ["convert", "phantom:16,32,48", f"{proxy.url}/public/new.ome.zarr"],
            ["labels", "phantom:32,32,48?channel=roi", web, "--name", "roi", "--scheme",
             "prasad2020-roi"],
        ):  # fmt: skip
            assert cli.run(command) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert "can only be read: http has no way to write; give a folder, or a URL of" in said
        assert set(proxy.counts()) <= {"GET", "HEAD"}
    shards = {k: v for k, v in read_files(tmp_path / "copy.ome.zarr").items() if "/c/" in k}
    assert shards.items() <= here.items()
    with pytest.raises(MissingError, match="does not exist"):
        thc.open_volume(f"{server}/public/none.ome.zarr")


def read_files_of_public(monkeypatch, server):
    with pytest.MonkeyPatch.context() as patch:
        point_at(patch, server)
        return read_files("s3://public/lab/v.ome.zarr")


def test_the_package_that_reaches_it_is_named(monkeypatch):
    import sys

    point_at(monkeypatch, "http://127.0.0.1:1")
    client._connect.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(RequestError, match=r"install obstore: pip install 'thc_dask\[remote\]'"):
        connect(parse(URL))
