"""Make src/cellcode/geography/regions/outlines.parquet, and measure what it is worth.

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz --one-top-level=world-atlas
    npm pack i18n-iso-countries@7.14.0 && tar xzf i18n-iso-countries-7.14.0.tgz --one-top-level=iso
    python tools/outlines.py world-atlas/package iso/package

Outlines: Natural Earth 4.1, 1:50 million, public domain, through npm's world-atlas. Codes: ISO 3166-1, through npm's
i18n-iso-countries (MIT). Natural Earth draws some territories with the country they belong to, though ISO 3166 has a code for
them: they are cut off here, so that a code means what ISO 3166 says. Where it draws a part of a country of ISO 3166 apart,
the part is joined to it. What is too small for 1:50 million is taken from 1:10 million.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.files import atomic_path
from cellcode.geography.regions import geojson
from cellcode.geography.regions.countries import UNITS_PER_DEGREE
from cellcode.types import Float64

OUT = Path(__file__).parents[1] / "src" / "cellcode" / "geography" / "regions" / "outlines.parquet"
WORLD = shapely.box(-180, -90, 180, 90)
NEAR_POLE_DEG = -89.99  # Natural Earth ends there

# Parts of another feature that have a code of their own: that code, the feature's number, and a box around the part.
CUT_OFF = (
    ("GF", "250", (-55, 1, -51, 6)),
    ("GP", "250", (-62, 15.7, -60.9, 16.6)),
    ("MQ", "250", (-61.3, 14.3, -60.7, 15)),
    ("RE", "250", (55, -21.6, 56, -20.7)),
    ("YT", "250", (44.8, -13.2, 45.5, -12.4)),
    ("BQ", "528", (-69, 11.8, -62.8, 17.8)),
    ("BV", "578", (3, -55, 4, -54)),
    ("SJ", "578", (-10, 70.5, -7, 71.5)),
    ("SJ", "578", (5, 74, 36, 82)),
)
# Features without a number, and the code of ISO 3166-1 that covers them; XK is not in it, but in common use.
JOINED = {
    "Somaliland": "SO",
    "N. Cyprus": "CY",
    "Cyprus U.N. Buffer Zone": "CY",
    "USNB Guantanamo Bay": "CU",
    "Baikonur": "KZ",
    "Kosovo": "XK",
}
INDIAN_OCEAN = "Indian Ocean Ter."  # two territories in one feature: Christmas Island lies east of 100 degrees
NAMES = {
    "GF": "French Guiana", "GP": "Guadeloupe", "MQ": "Martinique", "RE": "Réunion", "YT": "Mayotte", "BV": "Bouvet Island",
    "BQ": "Bonaire, Sint Eustatius and Saba", "SJ": "Svalbard and Jan Mayen", "CX": "Christmas Island",
    "CC": "Cocos (Keeling) Islands",
}  # fmt: skip
COMPARED = ("BE", "DE", "NL", "LU", "FR", "AT", "CH", "GB", "ES", "PL", "NO", "US", "BR", "IN", "JP")


def main() -> None:
    """Write the file, then compare it with 1:10 million."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world_atlas", type=Path)
    parser.add_argument("codes", type=Path)
    given = parser.parse_args()
    numbers = {number: (two, three) for two, three, number, _ in json.loads((given.codes / "codes.json").read_text())}
    fine = countries(given.world_atlas / "countries-10m.json", numbers)
    shapes = fine | countries(given.world_atlas / "countries-50m.json", numbers)
    write(shapes, dict(numbers.values()) | {"XK": "XKX"})
    print(f"{len(shapes)} outlines, {OUT.stat().st_size:,} bytes; without: {missing(shapes, numbers)}")
    compare({code: shape for code, (_, shape) in shapes.items()}, {code: shape for code, (_, shape) in fine.items()})


def countries(path: Path, numbers: dict[str, tuple[str, str]]) -> dict[str, tuple[str, BaseGeometry]]:
    """Return name and outline by alpha-2 code, as ISO 3166-1 divides the Earth."""
    topology = json.loads(path.read_text())
    arcs = decode(topology)
    found: dict[str, list[BaseGeometry]] = {}
    names = dict(NAMES)
    for feature in topology["objects"]["countries"]["geometries"]:
        name, number = feature["properties"]["name"], feature.get("id")
        shape = outline(feature, arcs)
        for territory, owner, box in CUT_OFF:
            if number == owner and (part := overlapping(shape, box)) is not None:
                found.setdefault(territory, []).append(part)
                shape = shape.difference(part)
        if name == INDIAN_OCEAN:
            east = overlapping(shape, (100, -90, 180, 90))
            found["CX"], found["CC"] = [east], [shape.difference(east)]
            continue
        code = numbers[number][0] if number in numbers else JOINED.get(name)
        if code is None:
            continue  # claimed by several, or a reef
        found.setdefault(code, []).append(shape)
        if number in numbers:
            names.setdefault(code, name)
    names["XK"] = "Kosovo"
    shapes = {code: merged(parts) for code, parts in found.items()}
    return {code: (names[code], shape) for code, shape in shapes.items() if not shape.is_empty}


