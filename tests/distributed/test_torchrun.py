"""Reports of failures in torchrun's summary, which torch itself makes."""

from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from cellcode.cli import main
from cellcode.distributed import torchrun


def summary(*files: Path) -> str:
    failures = {rank: ProcessFailure(rank, 100 + rank, 1, str(path)) for rank, path in enumerate(files)}
    return str(ChildFailedError("cellcode", failures).format_msg())


def test_the_first_process_to_fail_is_the_root_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0.json"))
    assert torchrun.report("process 0 stops because process 1 died", after_another=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "1.json"))
    assert torchrun.report("the disk is full")
    assert torchrun.report("something else, because of that")  # comes too late
    others, root = summary(tmp_path / "0.json", tmp_path / "1.json").split("Root Cause")
    assert "process 0 stops because process 1 died" in others
    assert "the disk is full" in root
    assert "something else" not in others + root


def test_a_command_tells_torchrun_or_stderr(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["pack", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    with pytest.raises(SystemExit):
        main(asked)
    sentence = capsys.readouterr().err.strip()
    assert "is not a photo table" in sentence
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit):
        main(asked)
    assert sentence in summary(tmp_path / "error.json")
    assert not capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "no" / "folder.json"))
    with pytest.raises(SystemExit):
        main(asked)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("file", "beside"), [("error.json", True), ("", False)])
def test_processes_of_a_machine_are_summed_up_together(
    monkeypatch: pytest.MonkeyPatch, file: str, beside: bool
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", file)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert torchrun.same_machine(5, 6) == beside
    assert not torchrun.same_machine(3, 4)
