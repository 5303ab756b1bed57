"""Packing and reading back, against the photo table and the files it was made from, and against tarfile."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import unseal

from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.photos import PhotoError, PhotoSpec, PhotoTable, ingest, read_pixels
from cellcode.photos.packed import pack
from cellcode.photos.packed.pack import Packing
from cellcode.photos.packed.shards import PackedPhotos, is_packed
from cellcode.photos.packed.shuffle import grouped_order

SMALL = Packing(level=18, group_photos=4, shard_photos=16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoTable:
    """150 photos at 40 places of a level-18 cell each; three splits; one of them is a PNG."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    lines = ["file,lat,lon,split,captured_at,licence"]
    for number in range(150):
        lat_deg, lon_deg = 48.0 + 0.002 * (number % 8), 2.0 + 0.003 * (number % 5)
        name = f"{number}.{'png' if number == 7 else 'jpg'}"
        Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(folder / name)
        split = "test" if number % 10 == 0 else "validation" if number % 10 == 1 else "train"
        lines.append(f"{name},{lat_deg},{lon_deg},{split},2024-05-01T12:00:00,CC0-1.0")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ingest(folder / "list.csv", out=folder / "table")


@pytest.fixture(scope="module")
def packed(photos: PhotoTable, tmp_path_factory: pytest.TempPathFactory) -> PackedPhotos:
    return pack.run(photos, SMALL, out=tmp_path_factory.mktemp("packed") / "shards")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_photo_is_packed_once_with_its_row_and_its_bytes(photos: PhotoTable, packed: PackedPhotos) -> None:
    expected = {row["file"]: row for row in photos.rows.to_pylist()}
    seen = []
    for split in ("train", "validation", "test"):
        shards = packed.shards(split)
        assert shards.photos.sum() == (photos.split == split).sum()
        for name in shards.names:
            loaded = packed.load(split, name)
            for row, described in enumerate(packed.rows(split, name).to_pylist()):
                assert described == expected[described["file"]]
                assert loaded.image(row) == (photos.root / described["file"]).read_bytes()
                seen.append(described["file"])
    assert sorted(seen) == sorted(expected)


def test_a_tar_is_what_webdataset_reads(photos: PhotoTable, packed: PackedPhotos) -> None:
    (name, *_) = packed.shards("train").names
    with tarfile.open(Path(packed.place) / "train" / f"{name}.tar") as tar:
        members = tar.getnames()
        pairs = list(zip(members[::2], members[1::2], strict=True))
        for image, described in pairs:
            assert image.split(".")[0] == described.split(".")[0]
            facts = json.load(tar.extractfile(described))  # type: ignore[arg-type]
            assert tar.extractfile(image).read() == (photos.root / facts["file"]).read_bytes()  # type: ignore[union-attr]
            assert (facts["lat_deg"], facts["licence"]) == (pytest.approx(48.0, abs=0.1), "CC0-1.0")
    assert len(pairs) == packed.shards("train").photos[0]


def test_photos_of_a_place_lie_together_in_groups_that_no_shard_cuts(packed: PackedPhotos) -> None:
    shards = packed.shards("train")
    seen: set[int] = set()
    near = 0
    for number, name in enumerate(shards.names):
        group = packed.load("train", name).index["group"]
        rows = packed.rows("train", name)
        cells = s2.cell_ids(rows["lat_deg"].to_numpy(), rows["lon_deg"].to_numpy(), 18)
        assert not seen & set(group.tolist())
        seen |= set(group.tolist())
        sizes = [np.count_nonzero(group == each) for each in np.unique(group)]
        assert max(sizes) <= 4
        assert shards.groups[number].tolist() == [sizes.count(size) for size in (1, 2, 3, 4)]
        for each in np.unique(group):
            assert len(np.unique(cells[group == each])) == 1
        near += np.count_nonzero(cells[1:] == cells[:-1])
    assert near > len(seen) / 2
    assert packed.cells("train", 18).tolist() == sorted({*packed.cells("train", 18).tolist()})


def test_an_interrupted_packing_is_continued_to_the_same_bytes(
    photos: PhotoTable, packed: PackedPhotos, tmp_path: Path
) -> None:
    whole = contents(Path(packed.place))
    out = tmp_path / "shards"
    pack.run(photos, SMALL, out=out)
    files = json.loads((out / "manifest.json").read_text())["files"]
    (out / "manifest.json").rename(out / "plan.json")  # as if it had been killed in its third shard
    listed = [json.dumps({name: facts}) for name, facts in files.items() if "000002" not in name and "/" in name]
    (out / "finished.jsonl").write_text("\n".join(listed) + '\n{"train/000002.tar": {"by')
    (out / "train" / "000002.tar").write_bytes(b"half")
    (out / "train" / "000002.parquet").unlink()
    data = (out / "train" / "000003.tar").read_bytes()
    (out / "train" / "000003.tar").write_bytes(data[:-1] + b"x")  # damaged since
    with pytest.raises(InputError, match="finish making them"):
        PackedPhotos.open(out)
    kept = (out / "train" / "000001.tar").stat().st_mtime_ns
    pack.run(photos, SMALL, out=out)
    assert contents(out) == whole
    assert (out / "train" / "000001.tar").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="other packed photos"):
        pack.run(photos, Packing(level=18, shard_photos=16), out=out)


