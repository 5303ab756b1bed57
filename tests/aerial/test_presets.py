"""Presets: every entry is complete and can be opened; providers that forbid it are refused with their reason."""

import pytest

from cellcode.aerial import open_source
from cellcode.aerial.tiles import presets
from cellcode.aerial.tiles.template import TemplateTiles, is_template
from cellcode.cli import main
from cellcode.errors import UsageError
from cellcode.geography import Region


@pytest.mark.parametrize("preset", presets.presets(), ids=lambda preset: preset.name)
def test_every_preset_is_complete(preset: presets.Preset) -> None:
    assert preset.name == preset.name.lower()
    assert " " not in preset.name
    assert preset.source.partition(":")[0] in ("https", "wms", "wmts", "arcgis")
    assert "http://" not in preset.source
    assert all((preset.title, preset.licence, preset.attribution, preset.bulk))
    assert Region.bbox(*preset.bounds).area_m2() > 1e9
    assert 14 <= preset.max_zoom <= 22
    assert 0 < preset.requests_per_s <= 40
    assert not preset.met, "set it only with the report of someone who has used the live service"
    if is_template(preset.source):
        url = TemplateTiles(preset.source, preset.facts, preset.client()).url(17, 3, 5)
        assert "{" not in url
    else:
        assert preset.source.startswith(("wms:", "arcgis:"))


def test_names_are_distinct_and_found_in_any_spelling() -> None:
    names = [preset.name for preset in presets.presets()]
    assert len(set(names)) == len(names)
    assert presets.find("PDOK_25cm").name == "pdok-25cm"


def test_first_row_counted_from_the_south_is_asked_for_from_the_south() -> None:
    """PNOA flips its rows; Austria and USGS put the row before the column."""
    urls = {name: presets.find(name) for name in ("pnoa", "basemap-at", "usgs", "ign-france")}
    made = {name: TemplateTiles(each.source, each.facts, each.client()).url(4, 7, 5) for name, each in urls.items()}
    assert made["pnoa"].endswith("/4/7/10.jpeg")
    assert made["basemap-at"].endswith("/4/5/7.jpeg")
    assert made["usgs"].endswith("/4/5/7")
    assert "TILEMATRIX=4&TILEROW=5&TILECOL=7" in made["ign-france"]


@pytest.mark.parametrize("name", ["pnoa2", "flandres", "swiss topo"])
def test_unknown_name_is_refused_with_the_nearest(name: str) -> None:
    nearest = {"pnoa2": "pnoa", "flandres": "flanders", "swiss topo": "swisstopo"}[name]
    with pytest.raises(UsageError, match=f"the nearest preset is {nearest}"):
        open_source(name)


@pytest.mark.parametrize(
    ("spec", "provider"),
    [
        ("google", "Google"),
        ("Esri World Imagery", "Esri World Imagery"),
        ("bing", "Bing Maps"),
        ("mapbox-satellite", "Mapbox"),
        ("https://mt1.google.com/vt/lyrs=s&x={x}&y={y}&z={z}", "Google"),
        ("https://{s}.google.com/vt?x={x}&y={y}&z={z}", "Google"),
        ("https://server.arcgisonline.com/ArcGIS/rest/services/World_Imagery/MapServer/tile/{z}/{y}/{x}", "Esri"),
        ("arcgis:https://services.arcgisonline.com/arcgis/rest/services/X/ImageServer", "Esri"),
        ("https://ecn.t{switch:0,1}.tiles.virtualearth.net/tiles/a{quadkey}.jpeg?g=1", "Bing"),
        ("https://{switch:a.example.org,mts0.google.com}/{z}/{x}/{y}", "Google"),
        ("https://API.mapbox.com/v4/mapbox.satellite/{z}/{x}/{y}.jpg90?access_token={env:T}", "Mapbox"),
    ],
)
def test_provider_that_forbids_it_is_refused_with_the_reason(spec: str, provider: str) -> None:
    with pytest.raises(UsageError, match=rf"imagery of {provider}.* may not be downloaded: its .* forbid"):
        open_source(spec)


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["presets"])
    assert ended.value.code in (None, 0)
    out = capsys.readouterr().out
    for preset in presets.presets():
        assert f"{preset.name}: {preset.title}" in out
        assert preset.licence in out
    assert "untested against the live service" in out
