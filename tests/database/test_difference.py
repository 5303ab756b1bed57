from pathlib import Path

from cellcode import build
from cellcode.database import Database, clip, compress
from cellcode.database.store.database import differences
from cellcode.geography import Region
from cellcode.runs import Run


def test_a_database_does_not_differ_from_itself(mixed: Database) -> None:
    cells = len(mixed.ids)
    assert differences(mixed, Database.open(mixed.folder)) == [
        ("identity", f"{mixed.identity}: exact searches of both answer alike"),
        ("cells", f"{cells} in both, 0 gone, 0 new"),
        ("codes", f"0 of {cells} differ, by at most 0"),
    ]


def test_a_part_differs_in_the_cells_that_are_gone(mixed: Database, tmp_path: Path) -> None:
    part = clip(mixed, Region.cap(52.05, 3.1, 500), out=tmp_path / "part.cells")
    lines = differences(mixed, part)
    assert ("identity", f"{mixed.identity} -> {part.identity}") in lines
    assert ("cells", f"{len(part.ids)} in both, {len(mixed.ids) - len(part.ids)} gone, 0 new") in lines
    assert ("codes", f"0 of {len(part.ids)} differ, by at most 0") in lines
    assert not [name for name, _ in lines if name.startswith(("run", "levels", "calibration", "configuration"))]
    back = differences(part, mixed)
    assert ("cells", f"{len(part.ids)} in both, 0 gone, {len(mixed.ids) - len(part.ids)} new") in back


def test_another_build_differs_in_settings_calibration_and_codes(
    wide_run: Run, imagery: Path, area: Region, mixed: Database, tmp_path: Path
) -> None:
    other = build(wide_run, imagery, area, out=tmp_path / "a.cells", overrides=["build.kappa=0.2"])
    lines = differences(mixed, other)
    assert ("configuration", "build.kappa: 0.7 -> 0.2") in lines
    assert [text for name, text in lines if name == "calibration.kappa"] == [
        f"{mixed.calibration.kappa} -> {other.calibration.kappa}"
    ]
    (codes,) = (text for name, text in lines if name == "codes")
    assert f" of {len(mixed.ids)} differ, by at most 0." in codes
    assert not [text for name, text in lines if name == "imagery"]


def test_imagery_that_one_does_not_have_is_named(wide_run: Run, area: Region, mixed: Database, tmp_path: Path) -> None:
    alone = build(wide_run, None, area, out=tmp_path / "a.cells", overrides=["build.shard_depth=2"])
    assert ("imagery", f"{mixed.manifest['imagery']} -> None") in differences(mixed, alone)


def test_a_compressed_one_differs_in_its_codes(mixed: Database, tmp_path: Path) -> None:
    packed = compress(mixed, 4, out=tmp_path / "packed.cells")
    lines = differences(mixed, packed)
    assert ("codes.dtype", "float16 -> pq4x8") in lines
    assert ("cells", f"{len(mixed.ids)} in both, 0 gone, 0 new") in lines
