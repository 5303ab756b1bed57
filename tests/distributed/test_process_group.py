"""What processes log: the first one everything, the others warnings and errors only."""

import logging
import os
import subprocess
import sys

import pytest

from cellcode.distributed import collectives

PROGRAM = """
import logging
from cellcode import log
from cellcode.distributed import collectives, process_group
log.install()
logger = logging.getLogger("cellcode.test")
with process_group.joined("cpu"):
    logger.info("progress of %d", collectives.rank())
    logger.warning("a warning of %d", collectives.rank())
    collectives.warn(logger, "a warning of all")
logger.info("after, of %d", 7)
"""


def test_all_processes_but_the_first_log_warnings_only() -> None:
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    made = subprocess.run(
        [*several, sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert made.returncode == 0, made.stderr
    assert "progress of 0" in made.stderr
    assert "progress of 1" not in made.stderr
    assert "a warning of 0" in made.stderr
    assert "a warning of 1" in made.stderr
    assert made.stderr.count("a warning of all") == 1
    assert made.stderr.count("after, of 7") == 2  # the level is the program's own again


def test_one_process_logs_everything(caplog: pytest.LogCaptureFixture) -> None:
    collectives.warn(logging.getLogger("cellcode.test"), "50 % of photos left out")
    assert caplog.messages == ["50 % of photos left out"]
