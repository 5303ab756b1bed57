"""Stages run in processes of their own, once, in order, and a failure costs no more than what needs it."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from experiments import stages
from experiments.running import estimate, run
from experiments.stages import Done, Stage, finished, select, state, with_needs

import cellcode
from cellcode.errors import InputError, UsageError
from cellcode.files import locked_folder

WORK = '''
import os
import signal
import time
from cellcode.errors import InputError

def count(folder, needs, amount=1):
    """Add up what the needed stages counted; keep a line of every call, whatever became of it."""
    with (folder / "calls").open("a") as file:
        file.write("called\\n")
    before = sum(int((path / "number").read_text()) for path in needs.values())
    (folder / "number").write_text(str(before + amount))
    print("counting", before + amount)
    return {"number": before + amount}

def fail(folder, needs, reason):
    raise InputError(reason)

def stumble(folder, needs):
    return {"share": 1 / 0}

def killed(folder, needs):
    os.kill(os.getpid(), signal.SIGKILL)

def halfway(folder, needs, how):
    """Stop the first time, with something done; go on from it the second time."""
    if not (folder / "half").exists():
        (folder / "half").write_text("done")
        if how == "interrupted":
            raise KeyboardInterrupt
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(6000):
            with (folder / "ticks").open("a") as file:
                file.write("tick")
            time.sleep(0.1)
    return {"went_on": True}
'''


@pytest.fixture
def work(tmp_path: Path) -> Iterator[ModuleType]:
    (tmp_path / "stage_work.py").write_text(WORK, encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    yield importlib.import_module("stage_work")
    sys.path.remove(str(tmp_path))
    del sys.modules["stage_work"]


def _chain(work: ModuleType, amount: int, version: int = 1) -> Stage:
    first = Stage("first", work.count, {"amount": amount}, version=version)
    return Stage("second", work.count, {"amount": 5}, needs=(first,))


def test_stages_follow_what_they_need_and_run_once(work: ModuleType, tmp_path: Path) -> None:
    second = _chain(work, 2)
    assert state(second, tmp_path / "out")[0] == "to do"
    for _ in range(2):
        results = run([second], tmp_path / "out", workers=2)
        assert isinstance(results["second"], Done)
        assert results["second"].values == {"number": 7}
        assert state(second, tmp_path / "out") == ("done", "")
    assert (tmp_path / "out" / "first" / "calls").read_text() == "called\n"
    assert "counting 7" in (tmp_path / "out" / "second" / "log.txt").read_text()
    shutil.rmtree(tmp_path / "out" / "first")  # made again by the same code, it is what the second was made of
    assert isinstance(run([second], tmp_path / "out", workers=2)["second"], Done)
    assert (tmp_path / "out" / "second" / "calls").read_text() == "called\n"


def test_a_change_runs_what_depends_on_it_again_and_says_why(
    work: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run([_chain(work, 2)], out, workers=1)
    for changed, why in (
        (_chain(work, 3), "argument amount was 2, is 3"),
        (_chain(work, 3, version=2), "version of the stage was 1, is 2"),
    ):
        assert finished(changed, out) is None
        assert state(changed.needs[0], out) == ("stale", why)
        assert state(changed, out) == ("stale", "needed stage first changed")
        results = run([changed], out, workers=1)
        assert isinstance(results["second"], Done)
        assert results["second"].values == {"number": 8}
        assert f"first is made again: {why}" in caplog.text
        assert "second is made again: needed stage first changed" in caplog.text
    now = cellcode.__version__
    monkeypatch.setattr(cellcode, "__version__", "0.0.0")
    assert state(_chain(work, 3, version=2).needs[0], out) == ("stale", f"version of cellcode was {now}, is 0.0.0")


def test_what_was_made_of_inputs_that_other_code_made_anew_is_stale(
    work: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, stage = tmp_path / "out", _chain(work, 2)
    run([stage], out, workers=1)
    path = out / "first" / "result.json"
    path.write_text(path.read_text().replace(stages.source_digest(), "0" * 16), encoding="utf-8")
    assert state(stage.needs[0], out) == ("done", "by other code")
    assert state(stage, out) == ("stale", "first was made anew")
    run([stage], out, workers=1)
    assert "1 of them were made by other code" in caplog.text
    assert "second is made again: first was made anew" in caplog.text
    path.write_text("{", encoding="utf-8")  # damaged: as good as not made
    assert finished(stage.needs[0], out) is None
    assert isinstance(run([stage], out, workers=1)["second"], Done)


def test_a_failure_is_a_sentence_and_the_others_go_on(
    work: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Stage("bad", work.fail, {"reason": "the photos are gone"}, alone=True)
    worse = Stage("worse", work.stumble)
    worst = Stage("worst", work.killed)
    after = Stage("after", work.count, needs=(bad,))
    last = Stage("last", work.count, needs=(after,))
    good = Stage("good", work.count)
    results = run([bad, worse, worst, after, last, good], tmp_path / "out", workers=2)
    assert results["bad"] == "the photos are gone"
    assert "ZeroDivisionError" in str(results["worse"])
    assert "killed by SIGKILL" in str(results["worst"])
    assert results["after"] == "skipped: it needs bad, which failed"
    assert "skipped" in str(results["last"])
    assert isinstance(results["good"], Done)
    assert "stage bad failed: the photos are gone" in caplog.text
    assert "--only bad" in caplog.text


@pytest.mark.parametrize(("how", "said"), [("interrupted", "interrupted"), ("killed", "killed by SIGKILL")])
def test_a_stage_that_was_stopped_finds_what_it_had_done(work: ModuleType, tmp_path: Path, how: str, said: str) -> None:
    stage = Stage("halfway", work.halfway, {"how": how})
    assert said in str(run([stage], tmp_path / "out", workers=1)["halfway"])
    assert state(stage, tmp_path / "out")[0] == "interrupted"
    again = run([stage], tmp_path / "out", workers=1)["halfway"]
    assert isinstance(again, Done)
    assert again.values == {"went_on": True}


def test_stages_end_with_a_run_that_is_killed_and_the_next_one_goes_on(work: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines = (
        "import stage_work\nfrom pathlib import Path\nfrom experiments.running import run\n"
        "from experiments.stages import Stage\n"
        f"run([Stage('halfway', stage_work.halfway, {{'how': 'waits'}})], Path({str(out)!r}), workers=1)"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", lines], env=os.environ | {"PYTHONPATH": path})
    _until(lambda: (out / "halfway" / "half").exists())
    with pytest.raises(InputError), locked_folder(out):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    _until(lambda: _still(out / "halfway" / "ticks"))  # the stage's process is gone too
    stage = Stage("halfway", work.halfway, {"how": "waits"})
    again = run([stage], out, workers=1)["halfway"]
    assert isinstance(again, Done)
    assert again.values == {"went_on": True}


def _still(path: Path) -> bool:
    before = path.stat().st_size
    time.sleep(1.0)
    return path.stat().st_size == before


def _until(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_stages_are_selected_by_name_beginning_and_pattern(work: ModuleType) -> None:
    names = ("train-hybrid", "train-hybrid-seed-1", "scale-epochs-5", "scale-photos-100")
    known = {name: Stage(name, work.count) for name in names}

    def chosen(*patterns: str) -> list[str]:
        return [stage.name for stage in select(known, patterns)]

    assert chosen("train-hybrid") == ["train-hybrid"]
    assert chosen("train") == ["train-hybrid", "train-hybrid-seed-1"]
    assert chosen("*-photos-*", "scale-epochs") == ["scale-photos-100", "scale-epochs-5"]
    with pytest.raises(UsageError, match=r"no stage is called 'train-hibrid'; the nearest names: train-hybrid"):
        chosen("train-hibrid")


def test_two_stages_of_one_name_are_a_mistake(work: ModuleType) -> None:
    with pytest.raises(ValueError, match="two stages are called first"):
        with_needs([_chain(work, 1), replace(_chain(work, 2), name="third")])


def test_the_estimate_is_of_the_last_times_and_of_guesses(work: ModuleType) -> None:
    known = [
        Stage("a", work.count, alone=True, cost=60),
        Stage("b", work.count, cost=1),
        Stage("c", work.count, cost=120),
    ]
    said = estimate(known, {"b": 240.0}, workers=2)
    assert said == "3 stages to make, about 4 min on 2 cores (2 of them guessed: never made before)"
