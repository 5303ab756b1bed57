"""Rasters that come from anyone: nothing that they name leads GDAL to another host, or to a file elsewhere."""

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from cellcode.aerial import open_source
from cellcode.aerial.rasters.geotiff import GeoTiffSource
from cellcode.aerial.tiles.grid import known_crs
from cellcode.errors import InputError, PluginError

Write = Callable[..., Any]
LAT, LON = 48.85, 2.35
WMS = (
    '<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service><DataWindow><UpperLeftX>'
    "-20037508</UpperLeftX><UpperLeftY>20037508</UpperLeftY><LowerRightX>20037508</LowerRightX><LowerRightY>-20037508"
    "</LowerRightY><TileLevel>2</TileLevel></DataWindow><Projection>EPSG:3857</Projection><BandsCount>3</BandsCount></GDAL_WMS>"
)


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """Requests of a server on loopback; the first is its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = [f"http://127.0.0.1:{server.server_address[1]}"]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield found
        server.shutdown()


def _vrt(path: Path, source: str, relative: object = 0, band: str = "", more: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<VRTDataset rasterXSize="256" rasterYSize="256"><SRS>EPSG:32631</SRS><GeoTransform>452000,0.5,0,5411000,0,-0.5'
        f'</GeoTransform><VRTRasterBand dataType="Byte" band="1" {band}>{more}<SimpleSource>'
        f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    return path


def test_a_vrt_names_files_below_its_folder_only(
    write_ramp: Write, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, outside = tmp_path / "shared", tmp_path / "secret.tif"
    inside = write_ramp(home / "tiles/a.tif", "EPSG:32631", LAT, LON).path
    write_ramp(outside, "EPSG:32631", LAT, LON)
    (home / "wms.xml").write_text(WMS.format(url=asked[0]))
    (home / "link.tif").symlink_to(outside)
    inner = _vrt(home / "tiles/inner.vrt", "../tiles/a.tif", 1)
    good = [("tiles/a.tif", 1), (str(inside), 0), ("tiles/inner.vrt", 1), ("./tiles/a.tif", 1), ("link.tif", 1)]
    for name, relative in good:
        assert open_source(_vrt(home / "a.vrt", name, relative)).identity
    monkeypatch.chdir(home)  # a VRT that is named without its folder
    assert open_source("a.vrt").identity
    url = asked[0]
    bad = [
        (str(outside), 0), ("../secret.tif", 1), ("tiles/../../secret.tif", 1), ("../shared/x/../../secret.tif", 1),
        (str(outside), 2), (f"/vsicurl/{url}/a.tif", 0), (f"{url}/a.tif", 0), (f"WMS:{url}/wms?LAYERS=a", 0), ("wms.xml", 1),
        (f"/vsizip//vsicurl/{url}/a.zip/a.tif", 0), (f"vrt:///vsicurl/{url}/a.tif", 0), ("none.tif", 1), ("", 1), ("tiles", 1),
        ("&lt;VRTDataset/&gt;", 0), (f"DERIVED_SUBDATASET:AMPLITUDE:{inside}", 0), (f"GTIFF_DIR:1:{outside}", 0),
        (f"{outside}<!-- -->/../shared/tiles/a.tif", 0),
    ]  # fmt: skip
    for name, relative in bad:
        with pytest.raises(InputError, match=r"a\.vrt|wms\.xml") as caught:
            open_source(_vrt(home / "a.vrt", name, relative))
        assert "\n" not in str(caught.value)
    _vrt(inner, str(outside))  # by another VRT
    with pytest.raises(
        InputError, match=r"inner\.vrt names .*secret\.tif, which is not a file below .*--allow-private"
    ):
        open_source(_vrt(home / "a.vrt", "tiles/inner.vrt", 1))
    assert len(asked) == 1
    monkeypatch.setenv("CELLCODE_ALLOW_PRIVATE", "1")
    assert open_source(_vrt(home / "a.vrt", str(outside))).identity


def test_a_vrt_hides_no_names_and_no_code(write_ramp: Write, tmp_path: Path) -> None:
    write_ramp(tmp_path / "a.tif", "EPSG:32631", LAT, LON)
    path, code = tmp_path / "a.vrt", "<PixelFunctionLanguage>Python</PixelFunctionLanguage>"
    shown = {
        'subClass="VRTRawRasterBand"': "", 'subClass="VRTDerivedRasterBand"': code, 'subClass="VRTProcessedDataset"': "",
        'sourcefilename="/etc/passwd"': "", " ": "<Mask><Sourcefilename>/etc/passwd</Sourcefilename></Mask>",
        "  ": '<Metadata domain="OVERVIEWS"><MDI key="overview_file">x.tif</MDI></Metadata>',
        "   ": "<RPCDEM>/vsicurl/http://127.0.0.1/a.tif</RPCDEM>", "    ": "<Option>http://127.0.0.1/</Option>",
        "     ": '<Metadata><MDI key="X_DATASET">x.tif</MDI></Metadata>',
    }  # fmt: skip
    for band, more in shown.items():
        with pytest.raises(InputError, match=r"a\.vrt(:| names) .*--allow-private"):
            open_source(_vrt(path, "a.tif", 1, band, more))
    with rasterio.open(tmp_path / "a.tif") as dataset:
        rasterio.shutil.copy(dataset, path, driver="VRT")
    text = path.read_text()
    path.write_text(text.replace("<VRTDataset", '<VRTDataset xmlns="urn:x"').replace("a.tif", "/etc/passwd"))
    with pytest.raises(InputError, match=r"a\.vrt"):
        open_source(path)
    for body in (
        "<VRTDataset",
        '<!DOCTYPE a [<!ENTITY b "c">]><VRTDataset>&b;</VRTDataset>',
        "<VRTDataset/><VRTDataset/>",
    ):
        path.write_text(body)
        with pytest.raises(InputError, match="not a valid VRT"):
            open_source(path)


def test_overviews_and_masks_lead_nowhere(write_ramp: Write, tmp_path: Path, asked: list[str]) -> None:
    for name in (f"/vsicurl/{asked[0]}/o.tif", f"{asked[0]}/o.tif", f"WMS:{asked[0]}/wms", "/etc/passwd"):
        path = write_ramp(
            tmp_path / "a.tif", "EPSG:32631", LAT, LON,
            after=lambda file, name=name: file.update_tags(ns="OVERVIEWS", Overview_File=name),
        ).path  # fmt: skip
        del asked[1:]  # GDAL follows it while it writes
        for each in (path, _vrt(tmp_path / "a.vrt", "a.tif", 1)):
            with pytest.raises(InputError, match=r"a\.tif names another file as its overviews"):
                open_source(each)
        assert len(asked) == 1
    for suffix in (".ovr", ".msk", ".ovr.ovr"):
        path = write_ramp(tmp_path / f"b{suffix}.tif", "EPSG:32631", LAT, LON).path
        beside = Path(f"{path}{suffix}")
        beside.write_text(WMS.format(url=asked[0]))
        with pytest.raises(InputError, match="cannot be read as a raster: it is not a GeoTIFF"):
            open_source(path)
        _vrt(beside, f"/vsicurl/{asked[0]}/a.tif")
        with pytest.raises(InputError, match=r"is not a TIFF; remove it"):
            open_source(path)
        write_ramp(beside, "EPSG:32631", LAT, LON)
        assert open_source(path).read(LAT, LON, 50, 20).mask.all()
    assert len(asked) == 1


def test_only_rasters_of_known_formats_are_opened(write_ramp: Write, tmp_path: Path, asked: list[str]) -> None:
    ramp = write_ramp(tmp_path / "a.tif", "EPSG:32631", LAT, LON)
    expected = GeoTiffSource(ramp.path).read(LAT, LON, 50, 20)
    with rasterio.open(ramp.path) as dataset:
        for suffix, driver in ((".jp2", "JP2OpenJPEG"), (".png", "PNG"), (".img", "HFA")):
            options = {"QUALITY": "100", "REVERSIBLE": "YES"} if suffix == ".jp2" else {}
            rasterio.shutil.copy(dataset, tmp_path / f"b{suffix}", driver=driver, **options)
            crop = open_source(tmp_path / f"b{suffix}").read(LAT, LON, 50, 20)
            assert np.abs(crop.pixels.astype(int) - expected.pixels).max() < 4, suffix
    bad = {
        "wms.tif": WMS.format(url=asked[0]),
        "a.eps": "%!PS-Adobe-3.0 EPSF-3.0\n",
        "a.pdf": "%PDF-1.4\n",
        "a.gti": "<GDALTileIndexDataset>",
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="cannot be read as a raster"):
            open_source(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.tif")
    for spec in (tmp_path / "pipe.tif", f"geotiff:/vsicurl/{asked[0]}/a.tif", f"geotiff:WMS:{asked[0]}/a"):
        with pytest.raises(InputError, match="it is not a file"):
            open_source(spec)
    name = os.fsencode(tmp_path) + b"/\xff.tif"
    os.rename(ramp.path, name)
    with pytest.raises(InputError, match="its name is not UTF-8; rename it"):
        open_source(os.fsdecode(name))
    assert len(asked) == 1


def test_reference_systems_of_services_are_no_addresses_or_files(asked: list[str]) -> None:
    assert [known_crs(name) for name in (f"{asked[0]}/x", "/etc/passwd", "urn:ogc:def:crs:EPSG::25832", "IGNF:LAMB93")] == [
        None, None, "urn:ogc:def:crs:EPSG::25832", "IGNF:LAMB93",
    ]  # fmt: skip
    assert len(asked) == 1


def test_a_list_names_files_below_its_folder_and_no_foreign_functions(
    write_ramp: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = write_ramp(tmp_path / "secret.tif", "EPSG:32631", LAT, LON).path
    inside = write_ramp(tmp_path / "shared/tiles/a.tif", "EPSG:32631", LAT, LON).path
    path = tmp_path / "shared/list.yaml"
    monkeypatch.chdir(tmp_path)

    def listed(source: object) -> Any:
        path.write_text(f"sources: [{{source: '{source}'}}]")
        return open_source(path)

    for good in ("tiles/a.tif", "tiles", "tiles#prefer=newest", inside, f"geotiff:{inside}"):
        assert listed(good).identity
    for bad in (
        outside,
        "../secret.tif",
        "secret.tif",
        f"geotiff:{outside}",
        f"folder:{tmp_path}",
        f"mbtiles:{outside}",
    ):
        with pytest.raises(InputError, match=r"list\.yaml names .* which is not below its folder; .*--allow-private"):
            listed(bad)
    ran = tmp_path / "ran"
    for code in (
        f"subprocess:getoutput?cmd=touch {ran}",
        f"os:mkdir?path={ran}",
        f"shutil:rmtree?path={tmp_path}/shared",
    ):
        with pytest.raises(PluginError):
            listed(code)
    assert not ran.exists()
    with pytest.raises(InputError, match="a list cannot contain itself"):
        listed("list.yaml")
    monkeypatch.setenv("CELLCODE_ALLOW_PRIVATE", "1")
    assert listed(outside).identity
