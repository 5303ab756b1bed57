"""Stages run in processes of their own, once, in order, and a failure costs no more than what needs it."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from experiments.stages import Done, Stage, finished, run

WORK = '''
from pathlib import Path
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

def halfway(folder, needs):
    """Stop the first time, with something done; go on from it the second time."""
    if not (folder / "half").exists():
        (folder / "half").write_text("done")
        raise InputError("interrupted")
    return {"went_on": True}
'''


@pytest.fixture
def work(tmp_path: Path) -> Iterator[ModuleType]:
    (tmp_path / "stage_work.py").write_text(WORK, encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    yield importlib.import_module("stage_work")
    sys.path.remove(str(tmp_path))
    del sys.modules["stage_work"]


def test_stages_follow_what_they_need_and_run_once(work: ModuleType, tmp_path: Path) -> None:
    first = Stage("first", work.count, {"amount": 2})
    second = Stage("second", work.count, {"amount": 5}, needs=(first,))
    for _ in range(2):
        results = run([second], tmp_path / "out", workers=2)
        assert isinstance(results["second"], Done)
        assert results["second"].values == {"number": 7}
    assert (tmp_path / "out" / "first" / "calls").read_text() == "called\n"
    assert "counting 7" in (tmp_path / "out" / "second" / "log.txt").read_text()


def test_a_change_runs_what_depends_on_it_again(work: ModuleType, tmp_path: Path) -> None:
    def chain(amount: int) -> Stage:
        return Stage("second", work.count, {"amount": 5}, needs=(Stage("first", work.count, {"amount": amount}),))

    run([chain(2)], tmp_path / "out", workers=1)
    assert finished(chain(3), tmp_path / "out") is None
    results = run([chain(3)], tmp_path / "out", workers=1)
    assert isinstance(results["second"], Done)
    assert results["second"].values == {"number": 8}


def test_a_failure_is_a_sentence_and_the_others_go_on(work: ModuleType, tmp_path: Path) -> None:
    bad = Stage("bad", work.fail, {"reason": "the photos are gone"}, alone=True)
    worse = Stage("worse", work.stumble)
    after = Stage("after", work.count, needs=(bad,))
    good = Stage("good", work.count)
    results = run([bad, worse, after, good], tmp_path / "out", workers=2)
    assert results["bad"] == "the photos are gone"
    assert "ZeroDivisionError" in str(results["worse"])
    assert "bad" in str(results["after"])
    assert isinstance(results["good"], Done)


def test_a_stage_that_was_stopped_finds_what_it_had_done(work: ModuleType, tmp_path: Path) -> None:
    stage = Stage("halfway", work.halfway)
    assert run([stage], tmp_path / "out", workers=1)["halfway"] == "interrupted"
    again = run([stage], tmp_path / "out", workers=1)["halfway"]
    assert isinstance(again, Done)
    assert again.values == {"went_on": True}