def test_photos_that_cannot_be_read_are_left_out_and_named(
    photos: PhotoTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = tmp_path / "photos"
    files.mkdir()
    for path in photos.files:
        (files / path.name).write_bytes(path.read_bytes())
    (files / "2.jpg").unlink()
    (files / "3.jpg").write_bytes(b"no picture")
    moved = PhotoTable(photos.rows, files)
    packed = pack.run(moved, SMALL, out=tmp_path / "shards")
    assert set(packed.manifest["rejected"]) == {"2.jpg", "3.jpg"}
    assert packed.manifest["photos"] == 148
    assert "2 left out" in caplog.text
    assert packed.shards("train").photos.sum() == packed.manifest["splits"]["train"]


def test_images_are_encoded_again_at_the_size_asked_for(photos: PhotoTable, tmp_path: Path) -> None:
    packed = pack.run(photos, Packing(level=18, shard_photos=64, size_px=(24, 16), quality=95), out=tmp_path / "shards")
    (name, *_) = packed.shards("train").names
    loaded = packed.load("train", name)
    rows = packed.rows("train", name).to_pylist()
    for row in (0, 1, 2):
        own = read_pixels(loaded.image(row), PhotoSpec(24, 16))
        original = read_pixels(photos.root / rows[row]["file"], PhotoSpec(24, 16))
        assert np.abs(own.astype(float) - original).mean() < 40  # noise suffers from JPEG, and is still the same noise
        assert np.corrcoef(own.ravel(), original.ravel())[0, 1] > 0.5


def test_damage_of_a_shard_is_found_in_the_photos_it_hits(photos: PhotoTable, tmp_path: Path) -> None:
    packed = pack.run(photos, SMALL, out=tmp_path / "shards")
    path = tmp_path / "shards" / "train" / "000000.tar"
    loaded = packed.load("train", "000000")
    offset = int(loaded.index["offset"][1]) + 100
    data = bytearray(path.read_bytes())
    data[offset] ^= 255
    path.write_bytes(data[: int(loaded.index["offset"][-1]) + 5])
    damaged = packed.load("train", "000000")
    assert damaged.image(0) == loaded.image(0)
    with pytest.raises(PhotoError, match=r"000000\.tar, \d+\.\w+: its bytes"):
        damaged.image(1)
    with pytest.raises(PhotoError, match="ends before it"):
        damaged.image(len(loaded.index["offset"]) - 1)
    path.unlink()
    with pytest.raises(PhotoError, match="the shard is missing"):
        packed.load("train", "000000").image(0)
    path.with_suffix(".parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"train/000000\.parquet is not the file that was packed; copy it there again"):
        packed.load("train", "000000")
    unseal(tmp_path / "shards", 1, "files")
    packed = PackedPhotos.open(tmp_path / "shards")
    with pytest.raises(InputError, match=r"train/000000\.parquet cannot be read .*copy it there again"):
        packed.load("train", "000000")


@pytest.mark.parametrize("rows", [7, 64, 1000])
def test_a_table_in_a_folder_is_packed_a_part_at_a_time_to_the_same_bytes(
    photos: PhotoTable, packed: PackedPhotos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: int
) -> None:
    monkeypatch.setattr("cellcode.photos.packed.shuffle.ROWS", rows)
    monkeypatch.setattr("cellcode.photos.table.photo_table.Batches.parts.__defaults__", (None, rows))
    monkeypatch.setattr(pack, "_AHEAD", 3)
    photos.save(tmp_path / "table")
    pack.run(tmp_path / "table", SMALL, out=tmp_path / "shards")
    assert contents(tmp_path / "shards") == contents(Path(packed.place))


def test_every_file_of_packed_photos_is_verified(photos: PhotoTable, tmp_path: Path) -> None:
    packed = pack.run(photos, SMALL, out=tmp_path / "shards")
    names = {path.relative_to(packed.place).as_posix() for path in Path(packed.place).rglob("*") if path.is_file()}
    assert names == {"manifest.json", *packed.manifest["files"]}
    for name in ("shards.parquet", "train/000000.tar", "train/000001.parquet"):
        path = Path(packed.place) / name
        data = path.read_bytes()
        for damaged, said in ((data[:-1] + b"x", "is not the file that was packed"), (None, "is missing")):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(InputError, match=rf"{name} {said}; copy it there again, or pack again"):
                packed.verify()
        path.write_bytes(data)
    packed.verify()
    manifest = (Path(packed.place) / "manifest.json").read_text()
    (Path(packed.place) / "manifest.json").write_text(manifest.replace('"photos": ', '"photos": 1', 1))
    with pytest.raises(InputError, match=r"manifest\.json was changed or damaged after it was written"):
        PackedPhotos.open(packed.place)


def test_the_order_is_in_groups_of_a_cell_that_are_shuffled() -> None:
    cells = np.random.default_rng(2).integers(1, 500, 6000).astype(np.uint64)
    order, group = grouped_order(cells, 8, seed=5)
    assert sorted(order.tolist()) == list(range(6000))
    assert (np.diff(group) >= 0).all()
    _, first, sizes = np.unique(group, return_index=True, return_counts=True)
    assert (cells[order] == np.repeat(cells[order][first], sizes)).all()
    for cell in np.unique(cells):
        own = sizes[cells[order][first] == cell]
        assert len(own) == -(-own.sum() // 8)
        assert np.ptp(own) <= 1
    assert abs(np.corrcoef(np.arange(len(first)), cells[order][first].astype(float))[0, 1]) < 0.1


@pytest.fixture(scope="module")
def parts(photos: PhotoTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packings side by side, of the photos of one side and of the other; cells at the border are in both."""
    folder = tmp_path_factory.mktemp("parts")
    west = np.arange(len(photos)) % 3 == 0
    for name, chosen, group_photos in (("west", west, 3), ("east", ~west, 4)):
        part = PhotoTable(photos.select(chosen).rows, photos.root)
        pack.run(part, Packing(level=18, group_photos=group_photos, shard_photos=16), out=folder / name)
    return folder


def test_several_packings_in_a_folder_are_read_as_one(photos: PhotoTable, parts: Path) -> None:
    joined = PackedPhotos.open(parts)
    assert is_packed(parts)
    assert joined.manifest["photos"] == len(photos)
    assert joined.manifest["splits"] == {
        name: int((photos.split == name).sum()) for name in ("train", "validation", "test")
    }
    shards = joined.shards("train")
    assert shards.photos.sum() == (photos.split == "train").sum()
    assert (shards.groups @ np.arange(1, 5)).tolist() == shards.photos.tolist()
    files = []
    for name in shards.names:
        loaded = joined.load("train", name)
        for row, described in enumerate(joined.rows("train", name).to_pylist()):
            assert loaded.image(row) == (photos.root / described["file"]).read_bytes()
            files.append(described["file"])
    assert sorted(files) == sorted(photos.of_split("train").column("file"))
    assert (
        joined.cells("train", 18).tolist()
        == np.unique(
            s2.cell_ids(*(each[photos.split == "train"] for each in (photos.lat_deg, photos.lon_deg)), 18)
        ).tolist()
    )
    identities = {joined.identity, *(PackedPhotos.open(parts / name).identity for name in ("east", "west"))}
    assert len(identities) == 3


def test_packings_that_do_not_go_together_are_refused(photos: PhotoTable, parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "all")
    north = tmp_path / "all" / "north"
    few = PhotoTable(photos.select(np.arange(20)).rows, photos.root)
    for other, reason in (
        (Packing(level=17), "level of the cells is 18 in one and 17"),
        (Packing(level=18, fit="crop"), "fit"),
    ):
        pack.run(few, other, out=north)
        with pytest.raises(InputError, match=f"{reason}.*pack one of them again"):
            PackedPhotos.open(tmp_path / "all")
        shutil.rmtree(north)
    shutil.copytree(parts / "west", north)
    with pytest.raises(InputError, match=r"north and .*west are the same packed photos"):
        PackedPhotos.open(tmp_path / "all")
    (north / "manifest.json").rename(north / "plan.json")
    with pytest.raises(InputError, match="none in north; finish packing it"):
        PackedPhotos.open(tmp_path / "all")


def test_folders_are_told_apart(photos: PhotoTable, packed: PackedPhotos, tmp_path: Path) -> None:
    assert is_packed(packed.place)
    assert not is_packed(photos.root / "table")
    assert not is_packed(tmp_path)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        pack.run(photos, SMALL, out=tmp_path)
    with pytest.raises(InputError, match="cellcode pack"):
        PackedPhotos.open(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    assert is_packed(tmp_path)  # and not finished, which opening it says
