"""GeoTIFF, COG and VRT through rasterio, from a disk, by http and https, and from S3; and folders of them.

A crop is read as one window at the next finer overview, and warped once. Its corners come from metric offsets
on the ellipsoid, transformed to the raster's CRS; between them the warp is projective. The projective
map differs from the exact one by less than 1 cm for crops of 250 m and about 10 cm for a kilometre (tests compare it).
"""

import datetime
import hashlib
import logging
import math
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
import shapely
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window

from cellcode.aerial.crops import crop_corners, sides, warp
from cellcode.aerial.missing import Missing
from cellcode.aerial.multi import merged, union
from cellcode.aerial.protocol import AerialSource, Crop
from cellcode.aerial.rasters.raster_file import raster_file
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.geography.distance import offset, wrap_lon
from cellcode.http import Client
from cellcode.types import Float64, UInt8

logger = logging.getLogger(__name__)

SUFFIXES = {".tif", ".tiff", ".vrt", ".jp2"}
_BESIDE = {".tfw", ".tifw", ".wld", ".j2w", ".xml", ".ovr", ".msk", ".prj", ".rpb"}  # of a raster; GDAL finds them
PREFERENCES = ("imagery", "newest")
_WGS84 = "EPSG:4326"
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
# Of HSL, CMYK and YCbCr.
_NOT_RGB = [ColorInterp(number) for number in range(ColorInterp.hue.value, ColorInterp.Cr.value + 1)]
_EDGE_POINTS = 21  # per side, when the outline of the raster is transformed to degrees


class OffGlobeError(InputError):
    """A raster's georeference is outside valid coordinates."""


