"""The protocol every source of aerial imagery follows, and opening one by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.remote import Client, redact

if TYPE_CHECKING:  # it needs this module
    from cellcode.aerial.template import Facts


@dataclass(frozen=True)
class Crop:
    """A square of imagery.

    Attributes:
        pixels: (size_px, size_px, 3) uint8 RGB; 0 where the mask is False.
        mask: (size_px, size_px) bool, True where there is imagery.
        attribution: whom to name for it.
        date: of the imagery, ISO 8601, where known; of several, the oldest.
        complete: False where something is masked that could not be fetched now and may be there later.
    """

    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    attribution: str
    date: str | None = None
    complete: bool = True


@runtime_checkable
class AerialSource(Protocol):
    """Imagery that can be cut around any point.

    Attributes:
        attribution, licence: for the manifest of what is made from it; may be empty.
        identity: changes when the imagery does.
        date: of the imagery, ISO 8601, where known.
        bounds: west, south, east, north in degrees.
    """

    attribution: str
    licence: str
    identity: str
    date: str | None
    bounds: tuple[float, float, float, float]

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """Cut a square of `size_m` metres centred on a point; its top points to `bearing_deg`, clockwise from north."""

    def footprint(self) -> Region:
        """Return the area that may have imagery."""

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Tell which points, (N,) degrees, lie in the footprint."""


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
    from cellcode.aerial import presets
    from cellcode.aerial.template import TemplateTiles, is_template
    from cellcode.aerial.tilecache import cached

    kind, _, address = text.partition(":")
    if kind not in ("wmts", "wms", "arcgis"):
        kind, address = "", text
    if not kind and "://" not in text:
        return None
    presets.refuse_forbidden(address)
    if kind == "wmts":
        from cellcode.aerial.wmts import WmtsTiles

        return cached(WmtsTiles(address, facts, client))
    if kind == "wms":
        from cellcode.aerial.wms import WmsTiles

        return cached(WmsTiles(address, facts, client))
    if kind == "arcgis":
        from cellcode.aerial.arcgis import ArcGisTiles

        return cached(ArcGisTiles(address, facts, client))
    if is_template(text):
        return cached(TemplateTiles(text, facts, client))
    if text.partition("?")[0].lower().endswith((".tif", ".tiff")):
        from cellcode.aerial.geotiff import GeoTiffSource

        return GeoTiffSource(text, client)
    raise UsageError(
        f"aerial source {redact(text)}: an address needs places for tiles ({{z}}, {{x}}, {{y}}), must end in .tif, or must say "
        "what it is: wmts:, wms: or arcgis: before it"
    )


def _stored(path: Path) -> AerialSource:
    """Open what lies on this machine, or is the name of a preset."""
    from cellcode.aerial.geotiff import GeoTiffSource
    from cellcode.aerial.mbtiles import MbTiles
    from cellcode.aerial.mosaic import MosaicSource
    from cellcode.aerial.tilesource import TileSource

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
        from cellcode.aerial.several import SeveralSource

        return SeveralSource.read_yaml(path)
    return GeoTiffSource(path)


def _preset(name: str) -> AerialSource:
    from cellcode.aerial import presets

    preset = presets.find(name)
    opened = _service(preset.source, preset.facts, preset.client())
    assert opened is not None  # presets are services
    return opened
