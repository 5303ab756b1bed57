"""Batches that are prepared in a thread while others are trained on."""

import threading

import numpy as np
import pytest
import torch

from cellcode.errors import InputError
from cellcode.training.data.inputs import PREFETCHED, Batch, Prefetcher, Sample

CPU = torch.device("cpu")


class Maker:
    """Makes batches that hold their number, and keeps where and in which order it was asked."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, number: int) -> Batch:
        if number == 7:
            raise InputError("photo 7 cannot be read")
        self.made.append(number)
        self.threads.add(threading.current_thread().name)
        at = np.zeros(1)
        return Batch(number, np.array([number]), Sample(torch.full((1,), float(number)), at, at))


def test_batches_come_in_order_each_made_once_and_never_far_ahead() -> None:
    maker = Maker()
    batches = Prefetcher(maker, CPU, stop=6)
    for number in range(6):
        assert batches.take(number).number == number
        assert len(maker.made) <= number + 1 + PREFETCHED
    batches.close()
    assert maker.made == list(range(6))
    assert threading.main_thread().name not in maker.threads


def test_another_number_than_the_next_is_made_when_it_is_asked_for() -> None:
    maker = Maker()
    batches = Prefetcher(maker, CPU, stop=100)
    taken = [batches.take(number).number for number in (0, 40, 41, 3, 3)]
    assert taken == [0, 40, 41, 3, 3]
    batches.close()


def test_what_making_raises_reaches_the_step_that_needs_it_and_no_other() -> None:
    batches = Prefetcher(Maker(), CPU, stop=9)
    assert [batches.take(number).number for number in (5, 6)] == [5, 6]
    with pytest.raises(InputError, match="photo 7"):
        batches.take(7)
    batches.close()


def test_on_a_cpu_the_thread_leaves_the_cores_to_the_training() -> None:
    before, seen = torch.get_num_threads(), []

    def make(number: int) -> Batch:
        seen.append(torch.get_num_threads())
        return Maker()(number)

    torch.set_num_threads(2)
    batches = Prefetcher(make, CPU, stop=1)
    batches.take(0)
    batches.close()
    assert seen == [1]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
