"""Which files GDAL may open: formats that are known by their first bytes, and nothing that a file names elsewhere.

A raster may come from anyone, and GDAL follows what it names: the sources of a VRT, overviews and masks beside a file, and
those of its metadata. By them GDAL would fetch from any host and read any file of this machine. So what is named must be a
raster below the folder of the file that names it, unless the user allows more (`--allow-private`).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import rasterio
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from cellcode.errors import InputError
from cellcode.http import redact
from cellcode.http.addresses import private_is_allowed

HINT = "if you trust it, allow it with --allow-private"
_HEAD_BYTES = 1024  # in which GDAL looks for the element of a VRT
_MAX_VRT_BYTES = 64 * 2**20
_MAGIC = {
    b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG", b"\xff\x4f\xff\x51": "JP2OpenJPEG",
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"EHFA_HEADER_TAG": "HFA",
}  # fmt: skip
_BESIDE = (".ovr", ".OVR", ".msk", ".MSK", ".ovr.ovr", ".msk.ovr", ".ovr.msk")  # GDAL finds them itself
_SOURCES = {"sourcefilename", "sourcedataset"}
_SUBCLASSES = {
    "vrtwarpeddataset", "vrtpansharpeneddataset", "vrtsourcedrasterband", "vrtwarpedrasterband",
    "vrtpansharpenedrasterband", "vrtderivedrasterband",
}  # fmt: skip
_FREE_TEXT = {"mdi", "srs", "description", "category", "f"}
_ELSEWHERE = re.compile(r"^/|^[a-z]:\\|:/|/vsi|\.\.[/\\]|<", re.IGNORECASE)  # of a path, an address or a description


def driver_of(path: Path) -> str:
    """Return the GDAL driver of a local file by its first bytes, or raise InputError: only these formats are opened."""
    if not path.is_file():  # also a pipe, which would never end
        raise InputError(f"{path} cannot be read as a raster: it is not a file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read as a raster ({error.strerror})") from None
    for magic, driver in _MAGIC.items():
        if head.startswith(magic):
            return driver
    if b"<VRTDataset" in head.partition(b"\0")[0]:
        return "VRT"
    raise InputError(f"{path} cannot be read as a raster: it is not a GeoTIFF, COG, VRT, JPEG 2000, PNG, JPEG or IMG")


def open_checked(name: str, driver: str) -> Any:
    """Open a dataset by one driver; InputError: its metadata name another file as its overviews."""
    dataset = rasterio.open(name, driver=driver)
    if not private_is_allowed() and any(key.upper() == "OVERVIEW_FILE" for key in dataset.tags(ns="OVERVIEWS")):
        dataset.close()
        raise InputError(f"{redact(name)} names another file as its overviews; remove that, or {HINT}")
    return dataset


def require_trusted(path: Path) -> None:
    """Raise InputError if a local raster leads GDAL to what it must not open; see this module."""
    if private_is_allowed():
        return
    waiting, seen = [path], {path}
    while waiting:
        file = waiting.pop()
        for beside in filter(Path.exists, (Path(f"{file}{suffix}") for suffix in _BESIDE)):
            if driver_of(beside) != "GTiff":
                raise InputError(f"{beside} is not a TIFF; remove it, or {HINT}")
        if driver_of(file) == "VRT":
            found = {_below(path.parent, file, *named) for named in _named(file)} - seen
            waiting, seen = [*waiting, *found], seen | found
        elif file is not path:  # the raster itself is checked when it is opened
            open_checked(str(file), driver_of(file)).close()


def _below(folder: Path, vrt: Path, name: str, is_relative: bool) -> Path:
    """Return the file that a VRT names, which must be below a folder."""
    written = PurePath(name)
    # By its letters, so that links which the user made are followed; `a/../b` may mean something else to GDAL.
    source = Path(os.path.abspath(vrt.parent / written if is_relative else written))
    is_plain = (is_relative or ":" not in name) and (".." not in written.parts or os.path.normpath(name) == name)
    if not is_plain or not source.is_relative_to(os.path.abspath(folder)) or not source.is_file():
        raise InputError(f"{vrt} names {redact(name)[:200]}, which is not a file below {folder}; {HINT}")
    return source


def _named(vrt: Path) -> Iterator[tuple[str, bool]]:
    """Yield the sources that a VRT names, and whether they are relative to it; InputError: it names more, or holds code."""
    if vrt.stat().st_size > _MAX_VRT_BYTES:
        raise InputError(f"{vrt} is larger than {_MAX_VRT_BYTES // 2**20} MiB")
    try:
        document: Element = fromstring(vrt.read_bytes())
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise InputError(f"{vrt} cannot be read as a raster: it is not a valid VRT ({error})") from None
    for element in document.iter():
        # GDAL knows no namespaces, takes attributes for children, and names in any case.
        attributes = {_plain(name): value.strip() for name, value in element.attrib.items()}
        key, relative = attributes.get("key", "").lower(), attributes.get("relativetovrt", "0")
        for kind, value in ((_plain(element.tag), (element.text or "").strip()), *attributes.items()):
            if kind in _SOURCES and relative in ("0", "1"):
                yield value, relative == "1"
            elif (
                kind in _SOURCES
                or (kind == "subclass" and value.lower() not in _SUBCLASSES)
                or (kind == "pixelfunctionlanguage" and value.lower() not in ("c", "expression"))
                or (kind == "mdi" and key.endswith(("overview_file", "dataset")))
                or (kind not in _FREE_TEXT and _ELSEWHERE.search(value))
            ):
                raise InputError(f"{vrt}: {kind} {value[:200]!r} is not accepted in a VRT; {HINT}")


def _plain(name: str) -> str:
    return name.rpartition("}")[2].lower()
