"""A raster file on this machine, behind http or https, or in S3, as GDAL opens it.

Remote files are read by ranges: a crop fetches the blocks under it and nothing else. GDAL does that; what it cannot do is
refuse a private address or report which version of a file it reads, so our own client first requests a part of the file.

S3's keys come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) and from nowhere else; without
them requests are not signed, as open data require. AWS_S3_ENDPOINT names another server that speaks S3, AWS_REGION a region.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rasterio
from rasterio.session import DummySession

import cellcode
from cellcode.aerial.rasters.trust import driver_of, open_checked, require_trusted
from cellcode.errors import InputError, UsageError
from cellcode.files import sampled_digest
from cellcode.http import Client, Politeness, RemoteError, check_url, redact

_PROBE_BYTES = 16_384
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF
TRIES = 5
_CONNECT_S, _ANSWER_S = 10.0, 30.0  # of S3
# GDAL's defaults are for disks: it looks for files beside a file, and gives up at the first error.
_GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "100",  # bytes per second; below it for so many seconds ...
    "GDAL_HTTP_LOW_SPEED_TIME": "20",  # ... a transfer hangs
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_MAX_RETRY": str(TRIES - 1),
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_MULTIRANGE": "SERIAL",  # in parallel GDAL does not retry
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # a COG's directory in one request
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": str(16 * 2**20),
    "CPL_VSIL_CURL_CACHE_SIZE": str(64 * 2**20),
}


@dataclass(frozen=True)
class RasterFile:
    """A file and how it is opened."""

    shown: str  # its path or its address without secrets, for messages
    gdal: str  # what GDAL calls it
    driver: str = "GTiff"  # alone: a server may send a VRT, which can name files of this machine and any address
    version: str = ""  # changes with the content; empty for a local file, whose bytes are read instead
    options: Mapping[str, str] | None = field(default=None, repr=False)  # for GDAL, None on this machine

    def open(self) -> Any:
        """Return a dataset of rasterio, or raise InputError."""
        try:
            with self.environment():
                return open_checked(self.gdal, self.driver)
        except UnicodeEncodeError:
            raise InputError(f"{self.shown!r} cannot be opened, because its name is not UTF-8; rename it") from None
        except rasterio.errors.RasterioError as error:
            if self.options is None:
                raise InputError(f"{self.shown} cannot be read as a raster ({error})") from None
            # The words of GDAL may hold the whole address, with its secrets.
            raise InputError(f"{self.shown} cannot be read as a TIFF; if it is one, run this again later") from None

    def environment(self) -> AbstractContextManager[Any]:
        """The settings under which a dataset is opened and read."""
        if self.options is None:
            return nullcontext()
        # No session: rasterio's own wants boto3 and looks for keys in files.
        settings: AbstractContextManager[Any] = rasterio.Env(session=DummySession(), **self.options)
        return settings

    def digest(self) -> str:
        """Return a digest of the content."""
        return self.version or sampled_digest(Path(self.gdal), samples=256, sample_bytes=16_384)

    def damage(self, lat_deg: float, lon_deg: float) -> InputError:
        """Return the error of pixels that cannot be read."""
        where = f"its pixels around {lat_deg:.5f}, {lon_deg:.5f}"
        if self.options is None:
            return InputError(f"{self.shown} is damaged: {where} cannot be read")
        return InputError(f"{self.shown}: {where} could not be fetched in {TRIES} tries; run this again later")


def raster_file(spec: Path | str, client: Client | None = None) -> RasterFile:
    """Find a file.

    Args:
        spec: a path, `https://HOST/NAME.tif` or `s3://BUCKET/KEY`.
        client: that requests a remote file; None: one of its own.

    Raises:
        RemoteError: a remote file cannot be fetched, or has a private address.
        InputError: its server does not serve ranges, it is not a TIFF, or S3 refuses access; a local file does not exist, has
            an unknown format, or names files elsewhere.
        UsageError: an address in S3 is not complete.
    """
    text = str(spec)
    options = {**_GDAL, "GDAL_HTTP_USERAGENT": f"cellcode/{cellcode.__version__}"}
    if text.startswith(("http://", "https://")):
        return RasterFile(redact(text), f"/vsicurl/{text}", version=_http_version(text, client), options=options)
    if text.startswith("s3://"):
        return _in_s3(text, options)
    driver = driver_of(Path(text))
    require_trusted(Path(text))
    return RasterFile(text, text, driver)


def _http_version(url: str, client: Client | None) -> str:
    client = client or Client(Politeness(max_body_bytes=64 * _PROBE_BYTES))
    shown = redact(url)
    no_ranges = f"{shown}: its server does not support range requests; download the file and give its path"
    try:
        reply = client.get(url, headers={"Range": f"bytes=0-{_PROBE_BYTES - 1}"}, verify=_require_tiff)
    except RemoteError as error:
        if error.reason == "too large":
            raise InputError(no_ranges) from None
        raise
    if reply.status != 206:
        raise InputError(no_ranges)
    tag = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
    size = reply.headers.get("Content-Range", "").rpartition("/")[2]
    return hashlib.sha256(f"{tag} {size}".encode() + reply.body).hexdigest()[:16]


def _require_tiff(body: bytes) -> None:
    if not body.startswith(_MAGIC):
        raise ValueError("it is not a TIFF")


def _in_s3(url: str, options: dict[str, str]) -> RasterFile:
    """GDAL reads the keys from the environment by itself."""
    parts = urlsplit(url)
    bucket, key = parts.netloc, parts.path.lstrip("/")
    if not bucket or not key:
        raise UsageError(f"{url} must be s3://BUCKET/KEY")
    settings = _keys()
    options["AWS_NO_SIGN_REQUEST"] = "NO" if settings else "YES"
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        options["AWS_REGION"] = region
    if endpoint := os.environ.get("AWS_S3_ENDPOINT", ""):
        if "://" not in endpoint:
            plain = os.environ.get("AWS_HTTPS", "YES").upper() in ("NO", "FALSE", "OFF")
            endpoint = f"{'http' if plain else 'https'}://{endpoint}"
        check_url(endpoint)
        scheme, host = urlsplit(endpoint)[:2]
        region = region or "us-east-1"
        settings |= {"endpoint_override": host, "scheme": scheme}
        options |= {"AWS_S3_ENDPOINT": host, "AWS_HTTPS": "YES" if scheme == "https" else "NO"}
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"  # other servers rarely have a name for each bucket
    version = _s3_version(bucket, key, region, settings)
    return RasterFile(url, f"/vsis3/{bucket}/{key}", version=version, options=options)


def _s3_version(bucket: str, key: str, region: str | None, settings: dict[str, str]) -> str:
    """A digest of a file's ETag and size."""
    from pyarrow import fs

    signed = "access_key" in settings
    waits = {"connect_timeout": _CONNECT_S, "request_timeout": _ANSWER_S}
    try:
        region = region or fs.resolve_s3_region(bucket)
        filesystem = fs.S3FileSystem(anonymous=not signed, region=region, **waits, **settings)
        with filesystem.open_input_file(f"{bucket}/{key}") as stream:
            # Names are text or bytes, as pyarrow's version has it.
            said = {
                name.decode() if isinstance(name, bytes) else name: value for name, value in stream.metadata().items()
            }
            what = stream.size(), said.get("ETag") or said.get("Last-Modified")
    except FileNotFoundError:
        raise InputError(f"s3://{bucket}/{key} does not exist") from None
    except OSError as error:
        companions = "AWS_ACCESS_KEY_ID and its companions"
        hint = f"check {companions}" if signed else f"set {companions} if it needs keys"
        words = " ".join(str(error).split())[:200]
        raise InputError(f"s3://{bucket}/{key} cannot be read ({words}); {hint}") from None
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _keys() -> dict[str, str]:
    variables = {"access_key": "ACCESS_KEY_ID", "secret_key": "SECRET_ACCESS_KEY", "session_token": "SESSION_TOKEN"}
    found = {name: os.environ.get(f"AWS_{variable}", "") for name, variable in variables.items()}
    return (
        {name: value for name, value in found.items() if value} if found["access_key"] and found["secret_key"] else {}
    )
