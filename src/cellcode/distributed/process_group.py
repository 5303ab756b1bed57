"""The process group: joining the processes that torchrun started, and stopping all when one dies.

    torchrun --standalone --nproc-per-node 8 -m cellcode train CONFIG ...          8 GPUs of one machine

Each process counts heartbeats in the store that torchrun keeps, and leaves the reason there when it fails. A process that
finds another dead or failed names it with its reason and ends, so that none waits for an exchange that will not come.
"""

import hashlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from cellcode.device import choose_device
from cellcode.distributed import torchrun
from cellcode.errors import CellcodeError, sentence

logger = logging.getLogger(__name__)
BEAT_S = 2.0
SILENCE_S = 30.0  # longer than any call that keeps Python from switching threads


@contextmanager
def joined(device_name: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started and yield the device of this one; without torchrun it is the only one.

    NCCL connects CUDA devices, gloo the hosts. All processes but the first log warnings and errors only.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield choose_device(device_name)
        return
    device = choose_device(device_name)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    store, rank, world = next(rendezvous("env://"))
    # Processes that torchrun has restarted find in its store what the earlier ones have left.
    names = (f"{name} {torchrun.restarts()}" for name in ("group", "watch"))
    group, watched = (dist.PrefixStore(name, store) for name in names)  # type: ignore[attr-defined]
    back_ends = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(back_ends, store=group, rank=rank, world_size=world)
    watch = Watch(watched, rank, world)
    try:
        with _only_warnings() if rank else nullcontext():
            yield device
        watch.end()
    except BaseException as error:
        watch.fail(error)
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def _only_warnings() -> Iterator[None]:
    library = logging.getLogger("cellcode")
    before = library.level
    library.setLevel(logging.WARNING)
    try:
        yield
    finally:
        library.setLevel(before)


class Watch:
    """Shows the others, through a torch.distributed.Store of all, that this process lives, and ends it when one does not."""

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self.store, self.rank = store, rank
        self._others = set(range(world)) - {rank}
        self._stopped = threading.Event()
        self._seen = {other: ("", time.monotonic()) for other in self._others}
        store.set(f"alive {rank}", "0")
        dist.barrier()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait for the others to finish, and stop watching them."""
        dist.barrier()
        self._stopped.set()
        self._thread.join()

    def fail(self, error: BaseException) -> None:
        """Leave the reason why this process ends to the others.

        An error that is not one of ours may be an exchange broken by another's death: then that one is found first.
        """
        if not isinstance(error, (CellcodeError, KeyboardInterrupt, SystemExit)):
            self._stopped.wait(SILENCE_S + 2 * BEAT_S if isinstance(error, RuntimeError) else 0)
        reason = sentence(error)
        with suppress(RuntimeError):  # the store is gone if the process that kept it is
            key = f"first with {hashlib.sha256(reason.encode()).hexdigest()}"
            if (first := int(self.store.compare_set(key, "", str(self.rank)))) == self.rank:
                torchrun.report(f"cellcode: {reason}")
            else:  # all of them may fail for the same reason, and one is enough to report it
                torchrun.report(f"as process {first}", after_another=True)
            self.store.set(f"failed {self.rank}", reason)
        self._stopped.set()
        time.sleep(2 * BEAT_S)  # if the store is in this process, the others have to read it

    def _run(self) -> None:
        beats = itertools.count(1)
        while not self._stopped.wait(BEAT_S):
            try:
                self.store.set(f"alive {self.rank}", str(next(beats)))
                for other in sorted(self._others):
                    self._look_at(other)
            except RuntimeError:
                if not self._stopped.is_set():
                    outside = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
                    ended = "torchrun has ended on its machine; what it printed there says why"
                    _leave(self.rank, 0, ended if outside else "the store that it keeps is gone")

    def _look_at(self, other: int) -> None:
        if self.store.check([f"failed {other}"]):
            # torchrun shows the reports of the processes of a machine together, and the other has reported its reason itself.
            same = torchrun.same_machine(self.rank, other)
            _leave(self.rank, other, "see there" if same else self.store.get(f"failed {other}").decode())
        now, (beat, since) = time.monotonic(), self._seen[other]
        if (latest := self.store.get(f"alive {other}").decode()) != beat:
            self._seen[other] = (latest, now)
        elif now - since > SILENCE_S:
            _leave(self.rank, other, f"no sign of life for {SILENCE_S:.0f} s")


def _leave(rank: int, other: int, reason: str) -> None:
    """End this process at once: its main thread may wait in an exchange for ever."""
    text = f"process {rank} stops because process {other} died: {reason}"
    if not torchrun.report(f"cellcode: {text}", after_another=True):
        logger.error("%s", text)
    os._exit(1)
