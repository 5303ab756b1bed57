"""The factory of aerial sources: from what a user writes to an open source.

A list of several sources is a YAML file:

    cover: 0.9                      # fraction of a crop that a source must show to be chosen
    sources:
      - source: ortho_2024          # whatever --aerial takes; paths are relative to the file
        date: 2024-04-12
        licence: CC BY 4.0
        attribution: Town of Example
      - source: pdok-25cm
        priority: 1                 # after all of priority 0, however new
"""

import datetime
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellcode.aerial.checked import CheckedSource
from cellcode.aerial.multi import Member, MultiSource
from cellcode.aerial.protocol import AerialSource
from cellcode.errors import InputError, UsageError
from cellcode.http import redact
from cellcode.plugins import Registry

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
        "folder:": "cellcode.aerial.rasters.mosaic:open_folder",
        "mbtiles:": "cellcode.aerial.tiles.mbtiles:open_mbtiles",
        "list:": "cellcode.aerial.open:open_list",
        "preset:": "cellcode.aerial.open:open_preset",
    },
)
_SUFFIXES = {".mbtiles": "mbtiles", ".yaml": "list", ".yml": "list"}  # of files; all others are rasters


def open_source(spec: AerialSource | Path | str) -> AerialSource:
    """Open imagery by what a user calls it. A source is returned as it is.

    - a path: a GeoTIFF, COG or VRT, a folder of them (`FOLDER#prefer=newest` puts the newest on top, see `MosaicSource`), an
      `.mbtiles` file, or a `.yaml` that lists several sources (see this module);
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
    """Open imagery that presets.yaml knows by name.

    Raises:
        UsageError: there is none of this name, or its provider forbids downloads.
    """
    from cellcode.aerial.tiles import presets

    preset = presets.find(name)
    return _open(preset.source, facts=preset.facts, client=preset.client())


def open_list(path: Path | str) -> MultiSource:
    """Open what a YAML file lists.

    Raises:
        InputError: the file or a source cannot be read.
        UsageError: an unknown key or an invalid value.
    """
    path = Path(path)
    listing = _read(path)
    members = []
    for entry in listing.sources:
        is_file = (path.parent / entry.source.partition("#")[0]).exists()
        source = open_source(path.parent / entry.source if is_file else entry.source)
        date = entry.date.isoformat() if entry.date is not None else None
        members.append(Member(source, date, entry.licence, entry.attribution, entry.priority))
    return MultiSource(members, listing.cover)


def _open(text: str, **options: Any) -> AerialSource:
    """Open a source; the options are facts and client of a preset."""
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
    """Return a text as the registry knows it: what is recognised by its form gets the name of its kind."""
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
    path = Path(text)
    if Path(text.partition("#prefer=")[0]).is_dir():
        return f"folder:{text}"
    if path.exists():
        return f"{_SUFFIXES.get(path.suffix.lower(), 'geotiff')}:{text}"
    plain = text.partition("?")[0]
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
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as YAML ({str(error).splitlines()[0]})") from None
    try:
        return _Listing.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise UsageError(
            f"{path}: {where}: {first['msg']}; a list of imagery has cover and sources, each with source, date, licence, "
            "attribution and priority"
        ) from None
