"""Concurrent calls answered together: what arrives while one batch is under way is the next.

A single call goes at once and alone; under load the batches grow by themselves, so that a commit
or a round trip is paid once for many callers. Owns the waiting, not the work.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeAlias, TypeVar, cast

from core.domain.errors import KennelError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Overloaded(KennelError):
    """More callers wait for an answer than may."""


#: What is asked, and where the caller waits for its answer.
_Call: TypeAlias = tuple[Item, asyncio.Future[Answer]]


class Coalescer(Generic[Item, Answer]):
    """Gathers concurrent calls of one kind into batches.

    Args:
        name: Of the kind of calls, for task names and errors.
        work: Answers a batch, one answer an item in the same order.
        is_shared: Tells an error that is every caller's (the database is away) from one that a
            single item may have caused: then each item is tried again alone, so that one caller's
            bad item is not the others' failure.
        most: Items a batch holds at most.
        lanes: Batches under way at the same time.
        gather_s: Wait for so long before a batch leaves, to have more company in it.
        most_waiting: Callers waiting at most; beyond it they are refused.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        is_shared: Callable[[Exception], bool],
        most: int = 256,
        lanes: int = 1,
        gather_s: float = 0.0,
        most_waiting: int = 16_384,
    ) -> None:
        self._name = name
        self._work = work
        self._is_shared = is_shared
        self._most = most
        self._lanes = lanes
        self._gather_s = gather_s
        self._most_waiting = most_waiting
        self._waiting: deque[_Call[Item, Answer]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Answer:
        """Return the answer to *item*; cancelled, it leaves the batch if that has not left.

        Raises:
            Overloaded: too many callers wait already.
        """
        return await self._enter(item)

    async def all(self, items: Iterable[Item]) -> list[Answer]:
        """Return the answers to *items*, in order, or the first error of one of them.

        Raises:
            Overloaded: too many callers wait already.
        """
        futures: list[asyncio.Future[Answer]] = []
        try:
            futures.extend(map(self._enter, items))
        except BaseException:
            # None of them is asked for, of whichever there were too many.
            for future in futures:
                future.cancel()
            raise
        return await asyncio.gather(*futures)

    def _enter(self, item: Item) -> asyncio.Future[Answer]:
        if len(self._waiting) >= self._most_waiting:
            raise Overloaded(f"too many callers wait for {self._name}; try again")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._running) < self._lanes:
            self._open_lane()
        return future

    def _open_lane(self) -> None:
        # In a context of its own: what is logged of a batch is not of the one call that opened it.
        task = asyncio.create_task(
            self._run(), name=f"coalesced-{self._name}", context=contextvars.Context()
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self) -> None:
        try:
            if self._gather_s:
                await asyncio.sleep(self._gather_s)
            while batch := self._next_batch():
                await self._answer(batch)
                if self._gather_s:
                    await asyncio.sleep(self._gather_s)
        finally:
            # At once, not by the callback, which runs after the callers just answered: one that
            # calls again would find this lane open, and nobody would ever take its call.
            self._running.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _next_batch(self) -> list[_Call[Item, Answer]]:
        batch: list[_Call[Item, Answer]] = []
        while self._waiting and len(batch) < self._most:
            call = self._waiting.popleft()
            if not call[1].done():
                batch.append(call)
        return batch

    async def _answer(self, batch: list[_Call[Item, Answer]]) -> None:
        try:
            answers = await self._work([item for item, _ in batch])
            pairs = list(zip(batch, answers, strict=True))
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed to the callers, whole
            # The edge of this batch: whoever waits gets the error, or another try alone.
            if len(batch) == 1 or self._is_shared(error):
                for _, future in batch:
                    _fail(future, error)
                return
            for call in batch:
                await self._answer([call])
            return
        for (_, future), answer in pairs:
            if not future.done():
                future.set_result(answer)


def _fail(future: asyncio.Future[Answer], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