class GeoTiffSource(AerialSource):
    """One raster file. Can be read from several threads: each opens its own handle.

    Args:
        path, client: see `raster_file`; 8 bits a channel. Red, green, blue and alpha are the bands that the file says they are.
            Where it does not say: 1 (grey), 2 (grey and another), 3 (RGB) or 4 bands (RGB and another, which is ignored).

    Raises:
        InputError: the file cannot be read, or its pixels have an unsupported format.
        OffGlobeError: its georeference is outside valid coordinates.
    """

    def __init__(self, path: Path | str, client: Client | None = None) -> None:
        self._file = raster_file(path, client)
        self.path, self.is_remote = self._file.shown, self._file.options is not None
        self._local = threading.local()
        self._opened: list[Any] = []
        with self._file.environment():
            self._describe(self._dataset())

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`."""
        dataset = self._dataset()
        corners = self._corner_pixels(lat_deg, lon_deg, size_m, bearing_deg)
        # Window with room for the bilinear kernel, in pixels of the file, cut at its edges.
        step = max(1.0, float(sides(corners).min()) / size_px / 1.5)  # reads one to two times the requested resolution
        low = np.floor(corners.min(axis=0) - 2 * step).astype(int)
        high = np.ceil(corners.max(axis=0) + 2 * step).astype(int)
        low, high = np.maximum(low, 0), np.minimum(high, (dataset.width, dataset.height))
        if (high <= low).any():
            pixels, seen = np.zeros((size_px, size_px, 3), np.uint8), np.zeros((size_px, size_px), bool)
            return Crop(pixels, seen, self.attribution, self.date)
        window = Window(low[0], low[1], *(high - low))
        shape = tuple(max(1, math.ceil(side / step)) for side in (high - low)[::-1])
        scale = np.array(shape[::-1]) / (high - low)
        try:
            with self._file.environment():
                out_shape = (len(self._bands), *shape)
                colour = dataset.read(self._bands, window=window, out_shape=out_shape, resampling=Resampling.bilinear)
                mask = self._mask(dataset, window, shape)
        except rasterio.errors.RasterioError:
            self._local.dataset = None  # GDAL remembers an error: the next try needs a new handle
            raise self._file.damage(lat_deg, lon_deg) from None
        source = np.concatenate([np.broadcast_to(colour, (3, *shape)), mask[None]]).transpose(1, 2, 0)
        pixels, seen = warp(np.ascontiguousarray(source), (corners - low) * scale, size_px)
        return Crop(pixels, seen, self.attribution, self.date)

    def footprint(self) -> Region:
        """Return the outline of the raster."""
        return Region(self._outline)

    def close(self) -> None:
        """Close the handles of all threads."""
        while self._opened:
            self._opened.pop().close()
        self._local = threading.local()

    def _describe(self, dataset: Any) -> None:
        (self._bands, self._alpha), self._outline = _usable_bands(dataset, self.path), _outline(dataset, self.path)
        self._inverse = ~dataset.transform
        tags = dataset.tags()
        self.attribution = tags.get("TIFFTAG_COPYRIGHT") or tags.get("TIFFTAG_ARTIST") or ""
        self.licence, self.date = tags.get("LICENSE") or tags.get("LICENCE") or "", _date(tags.get("TIFFTAG_DATETIME"))
        # Of the files that a VRT refers to, size and time.
        others = [(name, *_stamp(Path(name))) for name in sorted(dataset.files) if Path(name) != Path(self._file.gdal)]
        where = dataset.crs.to_wkt(), tuple(dataset.transform), dataset.shape
        what: tuple[Any, ...] = (*where, self._file.digest(), others)
        if self._bands not in ([1], [1, 2, 3]) or self._alpha not in (None, dataset.count):
            what += self._bands, self._alpha
        self.identity = hashlib.sha256(repr(what).encode()).hexdigest()[:16]

    def _dataset(self) -> Any:
        # One handle for each thread: GDAL's are not safe to share.
        dataset = getattr(self._local, "dataset", None)
        if dataset is None:
            dataset = self._local.dataset = self._file.open()
            self._opened.append(dataset)
        return dataset

    def _corner_pixels(self, lat_deg: float, lon_deg: float, size_m: float, bearing_deg: float) -> Float64:
        """Column and row, from the file's corner, of the crop's upper left, lower left, lower right, upper right."""
        lat, lon = crop_corners(lat_deg, lon_deg, size_m, bearing_deg)
        dataset = self._dataset()
        x, y = rasterio.warp.transform(_WGS84, dataset.crs, lon, lat)
        if dataset.crs.is_geographic:  # a raster that runs past 180 degrees
            middle = dataset.bounds.left / 2 + dataset.bounds.right / 2
            x = [value + 360 * round((middle - value) / 360) for value in x]
        return np.stack(_apply(self._inverse, np.array(x), np.array(y)), axis=1)

    def _mask(self, dataset: Any, window: Window, shape: tuple[int, ...]) -> UInt8:
        """255 where there is imagery: alpha, internal mask, or nodata in every band."""
        flags = dataset.mask_flag_enums[self._bands[0] - 1]
        mask = np.full(shape, 255, np.uint8)
        if flags != [MaskFlags.all_valid]:
            mask = dataset.dataset_mask(window=window, out_shape=shape, resampling=Resampling.nearest)
        if self._alpha is not None and MaskFlags.alpha not in flags:  # GDAL knows it only where it is the last band
            alpha = dataset.read(self._alpha, window=window, out_shape=shape, resampling=Resampling.nearest)
            mask = np.minimum(mask, alpha)
        return mask


class MosaicSource(AerialSource):
    """Rasters of a folder, each in its own CRS.

    Args:
        folder: its files ending in .tif, .tiff, .vrt or .jp2 are used, or where it has none those of its sub-folders; a warning
            counts all others by kind. One whose georeference is outside valid coordinates is left out, named and counted in
            `missing`.
        prefer: which of several comes first where they overlap: the one with most imagery in the crop ("imagery"), or the
            newest by its tag ("newest"; of one date, the one with most imagery; without a date last).

    Raises:
        InputError: there are none, or one of them cannot be used.
        UsageError: unknown preference.
    """

    def __init__(self, folder: Path | str, prefer: str = "imagery") -> None:
        if prefer not in PREFERENCES:
            raise UsageError(f"{folder}: prefer={prefer} must be one of {', '.join(PREFERENCES)}")
        self.prefer = prefer
        self.sources = self._open(_rasters(Path(folder)))
        self._tree = shapely.STRtree([source.footprint().shape for source in self.sources])
        self.attribution = union(source.attribution for source in self.sources)
        self.licence = union(source.licence for source in self.sources)
        what = "".join(source.identity for source in self.sources) + ("" if prefer == "imagery" else prefer)
        self.identity = hashlib.sha256(what.encode()).hexdigest()[:16]
        self.date = max((source.date for source in self.sources if source.date), default=None)

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`; gaps of one raster are filled from the next."""
        corner = np.array([-1, 1]) * size_m / np.sqrt(2)
        south_north, west_east = offset(lat_deg, lon_deg, corner, corner)
        west, east = float(west_east[0]), float(west_east[1])
        if west > east:  # across the antimeridian: rare enough to read every raster
            near = range(len(self.sources))
        else:
            near = self._tree.query(shapely.box(west, south_north[0], east, south_north[1]))
        crops = [self.sources[i].read(lat_deg, lon_deg, size_m, size_px, bearing_deg) for i in near]
        crops.sort(key=lambda crop: -int(crop.mask.sum()))
        if self.prefer == "newest":
            crops.sort(key=lambda crop: crop.date or "", reverse=True)
        return merged(crops, size_px)

    def footprint(self) -> Region:
        """Return the union of the outlines."""
        return Region(shapely.union_all([source.footprint().shape for source in self.sources]))

    def close(self) -> None:
        """Close the rasters."""
        for source in self.sources:
            source.close()

    def _open(self, files: list[Path]) -> list[GeoTiffSource]:
        sources, refused = [], []
        for path in files:
            try:
                sources.append(GeoTiffSource(path))
            except OffGlobeError as error:
                refused.append(str(error))
                self.missing[Missing("outside valid coordinates", path.name)] += 1
        if not sources:
            raise InputError(refused[0])
        if refused:
            logger.warning("%d of %d rasters left out: %s", len(refused), len(files), "; ".join(refused))
        return sources


def open_folder(text: str) -> MosaicSource:
    """Open `FOLDER` or `FOLDER#prefer=newest`; see `MosaicSource`."""
    folder, _, preference = text.partition("#prefer=")
    return MosaicSource(folder, preference or "imagery")


def _rasters(folder: Path) -> list[Path]:
    """Return the rasters of a folder; see `MosaicSource`."""
    root = os.path.realpath(folder)
    files, seen = list[Path](), {root}
    for place, folders, names in os.walk(folder, followlinks=True):
        files += [Path(place, name) for name in names]
        for name in list(folders):  # each once, and none above: links may lead in circles
            real = os.path.realpath(os.path.join(place, name))
            if real in seen or root.startswith(real + os.sep):
                folders.remove(name)
            seen.add(real)
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    used = [path for path in found if path.parent == folder] or found
    others = [path for path in files if path.suffix.lower() not in SUFFIXES | _BESIDE]
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in others)
    if len(found) > len(used):
        kinds["rasters in sub-folders (name their folder to use them)"] = len(found) - len(used)
    left = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    if not used:
        raise InputError(f"{folder} holds no rasters (.tif, .tiff, .vrt) and no .jp2{f', but {left}' if left else ''}")
    if left:
        logger.warning("%s: %d rasters are used; not used: %s", folder, len(used), left)
    # JPEG 2000 last: of two files with one content the other is read quicker.
    return sorted(used, key=lambda path: (path.suffix.lower() == ".jp2", path))


def _stamp(path: Path) -> tuple[int, int]:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)


def _usable_bands(dataset: Any, path: str) -> tuple[list[int], int | None]:
    """Return the bands to read as colour, three or one, and that of alpha, by what the file says they show."""
    kinds = sorted(set(dataset.dtypes))
    if kinds != ["uint8"]:
        raise InputError(
            f"{path} holds {', '.join(kinds)} values, 8 bits a channel are needed; convert it, for example with "
            "`gdal_translate -ot Byte -scale`"
        )
    shown = list(dataset.colorinterp)
    if ColorInterp.palette in shown:
        opaque = dataset.nodata is None and all(colour[3] == 255 for colour in dataset.colormap(1).values())
        expanded = "rgb" if opaque else "rgba"
        raise InputError(f"{path} is a palette image; expand it, for example with `gdal_translate -expand {expanded}`")
    alpha = shown.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in shown and len(shown) > 1 else None
    if all(colour in shown for colour in _RGB):
        return [shown.index(colour) + 1 for colour in _RGB], alpha
    if names := [each.name for each in shown if each in _NOT_RGB]:
        raise InputError(f"{path} has the colours {', '.join(names)}; red, green and blue are required, convert them")
    if dataset.count > 4:
        raise InputError(f"{path} has {dataset.count} bands; write its red, green and blue to a file of their own")
    others = [band for band in range(1, dataset.count + 1) if band != alpha]
    return others[:3] if len(others) >= 3 else others[:1], alpha


def _outline(dataset: Any, path: str) -> shapely.Geometry:
    if dataset.crs is None or dataset.transform.is_identity:
        raise InputError(f"{path} has no georeference ({_georeference(dataset)}")
    along = np.linspace(0, 1, _EDGE_POINTS)[:-1]
    one, zero = np.ones_like(along), np.zeros_like(along)
    columns = np.concatenate([along, one, 1 - along, zero]) * dataset.width
    rows = np.concatenate([zero, along, one, 1 - along]) * dataset.height
    try:
        lon, lat = rasterio.warp.transform(dataset.crs, _WGS84, *_apply(dataset.transform, columns, rows))
    except rasterio.errors.RasterioError as error:
        raise OffGlobeError(f"{path}: its CRS cannot be transformed to degrees ({error})") from None
    points = np.stack([lon, lat], axis=1)
    if not np.isfinite(points).all() or np.abs(points[:, 1]).max() > 90.0001 or np.abs(points[:, 0]).max() > 540:
        raise OffGlobeError(f"{path}: its georeference is outside valid coordinates; check its CRS")
    steps = np.diff(points[:, 0], append=points[0, 0])
    if np.abs(steps).max() > 180 or np.abs(points[:, 0]).max() > 180:
        return Region.geojson({"type": "Polygon", "coordinates": [[*points.tolist(), points[0].tolist()]]}).shape
    return shapely.Polygon(np.stack([wrap_lon(points[:, 0]), np.clip(points[:, 1], -90, 90)], axis=1))


def _georeference(dataset: Any) -> str:
    """Return what a georeference lacks, and the command that adds it and loses nothing."""
    points, crs = dataset.gcps
    if dataset.transform.is_identity and (points or dataset.rpcs):
        by = ("-tps" if crs else "-s_srs EPSG:CODE -tps") if points else "-rpc"
        warp = f"gdalwarp {by} -t_srs EPSG:3857 -r bilinear -dstalpha IN.tif OUT.tif"
        return f"no position but by {'control points' if points else 'RPCs'}); warp it, with `{warp}`"
    if not dataset.transform.is_identity:  # by a world file, say
        return "no CRS); add it to its position, with `gdal_translate -a_srs EPSG:CODE IN.tif OUT.tif`"
    lacks = "no CRS" if dataset.crs is None else "no position"
    return f"{lacks}); assign it, with `gdal_translate -a_srs EPSG:CODE -a_ullr WEST NORTH EAST SOUTH IN.tif OUT.tif`"


def _apply(transform: Any, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Apply an affine transform to arrays (its own operator for that has changed between versions)."""
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def _date(text: str | None) -> str | None:
    """ISO date of a TIFF's `YYYY:MM:DD HH:MM:SS`."""
    try:
        return datetime.date.fromisoformat((text or "")[:10].replace(":", "-")).isoformat()
    except ValueError:
        return None
