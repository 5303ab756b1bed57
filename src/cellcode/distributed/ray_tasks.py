"""One function over many ranges, on the machines of a Ray cluster. Needs the extra `ray`.

The function writes its result under the name of its range once it is complete, to a file system that all nodes share. So a
lost worker costs the range it was working on: Ray gives that range to another one, and nothing else is repeated.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from cellcode.errors import CellcodeError, MissingExtraError

Item = TypeVar("Item", bound=tuple[Any, ...])
Result = TypeVar("Result")
LOCAL = "local"
RETRIES = 3  # of a range whose worker was lost
WAITING_PER_CORE = 2  # ranges queued at once, so that a worker never waits for the next one
OBJECT_STORE_BYTES = 100 << 20  # of a Ray of our own; results do not travel


def over_ranges(
    function: Callable[..., Result], items: Iterable[Item], address: str, cores: int = 1
) -> Iterator[tuple[Item, Result]]:
    """Call `function(*item)` for every item on a cluster, and yield items with results as they are done.

    Args:
        function: of a module that the nodes can import; it may be called again for the same item.
        address: of a Ray cluster, "auto" for the one of this machine, or "local" for a Ray of our own that ends with the work.

    Raises:
        CellcodeError: there is no such cluster, a call failed, or its worker was lost more than RETRIES times. Results
            written by then stay.
    """
    with _connected(address) as ray:
        # One thread per core: the next task has the others.
        environment = {"env_vars": {"OMP_NUM_THREADS": str(cores)}}
        remote = ray.remote(num_cpus=cores, max_retries=RETRIES, runtime_env=environment)(function)
        left = iter(items)
        most = WAITING_PER_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)) // cores)
        running = {remote.remote(*item): item for item in islice(left, most)}
        while running:
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            item = running.pop(done)
            yield item, _result(ray, done)
            running |= {remote.remote(*more): more for more in islice(left, 1)}


def _result(ray: Any, done: Any) -> Any:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(cause := error.cause, CellcodeError):
            raise cause from None
        reason = f"a task failed: {type(cause).__name__}: {_first_line(cause)}"
    except ray.exceptions.RayError as error:
        reason = f"a worker was lost repeatedly ({_first_line(error)})"
    raise CellcodeError(f"{reason}; run the command again to resume")


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Yield Ray, connected; an existing connection is used and kept."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: no usage statistics are sent
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray", "work on a cluster") from None
    if ray.is_initialized():
        yield ray
        return
    own: dict[str, Any] = {"num_cpus": os.cpu_count(), "object_store_memory": OBJECT_STORE_BYTES}
    own |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(own if address == LOCAL else {}))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise CellcodeError(f"there is no Ray cluster at {address} ({_first_line(error)})") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
