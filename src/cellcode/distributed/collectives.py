"""What processes exchange in a step, through torch.distributed. With one process every function returns its argument.

The rule for gradients: each process computes the loss of its own rows, the loss of the batch is the sum over processes, and
the backward of each exchange sums the gradients of all of them. Every process must call the same functions in the same order.
"""

import logging
import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Number = TypeVar("Number", bound=np.generic)


def rank() -> int:
    """Return the number of this process, 0..world() - 1."""
    return dist.get_rank() if _several() else 0


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _several() else 1


def warn(logger: logging.Logger, text: str) -> None:
    """Log a warning that every process would give, once: the first one does."""
    if not rank():
        logger.warning("%s", text)


class _Gather(torch.autograd.Function):
    """Rows of all processes; each gets back the sum of the gradients of its own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        return _gathered(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)[rank() * ctx.count : (rank() + 1) * ctx.count]


class _Total(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of the gradients of all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(x: Tensor) -> Tensor:
    return total_(x.clone(memory_format=torch.contiguous_format))


def _gathered(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def gather(x: Tensor) -> Tensor:
    """Return the rows of all processes in their order, (world * N, ...) from (N, ...); differentiable."""
    rows: Tensor = _Gather.apply(x.contiguous()) if _several() else x  # type: ignore[no-untyped-call]
    return rows


def total(x: Tensor) -> Tensor:
    """Return the sum over processes; differentiable."""
    summed: Tensor = _Total.apply(x) if _several() else x  # type: ignore[no-untyped-call]
    return summed


def total_(x: Tensor) -> Tensor:
    """Sum in place over processes, without a gradient."""
    if _several():
        dist.all_reduce(x)
    return x


def gather_array(x: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Return the rows of all processes in their order; (world * N, ...) from (N, ...) of one shape.

    It goes from host to host, on gloo, whatever connects the devices.
    """
    return np.asarray(_gathered(torch.from_numpy(np.ascontiguousarray(x))).numpy(), x.dtype) if _several() else x


def replicated(module: nn.Module) -> nn.Module:
    """Return a module whose gradients are summed over processes during its backward; with one process the module itself.

    It is torch's DistributedDataParallel, which takes means, with a sum instead. Buffers stay each process's own. Every
    parameter that requires a gradient must take part in every forward.
    """
    if not _several():
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch before 2.13 lacks the new name of broadcast_buffers
        together = DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)
    together.register_comm_hook(None, lambda state, bucket: _sum(bucket))
    return together


def _sum(bucket: Any) -> torch.futures.Future[Tensor]:  # a torch.distributed.GradBucket
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum the gradients of parameters over processes; a parameter without a gradient here counts as zeros."""
    if _several():
        for parameter in parameters:
            parameter.grad = total_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)


def average_(tensors: list[Tensor]) -> None:
    """Replace floating-point tensors by their means over processes."""
    if _several():
        for tensor in tensors:
            if tensor.is_floating_point():
                total_(tensor).div_(world())


def barrier() -> None:
    """Wait until every process has come here."""
    if _several():
        dist.barrier()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
