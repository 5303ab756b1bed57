"""Imagery that could not be fetched: what is made without it is never taken for complete."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode import build
from cellcode.aerial import AerialSource, Crop, open_source
from cellcode.aerial.missing import Missing
from cellcode.errors import InputError
from cellcode.geography import Region
from cellcode.runs import Run

DEPTH = ["build.shard_depth=1"]


class Holed(AerialSource):
    """A source that cannot show what lies south of a latitude: for now, or for good."""

    def __init__(self, path: Path, limit_deg: float, passing: bool) -> None:
        self._source, self._limit_deg, self._passing = open_source(path), limit_deg, passing
        self.identity, self.date = self._source.identity, self._source.date
        self.attribution, self.licence = self._source.attribution, self._source.licence

    def footprint(self) -> Region:
        return self._source.footprint()

    def read(self, lat_deg: float, *arguments: Any, **options: Any) -> Crop:
        crop = self._source.read(lat_deg, *arguments, **options)
        if lat_deg >= self._limit_deg:
            return crop
        why = Missing("server error" if self._passing else "not there", "tiles.example.org", self._passing)
        self.missing[why] += 1
        return Crop(crop.pixels * 0, crop.mask & False, "", crop.date, not self._passing)


def _limit_deg(imagery: Path) -> float:
    _, south, _, north = open_source(imagery).bounds
    return south + 0.3 * (north - south)


def test_shards_that_lack_imagery_for_now_are_made_again(
    wide_run: Run, imagery: Path, area: Region, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = build(wide_run, imagery, area, out=tmp_path / "straight.cells", overrides=DEPTH)
    holed = Holed(imagery, _limit_deg(imagery), passing=True)
    with pytest.raises(InputError, match=r"tiles? of tiles.example.org missing: \d+ server error; without them \d+ of"):
        build(wide_run, holed, area, out=tmp_path / "town.cells", overrides=DEPTH)
    assert not (tmp_path / "town.cells").exists()
    caplog.clear()
    again = build(wide_run, imagery, area, out=tmp_path / "town.cells", overrides=DEPTH)
    shown = caplog.text
    assert "resuming:" in shown
    assert "masked" not in shown
    assert again.identity == straight.identity
    np.testing.assert_array_equal(again.codes, straight.codes)


def test_imagery_that_lacks_for_good_is_told_at_the_end(
    wide_run: Run, imagery: Path, area: Region, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holed = Holed(imagery, _limit_deg(imagery), passing=False)
    made = build(wide_run, holed, area, out=tmp_path / "town.cells", overrides=DEPTH)
    number = sum(holed.missing.values())
    assert number > 1
    assert f"masked in the imagery: {number} tiles of tiles.example.org missing: {number} not there" in caplog.text
    assert not made.facts.has_aerial.all()
