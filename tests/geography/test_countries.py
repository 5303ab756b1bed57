import numpy as np
import pytest
import shapely

from cellcode.errors import UsageError
from cellcode.geography import Region
from cellcode.geography.regions import countries

TABLE = countries.table()
OUTLINES = {row["code"]: row["outline"] for row in TABLE}
# Areas of the statistical offices, km2, inland waters included; of France without its overseas departments, of Antarctica
# without its ice shelves (Bedmap2).
AREAS_KM2 = {
    "AT": 83_879, "BE": 30_689, "CH": 41_285, "DE": 357_588, "ES": 505_990, "FR": 543_940, "LU": 2_586, "NL": 37_391,
    "PL": 312_696, "JP": 377_975, "IN": 3_287_263, "BR": 8_510_346, "RU": 17_098_246, "NZ": 268_021, "AQ": 12_300_000,
}  # fmt: skip


@pytest.mark.parametrize("code", AREAS_KM2)
def test_area_is_that_of_the_statistical_office(code: str) -> None:
    # Natural Earth draws what is held, and Russia with the Crimea.
    assert Region.parse(code).area_m2() / 1e6 == pytest.approx(AREAS_KM2[code], rel=0.06)


@pytest.mark.parametrize(
    ("code", "lat", "lon"),
    [
        ("BE", 50.85, 4.35),
        ("DE", 48.14, 11.58),
        ("NL", 52.37, 4.90),
        ("FR", 42.04, 9.01),  # Corsica
        ("ES", 28.29, -16.62),  # Tenerife
        ("PT", 37.78, -25.50),  # Azores
        ("US", 21.48, -158.02),  # Oahu
        ("GF", 4.00, -53.00),
        ("RE", -21.10, 55.50),
        ("GP", 16.20, -61.70),
        ("MQ", 14.65, -61.00),
        ("YT", -12.83, 45.15),
        ("BQ", 12.18, -68.25),  # Bonaire
        ("SJ", 79.00, 16.00),  # Spitsbergen
        ("SJ", 71.00, -8.40),  # Jan Mayen
        ("NO", 71.00, 25.80),  # the North Cape's island
        ("CX", -10.49, 105.63),
        ("GI", 36.13, -5.345),
        ("FJ", -17.80, 178.00),
        ("FJ", -16.80, -179.97),  # across the antimeridian
    ],
)
def test_place_lies_in_the_country_of_its_code_and_in_no_other(code: str, lat: float, lon: float) -> None:
    assert Region.parse(code).contains([lat], [lon])[0]
    assert [other for other, shape in OUTLINES.items() if shapely.intersects_xy(shape, lon, lat)] == [code]


def test_every_outline_is_valid_and_keeps_to_the_globe() -> None:
    assert len(OUTLINES) == len({row["alpha3"] for row in TABLE}) == len(TABLE) == 249
    for code, shape in OUTLINES.items():
        assert shape.is_valid, code
        assert not shape.is_empty, code
        west, south, east, north = shape.bounds
        assert -180 <= west < east <= 180, code
        assert -90 <= south < north <= 90, code


def test_no_two_countries_overlap_by_more_than_the_rounding() -> None:
    shapes = list(OUTLINES.values())
    assert shapely.area(shapely.union_all(shapes)) == pytest.approx(sum(shape.area for shape in shapes), rel=2e-4)


def test_union_has_no_gap_and_no_overlap() -> None:
    apart = sum(Region.parse(code).area_m2() for code in ("BE", "DE", "NL"))
    union = Region.parse("BE+DE+NL")
    assert union.area_m2() == pytest.approx(apart, rel=1e-4)  # neighbours share a border, to the rounding of the file
    assert union == Region.parse("BEDENL") == Region.parse(" bel + deu + nl ") == Region.parse("NL+BE+bedenl")
    assert Region.parse("not:BEDENL") == ~union


def test_western_europe_is_in_europe() -> None:
    west, south, east, north = Region.parse("EuropeWest").bounds
    assert west > -6
    assert south > 41
    assert east < 18
    assert north < 56
    np.testing.assert_array_equal(
        Region.parse("europewest").contains([48.2, 46.95, 41.9, 51.5], [16.4, 7.44, 12.5, -0.1]),
        [True, True, False, False],
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("XX", "nearest code is"),
        ("Germny", r"nearest code is DE \(Germany\)"),
        ("BE+Netherland+DE", r"'Netherland' .* nearest code is NL \(Netherlands\)"),
        ("EuropWest", "nearest code is EuropeWest"),
        ("not:BELG", r"nearest code is BE"),
        ("BE+", "neither"),
        ("BE+DE+4", "neither"),
    ],
)
def test_unknown_code_is_refused_with_the_nearest(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Region.parse(text)