def decode(topology: dict[str, Any]) -> list[Float64]:
    """Return the arcs, each (V, 2) longitude and latitude: running sums of steps on the grid of the file."""
    scale, start = np.array(topology["transform"]["scale"]), np.array(topology["transform"]["translate"])
    found = [np.cumsum(np.array(arc), axis=0) * scale + start for arc in topology["arcs"]]
    for arc in found:
        arc[arc[:, 1] < NEAR_POLE_DEG, 1] = -90.0
    return found


def outline(feature: dict[str, Any], arcs: list[Float64]) -> BaseGeometry:
    """Return the valid shape of a Polygon or MultiPolygon of arcs; ~n is arc n backwards.

    The file thinks of a sphere: rings run on across the antimeridian, with a jump of a full turn, and around the South Pole,
    where the coast is a hole of a ring near the pole. So a point is inside when an odd number of rings surround it.
    """
    polygons = [feature["arcs"]] if feature["type"] == "Polygon" else feature["arcs"]

    def closed(indices: list[int]) -> BaseGeometry:
        parts = [arcs[index] if index >= 0 else arcs[~index][::-1] for index in indices]
        ring = geojson.continuous(np.concatenate([parts[0], *(part[1:] for part in parts[1:])]))
        ring = geojson.over_pole(ring, -90.0)
        return geojson.on_map(shapely.make_valid(shapely.Polygon(ring))) if len(ring) > 3 else shapely.Polygon()

    return merged([shapely.symmetric_difference_all([closed(ring) for ring in polygon]) for polygon in polygons])


def merged(parts: list[BaseGeometry]) -> BaseGeometry:
    """Return one valid shape made of polygons alone, within -180..180 and -90..90 degrees."""
    shape = shapely.intersection(shapely.union_all([shapely.make_valid(part) for part in parts]), WORLD)
    parts = shapely.get_parts(shapely.get_parts(shape))  # a collection may hold a collection
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def overlapping(shape: BaseGeometry, box: tuple[float, float, float, float]) -> BaseGeometry | None:
    """Return the polygons of a shape that lie in a box, None without any."""
    parts = [part for part in shapely.get_parts(shape) if shapely.box(*box).intersects(part)]
    return shapely.union_all(parts) if parts else None


def write(shapes: dict[str, tuple[str, BaseGeometry]], alpha3: dict[str, str]) -> None:
    """Write code, alpha3, name and outline, sorted by code; coordinates to four decimals, far below the error.

    Outlines are nested lists of points, as GeoArrow has them, in units of `countries.UNITS_PER_DEGREE`.
    """
    codes = sorted(shapes)
    rounded = [merged([shapely.set_precision(shapes[code][1], 1 / UNITS_PER_DEGREE)]) for code in codes]
    _, degrees, offsets = shapely.to_ragged_array(rounded)
    x, y = np.round(degrees * UNITS_PER_DEGREE).astype(np.int32).T
    nested = pa.StructArray.from_arrays([pa.array(x), pa.array(y)], ["x", "y"])
    for starts in offsets:
        nested = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), nested)
    names = {"code": codes, "alpha3": [alpha3[code] for code in codes], "name": [shapes[code][0] for code in codes]}
    axis = "outline.list.element.list.element.list.element."
    encodings = {axis + "x": "DELTA_BINARY_PACKED", axis + "y": "DELTA_BINARY_PACKED"}
    with atomic_path(OUT) as path:
        pq.write_table(
            pa.table(names | {"outline": nested}),
            path,
            compression="zstd",
            compression_level=19,
            use_dictionary=False,
            column_encoding=encodings,
        )


def missing(shapes: dict[str, Any], numbers: dict[str, tuple[str, str]]) -> str:
    """Name the codes of ISO 3166-1 without an outline."""
    return ", ".join(sorted({two for two, _ in numbers.values()} - set(shapes)))


def compare(coarse: dict[str, BaseGeometry], fine: dict[str, BaseGeometry]) -> None:
    """Print, by country, how far the fine boundary lies from the coarse one, and how the areas differ."""
    print("country  boundary: median  95 %  largest (km)   area   wrongly in or out (% of the area)")
    for code in COMPARED:
        scale = 111.195 * np.array([np.cos(np.deg2rad(fine[code].centroid.y)), 1])  # km, for outlines of one country
        a, b = (shapely.transform(shape[code], lambda xy, scale=scale: xy * scale) for shape in (coarse, fine))
        points = shapely.get_coordinates(shapely.segmentize(b.boundary, 1.0))
        edges = shapely.STRtree(segments(a.boundary))
        _, away = edges.query_nearest(shapely.points(points), return_distance=True, all_matches=False)
        median, high, largest = np.percentile(away, [50, 95, 100])
        wrong = a.symmetric_difference(b).area / b.area
        print(f"{code:7} {median:17.2f} {high:5.2f} {largest:8.1f} {a.area / b.area - 1:15.2%} {wrong:8.2%}")


def segments(lines: BaseGeometry) -> npt.NDArray[Any]:
    """Return every straight piece of lines."""
    xy, line = shapely.get_coordinates(shapely.get_parts(lines), return_index=True)
    joined = line[1:] == line[:-1]
    return np.asarray(shapely.linestrings(np.stack([xy[:-1][joined], xy[1:][joined]], axis=1)))


if __name__ == "__main__":
    main()
