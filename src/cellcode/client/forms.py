"""Photos and fields as the body of a request."""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cellcode.errors import InputError

Source = Path | str | bytes | BinaryIO
Place = str | tuple[float, float, float, float] | dict[str, Any]  # "cap:LAT,LON,RADIUS_M", a box or GeoJSON


def file_name(photo: Source) -> str:
    """Return what an answer calls a photo: its path as given, or "photo"."""
    return str(photo) if isinstance(photo, Path | str) else "photo"


def file_bytes(photo: Source) -> bytes:
    """Return the bytes of a photo's file.

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(photo, bytes):
        return photo
    if not isinstance(photo, Path | str):
        return photo.read()
    try:
        return Path(photo).read_bytes()
    except OSError as error:
        raise InputError(f"{photo} cannot be read ({error.strerror})") from None


def form(photos: Sequence[Source], fields: dict[str, Any]) -> tuple[bytes, str]:
    """Return `multipart` of photos that are still to be read."""
    return multipart([(file_name(photo), file_bytes(photo)) for photo in photos], fields)


def multipart(photos: Sequence[tuple[str, bytes]], fields: dict[str, Any]) -> tuple[bytes, str]:
    """Return the body and content type of a form (RFC 7578). Of a photo's path only the name is sent."""
    mark = uuid.uuid4().hex
    parts = []
    for name, value in fields.items():
        if value is not None and value is not False:
            parts.append((f'form-data; name="{name}"', _text(value).encode()))
    for path, data in photos:
        file = Path(path).name.encode("utf-8", "replace").decode()
        file = file.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")  # as browsers do
        parts.append((f'form-data; name="photo"; filename="{file}"\r\nContent-Type: application/octet-stream', data))
    pieces = [f"--{mark}\r\nContent-Disposition: {head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts]
    return b"".join([*pieces, f"--{mark}--\r\n".encode()]), f"multipart/form-data; boundary={mark}"


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(repr, map(float, value)))
    return value if isinstance(value, str) else json.dumps(value)
