"""A photo source of one's own: a folder whose file names hold UTM coordinates, @EAST@NORTH@ZONE@LETTER@...@.jpg."""

from collections.abc import Iterator
from pathlib import Path

from rasterio.warp import transform

from cellcode.errors import InputError
from cellcode.photos.sources import Photo, PhotoSource, Reject

WGS84 = "EPSG:4326"


class UtmFolder(PhotoSource):
    """Reads JPEG files, as benchmarks of visual place recognition name them; what follows the colon is the folder."""

    def items(self) -> Iterator[Photo | Reject]:
        """Yield every photo with the position of its name."""
        files = sorted(Path(self.argument).rglob("*.jpg"))
        if not files:
            raise InputError(f"{self.argument} holds no .jpg files")
        for file in files:
            try:
                _, east, north, zone, letter, *_ = file.name.split("@")
                system = (
                    f"EPSG:{326 if letter.upper() >= 'N' else 327}{int(zone):02d}"  # north and south of the equator
                )
                lon, lat = transform(system, WGS84, [float(east)], [float(north)])
            except ValueError:
                yield Reject(file.name, None, "no UTM coordinates in its name")
                continue
            yield Photo(file, (lat[0], lon[0]), {"licence": "CC0-1.0"})
