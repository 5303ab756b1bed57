"""Several dates and providers of one place: which of them a crop shows, and whom it names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode.aerial import AerialSource, open_source
from cellcode.aerial.multi import Member, MultiSource
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.types import UInt8

Write = Callable[..., Any]
LAT, LON, SIZE_M, SIZE_PX = 48.85, 2.35, 100.0, 50


@pytest.fixture
def make(write_ramp: Write, tmp_path: Path) -> Callable[..., AerialSource]:
    """A raster of one colour; `share` of a crop in the middle, from the west, has imagery."""

    def write(value: int, share: float = 1.0, attribution: str = "", date: str | None = None) -> AerialSource:
        pixels = np.full((3, 256, 256), value, np.uint8)
        pixels[:, :, round(128 + (share - 0.5) * 200) :] = 0

        def tag(dataset: Any) -> None:
            dataset.update_tags(TIFFTAG_COPYRIGHT=attribution, LICENSE="CC0")
            if date:
                dataset.update_tags(TIFFTAG_DATETIME=f"{date.replace('-', ':')} 00:00:00")

        path = tmp_path / f"{value}.tif"
        write_ramp(path, "EPSG:32631", LAT, LON, pixels=pixels, nodata=0, after=tag)
        return open_source(path)

    return write


def _shares(source: AerialSource) -> dict[int, float]:
    """Share of the crop by value; the rim of a few percent between two values is left out."""
    pixels: UInt8 = source.read(LAT, LON, SIZE_M, SIZE_PX).pixels[..., 0]
    values, counts = np.unique(pixels, return_counts=True)
    shares = zip(values.tolist(), counts / pixels.size, strict=True)
    return {value: float(share) for value, share in shares if share > 0.03}


def test_newest_that_covers_enough_is_taken_and_its_gaps_are_filled(make: Callable[..., AerialSource]) -> None:
    old, newer, newest = make(50, 1.0, "A"), make(100, 0.92, "B"), make(150, 0.5, "C")
    several = MultiSource([Member(old, "2015-01-01"), Member(newer, "2020-01-01"), Member(newest, "2024-01-01")], 0.9)
    shares = _shares(several)
    assert shares[100] == pytest.approx(0.92, abs=0.03)
    assert shares.get(50, 0) == pytest.approx(0.08, abs=0.03)  # the newest has nothing there either
    crop = several.read(LAT, LON, SIZE_M, SIZE_PX)
    assert crop.mask.all()
    assert crop.attribution == "B; A"
    assert crop.date == "2015-01-01"  # the oldest that shows


def test_if_none_covers_enough_the_one_with_most_is_taken(make: Callable[..., AerialSource]) -> None:
    several = MultiSource([Member(make(50, 0.7), "2015-01-01"), Member(make(150, 0.5), "2024-01-01")], 0.9)
    assert _shares(several)[50] == pytest.approx(0.7, abs=0.03)
    assert 150 not in _shares(several)  # its west is covered already


def test_cover_is_the_users_choice(make: Callable[..., AerialSource]) -> None:
    members = [Member(make(50), "2015-01-01"), Member(make(150, 0.5), "2024-01-01")]
    assert _shares(MultiSource(members, 0.4)) == pytest.approx({50: 0.5, 150: 0.5}, abs=0.03)
    assert _shares(MultiSource(members, 0.6)) == {50: 1.0}


def test_priority_goes_before_the_date_and_undated_comes_last(make: Callable[..., AerialSource]) -> None:
    first, dated, undated = make(50), make(100, date="2020-06-01"), make(150)
    assert _shares(MultiSource([Member(undated), Member(dated)])) == {100: 1.0}
    assert _shares(MultiSource([Member(dated, priority=1), Member(first, "2001-01-01")])) == {50: 1.0}


def test_sources_are_asked_only_while_something_is_missing(make: Callable[..., AerialSource]) -> None:
    class Counted(AerialSource):
        def __init__(self, source: AerialSource) -> None:
            self.reads, self._source, self.identity = 0, source, source.identity

        def footprint(self) -> Region:
            return self._source.footprint()

        def read(self, *where: Any) -> Any:
            self.reads += 1
            return self._source.read(*where)

    whole, half, never = Counted(make(50)), Counted(make(100, 0.5)), Counted(make(150))
    members = [Member(half, "2024-01-01"), Member(whole, "2020-01-01"), Member(never, "2010-01-01")]
    assert MultiSource(members).read(LAT, LON, SIZE_M, SIZE_PX).mask.all()
    assert (half.reads, whole.reads, never.reads) == (1, 1, 0)


def test_manifest_names_everyone_and_the_identity_follows_members_and_rule(make: Callable[..., AerialSource]) -> None:
    a, b = make(50, 1.0, "A", "2021-01-01"), make(100, 1.0, "B")
    several = MultiSource([Member(a), Member(b, "2024-05-01", "CC BY 4.0", "Town")])
    assert isinstance(several, AerialSource)
    assert (several.attribution, several.licence, several.date) == ("A; Town", "CC BY 4.0; CC0", "2024-05-01")
    assert several.read(LAT, LON, SIZE_M, SIZE_PX).attribution == "Town"
    assert several.covers([LAT], [LON]).all()
    identities = {
        several.identity,
        MultiSource(several.members, 0.5).identity,
        MultiSource([Member(a), Member(b, "2024-05-02")]).identity,
        MultiSource([Member(a)]).identity,
    }
    assert len(identities) == 4
    assert MultiSource(several.members).identity == several.identity


def test_list_in_a_file(make: Callable[..., AerialSource], tmp_path: Path) -> None:
    make(50, 1.0, "A", "2015-01-01")
    make(150, 0.5, "C")
    (tmp_path / "town.yaml").write_text(
        "cover: 0.4\nsources:\n  - source: 50.tif\n"
        "  - {source: 150.tif, date: 2024-04-12, licence: CC BY 4.0, attribution: Town of X}\n",
        encoding="utf-8",
    )
    source = open_source(tmp_path / "town.yaml")
    assert _shares(source) == pytest.approx({50: 0.5, 150: 0.5}, abs=0.03)
    assert source.read(LAT, LON, SIZE_M, SIZE_PX).attribution == "Town of X; A"
    assert source.licence == "CC BY 4.0; CC0"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sources: []", "sources: List should have at least 1 item"),
        ("sources: [{source: 50.tif, priorty: 1}]", r"sources\.0\.priorty: Extra inputs are not permitted"),
        ("sources: [{source: 50.tif, date: summer}]", r"sources\.0\.date"),
        ("cover: 2\nsources: [{source: 50.tif}]", "cover: Input should be less than or equal to 1"),
        ("[1, 2", "cannot be read as YAML"),
        ("sources: [{source: none.tif}]", r"none\.tif does not exist"),
    ],
)
def test_list_that_is_not_understood_is_refused(
    make: Callable[..., AerialSource], tmp_path: Path, text: str, says: str
) -> None:
    make(50)
    (tmp_path / "town.yaml").write_text(text, encoding="utf-8")
    with pytest.raises((InputError, UsageError), match=says):
        open_source(tmp_path / "town.yaml")


def test_editions_show_each_date_first_and_fill_its_gaps(make: Callable[..., AerialSource]) -> None:
    members = [Member(make(50), "2015-01-01"), Member(make(100, 0.5), "2020-01-01"), Member(make(150), "2024-01-01")]
    several = MultiSource(members)
    shown = [_shares(each) for each in several.editions(3)]
    assert shown[0] == _shares(several) == {150: 1.0}
    assert shown[1] == pytest.approx({100: 0.5, 150: 0.5}, abs=0.03)
    assert shown[2] == {50: 1.0}
    assert len(several.editions(2)) == 2
    assert several.editions(1) == [several]
    assert members[0].source.editions(4) == [members[0].source]
