from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from core.runtime.coalescing import Coalescer, Overloaded


class Work:
    """Answers ten times the item, a batch whenever the test says so."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.refused: set[int] = set()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.begun.set()
        await self.go.wait()
        if self.refused & set(items):
            raise ValueError(f"refused: {sorted(self.refused & set(items))}")
        return [item * 10 for item in items]


async def one_turn() -> None:
    """Let everything that can run now run."""
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()


def never(_error: Exception) -> bool:
    return False


def always(_error: Exception) -> bool:
    return True


async def gathered(
    work: Work, coalescer: Coalescer[int, int], first: int, others: Sequence[int]
) -> list[int | BaseException]:
    """Call with *first*, and with *others* while that batch is under way."""
    async with asyncio.timeout(10):
        calls = [asyncio.create_task(coalescer(first))]
        await work.begun.wait()
        calls += [asyncio.create_task(coalescer(item)) for item in others]
        # One turn of the loop: all of them wait now.
        await one_turn()
        work.go.set()
        return await asyncio.gather(*calls, return_exceptions=True)


async def test_what_comes_while_a_batch_is_under_way_is_the_next_batch() -> None:
    work = Work()

    answers = await gathered(work, Coalescer("test", work, is_shared=never), 1, [2, 3, 4])

    assert answers == [10, 20, 30, 40]
    assert work.batches == [[1], [2, 3, 4]]


async def test_a_batch_holds_no_more_than_it_may() -> None:
    work = Work()

    answers = await gathered(work, Coalescer("test", work, is_shared=never, most=2), 1, [2, 3, 4])

    assert answers == [10, 20, 30, 40]
    assert work.batches == [[1], [2, 3], [4]]


async def test_one_bad_item_is_not_the_others_failure() -> None:
    work = Work()
    work.refused = {3}

    answers = await gathered(work, Coalescer("test", work, is_shared=never), 1, [2, 3, 4])

    assert [answers[0], answers[1], answers[3]] == [10, 20, 40]
    assert isinstance(answers[2], ValueError)


async def test_an_error_that_is_everybodys_is_not_tried_once_more_for_each() -> None:
    work = Work()
    work.refused = {3}

    answers = await gathered(work, Coalescer("test", work, is_shared=always), 1, [2, 3, 4])

    assert answers[0] == 10
    assert all(isinstance(answer, ValueError) for answer in answers[1:])
    assert work.batches == [[1], [2, 3, 4]]


async def test_a_caller_that_goes_away_before_its_batch_leaves_is_not_in_it() -> None:
    work = Work()
    coalescer = Coalescer("test", work, is_shared=never)
    async with asyncio.timeout(10):
        first = asyncio.create_task(coalescer(1))
        await work.begun.wait()
        gone, stays = asyncio.create_task(coalescer(2)), asyncio.create_task(coalescer(3))
        await one_turn()

        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        work.go.set()

        assert [await first, await stays] == [10, 30]
    assert work.batches == [[1], [3]]


async def test_too_many_callers_are_refused_and_the_others_served() -> None:
    work = Work()

    answers = await gathered(
        work, Coalescer("test", work, is_shared=never, most_waiting=2), 1, [2, 3, 4]
    )

    assert answers[:3] == [10, 20, 30]
    assert isinstance(answers[3], Overloaded)


async def test_several_items_of_one_caller_are_answered_in_order() -> None:
    work = Work()
    work.go.set()
    coalescer = Coalescer("test", work, is_shared=never, most=2)

    assert await coalescer.all(range(5)) == [0, 10, 20, 30, 40]
    assert await coalescer.all([]) == []
    assert work.batches == [[0, 1], [2, 3], [4]]


async def test_of_several_items_too_many_none_is_asked_for() -> None:
    work = Work()
    coalescer = Coalescer("test", work, is_shared=never, most_waiting=2)

    async with asyncio.TaskGroup() as group:
        first = group.create_task(coalescer(1))
        await work.begun.wait()
        with pytest.raises(Overloaded):
            await coalescer.all([2, 3, 4])
        work.go.set()

    assert first.result() == 10
    assert work.batches == [[1]]


async def test_a_caller_of_several_items_that_leaves_takes_them_along() -> None:
    work = Work()
    coalescer = Coalescer("test", work, is_shared=never)

    async with asyncio.TaskGroup() as group:
        first = group.create_task(coalescer(1))
        await work.begun.wait()
        gone = asyncio.create_task(coalescer.all([2, 3]))
        await one_turn()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        work.go.set()

    assert first.result() == 10
    assert work.batches == [[1]]


async def test_the_error_of_one_of_several_items_is_the_caller_s() -> None:
    async def work(items: Sequence[int]) -> Sequence[int]:
        if 2 in items:
            raise ZeroDivisionError
        return items

    coalescer = Coalescer("test", work, is_shared=never)

    with pytest.raises(ZeroDivisionError):
        await coalescer.all([1, 2, 3])


async def test_work_that_answers_too_few_leaves_nobody_waiting() -> None:
    async def work(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    coalescer = Coalescer("test", work, is_shared=never)

    async with asyncio.timeout(10):
        with pytest.raises(ValueError, match="shorter"):
            await coalescer(1)


@pytest.mark.parametrize("lanes", [1, 2])
async def test_no_more_batches_are_under_way_than_lanes(lanes: int) -> None:
    under_way, most = 0, 0

    async def work(items: Sequence[int]) -> Sequence[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await one_turn()
        under_way -= 1
        return items

    coalescer = Coalescer("test", work, is_shared=never, most=1, lanes=lanes)

    assert await asyncio.gather(*map(coalescer, range(20))) == list(range(20))
    assert most == lanes


async def test_a_caller_that_calls_again_at_once_is_answered() -> None:
    work = Work()
    work.go.set()
    coalescer = Coalescer("tens", work, is_shared=never)

    async with asyncio.timeout(10):
        answers = [await coalescer(item) for item in range(3)]

    assert answers == [0, 10, 20]


async def test_what_a_batch_logs_is_not_told_of_the_one_call_that_opened_it() -> None:
    name: ContextVar[str] = ContextVar("name", default="nobody's")

    async def work(items: Sequence[int]) -> Sequence[str]:
        return [name.get() for _ in items]

    coalescer = Coalescer("names", work, is_shared=never)
    name.set("the first caller's")

    assert set(await asyncio.gather(coalescer(1), coalescer(2))) == {"nobody's"}
