"""Items that are worked on together."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from cellcode.serving.problems import Problem
from cellcode.serving.service import Batcher


def _doubled(items: Sequence[int]) -> list[int | Exception]:
    return [ValueError(f"{item}") if item == 13 else 2 * item for item in items]


@pytest.mark.parametrize("calls", [1, 2])
def test_whoever_asks_again_the_moment_he_is_answered_is_answered_again(calls: int) -> None:
    """In the same turn of the loop in which the call that answered him ends."""

    async def ask(batcher: Batcher[int, int], begin: int) -> list[int]:
        return [await batcher.submit(begin + number) for number in range(50)]

    async def go() -> None:
        with ThreadPoolExecutor(calls) as threads:
            batcher = Batcher(_doubled, 8, 100, threads, calls)
            answers = await asyncio.wait_for(asyncio.gather(*(ask(batcher, 100 * n) for n in range(1, 4))), 20)
        assert answers == [[2 * (100 * n + number) for number in range(50)] for n in range(1, 4)]
        assert not batcher.waiting

    asyncio.run(go())


def test_what_fails_fails_alone() -> None:
    async def go() -> None:
        with ThreadPoolExecutor(1) as threads:
            batcher = Batcher(_doubled, 8, 100, threads)
            made = await asyncio.gather(*(batcher.submit(n) for n in (12, 13, 14)), return_exceptions=True)
        assert [made[0], str(made[1]), made[2]] == [24, "13", 28]

    asyncio.run(go())


def test_more_than_may_wait_are_refused() -> None:
    async def go() -> None:
        with ThreadPoolExecutor(1) as threads:
            batcher = Batcher(_doubled, 8, 2, threads)
            made = await asyncio.gather(*(batcher.submit(n) for n in range(3)), return_exceptions=True)
        assert made[:2] == [0, 2]
        assert isinstance(made[2], Problem)
        assert made[2].code == "overloaded"

    asyncio.run(go())
