"""Files in S3: endpoint, region and keys.

Keys come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) and from nowhere else; without them
requests are not signed, as open data require. AWS_S3_ENDPOINT names another server that speaks S3, AWS_REGION a region.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cellcode.errors import InputError, UsageError
from cellcode.http import check_url

_CONNECT_S, _ANSWER_S = 10.0, 30.0


@dataclass(frozen=True)
class Access:
    """One file.

    Attributes:
        bucket, key: its name.
        endpoint: host and port of another server than Amazon's; may be empty.
        secure: by https.
        options: for GDAL, which reads the keys from the environment by itself.
    """

    bucket: str
    key: str
    endpoint: str
    secure: bool
    options: Mapping[str, str] = field(repr=False)


def access(url: str) -> Access:
    """Return how `s3://BUCKET/KEY` is requested.

    Raises:
        UsageError: the address is not complete.
        RemoteError: the endpoint is a private address.
    """
    parts = urlsplit(url)
    bucket, key = parts.netloc, parts.path.lstrip("/")
    if not bucket or not key:
        raise UsageError(f"{url} must be s3://BUCKET/KEY")
    options = {"AWS_NO_SIGN_REQUEST": "NO" if _keys() else "YES"}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        options["AWS_REGION"] = region
    given = os.environ.get("AWS_S3_ENDPOINT", "")
    if not given:
        return Access(bucket, key, "", True, options)
    if "://" not in given:
        given = (
            f"{'http' if os.environ.get('AWS_HTTPS', 'YES').upper() in ('NO', 'FALSE', 'OFF') else 'https'}://{given}"
        )
    check_url(given)
    found = urlsplit(given)
    secure = found.scheme == "https"
    # Other servers rarely have a name for each bucket.
    options |= {"AWS_S3_ENDPOINT": found.netloc, "AWS_HTTPS": "YES" if secure else "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
    return Access(bucket, key, found.netloc, secure, options)


def version(file: Access) -> str:
    """Return a digest of a file's ETag and size.

    Raises:
        InputError: the file does not exist, or access is refused.
    """
    from pyarrow import fs

    shown = f"s3://{file.bucket}/{file.key}"
    keys = _keys()
    settings: dict[str, Any] = keys or {"anonymous": True}
    if file.endpoint:
        settings |= {"endpoint_override": file.endpoint, "scheme": "https" if file.secure else "http"}
    try:
        region = file.options.get("AWS_REGION") or ("us-east-1" if file.endpoint else fs.resolve_s3_region(file.bucket))
        filesystem = fs.S3FileSystem(region=region, connect_timeout=_CONNECT_S, request_timeout=_ANSWER_S, **settings)
        with filesystem.open_input_file(f"{file.bucket}/{file.key}") as stream:
            # Names are text or bytes, as pyarrow's version has it.
            said = {
                name.decode() if isinstance(name, bytes) else name: value for name, value in stream.metadata().items()
            }
            what = stream.size(), said.get("ETag") or said.get("Last-Modified")
    except FileNotFoundError:
        raise InputError(f"{shown} does not exist") from None
    except OSError as error:
        hint = (
            "check AWS_ACCESS_KEY_ID and its companions"
            if keys
            else "set AWS_ACCESS_KEY_ID and its companions if it needs keys"
        )
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{shown} cannot be read ({words}); {hint}") from None
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _keys() -> dict[str, str] | None:
    names = {
        "access_key": "AWS_ACCESS_KEY_ID",
        "secret_key": "AWS_SECRET_ACCESS_KEY",
        "session_token": "AWS_SESSION_TOKEN",
    }
    found = {name: os.environ[variable] for name, variable in names.items() if os.environ.get(variable)}
    return found if "access_key" in found and "secret_key" in found else None
