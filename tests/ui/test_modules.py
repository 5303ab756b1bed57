"""The page's own mathematics, run in the browser and compared with the package and with Google's S2."""

from __future__ import annotations

import numpy as np
import pytest
import s2geometry

from cellcode.geography import s2
from cellcode.geography.distance import haversine_m

from .conftest import Visit

pytestmark = pytest.mark.ui


def test_cells_from_tokens(visit: Visit) -> None:
    rng = np.random.default_rng(0)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 300))), rng.uniform(-180, 180, 300)
    tokens = [str(s2.tokens(s2.cell_ids(lat[k], lon[k], k % 31))[0]) for k in range(300)]
    page = visit.ready()
    corners, levels = page.evaluate(
        """async (tokens) => {
            const s2 = await import("/static/js/s2.js");
            return [tokens.map((token) => s2.corners(token)), tokens.map((token) => s2.decode(token).level)];
        }""",
        tokens,
    )
    assert levels == [k % 31 for k in range(300)]
    ours = np.concatenate([s2.cell_polygons(s2.from_tokens([token])) for token in tokens])
    made = np.array(corners)
    np.testing.assert_allclose(made[..., 0], ours[..., 0], atol=1e-9)
    np.testing.assert_allclose((made[..., 1] - ours[..., 1] + 180) % 360 - 180, 0, atol=1e-9)
    small = (np.array(levels) > 5) & (np.abs(made[:, 0, 0]) < 80)
    assert (np.ptp(made[small, :, 1], axis=1) < 10).all()  # continuous across the antimeridian
    for token, corner in zip(tokens, corners, strict=True):
        cell = s2geometry.S2Cell(s2geometry.S2CellId.FromToken(token))
        official = s2geometry.S2LatLng(cell.GetVertex(0))
        assert haversine_m(official.lat().degrees(), official.lng().degrees(), *corner[0]) < 0.01


def test_what_is_no_token(visit: Visit) -> None:
    page = visit.ready()
    script = """async (texts) => { const { decode } = await import("/static/js/s2.js");
        return texts.map((text) => { try { return decode(text); } catch (error) { return error.name; } }); }"""
    texts = ["", "X", "0", "47c5z", "ffffffffffffffff", "47c52ab50000000000"]
    assert page.evaluate(script, texts) == ["RangeError"] * len(texts)


def test_circles_areas_and_heat(visit: Visit) -> None:
    page = visit.ready()
    ring, cap, box, heat = page.evaluate(
        """async () => {
            const geo = await import("/static/js/geo.js");
            const { classify } = await import("/static/js/heat.js");
            const circle = geo.circlePolygon({ lat: 52, lon: 179.99 }, 5000);
            // Cells of levels 16, 16 and 15: the large one has more mass and less of it per area.
            const tokens = ["47c52ab55", "47c52ab57", "47c52ab5c"];
            const { features, breaks } = classify({ tokens, mass: [0.02, 0.001, 0.03] }, 16);
            return [circle.coordinates[0], geo.areaM2(circle), geo.areaM2(geo.boxPolygon([3, 52, 3.1, 52.1])),
                    [features.features.map((feature) => feature.properties.c), breaks]];
        }"""
    )
    lon, lat = np.array(ring).T
    np.testing.assert_allclose(haversine_m(52.0, 179.99, lat, lon), 5000, rtol=1e-6)
    assert cap == pytest.approx(np.pi * 5000**2, rel=2e-3)  # a polygon of 96 corners
    assert box == pytest.approx(float(haversine_m(52.05, 3, 52.05, 3.1) * haversine_m(52, 3, 52.1, 3)), rel=1e-4)
    classes, breaks = heat
    assert breaks == pytest.approx([1e-4, 3e-4, 1e-3, 3e-3, 1e-2])
    assert classes == [5, 3, 4]


def test_places_as_people_type_them(visit: Visit) -> None:
    typed = {
        "52.02, 3.116": {"lat": 52.02, "lon": 3.116},
        "-33.86 151.21": {"lat": -33.86, "lon": 151.21},
        "33.86° S, 151.21° E": {"lat": -33.86, "lon": 151.21},
        "91, 0": None,
        "52.02": None,
        "here": None,
    }
    page = visit.ready()
    script = """async (texts) => texts.map((await import("/static/js/format.js")).parsePlace)"""
    assert page.evaluate(script, list(typed)) == list(typed.values())
