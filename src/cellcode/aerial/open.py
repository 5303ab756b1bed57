"""The factory of aerial sources: from what a user writes to an open source.

A list of several sources is a YAML file; docs/aerial.md shows one. A plug-in's source is checked.
"""

import datetime
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellcode.aerial.missing import Missing
from cellcode.aerial.multi import Member, MultiSource
from cellcode.aerial.protocol import AerialSource, Crop
from cellcode.config.yaml_text import parse_yaml, read_text
from cellcode.errors import CellcodeError, InputError, PluginError, UsageError
from cellcode.geography import Region
from cellcode.http import redact
from cellcode.http.addresses import private_is_allowed
from cellcode.plugins import Registry, described
from cellcode.types import Bools

SOURCES = Registry(
    kind="aerial source",
    group="cellcode.aerial_sources",
    base=AerialSource,  # type: ignore[type-abstract]
    builtins={
        "wmts:": "cellcode.aerial.tiles.wmts:open_wmts",
        "wms:": "cellcode.aerial.tiles.wms:open_wms",
        "arcgis:": "cellcode.aerial.tiles.arcgis:open_arcgis",
        "template:": "cellcode.aerial.tiles.template:open_template",
        "geotiff:": "cellcode.aerial.rasters.geotiff:GeoTiffSource",
        "folder:": "cellcode.aerial.rasters.geotiff:open_folder",
        "mbtiles:": "cellcode.aerial.tiles.mbtiles:open_mbtiles",
        "list:": "cellcode.aerial.open:open_list",
        "preset:": "cellcode.aerial.open:open_preset",
    },
)
_SUFFIXES = {".mbtiles": "mbtiles", ".yaml": "list", ".yml": "list"}  # of files; all others are rasters


def open_source(spec: AerialSource | Path | str) -> AerialSource:
    """Open imagery by what a user calls it. A source is returned as it is.

    - a path: a GeoTIFF, COG or VRT, a folder of them (see `open_folder`), an `.mbtiles` file, or a `.yaml` that lists several;
    - an address with `{z}`, `{x}`, `{y}` (see `TemplateTiles`), `wmts:URL#LAYER`, `wms:URL?LAYERS=...`, `arcgis:URL`;
    - the address of a GeoTIFF, by http, https or s3;
    - the name of a preset;
    - a plug-in: `module:Name?x=1&y=2` or an entry point of `cellcode.aerial_sources`, `name?x=1`. The class or function is
      called with the options as keyword arguments; their values are strings.

    What comes from services is kept in the cache (see `cached`).

    Raises:
        InputError: it does not exist or cannot be used; the sentence says why.
        PluginError: a plug-in cannot be imported, raises while it is built, or is no proper `AerialSource`.
        UsageError: unknown name, preset or option.
        RemoteError: a service cannot be reached, or has a private address.
    """
    if isinstance(spec, AerialSource):
        return spec
    if not isinstance(spec, Path | str):
        raise UsageError(f"expected a path, a text or an AerialSource as aerial source, not a {type(spec).__name__}")
    return _open(str(spec))


def open_preset(name: str) -> AerialSource:
    """Open imagery that presets.yaml knows by name. UsageError: there is none, or its provider forbids downloads."""
    from cellcode.aerial.tiles import presets

    preset = presets.find(name)
    return _open(preset.source, facts=preset.facts, client=preset.client())


def open_list(path: Path | str, within: tuple[Path, ...] = ()) -> MultiSource:
    """Open what a YAML file lists; `within` are the lists that led to it.

    Raises:
        InputError: it or a source cannot be read, or a source is a file that is not below its folder.
        UsageError: an unknown key or invalid value.
        PluginError: a source is a function that does not say that it returns an `AerialSource`.
    """
    path = Path(path)
    if path.resolve() in within:
        raise InputError(f"{path}: a list cannot contain itself")
    listing = _read(path)
    members = []
    for entry in listing.sources:
        source = _open_listed(path, entry.source, (*within, path.resolve()))
        date = entry.date.isoformat() if entry.date else None
        members.append(Member(source, date, entry.licence, entry.attribution, entry.priority))
    return MultiSource(members, listing.cover)


def _open_listed(path: Path, text: str, within: tuple[Path, ...]) -> AerialSource:
    """Open an entry of a list, which may come from anyone: it names no files elsewhere, and no functions of another kind."""
    if SOURCES.is_plugin(plugin := text.partition("?")[0]):
        SOURCES.find(plugin)
        SOURCES.require_allowed(plugin, path)
    is_file = (path.parent / text.partition("#")[0]).exists()
    name = _recognised(str(path.parent / text) if is_file else text)
    kind, _, argument = name.partition(":")
    file = os.path.abspath(argument.partition("#")[0])
    is_local = kind in ("folder", "list", "mbtiles") or (kind == "geotiff" and "://" not in argument)
    if is_local and not Path(file).is_relative_to(os.path.abspath(path.parent)) and not private_is_allowed():
        raise InputError(
            f"{path} names {text}, which is not below its folder; if you trust it, allow it with --allow-private"
        )
    return open_list(file, within) if kind == "list" else _open(name)


