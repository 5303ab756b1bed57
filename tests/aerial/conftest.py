from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.warp
from rasterio.transform import Affine

Float64 = npt.NDArray[np.float64]


def _carry(source: str, target: str, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    a, b = rasterio.warp.transform(source, target, np.ravel(x), np.ravel(y))
    return np.reshape(a, x.shape), np.reshape(b, y.shape)


@dataclass(frozen=True)
class Ramp:
    """A raster whose colours are its own pixel positions: red is the column, green the row (both modulo 256).

    Blue is 255 less red, so that a shift can be told from a change of brightness.
    """

    path: Path
    crs: str
    transform: Affine
    width: int
    height: int
    lat_deg: float
    lon_deg: float

    def at(
        self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0
    ) -> tuple[Float64, Float64]:
        """Column and row (centre of the first pixel = 0) of every pixel of a crop, by PROJ alone.

        Distance and azimuth on the ellipsoid are those of the azimuthal equidistant projection around the crop's centre.
        """
        along = (np.arange(size_px) + 0.5) * size_m / size_px - size_m / 2
        right, up = np.meshgrid(along, -along)
        turn = np.deg2rad(bearing_deg)
        east, north = right * np.cos(turn) + up * np.sin(turn), up * np.cos(turn) - right * np.sin(turn)
        local = f"+proj=aeqd +lat_0={float(lat_deg)!r} +lon_0={float(lon_deg)!r} +ellps=WGS84 +units=m"
        lon, lat = _carry(local, "EPSG:4326", east, north)
        x, y = _carry("EPSG:4326", self.crs, lon, lat)
        if self.crs == "EPSG:4326":
            x = x + 360 * np.round((self.transform.c - x) / 360)
        inverse = ~self.transform
        return inverse.a * x + inverse.b * y + inverse.c - 0.5, inverse.d * x + inverse.e * y + inverse.f - 0.5

    def moved(self, columns: float, rows: float) -> tuple[float, float]:
        """Latitude and longitude of the point that many pixels right of and below the raster's middle."""
        x, y = self.transform.c, self.transform.f
        x += self.transform.a * (self.width / 2 + columns) + self.transform.b * (self.height / 2 + rows)
        y += self.transform.d * (self.width / 2 + columns) + self.transform.e * (self.height / 2 + rows)
        lon, lat = rasterio.warp.transform(self.crs, "EPSG:4326", [x], [y])
        return lat[0], lon[0]


@pytest.fixture
def write_ramp() -> Callable[..., Ramp]:
    """Write a ramp centred on a point, with square pixels of about `pixel_m` on the ground, turned by `turn_deg`.

    `pixels` gives other bands than these; `options` go to rasterio, `after` to the open file.
    """

    def write(
        path: Path,
        crs: str,
        lat_deg: float,
        lon_deg: float,
        *,
        pixel_m: float = 0.5,
        size: tuple[int, int] = (256, 256),
        turn_deg: float = 0.0,
        pixels: npt.NDArray[np.uint8] | None = None,
        after: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> Ramp:
        width, height = size
        lon, lat = np.array([lon_deg]), np.array([lat_deg])
        x, y = _carry("EPSG:4326", crs, lon, lat)
        if crs == "EPSG:4326":
            x = lon  # 180 stays 180
        # Size of a pixel in units of the CRS, along each axis, from a short geodesic.
        local = f"+proj=aeqd +lat_0={float(lat_deg)!r} +lon_0={float(lon_deg)!r} +ellps=WGS84 +units=m"
        east, north = _carry("EPSG:4326", crs, *_carry(local, "EPSG:4326", np.array([10.0, 0]), np.array([0, 10.0])))
        step_x = np.hypot((east[0] - x[0] + 180) % 360 - 180 if crs == "EPSG:4326" else east[0] - x[0], north[0] - y[0])
        step_y = np.hypot((east[1] - x[0] + 180) % 360 - 180 if crs == "EPSG:4326" else east[1] - x[0], north[1] - y[0])
        transform = (
            Affine.translation(x[0], y[0])
            @ Affine.rotation(turn_deg)
            @ Affine.scale(step_x * pixel_m / 10, -step_y * pixel_m / 10)
            @ Affine.translation(-width / 2, -height / 2)
        )
        if pixels is None:
            columns, rows = np.meshgrid(np.arange(width) % 256, np.arange(height) % 256)
            pixels = np.stack([columns, rows, 255 - columns]).astype(np.uint8)
        profile = {"driver": "GTiff", "width": width, "height": height, "count": len(pixels), "dtype": "uint8"}
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", **{**profile, "crs": crs, "transform": transform, **options}) as dataset:
            dataset.write(pixels.astype(dataset.dtypes[0]))
            if after is not None:
                after(dataset)
        return Ramp(path, crs, transform, width, height, lat_deg, lon_deg)

    return write
