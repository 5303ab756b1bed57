"""What torchrun needs of a process that fails.

torchrun ends the other processes of its machine as soon as one has failed and prints a summary, the last thing on stderr. It
shows there what each process has left in its error file. The failure with the earliest time is its root cause.
"""

import json
import os
import time
from pathlib import Path

_ERROR_FILE, _RESTARTS = "TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_RESTART_COUNT"


def report(sentence: str, after_another: bool = False) -> bool:
    """Leave the reason why this process ends to torchrun's summary, and return whether it will show it.

    An earlier report of this process stays. One `after_another` is dated later: times have a resolution of a second.
    """
    name = os.environ.get(_ERROR_FILE)
    if not name:
        return False
    path = Path(name)
    try:
        if not path.exists():
            facts = {"message": sentence, "extraInfo": {"timestamp": str(int(time.time()) + after_another)}}
            path.write_text(json.dumps({"message": facts}), encoding="utf-8")
    except OSError:  # such as a full disk
        return False
    return True


def restarts() -> int:
    """Return how often torchrun has restarted the processes, as it does with --max-restarts after one has failed."""
    return int(os.environ.get(_RESTARTS, "0"))


def same_machine(rank: int, other: int) -> bool:
    """Return True if torchrun started two processes on one machine, whose failures it summarises together."""
    many = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return bool(os.environ.get(_ERROR_FILE)) and rank // many == other // many