def _open(text: str, **options: Any) -> AerialSource:
    name = _recognised(text)
    if f"{name.partition(':')[0]}:" in SOURCES.builtins:
        found = SOURCES.find(name)
        if "://" in found.argument:
            from cellcode.aerial.tiles import presets

            presets.refuse_forbidden(found.argument)
        return found.factory(found.argument, **options)
    plain, _, query = name.partition("?")
    found, shown = SOURCES.find(plain), redact(name)
    source = SOURCES.call(shown, found.factory, **_options(shown, query or found.argument))
    return CheckedSource(shown, source)


def _recognised(text: str) -> str:
    from cellcode.aerial.tiles.template import is_template

    if f"{text.partition(':')[0]}:" in SOURCES.builtins and ":" in text:
        return text
    if re.match(r"\w+://", text):
        if is_template(text):
            return f"template:{text}"
        if text.partition("?")[0].lower().endswith((".tif", ".tiff")):
            return f"geotiff:{text}"
        raise UsageError(
            f"aerial source {redact(text)}: an address must contain {{z}}, {{x}} and {{y}}, end in .tif, or begin with what "
            "it is: wmts:, wms: or arcgis:"
        )
    path, plain = Path(text), text.partition("?")[0]
    if Path(text.partition("#prefer=")[0]).is_dir():
        return f"folder:{text}"
    if path.exists():
        return f"{_SUFFIXES.get(path.suffix.lower(), 'geotiff')}:{text}"
    if SOURCES.is_plugin(plain) or (SOURCES.knows(plain) and f"{plain}:" not in SOURCES.builtins):
        return text
    if len(path.parts) == 1 and not path.suffix:
        return f"preset:{text}"
    raise InputError(
        f"aerial source {text} does not exist; give a GeoTIFF, COG or VRT, a folder of them, an .mbtiles file, a service, a "
        "preset or a plug-in"
    )


def _options(shown: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise UsageError(f"aerial source {shown}: options must be NAME=VALUE, separated by &") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise UsageError(f"aerial source {shown}: an option is given twice")
    return options


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    date: datetime.date | None = None
    licence: str = ""
    attribution: str = ""
    priority: int = 0


class _Listing(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    cover: Annotated[float, Field(ge=0, le=1)] = 0.9
    sources: Annotated[list[_Entry], Field(min_length=1)]


def _read(path: Path) -> _Listing:
    try:
        values = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as YAML ({error})") from None
    try:
        return _Listing.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise UsageError(
            f"{path}: {where}: {first['msg']}; a list of imagery has cover and sources, each with source, date, licence, "
            "attribution and priority"
        ) from None


class CheckedSource(AerialSource):
    """A plug-in's source with its results checked: what is wrong is one sentence, not an error far from its cause.

    Identity and footprint are checked at once, crops when they are read. PluginError names what has another type or shape than
    `AerialSource` and `Crop` say.
    """

    def __init__(self, name: str, source: AerialSource) -> None:
        self._name, self._source = name, source
        self.identity = self._attribute("identity", str)
        if not self.identity:
            raise self._error("identity must not be empty")
        self.attribution, self.licence = self._attribute("attribution", str), self._attribute("licence", str)
        self.date, self.is_remote = self._attribute("date", str, type(None)), self._attribute("is_remote", bool)
        self._footprint: Region = self._call("footprint", Region)

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`."""
        crop: Crop = self._call("read", Crop, lat_deg, lon_deg, size_m, size_px, bearing_deg)
        self._check_array("read() must return pixels", crop.pixels, (size_px, size_px, 3), np.uint8)
        self._check_array("read() must return a mask", crop.mask, (size_px, size_px), np.bool_)
        return crop

    def footprint(self) -> Region:
        """See `AerialSource.footprint`."""
        return self._footprint

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> Bools:
        """See `AerialSource.covers`."""
        covered: Bools = self._call("covers", np.ndarray, lat_deg, lon_deg)
        self._check_array("covers() must return an array", covered, np.shape(lat_deg), np.bool_)
        return covered

    def editions(self, count: int) -> list[AerialSource]:
        """See `AerialSource.editions`."""
        views: Sequence[AerialSource] = self._call("editions", Sequence, count)
        if not 1 <= len(views) <= count or not all(isinstance(view, AerialSource) for view in views):
            raise self._error(f"editions() must return 1 to {count} aerial sources")
        return [self, *(CheckedSource(self._name, view) for view in views[1:])]

    @property
    def missing(self) -> Counter[Missing]:
        """See `AerialSource.missing`."""
        return Counter(self._attribute("missing", Counter))

    def close(self) -> None:
        """See `AerialSource.close`."""
        self._source.close()

    def _attribute(self, name: str, *kinds: type) -> Any:
        value = getattr(self._source, name, None)
        if not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds).replace("NoneType", "None")
            raise self._error(f"{name} must be a {expected}, not {_shown(value)}")
        return value

    def _call(self, name: str, kind: type, *arguments: object) -> Any:
        try:
            value = getattr(self._source, name)(*arguments)
        except CellcodeError:
            raise
        except Exception as error:
            raise self._error(f"{name}() raised {described(error)}") from error
        if not isinstance(value, kind):
            raise self._error(f"{name}() must return a {kind.__name__}, not {_shown(value)}")
        return value

    def _check_array(self, sentence: str, array: object, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
            given = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else _shown(array)
            raise self._error(f"{sentence} of shape {shape} and type {np.dtype(dtype)}, not {given}")

    def _error(self, sentence: str) -> PluginError:
        return PluginError(f"aerial source {self._name}: {sentence}")


def _shown(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
