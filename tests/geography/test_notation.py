import json
from pathlib import Path

import numpy as np
import pytest

from cellcode.errors import CellcodeError, InputError, UsageError
from cellcode.geography import Region, s2

POLYGON = {"type": "Polygon", "coordinates": [[[2.0, 48.0], [2.4, 47.9], [2.5, 48.3], [2.1, 48.4], [2.0, 48.0]]]}


@pytest.mark.parametrize("text", ["cap:52,5,10000", " cap: 52.0 , 5 , 1e4 "])
def test_cap(text: str) -> None:
    assert Region.parse(text) == Region.cap(52, 5, 10_000)
    assert Region.parse(text).cap_of == (52.0, 5.0, 10_000.0)


@pytest.mark.parametrize("text", ["cells:47e5a7,47e5a4,89c25", "cells: 47E5A7, 47e5a4 ,89c25,47e5a71"])
def test_cells_by_their_tokens(text: str) -> None:
    assert Region.parse(text) == Region.of_cells(s2.from_tokens(["47e5a7", "47e5a4", "89c25"]))


def test_cells_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cells, of a town.txt"
    path.write_text("47e5a7\n\n  47e5a4  \r\n89c25")
    assert Region.parse(f"cells:{path}") == Region.of_cells(s2.from_tokens(["47e5a7", "47e5a4", "89c25"]))


def test_not_before_each_form_means_the_rest_of_the_earth(tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(POLYGON))
    for form in ("2,48,2.5,48.3", "cap:52,5,10000", "cells:47e5a7", str(path)):
        for text in (f"not:{form}", f" not: {form}"):
            assert Region.parse(text) == ~Region.parse(form)
            assert Region.parse(text) != Region.parse(form)
    np.testing.assert_array_equal(Region.parse(f"not:{path}").contains([48.1, 47.0], [2.2, 2.2]), [False, True])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cap:", "three numbers"),
        ("cap:52,5", "three numbers"),
        ("cap:52,5,10,3", "three numbers"),
        ("cap:52,5,10km", "three numbers"),
        ("cap:91,5,10", "no circle"),
        ("cap:52,181,10", "no circle"),
        ("cap:52,5,0", "no circle"),
        ("cap:52,5,nan", "three numbers"),
        ("cap:nan,5,10", "three numbers"),
        ("cells:", "'' is not the token"),
        ("cells:47e5,,89c25", "'' is not the token"),
        ("cells:47e5,zz", "'zz' is not the token"),
        ("cells:missing.txt", "no file of tokens"),
        ("not:", "neither"),
        ("not:nothing.geojson", "neither"),
        ("not:not:1,2,3,4", "four numbers"),
        ("not:2,48,3,47", "south"),
        ("not:cap:52,5", "three numbers"),
        ("circle:1,2,3", "neither"),
    ],
)
def test_malformed_text_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Region.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no cell tokens"),
        (b"\n \n", "no cell tokens"),
        (b"47e5\n47e5a8\nx1\n", "'x1'"),
        (b"\xff\xfe\x00", "text file"),
    ],
)
def test_file_that_holds_no_tokens_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        Region.parse(f"cells:{path}")
    assert str(path) in str(caught.value)


def test_a_folder_is_no_region(tmp_path: Path) -> None:
    for text in (str(tmp_path), f"cells:{tmp_path}", f"not:{tmp_path}"):
        with pytest.raises(CellcodeError):
            Region.parse(text)
