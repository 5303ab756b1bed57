"""tools/device_check.py on a CPU, tiny: every check runs, and one that fails or hangs does not take the others with it."""

import os
import time
from pathlib import Path

import pytest
from tools import device_check
from tools.device_check import NOT_COMPLETE, attempt

pytestmark = pytest.mark.scale


def test_every_check_runs_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    table = tmp_path / "table.md"
    assert device_check.main(["--size", "tiny", "--device", "cpu", "--out", str(table)]) == 0
    text = table.read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    head, _, *lines = text.splitlines()
    assert "torch" in head
    rows = {
        tuple(cell.strip() for cell in line.strip("|").split("|")[:2]): line.split("|")[3].strip() for line in lines
    }
    assert {check for check, _ in rows} == {"check", "---", *(each.__name__ for each in device_check.CHECKS)}
    for what in ("embeddings of 4 photos", "codes of 65 cells"):
        assert rows["agreement", f"{what}, cpu in float32 against CPU in float32"].startswith(
            "cosine at least 1.000000"
        )
    assert rows["agreement", "same first cell, cpu in float32 against CPU in float32"] == "4 of 4 photos"
    assert rows["training", "training from packed photos, 9 steps"].endswith("photos/s")


def test_rows_before_a_failure_are_kept() -> None:
    assert attempt(iter, [("a", "1"), ("b", "2")], 60) == [("a", "1"), ("b", "2")]
    rows = attempt(iter, [("a", "1"), {1}], 60)
    assert rows[0] == ("a", "1")
    assert rows[1][0] == NOT_COMPLETE
    assert "TypeError" in rows[1][1]


def test_a_check_that_ends_its_process_or_hangs_is_reported() -> None:
    assert attempt(os._exit, 3, 60) == [(NOT_COMPLETE, "ended with status 3")]
    began = time.monotonic()
    assert attempt(time.sleep, 600, 0.2) == [(NOT_COMPLETE, "stopped at its time limit of 0 s")]
    assert time.monotonic() - began < 60


def test_checks_without_a_run_are_skipped(tmp_path: Path) -> None:
    site = device_check.Site(tmp_path, "cpu", device_check.SIZES["tiny"])
    for check in (device_check.building, device_check.agreement):
        assert attempt(check, site, 60) == [(NOT_COMPLETE, "skipped: the check 'training' left no run")]


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        device_check.main(["--device", "cuda"])
    assert "this machine has no device cuda" in capsys.readouterr().err
