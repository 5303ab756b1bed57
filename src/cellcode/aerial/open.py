"""Open an aerial source by what a user calls it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellcode.aerial.protocol import AerialSource
from cellcode.errors import InputError, UsageError
from cellcode.http import Client, redact

if TYPE_CHECKING:
    from cellcode.aerial.tiles.template import Facts


def open_source(spec: AerialSource | Path | str) -> AerialSource:
    """Open imagery by what a user calls it. A source is returned as it is.

    - a path: a GeoTIFF, COG or VRT, a folder of them (`FOLDER#prefer=newest` puts the newest on top, see `MosaicSource`), an
      `.mbtiles` file, or a `.yaml` that lists several sources (see `several`);
    - an address with `{z}`, `{x}`, `{y}` (see `template.TemplateTiles`), `wmts:URL#LAYER`, `wms:URL?LAYERS=...`, `arcgis:URL`;
    - the address of a GeoTIFF, by http, https or s3;
    - the name of a preset.

    What comes from services is kept in the cache (see `tilecache.cached`).

    Raises:
        InputError: it does not exist or cannot be used; the sentence says why.
        UsageError: it cannot be understood.
        RemoteError: a service cannot be reached, or has a private address.
    """
    if not isinstance(spec, Path | str):
        return spec
    text = str(spec)
    service = _service(text)
    return service if service is not None else _stored(Path(spec))


def _service(text: str, facts: Facts | None = None, client: Client | None = None) -> AerialSource | None:
    """Open what is asked for over a network; None for anything else.

    Args:
        facts, client: of a preset.
    """
    from cellcode.aerial.tiles import presets
    from cellcode.aerial.tiles.cache import cached
    from cellcode.aerial.tiles.template import TemplateTiles, is_template

    kind, _, address = text.partition(":")
    if kind not in ("wmts", "wms", "arcgis"):
        kind, address = "", text
    if not kind and "://" not in text:
        return None
    presets.refuse_forbidden(address)
    if kind == "wmts":
        from cellcode.aerial.tiles.wmts import WmtsTiles

        return cached(WmtsTiles(address, facts, client))
    if kind == "wms":
        from cellcode.aerial.tiles.wms import WmsTiles

        return cached(WmsTiles(address, facts, client))
    if kind == "arcgis":
        from cellcode.aerial.tiles.arcgis import ArcGisTiles

        return cached(ArcGisTiles(address, facts, client))
    if is_template(text):
        return cached(TemplateTiles(text, facts, client))
    if text.partition("?")[0].lower().endswith((".tif", ".tiff")):
        from cellcode.aerial.rasters.geotiff import GeoTiffSource

        return GeoTiffSource(text, client)
    raise UsageError(
        f"aerial source {redact(text)}: an address needs places for tiles ({{z}}, {{x}}, {{y}}), must end in .tif, or must say "
        "what it is: wmts:, wms: or arcgis: before it"
    )


def _stored(path: Path) -> AerialSource:
    """Open what lies on this machine, or is the name of a preset."""
    from cellcode.aerial.rasters.geotiff import GeoTiffSource
    from cellcode.aerial.rasters.mosaic import MosaicSource
    from cellcode.aerial.tiles.mbtiles import MbTiles
    from cellcode.aerial.tiles.source import TileSource

    folder, _, preference = str(path).partition("#prefer=")
    if Path(folder).is_dir():
        return MosaicSource(folder, preference or "imagery")
    suffix = path.suffix.lower()
    if not path.exists():
        if len(path.parts) == 1 and not suffix:
            return _preset(str(path))
        raise InputError(
            f"aerial source {path} does not exist; give a GeoTIFF, a COG, a VRT or a folder of them, an .mbtiles file, a "
            "service or a preset"
        )
    if suffix == ".mbtiles":
        return TileSource(MbTiles(path))
    if suffix in (".yaml", ".yml"):
        from cellcode.aerial.multi import SeveralSource

        return SeveralSource.read_yaml(path)
    return GeoTiffSource(path)


def _preset(name: str) -> AerialSource:
    from cellcode.aerial.tiles import presets

    preset = presets.find(name)
    opened = _service(preset.source, preset.facts, preset.client())
    assert opened is not None  # presets are services
    return opened
